"""Where a server of the public ports listens, and how it ends. Must not know what it speaks."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from shoal.dataplane.accepting import Accepted, Acceptor
from shoal.dataplane.shared import Shared
from shoal.dataplane.shares import Share
from shoal.node.sockets import listen_on

BACKLOG: Final = 2048
HTTP_FLAGS: Final = "--http-port or --host"
GRPC_FLAGS: Final = "--grpc-port or --host"

_CUT_S: Final = 1.0  # what a transport may take to say that it was cut

# How long a client with an idle connection may still ask here when others take the place of this:
# closing at once would meet requests that are on their way, which then fail.
_LINGER_S: Final = 1.0

Sh = TypeVar("Sh", bound=Shared[Any, Any, Any])


@dataclass(frozen=True, slots=True)
class Common:
    """Listening sockets on which other processes accept too, and this process's share."""

    sockets: tuple[socket.socket, ...]
    share: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """`common` wins over host and port; the server closes its sockets. `port` 0: any free one."""

    host: str = "127.0.0.1"
    port: int = 0
    common: Common | None = None
    ssl_context: ssl.SSLContext | None = None


class _Open(Protocol):
    """What accepts connections: the loop's server, or ours."""

    def close(self) -> None: ...

    async def wait_closed(self) -> None: ...


class PublicServer(Generic[Sh]):
    """A server on the running loop.

    shared: what its connections have in common. make_protocol: makes one. flags: with which it is
    chosen where to listen. handshake_s: for TLS; 0: no limit.
    """

    def __init__(
        self, shared: Sh, make_protocol: Callable[[], asyncio.BaseProtocol], listen: Listen, *,
        flags: str, handshake_s: float,
    ) -> None:
        self._shared = shared
        self._make_protocol = make_protocol
        self._listen = listen
        self._flags = flags
        self._handshake_s = handshake_s
        self._open: list[_Open] = []
        self._address: tuple[str, int] | None = None

    async def start(self) -> None:
        """Raises InvalidSpecification when the address cannot be listened on."""
        listen, loop, shared = self._listen, self._shared.loop, self._shared
        tls = listen.ssl_context
        limit_s = (self._handshake_s or None) if tls is not None else None
        if (common := listen.common) is not None:
            sockets: Sequence[socket.socket] = common.sockets
            acceptor = Acceptor(
                sockets, Accepted(self._make_protocol, lambda: shared.served, tls, limit_s),
                common.share,
            )
            shared.on_leave = acceptor.tell
            self._open.append(acceptor)
        else:
            sockets = await listen_on(listen.host, listen.port, self._flags, BACKLOG)
            for each in sockets:
                self._open.append(await loop.create_server(
                    self._make_protocol, sock=each, backlog=BACKLOG, ssl=tls,
                    ssl_handshake_timeout=limit_s,
                ))
        self._address = sockets[0].getsockname()[:2]

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, of the first address when the host has several."""
        assert self._address is not None, "the server has not started"
        return self._address

    @property
    def connections(self) -> int:
        """Open now, without those that are only refused."""
        return self._shared.served

    async def shutdown(self, timeout_s: float, *, linger: bool = False) -> int:
        """Accept no more, finish what has begun, cut what remains after `timeout_s` seconds;
        returns how many connections were cut in the midst of something. linger: others take the
        place of this one, and clients have the time to go over to them."""
        if not self._open:
            return 0
        shared = self._shared
        for each in self._open:
            each.close()
        cut = 0
        try:
            async with asyncio.timeout(timeout_s):
                if linger:
                    await self._retire(min(_LINGER_S, timeout_s / 2))
                shared.draining = True
                for connection in list(shared.connections):
                    connection.drain()
                await shared.empty.wait()
        except TimeoutError:
            cut = sum([connection.cut() for connection in list(shared.connections)])
            try:
                async with asyncio.timeout(_CUT_S):
                    await shared.empty.wait()
            except TimeoutError:
                pass
        shared.stop()
        await self._wait_closed()
        return cut

    async def _wait_closed(self) -> None:
        for each in self._open:
            await each.wait_closed()

    async def _retire(self, within_s: float) -> None:
        """Let clients go over to others, each after its next request."""
        try:
            async with asyncio.timeout(within_s):
                if self._listen.common is not None:
                    await self._wait_closed()  # what was accepted shall be answered
                for connection in list(self._shared.connections):
                    connection.retire()
                await self._shared.empty.wait()
        except TimeoutError:
            await asyncio.sleep(0)  # what came while the loop had no time is read first
