"""Keeps what the registry has under a prefix known to this instance, by a watch, and writes it.

For the few records that every instance knows whole; models have a replica of their own. Must not
know what the values say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from shoal.domain.errors import StoreUnavailable
from shoal.node.retrying import retry_s
from shoal.observability.logs import get_logger
from shoal.ports import Change, Compacted, Entry, KVStore

log = get_logger("shoal.node")


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told. changes: values by name, None for what is gone. known: the names it knows now.
    on_problem: for what an operator should know, in a sentence."""

    changes: Callable[[Mapping[str, bytes | None]], None]
    known: Callable[[], Iterable[str]]
    on_problem: Callable[[str], None]


class Following:
    """prefix: of the keys. what: they are, for messages, such as `credentials`."""

    def __init__(self, store: KVStore, prefix: str, what: str, listener: Listener) -> None:
        self._store = store
        self._prefix = prefix
        self._what = what
        self._listener = listener
        self._revision = 0  # of the store, up to which changes are known
        self._younger: dict[str, int] = {}  # what is known here before the watch brings it
        self._watching: asyncio.Task[None] | None = None

    async def start(self, entries: Sequence[Entry], revision: int) -> None:
        """Tell of these, then follow changes. revision: of the store, from which on they count;
        some of the entries may be younger."""
        self._revision = revision
        for entry in entries:
            if entry.revision > revision:
                self._younger[self._name(entry.key)] = entry.revision
        self._listener.changes({self._name(entry.key): entry.value for entry in entries})
        self._watching = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    # --- writing --------------------------------------------------------------------------------

    async def put(self, name: str, value: bytes) -> None:
        """Store it; it has been told of when this returns. Raises StoreUnavailable; then nothing
        has changed here."""
        self._wrote(name, value, await self._store.put(self._prefix + name, value))

    async def delete(self, name: str) -> None:
        """Forget it, here and in the store. Raises StoreUnavailable; then nothing has changed."""
        self._wrote(name, None, await self._store.delete(self._prefix + name))

    def _wrote(self, name: str, value: bytes | None, revision: int) -> None:
        if revision > max(self._revision, self._younger.get(name, 0)):
            self._younger[name] = revision
            self._listener.changes({name: value})

    # --- watching -------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """For ever; a store that is gone for a while is asked again, less and less often."""
        failures, missed = 0, False
        while True:
            try:
                if missed:
                    await self._list_again()
                    missed = False
                async for change in self._store.watch(self._prefix, self._revision):
                    self._changed(change)
                    failures = 0
            except Compacted:
                missed = True
            except StoreUnavailable:  # which the replica of the models tells
                await asyncio.sleep(retry_s(failures))
                failures += 1
            except Exception as error:  # a defect of ours; what is known goes on being used
                log.exception("watching the registry failed", what=self._what)
                self._listener.on_problem(
                    f"the registry's {self._what} are watched no longer: {type(error).__name__}; "
                    "restart, and report this defect")
                return

    def _changed(self, change: Change) -> None:
        name = self._name(change.key)
        self._revision = change.revision
        younger = self._younger.get(name, 0)
        if change.revision >= younger:
            self._younger.pop(name, None)
        if change.revision > younger:
            self._listener.changes({name: change.value})

    async def _list_again(self) -> None:
        """Changes were missed: what there is now is known, and nothing else."""
        listing = await self._store.list(self._prefix)
        now: dict[str, bytes | None] = dict.fromkeys(self._listener.known())
        now |= {self._name(entry.key): entry.value for entry in listing.entries}
        self._revision = listing.revision
        written = {name for name, at in self._younger.items() if at > listing.revision}
        self._listener.changes(
            {name: value for name, value in now.items() if name not in written})
        self._younger = {name: self._younger[name] for name in written}

    def _name(self, key: str) -> str:
        return key.removeprefix(self._prefix)
