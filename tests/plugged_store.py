"""A registry with a plug to pull, what others write into it, and what a replica of it tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec
from tests.storage_fakes import HeldClock

from shoal.domain.errors import StoreUnavailable
from shoal.domain.model import ModelRecord, ModelSpec
from shoal.node.contents import MODELS
from shoal.ports import Op
from shoal.stores.memory import MemoryStore


class Store(MemoryStore):
    """The real one, with a plug to pull."""

    def __init__(self, history_limit: int = 100) -> None:
        super().__init__(HeldClock(), history_limit=history_limit)
        self.gone = False
        self.transactions: list[Sequence[Op]] = []

    def pull(self) -> None:
        self.gone = True
        self._changed.fire()

    def _refresh(self) -> None:
        """Before every operation, and whenever a watch wakes."""
        if self.gone:
            raise StoreUnavailable("the cable is out; put it in")
        super()._refresh()

    async def transact(self, ops: Sequence[Op]) -> int:
        self.transactions.append(ops)
        return await super().transact(ops)


class Seen:
    """What the replica told."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str | None]] = []  # name and URI
        self.revisions: list[int] = []  # of the store, of each change
        self.problems: list[str] = []

    def change(self, name: str, record: ModelRecord | None, revision: int) -> None:
        self.revisions.append(revision)
        self.changes.append((name, None if record is None else record.spec.uri))


def record(name: str, uri: str = "/a", origin: str = "api") -> ModelRecord:
    return ModelRecord(name=name, spec=ModelSpec(name=name, uri=uri), origin=origin)


async def written(store: MemoryStore, name: str, uri: str = "/a") -> None:
    """By another process."""
    await store.put(MODELS + name, msgspec.json.encode(record(name, uri)))


async def fall_behind(store: Store) -> None:
    """More changes than the store remembers, before the watch gets to hear of any."""
    for number in range(10):
        await written(store, f"m{number}")


async def eventually(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - whatever it is
            await asyncio.sleep(0.001)
