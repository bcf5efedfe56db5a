"""Lists, declares and removes serving runtimes, as `node.control.Control` says.

Knows the table and which models use what is in it; loads nothing.
"""

from __future__ import annotations

import msgspec

from shoal.domain.choosing import described, own_runtime
from shoal.domain.errors import Conflict, NotFound
from shoal.domain.model import ModelRecord
from shoal.domain.serving_checks import check_serving_runtime
from shoal.domain.serving_runtime import OWN, DeclaredRuntime, ServingRuntime
from shoal.domain.views import RuntimeDeleted, RuntimeList, RuntimeView
from shoal.node.journal import Journal
from shoal.node.replica import Replica
from shoal.node.serving_runtimes import ServingRuntimes
from shoal.node.using import who_uses
from shoal.runtimes.registry import RuntimeRegistry


class ServingOperations:
    """table: of what the registry declares. runtimes: of this instance itself."""

    def __init__(
        self, table: ServingRuntimes, runtimes: RuntimeRegistry, replica: Replica,
        journal: Journal,
    ) -> None:
        self._table = table
        self._runtimes = runtimes
        self._replica = replica
        self._journal = journal

    def all(self) -> RuntimeList:
        return RuntimeList(
            [self._own(), *map(_view, self._table.all())],
            [self._table.problems[name] for name in sorted(self._table.problems)],
        )

    def one(self, name: str) -> RuntimeView:
        """Raises NotFound."""
        return self._own() if name == OWN else _view(self._find(name))

    async def declare(self, serving: ServingRuntime) -> RuntimeView:
        """Raises InvalidSpecification, StoreUnavailable."""
        check_serving_runtime(serving)
        before = self._table.find(serving.name)
        declared = await self._table.put(serving)
        if declared != before:
            self._journal.note(
                "runtime_declared", f"the serving runtime {serving.name!r} was declared: it loads "
                f"{described(serving)}{' (disabled)' if serving.disabled else ''}")
        return _view(declared)

    async def enable(self, name: str, *, enabled: bool) -> RuntimeView:
        """Raises NotFound, Conflict for the instances' own, StoreUnavailable."""
        if name == OWN:
            raise Conflict(f"the runtime {OWN!r} is the instances themselves, and always enabled; "
                           "declare others with a higher priority to have them chosen")
        before = self._find(name)
        declared = await self._table.put(
            msgspec.structs.replace(before.serving, disabled=not enabled))
        if declared != before:
            kind = "enabled" if enabled else "disabled"
            self._journal.note(f"runtime_{kind}", f"the serving runtime {name!r} was {kind}")
        return _view(declared)

    async def delete(self, name: str, *, force: bool) -> RuntimeDeleted:
        """Raises NotFound; Conflict for the instances' own and, unless `force`, while models use
        it; StoreUnavailable."""
        if name == OWN:
            raise Conflict(f"the runtime {OWN!r} is the instances themselves and cannot be removed")
        if name not in self._table.problems:
            self._find(name)
        count, first = await who_uses(
            self._replica, name, lambda record: _uses(record, name))
        if count and not force:
            more = ", …" if count > len(first) else ""
            raise Conflict(
                f"the serving runtime {name!r} is used by {_models(count)}: {', '.join(first)}"
                f"{more}; register them for another runtime, disable it ('shoal runtimes disable "
                f"{name}'), or remove it all the same with 'force'")
        await self._table.delete(name)
        used = f"; {_models(count)} used it" if count else ""
        self._journal.note("runtime_removed", f"the serving runtime {name!r} was removed{used}")
        return RuntimeDeleted(name, count, first)

    def _find(self, name: str) -> DeclaredRuntime:
        found = self._table.find(name)
        if found is None:
            known = ", ".join(each.serving.name for each in self._table.all())
            raise NotFound(
                f"there is no serving runtime {name!r}; declared are {known or 'none'}, and "
                f"{OWN!r} is the instances themselves")
        return found

    def _own(self) -> RuntimeView:
        own = own_runtime(self._runtimes.formats()).serving
        return RuntimeView(own.name, list(own.formats), list(own.protocols), own=True)


def _uses(record: ModelRecord, name: str) -> bool:
    """Does it name the runtime, or was that chosen for it?"""
    return record.spec.runtime == name or any(each.runtime == name for each in record.revisions)


def _view(declared: DeclaredRuntime) -> RuntimeView:
    serving = declared.serving
    return RuntimeView(
        serving.name, list(serving.formats), list(serving.protocols), serving.disabled,
        created_at=declared.created_at, declaration=serving,
    )


def _models(count: int) -> str:
    return "1 model" if count == 1 else f"{count:,} models"
