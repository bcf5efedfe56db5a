"""A live copy: where its calls run, whose turn it is, who is refused, when it may leave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from shoal.domain.errors import InvalidInput, ModelFailed, Overloaded
from shoal.domain.model import Revision
from shoal.domain.signature import Signature
from shoal.node.live import LiveCopy, Prediction, Running

if TYPE_CHECKING:
    from shoal.ports import Arrays

REVISION = Revision(id="m@1-0", model="m", version=1, uri="/m", format="python",
                    artifact_digest="sha256:0", files_bytes=1)
X: Arrays = {"x": np.array([1.0])}
NEVER_SHORT, ALWAYS_SHORT = 1e-12, 1e6


class Model:
    """Answers with its input; before that it does `act`, on whatever thread it is called."""

    signature = Signature((), ())
    platform = "test"
    max_concurrency = 8
    may_wait = True

    def __init__(self, act: Callable[[], None] = lambda: None) -> None:
        self.act = act
        self.threads: list[str] = []

    def predict(self, inputs: Arrays, parameters: object, outputs: tuple[str, ...] = ()) -> Arrays:
        self.threads.append(threading.current_thread().name)
        self.act()
        return inputs

    def size_bytes(self) -> int | None:
        return None

    def close(self) -> None:
        pass


@pytest.fixture
def running() -> Iterator[Running]:
    with ThreadPoolExecutor(4, "pool") as pool:
        yield Running(pool=pool, threads=4, inline_limit_s=NEVER_SHORT, max_queued=2)


class Held:
    """Calls that come here wait until they are let go."""

    def __init__(self) -> None:
        self.came = 0
        self._go = threading.Event()

    def __call__(self) -> None:
        self.came += 1
        assert self._go.wait(10)

    def let_go(self) -> None:
        self._go.set()

    async def has(self, count: int) -> None:
        async with asyncio.timeout(10):
            while self.came < count:  # noqa: ASYNC110 - counted on threads
                await asyncio.sleep(0.001)


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.let_go()


def call(copy: LiveCopy, size_bytes: int = 100) -> asyncio.Task[Prediction]:
    return asyncio.create_task(copy.predict(X, {}, (), size_bytes))


async def run(copy: LiveCopy, *, inline: bool) -> Prediction:
    return copy.predict_inline(X, {}, ()) if inline else await call(copy)


# --- where calls run ----------------------------------------------------------------------------


async def test_the_first_call_runs_on_a_thread(running: Running) -> None:
    model = Model()
    copy = LiveCopy(REVISION, model, running)
    assert not copy.may_run_inline(1)
    prediction = await call(copy)
    assert prediction.outputs is X
    assert model.threads[0].startswith("pool")


async def test_short_calls_of_like_size_may_run_inline(running: Running) -> None:
    copy = LiveCopy(REVISION, Model(), replace(running, inline_limit_s=ALWAYS_SHORT))
    await call(copy, 100)
    assert copy.may_run_inline(100)
    assert copy.may_run_inline(200)
    assert not copy.may_run_inline(201)
    assert not copy.may_run_inline(0), "a call of unknown size"
    await call(copy, 250)
    assert copy.may_run_inline(500)


async def test_long_calls_never_run_inline(running: Running) -> None:
    copy = LiveCopy(REVISION, Model(), running)
    for _ in range(3):
        await call(copy)
    assert not copy.may_run_inline(1)


async def test_a_call_that_turns_out_long_ends_running_inline(running: Running) -> None:
    copy = LiveCopy(REVISION, Model(), running)
    copy._inline_bytes = 1000
    copy.predict_inline(X, {}, ())
    assert copy.may_run_inline(1), "once it may be that the system took the processor"
    copy.predict_inline(X, {}, ())
    assert not copy.may_run_inline(1)


async def test_a_call_that_had_to_wait_runs_inline_if_it_is_short_by_then(
    running: Running, held: Held
) -> None:
    model = Model(held)
    short = replace(running, inline_limit_s=ALWAYS_SHORT)
    copy = LiveCopy(replace_concurrency(1), model, short)
    calls = [call(copy) for _ in range(3)]
    await held.has(1)
    held.let_go()
    await asyncio.gather(*calls)
    assert model.threads[0].startswith("pool")
    assert model.threads[-1] == threading.current_thread().name
    assert copy.in_flight == 0


# --- turns --------------------------------------------------------------------------------------


def replace_concurrency(most: int) -> Revision:
    return Revision(id="m@1-0", model="m", version=1, uri="/m", format="python",
                    artifact_digest="sha256:0", files_bytes=1, max_concurrency=most)


async def test_no_more_calls_run_at_once_than_allowed(running: Running, held: Held) -> None:
    copy = LiveCopy(replace_concurrency(2), Model(held), running)
    calls = [call(copy) for _ in range(4)]
    await held.has(2)
    assert held.came == 2
    assert copy.queued == 2
    assert copy.in_flight == 4
    held.let_go()
    answers = await asyncio.gather(*calls)
    assert [answer.queue_s > 0 for answer in answers] == [True] * 4
    assert held.came == 4


async def test_one_thread_stays_free_for_other_models(running: Running, held: Held) -> None:
    slow, other = LiveCopy(REVISION, Model(held), running), LiveCopy(REVISION, Model(), running)
    calls = [call(slow) for _ in range(5)]
    await held.has(3)
    await call(other)
    assert held.came == 3, "of four threads, though the model allows eight calls"
    held.let_go()
    await asyncio.gather(*calls)


async def test_who_finds_the_queue_full_is_refused(running: Running, held: Held) -> None:
    copy = LiveCopy(replace_concurrency(1), Model(held), running)
    calls = [call(copy) for _ in range(3)]
    await held.has(1)
    with pytest.raises(Overloaded, match=r"'m': 2 requests wait .*request.max_queued_per_model"):
        await call(copy)
    held.let_go()
    await asyncio.gather(*calls)
    await call(copy)


async def test_who_leaves_while_queued_gives_the_place_back(running: Running, held: Held) -> None:
    copy = LiveCopy(replace_concurrency(1), Model(held), running)
    first, second = call(copy), call(copy)
    await held.has(1)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert copy.queued == 0
    assert copy.in_flight == 1
    held.let_go()
    await first
    assert held.came == 1
    assert copy.in_flight == 0


async def test_a_call_that_has_begun_ends_though_its_caller_left(
    running: Running, held: Held
) -> None:
    copy = LiveCopy(replace_concurrency(1), Model(held), running)
    first, second = call(copy), call(copy)
    await held.has(1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert copy.in_flight == 2, "it is still in the model"
    assert held.came == 1, "so the next one has to wait"
    held.let_go()
    await second
    assert copy.in_flight == 0
    assert copy.uses == 2


# --- failures -----------------------------------------------------------------------------------


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    "error",
    [ValueError("no such\nthing"), MemoryError(), RecursionError("deep"), SystemExit(1),
     KeyboardInterrupt(), GeneratorExit(), StopIteration(), asyncio.CancelledError()],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("inline", [True, False])
async def test_whatever_a_model_raises_is_its_failure(
    running: Running, error: BaseException, inline: bool
) -> None:
    copy = LiveCopy(REVISION, Model(raising(error)), running)
    with pytest.raises(ModelFailed) as caught:
        await run(copy, inline=inline)
    first_line = (str(error).splitlines() or [""])[0]
    assert caught.value.message == f"model 'm' failed: {type(error).__name__}: {first_line}"
    assert copy.in_flight == 0
    assert copy.uses == 1


@pytest.mark.parametrize("inline", [True, False])
async def test_what_a_model_says_of_its_input_passes(running: Running, inline: bool) -> None:
    copy = LiveCopy(REVISION, Model(raising(InvalidInput("too cold"))), running)
    with pytest.raises(InvalidInput, match="too cold"):
        await run(copy, inline=inline)


# --- marks --------------------------------------------------------------------------------------


async def test_it_counts_calls_wherever_they_run(running: Running) -> None:
    copy = LiveCopy(REVISION, Model(), running)
    await call(copy)
    first = copy.last_used
    copy.predict_inline(X, {}, ())
    assert copy.uses == 2
    assert copy.busy_s > 0
    assert copy.last_used > first > 0


# --- leaving ------------------------------------------------------------------------------------


async def test_a_copy_at_rest_is_idle_at_once(running: Running) -> None:
    left: list[bool] = []
    LiveCopy(REVISION, Model(), running).when_idle(lambda: left.append(True))
    assert left == [True]


async def test_a_running_copy_is_idle_after_its_last_call(running: Running, held: Held) -> None:
    copy = LiveCopy(replace_concurrency(1), Model(held), running)
    calls = [call(copy) for _ in range(2)]
    await held.has(1)
    left: list[int] = []
    copy.when_idle(lambda: left.append(held.came))
    assert left == []
    held.let_go()
    await asyncio.gather(*calls)
    assert left == [2]


async def test_who_was_promised_a_copy_keeps_it(running: Running) -> None:
    copy = LiveCopy(REVISION, Model(), running)
    copy.retain()
    left: list[bool] = []
    copy.when_idle(lambda: left.append(True))
    await call(copy)
    assert left == []
    copy.release()
    assert left == [True]
