"""When a copy looks for a faster form of its model, and what is remembered of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import pytest

from shoal.domain.model import ModelSpec, Revision, make_revision
from shoal.domain.signature import Signature
from shoal.node.clock import SystemClock
from shoal.node.journal import Journal
from shoal.node.live import LiveCopy, Running
from shoal.node.optimizing import AFTER_USES, Optimizer
from shoal.ports import Outcome

if TYPE_CHECKING:
    from shoal.ports import Arrays

FASTER = Outcome("onnxruntime_test", "converted: twice as fast")
NOT = Outcome(None, "not converted: it is odd")


class Model:
    signature = Signature((), ())
    platform = "test"
    max_concurrency = 1
    may_wait = False

    def __init__(self, outcome: Outcome | Exception) -> None:
        self.outcome = outcome
        self.tried = 0
        self.go = threading.Event()
        self.go.set()

    def optimize(self) -> Outcome:
        self.go.wait(10)
        self.tried += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def predict(self, inputs: Arrays, parameters: object, outputs: tuple[str, ...] = ()) -> Arrays:
        return inputs

    def size_bytes(self) -> int | None:
        return None

    def close(self) -> None: ...


@dataclass
class Bench:
    """An optimizer with its journal; `copy` makes copies that were used as often as said."""

    running: Running
    journal: Journal = field(default_factory=lambda: Journal(SystemClock()))
    default: str = "off"
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()

        def soon(act: Callable[..., None], *arguments: object) -> None:
            loop.call_soon_threadsafe(self._act, act, *arguments)

        self.optimizer = Optimizer(
            "auto" if self.default == "auto" else "off", self.journal, soon)

    def _act(self, act: Callable[..., None], *arguments: object) -> None:
        act(*arguments)
        self.changed.set()

    def copy(self, model: Model, uses: int = AFTER_USES, **revision: object) -> LiveCopy:
        made = msgspec.structs.replace(REVISION, **revision)
        copy = LiveCopy(made, model, self.running)
        copy.uses = uses
        return copy

    async def until(self, true: Callable[[], object]) -> None:
        while not true():
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 10)


REVISION = Revision(id="m@1-0", model="m", version=1, uri="/m", format="sklearn",
                    artifact_digest="sha256:0", files_bytes=1, optimize="auto")


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    with ThreadPoolExecutor(1) as pool:
        yield Running(pool=pool, threads=2, inline_limit_s=1.0, max_queued=2)


async def test_a_copy_that_is_used_enough_is_tried_once(running: Running) -> None:
    bench, model = Bench(running), Model(FASTER)
    copy = bench.copy(model)
    for _ in range(3):
        bench.optimizer.consider(copy)
    await bench.until(lambda: bench.optimizer.outcome(copy.revision.id))
    bench.optimizer.consider(copy)
    assert model.tried == 1
    assert bench.optimizer.outcome(copy.revision.id) == FASTER
    assert copy.platform == "onnxruntime_test"
    assert copy.in_flight == 0
    (event,) = bench.journal.last_of("m", 5)
    assert (event.kind, event.message) == (
        "optimized", "model 'm' version 1: converted: twice as fast")


@pytest.mark.parametrize(("default", "wish", "uses", "tried"), [
    ("off", None, AFTER_USES, 0), ("off", "auto", AFTER_USES, 1), ("auto", None, AFTER_USES, 1),
    ("auto", "off", AFTER_USES, 0), ("auto", None, AFTER_USES - 1, 0),
])
async def test_only_what_is_wanted_and_used_is_tried(
    running: Running, default: str, wish: str | None, uses: int, tried: int
) -> None:
    bench, model, other = Bench(running, default=default), Model(FASTER), Model(NOT)
    bench.optimizer.consider(bench.copy(model, uses, optimize=wish))
    last = bench.copy(other, id="other@1-0", artifact_digest="sha256:1")
    bench.optimizer.consider(last)
    await bench.until(lambda: bench.optimizer.outcome("other@1-0"))
    assert model.tried == tried


async def test_a_copy_is_not_closed_while_it_is_tried(running: Running) -> None:
    bench, model = Bench(running), Model(FASTER)
    model.go.clear()
    copy = bench.copy(model)
    bench.optimizer.consider(copy)
    bench.optimizer.forget(copy)
    idle: list[str] = []
    copy.when_idle(lambda: idle.append("now"))
    assert idle == []
    model.go.set()
    await bench.until(lambda: idle)
    assert bench.optimizer.outcome(copy.revision.id) is None


async def test_one_is_tried_at_a_time_and_what_left_is_not(running: Running) -> None:
    bench, first, gone, last = Bench(running), Model(FASTER), Model(FASTER), Model(FASTER)
    first.go.clear()
    copies = [
        bench.copy(model, id=f"{number}@1-0", artifact_digest=f"sha256:{number}")
        for number, model in enumerate((first, gone, last))
    ]
    for copy in copies:
        bench.optimizer.consider(copy)
    assert [copy.in_flight for copy in copies] == [1, 0, 0]
    bench.optimizer.forget(copies[1])
    first.go.set()
    await bench.until(lambda: bench.optimizer.outcome("2@1-0"))
    assert (first.tried, gone.tried, last.tried) == (1, 0, 1)


async def test_what_cannot_be_is_not_tried_again_after_a_reload(running: Running) -> None:
    bench, model = Bench(running), Model(NOT)
    copy = bench.copy(model)
    bench.optimizer.consider(copy)
    await bench.until(lambda: bench.optimizer.outcome(copy.revision.id))
    bench.optimizer.forget(copy)
    assert bench.optimizer.outcome(copy.revision.id) is None
    bench.optimizer.consider(bench.copy(model))
    assert bench.optimizer.outcome(copy.revision.id) == NOT
    assert model.tried == 1
    assert copy.platform == "test"


async def test_a_defect_leaves_the_model_as_it_is_and_is_told(running: Running) -> None:
    bench, model = Bench(running), Model(ZeroDivisionError("oh"))
    copy = bench.copy(model)
    bench.optimizer.consider(copy)
    await bench.until(lambda: bench.optimizer.outcome(copy.revision.id))
    (event,) = bench.journal.last_of("m", 5)
    assert event.kind == "not_optimized"
    assert event.message == "model 'm' version 1: not converted: ZeroDivisionError: oh"
    assert copy.platform == "test"


def test_a_wish_makes_another_revision_and_none_does_not() -> None:
    def revision_of(spec: ModelSpec) -> Revision:
        return make_revision(
            spec, version=1, uri="/m", format="sklearn", artifact_digest="sha256:0", files_bytes=1)

    spec = ModelSpec(name="m", uri="/m")
    wished = revision_of(msgspec.structs.replace(spec, optimize="auto"))
    assert wished.optimize == "auto"
    assert wished.id != revision_of(spec).id
    assert b"optimize" not in msgspec.json.encode(revision_of(spec))
