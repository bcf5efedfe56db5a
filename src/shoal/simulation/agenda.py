"""What happens next, and what time it is meanwhile: the clock of a simulation.

Of what is due at the same time, what was noted first happens first: nothing is left to chance that
no seed decides. Must not know what happens.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TypeAlias

_Entry: TypeAlias = "tuple[float, int, Callable[..., None], tuple[object, ...]]"


class Agenda:
    """now: seconds since the simulation began."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[_Entry] = []
        self._numbers = 0

    def at(self, when: float, act: Callable[..., None], *given: object) -> None:
        """Call `act(*given)` at that time, or now if it is past."""
        self._numbers += 1
        heapq.heappush(self._heap, (max(when, self.now), self._numbers, act, given))

    def after(self, seconds: float, act: Callable[..., None], *given: object) -> None:
        self._numbers += 1
        heapq.heappush(self._heap, (self.now + seconds, self._numbers, act, given))

    def run_until(self, end: float) -> None:
        """Let everything happen that is due by `end`, which is `now` afterwards."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= end:
            when, _, act, given = pop(heap)
            self.now = when
            act(*given)
        self.now = max(self.now, end)
