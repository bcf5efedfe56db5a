# ruff: noqa: ASYNC240 - nothing else runs on a test's event loop
"""The SQLite store with real processes, real kills, full disks and damaged files."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest

import shoal
from shoal.domain.errors import StoreDamaged, StoreUnavailable
from shoal.ports import Change, LeaseLost, Put
from shoal.stores.sqlite import SqliteStore
from shoal.stores.sqlite_repair import quarantine, salvage

DEADLINE_S = 30.0
NOBODY = 65534
SOURCES = Path(shoal.__file__).parents[1]


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.sqlite3"


@asynccontextmanager
async def opened(path: Path, busy_timeout_s: float = 5.0) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, SystemClock(), busy_timeout_s=busy_timeout_s)
    try:
        yield store
    finally:
        await store.close()


async def contents(store: SqliteStore) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in (await store.list("")).entries}


PRELUDE = """
import asyncio, os, sys, time
from pathlib import Path
from shoal.domain.errors import Conflict, StoreUnavailable
from shoal.ports import Put
from shoal.stores.sqlite import SqliteStore

class Clock:
    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

path = Path(sys.argv[1])
"""


@contextmanager
def process(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs `script`, killed at the end."""
    started = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
    )
    try:
        with started:
            try:
                yield started
            finally:
                started.kill()
    finally:
        started.wait(DEADLINE_S)


def output(script: str, *arguments: object) -> str:
    with process(script, *arguments) as running:
        out, err = running.communicate(timeout=DEADLINE_S)
        assert running.returncode == 0, err
    return out


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await holds():  # noqa: ASYNC110 - another process cannot set an event
            await asyncio.sleep(0.005)


# --- what stays


async def test_everything_is_there_after_reopening(path: Path) -> None:
    async with opened(path) as store:
        await store.put("a", b"1")
        await store.transact([Put("b", b"2"), Put("c", b"3")])
        await store.delete("a")
    async with opened(path) as store:
        listing = await store.list("")
        assert [(e.key, e.value, e.revision) for e in listing.entries] == [
            ("b", b"2", 2), ("c", b"3", 2),
        ]
        assert listing.revision == 3
        assert await store.put("d", b"4") == 4


async def test_a_watch_goes_on_where_another_run_ended(path: Path) -> None:
    async with opened(path) as store:
        await store.put("a", b"1")
        await store.put("b", b"2")
    async with opened(path) as store:
        assert await anext(store.watch("", 1)) == Change("b", b"2", 2)


async def test_closing_revokes_the_leases_of_this_run_alone(path: Path) -> None:
    async with opened(path) as staying, opened(path) as leaving:
        await staying.put("staying", b"", lease=await staying.grant(60))
        await leaving.put("leaving", b"", lease=await leaving.grant(60))
        await leaving.close()
        assert await contents(staying) == {"staying": b""}


async def test_the_lease_of_a_killed_process_ends_by_itself(path: Path) -> None:
    with process(
        """
async def main():
    store = SqliteStore(path, Clock())
    await store.put("alive", b"", lease=await store.grant(0.3))
    print("ready", flush=True)
    time.sleep(600)
asyncio.run(main())
""",
        path,
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        async with opened(path) as store:
            owner.send_signal(signal.SIGKILL)
            async with asyncio.timeout(DEADLINE_S):
                async for change in store.watch("", 1):
                    assert change == Change("alive", None, 2)
                    break
            with pytest.raises(LeaseLost):
                await store.keep_alive(1)


# --- several processes


INCREMENT = """
async def main():
    store = SqliteStore(path, Clock(), busy_timeout_s=30)
    done = 0
    while done < 50:
        entry = await store.get("counter")
        value = int(entry.value) if entry else 0
        try:
            await store.put("counter", str(value + 1).encode(),
                            expect=entry.revision if entry else 0)
            done += 1
        except Conflict:
            pass
    await store.close()
asyncio.run(main())
"""


async def test_processes_that_start_together_share_one_new_file(path: Path) -> None:
    with ExitStack() as together:
        for running in [together.enter_context(process(INCREMENT, path)) for _ in range(3)]:
            _, err = await asyncio.to_thread(running.communicate, timeout=DEADLINE_S)
            assert running.returncode == 0, err
    async with opened(path) as store:
        assert await contents(store) == {"counter": b"150"}
        changes = store.watch("", 0)
        assert [(await anext(changes)).value for _ in range(150)] == [
            str(n).encode() for n in range(1, 151)
        ]


async def test_a_watch_hears_of_another_process_within_a_tenth_of_a_second(path: Path) -> None:
    writer = """
async def main():
    store = SqliteStore(path, Clock())
    for line in sys.stdin:
        await store.put("a", str(time.time()).encode())
    await store.close()
asyncio.run(main())
"""
    async with opened(path) as store:
        watch = store.watch("", 0)
        with process(writer, path) as other:
            assert other.stdin is not None
            delays = []
            for _ in range(10):
                waiting = asyncio.ensure_future(anext(watch))
                print(file=other.stdin, flush=True)
                async with asyncio.timeout(DEADLINE_S):
                    change = await waiting
                assert change.value is not None
                delays.append(time.time() - float(change.value))
            other.communicate(timeout=DEADLINE_S)
    assert sorted(delays)[len(delays) // 2] < 0.1


async def test_a_killed_writer_leaves_nothing_half_done(path: Path) -> None:
    writer = """
async def main():
    store = SqliteStore(path, Clock())
    n = 0
    while True:
        n += 1
        await store.transact([Put(f"k{i:02}", str(n).encode()) for i in range(50)])
asyncio.run(main())
"""
    async with opened(path) as store:
        for _ in range(3):
            start = (await store.list("", limit=1)).revision

            async def wrote_some(start: int = start) -> bool:
                return (await store.list("", limit=1)).revision >= start + 5

            with process(writer, path) as running:
                await eventually(wrote_some)
                running.send_signal(signal.SIGKILL)
                running.wait(DEADLINE_S)
            found = await contents(store)
            assert len(found) == 50
            assert len(set(found.values())) == 1
    async with opened(path) as store:
        assert await contents(store) == found
        revision = (await store.list("")).revision
        assert await store.put("after", b"") == revision + 1


async def test_a_file_locked_for_long_is_told_and_then_used_again(path: Path) -> None:
    async with opened(path, busy_timeout_s=0.05) as store:
        await store.put("a", b"1")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match=r"locked by another process for 0\.05 s"):
                await store.put("a", b"2")
            assert await contents(store) == {"a": b"1"}
            other.execute("ROLLBACK")
        await store.put("a", b"3")


# --- places that do not work


def refusal(path: Path) -> str:
    with pytest.raises(StoreUnavailable) as refused:
        SqliteStore(path, SystemClock(), busy_timeout_s=0.05)
    assert str(path) in refused.value.message
    return refused.value.message


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    asyncio.run(SqliteStore(tmp_path / "new/folder/r.sqlite3", SystemClock()).close())
    assert (tmp_path / "new/folder/r.sqlite3").is_file()


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    assert "is a folder: set registry.url" in refusal(tmp_path)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "check the path" in refusal(tmp_path / "file" / "registry.sqlite3")


def test_a_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (a)")
    before = path.read_bytes()
    assert "of another program" in refusal(path)
    assert path.read_bytes() == before


def test_a_registry_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    asyncio.run(SqliteStore(path, SystemClock()).close())
    with closing(sqlite3.connect(path, isolation_level=None)) as newer:
        newer.execute("UPDATE registry SET value = 99 WHERE name = 'schema'")
    before = path.read_bytes()
    message = refusal(path)
    assert "newer Shoal (schema 99" in message
    assert "upgrade" in message
    assert path.read_bytes() == before


@pytest.mark.parametrize("existing", [False, True])
def test_a_folder_without_write_permission_is_told(existing: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if existing:
            asyncio.run(SqliteStore(folder / "registry.sqlite3", SystemClock()).close())
        folder.chmod(0o555)
        try:
            told = output(
                f"""
if os.getuid() == 0:
    os.setuid({NOBODY})
try:
    SqliteStore(path, Clock())
except StoreUnavailable as error:
    print(error.message)
""",
                folder / "registry.sqlite3",
            )
        finally:
            folder.chmod(0o755)
    assert "cannot be written" in told
    assert f"write access to {folder}" in told


async def test_a_file_that_was_moved_away_takes_no_more_writes(path: Path) -> None:
    async with opened(path) as store:
        await store.put("a", b"1")
        path.rename(path.with_name("moved"))
        with pytest.raises(StoreUnavailable, match="was moved or replaced"):
            await store.put("a", b"2")
        async with opened(path):
            with pytest.raises(StoreUnavailable, match="was moved or replaced"):
                await store.get("a")


# --- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.getuid() != 0 or subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    ).returncode:
        pytest.skip("mounting a small file system needs privileges")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_full_disk_stops_writes_and_nothing_else(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(300_000))
    written: dict[str, bytes] = {}

    async def fill(store: SqliteStore) -> None:
        for n in range(1000):
            pair = {f"a{n:03}": os.urandom(3000), f"b{n:03}": os.urandom(3000)}
            await store.transact([Put(key, value) for key, value in pair.items()])
            written.update(pair)

    async with opened(small_disk / "registry.sqlite3") as store:
        with pytest.raises(StoreUnavailable, match=r"the disk is full: free space in .*small"):
            await fill(store)
        assert written
        assert await contents(store) == written
        ballast.unlink()
        await store.put("again", b"")
        assert await contents(store) == {**written, "again": b""}
    async with opened(small_disk / "registry.sqlite3") as store:
        assert await contents(store) == {**written, "again": b""}


def test_a_quota_is_told_like_a_failing_disk(path: Path) -> None:
    told = output(
        """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
async def main():
    store = SqliteStore(path, Clock())
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    written = 0
    try:
        while True:
            await store.put(f"k{written:03}", bytes(3000))
            written += 1
    except StoreUnavailable as error:
        print(error.message)
    assert len((await store.list("")).entries) == written > 0
    await store.close()
asyncio.run(main())
""",
        path,
    )
    assert "the disk failed" in told
    assert "the change was not made" in told


# --- damage


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
