"""How many calls a copy takes at once, on threads and on the event loop together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from shoal.domain.model import JsonValue, ModelSpec, make_revision
from shoal.domain.signature import Signature
from shoal.node.live import LiveCopy, Running

if TYPE_CHECKING:
    from shoal.ports import Arrays


class Gated:
    """A call on a thread waits for `gate`; one on the event loop does not."""

    platform = "fake"
    signature = Signature((), ())
    may_wait = False

    def __init__(self, max_concurrency: int) -> None:
        self.max_concurrency = max_concurrency
        self.gate = threading.Event()
        self.begun = threading.Semaphore(0)

    def predict(self, inputs: Arrays, parameters: Mapping[str, JsonValue],
                outputs: tuple[str, ...] = ()) -> Arrays:
        if threading.current_thread() is not threading.main_thread():
            self.begun.release()
            self.gate.wait(10)
        return {}

    def size_bytes(self) -> int | None:
        return None

    def close(self) -> None:
        pass


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


def copy_of(model: Gated, pool: ThreadPoolExecutor) -> LiveCopy:
    revision = make_revision(
        ModelSpec(name="m", uri="/m"), version=1, uri="/m", format="fake", artifact_digest="",
        files_bytes=0,
    )
    return LiveCopy(revision, model, Running(pool, 4, inline_limit_s=60.0, max_queued=10))


async def warm(copy: LiveCopy, model: Gated) -> None:
    """Let it learn that calls of up to 200 bytes are short."""
    model.gate.set()
    await copy.predict({}, {}, (), 100)
    model.gate.clear()
    model.begun.acquire()
    assert copy.may_run_inline(100)


async def on_a_thread(copy: LiveCopy, model: Gated) -> asyncio.Task[object]:
    """A long call that has begun."""
    task: asyncio.Task[object] = asyncio.create_task(copy.predict({}, {}, (), 10_000))
    await asyncio.to_thread(model.begun.acquire)
    return task


async def test_no_call_runs_inline_beside_the_only_one_there_may_be(
    pool: ThreadPoolExecutor
) -> None:
    model = Gated(max_concurrency=1)
    copy = copy_of(model, pool)
    await warm(copy, model)
    running = await on_a_thread(copy, model)
    assert not copy.may_run_inline(100)
    model.gate.set()
    await running
    assert copy.may_run_inline(100)


async def test_a_call_runs_inline_beside_others_where_there_may_be_more(
    pool: ThreadPoolExecutor
) -> None:
    model = Gated(max_concurrency=2)
    copy = copy_of(model, pool)
    await warm(copy, model)
    running = await on_a_thread(copy, model)
    assert copy.may_run_inline(100)
    model.gate.set()
    await running
