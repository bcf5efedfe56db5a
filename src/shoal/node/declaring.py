"""Where the models of watched folders are declared: on this instance alone, or for the whole mesh.

Must not know how folders are read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from shoal.domain.errors import StoreUnavailable
from shoal.domain.model import ModelRecord
from shoal.node.replica import BATCH, Replica
from shoal.observability.logs import get_logger

_RETRY_S: Final = 1.0  # until what could not be written is written again

log = get_logger("shoal.node")


class Declaring(Protocol):
    """What a folder says, from the order in which it is said."""

    def put(self, record: ModelRecord) -> None: ...

    def delete(self, name: str) -> None: ...

    async def done(self) -> None:
        """Returns when everybody who is to know it can know it."""


class Here:
    """The registry does not hear of it: the folder is the declaration, read again at every
    start."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def put(self, record: ModelRecord) -> None:
        self._replica.put_local(record)

    def delete(self, name: str) -> None:
        self._replica.delete_local(name)

    async def done(self) -> None:
        return


class ForAll:
    """Written to the registry, for instances that share it; by one of those that watch a folder.

    on_problem: for what the registry does not take, in a sentence.
    """

    def __init__(self, replica: Replica, on_problem: Callable[[str], None]) -> None:
        self._replica = replica
        self._on_problem = on_problem
        self._to_say: dict[str, ModelRecord | None] = {}
        self._all_said = asyncio.Event()
        self._all_said.set()
        self._saying: asyncio.Task[None] | None = None

    def put(self, record: ModelRecord) -> None:
        known = self._replica.get(record.name)
        if known is not None and record.name not in self._to_say:
            if known.revisions == record.revisions:  # what was taken out of service stays so
                record = msgspec.structs.replace(record, unloaded=known.unloaded)
            same = msgspec.structs.replace(record, registered_at=known.registered_at) == known
            if same:
                return
        self._say(record.name, record)

    def delete(self, name: str) -> None:
        if name in self._replica or name in self._to_say:
            self._say(name, None)

    async def done(self) -> None:
        await self._all_said.wait()

    async def stop(self) -> None:
        if self._saying is not None:
            self._saying.cancel()
            await asyncio.gather(self._saying, return_exceptions=True)

    def _say(self, name: str, record: ModelRecord | None) -> None:
        self._to_say[name] = record
        self._all_said.clear()
        if self._saying is None or self._saying.done():
            self._saying = asyncio.create_task(self._say_all())

    async def _say_all(self) -> None:
        """In batches, again and again while the store is gone."""
        while self._to_say:
            some = dict(list(self._to_say.items())[:BATCH])
            later = await self._write(some)
            for name, record in some.items():
                if name not in later and self._to_say.get(name, self) is record:
                    del self._to_say[name]
            if later:
                problem = next(iter(later.values())).message
                log.warning("models of a watched folder cannot be declared yet", problem=problem)
                await asyncio.sleep(_RETRY_S)
        self._all_said.set()

    async def _write(self, some: dict[str, ModelRecord | None]) -> dict[str, StoreUnavailable]:
        """By name what could not be written now, and why."""
        gone = [name for name, record in some.items() if record is None]
        failed = await self._replica.put_all([each for each in some.values() if each is not None])
        if gone:
            try:
                await self._replica.delete_all(gone)
            except StoreUnavailable as error:
                failed |= dict.fromkeys(gone, error)
        later = {}
        for name, why in failed.items():
            if isinstance(why, StoreUnavailable):
                later[name] = why
            else:
                self._on_problem(f"model {name!r} cannot be declared: {why.message}")
        return later
