"""Wakes every watch of a store when something was written.

Says only that there is news; each watch reads from the history what it is. So a slow watch costs no
queue, and one that ends leaves nothing behind. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio


class Signal:
    """`count` grows with every `fire`. Take it before looking, and wait beyond it afterwards: what
    fires in between is not missed."""

    __slots__ = ("_event", "count")

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    def fire(self) -> None:
        self.count += 1
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def beyond(self, seen: int, at_most_s: float | None) -> None:
        """Returns when `count` is beyond `seen`, or after `at_most_s` seconds (None: no limit)."""
        if self.count != seen:
            return
        try:
            async with asyncio.timeout(at_most_s):
                await self._event.wait()
        except TimeoutError:
            pass
