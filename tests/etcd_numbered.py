"""An etcd that many tests share, as the contract suite sees a store of its own: counted from zero,
with a clock that is moved by hand and a history of a given length."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Final

from tests.etcd_server import EtcdServer

from shoal.ports import Change, Clock, Compacted, Entry, Listing, Op, Put
from shoal.stores.etcd import EtcdStore
from shoal.stores.etcd_options import EtcdOptions

_POLL_S: Final = 0.01
_NUMBERS: Final = count(1)


def own_options(server: EtcdServer) -> EtcdOptions:
    """Of a store under a prefix that no other has."""
    return EtcdOptions((server.endpoint,), prefix=f"/test/{next(_NUMBERS)}/")


class NumberedEtcd:
    """See `ports.KVStore`. Leases end, by revoking them, when `clock` says so."""

    def __init__(self, server: EtcdServer, clock: Clock, history_limit: int) -> None:
        self._server = server
        self._store = EtcdStore(own_options(server))
        self._clock = clock
        self._history_limit = history_limit
        self._base: int | None = None
        self._beginning = asyncio.Lock()
        self._compacted = 0
        self._leases: dict[int, tuple[float, float]] = {}  # how long, and until when

    async def get(self, key: str) -> Entry | None:
        base = await self._begin()
        entry = await self._store.get(key)
        return replace(entry, revision=entry.revision - base) if entry else None

    async def list(
        self, prefix: str, *, start_after: str | None = None, limit: int | None = None
    ) -> Listing:
        base = await self._begin()
        listing = await self._store.list(prefix, start_after=start_after, limit=limit)
        entries = [replace(each, revision=each.revision - base) for each in listing.entries]
        return replace(listing, entries=entries, revision=listing.revision - base)

    async def transact(self, ops: Sequence[Op]) -> int:
        base = await self._begin()
        moved = [replace(op, expect=base + op.expect) if op.expect else op for op in ops]
        revision = await self._store.transact(moved)
        if revision - base - self._compacted >= 2 * self._history_limit:
            self._compacted = revision - base - self._history_limit
            self._server.compact(revision - self._history_limit)
        return revision - base

    async def put(
        self, key: str, value: bytes, *, expect: int | None = None, lease: int | None = None
    ) -> int:
        return await self.transact([Put(key, value, expect, lease)])

    async def delete(self, key: str, *, expect: int | None = None) -> int:
        base = await self._begin()
        return await self._store.delete(key, expect=base + expect if expect else expect) - base

    async def watch(self, prefix: str, from_revision: int) -> AsyncIterator[Change]:
        base = await self._begin()
        watch = self._store.watch(prefix, base + from_revision)
        while True:
            coming = asyncio.ensure_future(anext(watch))
            try:
                while not coming.done():
                    await self._end_leases()
                    await asyncio.wait({coming}, timeout=_POLL_S)
                change = await coming
            except Compacted as compacted:
                raise Compacted(compacted.oldest - base) from None
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
            yield replace(change, revision=change.revision - base)

    async def grant(self, ttl_s: float) -> int:
        await self._begin()
        lease = await self._store.grant(ttl_s)
        self._leases[lease] = ttl_s, self._clock.monotonic() + ttl_s
        return lease

    async def keep_alive(self, lease: int) -> None:
        await self._begin()
        await self._store.keep_alive(lease)
        ttl_s = self._leases[lease][0]
        self._leases[lease] = ttl_s, self._clock.monotonic() + ttl_s

    async def revoke(self, lease: int) -> None:
        await self._begin()
        self._leases.pop(lease, None)
        await self._store.revoke(lease)

    async def close(self) -> None:
        await self._store.close()

    async def _begin(self) -> int:
        """The revision before the first use, also where several begin at once."""
        async with self._beginning:
            if self._base is None:
                self._base = (await self._store.list("")).revision
        await self._end_leases()
        return self._base

    async def _end_leases(self) -> None:
        now = self._clock.monotonic()
        due = [(ends_at, each) for each, (_, ends_at) in self._leases.items() if ends_at <= now]
        for _, lease in sorted(due):
            del self._leases[lease]
            await self._store.revoke(lease)
