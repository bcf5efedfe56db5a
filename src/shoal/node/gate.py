"""Lets loads pass side by side, or one alone where its size could not be measured otherwise."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Gate:
    """For threads. Who wants to be alone goes before those who do not and came later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._one_alone = False
        self._waiting_alone = 0
        self._entered = 0

    @contextmanager
    def pass_through(self, *, alone: bool) -> Iterator[Callable[[], bool]]:
        """Yields a function: has nobody else been inside since?"""
        with self._changed:
            if alone:
                self._waiting_alone += 1
                self._changed.wait_for(lambda: self._inside == 0)
                self._waiting_alone -= 1
                self._one_alone = True
            else:
                self._changed.wait_for(lambda: not self._one_alone and not self._waiting_alone)
            self._inside += 1
            self._entered += 1
            entered, first = self._entered, self._inside == 1
        try:
            yield lambda: first and self._entered == entered
        finally:
            with self._changed:
                self._inside -= 1
                if alone:
                    self._one_alone = False
                self._changed.notify_all()
