"""Registers and unregisters models: reads what was declared, refuses what could never be loaded,
and writes the registry, from which all instances hear of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from shoal.domain.errors import Conflict, ShoalError
from shoal.domain.model import ModelRecord, ModelSpec, Revision
from shoal.domain.views import ModelView, Registered
from shoal.node import story
from shoal.node.bulk import Bulk
from shoal.node.instance import Instance
from shoal.node.records import FOLDER
from shoal.runtimes.registry import RuntimeRegistry
from shoal.storage.declare import declare, declare_unread


class Declarations:
    """As `node.control.Control` says. Runs on the event loop; reads files on threads."""

    def __init__(self, instance: Instance, runtimes: RuntimeRegistry) -> None:
        self._instance = instance
        self._runtimes = runtimes
        self._elsewhere = instance.loader.fetching
        self._bulk = Bulk(instance, self._refusal)

    async def register(
        self, spec: ModelSpec, *, create: bool = False, read: bool = True
    ) -> ModelView:
        known = self._instance.replica.get(spec.name)
        self._check_owner(known)
        if create and known is not None:
            raise Conflict(f"model {spec.name!r} is registered already; register it without "
                           "'create' to replace it")
        record = await asyncio.to_thread(self._declare if read else self._declare_unread, spec)
        await self._instance.replica.put(record)
        return story.view(self._instance, record)

    def _declare(self, spec: ModelSpec) -> ModelRecord:
        """Blocking. What could never be loaded is refused now rather than at the first request."""
        record = declare(
            spec, self._runtimes, registered_at=self._instance.clock.wall(),
            elsewhere=self._elsewhere)
        for revision in record.revisions:
            self._instance.loader.check(revision)
        if self._instance.on_declared is not None:
            self._instance.on_declared(record)
        return record

    def _declare_unread(self, spec: ModelSpec) -> ModelRecord:
        """Whether its code may run is asked when it is loaded: its place may not exist yet."""
        record = declare_unread(
            spec, self._runtimes, registered_at=self._instance.clock.wall(),
            elsewhere=self._elsewhere)
        for revision in record.revisions:
            self._instance.loader.check_options(revision)
        return record

    async def again(self, known: ModelRecord) -> None:
        """Declare it as it was declared, since other runtimes are there. What was registered
        meanwhile stays. Raises as `register`."""
        unread = bool(known.revisions) and not any(each.files_bytes for each in known.revisions)
        found = await asyncio.to_thread(
            self._declare_unread if unread else self._declare, known.spec)
        await self._replace(known, found.revisions, found.problem, found.problem_code)

    async def cannot(self, known: ModelRecord, error: ShoalError) -> None:
        """Why that is not possible now; what is loaded goes on answering."""
        await self._replace(known, known.revisions, error.message, error.code)

    async def _replace(
        self, known: ModelRecord, revisions: tuple[Revision, ...], problem: str | None,
        code: str | None,
    ) -> None:
        play = self._instance.core.models.get(known.name)
        out = known.out_of_service if play is None else play.out_of_service
        unloaded = tuple(sorted(each or 0 for each in out))

        def renewed(record: ModelRecord) -> ModelRecord:
            if record.spec != known.spec or record.origin != known.origin:
                return record
            return msgspec.structs.replace(
                record, revisions=revisions, problem=problem, problem_code=code,
                unloaded=unloaded)

        await self._instance.replica.change(known.name, renewed)

    async def register_all(
        self, specs: Sequence[ModelSpec], *, read: bool = True
    ) -> list[Registered]:
        declare = self._declare if read else self._declare_unread
        return await self._bulk.register(specs, declare)

    async def unregister(self, name: str) -> None:
        self._check_owner(self._instance.record(name))
        await self._instance.replica.delete(name)

    async def unregister_all(self, names: Sequence[str]) -> list[Registered]:
        return await self._bulk.unregister(names)

    def _check_owner(self, record: ModelRecord | None) -> None:
        if record is not None and (refusal := self._refusal(record.name)) is not None:
            raise refusal

    def _refusal(self, name: str) -> Conflict | None:
        """Why what is declared under `name` must not be changed from here."""
        record = self._instance.replica.get(name)
        if record is None or not self._instance.is_of_folder(record):
            return None
        folder = record.origin.removeprefix(FOLDER)
        return Conflict(f"model {name!r} is declared by the watched folder {folder}; change it "
                        "there")
