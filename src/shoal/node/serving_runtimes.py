"""Keeps the serving runtimes that the registry declares known to this instance, and writes them.

Must not know which models use them, nor how anything is loaded into one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import msgspec

from shoal.codecs import foreign
from shoal.domain.choosing import find_named
from shoal.domain.serving_runtime import DeclaredRuntime, ServingRuntime, offer_of
from shoal.node.contents import RUNTIMES, Contents
from shoal.node.following import Following, Listener
from shoal.ports import Clock, KVStore

OnChange: TypeAlias = Callable[[frozenset[str]], None]
"""Told the names of runtimes that are there, gone, or declared otherwise from now on."""

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(DeclaredRuntime)


class ServingRuntimes:
    """The table of them, empty until it is started. Read on any thread, changed on the event loop.
    listeners: are called in order, after every change."""

    def __init__(self, clock: Clock) -> None:
        self.listeners: list[OnChange] = []
        self.problems: dict[str, str] = {}  # records that cannot be read, by name
        self._clock = clock
        self._known: dict[str, DeclaredRuntime] = {}  # replaced whole, for readers on threads
        self._following: Following | None = None

    async def start(
        self, store: KVStore, contents: Contents, on_problem: Callable[[str], None]
    ) -> None:
        """Know those of `contents`, which is of the store, then follow changes. on_problem: for
        what an operator should know, in a sentence."""
        self._on_problem = on_problem
        self._following = Following(store, RUNTIMES, "serving runtimes", Listener(
            self._changed, lambda: (*self._known, *self.problems), on_problem))
        await self._following.start(contents.runtimes, contents.revision)

    async def stop(self) -> None:
        if self._following is not None:
            await self._following.stop()

    # --- reading --------------------------------------------------------------------------------

    def all(self) -> tuple[DeclaredRuntime, ...]:
        """By name."""
        return tuple(self._known.values())

    def find(self, name: str) -> DeclaredRuntime | None:
        return self._known.get(name)

    def get(self, name: str) -> ServingRuntime:
        """For loading into it. Raises RuntimeNotRecognized, RuntimeDisabled."""
        return find_named(name, self.all())

    def is_usable(self, name: str) -> bool:
        """May models be loaded into it?"""
        found = self._known.get(name)
        return found is not None and not found.serving.disabled

    def offers(self) -> tuple[str, ...]:
        """The words by which this instance says what it loads into."""
        return tuple(offer_of(name) for name in self._known if self.is_usable(name))

    # --- writing --------------------------------------------------------------------------------

    async def put(self, serving: ServingRuntime) -> DeclaredRuntime:
        """Declare it for all, or replace what has its name. Raises StoreUnavailable; then nothing
        has changed."""
        known = self._known.get(serving.name)
        declared = DeclaredRuntime(
            serving, self._clock.wall() if known is None else known.created_at)
        if declared != known:
            assert self._following is not None, "start comes first"
            await self._following.put(serving.name, _ENCODER.encode(declared))
        return declared

    async def delete(self, name: str) -> None:
        """Forget it. Raises StoreUnavailable; then nothing has changed."""
        assert self._following is not None, "start comes first"
        await self._following.delete(name)

    # --- changes --------------------------------------------------------------------------------

    def _changed(self, changes: Mapping[str, bytes | None]) -> None:
        known = dict(self._known)
        for name, value in changes.items():
            self.problems.pop(name, None)
            known.pop(name, None)
            if value is None:
                continue
            try:
                known[name] = _read(name, value)
            except msgspec.DecodeError as error:
                self.problems[name] = (
                    f"the registry's record of the serving runtime {name!r} is not readable and is "
                    f"ignored: {error}; declare it again with 'shoal runtimes apply'")
                self._on_problem(self.problems[name])
        before, self._known = self._known, dict(sorted(known.items()))
        changed = frozenset(
            name for name in changes if before.get(name) != self._known.get(name))
        if changed:
            for listener in self.listeners:
                listener(changed)


def _read(name: str, value: bytes) -> DeclaredRuntime:
    """What an earlier or a later release wrote, too. The key says the name."""
    declared = foreign.read(_DECODER, value)
    if declared.serving.name == name:
        return declared
    serving = msgspec.structs.replace(declared.serving, name=name)
    return msgspec.structs.replace(declared, serving=serving)
