"""A registry file under changes in bulk: a watch reads whole transactions, however large."""

from __future__ import annotations

import asyncio
from pathlib import Path

from shoal.node.clock import SystemClock
from shoal.ports import Put
from shoal.stores import sqlite_rows
from shoal.stores.sqlite import SqliteStore


async def test_a_watch_brings_every_change_of_large_transactions_in_order(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "registry.sqlite3", SystemClock())
    each = sqlite_rows._BATCH_ROWS // 2 + 1
    written = []
    for start in range(0, 5 * each, each):
        keys = [f"models/{number:06}" for number in range(start, start + each)]
        await store.transact([Put(key, b"v") for key in keys])
        written += keys
    seen = []
    async with asyncio.timeout(30):
        async for change in store.watch("models/", 0):
            seen.append(change)
            if len(seen) == len(written):
                break
    assert [change.key for change in seen] == written
    assert [change.revision for change in seen[::each]] == [1, 2, 3, 4, 5]
    await store.close()
