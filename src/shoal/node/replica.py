"""An instance's own copy of the registry: every declaration by name, kept up to date by a watch.

Records stay encoded and are decoded on use: a million models must fit. Also remembers when models
were last used, which orders loading after a restart. Must not know what is loaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Final

import msgspec

from shoal.domain.errors import Conflict, InvalidSpecification, ShoalError, StoreUnavailable
from shoal.domain.model import ModelRecord
from shoal.node import records
from shoal.node.contents import (
    MODELS,
    USAGE,
    Contents,
    not_readable,
    read_contents,
    read_models,
)
from shoal.node.names import SortedNames
from shoal.node.retrying import retry_s
from shoal.node.turns import Turns
from shoal.node.usage import Usage, UsageTable
from shoal.observability.logs import get_logger
from shoal.ports import Change, Compacted, Delete, KVStore, Put

BATCH: Final = 500  # writes in one transaction, made known here in one turn of the loop
TOLD: Final = 100  # records that cannot be read, one by one; the others are counted

log = get_logger("shoal.node")


class Replica:
    """on_change: called for each model declared (its record) or removed (None) after the start,
    with the store's revision that says so; 0: none, it is known here alone.
    on_problem: for what an operator should know, in a sentence.

    Models that a watched folder declares live only here, not in the store.
    `trouble`: why the store cannot be reached now. `in_bulk`: whether `on_change` is being called
    for one of very many.
    """

    def __init__(
        self, store: KVStore,
        on_change: Callable[[str, ModelRecord | None, int], None],
        on_problem: Callable[[str], None],
    ) -> None:
        self._store = store
        self._on_change = on_change
        self._on_problem = on_problem
        self._encoded: dict[str, bytes] = {}
        self._names = SortedNames()
        self._local: set[str] = set()  # names that watched folders declare
        self._revision = 0  # of the store, up to which changes are known
        self._written: dict[str, int] = {}  # what is known here before the watch brings it
        self.usage = UsageTable()
        self._unsaved: dict[str, None] = {}
        self._watching: asyncio.Task[None] | None = None
        self._unreadable: dict[str, str] = {}
        self.trouble: str | None = None
        self.in_bulk = False

    # --- reading --------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._encoded)

    def __contains__(self, name: str) -> bool:
        return name in self._encoded

    def is_local(self, name: str) -> bool:
        """Does a watched folder declare it?"""
        return name in self._local

    def get(self, name: str) -> ModelRecord | None:
        encoded = self._encoded.get(name)
        if encoded is None:
            return None
        try:
            return records.decode(name, encoded)
        except msgspec.DecodeError as error:  # stored by something else than a release of Shoal
            self._forget(name)
            self._refuse(name, error)
            return None

    async def declared_by(self, origin: str) -> list[str]:
        """Names that a watched folder declares for all; in turns with requests."""
        found, turns = [], Turns()
        for name, value in list(self._encoded.items()):
            if records.is_of_folder(value) and name not in self._local:
                record = self.get(name)
                if record is not None and record.origin == origin:
                    found.append(name)
            if turns.is_over():
                await turns.rest()
        return found

    async def with_text(self, text: str) -> AsyncIterator[ModelRecord]:
        """Records that have `text` somewhere in them, and perhaps others, by name; in turns with
        requests."""
        wanted, turns = text.encode(), Turns()
        for name in self.names_after(None):
            if wanted in self._encoded[name] and (record := self.get(name)) is not None:
                yield record
            if turns.is_over():
                await turns.rest()

    def names(self) -> list[str]:
        """All names, in order."""
        return self._names.all()

    def names_after(self, name: str | None) -> Iterator[str]:
        """Names in order, from the first behind `name`."""
        return self._names.after(name)

    @property
    def problems(self) -> list[str]:
        """What is wrong with the registry now, in sentences."""
        return [*([self.trouble] if self.trouble else []), *self._unreadable.values()]

    def by_last_use(self) -> list[str]:
        """Names of the models that were ever used, the most recently used first."""
        at = {name: usage.last_used for name, usage in self.usage.items()
              if usage.last_used and name in self}
        return sorted(at, key=lambda name: (-at[name], name))

    # --- life -----------------------------------------------------------------------------------

    async def start(self, contents: Contents | None = None) -> list[str]:
        """Know everything, then follow changes. Returns the names of pinned models.

        contents: of the store, just read; None: they are read now. Raises StoreUnavailable.
        """
        if contents is None:
            contents = await read_contents(self._store)
        self._encoded, self.usage = contents.encoded, contents.usage
        self._revision, self._written = contents.revision, contents.younger
        turns = Turns()
        for name in self._encoded:
            self._names.add(name)
            if turns.is_over():
                await turns.rest()
        self._unreadable = contents.unreadable
        problems = [*self._unreadable.values(), *contents.unreadable_usage]
        for problem in problems[:TOLD]:
            self._on_problem(problem)
        if len(problems) > TOLD:
            self._on_problem(f"{len(problems) - TOLD:,} other records of the registry are not "
                             "readable either and are ignored")
        self._watching = asyncio.create_task(self._follow())
        return contents.pinned

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self.save_usage()

    async def _list_again(self) -> None:
        """Find out by comparison what changes there were."""
        contents = await read_models(self._store)
        found: dict[str, bytes | None] = {**contents.encoded}
        turns = Turns()
        for name in list(self._encoded):
            if name not in found and name not in self._local and name not in contents.unreadable:
                found[name] = None
            if turns.is_over():
                await turns.rest()
        for name, value in found.items():
            known_to = contents.younger.get(name, contents.revision)
            if self._written.get(name, 0) <= known_to:  # else we wrote it meanwhile
                self._apply(name, value, known_to)
            if turns.is_over():
                await turns.rest()
        for name, problem in contents.unreadable.items():
            self._unreadable[name] = problem
            self._on_problem(problem)
        for name, revision in contents.younger.items():
            self._written[name] = max(revision, self._written.get(name, 0))
        self._revision = contents.revision

    async def _follow(self) -> None:
        """Watch for ever; a store that is gone for a while is asked again, less and less often. The
        watch goes on where it was, so that after an outage nobody need read everything again."""
        failures, missed, turns = 0, False, Turns()
        while True:
            try:
                if missed:
                    await self._list_again()
                elif self.trouble is not None:
                    await self._store.list(MODELS, limit=1)  # raises as long as it is gone
                missed, self.trouble = False, None
                async for change in self._store.watch(MODELS, self._revision):
                    self._changed(change)
                    failures = 0
                    if turns.is_over():
                        await turns.rest()
            except Compacted:
                missed = True
            except StoreUnavailable as error:
                trouble = f"the registry cannot be read, models stay as they are: {error.message}"
                if trouble != self.trouble:
                    self._on_problem(trouble)
                self.trouble = trouble
                await asyncio.sleep(retry_s(failures))
                failures += 1
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
            self._apply(name, change.value, change.revision)

    # --- writing --------------------------------------------------------------------------------

    async def put(self, record: ModelRecord) -> None:
        """Store it and know it from now on. Raises StoreUnavailable; then nothing has changed
        here."""
        value = records.encode(record)
        revision = await self._store.put(MODELS + record.name, value)
        self._wrote(record.name, revision)
        self._apply(record.name, value, revision)

    async def change(self, name: str, change: Callable[[ModelRecord], ModelRecord]) -> int:
        """Change what is declared under `name` as the store has it now, which may be newer than
        what is known here; a name that is not there stays so. Returns the store's revision that has
        it, 0 for none. Raises StoreUnavailable, and InvalidSpecification where what is there cannot
        be read."""
        while (entry := await self._store.get(MODELS + name)) is not None:
            try:
                before = records.decode(name, entry.value)
            except msgspec.DecodeError as error:
                raise InvalidSpecification(not_readable(name, error)) from None
            after = change(before)
            if after == before:
                return entry.revision
            value = records.encode(after)
            try:
                revision = await self._store.put(MODELS + name, value, expect=entry.revision)
            except Conflict:
                continue
            self._wrote(name, revision)
            self._apply(name, value, revision)
            return revision
        return 0

    async def put_all(self, declared: Sequence[ModelRecord]) -> dict[str, ShoalError]:
        """As `put`, up to BATCH records; by name what was not stored, and why. Of each name one.

        One transaction. What is too much at once for the registry is halved until it fits, or one
        is found that is too large alone.
        """
        assert len(declared) <= BATCH, len(declared)
        if not declared:
            return {}
        values = {record.name: records.encode(record) for record in declared}
        try:
            revision = await self._store.transact(
                [Put(MODELS + name, value) for name, value in values.items()]
            )
        except ShoalError as error:
            if isinstance(error, InvalidSpecification) and len(declared) > 1:
                half = len(declared) // 2
                return await self.put_all(declared[:half]) | await self.put_all(declared[half:])
            return dict.fromkeys(values, error)
        self._apply_all(values, revision)
        return {}

    async def delete(self, name: str) -> None:
        """Forget it, here and in the store. Raises StoreUnavailable; then nothing has changed."""
        revision = await self._store.transact([Delete(MODELS + name), Delete(USAGE + name)])
        self._wrote(name, revision)
        self._apply(name, None, revision)

    async def delete_all(self, names: Sequence[str]) -> None:
        """As `delete`, up to BATCH names in one transaction: all or none."""
        assert len(names) <= BATCH, len(names)
        revision = await self._store.transact(
            [Delete(prefix + name) for name in names for prefix in (MODELS, USAGE)]
        )
        self._apply_all(dict.fromkeys(names), revision)

    def put_local(self, record: ModelRecord) -> None:
        """A folder's declaration: known here, not stored."""
        self._local.add(record.name)
        self._apply(record.name, records.encode(record), local=True)

    def delete_local(self, name: str) -> None:
        self._apply(name, None)

    def _wrote(self, name: str, revision: int) -> None:
        if revision > self._revision:
            self._written[name] = revision

    def _apply_all(self, values: dict[str, bytes] | dict[str, bytes | None], revision: int) -> None:
        """In one turn: between two, somebody could write one of them again."""
        self.in_bulk = True
        try:
            for name, value in values.items():
                self._wrote(name, revision)
                self._apply(name, value, revision)
        finally:
            self.in_bulk = False

    def _apply(
        self, name: str, value: bytes | None, revision: int = 0, *, local: bool = False
    ) -> None:
        record = None
        if value is not None:
            try:
                record = records.decode(name, value)
                value = records.compact(name, value)
            except msgspec.DecodeError as error:
                self._refuse(name, error)
                return
        self._unreadable.pop(name, None)
        if not local:
            self._local.discard(name)
        known = self._encoded.get(name)
        if known == value:
            return
        if value is None:
            self._forget(name)
        else:
            if known is None:
                self._names.add(name)
            self._encoded[name] = value
        self._on_change(name, record, revision)

    def _forget(self, name: str) -> None:
        del self._encoded[name]
        self._local.discard(name)
        self._names.remove(name)
        self.usage.pop(name, None)

    def _refuse(self, name: str, error: msgspec.DecodeError) -> None:
        self._unreadable[name] = not_readable(name, error)
        self._on_problem(self._unreadable[name])

    # --- usage ----------------------------------------------------------------------------------

    def measured(
        self, name: str, artifact_digest: str, size_bytes: int, accelerator_bytes: int = 0
    ) -> None:
        """A copy was loaded; when it was used last stays as it is."""
        known = self.usage.get(name)
        self.used(name, Usage(
            known.last_used if known else 0.0, artifact_digest, size_bytes, accelerator_bytes))

    def used(self, name: str, usage: Usage) -> None:
        if name in self._encoded:
            self.usage[name] = usage
            self._unsaved[name] = None

    async def save_usage(self) -> None:
        """Write what changed since the last time; what cannot be written is kept for the next."""
        names = [name for name in self._unsaved if name in self.usage]
        self._unsaved.clear()
        for start in range(0, len(names), BATCH):
            batch = [name for name in names[start : start + BATCH] if name in self.usage]
            puts = [Put(USAGE + name, self.usage.stored(name)) for name in batch]
            if not puts:
                continue
            try:
                await self._store.transact(puts)
            except StoreUnavailable as error:
                self._unsaved |= dict.fromkeys(names[start:])
                self._on_problem(f"when models were last used cannot be saved: {error.message}")
                return
            await asyncio.sleep(0)  # a store in memory waits for nothing by itself
