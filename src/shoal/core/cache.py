"""The copies of an instance and the room they take: the queue of loads, evictions, byte budgets.

One budget is the host's memory, which every copy takes some of. Accelerators have one each: a copy
lies in at most one of these pools, chosen when its load starts.

Knows revisions, not names: what a copy is for is the business of `node`, the only caller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shoal.core.copies import Copy, CopyState, Urgency
from shoal.core.eviction import Worth, make_eviction
from shoal.core.ledger import Ledger
from shoal.core.loads import LoadQueue
from shoal.core.options import Options
from shoal.core.pools import Pool, with_most_room
from shoal.core.sizes import Sizes
from shoal.domain.accelerators import PoolBudget, kind_of
from shoal.domain.events import CopyLoaded, Use
from shoal.domain.model import Revision
from shoal.domain.reasons import Reason

PEAK_SLACK: Final = 0.05  # of the budget, by which all loads under way may exceed it for a moment


@dataclass(frozen=True, slots=True)
class Need:
    """Room for a load: bytes of the host, and of one accelerator where it lies on one. is_guess:
    what it takes there is not known yet."""

    size_bytes: int
    pool: Pool | None = None
    accelerator_bytes: int = 0
    is_guess: bool = False


class Cache:
    """unload: called for each copy that is to leave.

    Budget and booked bytes are compared at the measured rate: `capacity_bytes` is smaller than the
    budget when copies turn out larger than they were measured one by one.
    """

    def __init__(self, options: Options, unload: Callable[[Copy, Reason], None]) -> None:
        self.options = options
        self.copies: dict[str, Copy] = {}
        self._with_own_ttl: dict[str, Copy] = {}  # whose registration says an idle_ttl_s
        self.coming: set[str] = set()  # loads under way whose files are not here yet
        self.queue = LoadQueue()
        self.pools = {pool.name: self._pool(pool) for pool in options.pools}
        self.ledger = Ledger(self.pools)
        self.sizes = Sizes()
        self.eviction = make_eviction(
            options.eviction, options.budget_bytes, options.cold_start_cost_s
        )
        self._unload = unload
        self._short: Pool | None = None  # that copies are evicted for; else the host's memory

    def _pool(self, pool: PoolBudget) -> Pool:
        options = self.options
        return Pool(pool, make_eviction(
            options.eviction, pool.budget_bytes, options.cold_start_cost_s))

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
        budget_bytes = self.options.budget_bytes
        kind = self.kind(revision)
        if kind is None:
            return self.sizes.too_large(revision, budget_bytes)
        sizes = self.sizes.accelerated
        return sizes.too_large(revision, self._largest(kind)) or sizes.too_large_beside(
            revision, budget_bytes)

    def make_room(self, need: Need) -> bool:
        """Evict until so much is free, or will be once what leaves has left."""
        pool = need.pool
        if need.size_bytes > self._obtainable_bytes:
            return False
        if pool is not None and need.accelerator_bytes > pool.obtainable_bytes:
            return False
        if pool is not None and not self._make_room_on(pool, need.accelerator_bytes):
            return False
        return self._make_room(need.size_bytes)

    def keep_budgets(self) -> None:
        """Evict what is too much."""
        self._make_room(0)
        for pool in self.pools.values():
            self._make_room_on(pool, 0)

    def has_room(self, need: Need) -> bool:
        """Is it free now?"""
        if need.pool is not None and need.accelerator_bytes > need.pool.free_bytes:
            return False
        return need.size_bytes <= self.free_bytes

    def _make_room_on(self, pool: Pool, need_bytes: int) -> bool:
        self._short = pool
        while need_bytes > pool.coming_bytes:
            victim = pool.eviction.least(self._may_leave)
            if victim is None:
                break
            self._unload(self.copies[victim], Reason.ROOM)
        self._short = None
        return need_bytes <= pool.coming_bytes

    def _make_room(self, need_bytes: int) -> bool:
        while need_bytes > self.free_bytes + self.ledger.bytes[CopyState.UNLOADING]:
            victim = self.eviction.least(self._may_leave)
            if victim is None:
                return False
            self._unload(self.copies[victim], Reason.ROOM)
        return True

    @property
    def _obtainable_bytes(self) -> int:
        """Free, leaving, and what might leave."""
        coming = self.free_bytes + self.ledger.bytes[CopyState.UNLOADING]
        return coming + self.ledger.bytes[CopyState.READY] - self.ledger.protected_bytes

    def _may_leave(self, key: str) -> bool:
        return not self.copies[key].is_protected

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
        return idle_s > ttl_s and not copy.is_protected

    def correct(self, grown_bytes: int, held: tuple[tuple[str, int], ...] = ()) -> None:
        """Follow what the process really grew by for its models, and what is held on accelerators;
        evict what is too much."""
        declared = self.ledger.declared[CopyState.READY]
        measured = self.ledger.bytes[CopyState.READY] - declared
        self.sizes.correct(measured, grown_bytes - declared)
        for name, held_bytes in held:
            self.pools[name].measured(held_bytes)
        self.keep_budgets()

    # --- where a copy goes ----------------------------------------------------------------------

    def kind(self, revision: Revision) -> str | None:
        """Of the accelerators here, that a copy of it lies on; None: it runs on the processor."""
        kind = revision.accelerator
        if kind is None or not self.pools:
            return None
        if revision.format not in self.options.accelerated_formats.get(kind, ()):
            return None
        if not any(pool.kind == kind for pool in self.pools.values()):
            return None
        sizes = self.sizes.accelerated
        if revision.accelerator_optional and (
                sizes.takes_none(revision) or sizes.too_large(revision, self._largest(kind))):
            return None
        return kind

    def _largest(self, kind: str) -> PoolBudget:
        return max((pool for pool in self.options.pools if kind_of(pool.name) == kind),
                   key=lambda pool: pool.budget_bytes)

    def foresee(self, revision: Revision) -> Need:
        """What a copy will take here; of the pools where it may lie, in the one with most room."""
        kind = self.kind(revision)
        if kind is None:
            return Need(self.sizes.predict(revision).size_bytes)
        split = self.sizes.accelerated.predict(revision)
        pools = [pool for pool in self.pools.values() if pool.kind == kind]
        pool = with_most_room(pools, split.accelerator_bytes)
        return Need(split.size_bytes, pool, split.accelerator_bytes, is_guess=not split.known)

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
        need = self.foresee(revision)
        eviction, size_bytes = self.eviction, need.size_bytes
        if need.pool is not None and need.accelerator_bytes > need.pool.free_bytes:
            eviction, size_bytes = need.pool.eviction, need.accelerator_bytes
        victim = eviction.least(self._may_leave)
        newcomer = Worth(
            revision.model, revision.priority, self.ledger.mean_load_s, size_bytes, now
        )
        return victim is not None and eviction.would_displace(newcomer, victim)

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
            self.queue.push(revision.id, copy.urgency, self.foresee(revision).size_bytes)
        return copy

    def next_load(self) -> tuple[Copy, Need] | None:
        """The copy to load next and what to reserve for it, when a loader is free."""
        downloads = min(len(self.coming), self.options.downloads)
        if self.ledger.count[CopyState.LOADING] - downloads >= self.options.load_concurrency:
            return None
        head = self.queue.head()
        if head is None:
            return None
        copy = self.copies[head]
        return copy, self._reservation(copy)

    def _reservation(self, copy: Copy) -> Need:
        """Bytes for the copy, and for how far its load rises above it: as far as that is more than
        the budget is allowed to be exceeded for a moment, and as there is room for it to be had."""
        revision, capacity = copy.revision, self.capacity_bytes
        need = self.foresee(revision)
        if copy.on_processor:
            need = Need(self.sizes.predict(revision).size_bytes)
        pool, size = need.pool, min(need.size_bytes, capacity)
        slack = PEAK_SLACK * self.options.budget_bytes / self.options.load_concurrency
        sizes = self.sizes if pool is None else self.sizes.accelerated
        peak = min(sizes.peak(revision) - int(slack), capacity)
        if copy.urgency is Urgency.FILL:
            reserved = max(size, min(peak, size + self.room_to_fill_bytes))
        else:
            reserved = max(size, min(peak, self._obtainable_bytes))
        if pool is None:
            return Need(reserved)
        accelerator_bytes = need.accelerator_bytes
        if need.is_guess:  # which rules nobody out
            accelerator_bytes = min(accelerator_bytes, pool.capacity_bytes)
        return Need(reserved, pool, accelerator_bytes)

    def may_fill(self, need: Need, queued_bytes: int = 0) -> bool:
        """May a copy that nobody asked for take this room? queued_bytes: that the queue counts for
        it."""
        if need.size_bytes - queued_bytes > self.room_to_fill_bytes:
            return False
        return need.pool is None or need.accelerator_bytes <= need.pool.room_to_fill_bytes(
            self.options.fill_share)

    def start(self, copy: Copy, need: Need) -> None:
        self.queue.remove(copy.revision.id)
        device = None if need.pool is None else need.pool.name
        self.ledger.move(
            copy, CopyState.LOADING, need.size_bytes, device, need.accelerator_bytes)

    def files_coming(self, revision: str) -> None:
        """Its room stays reserved, but its loader is free."""
        copy = self.copies.get(revision)
        if copy is not None and copy.state is CopyState.LOADING:
            self.coming.add(revision)

    def finish(self, copy: Copy, event: CopyLoaded, now: float) -> None:
        revision, load_s = copy.revision, event.load_s
        self.coming.discard(revision.id)
        device = copy.device if event.accelerator_bytes else None
        if device is None:
            size_bytes, accelerator_bytes = self.sizes.measured(revision, event.size_bytes), 0
            if event.peak_bytes is not None:
                self.sizes.peaked(revision, size_bytes, event.peak_bytes)
            if copy.device is not None:
                self.sizes.accelerated.remember(revision.artifact_digest, size_bytes, 0)
        else:
            size_bytes, accelerator_bytes = self.sizes.accelerated.measured(
                revision, event.size_bytes, event.accelerator_bytes)
            if event.peak_bytes is not None:
                self.sizes.accelerated.peaked(revision, event.peak_bytes)
        self.ledger.move(copy, CopyState.READY, size_bytes, device, accelerator_bytes)
        self.ledger.loaded(size_bytes, load_s, now)
        copy.loaded_at = now
        self.eviction.add(
            revision.id, Worth(revision.model, revision.priority, load_s, size_bytes, now)
        )
        if device is not None:
            self.pools[device].eviction.add(revision.id, Worth(
                revision.model, revision.priority, load_s, accelerator_bytes, now))

    def used(self, uses: tuple[Use, ...]) -> None:
        for use in uses:
            copy = self.copies.get(use.revision)
            if copy is not None and copy.state is CopyState.READY:
                copy.uses += use.count
                copy.last_used = use.last_used
                self.eviction.use(use.revision, use.count, use.last_used)
                if copy.device is not None:
                    self.pools[copy.device].eviction.use(
                        use.revision, use.count, use.last_used)

    def leave(self, copy: Copy, reason: Reason, now: float) -> None:
        """A ready copy is to go; its bytes count until `drop`."""
        assert copy.state is CopyState.READY, copy
        evicted = reason is Reason.ROOM
        # What leaves for the room of an accelerator says nothing of the least value elsewhere.
        self.eviction.remove(copy.revision.id, evicted=evicted and self._short is None)
        if copy.device is not None:
            pool = self.pools[copy.device]
            pool.eviction.remove(copy.revision.id, evicted=evicted and self._short is pool)
        if evicted:
            self.ledger.evicted(copy, now)
        self.ledger.unloads += 1
        self.ledger.move(
            copy, CopyState.UNLOADING, copy.size_bytes, copy.device, copy.accelerator_bytes)

    def drop(self, copy: Copy) -> None:
        """It is gone, or never came."""
        self.queue.remove(copy.revision.id)
        self.coming.discard(copy.revision.id)
        self.ledger.drop(copy)
        del self.copies[copy.revision.id]
        self._with_own_ttl.pop(copy.revision.id, None)
