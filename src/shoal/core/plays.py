"""What the home of a model knows of it: which revisions answer for its names, and who holds them.

A slot is a name with a version, or without one (the default). Its active revision answers; a target
is a newer one that takes over once it is loaded. Models of which nothing is loaded, wanted or
remembered are not in play and cost nothing.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Final

from shoal.core.copies import Urgency
from shoal.domain.events import served
from shoal.domain.mesh import Held, Used
from shoal.domain.model import ModelRecord, Revision
from shoal.domain.reasons import Reason

RATE_FADE_S: Final = 60.0  # time constants of what is known of a copy's use
BUSY_FADE_S: Final = 10.0


class HoldingState(enum.Enum):
    GRANTED = "granted"  # queued or loading there
    READY = "ready"
    LEAVING = "leaving"  # answers no new requests, but its memory is not free yet


@dataclass(slots=True)
class Holding:
    """A copy as its home knows it. since: of this state. loading: its load has begun. released: why
    its home wants it gone.
    rate: requests a second; busy: seconds a second that they kept it busy; both as of
    `reported_at`."""

    state: HoldingState
    since: float
    urgency: Urgency
    loading: bool = False
    size_bytes: int = 0
    device: str | None = None
    accelerator_bytes: int = 0
    used_at: float = -math.inf
    released: Reason | None = None
    rate: float = 0.0
    busy: float = 0.0
    reported_at: float = 0.0

    def tell_use(self, use: Used, period_s: float, now: float) -> None:
        rate, busy = self.rate_at(now), self.busy_at(now)
        slow, quick = -math.expm1(-period_s / RATE_FADE_S), -math.expm1(-period_s / BUSY_FADE_S)
        fresh = use.busy_s / period_s
        # Up at once, since what is hot cannot wait; down slowly.
        self.busy = fresh if fresh > busy else busy + quick * (fresh - busy)
        self.rate = rate + slow * use.count / period_s
        self.used_at = self.reported_at = now

    def rate_at(self, now: float) -> float:
        return self.rate * math.exp(-(now - self.reported_at) / RATE_FADE_S)

    def busy_at(self, now: float) -> float:
        return self.busy * math.exp(-(now - self.reported_at) / BUSY_FADE_S)


@dataclass(slots=True)
class Slot:
    """proven: the active revision was loaded at least once. fallbacks: what answers instead while
    an unproven active revision cannot be loaded, best first. interested: instances that use what
    they were told of it (an ordered set)."""

    name: str
    version: int | None
    active: Revision
    target: Revision | None = None
    fallbacks: tuple[Revision, ...] = ()
    proven: bool = False
    interested: dict[str, None] = field(default_factory=dict)

    def refers_to(self, revision: str) -> bool:
        return self.active.id == revision or (
            self.target is not None and self.target.id == revision
        )


def fallbacks(
    record: ModelRecord, version: int | None, *known: Revision
) -> tuple[Revision, ...]:
    """What may answer for `version` (None: the default) while the revision that should cannot be
    loaded, best first: older versions, then of `known` ones those whose files were not replaced."""
    older = tuple(reversed(record.revisions[:-1])) if version is None else ()
    places = {each.uri for each in record.revisions}
    return (*older, *(each for each in known if each.uri not in places))


@dataclass(slots=True)
class Out:
    """Who waits for copies to have left all memory. ask: the number of its question. leaving: those
    copies that have not, by revision and instance."""

    instance: str
    ask: int
    leaving: dict[tuple[str, str], None]


@dataclass(slots=True)
class Play:
    """out_of_service: versions an operator unloaded; None stands for the whole model. as_of: the
    registry's revision in which the last word on that is written, if it is. holdings: by
    revision and instance. tried: where a load just failed, and how. removed: it was unregistered;
    its copies are on their way out. home_score: by which this instance is the home. played_at:
    since when it is in play."""

    record: ModelRecord
    played_at: float
    home_score: float = 0.0
    slots: dict[int | None, Slot] = field(default_factory=dict)
    out_of_service: set[int | None] = field(default_factory=set)
    as_of: int = 0
    holdings: dict[str, dict[str, Holding]] = field(default_factory=dict)
    tried: dict[str, dict[str, str]] = field(default_factory=dict)
    outs: list[Out] = field(default_factory=list)
    surplus_since: float | None = None
    removed: bool = False

    def slot(self, version: int | None) -> Slot | None:
        """The slot of `version`, made when the record serves it; None when it does not."""
        known = self.slots.get(version)
        if known is not None:
            return known
        revision = served(self.record, version)
        if revision is None:
            return None
        slot = Slot(self.record.name, version, revision, fallbacks=fallbacks(self.record, version))
        self.slots[version] = slot
        return slot

    def is_out_of_service(self, revision: Revision) -> bool:
        return None in self.out_of_service or revision.version in self.out_of_service

    def accept(self, as_of: int) -> bool:
        """Take what the registry has in this revision (0: in none) for the last word on what is in
        service; False: a later one was heard. They come directly and with declarations, in any
        order."""
        if 0 < as_of < self.as_of:
            return False
        self.as_of = max(self.as_of, as_of)
        return True

    def back_in_service(self, version: int | None) -> None:
        """`version` alone, when the whole model was out of service; None: all of it."""
        if version is None:
            self.out_of_service.clear()
        elif None in self.out_of_service:
            others = (each.version for each in self.record.revisions)
            self.out_of_service = {each for each in others if each != version}
        else:
            self.out_of_service.discard(version)

    def refers_to(self, revision: str) -> bool:
        return any(slot.refers_to(revision) for slot in self.slots.values())

    def revision(self, revision: str) -> Revision:
        """The whole of one that a slot refers to."""
        return next(
            each for slot in self.slots.values() for each in (slot.active, slot.target)
            if each is not None and each.id == revision)

    # --- who holds what -------------------------------------------------------------------------

    def held_by(self, revision: str) -> dict[str, Holding]:
        return self.holdings.get(revision, {})

    def ready(self, revision: str) -> list[str]:
        """Instances whose copy answers requests."""
        return [each for each, holding in self.held_by(revision).items()
                if holding.state is HoldingState.READY]

    def coming(self, revision: str) -> list[str]:
        """Instances whose copy will be ready."""
        return [each for each, holding in self.held_by(revision).items()
                if holding.state is HoldingState.GRANTED]

    def staying(self, revision: str) -> list[str]:
        """Instances whose copy is there or coming, and that nobody told to let go of it."""
        return [each for each, holding in self.held_by(revision).items()
                if holding.state is not HoldingState.LEAVING and not holding.released]

    def is_held(self, revision: str) -> bool:
        """Is a copy ready, or to be, somewhere?"""
        return any(holding.state is not HoldingState.LEAVING
                   for holding in self.held_by(revision).values())

    def grant(self, revision: str, instance: str, urgency: Urgency, now: float) -> None:
        self.holdings.setdefault(revision, {})[instance] = Holding(
            HoldingState.GRANTED, now, urgency)

    def hold(self, held: Held, instance: str, now: float) -> Holding:
        """It holds a copy, ready or to be."""
        copies = self.holdings.setdefault(held.revision.id, {})
        holding = copies.get(instance)
        if holding is None:
            holding = copies[instance] = Holding(HoldingState.GRANTED, now, Urgency.WANTED)
        state = HoldingState.READY if held.ready else HoldingState.GRANTED
        if holding.state is not state:
            holding.state, holding.since = state, now
        holding.loading = held.loading
        holding.size_bytes = held.size_bytes
        holding.device, holding.accelerator_bytes = held.device, held.accelerator_bytes
        if held.used_ago_s is not None:
            holding.used_at = max(holding.used_at, now - held.used_ago_s)
        return holding

    def forget(self, revision: str, instance: str) -> Holding | None:
        """It holds no copy any more; what was known of it."""
        copies = self.holdings.get(revision)
        holding = copies.pop(instance, None) if copies is not None else None
        if copies is not None and not copies:
            del self.holdings[revision]
        return holding

    def used_at(self, revision: str) -> float:
        """When one of its copies was used last."""
        return max((each.used_at for each in self.held_by(revision).values()), default=-math.inf)
