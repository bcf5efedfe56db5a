"""The books of the cache: bytes by state, loads and evictions over time.

Pressure is turnovers an hour (bytes loaded / capacity); cache age is the time since the last use of
the copy evicted last. Both fade with a time constant instead of being counted in windows.
"""

from __future__ import annotations

import math
from typing import Final

from shoal.core.copies import Copy, CopyState

FADE_S: Final = 600.0  # time constant of pressure: ten minutes tell a trend, not a burst
LEARNING: Final = 0.1  # weight of the newest load in the mean load time
FIRST_LOAD_S: Final = 0.1


class Ledger:
    def __init__(self) -> None:
        self.bytes = dict.fromkeys(CopyState, 0)
        self.count = dict.fromkeys(CopyState, 0)
        self.pinned_bytes = 0
        self.declared = dict.fromkeys(CopyState, 0)  # bytes of copies whose size was declared
        self.mean_load_s = FIRST_LOAD_S
        self.loads = 0
        self.load_failures = 0
        self.evictions = 0
        self.unloads = 0
        self.last_eviction_at: float | None = None
        self.cache_age_s: float | None = None
        self._loaded_bytes = 0.0  # faded
        self._loaded_at = 0.0

    @property
    def booked_bytes(self) -> int:
        """Ready, reserved for loads, and leaving."""
        return sum(self.bytes.values())

    def add(self, copy: Copy) -> None:
        self._book(copy, 1)

    def move(self, copy: Copy, state: CopyState, size_bytes: int) -> None:
        self._book(copy, -1)
        copy.state, copy.size_bytes = state, size_bytes
        self._book(copy, 1)

    def drop(self, copy: Copy) -> None:
        self._book(copy, -1)

    def loaded(self, size_bytes: int, load_s: float, now: float) -> None:
        self.loads += 1
        self.mean_load_s += LEARNING * (load_s - self.mean_load_s)
        self._loaded_bytes = self._faded(now) + size_bytes
        self._loaded_at = now

    def evicted(self, copy: Copy, now: float) -> None:
        self.evictions += 1
        self.last_eviction_at = now
        self.cache_age_s = max(now - max(copy.last_used, copy.loaded_at), 0.0)

    def pressure_per_h(self, capacity_bytes: float, now: float) -> float:
        return self._faded(now) / max(capacity_bytes, 1.0) / FADE_S * 3600.0

    def _faded(self, now: float) -> float:
        return self._loaded_bytes * math.exp(-max(now - self._loaded_at, 0.0) / FADE_S)

    def _book(self, copy: Copy, sign: int) -> None:
        self.bytes[copy.state] += sign * copy.size_bytes
        self.count[copy.state] += sign
        if copy.revision.memory_bytes is not None:
            self.declared[copy.state] += sign * copy.size_bytes
        if copy.state is CopyState.READY and copy.revision.pin:
            self.pinned_bytes += sign * copy.size_bytes
