"""Keeps long work on the event loop from holding up requests: it goes on in short turns."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Final

TURN_S: Final = 0.002  # what a request may have to wait for it


class Turns:
    """Ask `is_over` between two steps, and `rest` when it is."""

    __slots__ = ("_ends_at", "_turn_s")

    def __init__(self, turn_s: float = TURN_S) -> None:
        self._turn_s = turn_s
        self._ends_at = perf_counter() + turn_s

    def is_over(self) -> bool:
        return perf_counter() >= self._ends_at

    async def rest(self) -> None:
        """Let everything run that is ready, then begin the next turn."""
        await asyncio.sleep(0)
        self._ends_at = perf_counter() + self._turn_s
