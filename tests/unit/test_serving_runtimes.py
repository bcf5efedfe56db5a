"""The table of serving runtimes: declared by one instance, known to all, whatever release wrote
it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
from tests.plugged_store import eventually
from tests.storage_fakes import HeldClock

from shoal.domain.errors import (
    Conflict,
    InvalidSpecification,
    NotFound,
    RuntimeDisabled,
    RuntimeNotRecognized,
)
from shoal.domain.model import ModelRecord, ModelSpec, make_revision
from shoal.domain.serving_runtime import ServingRuntime, SupportedFormat
from shoal.node.contents import RUNTIMES, read_contents
from shoal.node.journal import Journal
from shoal.node.replica import Replica
from shoal.node.serving_operations import ServingOperations
from shoal.node.serving_runtimes import ServingRuntimes
from shoal.runtimes.registry import RuntimeRegistry
from shoal.stores.memory import MemoryStore

TRITON = ServingRuntime(
    name="triton", formats=(SupportedFormat("tensorrt"),), command=("tritonserver",))


class Node:
    """What an instance has of it."""

    def __init__(self, store: MemoryStore, clock: HeldClock) -> None:
        self.store = store
        self.table = ServingRuntimes(clock)
        self.heard: list[set[str]] = []
        self.problems: list[str] = []
        self.replica = Replica(store, lambda *_: None, self.problems.append)
        self.journal = Journal(clock)
        self.operations = ServingOperations(
            self.table, RuntimeRegistry([]), self.replica, self.journal)

    async def start(self) -> None:
        contents = await read_contents(self.store)
        await self.table.start(self.store, contents, self.problems.append)
        await self.replica.start(contents)
        self.table.listeners.append(lambda names: self.heard.append(set(names)))

    def uses(self, name: str, **fields: str | None) -> None:
        """Register a model."""
        spec = msgspec.structs.replace(ModelSpec(name=name, uri=f"/{name}"), **fields)
        revision = make_revision(
            msgspec.structs.replace(spec, runtime=spec.runtime or "triton"), version=1,
            uri=spec.uri, format="tensorrt", artifact_digest="sha256:" + "0" * 64, files_bytes=1)
        self.replica.put_local(ModelRecord(name=name, spec=spec, revisions=(revision,)))


Start = Callable[[], "asyncio.Future[Node]"]


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock(wall_s=100.0)


@pytest.fixture
def store(clock: HeldClock) -> MemoryStore:
    return MemoryStore(clock)


@pytest.fixture
async def start(store: MemoryStore, clock: HeldClock) -> AsyncIterator[Start]:
    nodes: list[Node] = []

    async def made() -> Node:
        nodes.append(Node(store, clock))
        await nodes[-1].start()
        return nodes[-1]

    yield lambda: asyncio.ensure_future(made())
    for node in nodes:
        await node.table.stop()
        await node.replica.stop()


# --- the table ----------------------------------------------------------------------------------


async def test_what_one_declares_all_know(start: Start) -> None:
    here, there = await start(), await start()
    await here.table.put(TRITON)
    assert here.table.get("triton") == TRITON
    assert here.heard == [{"triton"}]
    await eventually(lambda: there.heard)
    assert there.table.all() == here.table.all()
    assert there.table.offers() == ("runtime:triton",)
    await there.table.delete("triton")
    await eventually(lambda: len(here.heard) == 2)
    assert here.table.all() == ()


async def test_what_was_declared_before_is_known_from_the_start(start: Start) -> None:
    await (await start()).table.put(TRITON)
    later = await start()
    assert later.table.get("triton") == TRITON
    assert later.heard == []


async def test_the_time_of_the_first_declaration_stays(start: Start, clock: HeldClock) -> None:
    node = await start()
    assert (await node.table.put(TRITON)).created_at == 100.0
    clock.pass_(5)
    other = msgspec.structs.replace(TRITON, max_loading=2)
    assert (await node.table.put(other)).created_at == 100.0
    assert (await node.table.put(msgspec.structs.replace(TRITON, name="b"))).created_at == 105.0


async def test_nobody_hears_of_what_changes_nothing(start: Start) -> None:
    node = await start()
    await node.table.put(TRITON)
    await node.table.put(TRITON)
    assert node.heard == [{"triton"}]


async def test_only_what_is_declared_and_enabled_is_given_for_loading(start: Start) -> None:
    node = await start()
    with pytest.raises(RuntimeNotRecognized, match="there is no serving runtime 'triton'"):
        node.table.get("triton")
    await node.table.put(msgspec.structs.replace(TRITON, disabled=True))
    with pytest.raises(RuntimeDisabled, match="'triton' is disabled"):
        node.table.get("triton")
    assert node.table.offers() == ()


async def test_what_a_later_release_says_beside_is_left_out(
    start: Start, store: MemoryStore
) -> None:
    said = msgspec.to_builtins(TRITON)
    value = {"serving": {**said, "colour": "blue", "formats": [{"name": "x", "taste": 1}]},
             "created_at": 3.0, "by": "somebody"}
    await store.put(f"{RUNTIMES}triton", msgspec.msgpack.encode(value))
    node = await start()
    assert node.table.get("triton").formats == (SupportedFormat("x"),)


async def test_a_record_that_cannot_be_read_is_told_and_can_be_replaced(
    start: Start, store: MemoryStore
) -> None:
    await store.put(f"{RUNTIMES}triton", b"\xc1")
    node = await start()
    assert node.table.all() == ()
    (problem,) = node.operations.all().problems
    assert "serving runtime 'triton' is not readable and is ignored" in problem
    assert node.problems == [problem]
    await node.table.put(TRITON)
    assert node.operations.all().problems == []


# --- what operators do with it ------------------------------------------------------------------


async def test_the_instances_themselves_are_listed_first(start: Start) -> None:
    node = await start()
    await node.operations.declare(msgspec.structs.replace(TRITON, name="a"))
    own, declared = node.operations.all().runtimes
    assert (own.name, own.own, own.declaration) == ("shoal", True, None)
    assert (declared.name, declared.own, declared.created_at) == ("a", False, 100.0)
    assert node.operations.one("shoal") == own
    assert node.operations.one("a") == declared


async def test_a_declaration_is_checked(start: Start) -> None:
    node = await start()
    with pytest.raises(InvalidSpecification, match="the instances themselves"):
        await node.operations.declare(msgspec.structs.replace(TRITON, name="shoal"))
    assert node.table.all() == ()


async def test_it_is_disabled_and_enabled(start: Start) -> None:
    node = await start()
    await node.operations.declare(TRITON)
    assert (await node.operations.enable("triton", enabled=False)).disabled
    assert not (await node.operations.enable("triton", enabled=True)).disabled
    with pytest.raises(NotFound, match="no serving runtime 'x'; declared are triton"):
        await node.operations.enable("x", enabled=True)
    with pytest.raises(Conflict, match="always enabled"):
        await node.operations.enable("shoal", enabled=False)
    kinds = [event.kind for event in node.journal.page(0, 100, None).events]
    assert kinds == ["runtime_declared", "runtime_disabled", "runtime_enabled"]


async def test_it_is_not_removed_while_models_use_it(start: Start) -> None:
    node = await start()
    await node.operations.declare(TRITON)
    node.uses("chosen")
    node.uses("named", runtime="triton")
    node.uses("triton-like", runtime="other")
    with pytest.raises(Conflict, match=r"used by 2 models: chosen, named; register them for"):
        await node.operations.delete("triton", force=False)
    gone = await node.operations.delete("triton", force=True)
    assert (gone.models, gone.first) == (2, ["chosen", "named"])
    assert node.table.all() == ()


async def test_what_nobody_uses_is_removed(start: Start) -> None:
    node = await start()
    await node.operations.declare(TRITON)
    assert (await node.operations.delete("triton", force=False)).models == 0
    with pytest.raises(NotFound):
        await node.operations.delete("triton", force=False)
    with pytest.raises(Conflict, match="cannot be removed"):
        await node.operations.delete("shoal", force=True)
