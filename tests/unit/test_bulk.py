"""Many models at once: each is told of alone, and what is there already stays as it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.storage_fakes import HeldClock

from shoal.domain.errors import (
    ArtifactMissing,
    Conflict,
    InvalidSpecification,
    StoreUnavailable,
)
from shoal.domain.model import ModelRecord, ModelSpec, make_revision
from shoal.domain.views import Registered, State
from shoal.node.bulk import Bulk
from shoal.node.catalogue import Catalogue
from shoal.node.control import ModelFilter
from shoal.node.instance import Instance, Parts
from shoal.node.live import Running
from shoal.node.loader import Loader
from shoal.node.replica import BATCH
from shoal.observability.metrics import Metrics
from shoal.ports import Op, Put
from shoal.runtimes.registry import RuntimeRegistry
from shoal.settings import Settings
from shoal.stores.memory import MemoryStore


class Store(MemoryStore):
    """The real one, which may be gone; counts what it is asked to write."""

    def __init__(self) -> None:
        super().__init__(HeldClock())
        self.gone = False
        self.takes_bytes = 1_000_000
        self.transactions: list[int] = []

    async def transact(self, ops: Sequence[Op]) -> int:
        if self.gone:
            raise StoreUnavailable("the cable is out; put it in")
        if sum(len(op.value) for op in ops if isinstance(op, Put)) > self.takes_bytes:
            raise InvalidSpecification("that is too much at once")
        self.transactions.append(len(ops))
        return await super().transact(ops)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def instance(store: Store) -> AsyncIterator[Instance]:
    clock = HeldClock()
    running = Running(ThreadPoolExecutor(1), 1, 0.0, 1)
    instance = Instance(Settings(), Parts(
        store=store, loader=Loader(RuntimeRegistry.installed(), (), (), 1), running=running,
        metrics=Metrics(False, 0), clock=clock, budget_bytes=1,
    ))
    await instance.start()
    yield instance
    await instance.stop()


@pytest.fixture
def bulk(instance: Instance) -> Bulk:
    def refusal(name: str) -> Conflict | None:
        return Conflict(f"{name} is a folder's") if name.startswith("folders") else None

    return Bulk(instance, refusal)


def declare(spec: ModelSpec) -> ModelRecord:
    if "missing" in spec.uri:
        raise ArtifactMissing(f"model {spec.name!r}: {spec.uri} does not exist")
    revision = make_revision(
        spec, version=1, uri=spec.uri, format=spec.format or "onnx", files_bytes=2,
        artifact_digest="sha256:" + "0" * 64,
    )
    declare.clock += 1.0  # type: ignore[attr-defined]
    return ModelRecord(
        name=spec.name, spec=spec, revisions=(revision,),
        registered_at=declare.clock,  # type: ignore[attr-defined]
    )


declare.clock = 0.0  # type: ignore[attr-defined]


def specs(*names: str) -> list[ModelSpec]:
    return [ModelSpec(name=name, uri=f"/{name}") for name in names]


async def test_each_model_is_told_of_in_the_order_it_was_given(
    bulk: Bulk, instance: Instance
) -> None:
    told = await bulk.register(specs("b", "missing", "folders", "a", "b"), declare)
    assert [(each.name, each.ok, each.code) for each in told] == [
        ("b", True, None), ("missing", False, "ARTIFACT_MISSING"), ("folders", False, "CONFLICT"),
        ("a", True, None), ("b", False, "CONFLICT"),
    ]
    assert instance.replica.names() == ["a", "b"]


async def test_what_is_there_already_is_not_written_again(bulk: Bulk, store: Store) -> None:
    await bulk.register(specs("a", "b"), declare)
    written = list(store.transactions)
    told = await bulk.register(specs("a", "b"), declare)
    assert told == [Registered("a", True, unchanged=True), Registered("b", True, unchanged=True)]
    assert store.transactions == written


async def test_what_differs_is_written(bulk: Bulk, instance: Instance) -> None:
    await bulk.register(specs("a", "b"), declare)
    (told,) = await bulk.register([ModelSpec(name="a", uri="/elsewhere")], declare)
    assert not told.unchanged
    record = instance.replica.get("a")
    assert record is not None
    assert record.spec.uri == "/elsewhere"


async def test_many_are_written_in_few_transactions_and_one_event_tells_of_them(
    bulk: Bulk, instance: Instance, store: Store
) -> None:
    names = [f"m{number:04}" for number in range(BATCH + 1)]
    await bulk.register(specs(*names), declare)
    assert store.transactions == [BATCH, 1]
    (event,) = instance.journal.page(0, 100, None).events
    assert event.message == f"{len(names):,} models are registered, from 'm0000' to {names[-1]!r}"


async def test_what_the_registry_does_not_take_is_told_of_each(bulk: Bulk, store: Store) -> None:
    await bulk.register(specs("old"), declare)
    store.gone = True
    told = await bulk.register(specs("old", "new"), declare)
    assert [(each.ok, each.code) for each in told] == [(True, None), (False, "STORE_UNAVAILABLE")]
    assert told[1].error == "the cable is out; put it in"
    (gone,) = await bulk.unregister(["old"])
    assert gone.code == "STORE_UNAVAILABLE"
    store.gone = False


async def test_what_is_too_much_at_once_is_written_in_parts(
    bulk: Bulk, instance: Instance, store: Store
) -> None:
    store.takes_bytes = 2_000
    large = ModelSpec(name="large", uri="/" + 3_000 * "x")
    told = await bulk.register([*specs("a", "b"), large, *specs("c", "d")], declare)
    assert [each.name for each in told if each.ok] == ["a", "b", "c", "d"]
    assert told[2].error == "that is too much at once"
    assert instance.replica.names() == ["a", "b", "c", "d"]


async def test_names_are_unregistered_once(bulk: Bulk, instance: Instance) -> None:
    await bulk.register(specs("a", "b"), declare)
    told = await bulk.unregister(["a", "nobody", "folders", "a"])
    assert [(each.ok, each.unchanged) for each in told] == [
        (True, False), (True, True), (False, False), (True, True)
    ]
    assert instance.replica.names() == ["b"]


# --- looking for some of many -------------------------------------------------------------------


@pytest.fixture
async def catalogue(bulk: Bulk, instance: Instance) -> Catalogue:
    many = [
        ModelSpec(name=f"m{number}", uri=f"/m{number}", format="onnx" if number % 2 else "sklearn",
                  labels={"odd": str(number % 2)})
        for number in range(9)
    ]
    await bulk.register(many, declare)
    return Catalogue(instance)


async def names_and_total(catalogue: Catalogue, **wanted: object) -> tuple[list[str], int]:
    """Of all pages; the total must not change from one to the next."""
    names: list[str] = []
    after: str | None = None
    while True:
        asked = ModelFilter(after=after, limit=2, **wanted)  # type: ignore[arg-type]
        page = await catalogue.page(asked)
        names += [model.name for model in page.models]
        if page.next is None:
            return names, page.total
        after = page.next


async def test_pages_hold_every_model_once(catalogue: Catalogue) -> None:
    assert await names_and_total(catalogue) == ([f"m{number}" for number in range(9)], 9)


async def test_pages_hold_every_model_that_matches_once(catalogue: Catalogue) -> None:
    odd = [f"m{number}" for number in range(1, 9, 2)]
    assert await names_and_total(catalogue, format="onnx") == (odd, 4)
    assert await names_and_total(catalogue, label="odd=1") == (odd, 4)
    assert (await names_and_total(catalogue, label="odd"))[1] == 9
    assert await names_and_total(catalogue, label="even") == ([], 0)
    assert await names_and_total(catalogue, contains="8") == (["m8"], 1)
    assert (await names_and_total(catalogue, state=State.FAILED))[1] == 9, "nothing fits the budget"


async def test_models_in_a_state_are_found_without_looking_at_all(catalogue: Catalogue) -> None:
    assert await names_and_total(catalogue, state=State.READY) == ([], 0)
    assert await names_and_total(catalogue, state=State.INVALID) == ([], 0)


async def test_states_are_counted(catalogue: Catalogue) -> None:
    assert catalogue.by_state(await catalogue.in_play()) == {"cold": 9}
