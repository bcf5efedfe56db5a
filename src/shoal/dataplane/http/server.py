"""Listens for HTTP/1.1. Must not know what is served."""

from __future__ import annotations

import asyncio

from shoal.dataplane.http.connection import Connection
from shoal.dataplane.http.message import Handler
from shoal.dataplane.http.shared import OnError, Shared, Stats
from shoal.dataplane.listening import HTTP_FLAGS, Listen, PublicServer
from shoal.settings import HttpSettings


class Server(PublicServer[Shared]):
    """An HTTP/1.1 server on the running loop.

    handler: see `message.Handler`; awaitables it returns are cancelled when their client leaves.
    settings: the limits; its `port` is not looked at.
    on_error: gets what escapes from the handler, with its request; clients get a bare 500.
    """

    def __init__(
        self, handler: Handler, settings: HttpSettings, *, listen: Listen, on_error: OnError
    ) -> None:
        shared = Shared(handler, settings, on_error, asyncio.get_running_loop())
        super().__init__(
            shared, lambda: Connection(shared), listen, flags=HTTP_FLAGS,
            handshake_s=settings.read_timeout_s,
        )

    @property
    def stats(self) -> Stats:
        return self._shared.stats
