"""Keeps the models of watched folders declared on this instance.

A folder's models are not stored: they are declared anew at every start. A name that somebody
registered stays theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from shoal.domain.errors import ShoalError
from shoal.domain.model import ModelRecord, ModelSpec
from shoal.node.instance import Instance
from shoal.observability.logs import get_logger
from shoal.storage.folder import Declared, FolderChange, ModelFolder, Problem, Removed

log = get_logger("shoal.node")


class Folders:
    def __init__(self, instance: Instance, folders: Sequence[ModelFolder]) -> None:
        self._instance = instance
        self._folders = folders
        self._watches: list[asyncio.Task[None]] = []
        # What folders declare under a name that is somebody else's: by name, then by origin.
        self._hidden: dict[str, dict[str, tuple[ModelFolder, Declared | Problem]]] = {}
        instance.on_removed = self._reveal

    async def start(self, *, watch: bool) -> None:
        """Declare all that the folders hold now. Raises InvalidSpecification for a folder that
        cannot be read."""
        for folder in self._folders:
            for change in await folder.first_scan():
                self.apply(folder, change)
        if watch:
            self._watches = [asyncio.create_task(self._watch(each)) for each in self._folders]

    async def stop(self) -> None:
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    async def _watch(self, folder: ModelFolder) -> None:
        async def on_change(change: FolderChange) -> None:
            self.apply(folder, change)

        try:
            await folder.watch(on_change)
        except ShoalError as error:
            self._note(f"{folder.path} is watched no longer: {error.message}; restart to watch it")
        except Exception as error:  # a defect of ours; its models are served all the same
            self._note(f"{folder.path} is watched no longer: {error!r}; restart to watch it, and "
                       "report this defect")
            log.exception("watching a folder failed", folder=str(folder.path))

    def apply(self, folder: ModelFolder, change: FolderChange) -> None:
        """Make a change of `folder` known."""
        replica = self._instance.replica
        match change:
            case Declared(record):
                if self._is_ours(folder, record.name, change):
                    replica.put_local(record)
            case Removed(name):
                self._hidden.get(name, {}).pop(folder.origin, None)
                known = replica.get(name)
                if known is not None and known.origin == folder.origin:
                    replica.delete_local(name)
            case Problem(None, message):
                self._note(message)
            case Problem(name, message):
                assert name is not None
                if self._is_ours(folder, name, change):
                    replica.put_local(self._with_problem(folder, name, message))

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
        self._note(f"model {name!r} in {folder.path} is not served: one of this name {owner}; "
                   "rename one of them")
        return False

    def _with_problem(self, folder: ModelFolder, name: str, message: str) -> ModelRecord:
        """What is known of the model, and why its newest state is not served."""
        known = self._instance.replica.get(name)
        if known is not None:
            return msgspec.structs.replace(known, problem=message)
        spec = ModelSpec(name=name, uri=str(folder.path / name))
        return ModelRecord(
            name=name, spec=spec, problem=message, origin=folder.origin,
            registered_at=self._instance.clock.wall(),
        )

    def _note(self, message: str) -> None:
        self._instance.journal.note("folder_problem", message)
