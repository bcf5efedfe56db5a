"""Listens for gRPC. Must not know what is served."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from shoal.dataplane.grpc.connection import Connection
from shoal.dataplane.grpc.message import Method
from shoal.dataplane.grpc.shared import OnError, Shared, Stats
from shoal.dataplane.listening import GRPC_FLAGS, Listen, PublicServer
from shoal.settings import GrpcSettings


class GrpcServer(PublicServer[Shared]):
    """A gRPC server on the running loop.

    methods: what is served, by path; calls are cancelled when their client leaves.
    settings: the limits; its `port` is not looked at.
    on_error: gets what escapes from a method, with its path; clients get a bare INTERNAL.
    """

    def __init__(
        self, methods: Mapping[str, Method], settings: GrpcSettings, *, listen: Listen,
        on_error: OnError,
    ) -> None:
        shared = Shared(methods, settings, on_error, asyncio.get_running_loop())
        super().__init__(
            shared, lambda: Connection(shared), listen, flags=GRPC_FLAGS,
            handshake_s=settings.read_timeout_s,
        )

    @property
    def stats(self) -> Stats:
        return self._shared.stats
