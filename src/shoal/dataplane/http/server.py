"""Listens for HTTP/1.1 and ends in order. Must not know what is served."""

from __future__ import annotations

import asyncio
from typing import Final

from shoal.dataplane.http.connection import Connection
from shoal.dataplane.http.message import Handler
from shoal.dataplane.http.shared import OnError, Shared, Stats
from shoal.dataplane.listening import Listen, listen_on
from shoal.settings import HttpSettings

_CUT_S: Final = 1.0  # what a transport may take to say that it was cut


class Server:
    """An HTTP/1.1 server on the running loop.

    handler: see `message.Handler`; awaitables it returns are cancelled when their client leaves.
    settings: the limits; its `port` is not looked at.
    on_error: gets what escapes from the handler, with its request; clients get a bare 500.
    """

    def __init__(
        self, handler: Handler, settings: HttpSettings, *, listen: Listen, on_error: OnError
    ) -> None:
        self._handler = handler
        self._settings = settings
        self._listen = listen
        self._on_error = on_error
        self._server: asyncio.Server | None = None
        self._shared: Shared | None = None
        self._address: tuple[str, int] | None = None

    async def start(self) -> None:
        """Raises InvalidSpecification when the address cannot be listened on."""
        shared = Shared(
            self._handler, self._settings, self._on_error, asyncio.get_running_loop()
        )
        self._server = await listen_on(
            self._listen, lambda: Connection(shared), setting="http.port",
            handshake_s=self._settings.read_timeout_s,
        )
        self._shared = shared
        self._address = self._server.sockets[0].getsockname()[:2]

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, of the first address when the host has several."""
        assert self._address is not None, "the server has not started"
        return self._address

    @property
    def connections(self) -> int:
        """Open now, without those being told that there are too many."""
        if self._shared is None:
            return 0
        return len(self._shared.connections) - self._shared.turned_away

    @property
    def stats(self) -> Stats:
        return self._shared.stats if self._shared is not None else Stats()

    async def shutdown(self, timeout_s: float) -> int:
        """Accept no more, finish the requests that have begun, cut what remains after `timeout_s`
        seconds; returns how many connections were cut."""
        if self._server is None or self._shared is None:
            return 0
        shared = self._shared
        shared.draining = True
        self._server.close()
        for connection in list(shared.connections):
            connection.drain()
        cut = 0
        try:
            async with asyncio.timeout(timeout_s):
                await shared.empty.wait()
        except TimeoutError:
            cut = sum([connection.cut() for connection in list(shared.connections)])
            try:
                async with asyncio.timeout(_CUT_S):
                    await shared.empty.wait()
            except TimeoutError:
                pass
        shared.stop()
        await self._server.wait_closed()
        return cut
