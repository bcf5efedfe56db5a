"""Lets loads pass side by side, or one alone where its size could not be measured otherwise.

Being alone is a wish: a load that takes long, or hangs, keeps nobody waiting for more than
`patience_s`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

PATIENCE_S: Final = 2.0  # most loads end sooner; a size is not worth a longer wait


class Gate:
    """For threads. Who wants to be alone goes before those who do not and came later."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._inside: dict[int, float] = {}  # since when, by number
        self._alone: int | None = None  # the number of who wants no other inside
        self._waiting_alone = 0
        self._entered = 0

    @contextmanager
    def pass_through(self, *, alone: bool) -> Iterator[Callable[[], bool]]:
        """Yields a function: has nobody else been inside since?"""
        with self._changed:
            if alone:
                self._waiting_alone += 1
                self._changed.wait_for(self._is_quiet, self._patience_s)
                self._waiting_alone -= 1
            else:
                self._changed.wait_for(self._is_open, self._patience_s)
            self._entered += 1
            number, first = self._entered, not self._inside
            self._inside[number] = time.monotonic()
            if alone:
                self._alone = number
        try:
            yield lambda: first and self._entered == number
        finally:
            with self._changed:
                del self._inside[number]
                if self._alone == number:
                    self._alone = None
                self._changed.notify_all()

    def _is_quiet(self) -> bool:
        """Nobody is inside for whom it is worth waiting."""
        return all(self._has_taken_long(number) for number in self._inside)

    def _is_open(self) -> bool:
        return not self._waiting_alone and (
            self._alone is None or self._has_taken_long(self._alone)
        )

    def _has_taken_long(self, number: int) -> bool:
        return time.monotonic() - self._inside[number] >= self._patience_s
