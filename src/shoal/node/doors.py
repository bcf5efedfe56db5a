"""How many loads go on at once, and how many downloads before them, which keep no load waiting.

For threads. Must not know what is loaded, nor what a load is.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class Door:
    """Lets so many in at once. Those that wait go by their rank, lower first, then first come first
    served."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._changed = threading.Condition()
        self._waiting: list[tuple[int, int]] = []  # ranks and numbers
        self._inside: set[int] = set()
        self._numbers = 0

    def enter(self, rank: int) -> int:
        """Blocks until it is its turn; a number for `leave`."""
        with self._changed:
            self._numbers += 1
            number = self._numbers
            heapq.heappush(self._waiting, (rank, number))
            self._changed.wait_for(lambda: self._free and self._waiting[0][1] == number)
            heapq.heappop(self._waiting)
            self._free -= 1
            self._inside.add(number)
            self._changed.notify_all()
            return number

    def leave(self, number: int) -> None:
        """Again without effect."""
        with self._changed:
            if number in self._inside:
                self._inside.remove(number)
                self._free += 1
                self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class Doors:
    downloads: Door
    loads: Door


class LoadTurn:
    """One load, on its thread. rank: lower goes first. clock: in seconds. tell: called with whether
    it is at its download now.

    since: when what it does now began; None: it waits.
    """

    def __init__(self, doors: Doors, rank: int, clock: Callable[[], float],
                 tell: Callable[[bool], None]) -> None:
        self._doors = doors
        self._rank = rank
        self._clock = clock
        self._tell = tell
        self._leave: Callable[[], None] = lambda: None
        self.since: float | None = clock()

    @contextmanager
    def downloading(self) -> Iterator[None]:
        self._tell(True)
        try:
            with self._inside(self._doors.downloads):
                yield
        finally:
            self._tell(False)

    @contextmanager
    def loading(self) -> Iterator[None]:
        with self._inside(self._doors.loads):
            yield

    def give_up(self) -> None:
        """Others get its place, although it goes on."""
        self._leave()

    @contextmanager
    def _inside(self, door: Door) -> Iterator[None]:
        self.since = None
        number = door.enter(self._rank)
        self.since = self._clock()
        self._leave = lambda: door.leave(number)
        try:
            yield
        finally:
            self.since = self._clock()  # what comes next has not taken long yet
            door.leave(number)
