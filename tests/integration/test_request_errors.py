"""Wrong requests: each is told what is wrong with it, as a client's fault, and harms nobody."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from tests.odd_models import ONE

if TYPE_CHECKING:
    from tests.integration.conftest import Public

X = ONE["inputs"][0]
IRIS = {"name": "predict", "datatype": "FP64", "shape": [1, 4], "data": [1, 2, 3, 4]}
NET = {"name": "measures", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}


def send(public: Public, path: str, body: bytes | str = b"", method: str = "POST",
         **headers: str) -> tuple[int, Any, dict[str, str]]:
    """Over a connection of its own: status, JSON and headers of the answer."""
    connection = http.client.HTTPConnection(urlsplit(public.server.url).netloc, timeout=30)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        data = body.encode() if isinstance(body, str) else body
        connection.putheader("content-length", str(len(data)))
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(data)
        answer = connection.getresponse()
        content = answer.read()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, json.loads(content) if content else None, found
    finally:
        connection.close()


def refusal(public: Public, model: str, body: object, **headers: str) -> str:
    """The message of a 400 that follows all the rules of errors."""
    answer = public.post(f"/v2/models/{model}/infer", body, **headers)
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["shoal-error-code"] in ("INVALID_REQUEST", "INVALID_INPUT")
    assert answer.headers["x-request-id"]
    assert answer.json().keys() == {"error"}
    said: str = answer.json()["error"]
    assert "Traceback" not in said
    assert "\n" not in said
    return said


# --- tensors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "change", "said"),
    [
        ("iris-net", {"datatype": "FP64"},
         "input 'measures' has the datatype FP64, but the model takes FP32"),
        ("iris-net", {"datatype": "FP8"}, "input 'measures': unknown datatype 'FP8'; known are"),
        ("iris-net", {"datatype": "fp32"}, "unknown datatype 'fp32'"),
        ("iris-net", {"datatype": None}, "input 'measures': inputs[0].datatype: expected a string"),
        ("iris-net", {"shape": [4]},
         "input 'measures' has the shape [4], but the model takes [-1, 4] (-1: any)"),
        ("iris-net", {"shape": [2, 2]}, "has the shape [2, 2], but the model takes [-1, 4]"),
        ("iris-net", {"shape": [2, 4]}, "shape [2, 4] needs 8 elements, 'data' has 4"),
        ("iris-net", {"shape": [-1, 4]}, "inputs[0].shape[0]: expected an integer"),
        ("iris-net", {"shape": [1.5, 4]}, "inputs[0].shape[0]: expected an integer, got a number"),
        ("iris-net", {"shape": 4}, "inputs[0].shape: expected a list, got an integer"),
        ("iris-net", {"shape": [1] * 33}, "inputs[0].shape"),
        ("iris-net", {"shape": [10**30, 4]}, "needs 4000000000000000000000000000000"),
        ("iris-net", {"shape": [2**62, 2**62, 0], "data": []}, "is too large"),
        ("iris-net", {"data": [1, 2, 3]}, "shape [1, 4] needs 4 elements, 'data' has 3"),
        ("iris-net", {"data": [[1, 2], [3, 4]]},
         "'data' is nested as [2, 2], but 'shape' says [1, 4]"),
        ("iris-net", {"data": [[1, 2], [3]]}, "the lists in 'data' differ in length"),
        ("iris-net", {"data": [1, 2, 3, "4"]}, "data[3]: expected a number, got a string"),
        ("iris-net", {"data": [1, 2, 3, None]}, "JSON has no NaN or Infinity"),
        ("iris-net", {"data": [1, 2, 3, 1e39]}, "the value is out of range for FP32"),
        ("iris-net", {"data": 5}, "'data' must be a list"),
        ("iris-net", {"data": {}}, "'data' must be a list"),
        ("iris-net", {"name": "measure"}, "input 'measure' is unknown; the model takes 'measures'"),
        ("iris-net", {"name": 7}, "inputs[0].name: expected a string, got an integer"),
        ("iris-net", {"parameters": 7}, "inputs[0].parameters: expected an object"),
        ("iris-net", {"parameters": {"binary_data_size": 16}}, "both 'data' and 'binary_"),
        ("iris-net", {"parameters": {"binary_data_size": -1}}, "must be a number of bytes"),
        ("iris-net", {"parameters": {"content_type": "png"}}, "unknown content_type 'png'"),
        ("iris", {"data": [1, 2, 3, True]}, "input 'predict': data[3]: expected a number"),
        ("echo", {"datatype": "INT8", "data": [128, 0, 0, 0]}, "out of range for INT8"),
        ("echo", {"datatype": "UINT64", "data": [-1, 0, 0, 0]}, "out of range for UINT64"),
        ("echo", {"datatype": "UINT64", "data": [2**64, 0, 0, 0]}, "out of range for UINT64"),
        ("echo", {"datatype": "INT64", "data": [1.5, 0, 0, 0]}, "the datatype is INT64"),
        ("echo", {"datatype": "BOOL", "data": [2, 0, 0, 0]}, "BOOL takes true, false, 0 and 1"),
        ("echo", {"datatype": "BYTES", "data": [1, "", "", ""]}, "the datatype is BYTES"),
    ],
)
def test_a_wrong_tensor_is_named_with_what_is_expected(
    public: Public, model: str, change: dict[str, Any], said: str
) -> None:
    tensor = {**(IRIS if model == "iris" else NET), **change}
    message = refusal(public, model, {"inputs": [tensor]})
    assert said in message
    assert repr(tensor["name"]) in message or tensor["name"] == 7


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"inputs": []}, "inputs 'left', 'right' missing; the model takes 'left', 'right'"),
        ({"inputs": [{**X, "name": "right"}]}, "input 'left' missing"),
        ({"inputs": [{**X, "name": "right"}] * 2}, "input 'right' is given more than once"),
        ({"inputs": [{**X, "name": "ünknown"}]}, "input 'ünknown' is unknown"),
        ({"inputs": [{"name": "right", "datatype": "FP32", "shape": [1]}]},
         "input 'right' has no data"),
        ({"inputs": [{"datatype": "FP32", "shape": [1], "data": [1]}]},
         "inputs[0]: object missing required field 'name'"),
        ({"inputs": [7]}, "inputs[0]: expected an object, got an integer"),
        ({"inputs": {}}, "inputs: expected a list, got an object"),
        ({"inputs": None}, "inputs: expected a list, got null"),
        ({}, "missing required field 'inputs'"),
        ([], "the request: expected an object, got a list"),
        ("text", "the request: expected an object, got a string"),
        (None, "the request: expected an object, got null"),
        ({"inputs": [], "id": 7}, "id: expected a string or null, got an integer"),
        ({"inputs": [], "outputs": [{"name": "nope"}]}, "missing"),
        ({"inputs": [], "parameters": []}, "parameters: expected an object or null"),
        ({"inputs": [], "parameters": {"binary_data_output": "yes"}}, "must be true or false"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(public: Public, body: object, said: str) -> None:
    assert said in refusal(public, "pair", body)


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ([{"name": "nope"}], "output 'nope' is not one of the model's: 'label', 'probabilities'"),
        ([{"name": "label"}, {"name": "label"}], "output 'label' is given more than once"),
        ([{}], "outputs[0]: object missing required field 'name'"),
        ([{"name": "label", "parameters": {"classification": 2}}], "'classification' is not"),
        ([{"name": "label", "parameters": {"shared_memory_region": "r"}}], "not supported"),
        ([{"name": "label", "parameters": {"binary_data": 1}}], "must be true or false"),
    ],
)
def test_wrong_outputs_are_named(public: Public, outputs: object, said: str) -> None:
    assert said in refusal(public, "iris-net", {"inputs": [NET], "outputs": outputs})


def test_outputs_that_were_never_declared_are_not_the_models_fault(public: Public) -> None:
    said = refusal(public, "echo", {**ONE, "outputs": [{"name": "nope"}]})
    assert said == "output 'nope' is not one of the model's, which gave 'x'"


def test_what_a_model_refuses_itself_is_the_clients_fault(public: Public) -> None:
    said = refusal(public, "wrong", {**ONE, "parameters": {"do": "refuse"}})
    assert said == "input 'x' is too sad; cheer it up"


# --- JSON and binary data -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "line 1 column 1"),
        (b"{", "line 1 column 2"),
        (b'{"inputs":\n [,]}', "line 2 column 3"),
        (b'{"inputs": [NaN]}', "line 1 column 13"),
        (b'{"inputs": []} x', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        ('{"id": "\\ud800", "inputs": []}', "not valid JSON"),
        (b"[" * 100_000, "the request"),
        (b'{"inputs": ' + b"[" * 100_000, "inputs"),
    ],
)
def test_invalid_json_is_refused_with_its_place(public: Public, body: bytes, said: str) -> None:
    for path in ("/v2/models/echo/infer", "/v1/models/pair:predict", "/v2/repository/index"):
        status, answer, _ = send(public, path, body)
        if status == 200:
            assert path == "/v2/repository/index"  # which takes an empty body
            assert not body
            continue
        assert status == 400
        if path == "/v2/models/echo/infer":
            assert said in answer["error"]


@pytest.mark.parametrize(
    ("length", "said"),
    [
        ("999", "the body has"),
        ("0", "must be the length of the JSON"),
        ("-1", "must be the number of bytes"),
        ("abc", "Inference-Header-Content-Length is 'abc'"),
        ("", "must be the number of bytes"),
        ("9" * 30, "must be the number of bytes"),
        ("10", "not valid JSON"),
    ],
)
def test_a_wrong_json_length_is_refused(public: Public, length: str, said: str) -> None:
    assert said in refusal(public, "echo", ONE, inference_header_content_length=length)


@pytest.mark.parametrize(
    ("size", "came", "said"),
    [
        (4, 3, "'binary_data_size' is 4, but 3 bytes are left"),
        (3, 3, "shape [1] of FP32 needs 4 bytes, 3 came"),
        (4, 5, "5 bytes follow the JSON, but the inputs' 'binary_data_size' add up to 4"),
        (10**30, 4, "'binary_data_size'"),
        (True, 4, "must be a number of bytes"),
        ("4", 4, "must be a number of bytes"),
    ],
)
def test_wrong_binary_lengths_are_refused(
    public: Public, size: object, came: int, said: str
) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1],
              "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor]})
    status, answer, _ = send(
        public, "/v2/models/echo/infer", head.encode() + b"\0" * came,
        inference_header_content_length=str(len(head)),
    )
    assert status == 400
    assert said in answer["error"]


def test_binary_text_that_does_not_add_up_is_refused(public: Public) -> None:
    for raw, said in (
        (b"\x05\0\0\0ab", "element 0 should have 5 bytes, 2 are left"),
        (b"\x01\0", "element 0"),
        (b"\0\0\0\0\0\0\0\0", "shape [1] needs 1 elements, 'data' has 2"),
    ):
        tensor = {"name": "x", "datatype": "BYTES", "shape": [1],
                  "parameters": {"binary_data_size": len(raw)}}
        head = json.dumps({"inputs": [tensor]})
        status, answer, _ = send(public, "/v2/models/echo/infer", head.encode() + raw,
                                 inference_header_content_length=str(len(head)))
        assert status == 400
        assert said in answer["error"]


# --- bodies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "body", "said"),
    [
        ("br", b"abc", "Content-Encoding 'br' is not supported; send gzip, deflate"),
        ("gzip, gzip", b"abc", "encoded several times"),
        ("gzip", b"not gzip", "not valid gzip"),
        ("deflate", b"\x78\x9cnope", "not valid deflate"),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-3], "ends too early"),
        ("deflate", zlib.compress(b"{}") + b"more", "goes on after the end"),
    ],
)
def test_bodies_that_are_not_what_their_encoding_says_are_refused(
    public: Public, encoding: str, body: bytes, said: str
) -> None:
    for path in ("/v2/models/echo/infer", "/v1/models/pair:predict", "/v2/repository/index"):
        status, answer, _ = send(public, path, body, content_encoding=encoding)
        assert status == 400
        assert said in answer["error"]


def test_bodies_beyond_the_limit_are_refused(public: Public) -> None:
    status, answer, _ = send(public, "/v2/models/echo/infer", b" " * (8 * 1024**2 + 1))
    assert status == 413
    assert "http.max_body_bytes" in answer["error"]


def test_bodies_that_grow_beyond_the_limit_are_refused(public: Public) -> None:
    bomb = gzip.compress(b" " * (8 * 1024**2 + 1))
    status, answer, headers = send(public, "/v2/models/echo/infer", bomb, content_encoding="gzip")
    assert (status, headers["shoal-error-code"]) == (413, "BODY_TOO_LARGE")
    assert "when decompressed" in answer["error"]


def test_a_client_may_wait_before_it_sends_the_body(public: Public) -> None:
    body = json.dumps(ONE).encode()
    address = urlsplit(public.server.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as client:
        client.sendall(
            b"POST /v2/models/echo/infer HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
            b"content-length: %d\r\n\r\n" % len(body)
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 100 Continue\r\n")
        client.sendall(body)
        assert client.recv(10_000).startswith(b"HTTP/1.1 200 OK\r\n")


# --- paths, methods, names ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/v3", "/v2/nope", "/v2/models/echo/nope", "/v2/models//infer", "//v2/models",
        "/v2/models/echo/versions/", "/v2/models/echo/versions//infer", "/v2/health", "/v2//",
        "/v1", "/v1/models/echo:explain", "/v2/repository/models/echo", "/metrics",
        "/api/v1/models", "/%2e%2e/etc/passwd", "/v2/models/../../etc/passwd", "/%C3%BF",
        "/" + "x" * 20_000,
    ],
)  # fmt: skip
def test_a_wrong_path_is_not_found(public: Public, path: str) -> None:
    for method in ("GET", "POST"):
        status, answer, headers = send(public, path, method=method)
        assert (status, headers["shoal-error-code"]) == (404, "PATH_NOT_FOUND")
        assert "inference is at /v2/models/NAME/infer" in answer["error"]
        assert len(answer["error"]) < 300


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v2/models/echo/infer", "POST"),
        ("HEAD", "/v2/models/echo/infer", "POST"),
        ("PUT", "/v1/models/echo:predict", "POST"),
        ("GET", "/v2/repository/index", "POST"),
        ("DELETE", "/v2/models/echo", "GET, HEAD"),
        ("POST", "/v2/health/live", "GET, HEAD"),
        ("PATCH", "/v2", "GET, HEAD"),
        ("OPTIONS", "/", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(
    public: Public, method: str, path: str, allowed: str
) -> None:
    status, answer, headers = send(public, path, method=method)
    assert (status, headers["allow"]) == (405, allowed)
    assert method == "HEAD" or "takes" in answer["error"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nope", "model 'nope' is not registered"),
        ("ECHO", "model 'ECHO' is not registered"),
        ("%C3%BC", "there is no model 'ü'; names have 1 to 254 letters"),
        ("a%2Fb", "there is no model 'a/b'"),
        ("%00", r"there is no model '\x00'"),
        ("%ff", "there is no model"),
        ("e%0acho", r"there is no model 'e\ncho'"),
        ("x" * 255, "names have 1 to 254 letters"),
        ("x" * 20_000, "names have 1 to 254 letters"),
    ],
)
def test_an_unknown_model_is_not_found(public: Public, name: str, said: str) -> None:
    for path in (f"/v2/models/{name}/infer", f"/v1/models/{name}:predict",
                 f"/v2/repository/models/{name}/load"):
        status, answer, headers = send(public, path)
        assert (status, headers["shoal-error-code"]) == (404, "MODEL_NOT_FOUND")
        assert said in answer["error"]
        assert len(answer["error"]) < 300
    for path in ("", "/ready", "/config", "/stats", "/versions/1"):
        assert send(public, f"/v2/models/{name}{path}", method="GET")[0] == 404


@pytest.mark.parametrize("version", ["3", "0", "abc", "-1", "1.0", "%C2%B2", "9" * 17, "9" * 400])
def test_an_unknown_version_is_not_found(public: Public, version: str) -> None:
    for what in ("", "/ready", "/config", "/stats"):
        path = f"/v2/models/prices/versions/{version}{what}"
        status, _, headers = send(public, path, method="GET")
        assert (status, headers["shoal-error-code"]) == (404, "VERSION_NOT_FOUND")
    for path in (f"/v2/models/prices/versions/{version}/infer",
                 f"/v1/models/prices/versions/{version}:predict"):
        status, answer, _ = send(public, path, json.dumps(ONE))
        assert status == 404
        assert "version" in answer["error"]


# --- models that fail ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "do", "said"),
    [
        ("wrong", "raise", "model 'wrong' failed: RuntimeError: the weights are melting"),
        ("wrong", "nothing", "returned a NoneType; it must return a dict"),
        ("wrong", "complex", "complex128"),
        ("wrong", "number", "gave an output named 7; names must be text"),
        ("wrong", "two numbers", "names must be text"),
        ("wrong", "surrogate name", "names must be text"),
        ("wrong", "surrogate", "surrogates not allowed"),
        ("promises", "", "returned z, but not y, which it declares"),
    ],
)
def test_a_model_that_fails_says_so_in_a_line(
    public: Public, model: str, do: str, said: str
) -> None:
    body = {**ONE, "parameters": {"do": do}}
    answer = public.post(f"/v2/models/{model}/infer", body)
    assert (answer.status_code, answer.headers["shoal-error-code"]) == (500, "MODEL_FAILED")
    assert said in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert "secret" not in answer.text
    assert "retry-after" not in answer.headers


def test_a_model_that_does_not_load_is_unavailable_with_its_cause(public: Public) -> None:
    for path in ("/v2/models/broken/infer", "/v1/models/broken:predict"):
        answer = public.post(path, ONE)
        assert (answer.status_code, answer.headers["shoal-error-code"]) == (503, "LOAD_FAILED")
        assert "ValueError: there are no weights" in answer.json()["error"]
        assert int(answer.headers["retry-after"]) > 0
