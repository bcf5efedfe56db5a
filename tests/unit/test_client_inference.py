"""`shoal.Client` and `shoal.AsyncClient` against a real HTTP server with prepared answers."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
from collections.abc import Iterator

import msgspec
import numpy as np
import pandas as pd
import pytest
from tests.canned_server import Canned, CannedServer, canned_server, json_of
from tests.ports import HeldPort
from tests.served import until

import shoal
from shoal.client import ConnectionFailed, Retry, UnexpectedAnswer, calls
from shoal.codecs.message import InferRequest, InferResponse
from shoal.codecs.v2 import decode_request, encode_response
from shoal.codecs.v2_client import HEADER_LENGTH, tensor_of
from shoal.domain.errors import (
    DeadlineExceeded,
    InvalidInput,
    InvalidRequest,
    InvalidSpecification,
    ModelNotFound,
    NoRoom,
)

INFER = "POST /v2/models/iris/infer"
QUICK = Retry(base_s=0.001)
METADATA = {
    "name": "iris",
    "versions": ["1"],
    "platform": "onnx",
    "inputs": [{"name": "rows", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [],
}


@pytest.fixture
def client(server: CannedServer) -> Iterator[shoal.Client]:
    with shoal.Client(server.url, management=server.url, timeout_s=5, retry=QUICK) as client:
        yield client


def answer(**outputs: object) -> Canned:
    """A response in the binary extension."""
    tensors = [tensor_of(name, values) for name, values in outputs.items()]
    response = InferResponse("iris", "3", tensors, "id-1", {"took": 2})
    parts, length = encode_response(
        response, InferRequest([], parameters={"binary_data_output": True})
    )
    return Canned(200, b"".join(parts), {HEADER_LENGTH: str(length)})


def received(server: CannedServer, index: int = -1) -> InferRequest:
    asked = server.asked[index]
    length = asked.headers.get(HEADER_LENGTH)
    return decode_request(asked.body, None if length is None else int(length))


def test_arrays_go_in_and_come_out(server: CannedServer, client: shoal.Client) -> None:
    server.answers(INFER, answer(label=[1, 0], score=[[0.25], [0.75]]))
    result = client.infer("iris", {"x": np.array([[1, 2]], np.float32)}, id="id-1")
    assert result["label"].tolist() == [1, 0]
    assert result.outputs["score"].shape == (2, 1)
    assert (result.model, result.model_version, result.id) == ("iris", "3", "id-1")
    assert result.parameters == {"took": 2}
    [tensor] = received(server).inputs
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x", "FP32", (1, 2))


def test_wishes_travel_with_the_request(server: CannedServer, client: shoal.Client) -> None:
    server.answers("POST /v2/models/iris/versions/3/infer", answer(y=[1]))
    array = client.infer(
        "iris", {"x": np.array([1])}, version=3, outputs=["y"], parameters={"depth": 4}, id="r"
    ).array
    assert array.tolist() == [1]
    request = received(server)
    assert request.id == "r"
    assert request.parameters["depth"] == 4
    assert [output.name for output in request.outputs] == ["y"]


def test_json_is_sent_when_binary_is_off(server: CannedServer) -> None:
    server.answers(INFER, json_of({"outputs": [
        {"name": "y", "datatype": "INT64", "shape": [1], "data": [7]}
    ]}))  # fmt: skip
    with shoal.Client(server.url) as client:
        assert client.infer("iris", {"x": np.array([1])}, binary=False).array.tolist() == [7]
    assert server.asked[0].headers["content-type"] == "application/json"
    assert HEADER_LENGTH not in server.asked[0].headers


def test_array_is_refused_when_there_are_several_outputs(
    server: CannedServer, client: shoal.Client
) -> None:
    server.answers(INFER, answer(label=[1], score=[1.0]))
    result = client.infer("iris", {"x": np.array([1])})
    with pytest.raises(ValueError, match=r"label, score.*result\[name\]"):
        _ = result.array
    with pytest.raises(KeyError, match="there are label, score"):
        result["other"]


def test_bare_values_take_name_and_datatype_from_the_metadata(
    server: CannedServer, client: shoal.Client
) -> None:
    server.answers("GET /v2/models/iris", json_of(METADATA))
    server.answers(INFER, answer(y=[1]))
    for _ in range(2):
        client.infer("iris", [[1, 2]])
        [tensor] = received(server).inputs
        assert (tensor.name, tensor.datatype) == ("rows", "FP32")
    assert [asked.method for asked in server.asked] == ["GET", "POST", "POST"]


def test_metadata_that_no_longer_holds_is_fetched_anew(
    server: CannedServer, client: shoal.Client
) -> None:
    renamed = {**METADATA, "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1]}]}
    server.answers("GET /v2/models/iris", json_of(METADATA), json_of(renamed))
    refused = json_of({"error": "unknown input 'rows'"}, 400, shoal_error_code="INVALID_INPUT")
    server.answers(INFER, answer(y=[1]), refused, answer(y=[2]))
    assert client.infer("iris", [[1, 2]]).array.tolist() == [1]
    assert client.infer("iris", [[1, 2]]).array.tolist() == [2]
    [tensor] = received(server).inputs
    assert (tensor.name, tensor.datatype) == ("x", "FP64")


def test_a_wrong_request_is_not_repeated_for_ever(
    server: CannedServer, client: shoal.Client
) -> None:
    server.answers("GET /v2/models/iris", json_of(METADATA))
    server.answers(INFER, json_of({"error": "input 'rows' has the wrong shape"}, 400))
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="wrong shape"):
            client.infer("iris", [[1, 2]])
    assert len(server.asked) == 5  # twice the metadata, and once more the request


def test_bare_values_for_several_inputs_are_refused(
    server: CannedServer, client: shoal.Client
) -> None:
    two = [{"name": name, "datatype": "FP32", "shape": [-1]} for name in ("a", "b")]
    server.answers("GET /v2/models/iris", json_of({**METADATA, "inputs": two}))
    with pytest.raises(InvalidInput, match=r"takes 2 inputs \('a', 'b'\); give a dict"):
        client.infer("iris", np.array([1.0]))


def test_bare_values_for_a_model_that_tells_no_inputs_are_refused(
    server: CannedServer, client: shoal.Client
) -> None:
    server.answers("GET /v2/models/iris", json_of({**METADATA, "inputs": []}))
    with pytest.raises(InvalidInput, match="tells no inputs; give a dict"):
        client.infer("iris", np.array([1.0]))


def test_no_inputs_are_refused_before_anything_is_sent(
    server: CannedServer, client: shoal.Client
) -> None:
    with pytest.raises(InvalidInput, match="at least one"):
        client.infer("iris", {})
    assert server.asked == []


def test_a_data_frame_goes_as_columns(server: CannedServer, client: shoal.Client) -> None:
    server.answers(INFER, answer(y=[1, 2]))
    frame = pd.DataFrame(
        {
            "age": [30, 40],
            "income": [1.5, None],
            "city": ["Bonn", "Köln"],
            "member": [True, False],
            "kids": pd.array([1, None], dtype="Int64"),
            "kind": pd.Categorical(["a", "b"]),
        }
    )
    client.infer("iris", frame)
    request = received(server)
    assert request.parameters["content_type"] == "pd"
    assert {t.name: t.datatype for t in request.inputs} == {
        "age": "INT64", "income": "FP64", "city": "BYTES", "member": "BOOL", "kids": "FP64",
        "kind": "BYTES",
    }  # fmt: skip
    assert all(tensor.shape == (2, 1) for tensor in request.inputs)
    columns = {tensor.name: tensor.data.ravel().tolist() for tensor in request.inputs}
    assert columns["city"] == [b"Bonn", "Köln".encode()]
    assert np.isnan(columns["kids"][1])


@pytest.mark.parametrize(
    ("column", "complaint"),
    [
        (["a", None], "'c'.*missing values"),
        (pd.to_datetime(["2026-01-01", "2026-01-02"]), "'c' holds times"),
    ],
)
def test_a_column_that_cannot_be_sent_is_named(
    client: shoal.Client, column: object, complaint: str
) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        client.infer("iris", pd.DataFrame({"c": column}))


def test_v1_sends_rows_and_returns_predictions(
    server: CannedServer, client: shoal.Client
) -> None:
    server.answers("POST /v1/models/iris:predict", json_of({"predictions": [1, 0]}))
    assert client.predict("iris", np.array([[1.0], [2.0]])) == [1, 0]
    assert server.asked[0].json == {"instances": [[1.0], [2.0]]}
    client.predict("iris", {"a": [1, 2]})
    assert server.asked[1].json == {"inputs": {"a": [1, 2]}}


def test_v1_refuses_what_json_cannot_say(client: shoal.Client) -> None:
    with pytest.raises(InvalidInput, match="cannot be written as JSON"):
        client.predict("iris", [object()])


def test_readiness_is_yes_or_no_and_liveness_too(
    server: CannedServer, client: shoal.Client
) -> None:
    server.answers("GET /v2/health/live", Canned())
    server.answers("GET /v2/health/ready", Canned(503))
    server.answers("GET /v2/models/iris/ready", Canned(503), Canned(200))
    assert client.server_live() is True
    assert client.server_ready() is False
    assert client.model_ready("iris") is False
    assert client.model_ready("iris") is True


def test_asking_whether_an_unknown_model_is_ready_is_an_error(
    server: CannedServer, client: shoal.Client
) -> None:
    server.answers(
        "GET /v2/models/iris/ready",
        json_of({"error": "unknown"}, 404, shoal_error_code="MODEL_NOT_FOUND"),
    )
    with pytest.raises(ModelNotFound):
        client.model_ready("iris")


def test_metadata_is_typed(server: CannedServer, client: shoal.Client) -> None:
    server.answers("GET /v2", json_of({"name": "shoal", "version": "1", "extensions": ["x"]}))
    server.answers("GET /v2/models/iris/versions/2", json_of(METADATA))
    assert client.server_metadata().extensions == ["x"]
    assert client.model_metadata("iris", 2).inputs[0].shape == [-1, 2]


def test_names_are_encoded_in_paths(server: CannedServer, client: shoal.Client) -> None:
    server.answers("GET /v2/models/a%2Fb%3Fc/ready", Canned())
    assert client.model_ready("a/b?c")


def test_a_lost_connection_is_repaired(server: CannedServer, client: shoal.Client) -> None:
    server.answers(INFER, Canned(drop=True), Canned(503), answer(y=[5]))
    assert client.infer("iris", {"x": np.array([1])}).array.tolist() == [5]


def test_what_must_not_run_twice_is_not_repeated(
    server: CannedServer, client: shoal.Client
) -> None:
    server.answers(INFER, Canned(drop=True), answer(y=[5]))
    with pytest.raises(ConnectionFailed, match="may have taken effect"):
        client.infer("iris", {"x": np.array([1])}, repeatable=False)
    assert len(server.asked) == 1


def test_no_room_names_its_time(server: CannedServer, client: shoal.Client) -> None:
    server.answers(
        INFER, json_of({"error": "full", "code": "NO_ROOM"}, 503, retry_after="30")
    )
    with pytest.raises(NoRoom) as caught:
        client.infer("iris", {"x": np.array([1])})
    assert caught.value.retry_after_s == 30.0


def test_an_answer_that_is_late_is_a_deadline_exceeded(
    server: CannedServer, client: shoal.Client
) -> None:
    release = threading.Event()
    server.answers(INFER, Canned(hold=release))
    try:
        with pytest.raises(DeadlineExceeded, match="no answer within"):
            client.infer("iris", {"x": np.array([1])}, timeout_s=0.05)
    finally:
        release.set()


def test_the_server_is_told_how_long_it_has(server: CannedServer, client: shoal.Client) -> None:
    server.answers(INFER, answer(y=[1]))
    client.infer("iris", {"x": np.array([1])}, timeout_s=2)
    assert 1000 < int(server.asked[0].headers["shoal-timeout-ms"]) < 2000


def test_an_answer_of_another_program_is_recognised(
    server: CannedServer, client: shoal.Client
) -> None:
    server.answers(INFER, Canned(200, b"<html>welcome</html>"))
    server.answers("GET /v2", Canned(200, b"<html>welcome</html>"))
    server.answers("POST /v1/models/iris:predict", json_of({"other": 1}))
    with pytest.raises(UnexpectedAnswer, match="cannot be read"):
        client.infer("iris", {"x": np.array([1])})
    with pytest.raises(UnexpectedAnswer, match="cannot be read"):
        client.server_metadata()
    with pytest.raises(UnexpectedAnswer, match="no list of predictions"):
        client.predict("iris", [1])


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody listens."""
    with HeldPort() as unused:
        yield f"http://127.0.0.1:{unused}"


def test_no_server_is_a_clear_error(nobody: str) -> None:
    with (
        shoal.Client(nobody, retry=Retry(attempts=2, base_s=0.001)) as client,
        pytest.raises(ConnectionFailed, match=r"cannot connect to .*that the server runs"),
    ):
        client.server_live()


def test_the_error_names_all_servers_when_none_is_there(nobody: str) -> None:
    with (
        shoal.Client([nobody, "http://127.0.0.1:1"], retry=Retry(attempts=1)) as client,
        pytest.raises(ConnectionFailed, match="none of 2 servers could answer") as caught,
    ):
        client.server_live()
    for address in (nobody, "http://127.0.0.1:1"):
        assert f"{address} (cannot connect: " in caught.value.message


def test_another_server_answers_for_one_that_hangs_up(
    server: CannedServer, nobody: str
) -> None:
    server.answers(INFER, answer(y=[5]))
    with canned_server() as other, shoal.Client([nobody, other.url, server.url]) as client:
        other.answers(INFER, Canned(drop=True))
        for _ in range(3):
            assert client.infer("iris", {"x": np.array([1])}).array.tolist() == [5]
    assert len(other.asked) == 1


def test_headers_of_the_client_go_with_every_request(server: CannedServer) -> None:
    server.answers("GET /v2/health/live", Canned())
    with shoal.Client(server.url, headers={"Authorization": "Bearer x"}) as client:
        client.server_live()
    assert server.asked[0].headers["authorization"] == "Bearer x"
    assert server.asked[0].headers["user-agent"].startswith("shoal/")


# --- asyncio ------------------------------------------------------------------------------------


async def test_the_async_client_infers_too(server: CannedServer) -> None:
    server.answers("GET /v2/models/iris", json_of(METADATA))
    server.answers(INFER, Canned(drop=True), answer(y=[[0.5]]))
    async with shoal.AsyncClient(server.url, timeout_s=5, retry=QUICK) as client:
        result = await client.infer("iris", [[1, 2]])
    assert result.array.tolist() == [[0.5]]


async def test_the_async_client_keeps_its_deadline(server: CannedServer) -> None:
    release = threading.Event()
    server.answers(INFER, Canned(hold=release))
    async with shoal.AsyncClient(server.url) as client:
        try:
            with pytest.raises(DeadlineExceeded, match="no answer within"):
                await client.infer("iris", {"x": np.array([1])}, timeout_s=0.05)
        finally:
            release.set()


async def test_the_async_client_reports_a_missing_server(nobody: str) -> None:
    async with shoal.AsyncClient(nobody, retry=Retry(attempts=2, base_s=0.001)) as client:
        with pytest.raises(ConnectionFailed, match="cannot connect"):
            await client.server_live()


async def test_a_cancelled_call_is_no_longer_in_flight(server: CannedServer) -> None:
    release = threading.Event()
    with canned_server() as other:
        for each in (server, other):
            each.answers("GET /v2/health/live", Canned())
        server.answers(INFER, Canned(hold=release))
        once = Retry(attempts=1, random=lambda: 0.0)
        async with shoal.AsyncClient([server.url, other.url], retry=once) as client:
            held = asyncio.create_task(client.infer("iris", {"x": np.array([1])}))
            await asyncio.to_thread(until, lambda: server.asked, "a request")
            held.cancel()
            await asyncio.wait([held])
            release.set()
            for _ in range(4):
                await client.server_live()
    assert [len(each.asked) for each in (server, other)] == [1 + 2, 2]


async def test_the_async_client_raises_typed_errors(server: CannedServer) -> None:
    server.answers(
        "POST /v1/models/iris:predict",
        json_of({"error": "unknown"}, 404, shoal_error_code="MODEL_NOT_FOUND"),
    )
    async with shoal.AsyncClient(server.url) as client:
        with pytest.raises(ModelNotFound):
            await client.predict("iris", [[1]])


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    for name, method in inspect.getmembers(shoal.Client, inspect.isfunction):
        if name.startswith("_") or name == "close":
            continue
        twin = inspect.signature(getattr(shoal.AsyncClient, name))
        assert list(twin.parameters.values()) == list(inspect.signature(method).parameters.values())


def test_importing_shoal_imports_nothing_heavy() -> None:
    code = (
        "import sys, shoal; "
        "assert not {'numpy', 'httpx2', 'msgspec', 'pydantic'} & set(sys.modules); "
        "assert shoal.Client.__name__ == 'Client'; "
        "assert 'Client' in dir(shoal); "
        "print(all(hasattr(shoal, name) for name in shoal.__all__))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_name_that_shoal_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = shoal.Nothing  # type: ignore[attr-defined]


def test_register_refuses_wrong_fields_before_sending(
    server: CannedServer, client: shoal.Client
) -> None:
    with pytest.raises(InvalidSpecification, match="no uri"):
        client.register("m")
    with pytest.raises(InvalidSpecification, match="'bad name' is not valid"):
        client.register("bad name", "/x")
    with pytest.raises(InvalidSpecification, match="priorty"):
        client.register("m", "/x", priorty=1)  # type: ignore[call-arg]
    with pytest.raises(InvalidSpecification, match="pin"):
        client.register("m", "/x", pin="very")  # type: ignore[arg-type]
    with pytest.raises(InvalidSpecification, match="a ModelSpec alone"):
        client.register(shoal.ModelSpec(name="m", uri="/x"), "/y")
    with pytest.raises(InvalidSpecification, match="'uri' is empty"):
        client.register(shoal.ModelSpec(name="m", uri=""))
    assert server.asked == []


def test_register_takes_fields_or_a_whole_specification(
    server: CannedServer, client: shoal.Client
) -> None:
    view = {"name": "m", "state": "cold", "uri": "/x", "origin": "api", "registered_at": 1.0,
            "versions": []}  # fmt: skip
    server.answers("PUT /api/v1/models/m", json_of(view))
    spec = shoal.TensorSpec("x", "FP32", (-1, 2))
    client.register("m", "/x", inputs=[spec], labels={"team": "a"}, version_policy={"latest": 2})
    assert server.asked[0].json == {
        "name": "m", "uri": "/x", "labels": {"team": "a"}, "version_policy": {"latest": 2},
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
    }  # fmt: skip
    client.register(shoal.ModelSpec(name="m", uri="/x"))
    assert server.asked[1].json == {"name": "m", "uri": "/x"}


def test_an_answer_can_be_had_as_it_came(server: CannedServer, client: shoal.Client) -> None:
    body = b'{"name": "shoal",  "version": "1"}'
    server.answers("GET /v2", Canned(200, body))
    assert client.ask_raw(calls.server_metadata()) == body
    assert client.ask(calls.server_metadata()) == msgspec.json.decode(
        body, type=calls.ServerMetadata
    )
