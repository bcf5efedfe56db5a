"""The replica: what the registry says, known here at once, whoever wrote it, and kept when it is
gone."""

from __future__ import annotations

import asyncio
import hashlib
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
import pytest
from tests.storage_fakes import HeldClock

from shoal.domain.errors import StoreUnavailable
from shoal.domain.model import ModelRecord, ModelSpec, make_revision
from shoal.node import contents, records
from shoal.node import replica as module
from shoal.node.contents import MODELS, USAGE
from shoal.node.replica import Replica
from shoal.node.usage import Usage, unpack
from shoal.ports import Op, Put
from shoal.stores.memory import MemoryStore


class Store(MemoryStore):
    """The real one, with a plug to pull."""

    def __init__(self, history_limit: int = 100) -> None:
        super().__init__(HeldClock(), history_limit=history_limit)
        self.gone = False
        self.transactions: list[Sequence[Op]] = []

    def pull(self) -> None:
        self.gone = True
        self._changed.fire()

    def _refresh(self) -> None:
        """Before every operation, and whenever a watch wakes."""
        if self.gone:
            raise StoreUnavailable("the cable is out; put it in")
        super()._refresh()

    async def transact(self, ops: Sequence[Op]) -> int:
        self.transactions.append(ops)
        return await super().transact(ops)


class Seen:
    """What the replica told."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str | None]] = []  # name and URI
        self.problems: list[str] = []

    def change(self, name: str, record: ModelRecord | None) -> None:
        self.changes.append((name, None if record is None else record.spec.uri))


def record(name: str, uri: str = "/a", origin: str = "api") -> ModelRecord:
    return ModelRecord(name=name, spec=ModelSpec(name=name, uri=uri), origin=origin)


async def written(store: MemoryStore, name: str, uri: str = "/a") -> None:
    """By another process."""
    await store.put(MODELS + name, msgspec.json.encode(record(name, uri)))


async def eventually(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - whatever it is
            await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", (0.001, 0.002))


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
async def replica(store: Store, seen: Seen) -> AsyncIterator[Replica]:
    replica = Replica(store, seen.change, seen.problems.append)
    await replica.start()
    yield replica
    store.gone = False
    await replica.stop()


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
    with pytest.raises(StoreUnavailable, match="the cable is out"):
        await replica.put_all([record("a"), record("b")])
    assert seen.changes == []
    assert len(replica) == 0


async def test_who_listens_is_told_that_it_is_one_of_many(store: Store) -> None:
    told: list[tuple[str, bool]] = []
    made = Replica(store, lambda name, _: told.append((name, made.in_bulk)), print)
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


# --- trouble ------------------------------------------------------------------------------------


async def fall_behind(store: Store) -> None:
    """More changes than the store remembers, before the watch gets to hear of any."""
    for number in range(10):
        await written(store, f"m{number}")


async def test_history_that_is_gone_is_made_up_for(seen: Seen) -> None:
    store = Store(history_limit=2)
    await written(store, "old")
    replica = Replica(store, seen.change, seen.problems.append)
    await replica.start()
    await store.delete(MODELS + "old")
    await fall_behind(store)
    await eventually(lambda: len(replica) == 10)
    assert "old" not in replica
    assert sorted(seen.changes, key=str) == sorted(
        [("old", None), *((f"m{number}", "/a") for number in range(10))], key=str)
    assert seen.problems == []
    await written(store, "later")
    await eventually(lambda: "later" in replica)
    await replica.stop()


async def test_while_the_store_is_gone_models_stay_and_it_is_said_once(
    store: Store, replica: Replica, seen: Seen
) -> None:
    await replica.put(record("m"))
    store.pull()
    await eventually(lambda: replica.trouble)
    await asyncio.sleep(0.02)  # several tries
    assert "m" in replica
    assert len(seen.problems) == 1
    assert "the cable is out" in seen.problems[0]
    assert replica.problems == seen.problems


async def test_when_the_store_is_back_it_catches_up_and_the_problem_is_over(
    store: Store, replica: Replica, seen: Seen
) -> None:
    await replica.put(record("goes"))
    store.pull()
    await eventually(lambda: replica.trouble)
    store.gone = False
    await store.delete(MODELS + "goes")
    await written(store, "comes")
    await eventually(lambda: "comes" in replica)
    assert "goes" not in replica
    assert replica.problems == []
    store.pull()
    await eventually(lambda: replica.trouble)
    assert len(seen.problems) == 2


async def test_what_cannot_be_stored_has_not_happened(
    store: Store, replica: Replica, seen: Seen
) -> None:
    await replica.put(record("m"))
    store.pull()
    with pytest.raises(StoreUnavailable, match="the cable is out"):
        await replica.put(record("n"))
    with pytest.raises(StoreUnavailable):
        await replica.delete("m")
    assert list(replica.names_after(None)) == ["m"]
    assert seen.changes == [("m", "/a")]


@pytest.mark.parametrize("value", [b"", b"nonsense", b"{}", b'{"name": 1}', b"\xff\xfe", b"[1"])
async def test_a_record_that_cannot_be_read_is_named_and_ignored(
    store: Store, seen: Seen, value: bytes
) -> None:
    await store.put(MODELS + "broken", value)
    await written(store, "fine")
    replica = Replica(store, seen.change, seen.problems.append)
    await replica.start()
    assert list(replica.names_after(None)) == ["fine"]
    assert "'broken' is not readable" in seen.problems[0]
    assert "register the model again" in seen.problems[0]
    assert replica.problems == seen.problems
    await replica.put(record("broken"))
    assert replica.problems == []
    assert "broken" in replica
    await replica.stop()


async def test_a_record_that_becomes_unreadable_leaves_the_old_one(
    store: Store, replica: Replica, seen: Seen
) -> None:
    await written(store, "m")
    await store.put(MODELS + "m", b"nonsense")
    await eventually(lambda: seen.problems)
    assert replica.get("m") == record("m")


async def test_usage_that_cannot_be_read_is_ignored(store: Store, seen: Seen) -> None:
    await written(store, "m")
    await store.put(USAGE + "m", b"nonsense")
    replica = Replica(store, seen.change, seen.problems.append)
    await replica.start()
    assert replica.usage == {}
    assert "usage/m" in seen.problems[0]
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
