# ruff: noqa: ASYNC240 - nothing else runs on a test's event loop
"""A damaged registry file: told, never served from, put aside, and what is readable taken over."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.store_processes import SystemClock, opened

from shoal.domain.errors import StoreDamaged, StoreUnavailable
from shoal.ports import Put
from shoal.stores.sqlite import SqliteStore
from shoal.stores.sqlite_repair import quarantine, salvage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.sqlite3"


async def contents(store: SqliteStore) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in (await store.list("")).entries}


async def filled(path: Path, count: int = 200) -> dict[str, bytes]:
    made = {f"models/{n:04}": f"value {n} ".encode() * 20 for n in range(count)}
    async with opened(path) as store:
        pairs = list(made.items())
        for start in range(0, count, 20):
            await store.transact([Put(*pair) for pair in pairs[start : start + 20]])
    return made


def damage_of(path: Path) -> str:
    before = path.read_bytes()
    with pytest.raises(StoreDamaged) as refused:
        SqliteStore(path, SystemClock())
    assert path.read_bytes() == before
    assert "move it aside" in refused.value.message
    return refused.value.message


def test_a_file_of_garbage_is_told_and_left_alone(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(20_000))
    assert "not a database" in damage_of(path)


async def test_a_truncated_file_is_told_and_left_alone(path: Path) -> None:
    await filled(path)
    os.truncate(path, path.stat().st_size // 2)
    assert "malformed" in damage_of(path)


async def test_an_overwritten_page_is_told_and_left_alone(path: Path) -> None:
    await filled(path)
    with path.open("r+b") as file:
        file.seek(4096 * 6)
        file.write(b"\xa5" * 4096)
    damage_of(path)


async def test_an_altered_value_is_never_served(path: Path) -> None:
    await filled(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE entry SET value = 'valuf 7' WHERE key = CAST('models/0007' AS BLOB)")
    async with opened(path) as store:
        with pytest.raises(StoreDamaged, match="'models/0007' was altered"):
            await store.get("models/0007")
        with pytest.raises(StoreDamaged):
            await store.list("")
        assert await store.get("models/0008") is not None


async def test_a_revision_that_went_back_is_told(path: Path) -> None:
    await filled(path, 5)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE registry SET value = 0 WHERE name = 'revision'")
    assert "does not go with its history" in damage_of(path)


async def test_a_flipped_bit_never_makes_a_wrong_answer(path: Path, tmp_path: Path) -> None:
    made = await filled(path, 60)
    whole = path.read_bytes()
    chance = random.Random(20_260_101)
    refused = 0
    for n in range(150):
        flipped = bytearray(whole)
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        copy = tmp_path / f"{n}.sqlite3"
        copy.write_bytes(flipped)
        try:
            async with opened(copy) as store:
                assert await contents(store) == made
        except StoreUnavailable:
            refused += 1
            saved = dict(salvage(copy))
            assert all(made[key] == value for key, value in saved.items())
    assert refused > 30


async def test_a_quarantined_file_makes_room_for_a_new_one(path: Path) -> None:
    await filled(path, 10)
    path.with_name(path.name + "-wal").write_bytes(b"left behind")
    before = path.read_bytes()
    aside = quarantine(path)
    assert aside.name.startswith("registry.sqlite3.corrupt-")
    assert aside.read_bytes() == before
    assert aside.with_name(aside.name + "-wal").read_bytes() == b"left behind"
    async with opened(path) as store:
        assert await contents(store) == {}


async def test_two_quarantines_in_one_second_keep_both_files(path: Path) -> None:
    path.write_bytes(b"first")
    first = quarantine(path)
    path.write_bytes(b"second")
    second = quarantine(path)
    assert (first.read_bytes(), second.read_bytes()) == (b"first", b"second")


def test_quarantine_of_nothing_is_refused(path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be moved aside"):
        quarantine(path)


async def test_everything_is_salvaged_where_only_the_counters_are_damaged(path: Path) -> None:
    made = await filled(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DELETE FROM registry")
    damage_of(path)
    assert salvage(path) == sorted(made.items())


async def test_salvage_does_not_change_the_file(path: Path) -> None:
    await filled(path)
    os.truncate(path, path.stat().st_size // 2)
    before = path.read_bytes()
    salvage(path)
    assert path.read_bytes() == before


async def test_salvage_reads_what_is_only_in_the_log_yet(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.sqlite3"
    async with opened(path) as store:
        await store.put("a", b"1")
        shutil.copy(path, copy)
        shutil.copy(f"{path}-wal", f"{copy}-wal")
    assert salvage(copy) == [("a", b"1")]


async def test_salvage_leaves_out_deleted_leased_and_altered_keys(path: Path) -> None:
    async with opened(path) as store:
        for key in ("kept", "deleted", "altered"):
            await store.put(key, b"1")
        await store.delete("deleted")
        await store.put("leased", b"1", lease=await store.grant(600))
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            for table in ("entry", "history"):
                db.execute(f"UPDATE {table} SET value = '2' WHERE key = CAST('altered' AS BLOB)")
        assert salvage(path) == [("kept", b"1")]


@pytest.mark.parametrize("pages", [1, 3, 10])
async def test_salvage_steps_over_damaged_pages(path: Path, pages: int) -> None:
    made = await filled(path, 1000)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DELETE FROM history")  # the second copy of everything
        db.execute("VACUUM")
    count = path.stat().st_size // 4096
    with path.open("r+b") as file:
        for page in random.Random(pages).sample(range(20, count), pages):
            file.seek(4096 * page)
            file.write(b"\xa5" * 4096)
    saved = dict(salvage(path))
    assert all(made[key] == value for key, value in saved.items())
    assert len(saved) >= 1000 - 25 * pages


def test_nothing_is_salvaged_from_garbage(path: Path) -> None:
    path.write_bytes(random.Random(2).randbytes(20_000))
    assert salvage(path) == []


def test_salvage_of_a_missing_file_is_refused(path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        salvage(path)


async def test_leases_that_cannot_be_revoked_do_not_stop_closing(path: Path) -> None:
    async with opened(path, busy_timeout_s=0.05) as store:
        await store.grant(60)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await store.close()
            other.execute("ROLLBACK")
