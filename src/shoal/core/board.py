"""What the homes of this instance know and may do: models in play, who holds them, loads granted.

The primitive steps that `home`, `revisions` and `scaling` are made of. Must not know when they are
taken.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from shoal.core.copies import Urgency
from shoal.core.desk import Desk, version_of
from shoal.core.failures import Failures
from shoal.core.placement import Accelerated, Placing, Want
from shoal.core.plays import HoldingState, Play, Slot
from shoal.core.sizes import Sizes
from shoal.domain import mesh
from shoal.domain.accelerators import kind_of
from shoal.domain.model import ModelRecord, Revision
from shoal.domain.reasons import Reason


@dataclass(frozen=True, slots=True)
class Declined:
    """Why an instance would not load a revision. Until `until` others are asked rather than it;
    where there is no other it is asked again, but not before `soonest`."""

    code: str
    message: str
    soonest: float
    until: float


class Board:
    """sizes: what revisions take, as far as this instance knows. pinned: names declared so that a
    copy must be there; many homes know them, one decides. declined: by revision and instance.
    foreign: models in play whose home this instance was not. targets: slots that have one."""

    def __init__(self, desk: Desk, sizes: Sizes) -> None:
        self.desk = desk
        self.sizes = sizes
        self.plays: dict[str, Play] = {}
        options = desk.options
        self.failures = Failures(
            options.retry_base_s, options.retry_max_s, options.retry_deadly_s)
        self.placing = Placing(desk.view)
        self.pinned: dict[str, None] = {}
        self.declined: dict[str, dict[str, Declined]] = {}
        self.foreign: dict[str, None] = {}
        self.targets: dict[tuple[str, int | None], Slot] = {}

    # --- models in play --------------------------------------------------------------------------

    @property
    def decided(self) -> int:
        """Models in play whose home this is, as far as it knows."""
        return len(self.plays) - sum(name in self.plays for name in self.foreign)

    def in_play(self, record: ModelRecord) -> Play:
        play = self.plays.get(record.name)
        if play is None:
            play = self.plays[record.name] = Play(record, self.desk.now)
            play.out_of_service = record.out_of_service
            home, score = self.desk.view.home_and_score(record.name)
            if home == self.desk.me:
                play.home_score = score
            else:
                play.home_score = math.inf  # unknown: looked up when members change
                self.foreign[record.name] = None
        elif play.removed:
            play.record, play.removed = record, False
        return play

    def forget_if_idle(self, name: str) -> None:
        """A model of which nothing is loaded, wanted or remembered costs nothing here."""
        play = self.plays.get(name)
        if play is None or play.holdings or play.out_of_service or play.tried or play.outs:
            return
        if name in self.pinned and not play.removed:
            return
        if any(self.failures.is_known(each.id) for each in play.record.revisions):
            return  # also one that another home has told of, for which there is no slot yet
        if not any(slot.target or self.failures.of(slot.active.id) for slot in play.slots.values()):
            del self.plays[name]

    # --- loads ----------------------------------------------------------------------------------

    def want(self, revision: Revision, *, for_load: bool = False) -> Want:
        play = self.plays.get(revision.model)
        placement = play.record.spec.placement if play is not None else None
        holders = tuple(play.held_by(revision.id)) if play is not None else ()
        size = self.sizes.predict(revision)
        return Want(
            revision.model, revision.needs, placement, size.size_bytes, holders, for_load,
            size.least_bytes, self._accelerated(revision))

    def _accelerated(self, revision: Revision) -> Accelerated | None:
        kind = revision.accelerator
        if kind is None or revision.format not in (
                self.desk.options.accelerated_formats.get(kind, ())):
            return None
        split = self.sizes.accelerated.predict(revision)
        return Accelerated(kind, revision.accelerator_optional, split)

    def learn(self, revision: Revision, size_bytes: int, accelerator_bytes: int) -> None:
        """Some instance told what a copy of it takes, on the processor or on an accelerator; 0: it
        did not."""
        if size_bytes and (revision.memory_bytes is None or accelerator_bytes):
            self.sizes.remember_split(revision.artifact_digest, size_bytes, accelerator_bytes)

    def grant(
        self, revision: Revision, urgency: Urgency, reason: Reason, *,
        without: Collection[str] = (), by_hand: bool = False,
    ) -> str | None:
        """Let an instance load a copy that has none, and has not just failed to; None: there is no
        such instance. With urgency FILL, only where there is room."""
        play = self.plays[revision.model]
        want = self.want(revision, for_load=reason is Reason.HOT)
        passed = {*without, *play.staying(revision.id), *play.tried.get(revision.id, ())}
        if urgency is Urgency.FILL and not self.desk.view.alone:
            passed |= {each for each in self.desk.view.ready
                       if not self.placing.may_fill_with(each, want)}
        declined = self.declined.get(revision.id, {})
        instance = self.placing.choose(want, passed.union(declined))
        if instance is None and declined and not without:  # they may have room by now
            lately = [each for each, what in declined.items() if self.desk.now < what.soonest]
            instance = self.placing.choose(want, passed.union(lately))
        if instance is not None:
            self.grant_to(instance, revision, urgency, reason, by_hand=by_hand)
        return instance

    def grant_to(
        self, instance: str, revision: Revision, urgency: Urgency, reason: Reason, *,
        by_hand: bool = False,
    ) -> None:
        want = self.want(revision)
        self.placing.announce(instance, want)
        self.plays[revision.model].grant(revision.id, instance, urgency, self.desk.now)
        size_bytes, accelerator_bytes = self.placing.needs(instance, want)
        size = self.sizes.accelerated if accelerator_bytes else self.sizes
        if not size.predict(revision).known:
            size_bytes = accelerator_bytes = 0
        self.desk.tell(instance, mesh.Grant(
            revision, urgency, reason, by_hand, size_bytes, accelerator_bytes))

    def decline(self, revision: str, instance: str, declined: Declined) -> None:
        self.declined.setdefault(revision, {})[instance] = declined

    def forget_declined(self) -> None:
        """Those whose time is over."""
        for revision, those in list(self.declined.items()):
            for instance in [each for each, what in those.items() if what.until <= self.desk.now]:
                del those[instance]
            if not those:
                del self.declined[revision]

    def too_large(self, revision: Revision) -> str | None:
        """Why no instance's budget can hold it; None when one can, or nobody knows yet."""
        ready, members = self.desk.view.ready or [self.desk.me], self.desk.view.members
        most = max(members[each].budget_bytes for each in ready)
        if (accelerated := self._accelerated(revision)) is None:
            return self.sizes.too_large(revision, most) if most else None
        pools = [pool for each in ready for pool in members[each].pools
                 if kind_of(pool.name) == accelerated.kind]
        if accelerated.optional and not (most and self.sizes.too_large(revision, most)):
            return None
        largest = max(pools, key=lambda pool: pool.budget_bytes, default=None)
        return None if largest is None else self.sizes.accelerated.too_large(revision, largest)

    # --- leaving --------------------------------------------------------------------------------

    def release_unreferenced(self, play: Play, reason: Reason) -> None:
        """Let go of the copies that no slot stands for any more."""
        for revision in [each for each in play.holdings if not play.refers_to(each)]:
            self.release_all(play, revision, reason)

    def release_all(self, play: Play, revision: str, reason: Reason) -> None:
        """Let go of every copy; entries hear that nobody answers for it any more."""
        answered = False
        for instance, holding in play.held_by(revision).items():
            if holding.state is not HoldingState.LEAVING and not holding.released:
                answered |= holding.state is HoldingState.READY
                holding.released = reason
                self.desk.tell(instance, mesh.Release(revision, reason))
        if answered:
            self.push_revision(play, revision)

    def release_out_of_service(self, play: Play) -> None:
        everything = None in play.out_of_service
        for revision in list(play.holdings):
            if everything or version_of(revision) in play.out_of_service:
                self.release_all(play, revision, Reason.UNLOADED)

    def release(self, play: Play, revision: str, instance: str, reason: Reason) -> None:
        """Let go of one copy of several; entries hear of it first."""
        play.holdings[revision][instance].released = reason
        self.push_revision(play, revision)
        self.desk.tell(instance, mesh.Release(revision, reason))

    def left(self, play: Play, revision: str = "", instance: str = "") -> None:
        """A copy left memory: tell those who waited for that, and for no other."""
        for out in list(play.outs):
            out.leaving.pop((revision, instance), None)
            if not out.leaving:
                play.outs.remove(out)
                self.desk.tell(out.instance, mesh.TakenOut(out.ask))

    # --- entries --------------------------------------------------------------------------------

    def answering(self, play: Play, revision: str) -> list[str]:
        """Ready holders that can be reached; those about to leave only where there is no other."""
        view = self.desk.view
        found = [
            each for each, holding in play.held_by(revision).items()
            if holding.state is HoldingState.READY and not holding.released
            and view.is_reachable(each)
        ]
        staying = [each for each in found if not view.is_leaving(each)]
        return staying or found

    def holders(self, play: Play, slot: Slot) -> mesh.Holders:
        answering = self.answering(play, slot.active.id)
        return mesh.Holders(slot.name, slot.version, slot.active.id, tuple(answering))

    def push_revision(self, play: Play, revision: str) -> None:
        """As `push`, for every slot that it answers for."""
        for slot in play.slots.values():
            if slot.active.id == revision:
                self.push(play, slot)

    def push(self, play: Play, slot: Slot) -> None:
        """Tell those that use what they were told of the slot."""
        message = self.holders(play, slot)
        for each in slot.interested:
            if self.desk.view.is_reachable(each):
                self.desk.tell(each, message)
        if not message.holders:
            slot.interested.clear()
