"""What the connections of one gRPC server have in common: limits, methods, counts.

Must not know what a connection does when it is looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from shoal.codecs.http2 import Options
from shoal.dataplane import shared
from shoal.dataplane.grpc.message import Method
from shoal.settings import GrpcSettings

OnError: TypeAlias = Callable[[BaseException, str], None]

_NEVER_S: Final = 1.0  # stands for a timeout that is off


class Member(shared.Member, Protocol):
    """A connection. look_at: the loop's time at which `look` is due."""

    look_at: float

    def look(self, now: float) -> None: ...


@dataclass(slots=True)
class Stats(shared.Stats):
    """ended: connections ended for a client's errors."""

    ended: int = 0


class Shared(shared.Shared[Member, Stats, str]):
    def __init__(
        self, methods: Mapping[str, Method], settings: GrpcSettings, on_error: OnError,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        shortest_s = min(
            settings.read_timeout_s, settings.write_timeout_s, settings.keepalive_timeout_s,
            settings.keepalive_s or _NEVER_S, settings.idle_timeout_s or _NEVER_S,
        )
        super().__init__(Stats(), on_error, loop, shortest_s=shortest_s)
        self.methods: Final = methods
        self.settings: Final = settings
        self.options: Final = Options(
            max_streams=settings.max_concurrent_streams,
            max_header_list_bytes=settings.max_header_bytes,
            max_body_bytes=settings.max_message_bytes + 1024**2,
        )

    @property
    def full(self) -> bool:
        """May no further connection be served?"""
        return self.served >= self.settings.max_connections

    def look(self) -> None:
        now = self.loop.time()
        for connection in [late for late in self.connections if late.look_at <= now]:
            connection.look(now)
