"""Registers and unregisters models in great numbers: reads files on several threads, writes to the
registry some hundred at a time, and lets requests through in between.

What is wrong with one model is told of that model, and the others go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import msgspec

from shoal.domain import events as on
from shoal.domain.errors import Conflict, ShoalError
from shoal.domain.model import ModelRecord, ModelSpec
from shoal.domain.views import Registered
from shoal.node.instance import Instance
from shoal.node.replica import BATCH
from shoal.node.turns import TURN_S, Turns

READERS: Final = 2  # threads that read at once: more only help when the disk is slow
_PORTION: Final = 64  # models that a thread reads in one go

Declare: TypeAlias = Callable[[ModelSpec], ModelRecord]


class Bulk:
    """refusal: why what is registered under a name must not be changed; None: it may be."""

    def __init__(
        self, instance: Instance, refusal: Callable[[str], Conflict | None]
    ) -> None:
        self._instance = instance
        self._refusal = refusal

    async def register(self, specs: Sequence[ModelSpec], declare: Declare) -> list[Registered]:
        """What became of each of `specs`, in their order. declare: blocking; run on threads.

        What is registered just so already stays as it is. Of a name that comes twice the first one
        counts. What the registry does not take is a failure of all that were written with it.
        """
        results: list[Registered | None] = [None] * len(specs)
        todo = []
        seen: set[str] = set()
        for place, spec in enumerate(specs):
            refusal = self._refusal(spec.name)
            if spec.name in seen:
                refusal = Conflict(
                    f"model {spec.name!r} is in this batch twice; the first one counts")
            seen.add(spec.name)
            if refusal is None:
                todo.append(place)
            else:
                results[place] = _failed(spec.name, refusal)
        for start in range(0, len(todo), BATCH):
            places = todo[start : start + BATCH]
            found = await self._read([specs[place] for place in places], declare)
            told = await self._write(found)
            for place, result in zip(places, told, strict=True):
                results[place] = result
        return _complete(results, "declared", "are registered", self._instance)

    async def unregister(self, names: Sequence[str]) -> list[Registered]:
        """What became of each of `names`, in their order; what is not registered is unchanged."""
        replica = self._instance.replica
        results: list[Registered | None] = [None] * len(names)
        todo: dict[str, int] = {}
        turns = Turns()
        for place, name in enumerate(names):
            refusal = self._refusal(name)
            if refusal is not None:
                results[place] = _failed(name, refusal)
            elif name in replica and name not in todo:
                todo[name] = place
            else:
                results[place] = Registered(name, True, unchanged=True)
            if turns.is_over():
                await turns.rest()
        listed = list(todo)
        for start in range(0, len(listed), BATCH):
            some = listed[start : start + BATCH]
            try:
                await replica.delete_all(some)
            except ShoalError as error:
                results_of = {name: _failed(name, error) for name in some}
            else:
                results_of = {name: Registered(name, True) for name in some}
            for name, result in results_of.items():
                results[todo[name]] = result
        return _complete(results, "removed", "are no longer registered", self._instance)

    async def _read(
        self, specs: list[ModelSpec], declare: Declare
    ) -> list[ModelRecord | Registered]:
        portions = [specs[at : at + _PORTION] for at in range(0, len(specs), _PORTION)]
        free = asyncio.Semaphore(READERS)

        async def read(portion: list[ModelSpec]) -> list[ModelRecord | Registered]:
            async with free:
                return await asyncio.to_thread(_declare_some, portion, declare)

        return [each for some in await asyncio.gather(*map(read, portions)) for each in some]

    async def _write(self, found: list[ModelRecord | Registered]) -> list[Registered]:
        replica = self._instance.replica
        told: list[Registered] = []
        fresh: list[ModelRecord] = []
        turns = Turns()
        for each in found:
            if isinstance(each, Registered):
                told.append(each)
                continue
            known = replica.get(each.name)
            unchanged = known is not None and _is_same(each, known)
            if known is not None and unchanged:
                self._declare_again(known)
            else:
                fresh.append(each)
            told.append(Registered(each.name, True, unchanged=unchanged))
            if turns.is_over():
                await turns.rest()
        failed = await replica.put_all(fresh)
        return [
            _failed(each.name, failed[each.name]) if each.name in failed else each for each in told
        ]

    def _declare_again(self, record: ModelRecord) -> None:
        """Declared anew is tried anew, and back in service."""
        if record.name in self._instance.core.models:
            self._instance.send(on.ModelDeclared(record))


def _declare_some(specs: list[ModelSpec], declare: Declare) -> list[ModelRecord | Registered]:
    found: list[ModelRecord | Registered] = []
    ends_at = time.perf_counter() + TURN_S
    for spec in specs:
        try:
            found.append(declare(spec))
        except ShoalError as error:
            found.append(_failed(spec.name, error))
        if time.perf_counter() >= ends_at:
            time.sleep(0)  # gives the interpreter's lock to the event loop, if that waits for it
            ends_at = time.perf_counter() + TURN_S
    return found


def _is_same(record: ModelRecord, known: ModelRecord) -> bool:
    """The time of registering says nothing."""
    return msgspec.structs.replace(record, registered_at=known.registered_at) == known


def _failed(name: str, error: ShoalError) -> Registered:
    return Registered(
        name, False, error=error.message, code=error.code, retryable=error.retryable
    )


def _complete(
    results: list[Registered | None], kind: str, what: str, instance: Instance
) -> list[Registered]:
    """All results; one event tells of all that was changed."""
    told = [result for result in results if result is not None]
    assert len(told) == len(results)
    changed = [result.name for result in told if result.ok and not result.unchanged]
    if changed:
        instance.journal.note(
            kind, f"{len(changed):,} models {what}, from {changed[0]!r} to {changed[-1]!r}"
        )
    return told
