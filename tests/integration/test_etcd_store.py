"""The store in etcd where there is trouble: with real servers that are killed, hang, forget, are
full or want to know who asks. What it does without is in the contract suite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from tests.cuttable import Cuttable
from tests.etcd_numbered import own_options
from tests.etcd_server import EtcdServer
from tests.ports import HeldPort

from shoal.domain.errors import InvalidSpecification, StoreUnavailable
from shoal.ports import Change, Compacted, Delete, LeaseLost, Put
from shoal.stores.etcd import MAX_OPS, EtcdStore

DEADLINE_S = 20.0


@pytest.fixture
def own_server() -> Iterator[EtcdServer]:
    """One that may be harmed."""
    with EtcdServer() as server:
        yield server


@pytest.fixture
async def store(etcd_server: EtcdServer) -> AsyncIterator[EtcdStore]:
    async with opened(etcd_server) as store:
        yield store


class opened:  # noqa: N801 - read as a function
    """A store that closes at the end; of `endpoints` instead of the server's own."""

    def __init__(self, server: EtcdServer, *endpoints: str, timeout_s: float = 5.0,
                 pulse_s: float | None = None, page: int = 5_000) -> None:
        options = own_options(server)
        if endpoints:
            options = replace(options, endpoints=endpoints)
        self.store = EtcdStore(replace(options, timeout_s=timeout_s), pulse_s=pulse_s, page=page)

    async def __aenter__(self) -> EtcdStore:
        return self.store

    async def __aexit__(self, *exception: object) -> None:
        await self.store.close()


async def take(watch: AsyncIterator[Change], count: int) -> list[Change]:
    async with asyncio.timeout(DEADLINE_S):
        return [await anext(watch) for _ in range(count)]


async def begun(store: EtcdStore) -> tuple[AsyncIterator[Change], int]:
    """A watch that is connected and has told all there was, and the revision."""
    revision = await store.put("begun", b"")
    watch = store.watch("", revision - 1)
    await take(watch, 1)
    return watch, revision


async def eventually(store: EtcdStore, key: str) -> bytes | None:
    """Its value, as soon as the store can be reached."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                entry = await store.get(key)
            except StoreUnavailable:
                await asyncio.sleep(0.01)
            else:
                return entry.value if entry else None


@pytest.fixture
def dead_endpoints() -> Iterator[tuple[str, str]]:
    """Where nobody listens."""
    with HeldPort() as one, HeldPort() as two:
        yield f"127.0.0.1:{one}", f"127.0.0.1:{two}"


# --- a server that is gone


async def test_a_killed_server_is_told_at_once_and_heals_by_itself(own_server: EtcdServer) -> None:
    async with opened(own_server, timeout_s=DEADLINE_S) as store:
        await store.put("a", b"1")
        own_server.kill()
        async with asyncio.timeout(DEADLINE_S / 2):
            for use in (store.get("a"), store.list(""), store.put("a", b"2"), store.grant(5)):
                with pytest.raises(StoreUnavailable) as told:
                    await use
                assert own_server.endpoint in told.value.message
                assert "cannot be reached" in told.value.message
        await asyncio.to_thread(own_server.start)
        assert await eventually(store, "a") == b"1"
        await store.put("a", b"2")


async def test_a_watch_goes_on_where_a_killed_server_left_it(own_server: EtcdServer) -> None:
    async with opened(own_server) as store:
        watch, start = await begun(store)
        await store.put("a", b"before")
        waiting = asyncio.create_task(take(watch, 3))
        await asyncio.to_thread(own_server.restart)
        async with opened(own_server) as other:
            await other.put("not mine", b"")
        await eventually(store, "a")
        await store.transact([Put("b", b"after"), Delete("a")])
        assert await waiting == [
            Change("a", b"before", start + 1),
            Change("b", b"after", start + 3),
            Change("a", None, start + 3),
        ]


async def test_a_watch_says_so_when_the_server_stays_away(own_server: EtcdServer) -> None:
    async with opened(own_server, timeout_s=2) as store:
        watch, start = await begun(store)
        own_server.kill()
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await take(watch, 1)
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await take(store.watch("", start), 1)
        await asyncio.to_thread(own_server.start)
        await eventually(store, "a")
        await store.put("a", b"1")
        assert await take(store.watch("", start), 1) == [Change("a", b"1", start + 1)]


async def test_a_server_that_forgot_everything_is_not_taken_for_the_same(
    own_server: EtcdServer,
) -> None:
    async with opened(own_server) as store:
        for _ in range(5):
            await store.put("a", b"")
        watch, _ = await begun(store)
        own_server.forget()
        waiting = asyncio.create_task(take(watch, 1))
        await asyncio.to_thread(own_server.start)
        with pytest.raises(Compacted) as told:
            await waiting
        listing = await store.list("")
        assert not listing.entries
        assert told.value.oldest == listing.revision + 1


async def test_closing_does_not_wait_for_a_dead_server(own_server: EtcdServer) -> None:
    async with opened(own_server, timeout_s=DEADLINE_S) as store:
        await store.grant(60)
        own_server.kill()
        async with asyncio.timeout(DEADLINE_S / 2):
            await store.close()


async def test_a_name_that_nobody_knows_and_a_server_that_is_no_etcd_are_told(
    etcd_server: EtcdServer,
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with opened(etcd_server, "no-such-host.invalid:2379", f"{host}:{port}") as store:
        with pytest.raises(StoreUnavailable) as told:
            await store.get("a")
        assert "no-such-host.invalid:2379: no such host is known" in told.value.message
        assert f"{host}:{port}: " in told.value.message
    server.close()


# --- a server that hangs


async def test_a_paused_server_is_given_up_in_time(own_server: EtcdServer) -> None:
    async with opened(own_server, timeout_s=2) as store:
        await store.put("a", b"1")
        own_server.pause()
        with pytest.raises(StoreUnavailable, match="does not answer in time"):
            await store.get("a")
        own_server.resume()
        assert await eventually(store, "a") == b"1"


async def test_a_watch_notices_a_paused_server(own_server: EtcdServer) -> None:
    async with opened(own_server, timeout_s=2, pulse_s=0.1) as store:
        watch, start = await begun(store)
        own_server.pause()
        with pytest.raises(StoreUnavailable, match=r"no sign of life|does not answer"):
            await take(watch, 1)
        own_server.resume()
        await eventually(store, "a")
        await store.put("a", b"1")
        assert await take(store.watch("", start), 1) == [Change("a", b"1", start + 1)]


async def test_a_quiet_server_is_not_taken_for_a_paused_one(etcd_server: EtcdServer) -> None:
    async with opened(etcd_server, pulse_s=0.02) as store:
        watch, start = await begun(store)
        waiting = asyncio.create_task(take(watch, 1))
        done, _ = await asyncio.wait({waiting}, timeout=0.3)
        assert not done
        await store.put("a", b"1")
        assert await waiting == [Change("a", b"1", start + 1)]


async def test_a_write_without_an_answer_may_have_been_made_and_says_so(
    etcd_server: EtcdServer,
) -> None:
    async with (
        Cuttable(etcd_server.endpoint) as way,
        opened(etcd_server, way.endpoint, timeout_s=2) as store,
    ):
        await store.put("a", b"1")
        way.mute()
        with pytest.raises(StoreUnavailable, match="may have been made") as told:
            await store.put("a", b"2")
        assert way.endpoint in told.value.message
        way.heal()
        assert await eventually(store, "a") == b"2"


async def test_a_write_that_reached_nobody_does_not_claim_that(own_server: EtcdServer) -> None:
    async with opened(own_server) as store:
        await store.put("a", b"1")
        own_server.kill()
        with pytest.raises(StoreUnavailable):
            await store.get("a")  # from now on it is known that nobody is there
        with pytest.raises(StoreUnavailable) as told:
            await store.put("a", b"2")
        assert "may have been made" not in told.value.message


async def test_a_call_that_is_cancelled_disturbs_no_other(etcd_server: EtcdServer) -> None:
    async with (
        Cuttable(etcd_server.endpoint) as way, opened(etcd_server, way.endpoint) as store,
    ):
        await store.put("a", b"1")
        way.mute()
        cancelled = asyncio.create_task(store.get("a"))
        staying = asyncio.create_task(store.get("a"))
        await way.passed.wait()
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        way.heal()
        entry = await staying
        assert entry is not None
        assert entry.value == b"1"


async def test_closing_ends_calls_that_wait(etcd_server: EtcdServer) -> None:
    async with (
        Cuttable(etcd_server.endpoint) as way, opened(etcd_server, way.endpoint) as store,
    ):
        await store.put("a", b"1")
        way.passed.clear()
        way.mute()
        waiting = asyncio.create_task(store.get("a"))
        await way.passed.wait()
        await store.close()
        with pytest.raises(StoreUnavailable, match="is closed"):
            await waiting


# --- several members


async def test_one_dead_member_of_two_is_not_noticed(
    etcd_server: EtcdServer, dead_endpoints: tuple[str, str]
) -> None:
    async with opened(etcd_server, dead_endpoints[0], etcd_server.endpoint) as store:
        watch, start = await begun(store)
        lease = await store.grant(5)
        await store.put("a", b"1", lease=lease)
        await store.keep_alive(lease)
        assert await take(watch, 1) == [Change("a", b"1", start + 1)]


async def test_where_all_are_dead_each_is_named(
    etcd_server: EtcdServer, dead_endpoints: tuple[str, str]
) -> None:
    async with opened(etcd_server, *dead_endpoints) as store:
        with pytest.raises(StoreUnavailable) as told:
            await store.get("a")
        assert all(f"{each}: Failed to connect" in told.value.message for each in dead_endpoints)


async def test_reads_and_watches_leave_a_member_that_hangs_and_writes_follow(
    etcd_server: EtcdServer,
) -> None:
    async with (
        Cuttable(etcd_server.endpoint) as one,
        Cuttable(etcd_server.endpoint) as two,
        opened(etcd_server, one.endpoint, two.endpoint, timeout_s=4, pulse_s=0.1) as store,
    ):
        watch, start = await begun(store)
        waiting = asyncio.create_task(take(watch, 1))
        one.hang()
        assert await store.get("a") is None
        await store.put("a", b"1")
        assert await waiting == [Change("a", b"1", start + 1)]


async def test_a_watch_loses_nothing_and_repeats_nothing_over_many_cuts(
    etcd_server: EtcdServer,
) -> None:
    async with (
        Cuttable(etcd_server.endpoint) as way, opened(etcd_server, way.endpoint) as store,
    ):
        beside = EtcdStore(replace(store.options, endpoints=(etcd_server.endpoint,)))
        watch, start = await begun(store)

        async def write() -> None:
            for n in range(100):
                await beside.transact([Put("a", str(n).encode()), Put("b", bytes(n * 100))])
                if n % 8 == 0:
                    way.cut()

        writing = asyncio.create_task(write())
        changes = await take(watch, 200)
        await writing
        await beside.close()
        assert [change.revision for change in changes[::2]] == list(range(start + 1, start + 101))
        assert [change.value for change in changes[::2]] == [str(n).encode() for n in range(100)]
        assert [len(change.value or b"") for change in changes[1::2]] == list(range(0, 10_000, 100))


# --- compaction


async def test_a_watch_of_what_was_compacted_is_refused_with_the_oldest_start(
    own_server: EtcdServer,
) -> None:
    async with opened(own_server) as store:
        first = await store.put("a", b"0")
        for n in range(1, 10):
            await store.put("a", str(n).encode())
        await store.delete("a")
        own_server.compact(first + 5)
        with pytest.raises(Compacted) as told:
            await take(store.watch("", first + 4), 1)
        assert told.value.oldest == first + 6
        changes = await take(store.watch("", told.value.oldest - 1), 5)
        assert [change.value for change in changes] == [b"6", b"7", b"8", b"9", None]


async def test_a_watch_that_was_away_during_a_compaction_is_told(own_server: EtcdServer) -> None:
    async with (
        Cuttable(own_server.endpoint) as way,
        opened(own_server, way.endpoint) as store,
        opened(own_server) as other,
    ):
        watch, start = await begun(store)
        waiting = asyncio.create_task(take(watch, 1))
        way.refusing = True
        way.cut()
        await other.transact([Put("a", b"")])
        own_server.compact(await other.put("a", b""))
        way.refusing = False
        with pytest.raises(Compacted) as told:
            await waiting
        assert told.value.oldest == start + 3


async def test_a_listing_in_pages_is_of_one_revision_whatever_happens_meanwhile(
    own_server: EtcdServer,
) -> None:
    names = [f"m/{n:04}" for n in range(1_000)]
    async with opened(own_server, page=50) as store:
        await store.transact([Put(name, b"0") for name in names])

        async def disturb() -> None:
            while True:
                revision = await store.transact([Put(name, b"1") for name in names[::100]])
                await store.transact([Delete(names[500]), Put("m/new", b"")])
                await store.put(names[500], b"2")
                await asyncio.to_thread(own_server.compact, revision)

        disturbing = asyncio.create_task(disturb())
        for _ in range(10):
            listing = await store.list("m/")
            assert max(entry.revision for entry in listing.entries) <= listing.revision
            values = {entry.value for entry in listing.entries if entry.key in names[::100]}
            assert len(values - {b"2"}) == 1
            assert {entry.key for entry in listing.entries} >= {*names} - {names[500]}
        disturbing.cancel()
        await asyncio.gather(disturbing, return_exceptions=True)


async def test_ten_thousand_keys_come_in_pages_of_any_size(store: EtcdStore) -> None:
    names = [f"m/{n:05}" for n in range(10_000)]
    for start in range(0, len(names), 1_000):
        await store.transact([Put(name, b"x" * 50) for name in names[start : start + 1_000]])
    assert [entry.key for entry in (await store.list("m/")).entries] == names
    page = await store.list("m/", start_after=names[10], limit=7_000)
    assert [entry.key for entry in page.entries] == names[11:7_011]
    assert page.more


# --- sizes


async def test_large_values_go_through_and_together_exceed_what_grpc_takes_by_default(
    store: EtcdStore,
) -> None:
    value = bytes(range(256)) * 4_000
    for n in range(6):
        await store.put(f"large/{n}", value)
    listing = await store.list("large/")
    assert [entry.value for entry in listing.entries] == [value] * 6
    changes = await take(store.watch("large/", listing.entries[0].revision - 1), 6)
    assert [change.value for change in changes] == [value] * 6


@pytest.mark.parametrize("mib", [2, 5])
async def test_what_is_too_large_for_etcd_is_refused_with_a_way_out(
    store: EtcdStore, mib: int
) -> None:
    with pytest.raises(InvalidSpecification, match="--max-request-bytes"):
        await store.put("large", bytes(mib * 1024**2))
    assert await store.get("large") is None


async def test_large_transactions_are_one_revision(store: EtcdStore) -> None:
    revision = await store.transact([Put(f"m/{n}", b"") for n in range(MAX_OPS)])
    listing = await store.list("m/")
    assert {entry.revision for entry in listing.entries} == {revision}
    assert len(listing.entries) == MAX_OPS
    with pytest.raises(ValueError, match="in one transaction"):
        await store.transact([Delete(f"m/{n}") for n in range(MAX_OPS + 1)])


# --- leases


async def test_a_lease_that_is_not_kept_alive_ends_with_its_keys(store: EtcdStore) -> None:
    lease, kept = await store.grant(0.5), await store.grant(30)
    revision = await store.transact([Put("x", b"", lease=lease), Put("y", b"", lease=kept)])
    assert await take(store.watch("", revision), 1) == [Change("x", None, revision + 1)]
    with pytest.raises(LeaseLost, match="has ended"):
        await store.keep_alive(lease)
    with pytest.raises(LeaseLost):
        await store.put("x", b"", lease=lease)
    await store.keep_alive(kept)


async def test_a_lease_outlives_its_server(own_server: EtcdServer) -> None:
    async with opened(own_server) as store:
        lease = await store.grant(30)
        await store.put("x", b"", lease=lease)
        await asyncio.to_thread(own_server.restart)
        await eventually(store, "x")
        await store.keep_alive(lease)
        assert await store.get("x") is not None


async def test_closing_ends_the_leases_granted_here(own_server: EtcdServer) -> None:
    async with opened(own_server) as store:
        await store.put("x", b"", lease=await store.grant(60))
        await store.grant(60)
    assert "leases" not in own_server.call("lease/leases", {})


# --- neighbours


async def test_what_lies_beside_the_prefix_is_neither_seen_nor_touched(
    etcd_server: EtcdServer,
) -> None:
    mine = EtcdStore(replace(own_options(etcd_server), prefix="/beside/shoal/"))
    try:
        watch, start = await begun(mine)
        for key in ("/beside/shoal", "/beside/shoal0", "/beside/shoal-2/x", "/beside/x"):
            etcd_server.put(key, "not mine")
        etcd_server.put("/beside/shoal/a", "mine")
        assert [entry.key for entry in (await mine.list("")).entries] == ["a", "begun"]
        assert await take(watch, 1) == [Change("a", b"mine", start + 5)]
    finally:
        await mine.close()
