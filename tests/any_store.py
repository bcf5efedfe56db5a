"""Every `KVStore`, opened alike. A new one joins by a name in `STORES` and a way to be opened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.etcd_numbered import NumberedEtcd
from tests.storage_fakes import HeldClock

from shoal.ports import Change, KVStore
from shoal.stores.memory import MemoryStore
from shoal.stores.sqlite import SqliteStore

HISTORY = 100
DEADLINE_S = 10.0
STORES = ("etcd", "memory", "sqlite")


def opened_store(
    name: str, request: pytest.FixtureRequest, folder: Path, clock: HeldClock
) -> KVStore:
    if name == "etcd":
        return NumberedEtcd(request.getfixturevalue("etcd_server"), clock, HISTORY)
    if name == "sqlite":
        path = folder / "registry.sqlite3"
        return SqliteStore(path, clock, history_limit=HISTORY, poll_s=0.01)
    return MemoryStore(clock, history_limit=HISTORY)


async def keys(store: KVStore, prefix: str = "") -> list[str]:
    return [entry.key for entry in (await store.list(prefix)).entries]


async def take(watch: AsyncIterator[Change], count: int) -> list[Change]:
    async with asyncio.timeout(DEADLINE_S):
        return [await anext(watch) for _ in range(count)]


def plain(changes: list[Change]) -> list[tuple[str, bytes | None]]:
    return [(change.key, change.value) for change in changes]
