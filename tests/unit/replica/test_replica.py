"""The replica: what the registry says, known here at once, whoever wrote it, and kept when it is
gone."""

from __future__ import annotations

import hashlib
import tracemalloc

import msgspec
import pytest
from tests.plugged_store import Seen, Store, eventually, fall_behind, record, written
from tests.storage_fakes import HeldClock

from shoal.domain.errors import InvalidSpecification, StoreUnavailable
from shoal.domain.model import ModelRecord, ModelSpec, make_revision
from shoal.node import contents, records
from shoal.node import replica as module
from shoal.node.contents import MODELS, USAGE
from shoal.node.replica import Replica
from shoal.node.usage import Usage, unpack
from shoal.ports import Put
from shoal.stores.memory import MemoryStore

pytestmark = pytest.mark.usefixtures("impatient")

# --- knowing ------------------------------------------------------------------------------------


async def test_it_starts_with_what_is_stored_and_announces_none_of_it(
    store: Store, seen: Seen
) -> None:
    await written(store, "b")
    await written(store, "a")
    replica = Replica(store, seen.change, seen.problems.append)
    await replica.start()
    assert list(replica.names_after(None)) == ["a", "b"]
    assert list(replica.names_after("a")) == ["b"]
    assert replica.get("a") == record("a")
    assert len(replica) == 2
    assert seen.changes == []
    await replica.stop()


async def test_own_writes_are_known_at_once_and_announced_once(
    store: Store, replica: Replica, seen: Seen
) -> None:
    await replica.put(record("m", "/a"))
    assert replica.get("m") == record("m", "/a")
    await replica.put(record("m", "/b"))
    await replica.delete("m")
    assert "m" not in replica
    await written(store, "last")  # whatever the watch brings of the others comes before this
    await eventually(lambda: "last" in replica)
    assert seen.changes == [("m", "/a"), ("m", "/b"), ("m", None), ("last", "/a")]


async def test_others_writes_are_announced(store: Store, replica: Replica, seen: Seen) -> None:
    await written(store, "m", "/a")
    await eventually(lambda: "m" in replica)
    await written(store, "m", "/b")
    await store.delete(MODELS + "m")
    await eventually(lambda: "m" not in replica)
    assert seen.changes == [("m", "/a"), ("m", "/b"), ("m", None)]


async def test_of_two_writers_the_later_one_wins(
    store: Store, replica: Replica, seen: Seen
) -> None:
    await replica.put(record("m", "/ours"))
    await written(store, "m", "/theirs")
    await eventually(lambda: seen.changes[-1] == ("m", "/theirs"))
    await written(store, "n", "/theirs")
    await replica.put(record("n", "/ours"))
    await written(store, "last")
    await eventually(lambda: "last" in replica)
    found = replica.get("n")
    assert found is not None
    assert found.spec.uri == "/ours"
    assert ("n", "/theirs") not in seen.changes, "it was over before it was heard of"


async def test_a_change_is_made_to_what_the_store_has_now(
    store: Store, replica: Replica, seen: Seen
) -> None:
    await replica.put(record("m", "/old"))
    others = 0

    def out(known: ModelRecord) -> ModelRecord:
        return msgspec.structs.replace(known, unloaded=(1,))

    put = store.put

    async def overtaken(key: str, value: bytes, *, expect: int | None = None,
                        lease: int | None = None) -> int:
        nonlocal others
        if expect is not None and not others:
            others += 1
            await put(MODELS + "m", records.encode(record("m", "/new")))
        return await put(key, value, expect=expect, lease=lease)

    store.put = overtaken  # type: ignore[method-assign]
    await replica.change("m", out)
    known = replica.get("m")
    assert known is not None
    assert (known.spec.uri, known.unloaded, others) == ("/new", (1,), 1)
    assert seen.changes[-1] == ("m", "/new")


async def test_changes_are_told_with_the_revision_that_has_them(
    store: Store, replica: Replica, seen: Seen
) -> None:
    await replica.put(record("m"))
    await written(store, "m", "/b")
    await eventually(lambda: len(seen.revisions) == 2)
    changed = await replica.change(
        "m", lambda known: msgspec.structs.replace(known, unloaded=(0,)))
    replica.put_local(record("of-a-folder"))
    assert seen.revisions[2:] == [changed, 0]
    assert seen.revisions[:3] == sorted({*seen.revisions[:3]})


async def test_a_change_of_what_is_not_there_or_alike_writes_nothing(
    store: Store, replica: Replica
) -> None:
    await replica.put(record("m"))
    at = await replica.change("m", lambda known: msgspec.structs.replace(known, problem="x"))
    before = len(store.transactions)
    assert await replica.change("m", lambda known: known) == at
    assert await replica.change(
        "gone", lambda known: msgspec.structs.replace(known, origin="x")) == 0
    assert len(store.transactions) == before
    assert replica.get("gone") is None


async def test_what_became_unreadable_in_the_store_is_not_changed(
    store: Store, replica: Replica
) -> None:
    await replica.put(record("m"))
    await store.put(MODELS + "m", b"of a later release")
    with pytest.raises(InvalidSpecification, match="'m' is not readable"):
        await replica.change("m", lambda known: known)


async def test_writing_the_same_again_changes_nothing(replica: Replica, seen: Seen) -> None:
    await replica.put(record("m"))
    await replica.put(record("m"))
    assert seen.changes == [("m", "/a")]


async def test_forgetting_what_is_not_there_does_no_harm(replica: Replica, seen: Seen) -> None:
    await replica.delete("nobody")
    assert seen.changes == []


# --- in bulk ------------------------------------------------------------------------------------


async def test_many_are_written_in_one_transaction_and_known_at_once(
    store: Store, replica: Replica, seen: Seen
) -> None:
    await replica.put_all([record("b"), record("a")])
    assert [len(ops) for ops in store.transactions] == [2]
    assert seen.changes == [("b", "/a"), ("a", "/a")]
    await replica.delete_all(["a", "b"])
    assert len(store.transactions) == 2
    assert list(replica.names_after(None)) == replica.names() == []
    await written(store, "last")  # whatever the watch brings of the others comes before this
    await eventually(lambda: "last" in replica)
    assert len(seen.changes) == 5


async def test_many_that_cannot_be_stored_have_not_happened(
    store: Store, replica: Replica, seen: Seen
) -> None:
    store.pull()
    failed = await replica.put_all([record("a"), record("b")])
    assert {name: type(error) for name, error in failed.items()} == dict.fromkeys(
        ("a", "b"), StoreUnavailable)
    assert seen.changes == []
    assert len(replica) == 0


async def test_who_listens_is_told_that_it_is_one_of_many(store: Store) -> None:
    told: list[tuple[str, bool]] = []
    made = Replica(store, lambda name, *_: told.append((name, made.in_bulk)), print)
    await made.start()
    await made.put_all([record("a")])
    await made.put(record("b"))
    await made.stop()
    assert told == [("a", True), ("b", False)]


# --- a great many -------------------------------------------------------------------------------


async def test_a_registered_model_takes_less_than_500_bytes() -> None:
    count = 20_000
    store = MemoryStore(HeldClock())
    for start in range(0, count, 1_000):
        await store.transact([
            Put(f"{MODELS}{name}", records.encode(declared(name)))
            for name in (f"tenant-{number:07}" for number in range(start, start + 1_000))
        ])
    replica = Replica(store, print, print)
    tracemalloc.start()
    try:
        await replica.start()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    shared = len(records.encode(declared("tenant-0000000"))) + 33  # held by the store in memory too
    assert taken / count + shared <= 400
    assert len(replica) == count
    assert replica.get("tenant-0012345") == declared("tenant-0012345")
    await replica.stop()


def declared(name: str) -> ModelRecord:
    spec = ModelSpec(name=name, uri=f"/srv/models/{name}.onnx")
    revision = make_revision(
        spec, version=1, uri=spec.uri, format="onnx", files_bytes=711,
        artifact_digest=f"sha256:{hashlib.sha256(name.encode()).hexdigest()}",
    )
    return ModelRecord(name=name, spec=spec, revisions=(revision,), registered_at=1763720000.5)


async def test_a_registry_is_read_in_pages_and_changes_meanwhile_are_not_lost(
    store: Store, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "PAGE", 2)
    for name in "abcdef":
        await written(store, name)
    listed = store.list
    pages = []

    async def list_and_change(*arguments: str, **limits: object) -> object:
        page = await listed(*arguments, **limits)  # type: ignore[arg-type]
        pages.append(page)
        if len(pages) == 1:
            await written(store, "e", "/changed")  # on a page that is yet to come
            await written(store, "a", "/changed")  # and on one that is over
            await store.delete(MODELS + "f")
        return page

    monkeypatch.setattr(store, "list", list_and_change)
    replica = Replica(store, seen.change, seen.problems.append)
    await replica.start()
    await eventually(lambda: seen.changes)
    assert list(replica.names_after(None)) == ["a", "b", "c", "d", "e"]
    assert seen.changes == [("a", "/changed")], "the other change was read already"
    assert replica.get("e") == record("e", "/changed")
    await replica.stop()


async def test_pinned_models_are_told_at_the_start(store: Store, replica: Replica) -> None:
    pinned = ModelSpec(name="b", uri="/b", pin=True)
    await replica.put_all([record("a"), ModelRecord(name="b", spec=pinned)])
    another = Replica(store, lambda *_: None, print)
    assert await another.start() == ["b"]
    await another.stop()


async def test_records_of_earlier_releases_are_read(store: Store, seen: Seen) -> None:
    await written(store, "m")
    await store.put(USAGE + "m", msgspec.json.encode(Usage(5.0, "sha256:" + "0" * 64, 7)))
    replica = Replica(store, seen.change, seen.problems.append)
    await replica.start()
    assert replica.get("m") == record("m")
    assert replica.usage["m"] == Usage(5.0, "sha256:" + "0" * 64, 7)
    assert seen.problems == []
    await replica.stop()


async def test_a_record_that_proves_unreadable_when_it_is_used_is_told_then(
    store: Store, seen: Seen
) -> None:
    await store.put(MODELS + "broken", b"\x01nonsense")
    replica = Replica(store, seen.change, seen.problems.append)
    await replica.start()
    assert replica.get("broken") is None
    assert "'broken' is not readable" in seen.problems[0]
    assert replica.problems == seen.problems
    assert replica.names() == []
    await replica.stop()


async def test_very_many_unreadable_records_are_counted_rather_than_told(
    store: Store, seen: Seen
) -> None:
    for number in range(module.TOLD + 5):
        await store.put(f"{MODELS}m{number}", b"nonsense")
    replica = Replica(store, seen.change, seen.problems.append)
    await replica.start()
    assert len(seen.problems) == module.TOLD + 1
    assert seen.problems[-1].startswith("5 other records")
    await replica.stop()


# --- folders' models ----------------------------------------------------------------------------


async def test_a_folders_models_are_known_but_not_stored(
    store: Store, replica: Replica, seen: Seen
) -> None:
    replica.put_local(record("m", origin="folder:/models"))
    assert "m" in replica
    assert (await store.list("")).entries == []
    replica.delete_local("m")
    assert "m" not in replica
    assert seen.changes == [("m", "/a"), ("m", None)]


async def test_a_folders_models_survive_a_store_that_is_read_anew(
    seen: Seen
) -> None:
    store = Store(history_limit=2)
    await written(store, "registered")
    replica = Replica(store, seen.change, seen.problems.append)
    await replica.start()
    replica.put_local(record("local", origin="folder:/models"))
    await fall_behind(store)
    await eventually(lambda: "m9" in replica)
    assert "local" in replica
    assert "registered" in replica
    await replica.stop()


# --- usage --------------------------------------------------------------------------------------


async def test_usage_orders_models_and_outlives_the_process(
    store: Store, replica: Replica, seen: Seen
) -> None:
    for name in ("a", "b", "c", "d"):
        await replica.put(record(name))
    replica.used("b", Usage(20.0, "sha256:b", 100))
    replica.used("c", Usage(30.0, "sha256:c", 200))
    assert replica.by_last_use() == ["c", "b"]
    await replica.stop()
    another = Replica(store, seen.change, seen.problems.append)
    await another.start()
    assert another.by_last_use() == ["c", "b"]
    assert another.usage["c"] == Usage(30.0, "sha256:c", 200)
    await another.stop()


async def test_the_size_of_a_model_that_was_never_used_outlives_the_process(
    store: Store, replica: Replica, seen: Seen
) -> None:
    for name in ("a", "b"):
        await replica.put(record(name))
    replica.used("b", Usage(20.0, "sha256:b", 100))
    replica.measured("a", "sha256:a", 300)
    replica.measured("b", "sha256:b2", 400)
    await replica.stop()
    another = Replica(store, seen.change, seen.problems.append)
    await another.start()
    assert another.usage["a"] == Usage(0.0, "sha256:a", 300)
    assert another.usage["b"] == Usage(20.0, "sha256:b2", 400)
    assert another.by_last_use() == ["b"]
    await another.stop()


async def test_only_what_changed_is_saved(store: Store, replica: Replica) -> None:
    await replica.put(record("m"))
    replica.used("m", Usage(1.0))
    await replica.save_usage()
    before = len(store.transactions)
    await replica.save_usage()
    assert len(store.transactions) == before


async def test_many_are_saved_in_portions(store: Store, replica: Replica) -> None:
    names = [f"m{number:04}" for number in range(module.BATCH * 2 + 1)]
    for name in names:
        replica.put_local(record(name))
        replica.used(name, Usage(1.0))
    await replica.save_usage()
    assert [len(ops) for ops in store.transactions] == [module.BATCH, module.BATCH, 1]


async def test_usage_that_cannot_be_saved_is_saved_the_next_time(
    store: Store, replica: Replica, seen: Seen
) -> None:
    await replica.put(record("m"))
    replica.used("m", Usage(1.0))
    store.gone = True
    await replica.save_usage()
    assert "cannot be saved" in seen.problems[-1]
    store.gone = False
    await replica.save_usage()
    entry = await store.get(USAGE + "m")
    assert entry is not None
    assert unpack(entry.value) == Usage(1.0)


async def test_what_is_unregistered_leaves_no_usage_behind(store: Store, replica: Replica) -> None:
    await replica.put(record("m"))
    replica.used("m", Usage(1.0))
    await replica.save_usage()
    replica.used("m", Usage(2.0))
    await replica.delete("m")
    await replica.save_usage()
    assert (await store.list("")).entries == []
    replica.used("m", Usage(3.0))
    assert replica.usage == {}, "a last use that is reported afterwards"
