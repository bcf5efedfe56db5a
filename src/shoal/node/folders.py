"""Keeps the models of watched folders declared.

An instance alone declares them for itself, anew at every start; they are not stored. In a mesh one
of the instances that were told to watch a folder reads it and declares its models for all, in the
registry; when it leaves, another goes on. A name that somebody registered stays theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from shoal.domain.errors import ShoalError
from shoal.domain.model import ModelRecord, ModelSpec
from shoal.node.declaring import Declaring, ForAll, Here
from shoal.node.instance import Instance
from shoal.observability.logs import get_logger
from shoal.storage.folder import Declared, FolderChange, ModelFolder, Problem, Removed

log = get_logger("shoal.node")


class Sharing(Protocol):
    """Who of a mesh reads a folder. origin: the folder, as records name it."""

    async def to_read(self, origin: str) -> None:
        """Returns when it is for this instance to read it."""

    async def not_to_read(self, origin: str) -> None:
        """Returns when it is for another one."""

    async def is_read(self, origin: str) -> None:
        """Returns when somebody has declared all that is in it."""

    def has_read(self, origin: str) -> None:
        """This instance has."""


class Folders:
    """sharing: None where this instance is alone."""

    def __init__(
        self, instance: Instance, folders: Sequence[Callable[[], ModelFolder]],
        sharing: Sharing | None = None,
    ) -> None:
        self._instance = instance
        self._folders = folders
        self._sharing = sharing
        self._for_all = None if sharing is None else ForAll(instance.replica, self._note)
        self._declaring: Declaring = self._for_all or Here(instance.replica)
        self._tasks: list[asyncio.Task[None]] = []
        self._read_here: dict[str, ModelFolder] = {}  # by origin
        self._looks: set[asyncio.Task[None]] = set()  # at folders that nobody watches
        self._looking = asyncio.Lock()
        self._watched = False
        # What folders declare under a name that is somebody else's: by name, then by origin.
        self._hidden: dict[str, dict[str, tuple[ModelFolder, Declared | Problem]]] = {}
        instance.on_removed = self._reveal

    async def start(self, *, watch: bool) -> None:
        """Declare all that the folders hold now. Raises InvalidSpecification for a folder that
        cannot be read."""
        self._watched = watch
        folders = [make() for make in self._folders]
        if self._sharing is None:
            for folder in folders:
                await self._read(folder)
            if watch:
                self._tasks = [asyncio.create_task(self._watch(each)) for each in folders]
            return
        self._tasks = [
            asyncio.create_task(self._take_turns(make, self._sharing, watch=watch))
            for make in self._folders
        ]
        read = asyncio.create_task(self._all_read(folders))
        await asyncio.wait({read, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        read.cancel()
        for task in self._tasks:
            if task.done():
                task.result()  # a folder that cannot be read
            task.add_done_callback(self._given_up)

    def _given_up(self, turns: asyncio.Task[None]) -> None:
        """A folder could not be read when it was for this instance to go on."""
        error = None if turns.cancelled() else turns.exception()
        if error is not None:
            why = error.message if isinstance(error, ShoalError) else (
                f"{error!r}; report this defect")
            self._note(f"a folder is not read any more: {why}; restart to read it")

    async def _all_read(self, folders: Sequence[ModelFolder]) -> None:
        assert self._sharing is not None
        for folder in folders:
            await self._sharing.is_read(folder.origin)

    async def stop(self) -> None:
        tasks = (*self._tasks, *self._looks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._for_all is not None:
            await self._for_all.stop()

    def read_again(self, names: Sequence[str]) -> None:
        """What folders that are read here say under these names may be something else now, though
        no file changed."""
        for folder in self._read_here.values():
            folder.read_again(names)
            if not self._watched:
                look = asyncio.create_task(self._look(folder))
                self._looks.add(look)
                look.add_done_callback(self._looks.discard)

    async def _look(self, folder: ModelFolder) -> None:
        """Once, for nobody watches it."""
        async with self._looking:
            for change in await folder.first_scan():
                self.apply(folder, change)

    async def _take_turns(
        self, make: Callable[[], ModelFolder], sharing: Sharing, *, watch: bool
    ) -> None:
        """For ever: read the folder while it is for this instance to do so."""
        while True:
            folder = make()
            await sharing.to_read(folder.origin)
            await self._read(folder)
            await self._declaring.done()
            sharing.has_read(folder.origin)
            watching = asyncio.create_task(self._watch(folder)) if watch else None
            try:
                await sharing.not_to_read(folder.origin)
            finally:
                self._read_here.pop(folder.origin, None)
                if watching is not None:
                    watching.cancel()
                    await asyncio.gather(watching, return_exceptions=True)

    async def _read(self, folder: ModelFolder) -> None:
        """Declare all that is in it, and nothing else that was declared for it before."""
        before = await self._instance.replica.declared_by(folder.origin)
        found = set()
        for change in await folder.first_scan():
            self.apply(folder, change)
            match change:
                case Declared(record):
                    found.add(record.name)
                case Problem(str(name)):
                    found.add(name)
        self._read_here[folder.origin] = folder
        for name in before:
            if self._sharing is None:
                await self._forget(name, folder)
            elif name not in found:
                self._declaring.delete(name)

    async def _forget(self, name: str, folder: ModelFolder) -> None:
        """An earlier mesh stored what this instance now declares for itself."""
        known = self._instance.replica.get(name)
        local = known if self._instance.replica.is_local(name) else None
        await self._instance.replica.delete(name)
        if local is not None:
            self._declaring.put(local)

    async def _watch(self, folder: ModelFolder) -> None:
        async def on_change(change: FolderChange) -> None:
            self.apply(folder, change)

        try:
            await folder.watch(on_change)
        except ShoalError as error:
            self._note(f"{folder.name} is watched no longer: {error.message}; restart to watch it")
        except Exception as error:  # a defect of ours; its models are served all the same
            self._note(f"{folder.name} is watched no longer: {error!r}; restart to watch it, and "
                       "report this defect")
            log.exception("watching a folder failed", folder=folder.name)

    def apply(self, folder: ModelFolder, change: FolderChange) -> None:
        """Make a change of `folder` known."""
        replica, declaring = self._instance.replica, self._declaring
        match change:
            case Declared(record):
                if self._is_ours(folder, record.name, change):
                    declaring.put(record)
                    if self._instance.on_declared is not None:
                        self._instance.on_declared(record)
            case Removed(name):
                self._hidden.get(name, {}).pop(folder.origin, None)
                known = replica.get(name)
                if known is not None and known.origin == folder.origin:
                    declaring.delete(name)
            case Problem(None, message):
                self._note(message)
            case Problem(str(name)):
                if self._is_ours(folder, name, change):
                    declaring.put(self._with_problem(folder, name, change))

    def _reveal(self, name: str) -> None:
        """The name is free: what a folder declares under it is served."""
        for folder, change in self._hidden.pop(name, {}).values():
            self.apply(folder, change)

    def _is_ours(self, folder: ModelFolder, name: str, change: Declared | Problem) -> bool:
        known = self._instance.replica.get(name)
        if known is None or known.origin == folder.origin:
            return True
        self._hidden.setdefault(name, {})[folder.origin] = (folder, change)
        owner = "was registered" if known.origin == "api" else (
            f"is declared by {known.origin.removeprefix('folder:')}")
        self._note(f"model {name!r} in {folder.name} is not served: one of this name {owner}; "
                   "rename one of them")
        return False

    def _with_problem(self, folder: ModelFolder, name: str, problem: Problem) -> ModelRecord:
        """What is known of the model, and why its newest state is not served."""
        known = self._instance.replica.get(name)
        if known is not None:
            return msgspec.structs.replace(
                known, problem=problem.message, problem_code=problem.code)
        spec = ModelSpec(name=name, uri=folder.watched.uri_of(problem.entry or name))
        return ModelRecord(
            name=name, spec=spec, problem=problem.message, problem_code=problem.code,
            origin=folder.origin, registered_at=self._instance.clock.wall(),
        )

    def _note(self, message: str) -> None:
        self._instance.journal.note("folder_problem", message)
