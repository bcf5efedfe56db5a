"""The gate of loads: alone where a size is measured, but nobody waits long for that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from shoal.node.gate import Gate
from shoal.node.threads import run_apart, still_running


class Inside:
    """A thread that has passed the gate, and stays until it is told to leave."""

    def __init__(self, gate: Gate, *, alone: bool) -> None:
        self._leave = threading.Event()
        self.entered = threading.Event()
        self._done: Future[bool] = run_apart("inside", self._run, gate, alone)

    def _run(self, gate: Gate, alone: bool) -> bool:
        with gate.pass_through(alone=alone) as was_alone:
            self.entered.set()
            assert self._leave.wait(10)
            return was_alone()

    def leave(self) -> bool:
        """Was it alone?"""
        self._leave.set()
        return self._done.result(10)


def test_one_by_itself_was_alone() -> None:
    one = Inside(Gate(), alone=False)
    assert one.entered.wait(10)
    assert one.leave()


def test_side_by_side_nobody_was_alone() -> None:
    gate = Gate()
    first, second = Inside(gate, alone=False), Inside(gate, alone=False)
    assert first.entered.wait(10)
    assert second.entered.wait(10)
    assert not first.leave()
    assert not second.leave()


def test_who_wants_to_be_alone_is() -> None:
    gate = Gate(patience_s=10)
    first = Inside(gate, alone=True)
    assert first.entered.wait(10)
    beside, second = Inside(gate, alone=False), Inside(gate, alone=True)
    assert not beside.entered.wait(0.01)
    assert not second.entered.wait(0.01)
    assert first.leave()
    assert second.leave()
    assert beside.leave()


def test_nobody_waits_long_for_one_that_hangs() -> None:
    gate = Gate(patience_s=0.02)
    hangs = Inside(gate, alone=True)
    assert hangs.entered.wait(10)
    others = [Inside(gate, alone=False), Inside(gate, alone=True), Inside(gate, alone=False)]
    assert all(each.entered.wait(10) for each in others)
    assert [each.leave() for each in others] == [False, False, False]
    assert not hangs.leave()


def test_once_one_has_taken_long_nobody_waits_for_it_at_all() -> None:
    gate = Gate(patience_s=0.05)
    hangs = Inside(gate, alone=True)
    assert hangs.entered.wait(10)
    first = Inside(gate, alone=False)
    assert first.entered.wait(10)
    first.leave()
    began = time.monotonic()
    for _ in range(100):  # 5 s, if each waited
        with gate.pass_through(alone=False) as was_alone:
            assert not was_alone()
    assert time.monotonic() - began < 2.5
    hangs.leave()


def test_what_runs_apart_is_told_whatever_becomes_of_it() -> None:
    def leave() -> None:
        raise SystemExit(3)

    assert run_apart("apart", lambda: 7).result(10) == 7
    assert isinstance(run_apart("apart", leave).exception(10), SystemExit)


def test_threads_that_do_not_end_are_named() -> None:
    stay = threading.Event()
    wait: Callable[[], bool] = stay.wait
    hanging = run_apart("test-hangs", wait)
    run_apart("test-ends", lambda: None).result(10)
    assert still_running("test-", within_s=0.05) == ["test-hangs"]
    stay.set()
    hanging.result(10)
    assert still_running("test-", within_s=10) == []
