"""What every `KVStore` tells of changes, and what becomes of keys whose lease ends."""

from __future__ import annotations

import asyncio

import pytest
from tests.any_store import HISTORY, keys, plain, take
from tests.etcd_numbered import NumberedEtcd
from tests.storage_fakes import HeldClock

from shoal.ports import Change, Compacted, KVStore, LeaseLost, Put

# --- watches


async def test_a_watch_begins_with_what_happened_after_its_start(store: KVStore) -> None:
    start = await store.put("a", b"1")
    await store.put("a", b"2")
    await store.delete("a")
    changes = await take(store.watch("", start), 2)
    assert changes == [Change("a", b"2", 2), Change("a", None, 3)]


async def test_a_waiting_watch_hears_of_a_put_and_of_a_delete(store: KVStore) -> None:
    watch = store.watch("", 0)
    waiting = asyncio.create_task(take(watch, 2))
    await asyncio.sleep(0)
    await store.put("a", b"1")
    await store.delete("a")
    assert plain(await waiting) == [("a", b"1"), ("a", None)]


async def test_a_watch_sees_the_whole_transaction_in_order(store: KVStore) -> None:
    await store.transact([Put("b", b"1"), Put("a", b"2"), Put("c", b"3")])
    changes = await take(store.watch("", 0), 3)
    assert changes == [Change("b", b"1", 1), Change("a", b"2", 1), Change("c", b"3", 1)]


async def test_a_watch_sees_only_its_prefix(store: KVStore) -> None:
    await store.transact([Put("models/a", b"1"), Put("models2/a", b"2"), Put("usage", b"3")])
    await store.put("models/b", b"4")
    changes = await take(store.watch("models/", 0), 2)
    assert plain(changes) == [("models/a", b"1"), ("models/b", b"4")]


async def test_a_watch_goes_on_past_much_that_is_not_its_own(store: KVStore) -> None:
    waiting = asyncio.create_task(take(store.watch("mine", 0), 1))
    for n in range(HISTORY // 2):
        await store.put(f"other/{n}", b"")
    await store.put("mine", b"1")
    assert plain(await waiting) == [("mine", b"1")]


async def test_a_deletion_without_effect_is_not_seen(store: KVStore) -> None:
    await store.delete("a")
    await store.put("b", b"")
    assert plain(await take(store.watch("", 0), 1)) == [("b", b"")]


async def test_watches_lose_nothing_while_several_write(store: KVStore) -> None:
    writers, each = 5, HISTORY // 5
    total = writers * each

    async def write(writer: int) -> None:
        for n in range(each):
            await store.put(f"w{writer}", str(n).encode())
            await asyncio.sleep(0)

    watching = [
        asyncio.create_task(take(store.watch(prefix, 0), count))
        for prefix, count in (("", total), ("", total), ("w3", each))
    ]
    await asyncio.gather(*(write(n) for n in range(writers)))
    every, again, third = await asyncio.gather(*watching)
    assert [change.revision for change in every] == list(range(1, total + 1))
    assert again == every
    assert third == [change for change in every if change.key == "w3"]
    for writer in range(writers):
        values = [change.value for change in every if change.key == f"w{writer}"]
        assert values == [str(n).encode() for n in range(each)]


async def test_a_listing_and_a_watch_from_its_revision_join_without_a_gap(store: KVStore) -> None:
    async def write() -> None:
        for n in range(60):
            await store.put(f"k{n:02}", b"")

    writing = asyncio.create_task(write())
    while (await store.list("")).revision < 20:  # noqa: ASYNC110 - the store gives no event
        await asyncio.sleep(0)
    listing = await store.list("")
    rest = await take(store.watch("", listing.revision), 60 - listing.revision)
    await writing
    seen = [entry.key for entry in listing.entries] + [change.key for change in rest]
    assert seen == [f"k{n:02}" for n in range(60)]


async def test_a_watch_from_before_the_history_is_refused(store: KVStore) -> None:
    for n in range(3 * HISTORY):
        await store.put("a", str(n).encode())
    with pytest.raises(Compacted) as refused:
        await take(store.watch("", 1), 1)
    oldest = refused.value.oldest
    assert HISTORY <= 3 * HISTORY - oldest + 1 <= 2 * HISTORY
    changes = await take(store.watch("", oldest - 1), 3 * HISTORY - oldest + 1)
    assert changes[0].revision == oldest
    assert changes[-1].revision == 3 * HISTORY


async def test_a_watch_that_falls_behind_the_history_is_told(store: KVStore) -> None:
    """etcd's may be on its way already, and then lacks nothing."""
    watch = store.watch("", 0)
    await store.put("a", b"")
    await take(watch, 1)
    for n in range(3 * HISTORY):
        await store.put("a", str(n).encode())
    try:
        changes = await take(watch, 3 * HISTORY)
    except Compacted:
        return
    assert isinstance(store, NumberedEtcd)
    assert [change.value for change in changes] == [str(n).encode() for n in range(3 * HISTORY)]


async def test_a_transaction_longer_than_the_history_stays_whole(store: KVStore) -> None:
    await store.put("a", b"")
    await store.transact([Put(f"b{n:03}", b"") for n in range(2 * HISTORY)])
    changes = await take(store.watch("", 1), 2 * HISTORY)
    assert [change.key for change in changes] == [f"b{n:03}" for n in range(2 * HISTORY)]


async def test_a_watch_from_a_revision_to_come_is_refused(store: KVStore) -> None:
    await store.put("a", b"")
    with pytest.raises(Compacted):
        await take(store.watch("", 2), 1)


async def test_a_cancelled_watch_ends_and_disturbs_nobody(store: KVStore) -> None:
    cancelled = asyncio.create_task(take(store.watch("", 0), 1))
    staying = asyncio.create_task(take(store.watch("", 0), 1))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await store.put("a", b"1")
    assert plain(await staying) == [("a", b"1")]


# --- leases


async def test_a_key_goes_when_its_lease_ends(store: KVStore, clock: HeldClock) -> None:
    lease = await store.grant(10)
    await store.put("alive/a", b"1", lease=lease)
    await store.put("b", b"2")
    clock.pass_(9.9)
    assert await keys(store) == ["alive/a", "b"]
    clock.pass_(0.2)
    assert await keys(store) == ["b"]
    assert await store.get("alive/a") is None


async def test_a_watch_hears_that_a_lease_ended(store: KVStore, clock: HeldClock) -> None:
    lease = await store.grant(10)
    await store.transact([Put("y", b"", lease=lease), Put("x", b"", lease=lease)])
    waiting = asyncio.create_task(take(store.watch("", 1), 2))
    await asyncio.sleep(0)
    clock.pass_(11)
    assert await waiting == [Change("x", None, 2), Change("y", None, 2)]


async def test_a_watch_hears_of_a_lease_granted_while_it_waits(
    store: KVStore, clock: HeldClock
) -> None:
    waiting = asyncio.create_task(take(store.watch("", 0), 2))
    await asyncio.sleep(0)
    lease = await store.grant(10)
    await store.put("x", b"", lease=lease)
    clock.pass_(11)
    assert plain(await waiting) == [("x", b""), ("x", None)]


async def test_a_lease_that_is_kept_alive_goes_on(store: KVStore, clock: HeldClock) -> None:
    lease = await store.grant(10)
    await store.put("a", b"", lease=lease)
    for _ in range(5):
        clock.pass_(9)
        await store.keep_alive(lease)
    assert await keys(store) == ["a"]


async def test_keeping_an_ended_lease_alive_says_that_it_is_lost(
    store: KVStore, clock: HeldClock
) -> None:
    lease = await store.grant(10)
    clock.pass_(10)
    with pytest.raises(LeaseLost, match="has ended"):
        await store.keep_alive(lease)


async def test_a_put_with_an_ended_lease_is_refused(store: KVStore, clock: HeldClock) -> None:
    lease = await store.grant(10)
    clock.pass_(10)
    with pytest.raises(LeaseLost):
        await store.transact([Put("a", b""), Put("b", b"", lease=lease)])
    assert await keys(store) == []


async def test_the_number_of_an_ended_lease_is_not_given_again(
    store: KVStore, clock: HeldClock
) -> None:
    first = await store.grant(10)
    clock.pass_(10)
    assert await store.grant(10) != first


async def test_revoking_a_lease_deletes_its_keys_and_watches_see_it(store: KVStore) -> None:
    lease = await store.grant(10)
    await store.put("a", b"", lease=lease)
    await store.put("b", b"", lease=lease)
    await store.put("c", b"")
    await store.revoke(lease)
    assert await keys(store) == ["c"]
    assert await take(store.watch("", 3), 2) == [Change("a", None, 4), Change("b", None, 4)]
    with pytest.raises(LeaseLost):
        await store.keep_alive(lease)


async def test_revoking_twice_is_no_error(store: KVStore) -> None:
    lease = await store.grant(10)
    await store.revoke(lease)
    await store.revoke(lease)


async def test_a_key_put_again_without_its_lease_stays(store: KVStore, clock: HeldClock) -> None:
    lease = await store.grant(10)
    await store.put("a", b"1", lease=lease)
    await store.put("a", b"2")
    clock.pass_(11)
    assert await keys(store) == ["a"]


async def test_a_key_moved_to_another_lease_goes_with_that(
    store: KVStore, clock: HeldClock
) -> None:
    short, long = await store.grant(10), await store.grant(100)
    await store.put("a", b"1", lease=short)
    await store.put("a", b"2", lease=long)
    clock.pass_(11)
    assert await keys(store) == ["a"]
    clock.pass_(90)
    assert await keys(store) == []


async def test_leases_that_ended_together_end_in_their_order(
    store: KVStore, clock: HeldClock
) -> None:
    late, soon = await store.grant(20), await store.grant(10)
    await store.transact([Put("a", b"", lease=late), Put("b", b"", lease=soon)])
    clock.pass_(30)
    assert await take(store.watch("", 1), 2) == [Change("b", None, 2), Change("a", None, 3)]


@pytest.mark.parametrize("ttl_s", [0, -1, float("nan")])
async def test_a_lease_must_last(store: KVStore, ttl_s: float) -> None:
    with pytest.raises(ValueError, match="longer than 0"):
        await store.grant(ttl_s)
