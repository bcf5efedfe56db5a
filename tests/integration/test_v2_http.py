"""The Open Inference Protocol over HTTP, Triton's extensions included, as clients meet it."""

from __future__ import annotations

import gzip
import http.client
import json
import math
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import ml_dtypes
import numpy as np
import pytest
from tests.odd_models import ONE
from tests.served import Served

from shoal.codecs.tensors import DTYPES

if TYPE_CHECKING:
    from tests.integration.conftest import Public

# Of each datatype, the values that are hard to carry, as JSON has them.
VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "UINT8": [0, 255],
    "UINT16": [0, 2**16 - 1],
    "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1],
    "INT8": [-128, 127],
    "INT16": [-(2**15), 2**15 - 1],
    "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "FP16": [-65504.0, 0.5],
    "BF16": [-1.5, 256.0],
    "FP32": [1.5, -3.4028235e38],
    "FP64": [0.1, 1.7976931348623157e308],
    "BYTES": ["", 'zwölf "Boxkämpfer"\n🦊'],
}


def binary_of(datatype: str, values: list[Any]) -> bytes:
    if datatype == "BYTES":
        encoded = [value.encode() for value in values]
        return b"".join(len(each).to_bytes(4, "little") + each for each in encoded)
    return np.array(values, DTYPES[datatype]).tobytes()


def infer_binary(public: Public, model: str, document: dict[str, Any], *tensors: bytes,
                 **headers: str) -> Any:
    """A request with its tensors behind the JSON."""
    head = json.dumps(document).encode()
    return public.server.http.post(
        f"/v2/models/{model}/infer", content=head + b"".join(tensors),
        headers={"inference-header-content-length": str(len(head)), **headers},
    )


def split(response: Any) -> tuple[dict[str, Any], bytes]:
    """The JSON of a binary response, and what follows it."""
    length = int(response.headers["inference-header-content-length"])
    return json.loads(response.content[:length]), response.content[length:]


# --- the server ---------------------------------------------------------------------------------


def test_the_server_is_live_and_ready(public: Public) -> None:
    assert public.server.http.get("/").json() == {"status": "alive"}
    assert public.server.http.get("/v2/health/live").json() == {"live": True}
    assert public.server.http.get("/v2/health/ready").json() == {"ready": True}


def test_its_metadata_lists_the_extensions_that_work(public: Public, guarded: Served) -> None:
    told = public.server.http.get("/v2").json()
    assert told["name"] == "shoal"
    assert told["extensions"] == [
        "binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics",
    ]
    assert "model_repository" not in guarded.http.get("/v2").json()["extensions"]


def test_it_lists_its_models(public: Public) -> None:
    models = public.server.http.get("/v2/models").json()["models"]
    assert models == sorted(models)
    assert {"iris", "echo", "broken"} <= set(models)


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/health/live", "/v2/models", "/v2/models/iris", "/v2/models/iris/ready"]
)
def test_head_answers_as_get_without_the_body(public: Public, path: str) -> None:
    head, get = public.server.http.head(path), public.server.http.get(path)
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == str(len(get.content))


def test_a_slash_at_the_end_changes_nothing(public: Public) -> None:
    for path in ("/v2/health/ready/", "/v2/models/iris/ready/", "/v1/models/iris/"):
        assert public.server.http.get(path).status_code == 200
    assert public.post("/v2/models/echo/infer/", ONE).status_code == 200


def test_names_may_be_escaped(public: Public) -> None:
    path = "/v2/models/some%2Ename%5Fwith%2dall%2D1/infer"
    connection = http.client.HTTPConnection(urlsplit(public.server.url).netloc)
    connection.request("POST", path, json.dumps(ONE))
    answer = json.loads(connection.getresponse().read())
    connection.close()
    assert answer["model_name"] == "some.name_with-all-1"


def test_a_model_may_be_called_like_an_endpoint(public: Public) -> None:
    assert public.server.http.get("/v2/models/stats").json()["name"] == "stats"
    assert public.post("/v2/models/stats/infer", ONE).json()["model_name"] == "stats"
    stats = public.server.http.get("/v2/models/stats/stats").json()["model_stats"]
    assert [entry["name"] for entry in stats] == ["stats"]


# --- a model ------------------------------------------------------------------------------------


def test_metadata_of_a_cold_model_loads_it(public: Public) -> None:
    metadata = public.server.http.get("/v2/models/iris-net").json()
    assert metadata == {
        "name": "iris-net", "versions": ["1"], "platform": metadata["platform"],
        "inputs": [{"name": "measures", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
        ],
    }
    index = public.post("/v2/repository/index", {"ready": True}).json()
    assert "iris-net" in {entry["name"] for entry in index}


def test_a_cold_model_counts_as_ready(public: Public) -> None:
    answer = public.server.http.get("/v2/models/handled/ready")
    assert answer.json() == {"name": "handled", "ready": True}


def test_a_model_that_does_not_load_is_not_ready_and_says_why(public: Public) -> None:
    assert public.post("/v2/models/broken/infer", ONE).status_code == 503
    answer = public.server.http.get("/v2/models/broken/ready")
    assert answer.status_code == 503
    assert "there are no weights" in answer.json()["error"]
    assert int(answer.headers["retry-after"]) > 0


def test_an_older_version_makes_a_model_ready_whose_newest_does_not_load(public: Public) -> None:
    assert public.post("/v2/models/prone/infer", ONE).json()["model_version"] == "1"
    assert public.server.http.get("/v2/models/prone/ready").status_code == 200
    newest = public.server.http.get("/v2/models/prone/versions/2/ready")
    assert (newest.status_code, newest.headers["shoal-error-code"]) == (503, "LOAD_FAILED")


def test_each_version_is_served_and_the_highest_by_default(public: Public) -> None:
    request = public.cases["prices"].request
    by_default = public.post("/v2/models/prices/infer", request).json()
    second = public.post("/v2/models/prices/versions/2/infer", request).json()
    first = public.post("/v2/models/prices/versions/1/infer", request).json()
    assert by_default == second
    assert (second["model_version"], first["model_version"]) == ("2", "1")
    assert first["outputs"][0]["data"] != second["outputs"][0]["data"]
    for path in ("", "/versions/1", "/versions/2"):
        metadata = public.server.http.get(f"/v2/models/prices{path}").json()
        assert metadata["versions"] == ["1", "2"]
        assert public.server.http.get(f"/v2/models/prices{path}/ready").status_code == 200


def test_its_configuration_is_as_triton_writes_it(public: Public) -> None:
    config = public.server.http.get("/v2/models/penguins/config").json()
    assert config["name"] == "penguins"
    assert (config["backend"], config["max_batch_size"]) == ("sklearn", 0)
    assert config["version_policy"] == {"all": {}}
    assert config["input"][0] == {"name": "island", "data_type": "TYPE_STRING", "dims": [-1]}
    of_a_version = public.server.http.get("/v2/models/prices/versions/1/config").json()
    assert of_a_version["output"][0]["data_type"] == "TYPE_FP64"


# --- inference ----------------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", DTYPES)
@pytest.mark.parametrize("binary_in", [False, True], ids=["json-in", "binary-in"])
@pytest.mark.parametrize("binary_out", [False, True], ids=["json-out", "binary-out"])
def test_every_datatype_goes_both_ways(
    public: Public, datatype: str, binary_in: bool, binary_out: bool
) -> None:
    values = VALUES[datatype]
    tensor: dict[str, Any] = {"name": "x", "datatype": datatype, "shape": [len(values)]}
    raw = binary_of(datatype, values)
    document = {"inputs": [tensor], "parameters": {"binary_data_output": binary_out}}
    if binary_in:
        tensor["parameters"] = {"binary_data_size": len(raw)}
        response = infer_binary(public, "echo", document, raw)
    else:
        tensor["data"] = values
        response = public.post("/v2/models/echo/infer", document)
    assert response.status_code == 200, response.text
    if binary_out:
        answer, rest = split(response)
        assert rest == raw
        assert answer["outputs"][0]["parameters"] == {"binary_data_size": len(raw)}
        assert response.headers["content-type"] == "application/octet-stream"
    else:
        answer = response.json()
        assert answer["outputs"][0]["data"] == values
        assert response.headers["content-type"] == "application/json"
    assert {key: answer["outputs"][0][key] for key in ("name", "datatype", "shape")} == {
        "name": "x", "datatype": datatype, "shape": [len(values)],
    }


def test_bits_come_back_as_they_went(public: Public) -> None:
    """NaNs with payloads, infinities, subnormals, bytes that are no text."""
    floats = np.array([0x7FC00001, 0xFF800000, 1, 0x80000000], "<u4").tobytes()
    halves = np.array([np.nan, -np.inf, 1e-40], ml_dtypes.bfloat16).tobytes()
    text = b"\x02\0\0\0\xff\0" + b"\0\0\0\0"
    document = {
        "inputs": [
            {"name": name, "datatype": datatype, "shape": [extent],
             "parameters": {"binary_data_size": len(raw)}}
            for name, datatype, extent, raw in (
                ("a", "FP32", 4, floats), ("b", "BF16", 3, halves), ("c", "BYTES", 2, text),
            )
        ],
        "parameters": {"binary_data_output": True},
    }
    _, rest = split(infer_binary(public, "echo", document, floats, halves, text))
    assert rest == floats + halves + text


def test_data_may_be_nested_as_the_shape_says(public: Public) -> None:
    tensor = {"name": "x", "datatype": "INT32", "shape": [2, 1, 2], "data": [[[1, 2]], [[3, 4]]]}
    answer = public.post("/v2/models/echo/infer", {"inputs": [tensor]}).json()
    assert answer["outputs"][0]["shape"] == [2, 1, 2]
    assert answer["outputs"][0]["data"] == [1, 2, 3, 4]


def test_scalars_and_empty_tensors_are_tensors(public: Public) -> None:
    inputs = [
        {"name": "scalar", "datatype": "FP64", "shape": [], "data": [2.5]},
        {"name": "empty", "datatype": "INT8", "shape": [0, 3], "data": []},
    ]
    outputs = public.post("/v2/models/echo/infer", {"inputs": inputs}).json()["outputs"]
    assert outputs == inputs


def test_the_id_is_echoed(public: Public) -> None:
    for given in ("7-ä", ""):
        assert public.post("/v2/models/echo/infer", {"id": given, **ONE}).json()["id"] == given
    assert "id" not in public.post("/v2/models/echo/infer", ONE).json()


PAIR = {
    "inputs": [
        {"name": "right", "datatype": "FP32", "shape": [2], "data": [0.5, -1]},
        {"name": "left", "datatype": "INT64", "shape": [2, 2], "data": [1, 2, 3, 4]},
    ]
}


def test_all_outputs_come_in_the_models_order_unless_some_are_asked_for(public: Public) -> None:
    outputs = public.post("/v2/models/pair/infer", PAIR).json()["outputs"]
    assert [output["name"] for output in outputs] == ["sum", "text", "seen"]
    assert outputs[0]["data"] == [3.5, 6.0]
    wanted = {**PAIR, "outputs": [{"name": "text"}, {"name": "sum"}]}
    outputs = public.post("/v2/models/pair/infer", wanted).json()["outputs"]
    assert [(output["name"], output["data"]) for output in outputs] == [
        ("text", ["3.5", "6"]), ("sum", [3.5, 6.0]),
    ]
    none = public.post("/v2/models/pair/infer", {**PAIR, "outputs": []}).json()["outputs"]
    assert len(none) == 3


def test_of_undeclared_outputs_those_asked_for_come(public: Public) -> None:
    inputs = [{**ONE["inputs"][0], "name": name} for name in "abc"]
    request = {"inputs": inputs, "outputs": [{"name": "c"}, {"name": "a"}]}
    outputs = public.post("/v2/models/echo/infer", request).json()["outputs"]
    assert [output["name"] for output in outputs] == ["c", "a"]


def test_parameters_reach_the_model(public: Public) -> None:
    parameters = {"threshold": 0.5, "mode": "fast", "deep": True, "binary_data_output": False}
    request = {
        **PAIR, "parameters": parameters,
        "outputs": [{"name": "seen", "parameters": {"anything": 1}}],
    }
    (seen,) = public.post("/v2/models/pair/infer", request).json()["outputs"]
    assert seen["data"] == [repr(sorted(parameters.items()))]


def test_each_output_may_be_binary_or_not(public: Public) -> None:
    request = {
        **PAIR, "id": "mixed", "parameters": {"binary_data_output": True},
        "outputs": [
            {"name": "sum"}, {"name": "text", "parameters": {"binary_data": False}},
            {"name": "seen", "parameters": {"binary_data": True}},
        ],
    }
    answer, rest = split(public.post("/v2/models/pair/infer", request))
    total, text, seen = answer["outputs"]
    assert answer["id"] == "mixed"
    assert total["parameters"] == {"binary_data_size": 8}
    assert "data" not in total
    assert text["data"] == ["3.5", "6"]
    assert rest[:8] == np.array([3.5, 6.0], "<f4").tobytes()
    assert len(rest) == 8 + seen["parameters"]["binary_data_size"]


def test_inputs_may_be_binary_or_not(public: Public) -> None:
    left, right = PAIR["inputs"][1], PAIR["inputs"][0]
    raw = np.array([[1, 2], [3, 4]], "<i8").tobytes()
    binary = {key: left[key] for key in ("name", "datatype", "shape")}
    document = {"inputs": [right, {**binary, "parameters": {"binary_data_size": len(raw)}}]}
    answer = infer_binary(public, "pair", document, raw).json()
    assert answer["outputs"][0]["data"] == [3.5, 6.0]


def test_what_json_cannot_carry_is_null_or_refused_but_never_wrong(public: Public) -> None:
    nan = {**ONE, "parameters": {"do": "nan"}}
    answer = public.post("/v2/models/wrong/infer", nan).json()
    assert answer["outputs"][0]["data"] == [None, None, 1.0]
    nan["parameters"]["binary_data_output"] = True  # type: ignore[index]
    _, rest = split(public.post("/v2/models/wrong/infer", nan))
    assert [math.isnan(rest_) for rest_ in np.frombuffer(rest, "<f8")] == [True, False, False]
    refused = public.post("/v2/models/wrong/infer", {**ONE, "parameters": {"do": "bytes"}})
    assert refused.status_code == 400
    assert "output 'y' holds bytes that are not UTF-8 text" in refused.json()["error"]


@pytest.mark.parametrize(
    ("do", "shape", "data"),
    [
        ("scalar", [], [1.5]),
        ("strided", [2, 3], [0, 4, 8, 2, 6, 10]),
        ("big endian", [3], [0, 1, 2]),
    ],
)
def test_whatever_arrays_a_model_gives_are_written_in_order(
    public: Public, do: str, shape: list[int], data: list[float]
) -> None:
    request = {**ONE, "parameters": {"do": do}}
    (output,) = public.post("/v2/models/wrong/infer", request).json()["outputs"]
    assert (output["shape"], output["data"]) == (shape, data)


def test_a_binary_request_may_be_called_anything(public: Public) -> None:
    """Clients send application/json, octet-stream, a form's type, or nothing."""
    for kind in ("application/octet-stream", "application/x-www-form-urlencoded", "text/plain"):
        answer = public.post("/v2/models/echo/infer", ONE, content_type=kind)
        assert answer.status_code == 200


# --- tables -------------------------------------------------------------------------------------


def test_columns_of_mixed_types_are_a_data_frame(public: Public) -> None:
    case = public.cases["penguins"]
    inputs = [{**each, "shape": [each["shape"][0], 1]} for each in case.request["inputs"]]
    request = {"inputs": inputs, "parameters": {"content_type": "pd"}}
    answer = public.post("/v2/models/penguins/infer", request).json()
    assert answer["outputs"][0]["data"] == case.expect["outputs"][0]["data"]


def test_columns_become_the_matrix_that_a_model_takes(public: Public) -> None:
    case = public.cases["iris"]
    rows = np.array(case.request["inputs"][0]["data"]).reshape(-1, 4)
    request = {
        "parameters": {"content_type": "pd"},
        "inputs": [
            {"name": f"measure {index}", "datatype": "FP64", "shape": [len(rows), 1],
             "data": column.tolist()}
            for index, column in enumerate(rows.T)
        ],
    }
    answer = public.post("/v2/models/iris/infer", request).json()
    assert answer["outputs"][0]["data"] == case.expect["outputs"][0]["data"]


# --- compression --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes),
        ("GZIP", gzip.compress),
    ],
)
def test_compressed_requests_are_understood(
    public: Public, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    answer = public.server.http.post(
        "/v2/models/echo/infer", content=compress(json.dumps(ONE).encode()),
        headers={"content-encoding": encoding},
    )
    assert answer.json()["outputs"] == ONE["inputs"]


def test_binary_requests_are_compressed_as_a_whole(public: Public) -> None:
    raw = np.arange(1000, dtype="<f4").tobytes()
    document = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1000],
                    "parameters": {"binary_data_size": len(raw)}}],
        "outputs": [{"name": "x", "parameters": {"binary_data": True}}],
    }
    head = json.dumps(document).encode()
    answer = public.server.http.post(
        "/v2/models/echo/infer", content=gzip.compress(head + raw),
        headers={"content-encoding": "gzip", "inference-header-content-length": str(len(head)),
                 "accept-encoding": "deflate"},
    )
    assert answer.headers["content-encoding"] == "deflate"
    assert split(answer)[1] == raw  # the client has decompressed it


LONG = {"inputs": [{"name": "x", "datatype": "INT32", "shape": [2000], "data": [7] * 2000}]}


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", "gzip"), ("deflate", "deflate"), ("gzip, deflate, br, zstd", "gzip"),
        ("gzip;q=0.5, deflate;q=0.8", "deflate"), ("gzip;q=0", None), ("br", None), ("*", "gzip"),
        ("identity", None), ("identity;q=1, gzip;q=0.5", None), ("gzip;q=2", None), ("", None),
    ],
)
def test_responses_are_compressed_as_the_client_prefers(
    public: Public, accepted: str, encoding: str | None
) -> None:
    answer = public.post("/v2/models/echo/infer", LONG, accept_encoding=accepted)
    assert answer.headers.get("content-encoding") == encoding
    assert answer.headers["vary"] == "accept-encoding"
    assert answer.json()["outputs"] == LONG["inputs"]


def test_small_responses_are_left_alone(public: Public) -> None:
    answer = public.post("/v2/models/echo/infer", ONE, accept_encoding="gzip")
    assert "content-encoding" not in answer.headers
    assert "vary" not in answer.headers
