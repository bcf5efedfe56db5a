"""An instance's own copy of the registry: every declaration by name, kept up to date by a watch.

Records stay encoded and are decoded on use: a million models must fit. Also remembers when models
were last used, which orders loading after a restart. Must not know what is loaded.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from shoal.domain.errors import StoreUnavailable
from shoal.domain.model import ModelRecord
from shoal.observability.logs import get_logger
from shoal.ports import Change, Compacted, Delete, KVStore, Put

MODELS: Final = "models/"
USAGE: Final = "usage/"
BATCH: Final = 200  # writes in one transaction
RETRY_S: Final = (0.2, 10.0)  # between tries to reach a store that is gone: first, most

log = get_logger("shoal.node")
_DECODER: Final = msgspec.json.Decoder(ModelRecord)


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """last_used: seconds since the epoch. size_bytes: of the copy of `artifact_digest`."""

    last_used: float
    artifact_digest: str = ""
    size_bytes: int = 0


class Replica:
    """on_change: called for each model declared (its record) or removed (None) after the start.
    on_problem: for what an operator should know, in a sentence.

    Models that a watched folder declares live only here, not in the store.
    `trouble`: why the store cannot be reached now.
    """

    def __init__(
        self, store: KVStore,
        on_change: Callable[[str, ModelRecord | None], None],
        on_problem: Callable[[str], None],
    ) -> None:
        self._store = store
        self._on_change = on_change
        self._on_problem = on_problem
        self._encoded: dict[str, bytes] = {}
        self._names: list[str] = []  # sorted
        self._revision = 0  # of the store, up to which changes are known
        self._written: dict[str, int] = {}  # own writes that the watch has not brought yet
        self.usage: dict[str, Usage] = {}
        self._unsaved: dict[str, None] = {}
        self._watching: asyncio.Task[None] | None = None
        self._unreadable: dict[str, str] = {}
        self.trouble: str | None = None

    # --- reading --------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._encoded

    def get(self, name: str) -> ModelRecord | None:
        encoded = self._encoded.get(name)
        return None if encoded is None else _DECODER.decode(encoded)

    def names_after(self, name: str | None) -> Iterator[str]:
        """Names in order, from the first behind `name`."""
        start = 0 if name is None else bisect_right(self._names, name)
        for place in range(start, len(self._names)):  # a slice would copy the rest for each page
            yield self._names[place]

    @property
    def problems(self) -> list[str]:
        """What is wrong with the registry now, in sentences."""
        return [*([self.trouble] if self.trouble else []), *self._unreadable.values()]

    def by_last_use(self) -> list[str]:
        """Names, the most recently used first; those never used last, in order."""
        never = Usage(0.0)
        return sorted(self._names, key=lambda name: -self.usage.get(name, never).last_used)

    # --- life -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read everything, then follow changes. Raises StoreUnavailable."""
        await self._list_all(announce=False)
        usage = msgspec.json.Decoder(Usage)
        listing = await self._store.list(USAGE)
        for entry in listing.entries:
            try:
                self.usage[entry.key.removeprefix(USAGE)] = usage.decode(entry.value)
            except msgspec.DecodeError as error:
                self._on_problem(f"registry record {entry.key!r} is not readable and is ignored: "
                                 f"{error}")
        self._watching = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self.save_usage()

    async def _list_all(self, *, announce: bool) -> None:
        listing = await self._store.list(MODELS)
        found: dict[str, bytes | None] = {
            entry.key.removeprefix(MODELS): entry.value for entry in listing.entries
        }
        for name in [name for name in self._encoded if name not in found]:
            record = self.get(name)
            if record is not None and record.origin == "api":
                found[name] = None
        for name, value in found.items():
            if self._written.get(name, 0) <= listing.revision:  # else we wrote it meanwhile
                self._apply(name, value, announce=announce)
        self._revision = listing.revision

    async def _follow(self) -> None:
        """Watch for ever; a store that is gone for a while is asked again, less and less often."""
        wait_s, missed = RETRY_S[0], False
        while True:
            try:
                if missed:
                    await self._list_all(announce=True)
                    missed, self.trouble = False, None
                async for change in self._store.watch(MODELS, self._revision):
                    self._changed(change)
                    wait_s = RETRY_S[0]
            except Compacted:
                missed = True
            except StoreUnavailable as error:
                trouble = f"the registry cannot be read, models stay as they are: {error.message}"
                if trouble != self.trouble:
                    self._on_problem(trouble)
                missed, self.trouble = True, trouble
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_S[1])
            except Exception as error:  # a defect of ours; models are served all the same
                log.exception("watching the registry failed")
                self.trouble = (f"the registry is watched no longer: {error!r}; restart, and "
                                "report this defect")
                self._on_problem(self.trouble)
                return

    def _changed(self, change: Change) -> None:
        name = change.key.removeprefix(MODELS)
        self._revision = change.revision
        written = self._written.get(name, 0)
        if change.revision >= written:
            self._written.pop(name, None)
        if change.revision > written:
            self._apply(name, change.value, announce=True)

    # --- writing --------------------------------------------------------------------------------

    async def put(self, record: ModelRecord) -> None:
        """Store it and know it from now on. Raises StoreUnavailable; then nothing has changed
        here."""
        value = msgspec.json.encode(record)
        revision = await self._store.put(MODELS + record.name, value)
        self._wrote(record.name, revision)
        self._apply(record.name, value, announce=True)

    async def delete(self, name: str) -> None:
        """Forget it, here and in the store. Raises StoreUnavailable; then nothing has changed."""
        revision = await self._store.transact([Delete(MODELS + name), Delete(USAGE + name)])
        self._wrote(name, revision)
        self._apply(name, None, announce=True)

    def put_local(self, record: ModelRecord) -> None:
        """A folder's declaration: known here, not stored."""
        self._apply(record.name, msgspec.json.encode(record), announce=True)

    def delete_local(self, name: str) -> None:
        self._apply(name, None, announce=True)

    def _wrote(self, name: str, revision: int) -> None:
        if revision > self._revision:
            self._written[name] = revision

    def _apply(self, name: str, value: bytes | None, *, announce: bool) -> None:
        record = None
        if value is not None:
            try:
                record = _DECODER.decode(value)
            except msgspec.DecodeError as error:
                self._unreadable[name] = (
                    f"the registry's record of model {name!r} is not readable and is ignored: "
                    f"{error}; register the model again"
                )
                self._on_problem(self._unreadable[name])
                return
        self._unreadable.pop(name, None)
        if self._encoded.get(name) == value:
            return
        if value is None:
            del self._encoded[name]
            del self._names[bisect_left(self._names, name)]
            self.usage.pop(name, None)
        else:
            if name not in self._encoded:
                insort(self._names, name)
            self._encoded[name] = value
        if announce:
            self._on_change(name, record)

    # --- usage ----------------------------------------------------------------------------------

    def used(self, name: str, usage: Usage) -> None:
        if name in self._encoded:
            self.usage[name] = usage
            self._unsaved[name] = None

    async def save_usage(self) -> None:
        """Write what changed since the last time; what cannot be written is kept for the next."""
        names = [name for name in self._unsaved if name in self.usage]
        self._unsaved.clear()
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            puts = [Put(USAGE + name, msgspec.json.encode(self.usage[name])) for name in batch]
            try:
                await self._store.transact(puts)
            except StoreUnavailable as error:
                self._unsaved |= dict.fromkeys(names[start:])
                self._on_problem(f"when models were last used cannot be saved: {error.message}")
                return
