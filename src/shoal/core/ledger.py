"""The books of the cache: bytes by state, loads and evictions over time.

Every budget has books of its own; those of the host's memory are part of the ledger.

Pressure is turnovers an hour (bytes loaded / capacity); cache age is the time since the last use of
the copy evicted last. Both fade with a time constant instead of being counted in windows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from shoal.core.copies import Copy, CopyState

FADE_S: Final = 600.0  # time constant of pressure: ten minutes tell a trend, not a burst
LEARNING: Final = 0.1  # weight of the newest load in the mean load time
FIRST_LOAD_S: Final = 0.1


class Books:
    """What copies take of one budget."""

    def __init__(self) -> None:
        self.bytes = dict.fromkeys(CopyState, 0)
        self.protected_bytes = 0  # of ready copies that may not be evicted

    @property
    def booked_bytes(self) -> int:
        """Ready, reserved for loads, and leaving."""
        return sum(self.bytes.values())

    def enter(self, copy: Copy, size_bytes: int) -> None:
        """size_bytes: negative to take them out."""
        self.bytes[copy.state] += size_bytes
        if copy.state is CopyState.READY and copy.is_protected:
            self.protected_bytes += size_bytes


class Ledger(Books):
    """pools: the books of accelerators, by name."""

    def __init__(self, pools: Mapping[str, Books] | None = None) -> None:
        super().__init__()
        self.count = dict.fromkeys(CopyState, 0)
        self.declared = dict.fromkeys(CopyState, 0)  # bytes of copies whose size was declared
        self._pools = pools or {}
        self.mean_load_s = FIRST_LOAD_S
        self.loads = 0
        self.load_failures = 0
        self.evictions = 0
        self.unloads = 0
        self.last_eviction_at: float | None = None
        self.cache_age_s: float | None = None
        self._loaded_bytes = 0.0  # faded
        self._loaded_at = 0.0

    def add(self, copy: Copy) -> None:
        self._book(copy, 1)

    def move(
        self, copy: Copy, state: CopyState, size_bytes: int,
        device: str | None = None, accelerator_bytes: int = 0,
    ) -> None:
        self._book(copy, -1)
        copy.state, copy.size_bytes = state, size_bytes
        copy.device, copy.accelerator_bytes = device, accelerator_bytes
        self._book(copy, 1)

    def mark(self, copy: Copy, *, overwritten: bool, kept: bool) -> None:
        """See `Copy`."""
        self._book(copy, -1)
        copy.overwritten, copy.kept = overwritten, kept
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
        self.enter(copy, sign * copy.size_bytes)
        self.count[copy.state] += sign
        if copy.revision.memory_bytes is not None:
            self.declared[copy.state] += sign * copy.size_bytes
        if copy.device is not None:
            self._pools[copy.device].enter(copy, sign * copy.accelerator_bytes)
