"""Runs loads: each on a daemon thread of its own, so that one that hangs delays no other.

A hanging thread cannot be ended; it can only be left behind. Must not know what it runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def run_apart(name: str, act: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Call `act` on a new thread; the future has what it returns or raises, whatever that is."""
    future: Future[T] = Future()

    def run() -> None:
        future.set_running_or_notify_cancel()
        try:
            result = act(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - told through the future
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def still_running(prefix: str, within_s: float) -> list[str]:
    """Names of the threads, of those whose name begins with `prefix`, that do not end within
    `within_s` seconds altogether. Blocking."""
    threads = [each for each in threading.enumerate() if each.name.startswith(prefix)]
    ended = threading.Event()
    timer = threading.Timer(within_s, ended.set)
    timer.daemon = True
    timer.start()
    for thread in threads:
        while thread.is_alive() and not ended.is_set():
            thread.join(0.01)
    timer.cancel()
    return [each.name for each in threads if each.is_alive()]
