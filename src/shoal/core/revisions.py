"""Which revision answers for a name: when a new one takes over, and what answers when it cannot.

A new revision never interrupts: it is loaded on as many instances as the old one has copies before
it takes over, and the old one leaves after that. Must not know why loads fail.
"""

from __future__ import annotations

from shoal.core.board import Board
from shoal.core.copies import Urgency
from shoal.core.plays import Play, Slot, fallbacks
from shoal.domain import mesh
from shoal.domain.events import served
from shoal.domain.model import ModelRecord, Revision
from shoal.domain.reasons import Reason


class Revisions:
    def __init__(self, board: Board) -> None:
        self._board = board

    # --- declarations ---------------------------------------------------------------------------

    def declared(self, record: ModelRecord, as_of: int = 0) -> None:
        """as_of: as of `ModelDeclared`."""
        play = self._board.plays.get(record.name)
        if play is not None:
            before, play.record, play.removed = play.record, record, False
            if play.accept(as_of):
                play.out_of_service = record.out_of_service
            for slot in list(play.slots.values()):
                revision = served(record, slot.version)
                if revision is None:
                    self._close_slot(play, slot)
                else:
                    self._retarget(play, slot, revision)
            for each in (*before.revisions, *record.revisions):
                if each in record.revisions or not play.refers_to(each.id):
                    self._board.failures.forget(each.id)  # declared anew: tried anew
                    play.tried.pop(each.id, None)
            self._board.release_unreferenced(play, Reason.REPLACED)
            if play.out_of_service:
                self._board.release_out_of_service(play)
        if (record.spec.pin or record.spec.min_copies) and record.revisions:
            self._board.pinned[record.name] = None
        else:
            self._board.pinned.pop(record.name, None)
        self._board.forget_if_idle(record.name)

    def removed(self, name: str) -> None:
        self._board.pinned.pop(name, None)
        play = self._board.plays.get(name)
        if play is None:
            return
        for slot in list(play.slots.values()):
            self._close_slot(play, slot)
        for revision in play.record.revisions:
            self._board.failures.forget(revision.id)
        play.removed = True
        play.out_of_service.clear()
        play.tried.clear()
        self._board.release_unreferenced(play, Reason.REMOVED)
        self._board.forget_if_idle(name)

    def _retarget(self, play: Play, slot: Slot, revision: Revision) -> None:
        """`revision` is what the slot should serve: at once, unless another one serves now."""
        slot.fallbacks = fallbacks(play.record, slot.version, *slot.fallbacks)
        if revision.id == slot.active.id:
            self.set_target(slot, None)
        elif slot.target is None or slot.target.id != revision.id:
            if play.ready(slot.active.id):
                self.set_target(slot, revision)
                self.stage(slot, Reason.NEW_REVISION)
            else:
                proven = (slot.active,) if slot.proven else ()
                self.switch(slot, revision, fallbacks(play.record, slot.version, *proven))

    def _close_slot(self, play: Play, slot: Slot) -> None:
        self.set_target(slot, None)
        del play.slots[slot.version]
        for each in slot.interested:
            self._board.desk.tell(each, mesh.Holders(slot.name, slot.version, ""))

    # --- revisions ------------------------------------------------------------------------------

    def stage(self, slot: Slot, reason: Reason) -> None:
        """Have the slot's target loaded, on as many instances as the active revision has copies,
        beside those; it takes over when it is ready there."""
        target, play = slot.target, self._board.plays[slot.name]
        assert target is not None
        if self.may_take_over(play, slot):
            self.take_over(slot)
            return
        missing = max(len(self._board.answering(play, slot.active.id)), 1)
        missing -= len(play.ready(target.id)) + len(play.coming(target.id))
        for _ in range(missing):
            if self._board.grant(target, Urgency.WANTED, reason) is None:
                break

    def may_take_over(self, play: Play, slot: Slot) -> bool:
        """Is the target ready on as many instances as the active revision, or as can be?"""
        assert slot.target is not None
        ready = len(self._board.answering(play, slot.target.id))
        needed = len(self._board.answering(play, slot.active.id))
        if not ready or ready >= needed:
            return ready > 0
        more = self._board.placing.candidates(self._board.want(slot.target))
        known = play.held_by(slot.target.id).keys() | play.tried.get(slot.target.id, {}).keys()
        return not play.coming(slot.target.id) and all(each in known for each in more)

    def take_over(self, slot: Slot) -> None:
        assert slot.target is not None
        old, new = slot.active, slot.target
        self.switch(slot, new)
        self._board.desk.note("revision_switched", new, Reason.NEW_REVISION,
                        f"revision {new.id} took over from {old.id}")

    def fall_back(self, slot: Slot) -> None:
        """The newest revision does not load and never did: the next best answers meanwhile."""
        newest, (next_best, *rest) = slot.target or slot.active, slot.fallbacks
        self.switch(slot, next_best, tuple(rest))
        self.set_target(slot, newest)
        self._board.desk.note("fell_back", next_best, Reason.FELL_BACK,
                        f"revision {next_best.id} answers while {newest.id} cannot be loaded")

    def switch(self, slot: Slot, revision: Revision, others: tuple[Revision, ...] = ()) -> None:
        """Make `revision` the active one; who waits for the slot looks for it anew."""
        play = self._board.plays[slot.name]
        slot.active, slot.fallbacks = revision, others
        slot.proven = bool(play.ready(revision.id))
        self.set_target(slot, None)
        self._board.push(play, slot)
        self._board.release_unreferenced(play, Reason.REPLACED)

    def set_target(self, slot: Slot, target: Revision | None) -> None:
        slot.target = target
        if target is None:
            self._board.targets.pop((slot.name, slot.version), None)
        else:
            self._board.targets[slot.name, slot.version] = slot
