# ruff: noqa: ASYNC240 - nothing else runs on a test's event loop
"""The SQLite store with real processes, real kills, full disks and damaged files."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from tests.store_processes import DEADLINE_S, SystemClock, opened, output, process

from shoal.domain.errors import StoreUnavailable
from shoal.ports import Change, LeaseLost, Put
from shoal.stores.sqlite import SqliteStore

NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.sqlite3"


async def contents(store: SqliteStore) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in (await store.list("")).entries}


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
        with pytest.raises(StoreUnavailable, match=r"was moved or deleted.*put it back"):
            await store.put("a", b"2")
        path.with_name("moved").rename(path)
        assert await store.get("a") is not None


async def test_a_file_that_was_replaced_is_not_mixed_up_with_the_new_one(path: Path) -> None:
    async with opened(path) as store:
        await store.put("a", b"1")
        path.rename(path.with_name("moved"))
        async with opened(path):
            with pytest.raises(StoreUnavailable, match=r"was replaced by another.*restart"):
                await store.get("a")


async def test_a_watch_hears_that_the_folder_of_the_file_cannot_be_entered_any_more(
    path: Path
) -> None:
    folder = path.parent / "inner"
    async with opened(folder / path.name) as store:
        watching = asyncio.ensure_future(anext(store.watch("", 0)))
        async with asyncio.timeout(DEADLINE_S):
            while store._lookout._seen is None:  # noqa: ASYNC110 - the first look finds news
                await asyncio.sleep(0.005)
        await store.get("a")  # behind the watch's, on the same thread: now it waits
        errors: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, told: errors.append(told))
        folder.rename(path.parent / "elsewhere")
        folder.symlink_to(folder)  # a loop, which stat(2) refuses like a folder without permission
        with pytest.raises(StoreUnavailable, match="cannot be used"):
            await asyncio.wait_for(watching, 5)
        assert errors == []


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
