"""Has models declared anew when other serving runtimes are there: those that no runtime took, and
those whose runtime is gone or disabled.

What a watched folder declares is read again by whoever reads the folder; what was registered, by
the first-ranked instance alone. Nobody's good choice is changed for a better one.
"""

from __future__ import annotations

import asyncio
from typing import Final

from shoal.domain import events as on
from shoal.domain.errors import (
    NoSupportingRuntime,
    RuntimeDisabled,
    RuntimeMissing,
    RuntimeNotRecognized,
    ShoalError,
    UnknownFormat,
)
from shoal.domain.mesh import MemberState
from shoal.domain.model import ModelRecord
from shoal.node.declarations import Declarations
from shoal.node.folders import Folders
from shoal.node.instance import Instance
from shoal.node.serving_runtimes import ServingRuntimes
from shoal.observability.logs import get_logger

_NO_CHOICE: Final = (NoSupportingRuntime, RuntimeNotRecognized, RuntimeDisabled)
_HEALED: Final = frozenset(kind.code for kind in (*_NO_CHOICE, RuntimeMissing, UnknownFormat))
# Of which one at least is in every record with such a code.
_TEXTS: Final = ("RUNTIME", UnknownFormat.code)
_RANKED_BY: Final = "runtimes/"  # of instances: who does it for all

log = get_logger("shoal.node")


class ChoosingAgain:
    """folders: those that this instance may read."""

    def __init__(
        self, instance: Instance, table: ServingRuntimes, declarations: Declarations,
        folders: Folders,
    ) -> None:
        self._instance = instance
        self._table = table
        self._declarations = declarations
        self._folders = folders
        self._names: set[str] = set()
        self._due = False
        self._working: asyncio.Task[None] | None = None

    def changed(self, names: frozenset[str]) -> None:
        """These runtimes are there, gone, or declared otherwise; see `serving_runtimes.OnChange`.
        """
        self._names |= names
        self.begin()

    def begin(self) -> None:
        """Look at what no runtime took so far."""
        self._due = True
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())

    async def settled(self) -> None:
        """Returns when all that is known by now has been done."""
        while self._working is not None and not self._working.done():
            await asyncio.wait({self._working})

    async def stop(self) -> None:
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)

    async def _work(self) -> None:
        while self._due:
            names, self._names, self._due = frozenset(self._names), set(), False
            try:
                await self._look(names)
            except Exception:  # a defect of ours; the next change must be followed all the same
                log.exception("declaring models anew for other serving runtimes failed")

    async def _look(self, names: frozenset[str]) -> None:
        seen: set[str] = set()
        of_folders: list[str] = []
        for text in (*_TEXTS, *sorted(names)):
            async for record in self._instance.replica.with_text(text):
                if record.name in seen:
                    continue
                seen.add(record.name)
                if not self._is_in_trouble(record):
                    self._try_anew(record, names)
                elif self._instance.is_of_folder(record):
                    of_folders.append(record.name)
                elif self._is_first():
                    await self._declare(record)
        if of_folders:
            self._folders.read_again(of_folders)

    def _is_in_trouble(self, record: ModelRecord) -> bool:
        return record.problem_code in _HEALED or any(
            each.runtime is not None and not self._table.is_usable(each.runtime)
            for each in record.revisions
        )

    def _try_anew(self, record: ModelRecord, names: frozenset[str]) -> None:
        """A load that failed may go well with what is declared now."""
        instance = self._instance
        if record.name in instance.core.models and any(
            each.runtime in names and instance.core.failures.of(each.id) is not None
            for each in record.revisions
        ):
            instance.send(on.ModelDeclared(record))

    def _is_first(self) -> bool:
        core = self._instance.core
        staying = [each.id for each in core.view.members.values()
                   if each.state is not MemberState.DRAINING]
        return core.first_of(_RANKED_BY, staying) in (core.view.me, None)

    async def _declare(self, record: ModelRecord) -> None:
        journal = self._instance.journal
        try:
            try:
                await self._declarations.again(record)
            except _NO_CHOICE as error:
                await self._declarations.cannot(record, error)
        except ShoalError as error:  # of its files, or of the registry
            journal.note(
                "runtime_not_chosen", f"model {record.name!r} cannot be declared anew for the "
                f"serving runtimes that are there now: {error.message}; register it again",
                model=record.name)
