"""What the connections of one server have in common, whatever they speak: who is open, one timer.

The timer has every connection that may be late looked at, a few times per timeout: cheaper than a
timer a request, and exact enough for limits that exist to end what is stuck. Must not know what a
connection does then.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

# Bytes a second below which a client that keeps sending counts as stuck after the setting
# `read_timeout_s`; the rate that Apache's mod_reqtimeout starts from.
MIN_RATE: Final = 500.0

_MOST_PERIOD_S: Final = 1.0


class Member(Protocol):
    """A connection."""

    def retire(self) -> None:
        """Answer what comes next as the last, then close; not yet if nothing comes."""

    def drain(self) -> None:
        """Finish what has begun, then close."""

    def cut(self) -> bool:
        """Close without ado; was something unfinished?"""


@dataclass(slots=True)
class Stats:
    """Counts since the start. connections: accepted. timeouts: clients that were too slow."""

    connections: int = 0
    timeouts: int = 0


M = TypeVar("M", bound=Member)
S = TypeVar("S", bound=Stats)
W = TypeVar("W")  # what an error is reported with


class Shared(ABC, Generic[M, S, W]):
    """One per server; belongs to the loop it was made for. shortest_s: of the timeouts.

    on_leave: called when a connection has ended.
    """

    on_leave: Callable[[], None] | None = None

    def __init__(
        self, stats: S, on_error: Callable[[BaseException, W], None],
        loop: asyncio.AbstractEventLoop, *, shortest_s: float,
    ) -> None:
        self.loop: Final = loop
        self.stats: Final = stats
        self.connections: Final[set[M]] = set()
        self.draining = False
        self.empty: Final = asyncio.Event()
        self.empty.set()
        self._on_error = on_error
        self._period_s = min(_MOST_PERIOD_S, max(0.01, shortest_s / 4))
        self._timer: asyncio.TimerHandle | None = None

    @property
    def served(self) -> int:
        """Open connections that are served."""
        return len(self.connections)

    @abstractmethod
    def look(self) -> None:
        """Look at the connections that may be late; also when the first one comes."""

    def add(self, connection: M) -> None:
        self.stats.connections += 1
        if self._timer is None:
            self._sweep_later()
            self.look()
        self.connections.add(connection)
        self.empty.clear()

    def discard(self, connection: M) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self.empty.set()
        if self.on_leave is not None:
            self.on_leave()

    def report(self, error: BaseException, about: W) -> None:
        """What escaped from a handler; never raises."""
        try:
            self._on_error(error, about)
        except Exception as second:  # noqa: BLE001 - a failing report must not cost the connection
            self.loop.call_exception_handler(
                {"message": "reporting a handler's error failed", "exception": second}
            )

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep_later(self) -> None:
        self._timer = self.loop.call_later(self._period_s, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        if self.connections:
            self._sweep_later()
        self.look()
