"""What the connections of one gRPC server have in common: limits, methods, counts, one timer.

Must not know what a connection does when it is looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from shoal.codecs.http2 import Options
from shoal.dataplane.grpc.message import Method
from shoal.settings import GrpcSettings

if TYPE_CHECKING:
    from shoal.dataplane.grpc.connection import Connection

OnError: TypeAlias = Callable[[BaseException, str], None]

_MOST_LOOK_S: Final = 1.0


@dataclass(slots=True)
class Stats:
    """Counts since the start. connections: accepted. calls: begun. timeouts: slow readers and
    writers, vanished clients. ended: connections ended for a client's errors."""

    connections: int = 0
    calls: int = 0
    timeouts: int = 0
    ended: int = 0


class Shared:
    """One per server; belongs to the loop it was made for."""

    def __init__(
        self, methods: Mapping[str, Method], settings: GrpcSettings, on_error: OnError,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.methods: Final = methods
        self.settings: Final = settings
        self.options: Final = Options(
            max_streams=settings.max_concurrent_streams,
            max_header_list_bytes=settings.max_header_bytes,
            max_body_bytes=settings.max_message_bytes + 1024**2,
        )
        self.loop: Final = loop
        self.stats: Final = Stats()
        self.connections: Final[set[Connection]] = set()
        self.draining = False
        self.empty: Final = asyncio.Event()
        self.empty.set()
        self._on_error = on_error
        shortest = min(
            settings.read_timeout_s, settings.write_timeout_s, settings.keepalive_timeout_s,
            settings.keepalive_s or _MOST_LOOK_S, settings.idle_timeout_s or _MOST_LOOK_S,
        )
        self._period_s = min(_MOST_LOOK_S, max(0.01, shortest / 4))
        self._timer: asyncio.TimerHandle | None = None

    @property
    def full(self) -> bool:
        """May no further connection be served?"""
        return len(self.connections) >= self.settings.max_connections

    def add(self, connection: Connection) -> None:
        self.stats.connections += 1
        self.connections.add(connection)
        self.empty.clear()
        if self._timer is None:
            self._timer = self.loop.call_later(self._period_s, self._sweep)

    def discard(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self.empty.set()

    def report(self, error: BaseException, path: str) -> None:
        """What escaped from a method; never raises."""
        try:
            self._on_error(error, path)
        except Exception as second:  # noqa: BLE001 - a failing report must not cost the connection
            self.loop.call_exception_handler(
                {"message": "reporting a method's error failed", "exception": second}
            )

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = (
            self.loop.call_later(self._period_s, self._sweep) if self.connections else None
        )
        now = self.loop.time()
        for connection in [late for late in self.connections if late.look_at <= now]:
            connection.look(now)
