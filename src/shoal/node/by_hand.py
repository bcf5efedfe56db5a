"""Loads and unloads models because somebody wants it, and waits for that, wherever it happens."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from shoal.domain import events as on
from shoal.domain.errors import DeadlineExceeded, Unavailable, Unloaded
from shoal.domain.events import Miss, served
from shoal.domain.model import ModelRecord
from shoal.node.asking import PATIENCE_S, Asking
from shoal.node.elsewhere import Elsewhere
from shoal.node.instance import Instance
from shoal.node.live import LiveCopy
from shoal.node.questions import AwaitCopy

_NEWS_S: Final = 2.0  # that a change of the registry takes to reach everybody, at most
_AGAIN_S: Final = 0.1


class ByHand:
    """timeout_s, of all: how long to wait for the outcome; None: not at all."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    async def unload(self, name: str, version: int | None, timeout_s: float | None) -> None:
        """Out of all memory of the mesh, and out of service on all of it. Raises StoreUnavailable
        where the others cannot be told."""
        as_of = await self._tell_all(name, version, unloaded=True)
        await self._instance.ask(on.UnloadAsked, name, version, timeout_s, as_of)

    async def load(
        self, name: str, version: int | None, timeout_s: float | None, asking: Asking | None
    ) -> None:
        """Into memory of one instance at least. Raises what the loads failed with, and as
        `Instance.acquire`."""
        as_of = await self._tell_all(name, version, unloaded=False)
        clock = self._instance.clock
        started = clock.monotonic()
        while True:
            try:
                await self._load(name, version, timeout_s, asking, as_of)
                return
            except Unloaded:
                # Who decides has heard that it was taken out, and not yet that it is back.
                if asking is None or clock.monotonic() - started > _NEWS_S:
                    raise
                await asyncio.sleep(_AGAIN_S)

    async def _load(
        self, name: str, version: int | None, timeout_s: float | None, asking: Asking | None,
        as_of: int,
    ) -> None:
        clock = self._instance.clock
        ends_at = clock.monotonic() + (timeout_s or 0.0)
        found = await self._instance.ask(on.LoadAsked, name, version, timeout_s, as_of)
        attempt = 0
        while found is not None and asking is not None:
            attempt += 1
            left_s = ends_at - clock.monotonic()
            if left_s <= 0:
                raise DeadlineExceeded(
                    f"model {name!r} was not ready within {timeout_s:g} s; it goes on loading, try "
                    "again later")
            miss = await self._awaited(asking, found, left_s)
            if miss is None:
                return
            copy = await self._instance.acquire(
                name, version, left_s, attempt=attempt, miss=miss)
            if isinstance(copy, LiveCopy):
                copy.release()
                return
            found = copy

    async def _tell_all(self, name: str, version: int | None, *, unloaded: bool) -> int:
        """In a mesh whoever decides about the model later must know it too, so the registry says
        it: in which revision; 0: it need not."""
        instance = self._instance
        record = instance.record(name)
        if instance.peers is None or (version is not None and served(record, version) is None):
            return 0

        def marked(record: ModelRecord) -> ModelRecord:
            out = record.out_of_service
            if unloaded:
                out.add(version)
            elif version is None:
                out.clear()
            elif None in out:
                out = {each.version for each in record.revisions if each.version != version}
            else:
                out.discard(version)
            marks = tuple(sorted(each or 0 for each in out))
            return msgspec.structs.replace(record, unloaded=marks)

        return await instance.replica.change(name, marked)

    async def _awaited(self, asking: Asking, there: Elsewhere, left_s: float) -> Miss | None:
        """Wait for the copy of another instance; why it will not come, None: it is ready."""
        holder = there.holders[0]
        try:
            await asking.one(
                holder, AwaitCopy(there.revision, left_s), type(None), left_s + PATIENCE_S)
        except Unavailable as error:
            return Miss(
                holder, there.revision, error.code, error.message, error.retry_after_s)
        return None
