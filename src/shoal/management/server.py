"""Runs the management application on its own port, with uvicorn, in the loop that is there.

Leaves signals and logging to the process it runs in. Knows nothing of what the application does.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence
from typing import Final

import structlog
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from shoal.node.sockets import listen_on, shown

FLAGS: Final = "--management-port or --management-host"
BACKLOG: Final = 128
_MAX_CONNECTIONS: Final = 1_000  # operators and scrapers are few; beyond it answers 503
_IDLE_TIMEOUT_S: Final = 75  # longer than the 60 s of common load balancers: they close first
_CUT_TIMEOUT_S: Final = 1.0  # for cancelled requests to say so
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class ManagementServer:
    """One listening server; to be started once and stopped once.

    host: a name or an address; port: 0 takes any free one. sockets: what to listen on instead, from
    `node.sockets`; the server closes them.
    """

    def __init__(
        self, app: ASGIApp, host: str = "", port: int = 0, *, sockets: Sequence[socket.socket] = ()
    ) -> None:
        self._host, self._port = host, port
        self._sockets = list(sockets)
        self._ending = _Ending(app)
        self._server = _Server(
            uvicorn.Config(
                self._ending,
                http="h11",  # the one of uvicorn's parsers that limits headers
                ws="none",
                loop="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                limit_concurrency=_MAX_CONNECTIONS,
                timeout_keep_alive=_IDLE_TIMEOUT_S,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """`host:port`, the port that was taken once started; an IPv6 address in brackets."""
        return shown(self._host, self._port)

    async def start(self) -> None:
        """Listen and serve; returns when connections are accepted.

        Raises InvalidSpecification when it cannot listen there.
        """
        assert self._serving is None, "a server starts once"
        sockets = self._sockets or await listen_on(
            self._host, self._port, FLAGS, BACKLOG)
        if sockets[0].family != socket.AF_UNIX:
            self._port = sockets[0].getsockname()[1]
        self._serving = asyncio.create_task(self._server.serve(sockets), name="management server")
        listening = asyncio.ensure_future(self._server.listening.wait())
        await asyncio.wait({self._serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        if self._serving.done():
            listening.cancel()
            await self._serving

    async def stop(self, timeout_s: float) -> None:
        """Accept nothing more, and let running requests finish for `timeout_s` seconds; what runs
        then is answered 503 and cut off. Nothing happens when it does not run."""
        if self._serving is None:
            return
        self._server.should_exit = True
        done, _ = await asyncio.wait({self._serving}, timeout=timeout_s)
        if not done:
            await self._cut()
        await self._serving
        self._serving = None

    async def _cut(self) -> None:
        state = self._server.server_state
        running = set(state.tasks)
        _log.warning("management requests cut off by the shutdown", requests=len(running))
        self._ending.cutting = True
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=_CUT_TIMEOUT_S)
        for connection in list(state.connections):
            if connection.transport.get_write_buffer_size():
                connection.transport.abort()  # the peer takes nothing: no answer will end here
            else:
                connection.transport.close()


class _Server(uvicorn.Server):
    """uvicorn's server, telling when it listens, and leaving signals alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


class _Ending:
    """ASGI middleware that ends requests cancelled by the shutdown quietly, while `cutting` is set:
    to uvicorn a cancelled request is a fault of the application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.cutting = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self.cutting:
                raise
