"""The public port over HTTP: every endpoint of the V2 and V1 protocols and of Triton's extensions.

Inference itself is `dataplane.inference`; what else is answered, `dataplane.endpoints`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Final, TypeVar

import msgspec

from shoal.codecs import json_errors
from shoal.dataplane.endpoints import Endpoints
from shoal.dataplane.http import responses
from shoal.dataplane.http.calls import (
    HttpCall,
    Question,
    Target,
    V1Call,
    V2Call,
    timeout_s,
)
from shoal.dataplane.http.message import Request, Response
from shoal.dataplane.http.responses import json_response
from shoal.dataplane.http.routes import LONGEST_KNOWN, Kind, Route, Routes
from shoal.dataplane.inference import LONGEST_TIMEOUT_S
from shoal.domain.errors import DeadlineExceeded, ShoalError
from shoal.node.instance import Instance
from shoal.observability.logs import get_logger

CALLS: Final[dict[Kind, type[HttpCall]]] = {Kind.INFER: V2Call, Kind.PREDICT: V1Call}

log = get_logger("shoal.requests")


class _IndexRequest(msgspec.Struct, forbid_unknown_fields=True):
    ready: bool = False


class _ControlRequest(msgspec.Struct, forbid_unknown_fields=True):
    parameters: dict[str, object] = {}


_Body = TypeVar("_Body", _IndexRequest, _ControlRequest)


class PublicApi:
    """`message.Handler` of the inference port."""

    def __init__(self, instance: Instance, endpoints: Endpoints) -> None:
        self._instance = instance
        self._endpoints = endpoints
        self._inference = endpoints.inference
        self._routes = Routes()
        self._max_body_bytes = instance.settings.http.max_body_bytes
        self._log_requests = instance.settings.log.requests
        self._handlers: dict[Kind, Callable[[Request, Route], Response | Awaitable[Response]]] = {
            Kind.ALIVE: lambda _, __: json_response({"status": "alive"}),
            Kind.SERVER_METADATA: self._server_metadata,
            Kind.SERVER_LIVE: lambda _, __: json_response({"live": True}),
            Kind.SERVER_READY: self._server_ready,
            Kind.MODELS: self._models,
            Kind.V1_MODELS: self._models,
            Kind.ALL_STATISTICS: self._all_statistics,
            Kind.MODEL_METADATA: self._model_metadata,
            Kind.MODEL_READY: self._model_ready,
            Kind.V1_MODEL: self._model_ready,
            Kind.MODEL_CONFIG: self._model_config,
            Kind.MODEL_STATISTICS: self._model_statistics,
            Kind.INDEX: self._index,
            Kind.LOAD: self._load,
            Kind.UNLOAD: self._unload,
        }

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        head = request.head
        target = head.prepared if head is not None else None
        if type(target) is not Target:
            if self._log_requests:
                responses.request_id(request)  # from here on it has one, to log and to return
            try:
                route = self._routes.find(request.method, request.target)
            except ShoalError as error:
                if request.method == "POST":
                    self._inference.count_unreached(request.target[1:3], error)
                return self._refuse(request, error, perf_counter())
            kind = CALLS.get(route.kind)
            if kind is None:
                return self._describe(request, route)
            target = Target(kind, route.name, route.version, request.headers)
            if head is not None and not self._log_requests:
                head.prepared = target
        return self._inference.infer(target.kind(request, target, self._max_body_bytes))

    def _describe(self, request: Request, route: Route) -> Response | Awaitable[Response]:
        """Everything but inference."""
        started = perf_counter()
        try:
            allowed_s = timeout_s(request, LONGEST_TIMEOUT_S)
            answer = self._handlers[route.kind](request, route)
        except ShoalError as error:
            return self._refuse(request, error, started)
        if not isinstance(answer, Response):
            return self._describe_later(request, answer, started, allowed_s)
        return self._done(request, answer, started)

    async def _describe_later(
        self, request: Request, answer: Awaitable[Response], started: float, allowed_s: float
    ) -> Response:
        try:
            async with asyncio.timeout(allowed_s):
                return self._done(request, await answer, started)
        except TimeoutError:
            error = DeadlineExceeded(
                f"{request.target} was not answered within {allowed_s:g} s; what was begun goes "
                "on, ask again later"
            )
            return self._refuse(request, error, started)
        except ShoalError as error:
            return self._refuse(request, error, started)

    def _refuse(self, request: Request, error: ShoalError, started: float) -> Response:
        return self._done(request, responses.error_response(error), started, error.message)

    def _done(
        self, request: Request, response: Response, started: float, problem: str | None = None
    ) -> Response:
        if self._log_requests:
            log.info(
                "request", method=request.method, path=request.target[:LONGEST_KNOWN],
                code=response.status,
                took_ms=round((perf_counter() - started) * 1e3, 3),
                request_id=responses.request_id(request),
                **({} if problem is None else {"problem": problem}),
            )
        return responses.identified(request, response)

    # --- the server -----------------------------------------------------------------------------

    def _server_metadata(self, request: Request, route: Route) -> Response:
        return json_response(self._endpoints.server_metadata())

    def _server_ready(self, request: Request, route: Route) -> Response:
        ready = self._endpoints.server_ready()
        return json_response({"ready": ready}, 200 if ready else 503)

    def _models(self, request: Request, route: Route) -> Response:
        return json_response({"models": self._instance.replica.names()})

    # --- a model --------------------------------------------------------------------------------

    async def _model_metadata(self, request: Request, route: Route) -> Response:
        found = await self._endpoints.model_metadata(Question(request, route.name, route.version))
        return found if isinstance(found, Response) else json_response(found)

    async def _model_config(self, request: Request, route: Route) -> Response:
        found = await self._endpoints.model_config(Question(request, route.name, route.version))
        return found if isinstance(found, Response) else json_response(found)

    def _model_ready(self, request: Request, route: Route) -> Response:
        """Ready is what the next request can be answered from, after a load if need be."""
        self._endpoints.check_ready(route.name, route.version)
        return json_response({"name": route.name, "ready": True})

    # --- statistics -----------------------------------------------------------------------------

    async def _model_statistics(self, request: Request, route: Route) -> Response:
        found = await self._endpoints.model_statistics(route.name, route.version)
        return json_response({"model_stats": found})

    async def _all_statistics(self, request: Request, route: Route) -> Response:
        if "stats" in self._instance.replica:  # a model may be called so
            return await self._model_metadata(request, Route(Kind.MODEL_METADATA, "stats"))
        return json_response({"model_stats": await self._endpoints.all_statistics()})

    # --- the repository -------------------------------------------------------------------------

    async def _index(self, request: Request, route: Route) -> Response:
        wanted = self._decode(request, _IndexRequest)
        entries: list[dict[str, str]] = []
        async for some in self._endpoints.index(only_ready=wanted.ready):
            entries += some
        return json_response(entries)

    async def _load(self, request: Request, route: Route) -> Response:
        self._endpoints.check_control("load")
        await self._endpoints.load(
            route.name, self._decode(request, _ControlRequest).parameters
        )
        return json_response({"name": route.name, "load": True})

    async def _unload(self, request: Request, route: Route) -> Response:
        self._endpoints.check_control("unload")
        self._decode(request, _ControlRequest)
        await self._endpoints.unload(route.name)
        return json_response({"name": route.name, "unload": True})

    def _decode(self, request: Request, kind: type[_Body]) -> _Body:
        """A small JSON body; an empty one stands for the defaults."""
        body = responses.read_body(request, self._max_body_bytes)
        if not bytes(body).strip():
            return kind()
        try:
            return msgspec.json.decode(body, type=kind)
        except json_errors.DECODING_ERRORS as error:
            raise json_errors.as_refusal(error, body) from None
