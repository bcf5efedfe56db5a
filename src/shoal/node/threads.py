"""Runs what may hang, each on a daemon thread of its own, so that it delays no other.

A hanging thread cannot be ended, only left behind. Must not know what it runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

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


def still_running(prefix: str, within_s: float) -> list[str]:
    """Names, sorted, of the threads whose name begins with `prefix` and that do not end within
    `within_s` seconds. Blocking."""
    end_s = time.monotonic() + within_s
    threads = [each for each in threading.enumerate() if each.name.startswith(prefix)]
    for thread in threads:
        thread.join(max(end_s - time.monotonic(), 0.0))
    return sorted(each.name for each in threads if each.is_alive())
