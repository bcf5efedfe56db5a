"""Which copy is worth least: GDSF-R, and LRU for comparison, behind one small interface.

GDSF-R is Greedy-Dual-Size-Frequency (Cherkasova 1998) with remembered counts: a copy's priority,
set when it is used or loaded, is

    L + uses x (time to load it again + cost of a cold start) / bytes

The copy with the least priority leaves and L becomes its priority, so that what stays ages against
newcomers without a clock. `uses` counts since the load, plus what is remembered from before: the
count at eviction, halved for every four turnovers of the cache that the model was away.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

TURNOVERS_TO_HALVE: Final = 4.0
MAX_REMEMBERED: Final = 100_000


class Eviction(Protocol):
    """Keeps a value for each ready copy, by key; counts of uses survive by model."""

    def add(self, key: str, worth: Worth) -> None:
        """A copy was loaded."""

    def use(self, key: str, count: int, now: float) -> None:
        """A copy answered `count` requests, the last of them at `now`."""

    def remove(self, key: str, *, evicted: bool) -> None:
        """A copy left; `evicted`: for being worth least."""

    def least(self, allowed: Callable[[str], bool]) -> str | None:
        """The least valuable among the keys that are `allowed`; None when there is none."""

    def would_displace(self, newcomer: Worth, victim: str) -> bool:
        """Would a copy of `newcomer`, loaded for one request, be worth more than `victim`?"""


@dataclass(frozen=True, slots=True)
class Worth:
    """What the value of a copy depends on, beside its uses. Of two copies the one of lower
    `priority` leaves first, whatever their value. `now`: when it was loaded."""

    model: str
    priority: int
    load_s: float
    size_bytes: int
    now: float


Rank: TypeAlias = tuple[int, float]  # priority of the model, value


class _Ranks:
    """Keys by rank in a lazy heap: raising a rank is O(1), taking the least O(log n)."""

    def __init__(self) -> None:
        self.of: dict[str, Rank] = {}
        self._heap: list[tuple[Rank, str]] = []

    def set(self, key: str, rank: Rank) -> None:
        known = self.of.get(key)
        self.of[key] = rank
        # An entry that is lower than the true rank is refreshed when it comes to the top.
        if known is None or rank < known:
            heapq.heappush(self._heap, (rank, key))
            if len(self._heap) > 2 * len(self.of) + 64:
                self._heap = [(true, each) for each, true in self.of.items()]
                heapq.heapify(self._heap)

    def remove(self, key: str) -> None:
        del self.of[key]

    def least(self, allowed: Callable[[str], bool]) -> str | None:
        passed: list[tuple[Rank, str]] = []
        found = None
        while self._heap and found is None:
            rank, key = heapq.heappop(self._heap)
            true = self.of.get(key)
            if true is None:
                continue
            if true != rank:
                heapq.heappush(self._heap, (true, key))
                continue
            passed.append((rank, key))
            if allowed(key):
                found = key
        for entry in passed:
            heapq.heappush(self._heap, entry)
        return found


class GdsfR:
    """The rule above. `capacity_bytes` measures turnovers; `cold_start_cost_s` is what a cold start
    costs beyond its load."""

    def __init__(self, capacity_bytes: int, cold_start_cost_s: float) -> None:
        self._capacity_bytes = max(capacity_bytes, 1)
        self._cold_start_cost_s = cold_start_cost_s
        self._ranks = _Ranks()
        self._worth: dict[str, Worth] = {}
        self._uses: dict[str, float] = {}
        self._inflation = 0.0  # the rule's L
        self._turnovers = 0.0
        self._remembered: OrderedDict[str, tuple[float, float]] = OrderedDict()  # uses, turnovers

    def add(self, key: str, worth: Worth) -> None:
        self._turnovers += worth.size_bytes / self._capacity_bytes
        self._worth[key] = worth
        self._uses[key] = self._recall(worth.model)
        self._ranks.set(key, self._rank(worth, max(self._uses[key], 1.0)))

    def use(self, key: str, count: int, now: float) -> None:
        self._uses[key] += count
        self._ranks.set(key, self._rank(self._worth[key], self._uses[key]))

    def remove(self, key: str, *, evicted: bool) -> None:
        worth = self._worth.pop(key)
        if evicted:
            self._inflation = max(self._inflation, self._ranks.of[key][1])
        self._remembered[worth.model] = (self._uses.pop(key), self._turnovers)
        self._remembered.move_to_end(worth.model)
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        self._ranks.remove(key)

    def least(self, allowed: Callable[[str], bool]) -> str | None:
        return self._ranks.least(allowed)

    def would_displace(self, newcomer: Worth, victim: str) -> bool:
        uses = self._recall(newcomer.model) + 1.0
        return self._rank(newcomer, uses) > self._ranks.of[victim]

    def _rank(self, worth: Worth, uses: float) -> Rank:
        cost_s = worth.load_s + self._cold_start_cost_s
        return worth.priority, self._inflation + uses * cost_s / max(worth.size_bytes, 1)

    def _recall(self, model: str) -> float:
        uses, at = self._remembered.get(model, (0.0, self._turnovers))
        return float(uses * 0.5 ** ((self._turnovers - at) / TURNOVERS_TO_HALVE))


class Lru:
    """The copy that was used longest ago leaves: for comparison."""

    def __init__(self) -> None:
        self._ranks = _Ranks()
        self._priority: dict[str, int] = {}

    def add(self, key: str, worth: Worth) -> None:
        self._priority[key] = worth.priority
        self._ranks.set(key, (worth.priority, worth.now))

    def use(self, key: str, count: int, now: float) -> None:
        self._ranks.set(key, (self._priority[key], now))

    def remove(self, key: str, *, evicted: bool) -> None:
        del self._priority[key]
        self._ranks.remove(key)

    def least(self, allowed: Callable[[str], bool]) -> str | None:
        return self._ranks.least(allowed)

    def would_displace(self, newcomer: Worth, victim: str) -> bool:
        return (newcomer.priority, newcomer.now) > self._ranks.of[victim]


def make_eviction(rule: str, capacity_bytes: int, cold_start_cost_s: float) -> Eviction:
    """`gdsf` or `lru`."""
    if rule == "lru":
        return Lru()
    assert rule == "gdsf", rule
    return GdsfR(capacity_bytes, cold_start_cost_s)
