"""What the connections of one HTTP server have in common: limits, handler, counts, known heads.

Must not know what a connection does when its deadline passes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from shoal.dataplane import shared
from shoal.dataplane.http.message import Handler, Request
from shoal.dataplane.http.reader import KnownHeads
from shoal.dataplane.http.writer import ResponseWriter
from shoal.settings import HttpSettings

OnError: TypeAlias = Callable[[BaseException, Request], None]

_MOST_TURNED_AWAY: Final = 1000  # at once, beyond http.max_connections, told why


class Member(shared.Member, Protocol):
    """A connection. deadline: the loop's time at which `expire` is due."""

    deadline: float

    def expire(self, now: float) -> None: ...


@dataclass(slots=True)
class Stats(shared.Stats):
    """requests: given to the handler. refused: answers of the connection itself, with 4xx or
    5xx."""

    requests: int = 0
    refused: int = 0


class Shared(shared.Shared[Member, Stats, Request]):
    def __init__(
        self, handler: Handler, settings: HttpSettings, on_error: OnError,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        shortest_s = min(
            settings.idle_timeout_s, settings.read_timeout_s, settings.write_timeout_s
        )
        super().__init__(Stats(), on_error, loop, shortest_s=shortest_s)
        self.handler: Final = handler
        self.settings: Final = settings
        self.known_heads: Final = KnownHeads()
        self.writer: Final = ResponseWriter()
        self.turned_away = 0

    @property
    def served(self) -> int:
        """Without those being told that there are too many."""
        return len(self.connections) - self.turned_away

    @property
    def full(self) -> bool:
        """May no further connection be served?"""
        return self.served >= self.settings.max_connections

    @property
    def overrun(self) -> bool:
        """Are so many being told that it is full that the next is not even told?"""
        return self.turned_away >= _MOST_TURNED_AWAY

    def look(self) -> None:
        self.writer.set_date(time.time())
        now = self.loop.time()
        for connection in [late for late in self.connections if late.deadline <= now]:
            connection.expire(now)
