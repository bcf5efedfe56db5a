"""A store that forgets everything when its process ends: for tests, and for `registry.url=memory`.

The plainest reading of the `KVStore` contract, which the other adapters are compared with. Must not
know files, threads or other stores. Belongs to one event loop.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from shoal.ports import Change, Clock, Delete, Entry, Listing, Op, Put
from shoal.stores import rules
from shoal.stores.signal import Signal
from shoal.stores.singly import WritesSingly

_SWEEP_S: Final = 0.05  # how late a watch may hear that a lease ended


@dataclass(slots=True)
class _Lease:
    ttl_s: float
    ends_at: float
    keys: set[str] = field(default_factory=set)


class _SortedKeys:
    """Keys in order, sorted only when somebody looks: a run of new keys costs one sort of a nearly
    sorted list, and not a shift of the whole list for every key."""

    __slots__ = ("_clean", "_gone", "_keys")

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._gone: set[str] = set()
        self._clean = True

    def add(self, key: str) -> None:
        if key in self._gone:
            self._gone.remove(key)
        else:
            self._keys.append(key)
            self._clean = False

    def remove(self, key: str) -> None:
        self._gone.add(key)
        if 2 * len(self._gone) > len(self._keys):
            self._keys = [kept for kept in self._keys if kept not in self._gone]
            self._gone.clear()

    def beginning_with(self, prefix: str, start_after: str | None) -> Iterator[str]:
        if not self._clean:
            self._keys.sort()
            self._clean = True
        keys = self._keys
        if start_after is not None and start_after >= prefix:
            at = bisect_right(keys, start_after)
        else:
            at = bisect_left(keys, prefix)
        while at < len(keys) and keys[at].startswith(prefix):
            if keys[at] not in self._gone:
                yield keys[at]
            at += 1


class _History:
    """The latest changes, whole transactions at a time; at least `limit` changes once there were as
    many. `compacted`: the newest revision that is gone."""

    __slots__ = ("_count", "_limit", "_transactions", "compacted")

    def __init__(self, limit: int) -> None:
        self.compacted = 0
        self._limit = limit
        self._count = 0
        self._transactions: deque[tuple[int, Sequence[Change]]] = deque()

    def append(self, revision: int, changes: Sequence[Change]) -> None:
        self._transactions.append((revision, changes))
        self._count += len(changes)
        while self._count - len(self._transactions[0][1]) >= self._limit:
            self.compacted, dropped = self._transactions.popleft()
            self._count -= len(dropped)

    def after(self, revision: int) -> list[tuple[int, Sequence[Change]]]:
        news = []
        for transaction in reversed(self._transactions):
            if transaction[0] <= revision:
                break
            news.append(transaction)
        news.reverse()
        return news


class MemoryStore(WritesSingly):
    """See `ports.KVStore`. Leases end by the monotonic clock: nobody else shares them."""

    def __init__(self, clock: Clock, *, history_limit: int = rules.HISTORY_LIMIT) -> None:
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._lease_of: dict[str, int] = {}
        self._keys = _SortedKeys()
        self._leases: dict[int, _Lease] = {}
        self._leases_granted = 0
        self._revision = 0
        self._history = _History(history_limit)
        self._changed = Signal()
        self._closed = False

    async def get(self, key: str) -> Entry | None:
        self._refresh()
        rules.encode_key(key)
        return self._entries.get(key)

    async def list(
        self, prefix: str, *, start_after: str | None = None, limit: int | None = None
    ) -> Listing:
        self._refresh()
        entries: list[Entry] = []
        for key in self._keys.beginning_with(prefix, start_after):
            if len(entries) == limit:
                return Listing(entries, self._revision, more=True)
            entries.append(self._entries[key])
        return Listing(entries, self._revision)

    async def transact(self, ops: Sequence[Op]) -> int:
        self._refresh()
        rules.check_ops(ops)
        for op in ops:
            held = self._entries.get(op.key)
            rules.check_expected(op.key, op.expect, held.revision if held else 0)
            if isinstance(op, Put) and op.lease is not None and op.lease not in self._leases:
                raise rules.lease_lost(op.lease)
        self._apply(ops)
        return self._revision

    async def watch(self, prefix: str, from_revision: int) -> AsyncIterator[Change]:
        cursor = from_revision
        while True:
            self._refresh()
            seen = self._changed.count
            rules.check_history(cursor, self._history.compacted, self._revision)
            for revision, changes in self._history.after(cursor):
                for change in changes:
                    if change.key.startswith(prefix):
                        yield change
                cursor = revision
            await self._changed.beyond(seen, _SWEEP_S if self._leases else None)

    async def grant(self, ttl_s: float) -> int:
        self._refresh()
        rules.check_ttl(ttl_s)
        self._leases_granted += 1
        self._leases[self._leases_granted] = _Lease(ttl_s, self._clock.monotonic() + ttl_s)
        self._changed.fire()  # a waiting watch must begin to look at the clock
        return self._leases_granted

    async def keep_alive(self, lease: int) -> None:
        self._refresh()
        held = self._leases.get(lease)
        if held is None:
            raise rules.lease_lost(lease)
        held.ends_at = self._clock.monotonic() + held.ttl_s

    async def revoke(self, lease: int) -> None:
        self._refresh()
        self._end(lease)

    async def close(self) -> None:
        self._closed = True
        self._changed.fire()

    def _refresh(self) -> None:
        """Before every operation: refuse it after `close`, and end the leases whose time is up."""
        if self._closed:
            raise rules.closed("the registry in memory")
        if not self._leases:
            return
        now = self._clock.monotonic()
        due = [(held.ends_at, lease) for lease, held in self._leases.items() if held.ends_at <= now]
        for _, lease in sorted(due):
            self._end(lease)

    def _end(self, lease: int) -> None:
        held = self._leases.get(lease)
        if held is not None:
            self._apply([Delete(key) for key in sorted(held.keys)])
            del self._leases[lease]

    def _apply(self, ops: Sequence[Op]) -> None:
        """Checked ops; those that change nothing do not count."""
        effective = [op for op in ops if isinstance(op, Put) or op.key in self._entries]
        if not effective:
            return
        self._revision += 1
        changes = []
        for op in effective:
            self._forget_lease_of(op.key)
            if isinstance(op, Put):
                if op.key not in self._entries:
                    self._keys.add(op.key)
                self._entries[op.key] = Entry(op.key, op.value, self._revision)
                if op.lease is not None:
                    self._lease_of[op.key] = op.lease
                    self._leases[op.lease].keys.add(op.key)
                changes.append(Change(op.key, op.value, self._revision))
            else:
                self._keys.remove(op.key)
                del self._entries[op.key]
                changes.append(Change(op.key, None, self._revision))
        self._history.append(self._revision, changes)
        self._changed.fire()

    def _forget_lease_of(self, key: str) -> None:
        lease = self._lease_of.pop(key, None)
        if lease is not None:
            self._leases[lease].keys.discard(key)
