"""What every `KVStore` does alike, whatever it keeps its entries in: reading, writing, listing.
Which there are is in `tests.any_store`.
"""

from __future__ import annotations

import asyncio
import string

import pytest
from tests.any_store import keys, plain, take

from shoal.domain.errors import Conflict, StoreUnavailable
from shoal.ports import Delete, KVStore, Put

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
