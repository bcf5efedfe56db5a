"""gRPC's health checking: the server ("" and its services) and each model by its name.

Source: grpc/doc/health-checking.md. A model that is not in memory yet serves all the same: the
next request loads it.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from shoal.codecs import names, protobuf
from shoal.dataplane.endpoints import Endpoints
from shoal.dataplane.grpc import statuses
from shoal.dataplane.grpc.message import Code, Reply, Request, Stream
from shoal.domain.errors import ModelNotFound, NotFound, ShoalError

LOOK_S: Final = 1.0  # between two looks for a change; as the core's tick

_REQUEST: Final = "grpc.health.v1.HealthCheckRequest"
_RESPONSE: Final = "grpc.health.v1.HealthCheckResponse"


class _Asked(msgspec.Struct):
    service: str = ""


class Health:
    """`grpc.health.v1.Health`."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    async def check(self, request: Request) -> bytes:
        """Raises NotFound for what is no service nor model."""
        service = protobuf.read(_REQUEST, bytes(request.message), _Asked).service
        return protobuf.write(_RESPONSE, {"status": self._status(service)})

    async def watch(self, stream: Stream) -> Reply:
        """Tells the status now, and again whenever it changes."""
        message = await stream.receive()
        if message is None:
            return Reply((), Code.INTERNAL, "Watch takes one message, none came")
        service = protobuf.read(_REQUEST, message, _Asked).service
        told = ""
        while True:
            try:
                status = self._status(service)
            except NotFound:
                status = "SERVICE_UNKNOWN"
            if stream.draining:
                status = "NOT_SERVING"
            if status != told:
                await stream.send([protobuf.write(_RESPONSE, {"status": status})])
                told = status
            if stream.draining:
                return statuses.shutting_down()
            try:
                async with asyncio.timeout(LOOK_S):
                    await stream.drained()
            except TimeoutError:
                pass

    def _status(self, service: str) -> str:
        if service == "" or service in protobuf.SERVICES:
            return "SERVING" if self._endpoints.server_ready() else "NOT_SERVING"
        try:
            self._endpoints.check_ready(names.model_name(service), None)
        except ModelNotFound:
            raise NotFound(
                f"there is no service and no model {names.shown(service)!r}; an empty name stands "
                "for the server"
            ) from None
        except ShoalError:
            return "NOT_SERVING"
        return "SERVING"
