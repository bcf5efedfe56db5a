"""What the connections of one server have in common: limits, handler, counts, one timer.

The timer looks at every connection's `deadline` a few times per timeout: cheaper than a timer a
request, and exact enough for limits that exist to end what is stuck. Must not know what a
connection does when its deadline passes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from shoal.dataplane.http.message import Handler, Request
from shoal.dataplane.http.reader import KnownHeads
from shoal.dataplane.http.writer import ResponseWriter
from shoal.settings import HttpSettings

if TYPE_CHECKING:
    from shoal.dataplane.http.connection import Connection

OnError: TypeAlias = Callable[[BaseException, Request], None]

_MOST_TURNED_AWAY: Final = 1000  # at once, beyond http.max_connections, told why


@dataclass(slots=True)
class Stats:
    """Counts since the start. connections: accepted. requests: given to the handler. timeouts:
    slow readers and writers. refused: answers of the connection itself, with 4xx or 5xx."""

    connections: int = 0
    requests: int = 0
    timeouts: int = 0
    refused: int = 0


class Shared:
    """One per server; belongs to the loop it was made for."""

    def __init__(
        self,
        handler: Handler,
        settings: HttpSettings,
        on_error: OnError,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.handler: Final = handler
        self.settings: Final = settings
        self.loop: Final = loop
        self.stats: Final = Stats()
        self.known_heads: Final = KnownHeads()
        self.writer: Final = ResponseWriter()
        self.connections: Final[set[Connection]] = set()
        self.turned_away = 0
        self.draining = False
        self.empty: Final = asyncio.Event()
        self.empty.set()
        self._on_error = on_error
        shortest = min(settings.idle_timeout_s, settings.read_timeout_s, settings.write_timeout_s)
        self._period_s = min(1.0, max(0.01, shortest / 4))
        self._timer: asyncio.TimerHandle | None = None

    @property
    def full(self) -> bool:
        """May no further connection be served?"""
        return len(self.connections) - self.turned_away >= self.settings.max_connections

    @property
    def overrun(self) -> bool:
        """Are so many being told that it is full that the next is not even told?"""
        return self.turned_away >= _MOST_TURNED_AWAY

    def add(self, connection: Connection) -> None:
        self.stats.connections += 1
        self.connections.add(connection)
        self.empty.clear()
        if self._timer is None:
            self.writer.set_date(time.time())
            self._timer = self.loop.call_later(self._period_s, self._sweep)

    def discard(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self.empty.set()

    def report(self, error: BaseException, request: Request) -> None:
        """What escaped from the handler; never raises."""
        try:
            self._on_error(error, request)
        except Exception as second:  # noqa: BLE001 - a failing report must not cost the connection
            self.loop.call_exception_handler(
                {"message": "reporting a handler's error failed", "exception": second}
            )

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = (
            self.loop.call_later(self._period_s, self._sweep) if self.connections else None
        )
        self.writer.set_date(time.time())
        now = self.loop.time()
        for connection in [late for late in self.connections if late.deadline <= now]:
            connection.expire(now)
