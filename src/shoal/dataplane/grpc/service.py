"""What the gRPC port answers: the methods of `GRPCInferenceService`, health, reflection.

Inference itself is `dataplane.inference`; what else is answered, `dataplane.endpoints`. Streams of
inferences are `infer_stream`'s. Must not know frames or sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Final, TypeVar

import msgspec

from shoal.codecs import names, protobuf
from shoal.codecs.v2_proto import RequestReader
from shoal.codecs.v2_proto_answer import ResponseWriter
from shoal.dataplane.endpoints import Endpoints
from shoal.dataplane.grpc import statuses
from shoal.dataplane.grpc.calls import MODEL_INFER, InferCall, Question, request_id, timeout_s
from shoal.dataplane.grpc.health import Health
from shoal.dataplane.grpc.infer_stream import InferStreams
from shoal.dataplane.grpc.message import Code, Method, Reply, Request, Streaming, Unary
from shoal.dataplane.grpc.reflection import ReflectionV1, ReflectionV1Alpha
from shoal.dataplane.inference import LONGEST_TIMEOUT_S
from shoal.domain.errors import DeadlineExceeded, ShoalError
from shoal.node.instance import Instance
from shoal.observability.logs import get_logger

INFERENCE: Final = "inference.GRPCInferenceService"

_Make = Callable[[Request], Awaitable[bytes | Reply]]  # the answer's message, or all of it
T = TypeVar("T")

log = get_logger("shoal.requests")


class _OfModel(msgspec.Struct):
    name: str = ""
    version: str = ""


class _Index(msgspec.Struct):
    ready: bool = False


class _Control(msgspec.Struct):
    repository_name: str = ""
    model_name: str = ""
    parameters: dict[str, object] = {}

    @property
    def name(self) -> str:
        """KServe's message has it where Triton's has the repository."""
        return names.model_name(self.model_name or self.repository_name)


class Service:
    """Everything that is served. `methods`: by their paths."""

    def __init__(self, instance: Instance, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._inference = endpoints.inference
        self._log_requests = instance.settings.log.requests
        self._reader = RequestReader()
        self._writer = ResponseWriter()
        streams = InferStreams(
            endpoints.inference, self._reader, self._writer,
            instance.settings.grpc.max_requests_per_stream,
        )
        health = Health(endpoints)
        methods: list[Method] = [
            Unary(MODEL_INFER, self._infer),
            Streaming(f"/{INFERENCE}/ModelStreamInfer", streams.handle),
            Unary("/grpc.health.v1.Health/Check", self._described(health.check)),
            Streaming("/grpc.health.v1.Health/Watch", health.watch),
            Streaming(ReflectionV1.PATH, ReflectionV1().handle),
            Streaming(ReflectionV1Alpha.PATH, ReflectionV1Alpha().handle),
        ]
        makers: dict[str, _Make] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        methods += [
            Unary(f"/{INFERENCE}/{name}", self._described(make)) for name, make in makers.items()
        ]
        self.methods: Final[Mapping[str, Method]] = {each.path: each for each in methods}

    # --- inference ------------------------------------------------------------------------------

    def _infer(self, request: Request) -> Reply | Awaitable[Reply]:
        if self._log_requests:
            request_id(request)  # from here on it has one, to log and to return
        try:
            received = self._reader.read(request.message)
        except ShoalError as error:
            self._inference.count_unreached("grpc", error)
            return self._refused(request, error)
        return self._inference.infer(InferCall(request, received, self._writer))

    # --- everything else ------------------------------------------------------------------------

    def _described(self, make: _Make) -> Callable[[Request], Awaitable[Reply]]:
        """A method that answers with what `make` makes of its message."""
        return lambda request: self._describe(request, make)

    async def _describe(self, request: Request, make: _Make) -> Reply:
        allowed_s = LONGEST_TIMEOUT_S
        try:
            allowed_s = timeout_s(request.head, LONGEST_TIMEOUT_S)
            async with asyncio.timeout(allowed_s):
                made = await make(request)
            reply = made if isinstance(made, Reply) else Reply([made])
        except TimeoutError:
            error = DeadlineExceeded(
                f"{request.head.path} was not answered within {allowed_s:g} s; what was begun "
                "goes on, ask again later"
            )
            return self._refused(request, error)
        except ShoalError as error:
            return self._refused(request, error)
        self._log(request, reply)
        return reply

    def _refused(self, request: Request, error: ShoalError) -> Reply:
        reply = statuses.of_error(error, request_id(request))
        self._log(request, reply)
        return reply

    def _log(self, request: Request, reply: Reply) -> None:
        if self._log_requests:
            log.info(
                "request", method="grpc", path=request.head.path, code=reply.code.name,
                took_ms=round((perf_counter() - request.started) * 1e3, 3),
                request_id=request_id(request),
                **({} if reply.code is Code.OK else {"problem": reply.message}),
            )

    async def _server_live(self, request: Request) -> bytes:
        return _write("ServerLiveResponse", {"live": True})

    async def _server_ready(self, request: Request) -> bytes:
        return _write("ServerReadyResponse", {"ready": self._endpoints.server_ready()})

    async def _server_metadata(self, request: Request) -> bytes:
        return _write("ServerMetadataResponse", self._endpoints.server_metadata())

    async def _model_ready(self, request: Request) -> bytes:
        """Not ready is an answer here, as Triton's; of models that are not registered too."""
        asked = _read("ModelReadyRequest", request, _OfModel)
        try:
            self._endpoints.check_ready(*_model(asked))
        except ShoalError:
            return _write("ModelReadyResponse", {"ready": False})
        return _write("ModelReadyResponse", {"ready": True})

    async def _model_metadata(self, request: Request) -> bytes | Reply:
        asked = _read("ModelMetadataRequest", request, _OfModel)
        found = await self._endpoints.model_metadata(Question(request, *_model(asked)))
        return found if isinstance(found, Reply) else metadata_message(found)

    async def _model_config(self, request: Request) -> bytes | Reply:
        asked = _read("ModelConfigRequest", request, _OfModel)
        found = await self._endpoints.model_config(Question(request, *_model(asked)))
        return found if isinstance(found, Reply) else config_message(found)

    async def _model_statistics(self, request: Request) -> bytes:
        """Without a name: of every version that is in memory or answered requests."""
        asked = _read("ModelStatisticsRequest", request, _OfModel)
        if asked.name:
            found = await self._endpoints.model_statistics(*_model(asked))
        else:
            found = await self._endpoints.all_statistics()
        return _write("ModelStatisticsResponse", {"model_stats": found})

    async def _index(self, request: Request) -> bytes:
        asked = _read("RepositoryIndexRequest", request, _Index)
        # Serialized messages, one behind the other, are one message that has all their entries.
        return b"".join([
            _write("RepositoryIndexResponse", {"models": some})
            async for some in self._endpoints.index(only_ready=asked.ready)
        ])

    async def _load(self, request: Request) -> bytes:
        self._endpoints.check_control("load")
        asked = _read("RepositoryModelLoadRequest", request, _Control)
        await self._endpoints.load(asked.name, asked.parameters)
        return _write("RepositoryModelLoadResponse", {"model_name": asked.name, "isLoaded": True})

    async def _unload(self, request: Request) -> bytes:
        self._endpoints.check_control("unload")
        asked = _read("RepositoryModelUnloadRequest", request, _Control)
        await self._endpoints.unload(asked.name)
        return _write(
            "RepositoryModelUnloadResponse", {"model_name": asked.name, "isUnloaded": True}
        )


def metadata_message(described: dict[str, object]) -> bytes:
    return _write("ModelMetadataResponse", described)


def config_message(config: dict[str, object]) -> bytes:
    return _write("ModelConfigResponse", {"config": config})


def _model(asked: _OfModel) -> tuple[str, int | None]:
    version = names.model_version(asked.version) if asked.version else None
    return names.model_name(asked.name), version


def _read(name: str, request: Request, kind: type[T]) -> T:
    return protobuf.read(f"inference.{name}", bytes(request.message), kind)


def _write(name: str, value: Mapping[str, object]) -> bytes:
    return protobuf.write(f"inference.{name}", value)
