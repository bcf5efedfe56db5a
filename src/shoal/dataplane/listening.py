"""Where a server of the public ports listens. Must not know what it speaks."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from shoal.domain.errors import InvalidSpecification


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """`sock`, bound, wins over host and port; the server closes it. `port` 0: any free one.
    `reuse_port`: several processes may listen on the same port, the kernel spreads connections."""

    host: str = "127.0.0.1"
    port: int = 0
    sock: socket.socket | None = None
    reuse_port: bool = False
    backlog: int = 2048
    ssl_context: ssl.SSLContext | None = None


async def listen_on(
    listen: Listen,
    make_protocol: Callable[[], asyncio.BaseProtocol],
    *,
    setting: str,
    handshake_s: float,
) -> asyncio.Server:
    """setting: of the port, for whom it is taken. handshake_s: for TLS; 0: no limit. Raises
    InvalidSpecification when the address cannot be listened on."""
    loop = asyncio.get_running_loop()
    tls = listen.ssl_context
    limit_s = (handshake_s or None) if tls is not None else None
    try:
        if listen.sock is not None:
            return await loop.create_server(
                make_protocol, sock=listen.sock, backlog=listen.backlog, ssl=tls,
                ssl_handshake_timeout=limit_s,
            )
        return await loop.create_server(
            make_protocol, listen.host, listen.port, backlog=listen.backlog,
            reuse_port=listen.reuse_port, ssl=tls, ssl_handshake_timeout=limit_s,
        )
    except OSError as error:
        raise InvalidSpecification(
            f"cannot listen on {listen.host} port {listen.port}: {error.strerror or error}; "
            f"choose another host or {setting}"
        ) from error
