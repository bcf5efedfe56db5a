"""Keeps the registry's named credentials known to this instance, and writes them.

What a record says is for `storage.places.stored`; who may set them, and who uses them, is for
`named_credentials`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from shoal.node.contents import CREDENTIALS, Contents
from shoal.node.following import Following, Listener
from shoal.ports import KVStore
from shoal.storage.places.credentials import Access
from shoal.storage.places.stored import StoredSource


class StoredCredentials:
    """known: what is told of every change, for whoever reads them, on any thread. on_problem: for
    what an operator should know, in a sentence; never with a value."""

    def __init__(
        self, store: KVStore, known: StoredSource, on_problem: Callable[[str], None]
    ) -> None:
        self.known: Final = known
        self._on_problem = on_problem
        self._following = Following(store, CREDENTIALS, "credentials", Listener(
            self._tell, lambda: tuple(known.read()), on_problem))

    async def start(self, contents: Contents) -> None:
        """Know those of `contents`, then follow changes."""
        await self._following.start(contents.credentials, contents.revision)

    async def stop(self) -> None:
        await self._following.stop()

    async def put(self, access: Access) -> None:
        """Store them and know them from now on. Raises StoreUnavailable; then nothing has changed
        here."""
        await self._following.put(access.name, self.known.record(access))

    async def delete(self, name: str) -> None:
        """Forget them, here and in the store. Raises StoreUnavailable; then nothing has changed."""
        await self._following.delete(name)

    def _tell(self, changes: Mapping[str, bytes | None]) -> None:
        for problem in self.known.update(changes):
            self._on_problem(problem)
