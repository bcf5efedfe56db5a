"""Runs what may hang, each on a daemon thread of its own, so that it delays no other.

A hanging thread cannot be ended, only left behind. Must not know what it runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

from shoal.node.machine import be_nice

P = ParamSpec("P")
T = TypeVar("T")


def run_apart(name: str, act: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Call `act` on a new thread; the future has what it returns or raises, whatever that is."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = act(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - told through the future
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def nicely(niceness: int, act: Callable[P, T]) -> Callable[P, T]:
    """`act`, to be called on a thread that does nothing else: the processors are first for those
    who are less nice."""

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        be_nice(niceness)
        return act(*args, **kwargs)

    return run


def still_running(prefix: str, within_s: float) -> list[str]:
    """Names, sorted, of the threads whose name begins with `prefix` and that do not end within
    `within_s` seconds. Blocking."""
    end_s = time.monotonic() + within_s
    threads = [each for each in threading.enumerate() if each.name.startswith(prefix)]
    for thread in threads:
        thread.join(max(end_s - time.monotonic(), 0.0))
    return sorted(each.name for each in threads if each.is_alive())
