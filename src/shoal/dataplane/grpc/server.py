"""Listens for gRPC and ends in order. Must not know what is served."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from shoal.dataplane.grpc.connection import Connection
from shoal.dataplane.grpc.message import Method
from shoal.dataplane.grpc.shared import OnError, Shared, Stats
from shoal.dataplane.listening import Listen, listen_on
from shoal.settings import GrpcSettings

_CUT_S: Final = 1.0  # what a transport may take to say that it was cut


class GrpcServer:
    """A gRPC server on the running loop.

    methods: what is served, by path; calls are cancelled when their client leaves.
    settings: the limits; its `port` is not looked at.
    on_error: gets what escapes from a method, with its path; clients get a bare INTERNAL.
    """

    def __init__(
        self, methods: Mapping[str, Method], settings: GrpcSettings, *, listen: Listen,
        on_error: OnError,
    ) -> None:
        self._methods = methods
        self._settings = settings
        self._listen = listen
        self._on_error = on_error
        self._server: asyncio.Server | None = None
        self._shared: Shared | None = None
        self._address: tuple[str, int] | None = None

    async def start(self) -> None:
        """Raises InvalidSpecification when the address cannot be listened on."""
        shared = Shared(
            self._methods, self._settings, self._on_error, asyncio.get_running_loop()
        )
        self._server = await listen_on(
            self._listen, lambda: Connection(shared), setting="grpc.port",
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
        """Open now."""
        return len(self._shared.connections) if self._shared is not None else 0

    @property
    def stats(self) -> Stats:
        return self._shared.stats if self._shared is not None else Stats()

    async def shutdown(self, timeout_s: float) -> int:
        """Accept no more, finish the calls that have begun, cut what remains after `timeout_s`
        seconds; returns how many connections with calls were cut."""
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
