"""Where models come from: the places that are read, with which credentials, and watched folders."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from shoal.node.contents import Contents
from shoal.node.instance import Instance
from shoal.node.named_credentials import NamedCredentials
from shoal.node.stored_credentials import StoredCredentials
from shoal.ports import Clock, KVStore
from shoal.runtimes.registry import RuntimeRegistry
from shoal.settings import Settings
from shoal.storage.children import Children
from shoal.storage.disk_cache import DiskCache
from shoal.storage.download import Options as DownloadOptions
from shoal.storage.fetching import Fetching, Told
from shoal.storage.folder import ModelFolder
from shoal.storage.places.credentials import Credentials, FileSource
from shoal.storage.places.reach import Reach
from shoal.storage.places.sealing import Keys
from shoal.storage.places.stored import StoredSource
from shoal.storage.remote_children import RemoteChildren
from shoal.storage.uri import is_remote

Note = Callable[[str, str], None]  # an event: its kind, and a sentence


class Sources:
    """Of one instance. Raises InvalidSpecification for credentials and certificates that cannot be
    read."""

    def __init__(self, settings: Settings, runtimes: RuntimeRegistry, clock: Clock) -> None:
        self._settings = settings
        self._runtimes = runtimes
        self._clock = clock
        storage = settings.storage
        self._stored = StoredSource(Keys.read(storage.credentials_key_file))
        files = [FileSource(Path(each).expanduser()) for each in storage.credentials]
        self._credentials = Credentials([*files, self._stored])
        folder = Path(storage.cache_dir or settings.data_dir / "artifacts").expanduser()
        self.fetching = Fetching(
            lambda: DiskCache(folder, storage.cache_size),
            self._credentials,
            DownloadOptions(threads=storage.connections, part_bytes=storage.part_size),
            tell=self._downloaded,
            reach=Reach.read(storage.ca_file, storage.insecure_registries),
        )
        self._kept: StoredCredentials | None = None  # in the registry

    async def start(self, store: KVStore, contents: Contents, note: Note) -> None:
        """Before anything is read from elsewhere."""
        self._loop = asyncio.get_running_loop()
        self._note = note
        self._kept = StoredCredentials(
            store, self._stored, lambda what: note("registry_problem", what))
        await self._kept.start(contents)

    def named_credentials(self, instance: Instance) -> NamedCredentials:
        assert self._kept is not None, "start comes first"
        return NamedCredentials(self._credentials, self._kept, instance.replica, instance.journal)

    def folder(self, given: str) -> ModelFolder:
        """given: a path, or the URI of a prefix."""
        settings = self._settings
        if is_remote(given):
            return ModelFolder(
                RemoteChildren(given, self.fetching, self._runtimes),
                settle_s=settings.folder.settle_s, poll_s=settings.storage.poll_s,
                clock=self._clock)
        return ModelFolder(
            Children(Path(given), self._runtimes, self.fetching),
            settle_s=settings.folder.settle_s, poll_s=settings.folder.poll_s, clock=self._clock)

    async def stop(self) -> None:
        """Ask downloads to end; `close` comes when nobody waits for them any more."""
        self.fetching.stop()
        if self._kept is not None:
            await self._kept.stop()

    def close(self) -> None:
        self.fetching.close()

    def _downloaded(self, told: Told) -> None:
        """On any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, nobody is interested
            if told.took_s is None:
                self._loop.call_soon_threadsafe(
                    self._note, "downloading",
                    f"{told.size_bytes:,} bytes come from {told.uri}")
            else:
                self._loop.call_soon_threadsafe(
                    self._note, "downloaded",
                    f"{told.size_bytes:,} bytes came from {told.uri} in {told.took_s:.3f} s")
