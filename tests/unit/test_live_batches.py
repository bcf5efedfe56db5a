"""Calls of a live copy that run as one: who gets what, what fails alone, when it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from shoal.domain.errors import InvalidInput, ModelFailed
from shoal.domain.model import JsonValue, Revision
from shoal.domain.signature import Signature, TensorSpec
from shoal.node.call_cost import CallCost
from shoal.node.joining import MAX_FRUITLESS
from shoal.node.live import LiveCopy, Prediction, Running

if TYPE_CHECKING:
    from shoal.ports import Arrays

NEVER_SHORT, ALWAYS_SHORT = 1e-12, 1e6
DECLARED = Revision(id="m@1-0", model="m", version=1, uri="/m", format="fake", artifact_digest="",
                    files_bytes=1, max_batch_rows=8)
UNDECLARED = Revision(id="m@1-1", model="m", version=1, uri="/m", format="fake",
                      artifact_digest="", files_bytes=1)


def doubled(x: Any) -> Any:
    return x * 2


class Model:
    """Answers `act` of x. On threads the first call waits until it is let go."""

    platform = "fake"
    max_concurrency = 1
    may_wait = False
    signature = Signature(
        (TensorSpec("x", "FP64", (-1,)),), (TensorSpec("y", "FP64", (-1,)),)
    )

    def __init__(self, act: Callable[[Any], Any] = doubled) -> None:
        self.act = act
        self.calls: list[list[float]] = []
        self.begun = threading.Event()
        self.go = threading.Event()

    def predict(self, inputs: Arrays, parameters: Mapping[str, JsonValue],
                outputs: tuple[str, ...] = ()) -> Arrays:
        self.calls.append(inputs["x"].tolist())
        if threading.current_thread() is not threading.main_thread():
            self.begun.set()
            assert self.go.wait(10)
        return {"y": np.asarray(self.act(inputs["x"]))}

    def size_bytes(self) -> int | None:
        return None

    def close(self) -> None:
        pass


@pytest.fixture
def running() -> Iterator[Running]:
    with ThreadPoolExecutor(4) as pool:
        yield Running(pool, 4, inline_limit_s=NEVER_SHORT, max_queued=100, max_batch_rows=8)


class Known(CallCost):
    """Calls of up to 128 rows cost as much as of one, whatever is measured."""

    def __init__(self) -> None:
        super().__init__()
        super().add(64, 1e-3)

    def add(self, rows: int, seconds: float) -> None:
        pass


def copy_of(model: Model, running: Running, revision: Revision = DECLARED) -> LiveCopy:
    copy = LiveCopy(revision, model, running)
    copy._joining.cost = Known()
    return copy


def ask(copy: LiveCopy, *x: float, parameters: Mapping[str, JsonValue] | None = None,
        outputs: tuple[str, ...] = ()) -> asyncio.Task[Prediction]:
    inputs: Arrays = {"x": np.array(x, np.float64)}
    return asyncio.create_task(copy.predict(inputs, parameters or {}, outputs, 8 * len(x)))


async def busy(copy: LiveCopy, model: Model) -> asyncio.Task[Prediction]:
    """A call that runs, so that those that come next wait."""
    first = ask(copy, 0.0)
    await asyncio.to_thread(model.begun.wait, 10)
    return first


async def answers(model: Model, *tasks: asyncio.Task[Prediction]) -> list[Any]:
    await asyncio.sleep(0)  # they take their places in the line
    model.go.set()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    return [
        each.outputs["y"].tolist() if isinstance(each, Prediction) else each for each in done
    ]


# --- together -----------------------------------------------------------------------------------


async def test_what_waits_runs_as_one_and_each_gets_its_rows(running: Running) -> None:
    model = Model()
    copy = copy_of(model, running)
    joined: list[tuple[int, int]] = []
    copy.on_joined = lambda calls, answered, seconds: joined.append((calls, answered))
    tasks = [await busy(copy, model), ask(copy, 1), ask(copy, 2, 3), ask(copy, 4, 5, 6)]
    assert await answers(model, *tasks) == [[0], [2], [4, 6], [8, 10, 12]]
    assert model.calls == [[0], [1, 2, 3, 4, 5, 6]]
    assert joined == [(3, 3)]
    assert copy.uses == 4
    assert copy.in_flight == 0


async def test_no_more_rows_run_together_than_declared(running: Running) -> None:
    model = Model()
    copy = copy_of(model, running, replace_declared(max_batch_rows=3))
    tasks = [await busy(copy, model), *(ask(copy, i) for i in range(1, 6))]
    assert await answers(model, *tasks) == [[0], [2], [4], [6], [8], [10]]
    assert model.calls == [[0], [1, 2, 3], [4, 5]]


async def test_one_row_declared_means_alone(running: Running) -> None:
    model = Model()
    copy = copy_of(model, running, replace_declared(max_batch_rows=1))
    await answers(model, await busy(copy, model), ask(copy, 1), ask(copy, 2))
    assert model.calls == [[0], [1], [2]]


async def test_other_parameters_or_outputs_run_apart(running: Running) -> None:
    model = Model()
    copy = copy_of(model, running)
    tasks = [
        await busy(copy, model), ask(copy, 1), ask(copy, 2, parameters={"a": 1}),
        ask(copy, 3, outputs=("y",)), ask(copy, 4), ask(copy, 5, parameters={"a": 1}),
    ]
    assert await answers(model, *tasks) == [[0], [2], [4], [6], [8], [10]]
    assert model.calls == [[0], [1, 4], [2, 5], [3]]


async def test_a_fixed_first_axis_is_never_joined_whatever_is_declared(running: Running) -> None:
    model = Model()
    model.signature = Signature((TensorSpec("x", "FP64", (1,)),), (TensorSpec("y", "FP64", (1,)),))
    copy = copy_of(model, running)
    await answers(model, await busy(copy, model), ask(copy, 1), ask(copy, 2))
    assert model.calls == [[0], [1], [2]]


async def test_what_must_not_run_twice_is_not_joined_unasked(running: Running) -> None:
    model = Model()
    revision = Revision(id="m@1-2", model="m", version=1, uri="/m", format="fake",
                        artifact_digest="", files_bytes=1, repeatable=False)
    copy = copy_of(model, running, revision)
    await answers(model, await busy(copy, model), ask(copy, 1), ask(copy, 2))
    assert model.calls == [[0], [1], [2]]


async def test_free_threads_share_what_waits(running: Running) -> None:
    model = Model()
    model.max_concurrency = 2
    model.go.set()
    copy = copy_of(model, running)
    await answers(model, *(ask(copy, i) for i in range(4)))
    assert sorted(model.calls) == [[0, 1], [2, 3]]


# --- failing ------------------------------------------------------------------------------------


def refusing_negatives(x: Any) -> Any:
    if (x < 0).any():
        raise InvalidInput("negative")
    return x * 2


async def test_only_the_guilty_call_fails(running: Running) -> None:
    model = Model(refusing_negatives)
    copy = copy_of(model, running)
    tasks = [await busy(copy, model), ask(copy, 1), ask(copy, -2), ask(copy, 3), ask(copy, 4)]
    first, *others = await answers(model, *tasks)
    assert (first, others[0], others[2:]) == ([0], [2], [[6], [8]])
    assert isinstance(others[1], InvalidInput)
    assert model.calls == [[0], [1, -2, 3, 4], [1], [-2], [3], [4]]
    assert copy.in_flight == 0


async def test_a_model_that_raises_for_every_batch_still_answers_each(running: Running) -> None:
    def single(x: Any) -> Any:
        (only,) = x
        return [only * 2]

    model = Model(single)
    copy = copy_of(model, running)
    tasks = [await busy(copy, model), ask(copy, 1), ask(copy, 2)]
    assert await answers(model, *tasks) == [[0], [2], [4]]


async def test_whatever_is_raised_alone_is_the_models_failure(running: Running) -> None:
    def leaving(x: Any) -> Any:
        raise SystemExit(3)

    model = Model(leaving)
    copy = copy_of(model, running)
    failed = await answers(model, await busy(copy, model), ask(copy, 1), ask(copy, 2))
    assert [type(each) for each in failed] == [ModelFailed] * 3


async def test_answers_that_cannot_be_split_are_asked_for_apart(running: Running) -> None:
    class Careless(Model):
        def predict(self, inputs: Arrays, parameters: Mapping[str, JsonValue],
                    outputs: tuple[str, ...] = ()) -> Any:
            return {"y": super().predict(inputs, parameters, outputs)["y"].tolist()}

    model = Careless()
    model.go.set()
    copy = copy_of(model, running)
    told = told_by(copy)
    done = await asyncio.gather(ask(copy, 1), ask(copy, 2))
    answered: list[object] = [each.outputs["y"] for each in done]
    assert answered == [[2], [4]]
    assert "AttributeError" in told[0]


# --- leaving ------------------------------------------------------------------------------------


async def test_who_leaves_the_line_is_not_run(running: Running) -> None:
    model = Model()
    copy = copy_of(model, running)
    first, gone, kept = await busy(copy, model), ask(copy, 1), ask(copy, 2)
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert await answers(model, first, kept) == [[0], [4]]
    assert model.calls == [[0], [2]]
    assert copy.in_flight == 0


async def test_the_others_of_a_batch_are_answered_when_one_has_left(running: Running) -> None:
    model = Model()
    copy = copy_of(model, running)
    joined: list[tuple[int, int]] = []
    copy.on_joined = lambda calls, answered, seconds: joined.append((calls, answered))
    gone, kept = ask(copy, 1), ask(copy, 2)
    await asyncio.to_thread(model.begun.wait, 10)
    assert model.calls == [[1, 2]]
    gone.cancel()
    assert await answers(model, kept) == [[4]]
    assert joined == [(2, 1)]
    assert copy.in_flight == 0


# --- trials -------------------------------------------------------------------------------------


def told_by(copy: LiveCopy) -> list[str]:
    told: list[str] = []
    copy.tell = told.append
    return told


async def test_who_declares_nothing_is_tried_before_calls_are_joined(running: Running) -> None:
    model = Model()
    model.go.set()
    copy = copy_of(model, running, UNDECLARED)
    told = told_by(copy)
    for _ in range(3):
        assert await answers(model, ask(copy, 1), ask(copy, 2)) == [[2], [4]]
    trial = [[1], [2], [1, 2]]
    assert model.calls == [*trial, *trial, [1, 2]]
    assert told == []


async def test_equal_calls_are_tried_with_a_variation(running: Running) -> None:
    model = Model()
    model.go.set()
    copy = copy_of(model, running, UNDECLARED)
    assert await answers(model, ask(copy, 1), ask(copy, 1)) == [[2], [2]]
    (varied,) = model.calls[2]
    assert varied != 1
    assert model.calls == [[1], [1], [varied], [1, varied]]


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda x: x - x.mean(), "answered otherwise when others are beside them"),
        (lambda x: x.sum(keepdims=True), "2 rows were given, and output 'y' has the shape"),
        (lambda x: x * (1 / (len(x) < 2)), "ZeroDivisionError"),
    ],
    ids=["rows meet", "one answer", "fails"],
)
async def test_a_model_that_does_not_treat_rows_apart_is_never_joined_again(
    running: Running, act: Callable[[Any], Any], reason: str
) -> None:
    model = Model(act)
    model.go.set()
    copy = copy_of(model, running, UNDECLARED)
    told = told_by(copy)
    alone = [act(np.array([x])).tolist() for x in (1.0, 2.0)]
    for _ in range(2):
        assert await answers(model, ask(copy, 1), ask(copy, 2)) == alone
    assert model.calls == [[1], [2], [1, 2], [1], [2]]
    (message,) = told
    assert "requests for model 'm' are no longer run together: " in message
    assert reason in message
    assert "max_batch_rows: 1" in message


async def test_a_declared_model_whose_answer_lacks_rows_is_never_joined_again(
    running: Running
) -> None:
    model = Model(lambda x: x.sum(keepdims=True))
    model.go.set()
    copy = copy_of(model, running)
    told = told_by(copy)
    for _ in range(2):
        assert await answers(model, ask(copy, 1), ask(copy, 2)) == [[1], [2]]
    assert model.calls == [[1, 2], [1], [2], [1], [2]]
    assert len(told) == 1


async def test_a_model_that_nothing_can_be_shown_of_is_given_up(running: Running) -> None:
    model = Model(refusing_negatives)
    model.go.set()
    copy = copy_of(model, running, UNDECLARED)
    told = told_by(copy)
    for _ in range(MAX_FRUITLESS):
        await answers(model, ask(copy, 1), ask(copy, -1))
    model.calls.clear()
    await answers(model, ask(copy, 1), ask(copy, 2))
    assert model.calls == [[1], [2]]
    assert "too much alike" in told[0]


async def test_a_trial_in_which_a_call_fails_proves_nothing(running: Running) -> None:
    model = Model(refusing_negatives)
    model.go.set()
    copy = copy_of(model, running, UNDECLARED)
    told = told_by(copy)
    good, bad = await answers(model, ask(copy, 1), ask(copy, -1))
    assert good == [2]
    assert isinstance(bad, InvalidInput)
    assert told == []
    assert await answers(model, ask(copy, 1), ask(copy, 2)) == [[2], [4]]
    assert model.calls[-1] == [1, 2]


# --- waiting for company ------------------------------------------------------------------------


async def test_a_call_waits_for_others_as_long_as_is_declared(running: Running) -> None:
    model = Model()
    model.go.set()
    copy = copy_of(model, running, replace_declared(max_batch_rows=3, max_batch_delay_ms=60_000))
    first = ask(copy, 1)
    await asyncio.sleep(0.001)
    assert model.calls == []
    assert await answers(model, first, ask(copy, 2, 3)) == [[2], [4, 6]]
    assert model.calls == [[1, 2, 3]], "as soon as they are enough"


async def test_a_call_that_no_other_joins_runs_after_the_delay(running: Running) -> None:
    model = Model()
    copy = copy_of(model, replace(running, max_batch_delay_s=0.001))
    assert await answers(model, ask(copy, 1)) == [[2]]


# --- on the event loop --------------------------------------------------------------------------


def spin(x: Any) -> Any:
    """Long enough to be worth gathering."""
    for _ in range(15_000):
        pass
    return x * 2


async def in_company(copy: LiveCopy, turns: int = 30) -> None:
    """Two calls in every turn of the loop."""
    for _ in range(turns):
        for x in (1.0, 2.0):
            copy.predict_inline({"x": np.array([x])}, {}, ())
        await asyncio.sleep(0)


@pytest.fixture
async def short(running: Running) -> tuple[LiveCopy, Model]:
    """Its calls are known to be short."""
    model = Model(spin)
    model.go.set()
    copy = LiveCopy(DECLARED, model, replace(running, inline_limit_s=ALWAYS_SHORT))
    await ask(copy, 1)
    assert copy.may_run_inline(8)
    return copy, model


async def test_short_calls_that_come_in_company_are_gathered_on_the_loop(
    short: tuple[LiveCopy, Model]
) -> None:
    copy, model = short
    await in_company(copy)
    assert not copy.may_run_inline(8)
    copy._joining.cost = Known()
    model.calls.clear()
    model.go.clear()  # a call on a thread would never end
    done = await asyncio.gather(ask(copy, 1), ask(copy, 2), ask(copy, 3))
    assert [each.outputs["y"].tolist() for each in done] == [[2], [4], [6]]
    assert model.calls == [[1, 2, 3]]


async def test_calls_that_come_alone_again_run_as_they_come(short: tuple[LiveCopy, Model]) -> None:
    copy, _ = short
    await in_company(copy)
    for _ in range(100):
        if copy.may_run_inline(8):
            break
        await ask(copy, 1)
    assert copy.may_run_inline(8)


async def test_a_cheap_model_is_not_gathered(running: Running) -> None:
    model = Model()
    model.go.set()
    copy = LiveCopy(DECLARED, model, replace(running, inline_limit_s=ALWAYS_SHORT))
    await ask(copy, 1)
    await in_company(copy)
    assert copy.may_run_inline(8)


async def test_a_cheap_model_that_is_held_up_now_and_then_is_not_gathered(
    running: Running
) -> None:
    model = Model(lambda x: spin(x) if x[0] > 1 else x)
    model.go.set()
    copy = LiveCopy(DECLARED, model, replace(running, inline_limit_s=ALWAYS_SHORT))
    await ask(copy, 1)
    for _ in range(30):
        for x in (2.0, 2.0, 1.0, 1.0, 1.0):
            copy.predict_inline({"x": np.array([x])}, {}, ())
        await asyncio.sleep(0)
    assert copy.may_run_inline(8)


async def test_a_gathered_call_that_raises_fails_alone(running: Running) -> None:
    model = Model(lambda x: spin(refusing_negatives(x)))
    model.go.set()
    copy = LiveCopy(DECLARED, model, replace(running, inline_limit_s=ALWAYS_SHORT))
    await ask(copy, 1)
    await in_company(copy)
    copy._joining.cost = Known()
    good, bad = await answers(model, ask(copy, 1), ask(copy, -1))
    assert good == [4]
    assert isinstance(bad, InvalidInput)


def replace_declared(max_batch_rows: int, max_batch_delay_ms: float | None = None) -> Revision:
    return Revision(id="m@1-3", model="m", version=1, uri="/m", format="fake", artifact_digest="",
                    files_bytes=1, max_batch_rows=max_batch_rows,
                    max_batch_delay_ms=max_batch_delay_ms)
