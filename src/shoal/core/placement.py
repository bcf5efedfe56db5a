"""Where a copy goes: the better of the first two in the ranking by room, pressure and load, beyond
them when both are worse than the rest by a margin.

Room is that of the host's memory, and for what lies on an accelerator that of a pool of its kind.

The better of two keeps instances alike however stale the figures are, where "the best of all" herds
(Mitzenmacher 2001, "The power of two choices"). Changes nothing but its own announced loads.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from shoal.core.accelerated_sizes import Split
from shoal.core.ledger import FADE_S
from shoal.core.view import View
from shoal.domain.accelerators import kind_of
from shoal.domain.model import Placement

# When both of the first two are worse than the best by a tenth of the processors or of a turnover
# an hour, and by a quarter, the best is taken.
MARGIN: Final = 0.1
MARGIN_RATIO: Final = 1.25

_HOURS: Final = 3600.0 / FADE_S
LOAD_WEIGHT: Final = 10.0  # of load beside pressure, for copies that are to share load


@dataclass(frozen=True, slots=True)
class Accelerated:
    """The kind of accelerator that a copy lies on; optional: where there is one that is large
    enough."""

    kind: str
    optional: bool
    split: Split


@dataclass(frozen=True, slots=True)
class Want:
    """What is to be placed. needs: as Revision's. size_bytes: that it will take on a processor, as
    far as that can be told. holders: instances that have it already; their zones are avoided.
    for_load: because it is asked for much, rather than because it is cold. least_bytes: that it
    takes for certain."""

    model: str
    needs: str
    placement: Placement | None
    size_bytes: int
    holders: Collection[str] = ()
    for_load: bool = False
    least_bytes: int = 0
    accelerated: Accelerated | None = None


class Placing:
    """announced: bytes of loads granted to an instance since it last told its figures; and those on
    its accelerators."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.announced: dict[str, int] = {}
        self._announced_there: dict[str, int] = {}

    def announce(self, instance: str, want: Want) -> None:
        size_bytes, there = self.needs(instance, want)
        self.announced[instance] = self.announced.get(instance, 0) + size_bytes
        if there:
            self._announced_there[instance] = self._announced_there.get(instance, 0) + there

    def heard_from(self, instance: str) -> None:
        self.announced.pop(instance, None)
        self._announced_there.pop(instance, None)

    def candidates(self, want: Want) -> list[str]:
        """Ready members that may hold it, and have a budget that it fits into."""
        return [each for each in self._view.eligible(want.needs, want.placement)
                if self._fits(each, want)]

    def _fits(self, instance: str, want: Want) -> bool:
        there = want.accelerated
        if there is not None and not there.optional and self._largest(instance, there.kind):
            return self._lies_there(instance, there)
        budget_bytes = self._view.members[instance].budget_bytes
        return not budget_bytes or budget_bytes >= want.least_bytes or (
            there is not None and self._lies_there(instance, there))

    def has_kind(self, kind: str) -> bool:
        """Has any ready member such an accelerator?"""
        members = self._view.members
        return any(kind in members[each].accelerators for each in self._view.ready)

    def _largest(self, instance: str, kind: str) -> int:
        """The largest budget of its accelerators of that kind."""
        return max((pool.budget_bytes for pool in self._view.members[instance].pools
                    if kind_of(pool.name) == kind), default=0)

    def _lies_there(self, instance: str, there: Accelerated) -> bool:
        """Would a copy lie on an accelerator of this instance?"""
        largest = self._largest(instance, there.kind)
        return largest > 0 and there.split.least_bytes <= largest

    def needs(self, instance: str, want: Want) -> tuple[int, int]:
        """Bytes that a copy would take there: of the host, of an accelerator."""
        there = want.accelerated
        if there is None or not self._lies_there(instance, there):
            return want.size_bytes, 0
        return there.split.size_bytes, there.split.accelerator_bytes

    def choose(self, want: Want, without: Collection[str]) -> str | None:
        found = [each for each in self.candidates(want) if each not in without]
        if len(found) <= 1:
            return found[0] if found else None
        found = self._preferred(found, want)
        ranked = self._view.ranking(want.model, found)
        costs = {each: self.cost(each, want) for each in ranked}
        first = min(ranked[:2], key=lambda each: costs[each])
        best = min(ranked, key=lambda each: costs[each])
        if costs[first] > costs[best] * MARGIN_RATIO + MARGIN:
            return best
        return first

    def _preferred(self, found: list[str], want: Want) -> list[str]:
        """Those with an accelerator that it prefers, of them those with most of the preferred
        labels, of them those in zones that have no copy."""
        there = want.accelerated
        if there is not None and there.optional:
            found = [each for each in found if self._lies_there(each, there)] or found
        if want.placement is not None and want.placement.preferred:
            most = max(self._view.preference(each, want.placement) for each in found)
            found = [each for each in found
                     if self._view.preference(each, want.placement) == most]
        members = self._view.members
        taken = {members[each].zone for each in want.holders if each in members}
        elsewhere = [each for each in found if members[each].zone not in taken]
        return elsewhere or found

    def has_room(self, instance: str, want: Want) -> bool:
        """Without an eviction, as far as it is known."""
        free_bytes = self._view.figures_of(instance).free_bytes
        return self._has(instance, want, free_bytes, fill=False)

    def may_fill(self, instance: str) -> bool:
        """Is there room that nobody asked for?"""
        return self._view.figures_of(instance).fill_bytes > self.announced.get(instance, 0)

    def may_fill_with(self, instance: str, want: Want) -> bool:
        """Is there so much of it?"""
        fill_bytes = self._view.figures_of(instance).fill_bytes
        return self._has(instance, want, fill_bytes, fill=True)

    def _has(self, instance: str, want: Want, host_bytes: int, *, fill: bool) -> bool:
        """host_bytes: of its memory, before what is announced."""
        size_bytes, there = self.needs(instance, want)
        if host_bytes - self.announced.get(instance, 0) < size_bytes:
            return False
        return not there or self._is_free_there(instance, want, there, fill=fill)

    def _is_free_there(self, instance: str, want: Want, need_bytes: int, *, fill: bool) -> bool:
        """On one of its accelerators; which of them the announced loads take is not known."""
        assert want.accelerated is not None
        free = [
            pool.fill_bytes if fill else pool.free_bytes
            for pool in self._view.figures_of(instance).pools
            if kind_of(pool.name) == want.accelerated.kind
        ]
        announced = self._announced_there.get(instance, 0)
        return max(free, default=0) >= need_bytes and sum(free) - announced >= need_bytes

    def cost(self, instance: str, want: Want) -> float:
        """Lower is better: its pressure, unless it has room, and its load."""
        figures = self._view.figures_of(instance)
        load = figures.load * (LOAD_WEIGHT if want.for_load else 1.0)
        announced = self.announced.get(instance, 0)
        budget = max(self._view.members[instance].budget_bytes, 1)
        turnover = announced / budget * _HOURS
        if self.has_room(instance, want):
            return load + turnover
        return load + turnover + figures.pressure + MARGIN
