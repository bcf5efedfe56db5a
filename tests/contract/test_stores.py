"""What every `KVStore` does alike, whatever it keeps its entries in.

A new adapter joins by a `StoreMaker` in `STORES`.
"""

from __future__ import annotations

import asyncio
import string
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from shoal.domain.errors import Conflict, StoreUnavailable
from shoal.ports import Change, Compacted, Delete, KVStore, LeaseLost, Put
from shoal.stores.memory import MemoryStore
from shoal.stores.sqlite import SqliteStore

HISTORY = 100
DEADLINE_S = 10.0


class HeldClock:
    """Stands still until moved."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


StoreMaker: TypeAlias = Callable[[Path, HeldClock], KVStore]

STORES: dict[str, StoreMaker] = {
    "memory": lambda _, clock: MemoryStore(clock, history_limit=HISTORY),
    "sqlite": lambda folder, clock: SqliteStore(
        folder / "registry.sqlite3", clock, history_limit=HISTORY, poll_s=0.01
    ),
}


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture(params=sorted(STORES))
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: HeldClock
) -> AsyncIterator[KVStore]:
    opened = STORES[request.param](tmp_path, clock)
    yield opened
    await opened.close()


async def keys(store: KVStore, prefix: str = "") -> list[str]:
    return [entry.key for entry in (await store.list(prefix)).entries]


async def take(watch: AsyncIterator[Change], count: int) -> list[Change]:
    async with asyncio.timeout(DEADLINE_S):
        return [await anext(watch) for _ in range(count)]


def plain(changes: list[Change]) -> list[tuple[str, bytes | None]]:
    return [(change.key, change.value) for change in changes]


# --- reading and writing


async def test_what_was_put_is_got_with_its_revision(store: KVStore) -> None:
    revision = await store.put("models/a", b"one")
    entry = await store.get("models/a")
    assert entry is not None
    assert (entry.key, entry.value, entry.revision) == ("models/a", b"one", revision)


async def test_an_absent_key_is_none(store: KVStore) -> None:
    assert await store.get("models/a") is None


async def test_an_empty_value_is_not_an_absent_one(store: KVStore) -> None:
    await store.put("a", b"")
    entry = await store.get("a")
    assert entry is not None
    assert entry.value == b""


async def test_any_bytes_come_back_as_they_were(store: KVStore) -> None:
    value = bytes(range(256)) * 1000
    await store.put("a", value)
    entry = await store.get("a")
    assert entry is not None
    assert entry.value == value


async def test_the_last_of_several_puts_counts(store: KVStore) -> None:
    for value in (b"1", b"2", b"3"):
        await store.put("a", value)
    assert [entry.value for entry in (await store.list("a")).entries] == [b"3"]


async def test_a_new_store_is_empty_at_revision_zero(store: KVStore) -> None:
    listing = await store.list("")
    assert (list(listing.entries), listing.revision, listing.more) == ([], 0, False)


async def test_every_write_raises_the_revision_by_one(store: KVStore) -> None:
    revisions = [
        await store.put("a", b"1"),
        await store.put("a", b"1"),
        await store.put("b", b"2"),
        await store.delete("a"),
        await store.transact([Put("c", b""), Put("d", b"")]),
    ]
    assert revisions == [1, 2, 3, 4, 5]
    assert (await store.list("")).revision == 5


async def test_deleting_what_is_not_there_changes_nothing(store: KVStore) -> None:
    await store.put("a", b"1")
    assert await store.delete("b") == 1
    assert (await store.list("")).revision == 1


async def test_a_deleted_key_is_gone(store: KVStore) -> None:
    await store.put("a", b"1")
    await store.delete("a")
    assert await store.get("a") is None
    assert await keys(store) == []


async def test_a_deleted_key_can_be_put_again(store: KVStore) -> None:
    await store.put("a", b"1")
    await store.delete("a")
    await store.put("a", b"2", expect=0)
    assert await keys(store) == ["a"]


async def test_an_empty_transaction_changes_nothing(store: KVStore) -> None:
    await store.put("a", b"1")
    assert await store.transact([]) == 1


# --- expectations


async def test_a_put_that_expects_no_key_makes_it(store: KVStore) -> None:
    assert await store.put("a", b"1", expect=0) == 1


async def test_a_put_that_expects_no_key_conflicts_with_one(store: KVStore) -> None:
    await store.put("a", b"1")
    with pytest.raises(Conflict, match="'a' exists already"):
        await store.put("a", b"2", expect=0)


async def test_a_put_that_expects_the_right_revision_succeeds(store: KVStore) -> None:
    revision = await store.put("a", b"1")
    await store.put("b", b"other keys do not matter")
    assert await store.put("a", b"2", expect=revision) == 3


async def test_a_put_that_expects_an_old_revision_conflicts(store: KVStore) -> None:
    old = await store.put("a", b"1")
    await store.put("a", b"2")
    with pytest.raises(Conflict, match="changed meanwhile"):
        await store.put("a", b"3", expect=old)
    entry = await store.get("a")
    assert entry is not None
    assert entry.value == b"2"


async def test_a_put_that_expects_a_deleted_key_conflicts(store: KVStore) -> None:
    old = await store.put("a", b"1")
    await store.delete("a")
    with pytest.raises(Conflict, match="does not exist any more"):
        await store.put("a", b"2", expect=old)


async def test_a_delete_that_expects_the_right_revision_succeeds(store: KVStore) -> None:
    await store.delete("a", expect=await store.put("a", b"1"))
    assert await keys(store) == []


async def test_a_delete_that_expects_an_old_revision_conflicts(store: KVStore) -> None:
    old = await store.put("a", b"1")
    await store.put("a", b"2")
    with pytest.raises(Conflict):
        await store.delete("a", expect=old)
    assert await keys(store) == ["a"]


async def test_a_delete_that_expects_a_missing_key_conflicts(store: KVStore) -> None:
    with pytest.raises(Conflict):
        await store.delete("a", expect=7)


async def test_one_of_many_racing_creators_wins(store: KVStore) -> None:
    outcomes = await asyncio.gather(
        *(store.put("a", str(n).encode(), expect=0) for n in range(20)), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict"] * 19 + ["int"]


# --- transactions


async def test_the_writes_of_a_transaction_share_one_revision(store: KVStore) -> None:
    await store.put("old", b"")
    revision = await store.transact([Put("a", b"1"), Put("b", b"2"), Delete("old")])
    listing = await store.list("")
    assert [(e.key, e.revision) for e in listing.entries] == [("a", revision), ("b", revision)]


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_one_conflict_undoes_a_whole_transaction(store: KVStore, at: int) -> None:
    await store.put("old", b"1")
    ops: list[Put | Delete] = [Put("a", b"1"), Delete("old")]
    ops.insert(at, Put("b", b"2", expect=99))
    with pytest.raises(Conflict):
        await store.transact(ops)
    assert await keys(store) == ["old"]
    assert (await store.list("")).revision == 1


async def test_a_failed_transaction_is_not_seen_by_watches(store: KVStore) -> None:
    with pytest.raises(Conflict):
        await store.transact([Put("a", b"1"), Put("b", b"2", expect=99)])
    await store.put("c", b"3")
    assert plain(await take(store.watch("", 0), 1)) == [("c", b"3")]


async def test_a_transaction_without_effect_has_no_revision(store: KVStore) -> None:
    assert await store.transact([Delete("a"), Delete("b", expect=0)]) == 0


async def test_a_key_twice_in_a_transaction_is_refused(store: KVStore) -> None:
    with pytest.raises(ValueError, match="occurs twice"):
        await store.transact([Put("a", b"1"), Delete("a")])


@pytest.mark.parametrize("key", ["", "lone \udc80 surrogate"])
async def test_a_key_that_is_no_text_is_refused(store: KVStore, key: str) -> None:
    with pytest.raises(ValueError):
        await store.put(key, b"")
    with pytest.raises(ValueError):
        await store.get(key)


# --- listing


async def test_a_prefix_is_letters_not_a_folder(store: KVStore) -> None:
    for key in ("a", "a/1", "a/2", "ab", "b", "a0", "a."):
        await store.put(key, b"")
    assert await keys(store, "a") == ["a", "a.", "a/1", "a/2", "a0", "ab"]
    assert await keys(store, "a/") == ["a/1", "a/2"]
    assert await keys(store, "a/1") == ["a/1"]
    assert await keys(store, "c") == []


async def test_keys_may_be_any_text_and_are_in_order_of_code_points(store: KVStore) -> None:
    made = [
        *string.printable, "\0", "\0\0", "a\0b", "é", "e\u0301", "ÿ", "ÿa", "\u07ff", "\u0800",
        "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff", "\U0010ffff\U0010ffff", "模型/猫",
        "100%_", "a'b\"c", "🐟",
    ]
    await store.transact([Put(key, key.encode()) for key in reversed(made)])
    assert await keys(store) == sorted(made)
    for key in made:
        entry = await store.get(key)
        assert entry is not None
        assert entry.value == key.encode()
        assert await keys(store, key) == sorted(k for k in made if k.startswith(key))


async def test_keys_that_differ_in_case_or_trailing_space_are_different(store: KVStore) -> None:
    await store.transact([Put(key, b"") for key in ("a", "A", "a ", " a")])
    assert await keys(store) == [" a", "A", "a", "a "]


async def test_pages_together_are_the_whole(store: KVStore) -> None:
    names = [f"m/{n:03}" for n in range(25)]
    await store.transact([Put(name, b"") for name in names] + [Put("z", b"")])
    found: list[str] = []
    sizes = []
    after = None
    while True:
        page = await store.list("m/", start_after=after, limit=10)
        sizes.append(len(page.entries))
        found += [entry.key for entry in page.entries]
        if not page.more:
            break
        after = found[-1]
    assert found == names
    assert sizes == [10, 10, 5]


async def test_a_page_that_ends_exactly_says_that_nothing_follows(store: KVStore) -> None:
    await store.transact([Put("a", b""), Put("b", b"")])
    assert (await store.list("", limit=2)).more is False
    assert (await store.list("", limit=1)).more is True


async def test_a_page_may_begin_after_a_key_that_is_not_there(store: KVStore) -> None:
    await store.transact([Put(key, b"") for key in ("m/a", "m/c", "n")])
    for after, expected in (("m/b", ["m/c"]), ("", ["m/a", "m/c"]), ("m/c", []), ("z", [])):
        page = await store.list("m/", start_after=after)
        assert [entry.key for entry in page.entries] == expected


async def test_ten_thousand_puts_are_listed_in_pages(store: KVStore) -> None:
    for start in range(0, 10_000, 500):
        await store.transact([Put(f"m/{n:05}", b"x" * 100) for n in range(start, start + 500)])
    found: list[str] = []
    after = None
    while True:
        page = await store.list("m/", start_after=after, limit=999)
        found += [entry.key for entry in page.entries]
        if not page.more:
            break
        after = found[-1]
    assert found == [f"m/{n:05}" for n in range(10_000)]


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
    watch = store.watch("", 0)
    await store.put("a", b"")
    await take(watch, 1)
    for n in range(3 * HISTORY):
        await store.put("a", str(n).encode())
    with pytest.raises(Compacted):
        await take(watch, 3 * HISTORY)


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
    clock.now += 9.9
    assert await keys(store) == ["alive/a", "b"]
    clock.now += 0.2
    assert await keys(store) == ["b"]
    assert await store.get("alive/a") is None


async def test_a_watch_hears_that_a_lease_ended(store: KVStore, clock: HeldClock) -> None:
    lease = await store.grant(10)
    await store.transact([Put("y", b"", lease=lease), Put("x", b"", lease=lease)])
    waiting = asyncio.create_task(take(store.watch("", 1), 2))
    await asyncio.sleep(0)
    clock.now += 11
    assert await waiting == [Change("x", None, 2), Change("y", None, 2)]


async def test_a_watch_hears_of_a_lease_granted_while_it_waits(
    store: KVStore, clock: HeldClock
) -> None:
    waiting = asyncio.create_task(take(store.watch("", 0), 2))
    await asyncio.sleep(0)
    lease = await store.grant(10)
    await store.put("x", b"", lease=lease)
    clock.now += 11
    assert plain(await waiting) == [("x", b""), ("x", None)]


async def test_a_lease_that_is_kept_alive_goes_on(store: KVStore, clock: HeldClock) -> None:
    lease = await store.grant(10)
    await store.put("a", b"", lease=lease)
    for _ in range(5):
        clock.now += 9
        await store.keep_alive(lease)
    assert await keys(store) == ["a"]


async def test_keeping_an_ended_lease_alive_says_that_it_is_lost(
    store: KVStore, clock: HeldClock
) -> None:
    lease = await store.grant(10)
    clock.now += 10
    with pytest.raises(LeaseLost, match="has ended"):
        await store.keep_alive(lease)


async def test_a_put_with_an_ended_lease_is_refused(store: KVStore, clock: HeldClock) -> None:
    lease = await store.grant(10)
    clock.now += 10
    with pytest.raises(LeaseLost):
        await store.transact([Put("a", b""), Put("b", b"", lease=lease)])
    assert await keys(store) == []


async def test_the_number_of_an_ended_lease_is_not_given_again(
    store: KVStore, clock: HeldClock
) -> None:
    first = await store.grant(10)
    clock.now += 10
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
    clock.now += 11
    assert await keys(store) == ["a"]


async def test_a_key_moved_to_another_lease_goes_with_that(
    store: KVStore, clock: HeldClock
) -> None:
    short, long = await store.grant(10), await store.grant(100)
    await store.put("a", b"1", lease=short)
    await store.put("a", b"2", lease=long)
    clock.now += 11
    assert await keys(store) == ["a"]
    clock.now += 90
    assert await keys(store) == []


async def test_leases_that_ended_together_end_in_their_order(
    store: KVStore, clock: HeldClock
) -> None:
    late, soon = await store.grant(20), await store.grant(10)
    await store.transact([Put("a", b"", lease=late), Put("b", b"", lease=soon)])
    clock.now += 30
    assert await take(store.watch("", 1), 2) == [Change("b", None, 2), Change("a", None, 3)]


@pytest.mark.parametrize("ttl_s", [0, -1, float("nan")])
async def test_a_lease_must_last(store: KVStore, ttl_s: float) -> None:
    with pytest.raises(ValueError, match="longer than 0"):
        await store.grant(ttl_s)


# --- the end


async def test_a_closed_store_says_so_to_everybody(store: KVStore) -> None:
    lease = await store.grant(10)
    await store.close()
    for use in (
        store.get("a"),
        store.list(""),
        store.put("a", b""),
        store.delete("a"),
        store.transact([]),
        anext(store.watch("", 0)),
        store.grant(1),
        store.keep_alive(lease),
        store.revoke(lease),
    ):
        with pytest.raises(StoreUnavailable, match="is closed"):
            await use


async def test_closing_ends_waiting_watches(store: KVStore) -> None:
    waiting = asyncio.create_task(take(store.watch("", 0), 1))
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StoreUnavailable, match="is closed"):
        await waiting


async def test_closing_twice_is_no_error(store: KVStore) -> None:
    await store.close()
    await store.close()
