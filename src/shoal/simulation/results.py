"""What became of a trace of requests: counted as it is played, told as figures.

Must not know who answered.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Of the requests after the warm-up. hits: answered at once, by a copy that was ready. cold:
    waited for a load. refused: not answered, or not within a client's patience. added_…: seconds
    waited, over all that were answered. copies: in memory at the end. memory_bytes: of each
    instance."""

    policy: str
    instances: int
    memory_bytes: int
    requests: int
    hits: int
    cold: int
    refused: int
    added_mean_s: float
    added_p50_s: float
    added_p99_s: float
    loads: int
    loaded_bytes: int
    evictions: int
    copies: int

    @property
    def hit_rate(self) -> float:
        return self.hits / max(self.requests, 1)


class Counts:
    """since: when the warm-up is over; what was before is not counted."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.hits = 0
        self.refused = 0
        self.waits: list[float] = []
        self.loads = 0
        self.loaded_bytes = 0
        self.evictions = 0

    def answered(self, at: float, now: float) -> None:
        """A request that came at `at` had to wait until now."""
        if at >= self.since:
            self.waits.append(now - at)

    def refuse(self, at: float) -> None:
        if at >= self.since:
            self.refused += 1

    def loaded(self, size_bytes: int, now: float) -> None:
        if now >= self.since:
            self.loads += 1
            self.loaded_bytes += size_bytes

    def evicted(self, now: float) -> None:
        self.evictions += now >= self.since

    def result(self, policy: str, instances: int, memory_bytes: int, copies: int) -> Result:
        answered = self.hits + len(self.waits)
        waits = np.sort(np.asarray(self.waits))
        return Result(
            policy=policy, instances=instances, memory_bytes=memory_bytes,
            requests=answered + self.refused, hits=self.hits, cold=len(self.waits),
            refused=self.refused, added_mean_s=float(waits.sum()) / max(answered, 1),
            added_p50_s=_quantile(waits, answered, 0.5),
            added_p99_s=_quantile(waits, answered, 0.99),
            loads=self.loads, loaded_bytes=self.loaded_bytes, evictions=self.evictions,
            copies=copies,
        )


def _quantile(waits: NDArray[np.float64], count: int, share: float) -> float:
    """Of all `count`, those that did not wait among them."""
    place = int(share * count) - (count - len(waits))
    return float(waits[min(place, len(waits) - 1)]) if place >= 0 and len(waits) else 0.0
