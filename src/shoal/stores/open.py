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
from shoal.settings import RegistrySettings
from shoal.stores.etcd_options import is_etcd, read_options
from shoal.stores.memory import MemoryStore
from shoal.stores.sqlite import SqliteStore
from shoal.stores.sqlite_repair import discard, replace, salvage
from shoal.stores.sqlite_turn import turn

T = TypeVar("T")

_FILE: Final = "registry.sqlite3"
_BATCH: Final = 1_000  # records that are taken over in one transaction


def open_store(registry: RegistrySettings, data_dir: Path, clock: Clock) -> KVStore:
    """The store, open. Blocks for milliseconds on a file; an etcd is not connected before use.

    Raises InvalidSpecification for settings that name no store, StoreDamaged for a file that must
    be dealt with first (see `sqlite_repair`), StoreUnavailable for other trouble with it.
    """
    if is_etcd(registry.url):
        return _open_etcd(registry)
    path = registry_file(registry.url, data_dir)
    return MemoryStore(clock) if path is None else SqliteStore(path, clock)


def _open_etcd(registry: RegistrySettings) -> KVStore:
    options = read_options(registry)
    try:  # gRPC takes 30 ms and 8 MiB: only where it is used
        from shoal.stores.etcd import EtcdStore
    except ImportError as error:
        raise InvalidSpecification(
            f"registry.url: {options.url} needs grpcio, which cannot be imported ({error}); "
            "install it with: pip install 'shoal[etcd]'"
        ) from error
    return EtcdStore(options)


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
    registry: RegistrySettings, data_dir: Path, clock: Clock,
    read: Callable[[KVStore], Awaitable[T]],
) -> Opened[T]:
    """The store, repaired if it had to be.

    read: reads all of it, once, since damage of a value shows only then.
    A damaged file is put aside, never thrown away, and what can still be read of it is taken over.
    Where several processes find the damage, one repairs it and the others wait.
    Raises InvalidSpecification and StoreUnavailable as `open_store`, and what `read` raises.
    """
    path = registry_file(registry.url, data_dir)
    if path is None:
        return await _open_and_read(registry, data_dir, clock, read, None)
    try:
        async with turn(path):
            return await _open_and_read(registry, data_dir, clock, read, None)
    except StoreDamaged:
        pass
    async with turn(path, alone=True):
        try:  # another process may have been quicker
            return await _open_and_read(registry, data_dir, clock, read, None)
        except StoreDamaged as error:
            damage = error.message
        repair = await _repair(path, clock, damage)
        return await _open_and_read(registry, data_dir, clock, read, repair)


async def _repair(path: Path, clock: Clock, damage: str) -> Repair:
    """Write anew what can be read, beside the damaged file, then let the one take the other's
    place: who is killed meanwhile leaves a file that is damaged, not one that is half full."""
    rows = await asyncio.to_thread(salvage, path)
    anew = path.with_name(f"{path.name}.anew")
    await asyncio.to_thread(discard, anew)  # what somebody left who was killed
    store = await asyncio.to_thread(SqliteStore, anew, clock)
    try:
        for start in range(0, len(rows), _BATCH):
            await store.transact([Put(key, value) for key, value in rows[start : start + _BATCH]])
    finally:
        await store.close()
    aside = await asyncio.to_thread(replace, path, anew)
    return Repair(damage, aside, tuple(key for key, _ in rows))


async def _open_and_read(
    registry: RegistrySettings, data_dir: Path, clock: Clock,
    read: Callable[[KVStore], Awaitable[T]], repair: Repair | None,
) -> Opened[T]:
    store = await asyncio.to_thread(open_store, registry, data_dir, clock)
    try:
        return Opened(store, await read(store), repair)
    except BaseException:
        await store.close()
        raise


def registry_file(url: str, data_dir: Path) -> Path | None:
    """The file that `url` names; None for `memory` and for an etcd. Raises InvalidSpecification.

    `sqlite` is the file in `data_dir`; `sqlite:///var/lib/shoal.sqlite3` is an absolute path,
    percent-encoded as in any URL.
    """
    if url == "memory" or is_etcd(url):
        return None
    if url == "sqlite":
        return data_dir / _FILE
    parts = urlsplit(url)
    extra = parts.netloc or parts.query or parts.fragment
    path = Path("/" + unquote(parts.path).lstrip("/"))
    if parts.scheme != "sqlite" or extra or path == Path("/"):
        raise InvalidSpecification(
            f"registry.url: {url!r} names no store; set it to `sqlite` (a file in data_dir), "
            "`sqlite:///absolute/path/of/a/file`, `etcd://host:2379` or `memory`"
        )
    return path
