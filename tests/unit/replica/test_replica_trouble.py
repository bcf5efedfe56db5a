"""The replica in trouble: the registry gone, its history gone, or records in it that cannot be
read."""

from __future__ import annotations

import asyncio

import pytest
from tests.plugged_store import Seen, Store, eventually, fall_behind, record, written

from shoal.domain.errors import StoreUnavailable
from shoal.node.contents import MODELS, USAGE
from shoal.node.replica import Replica

pytestmark = pytest.mark.usefixtures("impatient")


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
