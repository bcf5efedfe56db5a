# ruff: noqa: ASYNC240 - nothing else runs on a test's event loop
"""Several processes on one SQLite registry: stopped, killed, in a hurry, or repairing it."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from tests.store_processes import DEADLINE_S, SystemClock, opened, process

from shoal.domain.errors import StoreUnavailable
from shoal.domain.mesh import Member
from shoal.node.members import Listeners, Members
from shoal.node.presence import Rhythm
from shoal.ports import Change, KVStore, Put
from shoal.settings import RegistrySettings
from shoal.stores.open import open_or_repair
from shoal.stores.sqlite import SqliteStore
from shoal.stores.sqlite_turn import turn

LOG_BYTES = 20 * 1024**2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.sqlite3"


async def said(running: subprocess.Popen[str]) -> str:
    """Its next line."""
    assert running.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        return (await asyncio.to_thread(running.stdout.readline)).rstrip("\n")


async def ended(running: subprocess.Popen[str]) -> str:
    """All that it said, once it has ended well."""
    out, err = await asyncio.to_thread(running.communicate, timeout=DEADLINE_S)
    assert running.returncode == 0, err
    return out


# --- locks


LOCK = """
import sqlite3
db = sqlite3.connect(path, isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
"""


async def test_a_stopped_process_that_holds_the_lock_stops_writing_and_nothing_else(
    path: Path
) -> None:
    async with opened(path, busy_timeout_s=1) as store:
        await store.put("a", b"1")
        lease = await store.grant(0.05)
        with process(LOCK, path) as holder:
            assert await said(holder) == "locked"
            holder.send_signal(signal.SIGSTOP)
            writes = [asyncio.ensure_future(store.put("a", b"2")),
                      asyncio.ensure_future(store.keep_alive(lease))]
            async with asyncio.timeout(0.9):  # less than a write waits
                for _ in range(20):
                    entry = await store.get("a")
                    assert entry is not None
                    assert entry.value == b"1"
                assert len((await store.list("")).entries) == 1
            for write in writes:
                with pytest.raises(StoreUnavailable, match=r"locked by another .* for 1 s"):
                    await write
            holder.send_signal(signal.SIGKILL)
            holder.send_signal(signal.SIGCONT)
        await store.put("a", b"3")


async def test_a_write_goes_on_when_the_lock_is_given_back_in_time(path: Path) -> None:
    async with opened(path) as store:
        with process(LOCK, path) as holder:
            assert await said(holder) == "locked"
            first = asyncio.ensure_future(store.put("a", b"1"))
            second = asyncio.ensure_future(store.put("a", b"2"))
            assert await store.get("a") is None
            holder.communicate("\n", timeout=DEADLINE_S)
            assert (await first, await second) == (1, 2)


async def test_closing_does_not_wait_longer_than_a_write(path: Path) -> None:
    with process(LOCK, path) as holder:
        store = SqliteStore(path, SystemClock(), busy_timeout_s=0.1)
        await store.put("a", b"", lease=await store.grant(60))
        holder.kill()
        holder.wait(DEADLINE_S)
        with process(LOCK, path) as other:
            assert await said(other) == "locked"
            async with asyncio.timeout(5):
                await store.close()


WRITE = """
async def main():
    store, longest_s = SqliteStore(path, Clock()), 0.0
    for n in range(60):
        began = time.monotonic()
        await store.put(f"{sys.argv[2]}/{n}", b"x" * 500)
        longest_s = max(longest_s, time.monotonic() - began)
    await store.close()
    print(longest_s)
asyncio.run(main())
"""


async def test_none_of_eight_writers_starves(path: Path) -> None:
    with ExitStack() as together:
        writers = [together.enter_context(process(WRITE, path, n)) for n in range(8)]
        longest_s = [float(await ended(writer)) for writer in writers]
    async with opened(path) as store:
        listing = await store.list("")
        assert len(listing.entries) == listing.revision == 8 * 60
    assert max(longest_s) < 3


# --- the log


READ = """
async def main():
    store = SqliteStore(path, Clock())
    print("reading", flush=True)
    while not Path(sys.argv[2]).exists():
        await store.list("", limit=200)
    await store.close()
asyncio.run(main())
"""


async def test_the_log_stays_small_while_others_read_without_a_pause(
    path: Path, tmp_path: Path
) -> None:
    longest, enough = 0, tmp_path / "enough"
    async with opened(path) as store:
        with ExitStack() as together:
            readers = [together.enter_context(process(READ, path, enough)) for _ in range(2)]
            for reader in readers:
                assert await said(reader) == "reading"
            for n in range(40):
                await store.transact([Put(f"{n % 4}/{m}", os.urandom(5_000)) for m in range(200)])
                longest = max(longest, Path(f"{path}-wal").stat().st_size)
            enough.touch()
            for reader in readers:
                await ended(reader)
    assert longest < LOG_BYTES  # of the 40 MB that were written


async def test_the_log_shrinks_when_a_reader_that_stood_still_goes_on(path: Path) -> None:
    async with opened(path) as store:
        await store.put("a", b"")
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM entry").fetchone()
            for n in range(30):
                await store.transact([Put(f"{n % 4}/{m}", bytes(5_000)) for m in range(200)])
            log = Path(f"{path}-wal")
            assert log.stat().st_size > LOG_BYTES
            reader.execute("ROLLBACK")
        for n in range(3):
            await store.put("a", str(n).encode())
        assert log.stat().st_size <= 8 * 1024**2


# --- opening together


CHURN = """
async def main():
    for n in range(15):
        store = SqliteStore(path, Clock())
        await store.put(f"{sys.argv[2]}/{n}", b"")
        await store.close()
asyncio.run(main())
"""


async def test_a_file_may_be_made_opened_and_left_by_many_at_once(path: Path) -> None:
    with ExitStack() as together:
        for running in [together.enter_context(process(CHURN, path, n)) for n in range(4)]:
            await ended(running)
    async with opened(path) as store:
        assert (await store.list("")).revision == 4 * 15


REPAIR = """
from shoal.settings import RegistrySettings
from shoal.stores.open import open_or_repair
async def read(store):
    return len((await store.list("")).entries)
async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    opened = await open_or_repair(RegistrySettings(url=f"sqlite://{path}"), path.parent,
                                  Clock(), read)
    await opened.store.put(f"here/{os.getpid()}", b"")
    print(opened.contents, opened.repair is not None, flush=True)
    sys.stdin.readline()
    print(await read(opened.store))
    await opened.store.close()
asyncio.run(main())
"""


async def damaged(path: Path, count: int = 300) -> None:
    async with opened(path) as store:
        await store.transact([Put(f"models/{n}", b"v" * 50) for n in range(count)])
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DELETE FROM registry")


def put_aside(path: Path) -> list[str]:
    return [each.name for each in path.parent.glob("*.corrupt-*")]


async def test_of_several_that_find_a_damaged_file_one_repairs_it(path: Path) -> None:
    await damaged(path)
    with ExitStack() as together:
        starting = [together.enter_context(process(REPAIR, path)) for _ in range(4)]
        for each in starting:
            assert await said(each) == "ready"
        for each in starting:
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()
        found = [(await said(each)).split() for each in starting]
        assert sorted(repaired for _, repaired in found) == ["False", "False", "False", "True"]
        assert all(int(count) >= 300 for count, _ in found)
        for each in starting:
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()
        assert [int(await ended(each)) for each in starting] == [304] * 4
    assert len(put_aside(path)) == 1


async def read_all(store: KVStore) -> int:
    return len((await store.list("")).entries)


async def test_what_a_killed_repair_left_is_no_obstacle(path: Path) -> None:
    await damaged(path, 10)
    path.with_name(f"{path.name}.anew").write_bytes(b"half of it")
    path.with_name(f"{path.name}.anew-wal").write_bytes(b"half of it")
    registry = RegistrySettings(url=f"sqlite://{path}")
    found = await open_or_repair(registry, path.parent, SystemClock(), read_all)
    assert found.contents == 10
    assert found.repair is not None
    await found.store.close()
    assert not list(path.parent.glob("*.anew*"))


async def test_who_waits_too_long_for_a_repair_is_told(path: Path) -> None:
    async with turn(path, alone=True):
        with pytest.raises(StoreUnavailable, match=r"repaired by another process for 0\.05 s"):
            async with turn(path, patience_s=0.05):
                pass
    async with turn(path, patience_s=0.05), turn(path, patience_s=0.05):
        pass


# --- leases


async def test_leases_do_not_outlast_a_clock_that_was_set_back(path: Path) -> None:
    class MovedClock(SystemClock):
        def wall(self) -> float:
            return super().wall() - 3600

    async with opened(path) as before:
        await before.put("a", b"", lease=await before.grant(0.3))
        store = SqliteStore(path, MovedClock())
        async with asyncio.timeout(DEADLINE_S):
            async for change in store.watch("a", 1):
                assert change == Change("a", None, 2)
                break
        await store.close()


# --- the mesh


JOIN = """
from shoal.domain.mesh import Member
from shoal.node.members import Listeners, Members
from shoal.node.presence import Rhythm
async def main():
    me = Member(id=sys.argv[2], incarnation=str(os.getpid()))
    told = Listeners(lambda members, view: print(*[each.id for each in members], flush=True),
                     lambda problem: print(problem, file=sys.stderr))
    members = Members(SqliteStore(path, Clock()), Clock(), me, told, Rhythm(lease_s=0.5))
    await members.start()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await members.stop()
asyncio.run(main())
"""


class Watching:
    """This process in the mesh, and what it heard."""

    def __init__(self, store: SqliteStore) -> None:
        self.heard: asyncio.Queue[str] = asyncio.Queue()
        self.members = Members(
            store, SystemClock(), Member(id="me", incarnation="me"),
            Listeners(lambda members, _: self.heard.put_nowait(" ".join(m.id for m in members)),
                      lambda problem: None),
            Rhythm(lease_s=5),
        )

    async def until(self, ids: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while await self.heard.get() != ids:
                pass


async def stopped_between_writes(running: subprocess.Popen[str], path: Path) -> None:
    """In the midst of one it would keep everybody from writing, and so from noticing."""
    async with opened(path, busy_timeout_s=1) as store:
        while True:
            running.send_signal(signal.SIGSTOP)
            await asyncio.to_thread(os.waitpid, running.pid, os.WUNTRACED)
            try:
                await store.put("is it free?", b"")
            except StoreUnavailable:
                running.send_signal(signal.SIGCONT)
            else:
                return


async def test_members_hear_of_each_other_and_of_one_that_was_killed(path: Path) -> None:
    async with opened(path) as store:
        watching = Watching(store)
        await watching.members.start()
        with process(JOIN, path, "a") as first, process(JOIN, path, "b") as second:
            await watching.until("a b me")
            while await said(second) != "a b me":
                pass
            first.kill()
            await watching.until("b me")
            assert await said(second) == "b me"
            second.communicate("\n", timeout=DEADLINE_S)
            await watching.until("me")
        await watching.members.stop()
        assert (await store.list("")).entries == []


async def test_who_stood_still_for_too_long_is_gone_and_comes_back(path: Path) -> None:
    async with opened(path) as store:
        watching = Watching(store)
        await watching.members.start()
        with process(JOIN, path, "a") as other:
            await watching.until("a me")
            await stopped_between_writes(other, path)
            await watching.until("me")
            other.send_signal(signal.SIGCONT)
            await watching.until("a me")
        await watching.members.stop()
