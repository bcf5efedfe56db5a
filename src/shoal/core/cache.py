"""The copies of an instance and the room they take: the queue of loads, evictions, the byte budget.

Knows revisions, not names: what a copy is for is the business of `node`, the only caller.
"""

from __future__ import annotations

from collections.abc import Callable

from shoal.core.copies import Copy, CopyState, Urgency
from shoal.core.eviction import Worth, make_eviction
from shoal.core.ledger import Ledger
from shoal.core.loads import LoadQueue
from shoal.core.options import Options
from shoal.core.sizes import Sizes
from shoal.domain.events import Use
from shoal.domain.model import Revision
from shoal.domain.reasons import Reason


class Cache:
    """`is_protected` tells copies that may not be evicted now; `unload` is called for each that is.

    Budget and booked bytes are compared at the measured rate: `capacity_bytes` is smaller than the
    budget when copies turn out larger than they were measured one by one.
    """

    def __init__(
        self,
        options: Options,
        is_protected: Callable[[Copy], bool],
        unload: Callable[[Copy, Reason], None],
    ) -> None:
        self.options = options
        self.copies: dict[str, Copy] = {}
        self._with_own_ttl: dict[str, Copy] = {}  # whose registration says an idle_ttl_s
        self.queue = LoadQueue()
        self.ledger = Ledger()
        self.sizes = Sizes()
        self.eviction = make_eviction(
            options.eviction, options.budget_bytes, options.cold_start_cost_s
        )
        self._is_protected = is_protected
        self._unload = unload

    # --- room -----------------------------------------------------------------------------------

    @property
    def capacity_bytes(self) -> int:
        declared = sum(self.ledger.declared.values())  # is taken at its word
        measured = self.options.budget_bytes - declared
        return declared + int(measured / self.sizes.correction)

    @property
    def free_bytes(self) -> int:
        return self.capacity_bytes - self.ledger.booked_bytes

    @property
    def room_to_fill_bytes(self) -> int:
        """What filling may still take, beside what it has queued."""
        limit = round(self.options.fill_share * self.capacity_bytes)
        return limit - self.ledger.booked_bytes - self.queue.fill_bytes

    def too_large(self, revision: Revision) -> str | None:
        """Why the whole budget cannot hold `revision`; None when it can, or nobody knows yet."""
        size, budget_bytes = self.sizes.predict(revision), self.options.budget_bytes
        need = size.size_bytes if size.known else revision.files_bytes
        if need <= budget_bytes:
            return None
        return (
            f"model {revision.model!r} needs {need:,} bytes of memory and the whole budget is "
            f"{budget_bytes:,} bytes; raise --memory"
        )

    def make_room(self, need_bytes: int) -> bool:
        """Evict until `need_bytes` are free, or will be once what leaves has left."""
        coming = self.free_bytes + self.ledger.bytes[CopyState.UNLOADING]
        evictable = self.ledger.bytes[CopyState.READY] - self.ledger.pinned_bytes
        if need_bytes > coming + evictable:
            return False
        while need_bytes > self.free_bytes + self.ledger.bytes[CopyState.UNLOADING]:
            victim = self.eviction.least(self._may_leave)
            if victim is None:
                return False
            self._unload(self.copies[victim], Reason.ROOM)
        return True

    def _may_leave(self, key: str) -> bool:
        return not self._is_protected(self.copies[key])

    def idle(self, now: float) -> list[Copy]:
        """Ready copies whose time-to-live without a request has run out."""
        copies = self.copies if self.options.idle_ttl_s > 0 else self._with_own_ttl
        return [copy for copy in copies.values() if self._is_idle(copy, now)]

    def _is_idle(self, copy: Copy, now: float) -> bool:
        ttl_s = copy.revision.idle_ttl_s
        if ttl_s is None:
            ttl_s = self.options.idle_ttl_s
        if copy.state is not CopyState.READY or ttl_s <= 0:
            return False
        idle_s = now - max(copy.last_used, copy.loaded_at)
        return idle_s > ttl_s and not self._is_protected(copy)

    def correct(self, grown_bytes: int) -> None:
        """Follow what the process really grew by for its models, and evict what is too much."""
        declared = self.ledger.declared[CopyState.READY]
        measured = self.ledger.bytes[CopyState.READY] - declared
        self.sizes.correct(measured, grown_bytes - declared)
        self.make_room(0)

    # --- congestion -----------------------------------------------------------------------------

    @property
    def predicted_wait_s(self) -> float:
        """How long a load that is queued now would wait."""
        ahead = self.queue.count(Urgency.REQUEST) + self.ledger.count[CopyState.LOADING]
        return ahead * self.ledger.mean_load_s / self.options.load_concurrency

    def is_thrashing(self, now: float) -> bool:
        """Loads queue up longer than clients wait, while copies are evicted for them."""
        evicted_at = self.ledger.last_eviction_at
        most_s = self.options.max_wait_s
        return (
            evicted_at is not None
            and now - evicted_at < most_s
            and self.predicted_wait_s > most_s
        )

    def is_worth_a_load(self, revision: Revision, now: float) -> bool:
        """Is a copy of `revision` worth more than the one it would displace?"""
        victim = self.eviction.least(self._may_leave)
        size_bytes = self.sizes.predict(revision).size_bytes
        newcomer = Worth(
            revision.model, revision.priority, self.ledger.mean_load_s, size_bytes, now
        )
        return victim is not None and self.eviction.would_displace(newcomer, victim)

    # --- the life of a copy ---------------------------------------------------------------------

    def enqueue(self, revision: Revision, urgency: Urgency, reason: Reason) -> Copy:
        """Queue a load, or promote the one that is queued; other copies stay as they are."""
        copy = self.copies.get(revision.id)
        if copy is None:
            copy = Copy(revision, CopyState.QUEUED, urgency, reason, 0)
            self.copies[revision.id] = copy
            if revision.idle_ttl_s is not None:
                self._with_own_ttl[revision.id] = copy
            self.ledger.add(copy)
        if copy.state is CopyState.QUEUED:
            if urgency < copy.urgency:
                copy.urgency, copy.reason = urgency, reason
            self.queue.push(revision.id, copy.urgency, self.sizes.predict(revision).size_bytes)
        return copy

    def next_load(self) -> tuple[Copy, int] | None:
        """The copy to load next and the bytes to reserve, when a loader is free."""
        if self.ledger.count[CopyState.LOADING] >= self.options.load_concurrency:
            return None
        head = self.queue.head()
        if head is None:
            return None
        copy = self.copies[head]
        return copy, min(self.sizes.predict(copy.revision).size_bytes, self.capacity_bytes)

    def start(self, copy: Copy, reserved_bytes: int) -> None:
        self.queue.remove(copy.revision.id)
        self.ledger.move(copy, CopyState.LOADING, reserved_bytes)

    def finish(self, copy: Copy, measured_bytes: int, load_s: float, now: float) -> None:
        revision = copy.revision
        size_bytes = self.sizes.measured(revision, measured_bytes)
        self.ledger.move(copy, CopyState.READY, size_bytes)
        self.ledger.loaded(size_bytes, load_s, now)
        copy.loaded_at = now
        self.eviction.add(
            revision.id, Worth(revision.model, revision.priority, load_s, size_bytes, now)
        )

    def used(self, uses: tuple[Use, ...]) -> None:
        for use in uses:
            copy = self.copies.get(use.revision)
            if copy is not None and copy.state is CopyState.READY:
                copy.uses += use.count
                copy.last_used = use.last_used
                self.eviction.use(use.revision, use.count, use.last_used)

    def leave(self, copy: Copy, reason: Reason, now: float) -> None:
        """A ready copy is to go; its bytes count until `drop`."""
        assert copy.state is CopyState.READY, copy
        self.eviction.remove(copy.revision.id, evicted=reason is Reason.ROOM)
        if reason is Reason.ROOM:
            self.ledger.evicted(copy, now)
        self.ledger.unloads += 1
        self.ledger.move(copy, CopyState.UNLOADING, copy.size_bytes)

    def drop(self, copy: Copy) -> None:
        """It is gone, or never came."""
        self.queue.remove(copy.revision.id)
        self.ledger.drop(copy)
        del self.copies[copy.revision.id]
        self._with_own_ttl.pop(copy.revision.id, None)
