"""gRPC's own clients and others, against the gRPC port: grpcio, grpclib, nghttp2's tools."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import httpx2
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpclib.client import Channel as GrpclibChannel
from grpclib.client import UnaryUnaryMethod
from grpclib.exceptions import GRPCError
from tests import grpc_requests
from tests.served import until
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

if TYPE_CHECKING:
    from tests.integration.conftest import Public

INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture
def channel(public: Public) -> Iterator[grpc.Channel]:
    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(public.server.grpc, options=limits) as made:
        yield made


@pytest.fixture
def stub(channel: grpc.Channel) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(channel)


@pytest.fixture
async def aio(public: Public) -> AsyncIterator[GRPCInferenceServiceStub]:
    async with grpc.aio.insecure_channel(public.server.grpc) as channel:
        yield GRPCInferenceServiceStub(channel)


def metadata(call: Any) -> dict[str, str]:
    return dict(call.trailing_metadata())


# --- the models' known answers ------------------------------------------------------------------


def request_of(case: Any) -> Any:
    """A V2 request in JSON as a ModelInferRequest with typed contents."""
    field = {"FP32": "fp32", "FP64": "fp64", "INT64": "int64", "INT32": "int", "BYTES": "bytes",
             "BOOL": "bool"}
    request = pb.ModelInferRequest(model_name=case.model)
    for given in case.request["inputs"]:
        tensor = request.inputs.add(
            name=given["name"], datatype=given["datatype"], shape=given["shape"]
        )
        values = np.array(given["data"], object).ravel().tolist()
        if given["datatype"] == "BYTES":
            values = [value.encode() for value in values]
        getattr(tensor.contents, f"{field[given['datatype']]}_contents").extend(values)
    for key, value in case.request.get("parameters", {}).items():
        request.parameters[key].string_param = value
    for output in case.request.get("outputs", []):
        request.outputs.add(name=output["name"])
    return request


@pytest.mark.parametrize("model", ["iris", "iris-net", "penguins", "prices"])
def test_real_models_give_their_known_answers(
    stub: GRPCInferenceServiceStub, public: Public, model: str
) -> None:
    case = public.cases[model]
    response = stub.ModelInfer(request_of(case))
    for found, expected in zip(response.outputs, case.expect["outputs"], strict=True):
        assert (found.name, found.datatype) == (expected["name"], expected["datatype"])
        assert list(found.shape) == expected["shape"]
        (values,) = [list(value) for _, value in found.contents.ListFields()]
        if found.datatype == "BYTES":
            assert [value.decode() for value in values] == expected["data"]
        else:
            assert values == pytest.approx(expected["data"], rel=1e-4)


def test_raw_tensors_are_answered_raw_and_typed_ones_typed(stub: GRPCInferenceServiceStub) -> None:
    response = stub.ModelInfer(grpc_requests.one())
    assert grpc_requests.floats(response) == [1.5]
    response = stub.ModelInfer(grpc_requests.typed("echo", [1.5, 2]))
    assert list(response.raw_output_contents) == []
    assert list(response.outputs[0].contents.fp32_contents) == [1.5, 2]


def test_large_tensors_go_both_ways(stub: GRPCInferenceServiceStub) -> None:
    data = np.random.default_rng(7).random((2, 2**20, 2)).astype("f4")  # 16 MiB
    response = stub.ModelInfer(grpc_requests.raw("echo", x=data))
    assert response.raw_output_contents[0] == data.tobytes()


# --- grpcio -------------------------------------------------------------------------------------


def test_many_calls_at_once(stub: GRPCInferenceServiceStub) -> None:
    futures = [
        stub.ModelInfer.future(grpc_requests.one("echo" if number % 50 else "plodding", number))
        for number in range(500)
    ]
    for number, future in enumerate(futures):
        assert grpc_requests.floats(future.result(timeout=30)) == [number]


async def test_many_calls_at_once_from_asyncio(aio: GRPCInferenceServiceStub) -> None:
    async def ask(number: int) -> list[float]:
        return grpc_requests.floats(await aio.ModelInfer(grpc_requests.one("echo", number)))

    answers = await asyncio.gather(*map(ask, range(300)))
    assert answers == [[float(number)] for number in range(300)]


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate],
                         ids=["gzip", "deflate"])
def test_compressed_messages_are_answered_compressed(
    stub: GRPCInferenceServiceStub, compression: grpc.Compression
) -> None:
    for size in (10, 500, 100_000):
        data = np.arange(size, dtype="f4")
        response, call = stub.ModelInfer.with_call(
            grpc_requests.raw("echo", x=data), compression=compression
        )
        assert response.raw_output_contents[0] == data.tobytes()
        assert dict(call.initial_metadata()) == {}


def test_a_deadline_ends_the_wait_for_a_slow_model(
    stub: GRPCInferenceServiceStub, public: Public
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(grpc_requests.one("gated-2"), timeout=0.2)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    public.open("gated-2")
    assert grpc_requests.floats(stub.ModelInfer(grpc_requests.one("gated-2"), timeout=60)) == [1.5]


def test_a_cancelled_call_leaves_nothing_behind(
    stub: GRPCInferenceServiceStub, public: Public
) -> None:
    """A copy that counted it for ever could never be unloaded."""
    stub.ModelInfer(grpc_requests.one("plodding"))
    futures = [stub.ModelInfer.future(grpc_requests.one("plodding")) for _ in range(50)]
    for future in futures:
        future.cancel()
    stub.RepositoryModelUnload(
        pb.RepositoryModelUnloadRequest(model_name="plodding"), timeout=20
    )
    stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="plodding"))


def test_kserves_form_of_load_and_unload_works(channel: grpc.Channel) -> None:
    for what, fields in (("Load", b"\x12\x05stats"), ("Unload", b"\x12\x05stats")):
        call = channel.unary_unary(f"/inference.GRPCInferenceService/RepositoryModel{what}")
        answer = call(b"\x0a\x05stats")
        assert answer == b"\x0a\x05stats\x10\x01", fields
    channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelLoad")(b"\x0a\x05stats")


# --- what is wrong ------------------------------------------------------------------------------


def test_errors_have_the_words_that_they_have_over_http(
    stub: GRPCInferenceServiceStub, public: Public
) -> None:
    bad = grpc_requests.raw("iris-net", measures=np.zeros((1, 3), "f4"))
    named = grpc_requests.raw("iris-net", sizes=np.zeros((1, 4), "f4"))
    for request, path, given in (
        (grpc_requests.one("nope"), "nope", [1.5]),
        (bad, "iris-net", [0, 0, 0]), (named, "iris-net", [0, 0, 0, 0]),
    ):
        tensor = request.inputs[0]
        answer = public.post(f"/v2/models/{path}/infer", {"inputs": [{
            "name": tensor.name, "datatype": "FP32", "shape": list(tensor.shape), "data": given,
        }]})
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request)
        assert caught.value.details() == answer.json()["error"]
        told = metadata(caught.value)
        assert told["shoal-error-code"] == answer.headers["shoal-error-code"]
        assert told["x-request-id"]


def test_a_model_that_cannot_be_loaded_says_when_to_come_back(
    stub: GRPCInferenceServiceStub,
) -> None:
    with pytest.raises(grpc.RpcError, match="there are no weights") as caught:
        stub.ModelInfer(grpc_requests.one("broken"))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert int(metadata(caught.value)["retry-after"]) >= 0


def test_a_request_id_is_taken_returned_and_logged(
    stub: GRPCInferenceServiceStub, public: Public
) -> None:
    _, call = stub.ModelInfer.with_call(
        grpc_requests.one(), metadata=[("x-request-id", "order-67")]
    )
    assert metadata(call) == {"x-request-id": "order-67"}
    until(
        lambda: any(line.get("request_id") == "order-67" and line.get("protocol") == "grpc"
                    for line in list(public.server.logs)), "its line in the log",
    )
    _, call = stub.ModelInfer.with_call(grpc_requests.one())
    assert metadata(call) == {}


def test_calls_are_counted_by_model_and_code(
    stub: GRPCInferenceServiceStub, public: Public
) -> None:
    def counted(model: str, code: str) -> float:
        page = httpx2.get(public.server.management + "/metrics").text
        series = f'shoal_requests_total{{model="{model}",protocol="grpc",code="{code}"}} '
        return sum(float(line.removeprefix(series)) for line in page.splitlines()
                   if line.startswith(series))

    before = [counted("handled", "200"), counted("_none", "404")]
    for _ in range(3):
        stub.ModelInfer(grpc_requests.one("handled"))
    for name in ("who-is-this", "who is this"):
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(grpc_requests.one(name))
    after = [counted("handled", "200"), counted("_none", "404")]
    assert [b - a for a, b in zip(before, after, strict=True)] == [3, 2]


def test_text_beyond_ascii_survives_in_messages(stub: GRPCInferenceServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(pb.ModelInferRequest(model_name="Käse 100%"))
    assert "there is no model 'Käse 100%'" in caught.value.details()


def test_bytes_that_are_no_message_are_refused(channel: grpc.Channel) -> None:
    for method, data in ((INFER, b"\x0a\xffjunk"), (INFER, b""), (
        "/inference.GRPCInferenceService/ModelReady", b"\x0a\xff"
    )):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(method)(data)
        assert caught.value.code() in (
            grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
        )


def test_unknown_methods_are_unimplemented(channel: grpc.Channel) -> None:
    for path in ("/inference.GRPCInferenceService/Nope", "/nope.Nope/Nope", "/nope"):
        with pytest.raises(grpc.RpcError, match="there is no method") as caught:
            channel.unary_unary(path)(b"")
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_messages_that_are_too_large_are_refused(channel: grpc.Channel) -> None:
    """The server of these tests takes 32 MiB; a compressed one may claim less than it has."""
    large = bytes(33 * 1024**2)
    for compression in (None, grpc.Compression.Gzip):
        with pytest.raises(grpc.RpcError, match=r"grpc\.max_message_bytes") as caught:
            channel.unary_unary(INFER)(large, compression=compression)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    GRPCInferenceServiceStub(channel).ModelInfer(grpc_requests.one())


# --- streams ------------------------------------------------------------------------------------


def test_a_stream_answers_what_is_ready_first(
    stub: GRPCInferenceServiceStub, public: Public
) -> None:
    go = threading.Event()

    def requests() -> Iterator[Any]:
        slow = grpc_requests.one("gated-3")
        slow.id = "slow"
        yield slow
        quick = grpc_requests.one()
        quick.id = "quick"
        yield quick
        go.wait(30)

    answers = stub.ModelStreamInfer(requests())
    assert next(answers).infer_response.id == "quick"
    public.open("gated-3")
    assert next(answers).infer_response.id == "slow"
    go.set()
    assert list(answers) == []


def test_a_stream_may_be_left_at_any_time(stub: GRPCInferenceServiceStub) -> None:
    for _ in range(20):
        answers = stub.ModelStreamInfer(iter([grpc_requests.one("plodding")] * 5))
        next(answers)
        answers.cancel()
    assert grpc_requests.floats(stub.ModelInfer(grpc_requests.one("plodding"))) == [1.5]


def test_a_streams_deadline_ends_it(stub: GRPCInferenceServiceStub) -> None:
    go = threading.Event()

    def requests() -> Iterator[Any]:
        yield grpc_requests.one()
        go.wait(30)

    answers = stub.ModelStreamInfer(requests(), timeout=2)
    assert next(answers).error_message == ""
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    go.set()
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_reader_that_is_slow_holds_up_its_stream_only(stub: GRPCInferenceServiceStub) -> None:
    """More than all windows hold: answers wait, and no more requests are read."""
    data = np.zeros(2**18, "f4")  # 1 MiB
    answers = stub.ModelStreamInfer(grpc_requests.raw("echo", x=data) for _ in range(40))
    assert grpc_requests.floats(stub.ModelInfer(grpc_requests.one())) == [1.5]
    assert sum(answer.error_message == "" for answer in answers) == 40


# --- health and reflection ----------------------------------------------------------------------


def test_health_is_told_of_the_server_its_services_and_models(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "inference.GRPCInferenceService", "grpc.health.v1.Health", "iris-net"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError, match="no service and no model 'nope'") as caught:
        health.Check(health_pb2.HealthCheckRequest(service="nope"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_health_can_be_watched(channel: grpc.Channel, stub: GRPCInferenceServiceStub) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="text"))
    statuses = health.Watch(health_pb2.HealthCheckRequest(service="text"))
    assert next(statuses).status == health_pb2.HealthCheckResponse.SERVING
    stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="text"))
    assert next(statuses).status == health_pb2.HealthCheckResponse.NOT_SERVING
    stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="text"))
    assert next(statuses).status == health_pb2.HealthCheckResponse.SERVING
    statuses.cancel()
    unknown = health.Watch(health_pb2.HealthCheckRequest(service="nope"))
    assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    unknown.cancel()


def test_reflection_describes_what_is_served(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection"} <= services
    service = DescriptorPool(database).FindServiceByName("inference.GRPCInferenceService")
    assert service.methods_by_name["ModelStreamInfer"].client_streaming
    assert "config" in service.methods_by_name["ModelConfig"].output_type.fields_by_name


def test_reflection_says_what_it_does_not_know(channel: grpc.Channel) -> None:
    kind = reflection_pb2.ServerReflectionRequest
    asked = [
        kind(file_containing_symbol="nope.Nope"), kind(file_by_filename="nope.proto"),
        kind(all_extension_numbers_of_type="nope.Nope"), kind(),
    ]
    for version in ("v1", "v1alpha"):
        call = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=kind.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        codes = [answer.error_response.error_code for answer in call(iter(asked))]
        assert codes == [5, 5, 5, 3]
    assert reflection_pb2_grpc.ServerReflectionStub(channel)


# --- others -------------------------------------------------------------------------------------


async def test_grpclib_asks_and_is_refused(public: Public) -> None:
    host, _, port = public.server.grpc.rpartition(":")
    channel = GrpclibChannel(host, int(port))
    try:
        infer: UnaryUnaryMethod[Any, Any] = UnaryUnaryMethod(
            channel, INFER, pb.ModelInferRequest, pb.ModelInferResponse
        )
        answers = await asyncio.gather(
            *(infer(grpc_requests.one("echo", number)) for number in range(50))
        )
        assert [grpc_requests.floats(answer) for answer in answers] == [
            [float(number)] for number in range(50)
        ]
        with pytest.raises(GRPCError, match="model 'nope' is not registered"):
            await infer(grpc_requests.one("nope"))
    finally:
        channel.close()


@pytest.fixture
def body(tmp_path: Path) -> Path:
    path = tmp_path / "request"
    message = grpc_requests.one().SerializeToString()
    path.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    return path


def test_h2load_gets_only_good_answers(public: Public, body: Path, stub: Any) -> None:
    stub.ModelInfer(grpc_requests.one())
    done = subprocess.run(
        [str(shutil.which("h2load")), "-n", "2000", "-c", "4", "-m", "8", "-d", str(body),
         "-H", "content-type: application/grpc", "-H", "te: trailers",
         f"http://{public.server.grpc}{INFER}"],
        capture_output=True, text=True, timeout=60, check=True,
    )
    assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout
    assert "2000 2xx" in done.stdout


def test_nghttp_sees_status_and_trailers(public: Public, body: Path) -> None:
    done = subprocess.run(
        [str(shutil.which("nghttp")), "-v", "-d", str(body), "-H", ":method: POST",
         "-H", "content-type: application/grpc", f"http://{public.server.grpc}{INFER}"],
        capture_output=True, encoding="utf-8", errors="replace", timeout=60, check=True,
    )
    assert "content-type: application/grpc" in done.stdout
    assert "grpc-status: 0" in done.stdout
