"""The decisions of one instance: `Core.handle(event, now)` takes what happened and says what to do.

An instance has three roles. As an **entry** it finds out who answers a request that came to it; as
the **home** of its share of the models it decides who loads them, how many copies there are and
which revision answers; as a **holder** it loads what homes grant and evicts what is worth least.
The roles speak in messages, to themselves as to other instances; an instance alone is a mesh of
one. The only module that changes the core's state. It must not know the time, tasks or threads:
loads and unloads are commands that end as events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from shoal.core import invariants
from shoal.core.board import Board
from shoal.core.cache import Cache
from shoal.core.desk import Desk, Records
from shoal.core.entry import Entry
from shoal.core.failures import Failures
from shoal.core.home import Home
from shoal.core.options import Options
from shoal.core.plays import Play
from shoal.core.revisions import Revisions
from shoal.core.scaling import Scaling
from shoal.core.troubles import Troubles
from shoal.core.view import View
from shoal.domain import commands as do
from shoal.domain import events as on
from shoal.domain import mesh
from shoal.domain.model import Revision

GATHERING_S: Final = 15.0  # that filling waits for others that start at the same time


class Core:
    """records: what is declared, by name, as of the last ModelDeclared and ModelRemoved. `cache`,
    `models` (those whose home this is) and `failures` are there to be read by the shell."""

    def __init__(self, options: Options, records: Records) -> None:
        self.options = options
        self._desk = Desk(options, records)
        self.entry = Entry(self._desk)
        self.holder = self.entry.holder
        self._board = Board(self._desk, self.cache.sizes)
        self.revisions = Revisions(self._board)
        self._troubles = Troubles(self._board, self.revisions)
        self.home = Home(self._board, self.revisions, self._troubles, self.entry.relay)
        self.scaling = Scaling(self._board, self.cache)
        self._handlers: dict[type, Callable[..., None]] = {
            on.ModelDeclared: self._declared,
            on.ModelRemoved: self._removed,
            on.CopyRequested: self.entry.requested,
            on.ForwardReceived: self.holder.forward_received,
            on.LoadAsked: self.entry.by_hand,
            on.UnloadAsked: self.entry.take_out,
            on.TicketAbandoned: lambda e: self.entry.abandoned(e.ticket),
            on.FillOffered: lambda e: self.home.fill(e.models),
            on.CopyLoaded: self.holder.loaded,
            on.CopyLoadFailed: self.holder.load_failed,
            on.FilesComing: lambda e: self.cache.files_coming(e.revision),
            on.FilesCame: lambda e: self.cache.coming.discard(e.revision),
            on.CopyUnloaded: self.holder.unloaded,
            on.UsesReported: self.holder.used,
            on.ForwardsReported: self.entry.forwards,
            on.MemoryMeasured: lambda e: self.cache.correct(e.models_bytes, e.pools),
            on.SizeRemembered: lambda e: self.cache.sizes.remember_split(
                e.artifact_digest, e.size_bytes, e.accelerator_bytes),
            on.MembersChanged: self._members_changed,
            on.PeerUp: self._peer_up,
            on.PeerDown: self._peer_down,
            on.Told: lambda e: self._told(e.sender, e.message),
            on.FiguresMeasured: self.scaling.measured,
            on.Ticked: self._ticked,
        }
        self._listeners: dict[type, Callable[..., None]] = {
            mesh.Locate: self._located_here,
            mesh.Located: lambda _, m: self.entry.located(m),
            mesh.NotLocated: lambda _, m: self.entry.not_located(m),
            mesh.Holders: lambda _, m: self.entry.holders(m),
            mesh.Interest: self.home.interest,
            mesh.TakeOut: self.home.take_out,
            mesh.TakenOut: lambda _, m: self.entry.taken_out(m),
            mesh.Grant: lambda _, m: self.holder.grant(m),
            mesh.Release: lambda _, m: self.holder.release(m.revision, m.reason),
            mesh.Held: self.home.held,
            mesh.Loading: self._troubles.loading,
            mesh.Dropped: self.home.dropped,
            mesh.Failed: self._troubles.failed,
            mesh.Announce: self._announced,
            mesh.Demand: self.scaling.demanded,
            mesh.Beat: self.scaling.beat,
            mesh.HandOver: lambda _, m: self.home.handed_over(m),
        }

    # --- to be read -----------------------------------------------------------------------------

    @property
    def cache(self) -> Cache:
        return self.holder.cache

    @property
    def models(self) -> dict[str, Play]:
        return self._board.plays

    @property
    def homes(self) -> int:
        """Of so many models in play this is the home."""
        return self._board.decided

    @property
    def failures(self) -> Failures:
        return self._board.failures

    @property
    def view(self) -> View:
        return self._desk.view

    @property
    def may_fill(self) -> bool:
        """Is there free memory that nobody asked for, here or elsewhere?"""
        if self.view.alone:
            return self.cache.room_to_fill_bytes > 0
        if self.view.is_gathering(self._desk.now, GATHERING_S):
            return False
        return any(self._board.placing.may_fill(each) for each in self.view.ready)

    @property
    def hot(self) -> int:
        """Copies here that were used so lately that others should have them before this instance
        leaves; 0 where there are no others."""
        others = [each for each in self.view.ready if each != self.view.me]
        return self.holder.hot if others else 0

    def first_of(self, name: str, members: Sequence[str]) -> str | None:
        """Which of these members ranks first for anything that is to be done by one of them."""
        return next(iter(self.view.ranking(name, members, ready=False)), None)

    def too_large(self, revision: Revision) -> str | None:
        """Why no instance's budget can hold it; None when one can, or nobody knows yet."""
        return self._board.too_large(revision)

    def decides_about(self, name: str) -> bool:
        """Is this the home of the model?"""
        return self.view.home(name) == self.view.me

    # --- events in, commands out ----------------------------------------------------------------

    def handle(self, event: on.Event, now: float) -> list[do.Command]:
        """Everything that follows from `event`, in the order it must be done. `now`: seconds on any
        clock that never goes back."""
        desk = self._desk
        desk.now, desk.out = now, []
        self._handlers[type(event)](event)
        self._settle()
        return desk.out

    def _settle(self) -> None:
        """Until the roles have nothing to say to each other, and no load to start."""
        inbox = self._desk.inbox
        while True:
            while inbox:
                self._told(self._desk.me, inbox.popleft())
            self.holder.start_loads()
            if not inbox:
                return

    def _told(self, sender: str, message: mesh.Message) -> None:
        self._listeners[type(message)](sender, message)

    def check_invariants(self) -> None:
        """Assert that the state is consistent; for tests, after every event."""
        invariants.check(self)

    def _located_here(self, sender: str, question: mesh.Locate) -> None:
        home = self._desk.view.home(question.model)
        if home in (self._desk.me, sender) or question.relayed:
            self.home.locate(sender, question)
        elif self.home.roll.is_ahead:
            self.home.roll.park(sender, question)
        else:
            self.entry.relay(sender, question)

    def _announced(self, sender: str, message: mesh.Announce) -> None:
        self.home.announced(sender, message)
        if message.whole:
            self.entry.reached_by(sender)

    # --- declarations ---------------------------------------------------------------------------

    def _declared(self, event: on.ModelDeclared) -> None:
        self.entry.declared(event.record)
        self.holder.declared(event.record)
        self.revisions.declared(event.record, event.as_of)
        self.home.want_pinned(event.record.name)

    def _removed(self, event: on.ModelRemoved) -> None:
        self.entry.removed(event.name)
        self.revisions.removed(event.name)
        self.holder.removed(event.name)

    # --- the mesh, and time ---------------------------------------------------------------------

    def _members_changed(self, event: on.MembersChanged) -> None:
        desk = self._desk
        desk.view.change(event.members, event.view, desk.now, event.unlinked)
        self._view_changed()
        if not desk.view.alone:
            desk.out.append(do.Wake(self.options.barrier_s))

    def _peer_up(self, event: on.PeerUp) -> None:
        self._desk.view.up(event.instance)
        self._view_changed()
        self.holder.announce([event.instance])

    def _peer_down(self, event: on.PeerDown) -> None:
        self._desk.view.down(event.instance, self._desk.now)
        self._view_changed()
        self.home.reachable_changed()
        self._desk.out.append(do.Wake(self.options.lost_barrier_s))

    def _view_changed(self) -> None:
        self.home.view_changed()
        self.holder.view_changed()
        self.entry.view_changed()
        self.scaling.view_changed()

    def _ticked(self, event: on.Ticked) -> None:
        self.holder.ticked()
        self.entry.ticked()
        self.home.ticked()
        self.scaling.ticked()
