"""The decisions of one instance: `Core.handle(event, now)` takes what happened and says what to do.

The only module that changes the core's state. It must not know the time, tasks or threads: loads
and unloads are commands that end as events.
"""

from __future__ import annotations

from collections.abc import Callable

from shoal.core import admission, invariants
from shoal.core.cache import Cache
from shoal.core.copies import Copy, CopyState, Urgency
from shoal.core.failures import Failures
from shoal.core.options import Options
from shoal.core.slots import ModelInPlay, Slot, fallbacks
from shoal.domain import commands as do
from shoal.domain import events as on
from shoal.domain.events import served
from shoal.domain.model import ModelRecord, Revision
from shoal.domain.reasons import Reason


class Core:
    """`cache`, `models` and `failures` are there to be read by the shell and its views."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.models: dict[str, ModelInPlay] = {}
        self.cache = Cache(
            options, lambda copy: self.models[copy.revision.model].must_keep(copy.revision),
            self._unload,
        )
        self.failures = Failures(options.retry_base_s, options.retry_max_s)
        self.tickets: dict[int, Slot] = {}  # requests that wait, and for what
        self.unload_tickets: dict[int, int] = {}  # and how many copies are yet to leave
        self._targets: dict[tuple[str, int | None], Slot] = {}  # slots with a target
        self._pinned: dict[str, None] = {}
        self._now = 0.0
        self._out: list[do.Command] = []
        self._handlers: dict[type, Callable[..., None]] = {
            on.ModelDeclared: self._declared,
            on.ModelRemoved: self._removed,
            on.CopyRequested: self._requested,
            on.LoadAsked: self._load_asked,
            on.UnloadAsked: self._unload_asked,
            on.TicketAbandoned: self._abandoned,
            on.FillOffered: self._fill_offered,
            on.CopyLoaded: self._loaded,
            on.CopyLoadFailed: self._load_failed,
            on.CopyUnloaded: self._unloaded,
            on.UsesReported: lambda e: self.cache.used(e.uses),
            on.MemoryMeasured: lambda e: self.cache.correct(e.models_bytes),
            on.SizeRemembered: lambda e: self.cache.sizes.remember(e.artifact_digest, e.size_bytes),
            on.Ticked: self._ticked,
        }

    def handle(self, event: on.Event, now: float) -> list[do.Command]:
        """Everything that follows from `event`, in the order it must be done. `now`: seconds on any
        clock that never goes back."""
        self._now, self._out = now, []
        self._handlers[type(event)](event)
        self._start_loads()
        return self._out

    def check_invariants(self) -> None:
        """Assert that the state is consistent; for tests, after every event."""
        invariants.check(self)

    # --- declarations ---------------------------------------------------------------------------

    def _declared(self, event: on.ModelDeclared) -> None:
        record = event.record
        play = self.models.get(record.name)
        if play is not None:
            before, play.record, play.removed = play.record, record, False
            play.out_of_service.clear()
            for slot in list(play.slots.values()):
                revision = served(record, slot.version)
                if revision is None:
                    self._close_slot(play, slot, "VERSION_NOT_FOUND", "is no longer served")
                else:
                    self._retarget(slot, revision, record)
            for each in (*before.revisions, *record.revisions):
                if each in record.revisions or not play.refers_to(each.id):
                    self.failures.forget(each.id)  # declared anew: tried anew
            self._release_unreferenced(play, Reason.REPLACED)
        if record.spec.pin and record.revisions:
            self._pinned[record.name] = None
            self._want_pinned(self._in_play(record))
        else:
            self._pinned.pop(record.name, None)
        self._forget_if_idle(record.name)

    def _removed(self, event: on.ModelRemoved) -> None:
        self._pinned.pop(event.name, None)
        play = self.models.get(event.name)
        if play is None:
            return
        for slot in list(play.slots.values()):
            self._close_slot(play, slot, "MODEL_NOT_FOUND", "was unregistered")
        for revision in play.record.revisions:
            self.failures.forget(revision.id)
        play.removed = True
        play.out_of_service.clear()
        self._release_unreferenced(play, Reason.REMOVED)
        self._forget_if_idle(event.name)

    def _retarget(self, slot: Slot, revision: Revision, record: ModelRecord) -> None:
        """`revision` is what the slot should serve: at once, unless another one serves now."""
        slot.fallbacks = fallbacks(record, slot.version, *slot.fallbacks)
        if revision.id == slot.active.id:
            self._set_target(slot, None)
        elif slot.target is None or slot.target.id != revision.id:
            copy = self.cache.copies.get(slot.active.id)
            if copy is not None and copy.state is CopyState.READY:
                self._set_target(slot, revision)
                self._stage(slot, Reason.NEW_REVISION)
            else:
                proven = (slot.active,) if slot.proven else ()
                self._switch(slot, revision, fallbacks(record, slot.version, *proven))

    def _stage(self, slot: Slot, reason: Reason) -> None:
        """Load the slot's target beside what serves; it takes over when it is ready."""
        assert slot.target is not None
        copy = self.cache.copies.get(slot.target.id)
        if copy is not None and copy.state is CopyState.READY:
            self._take_over(slot)
        elif copy is not None and copy.state is CopyState.UNLOADING:
            copy.wanted_again = True
        else:
            self._enqueue(slot.target, Urgency.WANTED, reason)

    def _take_over(self, slot: Slot) -> None:
        assert slot.target is not None
        old, new = slot.active, slot.target
        self._switch(slot, new)
        self._note("revision_switched", new, Reason.NEW_REVISION,
                   f"revision {new.id} took over from {old.id}")
        self._release_unreferenced(self.models[slot.name], Reason.REPLACED)

    def _fall_back(self, slot: Slot) -> None:
        """The newest revision does not load and never did: the next best answers meanwhile."""
        newest, (next_best, *rest) = slot.target or slot.active, slot.fallbacks
        self._switch(slot, next_best, tuple(rest))
        self._set_target(slot, newest)
        self._note("fell_back", next_best, Reason.FELL_BACK,
                   f"revision {next_best.id} answers while {newest.id} cannot be loaded")

    def _switch(self, slot: Slot, revision: Revision, others: tuple[Revision, ...] = ()) -> None:
        """Make `revision` the active one; whoever waits for the slot waits for it from now on."""
        old = self.cache.copies.get(slot.active.id)
        waiting = [t for t in old.tickets if self.tickets[t] is slot] if old is not None else []
        for ticket in waiting:
            self._withdraw(ticket)
        copy = self.cache.copies.get(revision.id)
        ready = copy is not None and copy.state is CopyState.READY
        if not ready:
            self._unroute(slot)
        slot.active, slot.fallbacks, slot.proven, slot.routed = revision, others, False, False
        self._set_target(slot, None)
        if ready:
            self._route(slot)
        for ticket in waiting:
            self._await(ticket, slot)

    def _set_target(self, slot: Slot, target: Revision | None) -> None:
        slot.target = target
        if target is None:
            self._targets.pop((slot.name, slot.version), None)
        else:
            self._targets[slot.name, slot.version] = slot

    def _close_slot(self, play: ModelInPlay, slot: Slot, code: str, why: str) -> None:
        self._unroute(slot)
        self._set_target(slot, None)
        what = f"model {slot.name!r}" + ("" if slot.version is None else f" version {slot.version}")
        for ticket in [each for each, waits_for in self.tickets.items() if waits_for is slot]:
            self._refuse(ticket, code, f"{what} {why}")
        del play.slots[slot.version]

    def _release_unreferenced(self, play: ModelInPlay, reason: Reason) -> None:
        """Let go of the copies that no slot stands for any more."""
        for key in list(play.copies):
            copy = self.cache.copies[key]
            if play.refers_to(key):
                continue
            copy.wanted_again = False
            if copy.state is CopyState.QUEUED:
                self._drop(copy)
            elif copy.state is CopyState.READY:
                self._unload(copy, reason)
            else:
                copy.orphan = True

    def _want_pinned(self, play: ModelInPlay) -> None:
        slot = play.slot(None)
        if slot is None or slot.active.id in self.cache.copies:
            return
        if play.is_out_of_service(slot.active):
            return
        if self.failures.may_try(slot.active.id, self._now):
            self._enqueue(slot.active, Urgency.WANTED, Reason.PINNED)

    # --- requests -------------------------------------------------------------------------------

    def _requested(self, event: on.CopyRequested) -> None:
        slot = self._in_play(event.record).slot(event.version)
        if slot is None:
            self._no_version(event.ticket, event.record, event.version)
        else:
            self._await(event.ticket, slot)
        self._forget_if_idle(event.record.name)

    def _await(self, ticket: int, slot: Slot) -> None:
        """Answer the ticket now, let it wait for the slot's active revision, or refuse it."""
        if self.models[slot.name].is_out_of_service(slot.active):
            self._refuse(ticket, "UNLOADED", f"model {slot.name!r} was taken out of service; "
                         "load it to serve it again")
            return
        copy = self.cache.copies.get(slot.active.id)
        if copy is not None and copy.state is CopyState.READY:
            self._route(slot)
            self._out.append(do.Answer(ticket, slot.active.id))
            return
        if copy is None and slot.target is not None and slot.target.uri == slot.active.uri:
            self._switch(slot, slot.target)  # the files of the old revision are overwritten
            copy = self.cache.copies.get(slot.active.id)
        gone = copy is None or copy.state is CopyState.UNLOADING
        if gone and slot.fallbacks and self.cache.too_large(slot.active) is not None:
            self._fall_back(slot)
            self._await(ticket, slot)
            return
        refusal = admission.refusal(self, slot, copy, self._now)
        if refusal is not None:
            self._refuse(ticket, refusal.code, refusal.message, refusal.retry_after_s)
            return
        if copy is None or copy.state is CopyState.QUEUED:
            copy = self._enqueue(slot.active, Urgency.REQUEST, Reason.REQUESTED)
        elif copy.state is CopyState.UNLOADING:
            copy.wanted_again = True
        copy.orphan = False
        copy.tickets.append(ticket)
        self.tickets[ticket] = slot

    def _load_asked(self, event: on.LoadAsked) -> None:
        play = self._in_play(event.record)
        play.back_in_service(event.version)
        slot = play.slot(event.version)
        if slot is None:
            self._no_version(event.ticket, event.record, event.version)
            return
        self.failures.forget(slot.active.id)
        if slot.target is not None:
            self.failures.forget(slot.target.id)
            self._stage(slot, Reason.ASKED)
        self._await(event.ticket, slot)
        copy = self.cache.copies.get(slot.active.id)
        if copy is not None and event.ticket in copy.tickets:
            copy.asked = True
            if copy.state is CopyState.QUEUED:
                copy.reason = Reason.ASKED

    def _unload_asked(self, event: on.UnloadAsked) -> None:
        play = self._in_play(event.record)
        play.out_of_service.add(event.version)
        leaving = 0
        for copy in [self.cache.copies[key] for key in play.copies]:
            if event.version not in (None, copy.revision.version):
                continue
            for ticket in list(copy.tickets):
                self._refuse(ticket, "UNLOADED",
                             f"model {event.record.name!r} was taken out of service")
            copy.wanted_again = copy.asked = False
            if copy.state is CopyState.QUEUED:
                self._drop(copy)
                continue
            if copy.state is CopyState.READY:
                self._unload(copy, Reason.UNLOADED)
            copy.orphan = True
            copy.unload_tickets.append(event.ticket)
            leaving += 1
        if leaving:
            self.unload_tickets[event.ticket] = leaving
        else:
            self._out.append(do.Answer(event.ticket, ""))

    def _abandoned(self, event: on.TicketAbandoned) -> None:
        slot = self.tickets.get(event.ticket)
        if slot is None:
            return
        copy = self.cache.copies[slot.active.id]
        self._withdraw(event.ticket)
        if not copy.tickets and not copy.asked:
            copy.wanted_again = False
            if copy.state is CopyState.QUEUED and copy.urgency is Urgency.REQUEST:
                self._drop(copy)
        self._forget_if_idle(slot.name)

    def _fill_offered(self, event: on.FillOffered) -> None:
        for record in event.records:
            if record.name in self.models or not record.revisions:
                continue
            size_bytes = self.cache.sizes.predict(record.revisions[-1]).size_bytes
            if size_bytes > self.cache.room_to_fill_bytes:
                continue
            slot = self._in_play(record).slot(None)
            assert slot is not None
            self._enqueue(slot.active, Urgency.FILL, Reason.FILL)

    # --- loads ----------------------------------------------------------------------------------

    def _start_loads(self) -> None:
        """Start what the queue, the limit and the room allow; evict where that makes the room."""
        cache, ledger = self.cache, self.cache.ledger
        while (following := cache.next_load()) is not None:
            copy, need = following
            if copy.urgency is Urgency.FILL:
                if need - self.cache.queue.bytes_of(copy.revision.id) > cache.room_to_fill_bytes:
                    self._drop(copy)
                    self._forget_if_idle(copy.revision.model)
                    continue
            elif (too_large := cache.too_large(copy.revision)) is not None:
                self._give_up(copy, "TOO_LARGE", too_large, Reason.TOO_LARGE)
                continue
            elif not cache.make_room(need):
                if ledger.count[CopyState.LOADING] or ledger.count[CopyState.UNLOADING]:
                    return  # what is under way may free enough
                message = admission.no_room(cache, copy.revision, need)
                self._give_up(copy, "NO_ROOM", message, Reason.NO_ROOM)
                continue
            if need > cache.free_bytes:
                return  # what leaves for it has not left yet
            cache.start(copy, need)
            self._out.append(do.LoadCopy(copy.revision, need, copy.reason))

    def _give_up(self, copy: Copy, code: str, message: str, reason: Reason) -> None:
        """The load cannot start. What no request waits for is tried again after a while."""
        if copy.urgency is not Urgency.REQUEST:
            self.failures.record(copy.revision.id, code, message, self._now)
        self._note("load_refused", copy.revision, reason, message)
        for ticket in list(copy.tickets):
            self._refuse(ticket, code, message, self.options.retry_base_s)
        self._drop(copy)
        self._forget_if_idle(copy.revision.model)

    def _loaded(self, event: on.CopyLoaded) -> None:
        copy = self.cache.copies[event.revision]
        revision = copy.revision
        self.cache.finish(copy, event.size_bytes, event.load_s, self._now)
        self.failures.forget(revision.id)
        if too_large := self.cache.too_large(revision):
            self.failures.record(revision.id, "TOO_LARGE", too_large, self._now)
            self._note("load_refused", revision, Reason.TOO_LARGE, too_large)
            waiting = self._withdraw_all(copy)
            self._unload(copy, Reason.TOO_LARGE)
            self._go_without(revision, waiting)
            return
        if copy.orphan:
            other = Reason.REMOVED if self.models[revision.model].removed else Reason.REPLACED
            self._unload(copy, Reason.UNLOADED if copy.unload_tickets else other)
            return
        for slot in list(self.models[revision.model].slots.values()):
            if slot.active.id == revision.id:
                self._route(slot)
            elif slot.target is not None and slot.target.id == revision.id:
                self._take_over(slot)
        self._out += [do.Answer(ticket, revision.id) for ticket in self._withdraw_all(copy)]
        copy.asked = False
        self._unloads_done(copy)
        self.cache.make_room(0)  # it may have turned out larger than predicted

    def _load_failed(self, event: on.CopyLoadFailed) -> None:
        copy = self.cache.copies[event.revision]
        revision = copy.revision
        self.cache.ledger.load_failures += 1
        play = self.models[revision.model]
        if play.refers_to(revision.id):
            self.failures.record(revision.id, "LOAD_FAILED", event.message, self._now)
        self._note("load_failed", revision, Reason.FAILED, event.message)
        waiting = self._withdraw_all(copy)
        self._unloads_done(copy)
        self._drop(copy)
        self._go_without(revision, waiting)
        self._forget_if_idle(revision.model)

    def _go_without(self, revision: Revision, waiting: dict[int, Slot]) -> None:
        """It cannot be loaded: who waits gets the next best, or is refused for this failure."""
        for slot in list(self.models[revision.model].slots.values()):
            if slot.active.id == revision.id and slot.fallbacks:
                self._fall_back(slot)
        for ticket, slot in waiting.items():
            self._await(ticket, slot)

    # --- leaving --------------------------------------------------------------------------------

    def _unload(self, copy: Copy, reason: Reason) -> None:
        """Take a ready copy out: no new request reaches it; its memory counts until it is gone."""
        for slot in self.models[copy.revision.model].slots.values():
            if slot.active.id == copy.revision.id:
                self._unroute(slot)
        self.cache.leave(copy, reason, self._now)
        self._out.append(do.UnloadCopy(copy.revision.id, reason))

    def _unloaded(self, event: on.CopyUnloaded) -> None:
        copy = self.cache.copies[event.revision]
        self._unloads_done(copy)
        self._drop(copy)
        if copy.wanted_again:
            urgency = Urgency.REQUEST if copy.tickets else Urgency.WANTED
            reason = Reason.ASKED if copy.asked else Reason.REQUESTED
            fresh = self._enqueue(copy.revision, urgency, reason)
            fresh.tickets, fresh.asked = copy.tickets, copy.asked
        self._forget_if_idle(copy.revision.model)

    def _unloads_done(self, copy: Copy) -> None:
        for ticket in copy.unload_tickets:
            self.unload_tickets[ticket] -= 1
            if not self.unload_tickets[ticket]:
                del self.unload_tickets[ticket]
                self._out.append(do.Answer(ticket, ""))
        copy.unload_tickets = []

    # --- time -----------------------------------------------------------------------------------

    def _ticked(self, event: on.Ticked) -> None:
        for slot in list(self._targets.values()):
            target, play = slot.target, self.models[slot.name]
            assert target is not None
            if target.id in self.cache.copies or play.is_out_of_service(slot.active):
                continue
            if self.failures.may_try(target.id, self._now):
                self._stage(slot, Reason.RETRY)
        for name in self._pinned:
            self._want_pinned(self.models[name])
        for copy in self.cache.idle(self._now):
            self._unload(copy, Reason.IDLE)

    # --- small steps ----------------------------------------------------------------------------

    def _in_play(self, record: ModelRecord) -> ModelInPlay:
        play = self.models.get(record.name)
        if play is None:
            play = self.models[record.name] = ModelInPlay(record)
        elif play.removed:
            play.record, play.removed = record, False
        return play

    def _forget_if_idle(self, name: str) -> None:
        """A model of which nothing is loaded, wanted or remembered costs nothing here."""
        play = self.models.get(name)
        if play is None or play.copies or play.out_of_service or name in self._pinned:
            return
        if not any(slot.target or self.failures.of(slot.active.id) for slot in play.slots.values()):
            del self.models[name]

    def _enqueue(self, revision: Revision, urgency: Urgency, reason: Reason) -> Copy:
        self.models[revision.model].copies[revision.id] = None
        return self.cache.enqueue(revision, urgency, reason)

    def _drop(self, copy: Copy) -> None:
        self.cache.drop(copy)
        del self.models[copy.revision.model].copies[copy.revision.id]

    def _route(self, slot: Slot) -> None:
        slot.proven = True
        if not slot.routed:
            slot.routed = True
            self._out.append(do.Route(slot.name, slot.version, slot.active.id))

    def _unroute(self, slot: Slot) -> None:
        if slot.routed:
            slot.routed = False
            self._out.append(do.Unroute(slot.name, slot.version))

    def _withdraw(self, ticket: int) -> None:
        """The ticket waits no longer."""
        slot = self.tickets.pop(ticket)
        self.cache.copies[slot.active.id].tickets.remove(ticket)

    def _withdraw_all(self, copy: Copy) -> dict[int, Slot]:
        waiting = {ticket: self.tickets.pop(ticket) for ticket in copy.tickets}
        copy.tickets = []
        return waiting

    def _refuse(
        self, ticket: int, code: str, message: str, retry_after_s: float | None = None
    ) -> None:
        if ticket in self.tickets:
            self._withdraw(ticket)
        self._out.append(do.Refuse(ticket, code, message, retry_after_s))

    def _no_version(self, ticket: int, record: ModelRecord, version: int | None) -> None:
        what = "nothing that can be served" if version is None else f"no version {version}"
        self._refuse(ticket, "VERSION_NOT_FOUND", f"model {record.name!r} has {what}")

    def _note(self, kind: str, revision: Revision, reason: Reason, message: str) -> None:
        self._out.append(do.Note(kind, revision.model, revision.id, reason, message))
