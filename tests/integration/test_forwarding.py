"""Requests that are answered by another instance than the one they came to, over real sockets.

Their answers are those that the other instance gives to its own clients.
"""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
import structlog
from tests import grpc_requests, odd_models
from tests.linked import PATIENCE_S, Linked, Node, linked
from tests.running_server import read_all
from tests.served import until
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from shoal.node.elsewhere import Elsewhere
from shoal.settings import LogSettings, Settings

ONE = json.dumps(odd_models.ONE).encode()
MIB = 1024**2

MODELS = {
    "echo": odd_models.ECHO, "pair": odd_models.PAIR, "wrong": odd_models.WRONG,
    "text": odd_models.TEXT, "gated": odd_models.GATED, "gated-2": odd_models.GATED,
    "gated-3": odd_models.GATED, "broken": odd_models.BROKEN, "stats": odd_models.ECHO,
    "counted": odd_models.ECHO, "stale": odd_models.ECHO,
}


def write(folder: Path, name: str, source: str, more: str = "") -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "model.py").write_text(dedent(source).lstrip())
    if more:
        (folder / name / "model.yaml").write_text(more)


class Mesh(NamedTuple):
    linked: Linked
    folder: Path

    @property
    def entry(self) -> Node:
        return self.linked.entry

    @property
    def other(self) -> Node:
        return self.linked.nodes[1]

    def open(self, model: str) -> None:
        """The gate for which `model` waits."""
        (self.folder / model / "go").touch()

    def begun(self, node: Node, model: str) -> Callable[[], bool]:
        """Does a request for it run there now?"""
        return lambda: any(
            copy.revision.model == model and copy.in_flight
            for copy in list(node.instance.live.values())
        )


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    base = tmp_path_factory.mktemp("mesh")
    for name, source in MODELS.items():
        write(base / "models", name, source)
    with linked(base / "models", base) as found:
        made = Mesh(found, base / "models")
        yield made
        made.open("gated-3")
        assert [node.errors for node in found.nodes] == [[], []]


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Mesh]:
    """An entry and two others, which a test may harm."""
    write(tmp_path / "models", "gated", odd_models.GATED)
    write(tmp_path / "models", "once", odd_models.GATED, "repeatable: false\n")
    write(tmp_path / "models", "echo", odd_models.ECHO)
    with linked(tmp_path / "models", tmp_path, others=2) as found:
        yield Mesh(found, tmp_path / "models")
        assert [node.errors for node in found.nodes] == [[], [], []]


# --- HTTP ---------------------------------------------------------------------------------------


def connected(node: Node) -> socket.socket:
    return socket.create_connection(node.http.address, PATIENCE_S)


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: x", "connection: close", *headers]
    return ("\r\n".join([*lines, f"content-length: {len(body)}", "", ""])).encode() + body


def infer(model: str, body: bytes = ONE, *headers: str) -> bytes:
    return request("POST", f"/v2/models/{model}/infer", body, *headers)


def asked(node: Node, stream: bytes) -> bytes:
    """All that comes back, but for the date."""
    with connected(node) as sock:
        sock.sendall(stream)
        answer = read_all(sock)
    head, end, body = answer.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"date:")]
    return b"\r\n".join(lines) + end + body


def status(answer: bytes) -> int:
    return int(answer.split()[1])


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


def tensor(name: str, array: Any, **parameters: object) -> dict[str, object]:
    return {
        "name": name, "shape": list(array.shape), "datatype": grpc_requests.datatype_of(array),
        "parameters": {"binary_data_size": array.nbytes, **parameters},
    }


def binary(array: Any, *, answer: bool) -> tuple[bytes, int]:
    """A request with raw tensors, and the length of its JSON."""
    head = json.dumps({
        "inputs": [tensor("x", array)], "parameters": {"binary_data_output": answer},
    }).encode()
    return head + array.tobytes(), len(head)


def pair(**parameters: object) -> bytes:
    return json.dumps({"parameters": parameters, "id": "a1", "inputs": [
        {"name": "left", "datatype": "INT64", "shape": [2, 2], "data": [[1, 2], [3, 4]]},
        {"name": "right", "datatype": "FP32", "shape": [2], "data": [0.5, 0.25]},
    ]}).encode()


ROWS, JSON_BYTES = binary(np.arange(6, dtype="f4").reshape(2, 3), answer=True)
LONG = json.dumps({"inputs": [
    {"name": "x", "datatype": "FP32", "shape": [3000], "data": [1.5] * 3000}
]}).encode()
WRONG = {do: json.dumps({**odd_models.ONE, "parameters": {"do": do}}).encode()
         for do in ("raise", "refuse", "nothing", "nan")}
ID = "x-request-id: of-mine"

EQUAL = {
    "v2": infer("echo"),
    "v2-several-outputs": infer("pair", pair(kind="plain")),
    "v2-one-output": infer("pair", json.dumps(
        {**json.loads(pair()), "outputs": [{"name": "sum"}]}).encode()),
    "v2-with-a-version": request("POST", "/v2/models/echo/versions/1/infer", ONE),
    "v2-with-a-query": request("POST", "/v2/models/echo/infer?a=b", ONE),
    "v2-raw-tensors": infer("echo", ROWS, f"inference-header-content-length: {JSON_BYTES}"),
    "v2-text": infer("text", json.dumps({"inputs": [
        {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["Häring", "🐟"]}]}).encode()),
    "v2-with-an-id": infer("echo", ONE, ID),
    "v2-compressed": infer("echo", gzip.compress(LONG), "content-encoding: gzip"),
    "v2-answered-compressed": infer("echo", LONG, "accept-encoding: gzip", ID),
    "v2-with-odd-headers": infer("echo", ONE, "x-odd: \x7e\x21", "cookie: a=1; b=2", "x-empty:"),
    "v2-in-chunks": request("POST", "/v2/models/echo/infer")
    .replace(b"content-length: 0\r\n", b"transfer-encoding: chunked\r\n")
    + b"%x\r\n%b\r\n0\r\n\r\n" % (len(ONE), ONE),
    "v1": request("POST", "/v1/models/wrong:predict", b'{"instances": [1.5, 2.5]}'),
    "v1-with-a-version": request(
        "POST", "/v1/models/wrong/versions/1:predict", b'{"instances": [1]}'),
    "with-time-enough": infer("echo", ONE, "shoal-timeout-ms: 30000"),
    "metadata": request("GET", "/v2/models/pair"),
    "metadata-without-its-body": request("HEAD", "/v2/models/pair"),
    "metadata-with-an-id": request("GET", "/v2/models/pair/versions/1", b"", ID),
    "metadata-of-a-model-called-stats": request("GET", "/v2/models/stats"),
    "config": request("GET", "/v2/models/pair/config"),
    "model-raises": infer("wrong", WRONG["raise"], ID),
    "model-refuses": infer("wrong", WRONG["refuse"], ID),
    "model-answers-nothing": infer("wrong", WRONG["nothing"], ID),
    "answer-cannot-be-written": infer("wrong", WRONG["nan"], ID),
    "no-json": infer("echo", b"{", ID),
    "input-missing": infer("pair", ONE, ID),
    "output-unknown": infer("pair", json.dumps(
        {**json.loads(pair()), "outputs": [{"name": "nope"}]}).encode(), ID),
    "no-gzip": infer("echo", b"no gzip", "content-encoding: gzip", ID),
    "v1-raises": request("POST", "/v1/models/wrong:predict", b'{"instances": ["a"]}', ID),
    "no-time": infer("echo", ONE, "shoal-timeout-ms: 0", ID),
    "wrong-time": infer("echo", ONE, "shoal-timeout-ms: soon", ID),
    "no-version": request("POST", "/v2/models/echo/versions/7/infer", ONE, ID),
    "no-model": infer("nope", ONE, ID),
}  # fmt: skip


@pytest.mark.parametrize("case", EQUAL)
def test_an_answer_over_http_is_what_its_instance_answers_itself(mesh: Mesh, case: str) -> None:
    stream = EQUAL[case]
    for _ in range(3):  # loaded for it; known; with a head that came before
        forwarded = asked(mesh.entry, stream)
    assert forwarded == asked(mesh.other, stream)
    assert not mesh.entry.instance.live


def test_most_of_these_are_forwarded(mesh: Mesh) -> None:
    before = mesh.entry.instance.metrics.forwarded["answered"]
    assert status(asked(mesh.entry, infer("echo"))) == 200
    assert mesh.entry.instance.metrics.forwarded["answered"] == before + 1


def test_a_load_that_fails_is_told_by_the_entry(mesh: Mesh) -> None:
    answer = asked(mesh.entry, infer("broken"))
    assert status(answer) == 503
    assert b"there are no weights" in body_of(answer)
    assert b"shoal-error-code: LOAD_FAILED" in answer


def test_large_bodies_pass_unharmed(mesh: Mesh) -> None:
    numbers = np.random.default_rng(1).random(2 * MIB)
    body, size = binary(numbers, answer=True)
    stream = infer("echo", body, f"inference-header-content-length: {size}")
    answer = asked(mesh.entry, stream)
    assert status(answer) == 200
    assert body_of(answer).endswith(numbers.tobytes())
    assert answer == asked(mesh.other, stream)


def test_pipelined_requests_are_answered_in_their_order(mesh: Mesh) -> None:
    bodies = [json.dumps({"inputs": [
        {"name": "x", "datatype": "INT64", "shape": [1], "data": [number]}]}).encode()
        for number in range(30)]
    streams = [infer("echo", body) for body in bodies]
    whole = b"".join(stream.replace(b"connection: close\r\n", b"") for stream in streams[:-1])
    with connected(mesh.entry) as sock:
        sock.sendall(whole + streams[-1])
        answers = read_all(sock)
    found = [int(part.partition(b"]")[0]) for part in answers.split(b'"data":[')[1:]]
    assert found == list(range(30))


# --- gRPC ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stubs(mesh: Mesh) -> Iterator[list[GRPCInferenceServiceStub]]:
    """Of the entry, and of the other instance."""
    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    channels = [
        grpc.insecure_channel("{}:{}".format(*node.grpc.address), options=limits)
        for node in (mesh.entry, mesh.other)
    ]
    yield [GRPCInferenceServiceStub(channel) for channel in channels]
    for channel in channels:
        channel.close()


def raw_pair() -> Any:
    message = grpc_requests.raw("pair", left=np.array([[1, 2]]), right=np.array([0.5], "f4"))
    message.id = "a1"
    message.parameters["kind"].string_param = "plain"
    return message


def wrong(do: str) -> Any:
    message = grpc_requests.one("wrong")
    message.parameters["do"].string_param = do
    return message


CALLS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "raw": ("ModelInfer", grpc_requests.one("echo"), {}),
    "raw-several": ("ModelInfer", raw_pair(), {}),
    "typed": ("ModelInfer", grpc_requests.typed("echo", [1.5, 2.5]), {}),
    "with-an-id": ("ModelInfer", grpc_requests.one("echo"), {
        "metadata": [("x-request-id", "of-mine"), ("x-odd-bin", b"\0\xff")]}),
    "with-time-enough": ("ModelInfer", grpc_requests.one("echo"), {"timeout": 30.0}),
    "compressed": ("ModelInfer", grpc_requests.typed("echo", [1.5] * 3000), {
        "compression": grpc.Compression.Gzip}),
    "metadata": ("ModelMetadata", pb.ModelMetadataRequest(name="pair"), {}),
    "config": ("ModelConfig", pb.ModelConfigRequest(name="pair"), {}),
    "ready": ("ModelReady", pb.ModelReadyRequest(name="pair"), {}),
    "model-raises": ("ModelInfer", wrong("raise"), {}),
    "model-refuses": ("ModelInfer", wrong("refuse"), {}),
    "input-missing": ("ModelInfer", grpc_requests.one("pair"), {}),
    "no-version": ("ModelInfer", pb.ModelInferRequest(model_name="echo", model_version="7"), {}),
    "no-model": ("ModelInfer", grpc_requests.one("nope"), {}),
}  # fmt: skip


def called(stub: GRPCInferenceServiceStub, method: str, message: Any, more: dict[str, Any]
           ) -> tuple[Any, ...]:
    """Answer or error, and the metadata; requests without an id get one only when they fail."""
    metadata = [*more.get("metadata", ()), ("x-request-id", "of-mine")]
    try:
        answer, call = getattr(stub, method).with_call(message, **{**more, "metadata": metadata})
    except grpc.RpcError as failed:
        error: Any = failed
        return error.code(), error.details(), sorted(error.trailing_metadata())
    return answer.SerializeToString(deterministic=True), sorted(call.trailing_metadata())


@pytest.mark.parametrize("case", CALLS)
def test_an_answer_over_grpc_is_what_its_instance_answers_itself(
    mesh: Mesh, stubs: list[GRPCInferenceServiceStub], case: str
) -> None:
    for _ in range(2):
        forwarded = called(stubs[0], *CALLS[case])
    assert forwarded == called(stubs[1], *CALLS[case])
    assert not mesh.entry.instance.live


def test_large_messages_pass_unharmed(stubs: list[GRPCInferenceServiceStub]) -> None:
    message = grpc_requests.raw("echo", x=np.random.default_rng(2).random(2 * MIB))
    assert stubs[0].ModelInfer(message) == stubs[1].ModelInfer(message)


def test_streams_are_answered_message_by_message(stubs: list[GRPCInferenceServiceStub]) -> None:
    messages = [raw_pair(), grpc_requests.one("echo"), wrong("raise"), grpc_requests.one("nope"),
                grpc_requests.typed("echo", [3.0])]
    for number, message in enumerate(messages):
        message.id = str(number)

    def answers(stub: GRPCInferenceServiceStub) -> list[bytes]:
        return sorted(answer.SerializeToString(deterministic=True)
                      for answer in stub.ModelStreamInfer(iter(messages), timeout=PATIENCE_S))

    assert answers(stubs[0]) == answers(stubs[1])


def test_the_time_of_a_stream_is_that_of_its_requests_elsewhere(
    stubs: list[GRPCInferenceServiceStub]
) -> None:
    """The gate stays closed."""
    with pytest.raises(grpc.RpcError) as failed:
        list(stubs[0].ModelStreamInfer(iter([grpc_requests.one("gated-3")]), timeout=0.3))
    error: Any = failed.value
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


# --- time, and clients that leave ---------------------------------------------------------------


def test_a_deadline_holds_wherever_the_request_is(mesh: Mesh) -> None:
    asked(mesh.entry, request("GET", "/v2/models/gated-3"))  # loaded
    started = time.monotonic()
    answer = asked(mesh.entry, infer("gated-3", ONE, "shoal-timeout-ms: 150"))
    assert status(answer) == 504
    assert b"did not answer within 0.1" in body_of(answer)
    assert time.monotonic() - started < 5


def test_a_grpc_deadline_holds_wherever_the_call_is(stubs: list[GRPCInferenceServiceStub]) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        stubs[0].ModelInfer(grpc_requests.one("gated-3"), timeout=0.2)
    error: Any = failed.value
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_client_that_leaves_ends_its_request_elsewhere(mesh: Mesh) -> None:
    forwarding = mesh.entry.instance.metrics.forwarded
    before = forwarding["cancelled"]
    with connected(mesh.entry) as sock:
        sock.sendall(infer("gated-2"))
        until(mesh.begun(mesh.other, "gated-2"), "the request runs")
    until(lambda: forwarding["cancelled"] == before + 1, "it is called back")
    mesh.open("gated-2")
    until(lambda: not mesh.begun(mesh.other, "gated-2")(), "nothing holds the copy")


# --- instances that fail ------------------------------------------------------------------------


def later(node: Node, stream: bytes) -> tuple[threading.Thread, list[bytes]]:
    answers: list[bytes] = []
    thread = threading.Thread(target=lambda: answers.append(asked(node, stream)))
    thread.start()
    return thread, answers


def test_a_request_whose_instance_dies_is_answered_by_another(three: Mesh) -> None:
    thread, answers = later(three.entry, infer("gated"))
    until(lambda: any(three.begun(node, "gated")() for node in three.linked.nodes), "it runs")
    dying = three.linked.holder("gated")
    three.linked.run(dying.die())
    (living,) = [node for node in three.linked.nodes[1:] if node is not dying]
    until(three.begun(living, "gated"), "it runs on the other one")
    three.open("gated")
    thread.join(PATIENCE_S)
    assert status(answers[0]) == 200
    metrics = three.entry.instance.metrics
    assert (metrics.forwarded["lost"], metrics.forward_retries) == (1, 1)


def test_what_must_not_run_twice_is_not_tried_again(three: Mesh) -> None:
    thread, answers = later(three.entry, infer("once"))
    until(lambda: any(three.begun(node, "once")() for node in three.linked.nodes), "it runs")
    three.linked.run(three.linked.holder("once").die())
    thread.join(PATIENCE_S)
    assert status(answers[0]) == 503
    assert b"is not 'repeatable', so it was not tried again" in body_of(answers[0])
    three.open("once")


def test_an_instance_that_leaves_gets_no_new_requests_and_answers_old_ones(three: Mesh) -> None:
    thread, answers = later(three.entry, infer("gated"))
    until(lambda: any(three.begun(node, "gated")() for node in three.linked.nodes), "it runs")
    leaving = three.linked.holder("gated")
    ended = threading.Thread(
        target=lambda: three.linked.run(leaving.peers.shutdown(PATIENCE_S)))
    ended.start()
    until(lambda: three.entry.links.link(leaving.name) is None, "the entry knows")
    three.open("gated")
    thread.join(PATIENCE_S)
    ended.join(PATIENCE_S)
    assert status(answers[0]) == 200
    assert status(asked(three.entry, infer("gated"))) == 200


def test_a_stale_hint_costs_a_detour_and_nothing_else(mesh: Mesh) -> None:
    metrics = mesh.entry.instance.metrics
    before = metrics.forwarded["miss"]
    assert status(asked(mesh.entry, infer("stale"))) == 200

    async def mislead() -> None:
        mesh.entry.instance.tables.route_elsewhere(
            "stale", None, Elsewhere("stale@1-0123456789ab", (mesh.other.name,)))

    mesh.linked.run(mislead())
    assert status(asked(mesh.entry, infer("stale"))) == 200
    assert metrics.forwarded["miss"] == before + 1
    assert mesh.other.instance.metrics.received["miss"] >= 1


# --- counts and logs ----------------------------------------------------------------------------


def test_a_request_counts_once_where_it_came_and_its_model_where_it_ran(mesh: Mesh) -> None:
    entry, other = mesh.entry.instance, mesh.other.instance
    asked(mesh.entry, infer("counted"))
    before = [(each.activity.requests, each.activity.failed) for each in (entry, other)]
    cold = entry.activity.cold
    for _ in range(3):
        asked(mesh.entry, infer("counted"))
    asked(mesh.entry, infer("counted", b"{"))
    after = [(each.activity.requests, each.activity.failed) for each in (entry, other)]
    assert after == [(before[0][0] + 4, before[0][1] + 1), before[1]]
    assert entry.activity.cold == cold
    assert not entry.metrics.model("counted").requests
    assert other.metrics.model("counted").requests == {("v2", "200"): 4, ("v2", "400"): 1}


def test_both_instances_log_a_request_under_one_id(tmp_path: Path) -> None:
    write(tmp_path / "models", "echo", odd_models.ECHO)
    settings = Settings(log=LogSettings(requests=True))
    with linked(tmp_path / "models", tmp_path, settings=settings) as found:
        with structlog.testing.capture_logs() as lines:
            asked(found.entry, infer("echo"))
            asked(found.entry, infer("echo"))
        requests = [line for line in lines if line["event"] == "request"]
    assert [line.get("forwarded_from") for line in requests] == ["n0", None, "n0", None]
    assert [line.get("forwarded_to") for line in requests] == [None, "n1", None, "n1"]
    ids = [line["request_id"] for line in requests]
    assert ids[0] == ids[1] != ids[2] == ids[3]
    assert {line["code"] for line in requests} == {200}
