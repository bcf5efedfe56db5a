"""The stores answer alike to any sequence of operations: the memory store is the model, the SQLite
store is compared with it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shoal.domain.errors import Conflict
from shoal.ports import Change, Compacted, Delete, KVStore, LeaseLost, Listing, Put
from shoal.stores.memory import MemoryStore
from shoal.stores.sqlite import SqliteStore

HISTORY = 1_000_000  # nothing is compacted: how much slack a store leaves is its own affair

KEYS = st.sampled_from(["a", "a/", "a/b", "a/b/c", "ab", "b", "é", "\U0001f41f"])
VALUES = st.binary(max_size=3)
EXPECTED = st.none() | st.integers(0, 12)
LEASES = st.none() | st.integers(0, 3)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


class Stores(RuleBasedStateMachine):
    """Leases are meant by the order in which they were granted: their numbers may differ."""

    @initialize()
    def open(self) -> None:
        self.clock = Clock()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "registry.sqlite3"
        self.loop = asyncio.Runner()
        self.memory = MemoryStore(self.clock, history_limit=HISTORY)
        self.sqlite = self.open_sqlite()
        self.leases: list[tuple[int, int]] = []

    def open_sqlite(self) -> SqliteStore:
        return SqliteStore(self.path, self.clock, history_limit=HISTORY, poll_s=0.01)

    def both(self, use: Callable[[KVStore, int], Coroutine[object, object, object]]) -> object:
        """`use` gets a store and which of the two it is; the common answer."""
        first, second = (
            self.loop.run(self.answer(use(store, which)))
            for which, store in enumerate(self.stores())
        )
        assert first == second
        return first

    def stores(self) -> tuple[KVStore, KVStore]:
        return self.memory, self.sqlite

    @staticmethod
    async def answer(asked: Coroutine[object, object, object]) -> object:
        try:
            return await asked
        except (Conflict, LeaseLost, ValueError) as error:
            return type(error), str(error) if isinstance(error, Conflict) else ""

    def lease(self, index: int | None, which: int) -> int | None:
        if index is None:
            return None
        return self.leases[index][which] if index < len(self.leases) else 999_999

    @rule(key=KEYS, value=VALUES, expect=EXPECTED, lease=LEASES)
    def put(self, key: str, value: bytes, expect: int | None, lease: int | None) -> None:
        self.both(
            lambda store, which: store.put(
                key, value, expect=expect, lease=self.lease(lease, which)
            )
        )

    @rule(key=KEYS, expect=EXPECTED)
    def delete(self, key: str, expect: int | None) -> None:
        self.both(lambda store, _: store.delete(key, expect=expect))

    @rule(
        ops=st.lists(st.tuples(KEYS, st.none() | VALUES, st.none() | EXPECTED, LEASES), max_size=4)
    )
    def transact(
        self, ops: list[tuple[str, bytes | None, int | None, int | None]]
    ) -> None:
        self.both(
            lambda store, which: store.transact(
                [
                    Delete(key, expect)
                    if value is None
                    else Put(key, value, expect, self.lease(lease, which))
                    for key, value, expect, lease in ops
                ]
            )
        )

    @rule(ttl_s=st.integers(1, 5))
    def grant(self, ttl_s: int) -> None:
        granted = [self.loop.run(store.grant(ttl_s)) for store in self.stores()]
        self.leases.append((granted[0], granted[1]))

    @rule(lease=st.integers(0, 3))
    def keep_alive(self, lease: int) -> None:
        self.both(lambda store, which: store.keep_alive(self.lease(lease, which) or 0))

    @rule(lease=st.integers(0, 3))
    def revoke(self, lease: int) -> None:
        self.both(lambda store, which: store.revoke(self.lease(lease, which) or 0))

    @rule(seconds=st.integers(1, 3))
    def pass_time(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule(prefix=KEYS | st.just(""), after=st.none() | KEYS, limit=st.none() | st.integers(0, 4))
    def page(self, prefix: str, after: str | None, limit: int | None) -> None:
        self.both(lambda store, _: store.list(prefix, start_after=after, limit=limit))

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        self.both(lambda store, _: store.get(key))

    @rule(prefix=KEYS | st.just(""), start=st.integers(0, 10))
    def watch(self, prefix: str, start: int) -> None:
        async def seen(store: KVStore) -> list[Change] | str:
            current = (await store.list("")).revision
            found: list[Change] = []
            watch = store.watch(prefix, start)
            expected = [
                change for change in self.history if change.revision > start
                and change.key.startswith(prefix)
            ] if start <= current else []
            try:
                async with asyncio.timeout(10):
                    if start > current:
                        await anext(watch)
                    while len(found) < len(expected):
                        found.append(await anext(watch))
            except Compacted:
                return "compacted"
            assert found == expected
            return found

        self.history = self.loop.run(self.all_changes())
        self.both(lambda store, _: seen(store))

    async def all_changes(self) -> list[Change]:
        await self.memory.list("")  # leases whose time is up end now
        return [
            change for _, changes in self.memory._history.after(0) for change in changes
        ]

    @rule()
    def reopen(self) -> None:
        """What closing revokes in the one is revoked in the other by hand."""
        self.loop.run(self.sqlite.close())
        self.sqlite = self.open_sqlite()
        for first, _ in self.leases:
            self.loop.run(self.memory.revoke(first))

    @invariant()
    def they_hold_the_same(self) -> None:
        listing = self.both(lambda store, _: store.list(""))
        assert isinstance(listing, Listing)
        assert [entry.key for entry in listing.entries] == sorted(e.key for e in listing.entries)

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.run(self.sqlite.close())
            self.loop.close()
            self.folder.cleanup()


TestStoresAgree = Stores.TestCase
TestStoresAgree.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
