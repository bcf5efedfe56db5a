"""The public port over HTTP: every endpoint of the V2 and V1 protocols and of Triton's extensions.

Inference itself is `dataplane.inference`; what only describes models is `dataplane.describe`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from shoal.codecs import json_errors
from shoal.dataplane import describe
from shoal.dataplane.http import responses
from shoal.dataplane.http.calls import V1Call, V2Call
from shoal.dataplane.http.message import Request, Response
from shoal.dataplane.http.responses import json_response
from shoal.dataplane.http.routes import Kind, Route, Routes
from shoal.dataplane.inference import Inference
from shoal.domain.errors import InvalidRequest, NotAllowed, ShoalError
from shoal.domain.views import State
from shoal.node.control import Control, ModelFilter
from shoal.node.instance import Instance
from shoal.node.live import LiveCopy

_PAGE: Final = 1000


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
        try:
            route = self._routes.find(request.method, request.target)
            kind = route.kind
            if kind is Kind.INFER:
                return self._inference.infer(
                    V2Call(request, route.name, route.version, self._max_body_bytes)
                )
            if kind is Kind.PREDICT:
                return self._inference.infer(
                    V1Call(request, route.name, route.version, self._max_body_bytes)
                )
            answer = self._endpoints[kind](request, route)
        except ShoalError as error:
            return responses.finish(request, responses.error_response(error))
        if isinstance(answer, Response):
            return responses.finish(request, answer)
        return self._finish(request, answer)

    async def _finish(self, request: Request, answer: Awaitable[Response]) -> Response:
        try:
            return responses.finish(request, await answer)
        except ShoalError as error:
            return responses.finish(request, responses.error_response(error))

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
        copy = await self._inference.ready_copy(route.name, route.version)
        try:
            return json_response(describe.metadata(copy, self._versions(copy)))
        finally:
            copy.release()

    async def _model_config(self, request: Request, route: Route) -> Response:
        copy = await self._inference.ready_copy(route.name, route.version)
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

    def _index(self, request: Request, route: Route) -> Response:
        wanted = self._decode(request, _IndexRequest)
        entries: list[dict[str, str]] = []
        after: str | None = None
        while True:
            page = self._control.list_models(ModelFilter(after=after, limit=_PAGE))
            for model in page.models:
                for version in model.versions:
                    entry = describe.index_entry(model, version)
                    if not wanted.ready or version.state is State.READY:
                        entries.append(entry)
                if not model.versions and not wanted.ready:
                    entries.append(describe.index_entry(model, None))
            after = page.next
            if after is None:
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
