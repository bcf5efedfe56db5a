"""The Open Inference Protocol over HTTP, Triton's extensions included, as clients meet it."""

from __future__ import annotations

import gzip
import http.client
import json
import math
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import ml_dtypes
import numpy as np
import pytest
from tests.served import Served, until

from shoal.codecs.tensors import DTYPES

if TYPE_CHECKING:
    from tests.integration.conftest import Public

ONE = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.5]}]}

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


def post(public: Public, path: str, body: object, **headers: str) -> Any:
    return public.server.http.post(
        path, content=json.dumps(body), headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


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
    assert post(public, "/v2/models/echo/infer/", ONE).status_code == 200


def test_names_may_be_escaped(public: Public) -> None:
    path = "/v2/models/some%2Ename%5Fwith%2dall%2D1/infer"
    connection = http.client.HTTPConnection(urlsplit(public.server.url).netloc)
    connection.request("POST", path, json.dumps(ONE))
    answer = json.loads(connection.getresponse().read())
    connection.close()
    assert answer["model_name"] == "some.name_with-all-1"


def test_a_model_may_be_called_like_an_endpoint(public: Public) -> None:
    assert public.server.http.get("/v2/models/stats").json()["name"] == "stats"
    assert post(public, "/v2/models/stats/infer", ONE).json()["model_name"] == "stats"
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
    index = post(public, "/v2/repository/index", {"ready": True}).json()
    assert "iris-net" in {entry["name"] for entry in index}


def test_a_cold_model_counts_as_ready(public: Public) -> None:
    answer = public.server.http.get("/v2/models/handled/ready")
    assert answer.json() == {"name": "handled", "ready": True}


def test_a_model_that_does_not_load_is_not_ready_and_says_why(public: Public) -> None:
    assert post(public, "/v2/models/broken/infer", ONE).status_code == 503
    answer = public.server.http.get("/v2/models/broken/ready")
    assert answer.status_code == 503
    assert "there are no weights" in answer.json()["error"]
    assert int(answer.headers["retry-after"]) > 0


def test_an_older_version_makes_a_model_ready_whose_newest_does_not_load(public: Public) -> None:
    assert post(public, "/v2/models/prone/infer", ONE).json()["model_version"] == "1"
    post(public, "/v2/repository/models/prone/load", {})
    assert public.server.http.get("/v2/models/prone/ready").status_code == 200
    newest = public.server.http.get("/v2/models/prone/versions/2/ready")
    assert (newest.status_code, newest.headers["shoal-error-code"]) == (503, "LOAD_FAILED")


def test_each_version_is_served_and_the_highest_by_default(public: Public) -> None:
    request = public.cases["prices"].request
    by_default = post(public, "/v2/models/prices/infer", request).json()
    second = post(public, "/v2/models/prices/versions/2/infer", request).json()
    first = post(public, "/v2/models/prices/versions/1/infer", request).json()
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
        response = post(public, "/v2/models/echo/infer", document)
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
    answer = post(public, "/v2/models/echo/infer", {"inputs": [tensor]}).json()
    assert answer["outputs"][0]["shape"] == [2, 1, 2]
    assert answer["outputs"][0]["data"] == [1, 2, 3, 4]


def test_scalars_and_empty_tensors_are_tensors(public: Public) -> None:
    inputs = [
        {"name": "scalar", "datatype": "FP64", "shape": [], "data": [2.5]},
        {"name": "empty", "datatype": "INT8", "shape": [0, 3], "data": []},
    ]
    outputs = post(public, "/v2/models/echo/infer", {"inputs": inputs}).json()["outputs"]
    assert outputs == inputs


def test_the_id_is_echoed(public: Public) -> None:
    for given in ("7-ä", ""):
        assert post(public, "/v2/models/echo/infer", {"id": given, **ONE}).json()["id"] == given
    assert "id" not in post(public, "/v2/models/echo/infer", ONE).json()


PAIR = {
    "inputs": [
        {"name": "right", "datatype": "FP32", "shape": [2], "data": [0.5, -1]},
        {"name": "left", "datatype": "INT64", "shape": [2, 2], "data": [1, 2, 3, 4]},
    ]
}


def test_all_outputs_come_in_the_models_order_unless_some_are_asked_for(public: Public) -> None:
    outputs = post(public, "/v2/models/pair/infer", PAIR).json()["outputs"]
    assert [output["name"] for output in outputs] == ["sum", "text", "seen"]
    assert outputs[0]["data"] == [3.5, 6.0]
    wanted = {**PAIR, "outputs": [{"name": "text"}, {"name": "sum"}]}
    outputs = post(public, "/v2/models/pair/infer", wanted).json()["outputs"]
    assert [(output["name"], output["data"]) for output in outputs] == [
        ("text", ["3.5", "6"]), ("sum", [3.5, 6.0]),
    ]
    none = post(public, "/v2/models/pair/infer", {**PAIR, "outputs": []}).json()["outputs"]
    assert len(none) == 3


def test_of_undeclared_outputs_those_asked_for_come(public: Public) -> None:
    inputs = [{**ONE["inputs"][0], "name": name} for name in "abc"]
    request = {"inputs": inputs, "outputs": [{"name": "c"}, {"name": "a"}]}
    outputs = post(public, "/v2/models/echo/infer", request).json()["outputs"]
    assert [output["name"] for output in outputs] == ["c", "a"]


def test_parameters_reach_the_model(public: Public) -> None:
    parameters = {"threshold": 0.5, "mode": "fast", "deep": True, "binary_data_output": False}
    request = {
        **PAIR, "parameters": parameters,
        "outputs": [{"name": "seen", "parameters": {"anything": 1}}],
    }
    (seen,) = post(public, "/v2/models/pair/infer", request).json()["outputs"]
    assert seen["data"] == [repr(sorted(parameters.items()))]


def test_each_output_may_be_binary_or_not(public: Public) -> None:
    request = {
        **PAIR, "id": "mixed", "parameters": {"binary_data_output": True},
        "outputs": [
            {"name": "sum"}, {"name": "text", "parameters": {"binary_data": False}},
            {"name": "seen", "parameters": {"binary_data": True}},
        ],
    }
    answer, rest = split(post(public, "/v2/models/pair/infer", request))
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
    answer = post(public, "/v2/models/wrong/infer", nan).json()
    assert answer["outputs"][0]["data"] == [None, None, 1.0]
    nan["parameters"]["binary_data_output"] = True  # type: ignore[index]
    _, rest = split(post(public, "/v2/models/wrong/infer", nan))
    assert [math.isnan(rest_) for rest_ in np.frombuffer(rest, "<f8")] == [True, False, False]
    refused = post(public, "/v2/models/wrong/infer", {**ONE, "parameters": {"do": "bytes"}})
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
    (output,) = post(public, "/v2/models/wrong/infer", request).json()["outputs"]
    assert (output["shape"], output["data"]) == (shape, data)


def test_a_binary_request_may_be_called_anything(public: Public) -> None:
    """Clients send application/json, octet-stream, a form's type, or nothing."""
    for kind in ("application/octet-stream", "application/x-www-form-urlencoded", "text/plain"):
        answer = post(public, "/v2/models/echo/infer", ONE, content_type=kind)
        assert answer.status_code == 200


# --- tables -------------------------------------------------------------------------------------


def test_columns_of_mixed_types_are_a_data_frame(public: Public) -> None:
    case = public.cases["penguins"]
    inputs = [{**each, "shape": [each["shape"][0], 1]} for each in case.request["inputs"]]
    request = {"inputs": inputs, "parameters": {"content_type": "pd"}}
    answer = post(public, "/v2/models/penguins/infer", request).json()
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
    answer = post(public, "/v2/models/iris/infer", request).json()
    assert answer["outputs"][0]["data"] == case.expect["outputs"][0]["data"]


# --- compression --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes), ("GZIP", gzip.compress)],
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
    answer = post(public, "/v2/models/echo/infer", LONG, accept_encoding=accepted)
    assert answer.headers.get("content-encoding") == encoding
    assert answer.headers["vary"] == "accept-encoding"
    assert answer.json()["outputs"] == LONG["inputs"]


def test_small_responses_are_left_alone(public: Public) -> None:
    answer = post(public, "/v2/models/echo/infer", ONE, accept_encoding="gzip")
    assert "content-encoding" not in answer.headers
    assert "vary" not in answer.headers


# --- deadlines ----------------------------------------------------------------------------------


def test_a_deadline_ends_the_wait_for_a_slow_model(public: Public) -> None:
    late = post(public, "/v2/models/gated/infer", ONE, shoal_timeout_ms="50")
    assert (late.status_code, late.headers["shoal-error-code"]) == (504, "DEADLINE_EXCEEDED")
    assert "model 'gated' did not answer within 0.05 s" in late.json()["error"]
    public.open("gated")
    assert post(public, "/v2/models/gated/infer", ONE, shoal_timeout_ms="60000").status_code == 200


def test_a_deadline_ends_the_wait_for_a_load_which_goes_on(public: Public) -> None:
    late = post(public, "/v2/models/slow-to-load/infer", ONE, shoal_timeout_ms="50")
    assert late.status_code == 504
    assert "model 'slow-to-load' was not ready within 0.05 s" in late.json()["error"]
    described = public.server.http.get(
        "/v2/models/slow-to-load", headers={"shoal-timeout-ms": "50"}
    )
    assert described.status_code == 504
    public.open("slow-to-load")
    assert post(public, "/v2/models/slow-to-load/infer", ONE).status_code == 200


def test_a_deadline_that_has_passed_is_not_waited_for(public: Public) -> None:
    for model in ("echo", "handled"):
        assert post(public, f"/v2/models/{model}/infer", ONE, shoal_timeout_ms="0").status_code == 504


@pytest.mark.parametrize("given", ["9" * 300, "9" * 5000, "1"])
def test_any_number_is_a_deadline(public: Public, given: str) -> None:
    post(public, "/v2/models/echo/infer", ONE)
    assert post(public, "/v2/models/echo/infer", ONE, shoal_timeout_ms=given).status_code == 200


@pytest.mark.parametrize("given", ["soon", "-1", "1.5", "1e3", "5s", "\xb2"])
def test_what_is_no_number_of_milliseconds_is_refused(public: Public, given: str) -> None:
    for path in ("/v2/models/echo/infer", "/v1/models/pair:predict", "/v2/repository/index"):
        answer = public.server.http.post(
            path, content=json.dumps(ONE), headers={"shoal-timeout-ms": given.encode("latin-1")}
        )
        assert answer.status_code == 400
        assert "whole number of milliseconds" in answer.json()["error"]


# --- many at once -------------------------------------------------------------------------------


def test_a_hundred_requests_for_a_cold_model_load_it_once(public: Public) -> None:
    def ask(number: int) -> float:
        request = {"inputs": [{**ONE["inputs"][0], "data": [number]}]}
        answer = post(public, "/v2/models/slow-to-fetch/infer", request)
        return float(answer.json()["outputs"][0]["data"][0])

    with ThreadPoolExecutor(20) as threads:
        answers = threads.map(ask, range(100))
        waiting = "/metrics"
        until(
            lambda: "shoal_waiting_requests 20.0" in metrics(public, waiting), "twenty that wait"
        )
        public.open("slow-to-fetch")
        assert list(answers) == [float(number) for number in range(100)]
    story = public.server.client.explain("slow-to-fetch")
    assert [event.kind for event in story.events].count("load_started") == 1


def metrics(public: Public, path: str = "/metrics") -> str:
    connection = http.client.HTTPConnection(urlsplit(public.server.management).netloc)
    connection.request("GET", path)
    page = connection.getresponse().read().decode()
    connection.close()
    return page


def test_requests_for_several_models_do_not_mix(public: Public) -> None:
    wrong: list[object] = []

    def ask(seed: int) -> None:
        client = http.client.HTTPConnection(urlsplit(public.server.url).netloc)
        for number in range(50):
            value = seed * 1000 + number
            model = ("echo", "counted", "stats")[number % 3]
            body = {"id": str(value), "inputs": [{**ONE["inputs"][0], "data": [value]}]}
            client.request("POST", f"/v2/models/{model}/infer", json.dumps(body))
            answer = json.loads(client.getresponse().read())
            if (answer["id"], answer["model_name"], answer["outputs"][0]["data"]) != (
                str(value), model, [value],
            ):
                wrong.append(answer)
        client.close()

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- statistics, metrics, logs ------------------------------------------------------------------


def test_statistics_count_what_a_version_did(public: Public) -> None:
    def stats(path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = public.server.http.get(path).json()["model_stats"]
        return found

    (before,) = stats("/v2/models/iris/stats")
    request = public.cases["iris"].request
    for _ in range(3):
        assert post(public, "/v2/models/iris/infer", request).status_code == 200
    assert post(public, "/v2/models/iris/infer", ONE | {"inputs": []}).status_code == 400
    (after,) = stats("/v2/models/iris/versions/1/stats")
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["execution_count"] - before["execution_count"] == 3
    assert after["last_inference"] > 1.7e12  # milliseconds
    told, told_before = after["inference_stats"], before["inference_stats"]
    assert told["fail"]["count"] - told_before["fail"]["count"] == 1
    for kind in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert told[kind]["count"] - told_before[kind]["count"] == 3
    assert 0 < told["compute_infer"]["ns"] < told["success"]["ns"] < 60e9
    assert [(s["name"], s["version"]) for s in stats("/v2/models/prices/stats")] == [
        ("prices", "1"), ("prices", "2"),
    ]


def test_metrics_count_by_model_protocol_and_code(public: Public) -> None:
    def counted() -> dict[tuple[str, str, str], float]:
        found = {}
        for line in metrics(public).splitlines():
            if line.startswith("shoal_requests_total{"):
                labels, value = line.removeprefix("shoal_requests_total{").split("} ")
                named = dict(label.split("=") for label in labels.split(","))
                key = tuple(named[key].strip('"') for key in ("model", "protocol", "code"))
                found[key] = float(value)
        return found  # type: ignore[return-value]

    before = counted()
    for _ in range(3):
        post(public, "/v2/models/counted/infer", ONE)
    post(public, "/v2/models/counted/infer", {})
    post(public, "/v1/models/counted:predict", {"instances": [1]})
    post(public, "/v2/models/who-is-this/infer", ONE)
    post(public, "/v2/models/who:is-this/infer", ONE)
    post(public, "/v1/models/who%20is%20this:predict", {})
    public.server.http.get("/v2/models/counted")
    after = counted()
    grown = {key: n - before.get(key, 0) for key, n in after.items() if n != before.get(key, 0)}
    assert grown == {
        ("counted", "v2", "200"): 3, ("counted", "v2", "400"): 1, ("counted", "v1", "400"): 1,
        ("_none", "v2", "404"): 2, ("_none", "v1", "404"): 1,
    }
    assert "who" not in metrics(public)


def test_a_request_id_is_taken_returned_and_logged(public: Public) -> None:
    answer = post(public, "/v2/models/echo/infer", ONE, x_request_id="order-66")
    assert answer.headers["x-request-id"] == "order-66"
    until(lambda: logged(public, "order-66"), "its line in the log")
    line = logged(public, "order-66")
    assert line is not None
    assert (line["event"], line["model"], line["protocol"]) == ("request", "echo", "v2")
    assert line["code"] == 200
    assert 0 < float(str(line["took_ms"])) < 60_000


def logged(public: Public, request_id: str) -> dict[str, object] | None:
    return next(
        (line for line in list(public.server.logs)
         if line.get("event") == "request" and line.get("request_id") == request_id), None,
    )


def test_errors_get_a_request_id_of_their_own(public: Public) -> None:
    ids = [
        public.server.http.get("/nowhere").headers["x-request-id"],
        post(public, "/v2/models/echo/infer", {}).headers["x-request-id"],
        post(public, "/v2/models/echo/infer", {}, x_request_id="a b").headers["x-request-id"],
        post(public, "/v2/models/echo/infer", {}, x_request_id="y" * 129).headers["x-request-id"],
    ]
    assert len(set(ids)) == 4
    for each in ids:
        until(lambda each=each: logged(public, each), "its line in the log")
    problem = logged(public, ids[1])
    assert problem is not None
    assert "inputs" in str(problem["problem"])


def test_a_request_id_comes_only_where_it_is_wanted(guarded: Served) -> None:
    assert "x-request-id" not in guarded.http.get("/v2").headers
    assert guarded.http.get("/v2", headers={"x-request-id": "7"}).headers["x-request-id"] == "7"
    assert "x-request-id" in guarded.http.get("/nowhere").headers
    assert guarded.find("request") is None  # log.requests is off


# --- the repository -----------------------------------------------------------------------------


def test_the_index_tells_what_each_model_is_up_to(public: Public) -> None:
    post(public, "/v2/models/prices/infer", public.cases["prices"].request)
    post(public, "/v2/models/broken/infer", ONE)
    index = post(public, "/v2/repository/index", {}).json()
    by_name = {(entry["name"], entry["version"]): entry for entry in index}
    assert by_name["prices", "2"] == {
        "name": "prices", "version": "2", "state": "READY", "reason": "",
    }
    assert by_name["broken", "1"]["state"] == "UNAVAILABLE"
    assert "there are no weights" in by_name["broken", "1"]["reason"]
    assert by_name["vast", "1"]["state"] == "UNAVAILABLE"
    ready = public.server.http.post("/v2/repository/index", json={"ready": True}).json()
    assert {entry["state"] for entry in ready} == {"READY"}
    assert public.server.http.post("/v2/repository/index").json() == index


def test_unloading_takes_a_model_out_of_service_until_it_is_loaded(public: Public) -> None:
    load, unload = (f"/v2/repository/models/counted/{what}" for what in ("load", "unload"))
    assert post(public, load, {}).json() == {"name": "counted", "load": True}
    assert post(public, unload, {"parameters": {"unload_dependents": False}}).json() == {
        "name": "counted", "unload": True,
    }
    refused = post(public, "/v2/models/counted/infer", ONE)
    assert (refused.status_code, refused.headers["shoal-error-code"]) == (503, "UNLOADED")
    assert public.server.http.get("/v2/models/counted/ready").status_code == 503
    assert public.server.http.post(load).status_code == 200
    assert post(public, "/v2/models/counted/infer", ONE).status_code == 200


def test_a_load_that_fails_says_why(public: Public) -> None:
    answer = post(public, "/v2/repository/models/broken/load", {})
    assert answer.status_code == 503
    assert "there are no weights" in answer.json()["error"]


def test_a_load_takes_no_other_configuration(public: Public) -> None:
    body = {"parameters": {"config": "{}"}}
    answer = post(public, "/v2/repository/models/echo/load", body)
    assert answer.status_code == 400
    assert "config" in answer.json()["error"]


def test_the_public_port_changes_nothing_unless_told_to(guarded: Served) -> None:
    for what in ("load", "unload"):
        answer = guarded.http.post(f"/v2/repository/models/echo/{what}")
        assert (answer.status_code, answer.headers["shoal-error-code"]) == (403, "NOT_ALLOWED")
        assert "--request-repository-control" in answer.json()["error"]
    assert guarded.http.post("/v2/repository/index").json() == []


# --- no room ------------------------------------------------------------------------------------


def test_a_model_for_which_there_is_no_room_says_when_to_come_back(public: Public) -> None:
    until(lambda: post(public, "/v2/models/heavy/infer", ONE).status_code == 200, "heavy")
    refused = post(public, "/v2/models/bulky/infer", ONE)
    assert (refused.status_code, refused.headers["shoal-error-code"]) == (503, "NO_ROOM")
    assert int(refused.headers["retry-after"]) > 0
    assert "pinned" in refused.json()["error"]


def test_a_model_larger_than_the_budget_is_not_worth_a_retry(public: Public) -> None:
    refused = post(public, "/v2/models/vast/infer", ONE)
    assert (refused.status_code, refused.headers["shoal-error-code"]) == (503, "TOO_LARGE")
    assert "retry-after" not in refused.headers
