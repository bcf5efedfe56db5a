"""The decisions about the models whose home this instance is: who answers for a name, what may be
loaded and where, when a failed load is tried again, and what homes tell each other.

How many copies a model gets is decided by `scaling`, which revision answers by `revisions`. Must
not know what this instance holds itself: it hears of its own copies as of all others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from shoal.core.board import Board
from shoal.core.copies import Urgency
from shoal.core.desk import model_of, portions, version_of
from shoal.core.failures import Failure
from shoal.core.plays import HoldingState, Out, Play, Slot
from shoal.core.revisions import Revisions
from shoal.core.roll_call import RollCall
from shoal.core.troubles import Troubles
from shoal.domain import mesh
from shoal.domain.events import served
from shoal.domain.model import ModelRecord, Revision
from shoal.domain.reasons import Reason

STRANGER_S: Final = 10.0  # for which who tells of copies may not be known as a member


class Home:
    def __init__(self, board: Board, revisions: Revisions, troubles: Troubles,
                 pass_on: Callable[[str, mesh.Locate], None]) -> None:
        self._desk = board.desk
        self._pass_on = pass_on
        self._board = board
        self._revisions = revisions
        self._troubles = troubles
        self.roll = RollCall(board.desk)
        self._strangers: dict[str, float] = {}  # told of copies, and since when

    # --- questions ------------------------------------------------------------------------------

    def locate(self, sender: str, question: mesh.Locate) -> None:
        entry = question.relayed or sender
        record = self._desk.records(question.model)
        if record is None:
            self._desk.tell(sender, mesh.NotLocated(
                question.ask, "MODEL_NOT_FOUND", f"model {question.model!r} is not registered"))
            return
        play = self._board.in_play(record)
        if question.by_hand and play.accept(question.as_of):
            play.back_in_service(question.version)
        slot = play.slot(question.version)
        if slot is None:
            self._desk.tell(sender, no_version(question, record))
        elif play.is_out_of_service(slot.active):
            self._desk.tell(sender, mesh.NotLocated(
                question.ask, "UNLOADED",
                f"model {question.model!r} was taken out of service; load it to serve it again"))
        else:
            slot.interested[entry] = None
            if question.by_hand:
                self._try_anew(slot)
            self._find(sender, question, play, slot)
        self._board.forget_if_idle(question.model)

    def _try_anew(self, slot: Slot) -> None:
        for revision in (slot.active, slot.target):
            if revision is not None:
                self._board.failures.forget(revision.id)
                self._board.declined.pop(revision.id, None)
        if slot.target is not None:
            self._revisions.stage(slot, Reason.ASKED)

    def _find(self, sender: str, question: mesh.Locate, play: Play, slot: Slot) -> None:
        """Tell who answers, or let somebody load it, or tell why nobody does."""
        revision = slot.active
        without = _without(question, revision)
        ready = [each for each in self._board.answering(play, revision.id) if each not in without]
        if ready:
            self._desk.tell(sender, mesh.Located(question.ask, revision.id, tuple(ready)))
            return
        if self._tell_coming(sender, question, play, revision, without):
            return
        if not self.roll.is_complete:
            self.roll.park(sender, question)
            return
        gone = not play.is_held(revision.id)
        if gone and slot.target is not None and slot.target.uri == revision.uri:
            # The files of the old revision are overwritten.
            self._revisions.switch(slot, slot.target)
            self._find(sender, question, play, slot)
        elif gone and slot.fallbacks and self._board.too_large(revision) is not None:
            self._revisions.fall_back(slot)
            self._find(sender, question, play, slot)
        else:
            self._load_for(sender, question, play, slot)

    def _tell_coming(
        self, sender: str, question: mesh.Locate, play: Play, revision: Revision,
        without: Collection[str],
    ) -> bool:
        """Tell who loads it already, if anybody does."""
        for each in play.coming(revision.id):
            if each not in without and self._desk.view.is_reachable(each):
                self._want_again(question, play, revision, each)
                self._tell_loading(sender, question, revision, each)
                return True
        return False

    def _tell_loading(
        self, sender: str, question: mesh.Locate, revision: Revision, instance: str
    ) -> None:
        self._desk.tell(sender, mesh.Located(question.ask, revision.id, (instance,), ready=False))

    def _want_again(
        self, question: mesh.Locate, play: Play, revision: Revision, instance: str
    ) -> None:
        """A copy that is coming, and may have been let go of meanwhile, is to stay."""
        holding = play.held_by(revision.id)[instance]
        if question.by_hand or holding.released:
            holding.released = None
            reason = Reason.ASKED if question.by_hand else Reason.REQUESTED
            self._desk.tell(instance, mesh.Grant(
                revision, Urgency.REQUEST, reason, question.by_hand))
            self._board.left(play, revision.id, instance)  # nobody waits for it to leave any more

    def _load_for(self, sender: str, question: mesh.Locate, play: Play, slot: Slot) -> None:
        revision, now = slot.active, self._desk.now
        failure = self._board.failures.of(revision.id)
        if failure is not None and now < failure.retry_at:
            newest = self._board.failures.of(slot.target.id) if slot.target is not None else None
            self._desk.tell(sender, mesh.NotLocated(
                question.ask, failure.code, (newest or failure).message, failure.retry_at - now))
            return
        without = _without(question, revision)
        reason = Reason.ASKED if question.by_hand else Reason.REQUESTED
        instance = self._board.grant(
            revision, Urgency.REQUEST, reason, without=without, by_hand=question.by_hand)
        if instance is not None:
            self._tell_loading(sender, question, revision, instance)
        elif not without and (story := self._troubles.give_up(revision)) is not None:
            self._desk.tell(sender, mesh.NotLocated(
                question.ask, story.code, story.message, story.retry_at - now))
        elif (declined := self._board.declined.get(revision.id)) is not None:
            why = next(iter(declined.values()))
            self._desk.tell(sender, mesh.NotLocated(
                question.ask, why.code, why.message, max(why.until - now, 0.0)))
        elif not without:
            self._desk.tell(sender, self._nowhere(question, revision))
        # Nobody else is left; who loads it may not have heard of that when it was asked.
        elif not self._tell_coming(sender, question, play, revision, ()):
            self._desk.tell(sender, mesh.NotLocated(question.ask))

    def _nowhere(self, question: mesh.Locate, revision: Revision) -> mesh.NotLocated:
        if not self._desk.view.ready:
            return mesh.NotLocated(
                question.ask, "UNAVAILABLE",
                f"no instance is ready to load model {question.model!r}: all that can be reached "
                "are starting or leave; try again", 1.0)
        if (too_large := self._board.too_large(revision)) is not None:
            return mesh.NotLocated(
                question.ask, "TOO_LARGE", too_large, self._desk.options.retry_max_s)
        if (kind := revision.accelerator) is not None and not revision.accelerator_optional and (
                not self._board.placing.has_kind(kind)):
            return mesh.NotLocated(
                question.ask, "NO_ROOM",
                f"model {question.model!r} must run on an accelerator (placement.accelerator: "
                f"{kind}), and no instance that is ready has one; add such an instance, or write "
                "preferred_accelerator", 5.0)
        needs = f"its format ({revision.format})" if revision.runtime is None else (
            f"its serving runtime ({revision.runtime}), which is disabled or no longer declared,")
        return mesh.NotLocated(
            question.ask, "NO_ROOM",
            f"no instance that is ready may hold model {question.model!r}: {needs} or its "
            "'placement' rules all of them out", 5.0)

    def interest(self, sender: str, message: mesh.Interest) -> None:
        for name, version in message.names:
            record = self._desk.records(name)
            play = self._board.plays.get(name)
            slot = play.slots.get(version) if play is not None and record is not None else None
            if play is None or slot is None:
                self._desk.tell(sender, mesh.Holders(name, version, ""))
                continue
            slot.interested[sender] = None
            self._desk.tell(sender, self._board.holders(play, slot))

    def take_out(self, sender: str, message: mesh.TakeOut) -> None:
        record = self._desk.records(message.model)
        play = self._board.in_play(record) if record is not None else None
        if play is None or not play.accept(message.as_of):
            self._desk.tell(sender, mesh.TakenOut(message.ask))
            return
        play.out_of_service.add(message.version)
        those = [revision for revision in play.holdings
                 if message.version in (None, version_of(revision))]
        play.outs.append(Out(sender, message.ask, {
            (revision, instance): None for revision in those for instance in play.held_by(revision)
        }))
        for revision in those:
            self._board.release_all(play, revision, Reason.UNLOADED)
        self._board.left(play)

    # --- what holders tell ----------------------------------------------------------------------

    def held(self, sender: str, message: mesh.Held) -> None:
        revision = message.revision
        record = self._desk.records(revision.model)
        if record is None:
            self._desk.tell(sender, mesh.Release(revision.id, Reason.REMOVED))
            return
        play = self._board.in_play(record)
        if sender not in self._desk.view.members:
            self._strangers.setdefault(sender, self._desk.now)
        before = play.held_by(revision.id).get(sender)
        news = before is None or before.state is not HoldingState.READY
        holding = play.hold(message, sender, self._desk.now)
        if holding.released:  # it was told so, but may not have heard
            self._desk.tell(sender, mesh.Release(revision.id, holding.released))
        if not play.refers_to(revision.id):
            self._adopt(play, revision)
        if message.ready:
            self._board.learn(revision, message.size_bytes, message.accelerator_bytes)
            self._board.failures.forget(revision.id)
            play.tried.pop(revision.id, None)
        if play.is_out_of_service(revision):
            self._board.release_all(play, revision.id, Reason.UNLOADED)
        elif not play.refers_to(revision.id):
            self._board.release_all(play, revision.id, Reason.REPLACED)
        elif message.ready:
            self._became_ready(play, revision, sender, news=news)

    def _adopt(self, play: Play, revision: Revision) -> None:
        """Somebody holds a revision that nobody asked for here: another home let it be loaded."""
        version = revision.version
        current = served(play.record, None)
        if current is None:
            return
        default = play.slots.get(None)
        if default is None and (default := play.slot(None)) is not None:
            if default.active.id == revision.id:
                return
            if all(each.id != revision.id for each in play.record.revisions):
                default.active, default.proven = revision, True
                self._revisions.set_target(default, current)
                self._revisions.stage(default, Reason.NEW_REVISION)
                return
        if any(each.id == revision.id for each in play.record.revisions):
            play.slot(version)

    def _became_ready(
        self, play: Play, revision: Revision, instance: str, *, news: bool
    ) -> None:
        for slot in list(play.slots.values()):
            if slot.active.id == revision.id:
                slot.proven = True
                slot.interested[instance] = None
                if news:
                    self._board.push(play, slot)
            elif slot.target is not None and slot.target.id == revision.id:
                slot.interested[instance] = None
                if self._revisions.may_take_over(play, slot):
                    self._revisions.take_over(slot)

    def dropped(self, sender: str, message: mesh.Dropped) -> None:
        play = self._board.plays.get(model_of(message.revision))
        holding = play.held_by(message.revision).get(sender) if play is not None else None
        if play is None or holding is None:
            return
        fresh = self._desk.now - holding.since < self._desk.options.ask_timeout_s
        granted = holding.state is HoldingState.GRANTED and not holding.released
        if granted and fresh and message.reason is Reason.ROOM and not message.again:
            return  # said of an earlier copy, or by who has not heard of the grant yet
        answered = holding.state is HoldingState.READY and not holding.released
        if message.again:
            holding.state, holding.released = HoldingState.GRANTED, None
            if not play.refers_to(message.revision):
                self._board.release_all(play, message.revision, Reason.REPLACED)
        elif message.gone:
            play.forget(message.revision, sender)
        else:
            holding.state, holding.since = HoldingState.LEAVING, self._desk.now
        if message.gone:
            self._board.left(play, message.revision, sender)
        if answered:
            self._board.push_revision(play, message.revision)
        self._board.forget_if_idle(play.record.name)

    def announced(self, sender: str, message: mesh.Announce) -> None:
        self.roll.tell(sender, message.view)
        told = {each.revision.id for each in message.copies}.union(message.besides)
        if message.whole:
            for play in list(self._board.plays.values()):
                for revision, copies in list(play.holdings.items()):
                    holding = copies.get(sender)
                    fresh_s = self._desk.options.ask_timeout_s
                    if (holding is not None and revision not in told
                            and self._desk.now - holding.since > fresh_s):
                        self._lost(play, revision, sender)
        for held in message.copies:
            self.held(sender, held)
        self._unpark()

    def _lost(self, play: Play, revision: str, instance: str) -> None:
        play.forget(revision, instance)
        self._board.push_revision(play, revision)
        self._board.left(play, revision, instance)
        self._board.forget_if_idle(play.record.name)

    # --- the mesh -------------------------------------------------------------------------------

    def _unpark(self) -> None:
        if self.roll.parked and self.roll.is_complete:
            view = self._desk.view
            for sender, question in self.roll.take_parked():
                home = view.home(question.model)
                # Another became the home meanwhile, and has heard what this one does not know.
                passes = home != view.me and self.roll.has(home) and not self.roll.is_behind
                (self._pass_on if passes else self.locate)(sender, question)

    def view_changed(self) -> None:
        """Hand over the models whose home is another one now, and forget who is gone."""
        view = self._desk.view
        given: dict[str, list[mesh.HomeState]] = {}
        for name, play in list(self._board.plays.items()):
            if name not in self._board.foreign:  # else it is known soon whether it stays so
                home, play.home_score = view.rehome(name, view.me, play.home_score)
                if home != view.me:
                    given.setdefault(home, []).append(self._give_away(play))
                    continue
            for revision, copies in list(play.holdings.items()):
                for instance in [each for each in copies if each not in view.members]:
                    if copies[instance].loading:
                        self._troubles.died(play, revision, instance)
                    self._lost(play, revision, instance)
            if play.tried:  # others may be left, or none: who failed may try again
                play.tried.clear()
                self._board.forget_if_idle(name)
        self._hand_over(given)
        self.roll.forget_gone()
        self._unpark()

    def _hand_over(self, given: dict[str, list[mesh.HomeState]]) -> None:
        for home, states in given.items():
            known = [each for each in states
                     if each.active or each.out_of_service or each.failures or each.deaths]
            for part in portions(known):
                self._desk.tell(home, mesh.HandOver(part))

    def _give_away(self, play: Play) -> mesh.HomeState:
        name, now = play.record.name, self._desk.now
        failures, deaths = [], {}
        for revision in play.record.revisions:
            if died := self._board.failures.deaths(revision.id):
                deaths[revision.id] = died
            if (failure := self._board.failures.of(revision.id)) is not None:
                failures.append(mesh.KnownFailure(
                    revision.id, failure.code, failure.message, failure.count,
                    max(failure.retry_at - now, 0.0)))
            self._board.failures.forget(revision.id)
        for slot in play.slots.values():
            self._revisions.set_target(slot, None)
        del self._board.plays[name]
        active = tuple([
            (slot.version, slot.active) for slot in play.slots.values()
            if slot.proven and served(play.record, slot.version) != slot.active
        ])
        return mesh.HomeState(
            name, active, tuple(play.out_of_service), tuple(failures), deaths, play.as_of)

    def handed_over(self, message: mesh.HandOver) -> None:
        for state in message.models:
            record = self._desk.records(state.model)
            if record is None:
                continue
            play = self._board.in_play(record)
            if play.accept(state.as_of):
                play.out_of_service |= set(state.out_of_service)
            for revision_id, instances in state.deaths.items():
                self._board.failures.died(revision_id, *instances)
            self._board.release_out_of_service(play)
            for known in state.failures:
                now = self._desk.now
                self._board.failures.learn(known.revision, Failure(
                    known.code, known.message, known.count, now, now, now + known.retry_in_s))
            for version, revision in state.active:
                current = served(record, version)
                if version not in play.slots and current is not None and current != revision:
                    slot = play.slot(version)
                    assert slot is not None
                    slot.active, slot.proven = revision, True
                    self._revisions.set_target(slot, current)
            self._board.forget_if_idle(state.model)

    def reachable_changed(self) -> None:
        """Somebody can be reached again, or no longer: others answer for what it holds."""
        for play in list(self._board.plays.values()):
            for slot in play.slots.values():
                if slot.interested and play.held_by(slot.active.id):
                    self._board.push(play, slot)

    # --- time -----------------------------------------------------------------------------------

    def ticked(self) -> None:
        self._unpark()
        self._board.forget_declined()
        self._leave_to_others()
        self._forget_strangers()
        for slot in list(self._board.targets.values()):
            target, play = slot.target, self._board.plays[slot.name]
            assert target is not None
            if play.is_out_of_service(slot.active) or play.coming(target.id):
                continue
            if self._board.failures.may_try(target.id, self._desk.now):
                self._revisions.stage(slot, Reason.RETRY)
        for name in self._board.pinned:
            self.want_pinned(name)

    def _leave_to_others(self) -> None:
        """Who told of these models took this instance for their home, or knew earlier that it will
        be; it had time to see that it is not."""
        view, now = self._desk.view, self._desk.now
        for name in list(self._board.foreign):
            play = self._board.plays.get(name)
            home, score = view.home_and_score(name)
            if play is None:
                del self._board.foreign[name]
            elif home == view.me:
                play.home_score = score
                del self._board.foreign[name]
            elif now - play.played_at > self._desk.options.ask_timeout_s:
                del self._board.foreign[name]
                self._hand_over({home: [self._give_away(play)]})

    def _forget_strangers(self) -> None:
        """Who told of copies and is no member: it has left, if this instance does not hear of it
        soon."""
        for each, since in list(self._strangers.items()):
            known = each in self._desk.view.members
            if not known and self._desk.now - since > STRANGER_S:
                for play in list(self._board.plays.values()):
                    for revision in [key for key, those in play.holdings.items() if each in those]:
                        self._lost(play, revision, each)
            if known or self._desk.now - since > STRANGER_S:
                del self._strangers[each]

    def want_pinned(self, name: str) -> None:
        if name not in self._board.pinned or self._desk.view.home(name) != self._desk.me:
            return
        record = self._desk.records(name)
        play = self._board.in_play(record) if record is not None else None
        slot = play.slot(None) if play is not None else None
        if play is None or slot is None or play.is_out_of_service(slot.active):
            return
        may_try = self._board.failures.may_try(slot.active.id, self._desk.now)
        if not may_try or not self.roll.is_complete:
            return
        assert record is not None
        staying = [each for each in play.staying(slot.active.id)
                   if not self._desk.view.is_leaving(each)]
        reason = Reason.PINNED if record.spec.pin else Reason.MIN_COPIES
        for _ in range(max(record.spec.min_copies, int(record.spec.pin)) - len(staying)):
            if self._board.grant(slot.active, Urgency.WANTED, reason) is None:
                break

    def fill(self, names: Collection[str]) -> None:
        """Load what of these is nowhere, where there is free memory."""
        for name in names:
            if name in self._board.plays or self._desk.view.home(name) != self._desk.me:
                continue
            record = self._desk.records(name)
            if record is None or not record.revisions:
                continue
            slot = self._board.in_play(record).slot(None)
            assert slot is not None
            if self.roll.is_complete:
                self._board.grant(slot.active, Urgency.FILL, Reason.FILL)
            self._board.forget_if_idle(name)


def _without(question: mesh.Locate, revision: Revision) -> tuple[str, ...]:
    """Instances that just failed to answer from it."""
    return question.without if question.revision == revision.id else ()


def no_version(question: mesh.Locate, record: ModelRecord) -> mesh.NotLocated:
    what = "nothing that can be served" if question.version is None else (
        f"no version {question.version}")
    return mesh.NotLocated(question.ask, "VERSION_NOT_FOUND", f"model {record.name!r} has {what}")
