"""Several `Members` on one registry in memory, each with a line to it that a test cuts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from shoal.domain.errors import StoreUnavailable
from shoal.domain.mesh import Member, MemberState
from shoal.node.claiming import Answers, knock
from shoal.node.member_records import decode
from shoal.node.members import Listeners, Members
from shoal.node.presence import Rhythm
from shoal.ports import Change, Entry, KVStore, Listing, Op
from shoal.stores.memory import MemoryStore

DEADLINE_S = 10.0
LEASE_S = 0.15
OFTEN = Rhythm(lease_s=LEASE_S, refresh_s=0.01)


class HeldClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


class Line:
    """One instance's connection to a store. cut: nothing passes. hangs: nothing is answered.
    forgets_answer: the next put is done and said to have failed."""

    def __init__(self, store: KVStore) -> None:
        self.store = store
        self.hangs = False
        self.forgets_answer = False
        self._cut = asyncio.Event()

    def cut(self) -> None:
        self._cut.set()

    def mend(self) -> None:
        self._cut = asyncio.Event()

    async def _pass(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self._cut.is_set():
            raise StoreUnavailable("the line to the registry is cut")

    async def get(self, key: str) -> Entry | None:
        await self._pass()
        return await self.store.get(key)

    async def list(
        self, prefix: str, *, start_after: str | None = None, limit: int | None = None
    ) -> Listing:
        await self._pass()
        return await self.store.list(prefix, start_after=start_after, limit=limit)

    async def transact(self, ops: Sequence[Op]) -> int:
        await self._pass()
        return await self.store.transact(ops)

    async def put(
        self, key: str, value: bytes, *, expect: int | None = None, lease: int | None = None
    ) -> int:
        await self._pass()
        revision = await self.store.put(key, value, expect=expect, lease=lease)
        if self.forgets_answer:
            self.forgets_answer = False
            raise StoreUnavailable("the answer was lost")
        return revision

    async def delete(self, key: str, *, expect: int | None = None) -> int:
        await self._pass()
        return await self.store.delete(key, expect=expect)

    async def watch(self, prefix: str, from_revision: int) -> AsyncIterator[Change]:
        inner = self.store.watch(prefix, from_revision)
        while True:
            await self._pass()
            change = asyncio.ensure_future(anext(inner))
            cut = asyncio.ensure_future(self._cut.wait())
            try:
                await asyncio.wait({change, cut}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                cut.cancel()
                if not change.done():
                    change.cancel()
            await self._pass()
            yield await change

    async def grant(self, ttl_s: float) -> int:
        await self._pass()
        return await self.store.grant(ttl_s)

    async def keep_alive(self, lease: int) -> None:
        await self._pass()
        await self.store.keep_alive(lease)

    async def revoke(self, lease: int) -> None:
        await self._pass()
        await self.store.revoke(lease)

    async def close(self) -> None:
        pass


class Instance:
    """Members under one id, and what they told."""

    def __init__(
        self, mesh: Mesh, member: Member, rhythm: Rhythm, answers: Answers = knock
    ) -> None:
        self.line = Line(mesh.store)
        self.told: list[tuple[tuple[Member, ...], int]] = []
        self.problems: list[str] = []
        self._news = asyncio.Event()
        self.members = Members(
            self.line, mesh.clock, member, Listeners(self._changed, self._trouble), rhythm, answers
        )

    def _changed(self, members: tuple[Member, ...], view: int) -> None:
        self.told.append((members, view))
        self._news.set()

    def _trouble(self, sentence: str) -> None:
        self.problems.append(sentence)
        self._news.set()

    @property
    def ids(self) -> list[str]:
        return [member.id for member in self.told[-1][0]]

    @property
    def view(self) -> int:
        return self.told[-1][1]

    def state_of(self, instance: str) -> MemberState | None:
        return next((each.state for each in self.members.members if each.id == instance), None)

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not holds():
                await self._news.wait()
                self._news.clear()


class Mesh:
    def __init__(self) -> None:
        self.clock = HeldClock()
        self.store = MemoryStore(self.clock)
        self.instances: list[Instance] = []

    def instance(
        self, name: str, *, run: str = "1", address: str = "", rhythm: Rhythm = OFTEN,
        answers: Answers = knock,
    ) -> Instance:
        """Not started."""
        member = Member(id=name, incarnation=f"{name}/{run}", address=address, host="here", pid=7)
        made = Instance(self, member, rhythm, answers)
        self.instances.append(made)
        return made

    async def join(self, name: str, *, run: str = "1", rhythm: Rhythm = OFTEN) -> Instance:
        made = self.instance(name, run=run, rhythm=rhythm)
        async with asyncio.timeout(DEADLINE_S):
            await made.members.start()
        return made

    async def stored(self) -> dict[str, Member]:
        entries = (await self.store.list("instances/")).entries
        return {entry.key.partition("/")[2]: decode(entry.key, entry.value).member
                for entry in entries}

    async def until_stored(self, holds: Callable[[dict[str, Member]], object]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not holds(await self.stored()):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.001)

    async def end_leases(self) -> None:
        self.clock.now += 2 * LEASE_S
        await self.store.get("any")  # whoever looks ends them
