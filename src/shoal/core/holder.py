"""The copies of this instance: loads what homes grant, answers who waits, evicts, reports.

Which revision answers for a name, and how many copies there are, is decided by homes. Must not know
where requests come from: a ticket is a number.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Protocol

from shoal.core import admission
from shoal.core.cache import Cache
from shoal.core.copies import Copy, CopyState, Urgency
from shoal.core.desk import Desk, Refusal, model_of, portions
from shoal.domain import commands as do
from shoal.domain import events as on
from shoal.domain import mesh
from shoal.domain.model import ModelRecord, Revision
from shoal.domain.reasons import Reason

ACCELERATOR_FULL: Final = "ACCELERATOR_FULL"  # of a load's error; as in `domain.errors`
GONE: Final = Refusal("COPY_GONE", "the copy is not here any more; it is looked for again", 0.0)


class Waiters(Protocol):
    """Who has tickets of this instance wait here."""

    def bounced(self, ticket: int, refusal: Refusal) -> None:
        """It waited in vain."""

    def answered(self, ticket: int) -> None: ...

    def copy_leaves(self, revision: str) -> None:
        """A copy that was ready answers no new requests from now on."""


class Holder:
    def __init__(self, desk: Desk, waiters: Waiters) -> None:
        self._desk = desk
        self._waiters = waiters
        self.cache = Cache(desk.options, self._unload)
        self.waiting: dict[int, str] = {}  # tickets, by the revision they wait for
        self.forwarded: dict[int, None] = {}  # those of other instances
        self.by_model: dict[str, dict[str, None]] = {}
        self._declined: dict[str, Refusal] = {}  # since the last tick
        self._demand: dict[str, mesh.Used] = {}
        self._demand_since = 0.0
        self._announced_at = 0.0

    @property
    def copies(self) -> dict[str, Copy]:
        return self.cache.copies

    def is_ready(self, revision: str) -> bool:
        copy = self.copies.get(revision)
        return copy is not None and copy.state is CopyState.READY

    # --- what homes want ------------------------------------------------------------------------

    def grant(self, message: mesh.Grant) -> None:
        revision, urgency = message.revision, Urgency(message.urgency)
        self.cache.sizes.told(revision, message.size_bytes, message.accelerator_bytes)
        copy = self.copies.get(revision.id)
        if copy is None:
            refusal = self._refusal(revision, urgency)
            if refusal is not None:
                if urgency is not Urgency.FILL:
                    self._declined[revision.id] = refusal
                self._tell_home(revision.id, mesh.Failed(
                    revision.id, refusal.code, refusal.message, refusal.retry_after_s, True))
                return
            copy = self._enqueue(revision, urgency, message.reason)
            copy.by_hand = message.by_hand
            return
        copy.by_hand |= message.by_hand
        match copy.state:
            case CopyState.READY:
                self._tell_held(copy)
            case CopyState.QUEUED:
                self.cache.enqueue(revision, urgency, message.reason)
            case CopyState.LOADING:
                copy.released = None
            case CopyState.UNLOADING:
                copy.wanted_again = True

    def _refusal(self, revision: Revision, urgency: Urgency) -> Refusal | None:
        if urgency is Urgency.REQUEST:
            return admission.refusal(self.cache, revision, self._desk.now)
        if urgency is Urgency.FILL:
            return admission.no_room_to_fill(self.cache, revision)
        return None

    def release(self, revision: str, reason: Reason) -> None:
        copy = self.copies.get(revision)
        if copy is None:
            self._tell_home(revision, mesh.Dropped(revision, reason))
            return
        copy.wanted_again = copy.by_hand = False
        waiting = self._withdraw_all(copy)
        match copy.state:
            case CopyState.QUEUED:
                self._drop(copy, reason)
            case CopyState.LOADING:
                copy.released = reason
            case CopyState.READY:
                self._unload(copy, reason)
            case CopyState.UNLOADING:
                pass
        self._bounce_all(waiting, GONE)

    # --- declarations ---------------------------------------------------------------------------

    def declared(self, record: ModelRecord) -> None:
        for key in self.by_model.get(record.name, ()):
            self._mark(self.copies[key], record)

    def _mark(self, copy: Copy, record: ModelRecord | None) -> None:
        revisions = record.revisions if record is not None else ()
        self.cache.ledger.mark(
            copy, kept=record is not None and record.spec.min_copies > 0,
            overwritten=all(each.id != copy.revision.id for each in revisions)
            and any(each.uri == copy.revision.uri for each in revisions))

    def _overwritten(self, model: str) -> Copy | None:
        """A ready copy of it that could not be loaded again."""
        of_model = (self.copies[key] for key in self.by_model[model])
        return next((each for each in of_model
                     if each.overwritten and each.state is CopyState.READY), None)

    def removed(self, name: str) -> None:
        for key in list(self.by_model.get(name, ())):
            self.release(key, Reason.REMOVED)

    # --- who waits ------------------------------------------------------------------------------

    def wait(self, ticket: int, revision: str) -> Refusal | None:
        """Answer the ticket now, or let it wait (None), or say why not."""
        copy = self.copies.get(revision)
        leaving = copy is not None and copy.state is CopyState.UNLOADING and not copy.wanted_again
        if copy is None or leaving or copy.released is not None:
            return self._declined.get(revision) or GONE
        if copy.state is CopyState.READY:
            self._desk.out.append(do.Answer(ticket, revision))
            return None
        if len(copy.tickets) >= self._desk.options.max_waiting_per_model:
            return Refusal(
                "OVERLOADED",
                f"{len(copy.tickets)} requests wait for model {copy.revision.model!r} to be loaded "
                "already (load.max_waiting_per_model); try again later",
                1.0,
            )
        if copy.state is CopyState.QUEUED:
            asked = copy.reason is Reason.ASKED
            self.cache.enqueue(
                copy.revision, Urgency.REQUEST, Reason.ASKED if asked else Reason.REQUESTED)
        copy.tickets.append(ticket)
        self.waiting[ticket] = revision
        return None

    def forward_received(self, event: on.ForwardReceived) -> None:
        refusal = admission.too_many_wait(self._desk.options, len(self.waiting), event.revision)
        refusal = refusal or self.wait(event.ticket, event.revision)
        if refusal is not None:
            self._desk.refuse(event.ticket, refusal)
            if refusal is GONE:
                self.correct_home(event.revision)
        elif event.ticket in self.waiting:
            self.forwarded[event.ticket] = None

    def correct_home(self, revision: str) -> None:
        """Somebody was told of a copy here that is not; the home may have it from an earlier run of
        this instance."""
        if revision not in self.copies:
            self._tell_home(revision, mesh.Dropped(revision, Reason.ROOM))

    def withdraw(self, ticket: int) -> None:
        """The ticket waits no longer."""
        self.forwarded.pop(ticket, None)
        revision = self.waiting.pop(ticket, None)
        if revision is not None:
            self.copies[revision].tickets.remove(ticket)

    def abandoned(self, ticket: int) -> None:
        """Nobody waits for its answer any more: what is queued for it alone need not be loaded."""
        revision = self.waiting.get(ticket)
        if revision is None:
            return
        self.withdraw(ticket)
        copy = self.copies[revision]
        if copy.tickets or copy.by_hand:
            return
        copy.wanted_again = False
        if copy.state is CopyState.QUEUED and copy.urgency is Urgency.REQUEST:
            self._drop(copy, Reason.REQUESTED)

    def _withdraw_all(self, copy: Copy) -> list[int]:
        tickets, copy.tickets = copy.tickets, []
        for ticket in tickets:
            del self.waiting[ticket]
        return tickets

    def _bounce_all(self, tickets: list[int], refusal: Refusal) -> None:
        for ticket in tickets:
            if ticket in self.forwarded:
                del self.forwarded[ticket]
                self._desk.refuse(ticket, refusal)
            else:
                self._waiters.bounced(ticket, refusal)

    # --- loads ----------------------------------------------------------------------------------

    def start_loads(self) -> None:
        """Start what the queue, the limit and the room allow; evict where that makes the room."""
        cache, ledger = self.cache, self.cache.ledger
        while (following := cache.next_load()) is not None:
            copy, need = following
            if copy.urgency is Urgency.FILL:
                if not cache.may_fill(need, cache.queue.bytes_of(copy.revision.id)):
                    self._drop(copy, Reason.NO_ROOM)
                    continue
            elif (too_large := cache.too_large(copy.revision)) is not None:
                self._give_up(copy, "TOO_LARGE", too_large, Reason.TOO_LARGE)
                continue
            elif not cache.make_room(need):
                if ledger.count[CopyState.LOADING] or ledger.count[CopyState.UNLOADING]:
                    return  # what is under way may free enough
                message = admission.no_room(
                    cache, copy.revision, need, self._overwritten(copy.revision.model))
                self._give_up(copy, "NO_ROOM", message, Reason.NO_ROOM)
                continue
            if not cache.has_room(need):
                return  # what leaves for it has not left yet
            cache.start(copy, need)
            self._tell_loading(copy.revision)
            self._desk.out.append(do.LoadCopy(
                copy.revision, need.size_bytes, copy.reason, copy.device, copy.accelerator_bytes))

    def _give_up(self, copy: Copy, code: str, message: str, reason: Reason) -> None:
        """The load cannot start."""
        self._desk.note("load_refused", copy.revision, reason, message)
        wait_s = self._desk.options.retry_base_s
        refusal = Refusal(code, message, wait_s)
        self._forget(copy)
        self._tell_home(
            copy.revision.id, mesh.Failed(copy.revision.id, code, message, wait_s, True)
        )
        self._declined[copy.revision.id] = refusal
        self._bounce_all(self._withdraw_all(copy), refusal)

    def loaded(self, event: on.CopyLoaded) -> None:
        copy = self.copies[event.revision]
        revision = copy.revision
        self.cache.finish(copy, event, self._desk.now)
        copy.load_s = event.load_s
        if copy.device and copy.released is None and self.cache.kind(revision) is None:
            copy.wanted_again = True  # too large for any accelerator here: on the processor, then
            self._unload(copy, Reason.TOO_LARGE)
            return
        if too_large := self.cache.too_large(revision):
            self._desk.note("load_refused", revision, Reason.TOO_LARGE, too_large)
            waiting = self._withdraw_all(copy)
            self._tell_home(revision.id, mesh.Failed(
                revision.id, "TOO_LARGE", too_large, size_bytes=copy.size_bytes,
                accelerator_bytes=copy.accelerator_bytes))
            self._unload(copy, Reason.TOO_LARGE)
            self._bounce_all(waiting, Refusal("TOO_LARGE", too_large))
            return
        if copy.released is not None:
            self._unload(copy, copy.released)
            return
        self._tell_held(copy)
        for ticket in self._withdraw_all(copy):
            if self.forwarded.pop(ticket, self) is self:
                self._waiters.answered(ticket)
            self._desk.out.append(do.Answer(ticket, revision.id))
        copy.by_hand = False
        self.cache.keep_budgets()  # it may have turned out larger than predicted

    def load_failed(self, event: on.CopyLoadFailed) -> None:
        copy = self.copies[event.revision]
        revision = copy.revision
        self.cache.ledger.load_failures += 1
        self._desk.note("load_failed", revision, Reason.FAILED, event.message)
        if copy.released is not None:
            self._drop(copy, copy.released)
            return
        code = "LOAD_FAILED"
        if event.code == ACCELERATOR_FULL:
            code = event.code
            self.cache.sizes.accelerated.lacked(revision, event.accelerator_bytes)
            if revision.accelerator_optional:
                self._begin_again(copy, copy.urgency, copy.reason).on_processor = True
                return
        waiting = self._withdraw_all(copy)
        self._forget(copy)
        self._tell_home(revision.id, mesh.Failed(
            revision.id, code, event.message, event.retry_after_s, deadly=event.deadly))
        self._bounce_all(waiting, Refusal(code, event.message))

    # --- leaving --------------------------------------------------------------------------------

    def _unload(self, copy: Copy, reason: Reason) -> None:
        """Take a ready copy out: no new request reaches it; its memory counts until it is gone."""
        self._waiters.copy_leaves(copy.revision.id)
        self.cache.leave(copy, reason, self._desk.now)
        self._desk.out.append(do.UnloadCopy(copy.revision.id, reason))
        self._tell_home(copy.revision.id, mesh.Dropped(copy.revision.id, reason, gone=False))

    def unloaded(self, event: on.CopyUnloaded) -> None:
        copy = self.copies[event.revision]
        if not copy.wanted_again:
            self._drop(copy, Reason.ROOM)
            return
        urgency = Urgency.REQUEST if copy.tickets else Urgency.WANTED
        self._begin_again(copy, urgency, Reason.ASKED if copy.by_hand else Reason.REQUESTED)

    def _begin_again(self, copy: Copy, urgency: Urgency, reason: Reason) -> Copy:
        """What is gone is queued anew, with those who wait for it."""
        self._forget(copy)
        self._tell_home(
            copy.revision.id, mesh.Dropped(copy.revision.id, Reason.ROOM, again=True))
        fresh = self._enqueue(copy.revision, urgency, reason)
        fresh.tickets, fresh.by_hand = copy.tickets, copy.by_hand
        return fresh

    # --- time and use ---------------------------------------------------------------------------

    def used(self, event: on.UsesReported) -> None:
        self.cache.used(event.uses)
        if self._desk.view.alone:
            return
        for use in event.uses:
            known = self._demand.get(use.revision)
            self._demand[use.revision] = mesh.Used(
                use.revision, use.count + (known.count if known else 0),
                use.busy_s + (known.busy_s if known else 0.0), use.waiting,
            )

    def ticked(self) -> None:
        self._declined.clear()
        for copy in self.cache.idle(self._desk.now):
            self._unload(copy, Reason.IDLE)
        if self._desk.view.alone:
            return
        self._report_demand()
        if self._desk.now - self._announced_at > self._desk.options.announce_s:
            self.announce(self._desk.view.others)
            self._announced_at = self._desk.now

    def _report_demand(self) -> None:
        period_s = max(self._desk.now - self._demand_since, 1e-3)
        by_home: dict[str, list[mesh.Used]] = {}
        for key, use in self._demand.items():
            copy = self.copies.get(key)
            if copy is not None:
                by_home.setdefault(copy.home, []).append(use)
        for home, uses in by_home.items():
            self._desk.tell(home, mesh.Demand(period_s, tuple(uses)))
        self._demand.clear()
        self._demand_since = self._desk.now

    def is_hot(self, copy: Copy) -> bool:
        """Was it used so lately that it should not be cold when this instance leaves?"""
        return copy.state in (CopyState.READY, CopyState.LOADING) and (
            bool(copy.tickets)
            or (self._desk.now - copy.last_used < self._desk.options.hot_s and copy.uses > 0)
        )

    @property
    def hot(self) -> int:
        """How many copies are."""
        return sum(self.is_hot(copy) for copy in self.copies.values())

    # --- what homes are told --------------------------------------------------------------------

    def view_changed(self) -> None:
        """Tell the new homes of their copies here, and everybody that they know all of them."""
        view = self._desk.view
        news: dict[str, list[mesh.Held]] = {each: [] for each in (*view.others, view.me)}
        for copy in self.copies.values():
            home, copy.home_score = view.rehome(copy.revision.model, copy.home, copy.home_score)
            if home != copy.home and copy.state is not CopyState.UNLOADING:
                news.setdefault(home, []).append(self._held(copy))
            copy.home = home
        for instance, copies in news.items():
            self._announce(instance, copies, whole=False)

    def announce(self, instances: Collection[str]) -> None:
        """Tell these all copies whose home they are."""
        theirs: dict[str, list[mesh.Held]] = {each: [] for each in instances}
        for copy in self.copies.values():
            if copy.home in theirs and copy.state is not CopyState.UNLOADING:
                theirs[copy.home].append(self._held(copy))
        for instance, copies in theirs.items():
            self._announce(instance, copies, whole=True)

    def _announce(self, instance: str, copies: list[mesh.Held], *, whole: bool) -> None:
        *parts, last = portions(copies) if copies else [()]
        for part in parts:
            self._desk.tell(instance, mesh.Announce(-1, part))
        besides = tuple([held.revision.id for part in parts for held in part]) if whole else ()
        self._desk.tell(instance, mesh.Announce(self._desk.view.number, last, whole, besides))

    def _held(self, copy: Copy) -> mesh.Held:
        ago_s = self._desk.now - copy.last_used if copy.uses else None
        ready, loading = copy.state is CopyState.READY, copy.state is CopyState.LOADING
        return mesh.Held(
            copy.revision, ready, copy.size_bytes, copy.load_s, ago_s, loading,
            copy.device, copy.accelerator_bytes)

    def _tell_loading(self, revision: Revision) -> None:
        """A home that is here would end with this instance."""
        home = self._desk.view.home(revision.model)
        if home != self._desk.me:
            self._desk.tell(home, mesh.Loading(revision.id))

    def _tell_held(self, copy: Copy) -> None:
        self._desk.tell(copy.home, self._held(copy))

    def _tell_home(self, revision: str, message: mesh.Dropped | mesh.Failed) -> None:
        self._desk.tell(self._desk.view.home(model_of(revision)), message)

    # --- the books ------------------------------------------------------------------------------

    def _enqueue(self, revision: Revision, urgency: Urgency, reason: Reason) -> Copy:
        self.by_model.setdefault(revision.model, {})[revision.id] = None
        copy = self.cache.enqueue(revision, urgency, reason)
        copy.home, copy.home_score = self._desk.view.home_and_score(revision.model)
        self._mark(copy, self._desk.records(revision.model))
        return copy

    def _drop(self, copy: Copy, reason: Reason) -> None:
        """It is gone, or will not come; nobody waits for it."""
        self._forget(copy)
        self._tell_home(copy.revision.id, mesh.Dropped(copy.revision.id, reason))

    def _forget(self, copy: Copy) -> None:
        self.cache.drop(copy)
        model = self.by_model[copy.revision.model]
        del model[copy.revision.id]
        if not model:
            del self.by_model[copy.revision.model]
