"""How many copies the models of this home have, and which instances give some away.

Concurrency over a target share of an instance (Little's law: requests in progress are their rate
times their duration), between the model's `min_copies` and `max_copies`; a second copy for a model
in steady use while there is room; fewer once that was enough for a while. Copies of instances that
leave are replaced first. Must not know why a load is possible or not: it asks `home` for it.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import Final

from shoal.core.board import Board
from shoal.core.cache import Cache
from shoal.core.copies import CopyState, Urgency
from shoal.core.desk import model_of
from shoal.core.plays import Play, Slot
from shoal.domain import events as on
from shoal.domain import mesh
from shoal.domain.reasons import Reason

LOOKS: Final = 500  # at models in a tick, beside those that cannot wait: some 5 ms
MOVES: Final = 4  # begun at once by one home to balance load
BEATS_PER_S: Final = 50.0  # that an instance sends, at most
LEAST_LOAD: Final = 0.3  # of an instance from which some is moved away
GRANTED_S: Final = 30.0  # after which a granted load that nobody told of is taken for lost


class Scaling:
    """cache: of this instance, of which the others are told."""

    def __init__(self, board: Board, cache: Cache) -> None:
        self._desk = board.desk
        self._board = board
        self._cache = cache
        self._hot: dict[str, None] = {}  # models of which a copy has more to do than one should
        self._due: dict[str, None] = {}  # models that were used, or have several copies: in turns
        self._leaving: dict[str, None] = {}  # models with a copy on an instance that leaves
        self._moving: dict[str, tuple[str, str, float]] = {}  # revision: from, to, since
        self._beat_at = -math.inf

    # --- figures --------------------------------------------------------------------------------

    def measured(self, event: on.FiguresMeasured) -> None:
        """What the shell measured, with what the books say, is told to the others."""
        desk, cache = self._desk, self._cache
        count, size = cache.ledger.count, cache.ledger.bytes
        figures = mesh.Figures(
            load=round(event.load, 3),
            pressure=round(cache.ledger.pressure_per_h(cache.capacity_bytes, desk.now), 4),
            free_bytes=max(cache.free_bytes - cache.queue.bytes, 0),
            fill_bytes=max(cache.room_to_fill_bytes, 0),
            used_bytes=size[CopyState.READY] + size[CopyState.UNLOADING],
            copies=count[CopyState.READY], queued=count[CopyState.QUEUED],
            waiting_requests=event.waiting_requests,
            pools=tuple([pool.figures(desk.options.fill_share) for pool in cache.pools.values()]),
        )
        desk.view.figures[desk.me] = figures
        self._board.placing.heard_from(desk.me)
        others = desk.view.others
        if desk.now - self._beat_at >= len(others) / BEATS_PER_S:
            self._beat_at = desk.now
            for each in others:
                desk.tell(each, mesh.Beat(figures))

    def beat(self, sender: str, message: mesh.Beat) -> None:
        if sender in self._desk.view.members:
            self._desk.view.figures[sender] = message.figures
            self._board.placing.heard_from(sender)

    def demanded(self, sender: str, message: mesh.Demand) -> None:
        now, share = self._desk.now, self._share()
        for use in message.uses:
            play = self._board.plays.get(model_of(use.revision))
            holding = play.held_by(use.revision).get(sender) if play is not None else None
            if play is not None and holding is not None:
                holding.tell_use(use, message.period_s, now)
                self._due[play.record.name] = None
                if holding.busy > share:
                    self._hot[play.record.name] = None

    # --- how many -------------------------------------------------------------------------------

    def ticked(self) -> None:
        if self._desk.view.alone:
            self._hot.clear()
            self._due.clear()
            return
        names = {**self._hot, **self._leaving, **dict.fromkeys(islice(self._due, LOOKS))}
        self._hot.clear()
        for name in names:
            play = self._board.plays.get(name)
            self._due.pop(name, None)
            self._leaving.pop(name, None)
            if play is not None:
                for slot in play.slots.values():
                    self._scale(play, slot)
        self._finish_moves()
        self._balance(names)

    def view_changed(self) -> None:
        """Copies on instances that leave, or cannot be reached, are looked after."""
        view = self._desk.view
        leaving = [each for each in view.members
                   if view.is_leaving(each) or not view.is_reachable(each)]
        if leaving:
            for name, play in self._board.plays.items():
                if any(each in copies for copies in play.holdings.values() for each in leaving):
                    self._leaving[name] = None

    def needed(self, play: Play, slot: Slot) -> int:
        """How many copies of what answers for the slot its load and its registration ask for."""
        now, spec = self._desk.now, play.record.spec
        held = play.held_by(slot.active.id)
        busy = sum(each.busy_at(now) for each in held.values())
        copies = max(math.ceil(busy / self._share() - 1e-9), 1, spec.min_copies)
        return copies if spec.max_copies is None else min(copies, spec.max_copies)

    def wanted(self, play: Play, slot: Slot, needed: int) -> int:
        """As `needed`, and a second one in steady use, where there is room."""
        most = play.record.spec.max_copies
        second = needed == 1 and (most is None or most > 1) and self._is_steady(play, slot)
        return 2 if second else needed

    def _share(self) -> float:
        """Of processors, that one copy is to keep busy on an average instance."""
        members = self._desk.view.members
        ready = self._desk.view.ready or [self._desk.me]
        processors = sum([members[each].processors for each in ready]) / len(ready)
        return self._desk.options.target_share * processors

    def _is_steady(self, play: Play, slot: Slot) -> bool:
        options, now = self._desk.options, self._desk.now
        rate = sum(each.rate_at(now) for each in play.held_by(slot.active.id).values())
        return rate >= options.steady_rate and now - play.played_at >= options.steady_s

    def _scale(self, play: Play, slot: Slot) -> None:
        view, now = self._desk.view, self._desk.now
        there = [each for each in play.staying(slot.active.id) if view.is_reachable(each)]
        leaving = [each for each in there if view.is_leaving(each)]
        staying = [each for each in there if each not in leaving]
        if not there:
            self._replace(play, slot)
            return
        name = play.record.name
        if leaving:
            self._hand_over(play, slot, leaving, staying)
            self._leaving[name] = None
            return
        if len(staying) > 1:
            self._due[name] = None
        if slot.target is not None or play.is_out_of_service(slot.active):
            return
        needed = self.needed(play, slot)
        wanted = self.wanted(play, slot, needed)
        if wanted > len(staying):
            play.surplus_since = None
            self._more(play, slot, wanted - len(staying), hot=needed > len(staying))
        elif wanted < len(staying) and slot.active.id not in self._moving:
            self._fewer(play, slot, staying, wanted)
        else:
            play.surplus_since = None
        self._check_grants(play, slot, now)

    def _more(self, play: Play, slot: Slot, missing: int, *, hot: bool) -> None:
        if len(play.coming(slot.active.id)) >= missing:
            return
        urgency = Urgency.WANTED if hot else Urgency.FILL
        reason = Reason.HOT if hot else Reason.STEADY
        for _ in range(missing):
            if self._board.grant(slot.active, urgency, reason) is None:
                break

    def _fewer(self, play: Play, slot: Slot, staying: list[str], wanted: int) -> None:
        """Slowly, and only where memory is short."""
        now, view = self._desk.now, self._desk.view
        ready = [each for each in staying if each in play.ready(slot.active.id)]
        want = self._board.want(slot.active)
        short = [each for each in ready if view.figures_of(each).pressure > 0
                 and not self._board.placing.has_room(each, want)]
        if not short or len(ready) <= wanted:
            play.surplus_since = None
            return
        if play.surplus_since is None:
            play.surplus_since = now
        elif now - play.surplus_since >= self._desk.options.surplus_s:
            play.surplus_since = now
            worst = max(short, key=lambda each: (view.figures_of(each).pressure, each))
            self._board.release(play, slot.active.id, worst, Reason.SURPLUS)

    def _check_grants(self, play: Play, slot: Slot, now: float) -> None:
        """A load that was granted to who never heard of it is not waited for."""
        for instance in play.coming(slot.active.id):
            holding = play.held_by(slot.active.id)[instance]
            if now - holding.since > GRANTED_S and not self._desk.view.is_reachable(instance):
                play.forget(slot.active.id, instance)

    def _replace(self, play: Play, slot: Slot) -> None:
        """All that hold it cannot be reached: what was used lately is asked for again soon."""
        recently = self._desk.now - play.used_at(slot.active.id) < self._desk.options.hot_s
        if recently and not play.is_out_of_service(slot.active):
            self._board.grant(slot.active, Urgency.WANTED, Reason.HANDOVER)

    # --- who gives away -------------------------------------------------------------------------

    def _hand_over(self, play: Play, slot: Slot, leaving: list[str], staying: list[str]) -> None:
        """Instances leave: what was used lately is loaded elsewhere before, and they are let go of
        once it is."""
        revision = slot.active.id
        ready = [each for each in staying if each in play.ready(revision)]
        recently = self._desk.now - play.used_at(revision) < self._desk.options.hot_s
        needed = max(1 if recently or play.record.spec.pin else 0, play.record.spec.min_copies)
        if len(ready) >= max(needed, 1):
            for each in leaving:
                if each in play.ready(revision):
                    self._board.release(play, revision, each, Reason.MOVED)
        elif len(staying) < needed:
            self._board.grant(slot.active, Urgency.WANTED, Reason.HANDOVER)

    def _balance(self, names: dict[str, None]) -> None:
        """Move copies from an instance with much more to do than the others to one with less."""
        view, options = self._desk.view, self._desk.options
        loads = {each: view.figures_of(each).load for each in view.ready}
        if len(loads) < 2:
            return
        mean = sum(loads.values()) / len(loads)
        busy = {each for each, load in loads.items()
                if load > max(mean + options.balance_margin, LEAST_LOAD)}
        idle = {each for each, load in loads.items() if load < mean}
        if not busy or not idle:
            return
        for name in names:
            if len(self._moving) >= MOVES:
                return
            play = self._board.plays.get(name)
            slot = play.slots.get(None) if play is not None else None
            if play is None or slot is None or slot.active.id in self._moving:
                continue
            ready = play.ready(slot.active.id)
            if len(ready) != 1 or ready[0] not in busy or play.coming(slot.active.id):
                continue
            without = [each for each in view.ready if each not in idle]
            to = self._board.grant(slot.active, Urgency.WANTED, Reason.BALANCE, without=without)
            if to is not None:
                self._moving[slot.active.id] = (ready[0], to, self._desk.now)
                self._due[name] = None

    def _finish_moves(self) -> None:
        for revision, (source, to, since) in list(self._moving.items()):
            play = self._board.plays.get(model_of(revision))
            ready = play.ready(revision) if play is not None else []
            if play is not None and source in ready and to in ready:
                self._board.release(play, revision, source, Reason.MOVED)
            elif play is not None and to in play.coming(revision) \
                    and self._desk.now - since < GRANTED_S:
                continue
            del self._moving[revision]
