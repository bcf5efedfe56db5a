"""The public port over HTTP: every endpoint of the V2 and V1 protocols and of Triton's extensions.

Inference itself is `dataplane.inference`; what only describes models is `dataplane.describe`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Final, TypeVar

import msgspec

from shoal.codecs import json_errors
from shoal.dataplane import describe
from shoal.dataplane.http import responses
from shoal.dataplane.http.calls import LONGEST_TIMEOUT_S, V1Call, V2Call, timeout_s
from shoal.dataplane.http.message import Request, Response
from shoal.dataplane.http.responses import ACCEPT_ENCODING, REQUEST_ID, json_response
from shoal.dataplane.http.routes import LONGEST_KNOWN, Kind, Route, Routes
from shoal.dataplane.inference import Inference
from shoal.domain.errors import DeadlineExceeded, InvalidRequest, NotAllowed, ShoalError
from shoal.node.control import Control
from shoal.node.instance import Instance
from shoal.node.live import LiveCopy
from shoal.observability.logs import get_logger

_TURN: Final = 50  # models that are described before others get their turn: a millisecond or two

log = get_logger("shoal.requests")


class _IndexRequest(msgspec.Struct, forbid_unknown_fields=True):
    ready: bool = False


class _ControlRequest(msgspec.Struct, forbid_unknown_fields=True):
    parameters: dict[str, object] = {}


_Body = TypeVar("_Body", _IndexRequest, _ControlRequest)


class PublicApi:
    """`message.Handler` of the inference port. `control` carries out what the repository extension
    asks, where the settings allow it."""

    def __init__(self, instance: Instance, control: Control) -> None:
        self._instance = instance
        self._control = control
        self._inference = Inference(instance)
        self._routes = Routes()
        self._max_body_bytes = instance.settings.http.max_body_bytes
        self._timeout_s = instance.settings.request.timeout_s
        self._log_requests = instance.settings.log.requests
        self._allow_control = instance.settings.request.repository_control
        self._endpoints: dict[Kind, Callable[[Request, Route], Response | Awaitable[Response]]] = {
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
        if self._log_requests:
            responses.request_id(request)  # from here on the request has one, to log and to return
        try:
            route = self._routes.find(request.method, request.target)
        except ShoalError as error:
            if request.method == "POST":
                self._inference.count_unreached(request.target[1:3], error)
            return self._refuse(request, error, perf_counter())
        kind = route.kind
        if kind is Kind.INFER:
            answer = self._inference.infer(
                V2Call(request, route.name, route.version, self._max_body_bytes)
            )
        elif kind is Kind.PREDICT:
            answer = self._inference.infer(
                V1Call(request, route.name, route.version, self._max_body_bytes)
            )
        else:
            return self._describe(request, route)
        if not isinstance(answer, Response):
            return _finish_later(request, answer)
        headers = request.headers
        if answer.status == 200 and ACCEPT_ENCODING not in headers and REQUEST_ID not in headers:
            return answer
        return _finish(request, answer)

    def _describe(self, request: Request, route: Route) -> Response | Awaitable[Response]:
        """Everything but inference."""
        started = perf_counter()
        try:
            allowed_s = timeout_s(request, LONGEST_TIMEOUT_S)
            answer = self._endpoints[route.kind](request, route)
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
        return json_response(describe.server(repository_control=self._allow_control))

    def _server_ready(self, request: Request, route: Route) -> Response:
        ready = not self._control.problems_of_readiness()
        return json_response({"ready": ready}, 200 if ready else 503)

    def _models(self, request: Request, route: Route) -> Response:
        return json_response({"models": list(self._instance.replica.names_after(None))})

    # --- a model --------------------------------------------------------------------------------

    async def _model_metadata(self, request: Request, route: Route) -> Response:
        copy = await self._inference.ready_copy(
            route.name, route.version, self._timeout_s
        )
        try:
            return json_response(describe.metadata(copy, self._versions(copy)))
        finally:
            copy.release()

    async def _model_config(self, request: Request, route: Route) -> Response:
        copy = await self._inference.ready_copy(
            route.name, route.version, self._timeout_s
        )
        try:
            record = self._instance.record(route.name)
            return json_response(describe.config(copy, record.spec.version_policy))
        finally:
            copy.release()

    def _model_ready(self, request: Request, route: Route) -> Response:
        """Ready is what the next request can be answered from, after a load if need be."""
        problem = describe.why_not_ready(self._instance, route.name, route.version)
        if problem is not None:
            raise problem
        return json_response({"name": route.name, "ready": True})

    def _versions(self, copy: LiveCopy) -> list[int]:
        record = self._instance.replica.get(copy.revision.model)
        if record is None:
            return [copy.revision.version]
        return [revision.version for revision in record.revisions]

    # --- statistics -----------------------------------------------------------------------------

    def _model_statistics(self, request: Request, route: Route) -> Response:
        record = self._instance.record(route.name)
        versions = [revision.version for revision in record.revisions]
        if route.version is not None:
            if route.version not in versions:
                problem = describe.why_not_ready(self._instance, route.name, route.version)
                assert problem is not None
                raise problem
            versions = [route.version]
        return json_response({"model_stats": self._inference.model_stats(route.name, versions)})

    def _all_statistics(self, request: Request, route: Route) -> Response | Awaitable[Response]:
        if "stats" in self._instance.replica:  # a model may be called so
            return self._model_metadata(request, Route(Kind.MODEL_METADATA, "stats"))
        return json_response({"model_stats": self._inference.all_stats()})

    # --- the repository -------------------------------------------------------------------------

    async def _index(self, request: Request, route: Route) -> Response:
        """In turns with other requests, which a long list must not hold up."""
        wanted = self._decode(request, _IndexRequest)
        names = list(self._instance.replica.names_after(None))
        if wanted.ready:
            loaded = {copy.revision.model for copy in self._instance.live.values()}
            names = sorted(loaded.intersection(names))
        entries: list[dict[str, str]] = []
        for turn in range(0, len(names), _TURN):
            for name in names[turn : turn + _TURN]:
                if name in self._instance.replica:  # it was when the request came
                    entries += describe.index_entries(self._control.model(name), wanted.ready)
            await asyncio.sleep(0)
        return json_response(entries)

    async def _load(self, request: Request, route: Route) -> Response:
        self._check_control("load")
        parameters = self._decode(request, _ControlRequest).parameters
        if parameters:
            raise InvalidRequest(
                f"load takes no parameters here, but {', '.join(sorted(parameters))} came; "
                "change the model's files or its registration instead"
            )
        await self._control.load(route.name)
        return json_response({"name": route.name, "load": True})

    async def _unload(self, request: Request, route: Route) -> Response:
        self._check_control("unload")
        self._decode(request, _ControlRequest)
        await self._control.unload(route.name)
        return json_response({"name": route.name, "unload": True})

    def _check_control(self, what: str) -> None:
        if not self._allow_control:
            raise NotAllowed(
                f"the public port may not {what} models (request.repository_control is off); use "
                "the management API, or start with --request-repository-control"
            )

    def _decode(self, request: Request, kind: type[_Body]) -> _Body:
        """A small JSON body; an empty one stands for the defaults."""
        body = responses.read_body(request, self._max_body_bytes)
        if not body.strip():
            return kind()
        try:
            return msgspec.json.decode(body, type=kind)
        except json_errors.DECODING_ERRORS as error:
            raise json_errors.as_refusal(error, body) from None


def _finish(request: Request, answer: Response) -> Response | Awaitable[Response]:
    return responses.compressed(request, responses.identified(request, answer))


async def _finish_later(request: Request, answer: Awaitable[Response]) -> Response:
    finished = _finish(request, await answer)
    return finished if isinstance(finished, Response) else await finished
