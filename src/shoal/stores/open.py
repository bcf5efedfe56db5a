"""Chooses the store that `registry.url` names.

The only module of this package that knows all adapters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar
from urllib.parse import unquote, urlsplit

from shoal.domain.errors import InvalidSpecification, StoreDamaged
from shoal.ports import Clock, KVStore, Put
from shoal.stores.memory import MemoryStore
from shoal.stores.sqlite import SqliteStore
from shoal.stores.sqlite_repair import quarantine, salvage

T = TypeVar("T")

_FILE: Final = "registry.sqlite3"
_BATCH: Final = 1_000  # records that are taken over in one transaction


def open_store(url: str, data_dir: Path, clock: Clock) -> KVStore:
    """The store, open. Blocks for milliseconds on a file.

    Raises InvalidSpecification for a URL that names no store, StoreDamaged for a file that must be
    dealt with first (see `sqlite_repair`), StoreUnavailable for other trouble with it.
    """
    path = registry_file(url, data_dir)
    return MemoryStore(clock) if path is None else SqliteStore(path, clock)


@dataclass(frozen=True, slots=True)
class Repair:
    """What had to be done to open a store. damage: in words. aside: where the damaged file is now.
    kept: the keys that could still be read."""

    damage: str
    aside: Path
    kept: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Opened(Generic[T]):
    """A store, and what was read from it. repair: None when there was nothing to repair."""

    store: KVStore
    contents: T
    repair: Repair | None


async def open_or_repair(
    url: str, data_dir: Path, clock: Clock, read: Callable[[KVStore], Awaitable[T]]
) -> Opened[T]:
    """The store, repaired if it had to be.

    read: reads all of it, once, since damage of a value shows only then.
    A damaged file is put aside, never thrown away, and what can still be read of it is taken over.
    Raises InvalidSpecification and StoreUnavailable as `open_store`, and what `read` raises.
    """
    path = registry_file(url, data_dir)
    try:
        return await _open_and_read(url, data_dir, clock, read, None)
    except StoreDamaged as error:
        damage = error.message
    assert path is not None, "only files are damaged"
    rows = await asyncio.to_thread(salvage, path)
    aside = await asyncio.to_thread(quarantine, path)
    store = await asyncio.to_thread(open_store, url, data_dir, clock)
    try:
        for start in range(0, len(rows), _BATCH):
            await store.transact([Put(key, value) for key, value in rows[start : start + _BATCH]])
    finally:
        await store.close()
    repair = Repair(damage, aside, tuple(key for key, _ in rows))
    return await _open_and_read(url, data_dir, clock, read, repair)


async def _open_and_read(
    url: str, data_dir: Path, clock: Clock, read: Callable[[KVStore], Awaitable[T]],
    repair: Repair | None,
) -> Opened[T]:
    store = await asyncio.to_thread(open_store, url, data_dir, clock)
    try:
        return Opened(store, await read(store), repair)
    except BaseException:
        await store.close()
        raise


def registry_file(url: str, data_dir: Path) -> Path | None:
    """The file that `url` names; None for `memory`. Raises InvalidSpecification.

    `sqlite` is the file in `data_dir`; `sqlite:///var/lib/shoal.sqlite3` is an absolute path,
    percent-encoded as in any URL.
    """
    if url == "memory":
        return None
    if url == "sqlite":
        return data_dir / _FILE
    parts = urlsplit(url)
    extra = parts.netloc or parts.query or parts.fragment
    path = Path("/" + unquote(parts.path).lstrip("/"))
    if parts.scheme != "sqlite" or extra or path == Path("/"):
        raise InvalidSpecification(
            f"registry.url: {url!r} names no store; set it to `sqlite` (a file in data_dir), "
            "`sqlite:///absolute/path/of/a/file` or `memory`"
        )
    return path
