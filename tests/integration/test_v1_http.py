"""KServe's V1 protocol over HTTP, as clients meet it."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.integration.conftest import Public


def predict(public: Public, model: str, body: object, **headers: str) -> Any:
    return public.post(f"/v1/models/{model}:predict", body, **headers)


def rows_of(public: Public, model: str) -> list[list[float]]:
    (tensor,) = public.cases[model].request["inputs"]
    return np.array(tensor["data"]).reshape(tensor["shape"]).tolist()  # type: ignore[no-any-return]


def answer_of(public: Public, model: str, output: int = 0) -> Any:
    tensor = public.cases[model].expect["outputs"][output]
    return np.array(tensor["data"]).reshape(tensor["shape"]).tolist()


def test_models_are_listed_and_ready(public: Public) -> None:
    assert "iris" in public.server.http.get("/v1/models").json()["models"]
    answer = public.server.http.get("/v1/models/iris")
    assert answer.json() == {"name": "iris", "ready": True}
    assert public.server.http.get("/v1/models/prices/versions/1").status_code == 200


def test_what_is_unknown_or_broken_is_not_ready(public: Public) -> None:
    assert public.server.http.get("/v1/models/nope").status_code == 404
    predict(public, "broken", {"instances": [1]})
    answer = public.server.http.get("/v1/models/broken")
    assert answer.status_code == 503
    assert "there are no weights" in answer.json()["error"]


@pytest.mark.parametrize("field", ["instances", "inputs"])
def test_rows_are_predicted(public: Public, field: str) -> None:
    answer = predict(public, "iris", {field: rows_of(public, "iris")})
    assert answer.json() == {"predictions": answer_of(public, "iris")}
    assert answer.headers["content-type"] == "application/json"


def test_columns_are_predicted(public: Public) -> None:
    answer = predict(public, "iris", {"inputs": {"predict": rows_of(public, "iris")}})
    assert answer.json() == {"predictions": answer_of(public, "iris")}


@pytest.mark.parametrize(
    "kind",
    [
        "application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "text/plain",
        "application/x-www-form-urlencoded", "application/vnd.acme+json", "nonsense",
    ],
)
def test_any_content_type_is_taken_for_json(public: Public, kind: str) -> None:
    answer = predict(public, "iris", {"instances": rows_of(public, "iris")}, content_type=kind)
    assert answer.json() == {"predictions": answer_of(public, "iris")}


def test_no_content_type_is_taken_for_json_as_well(public: Public) -> None:
    connection = http.client.HTTPConnection(urlsplit(public.server.url).netloc)
    body = json.dumps({"instances": rows_of(public, "iris")})
    connection.request("POST", "/v1/models/iris:predict", body)
    assert json.loads(connection.getresponse().read())["predictions"] == answer_of(public, "iris")
    connection.close()


def frame(public: Public) -> dict[str, list[Any]]:
    return {t["name"]: t["data"] for t in public.cases["penguins"].request["inputs"]}


def test_a_list_of_dicts_is_a_data_frame(public: Public) -> None:
    columns = frame(public)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    answer = predict(public, "penguins", {"instances": rows})
    assert answer.json() == {"predictions": answer_of(public, "penguins")}


def test_a_dict_of_columns_is_a_data_frame(public: Public) -> None:
    answer = predict(public, "penguins", {"inputs": frame(public)})
    assert answer.json() == {"predictions": answer_of(public, "penguins")}


def test_rows_in_the_models_order_are_a_data_frame(public: Public) -> None:
    rows = list(map(list, zip(*frame(public).values(), strict=True)))
    answer = predict(public, "penguins", {"instances": rows})
    assert answer.json() == {"predictions": answer_of(public, "penguins")}


def test_several_outputs_are_an_object_for_each_row(public: Public) -> None:
    answer = predict(public, "iris-net", {"instances": rows_of(public, "iris-net")}).json()
    assert "predictions" in answer, answer
    labels = [row["label"] for row in answer["predictions"]]
    assert labels == answer_of(public, "iris-net")
    probabilities = [row["probabilities"] for row in answer["predictions"]]
    np.testing.assert_allclose(probabilities, answer_of(public, "iris-net", 1), rtol=1e-5)


def test_several_inputs_come_by_name(public: Public) -> None:
    rows = [{"left": [1, 2], "right": 0.5}, {"left": [3, 4], "right": -1}]
    columns = {"left": [[1, 2], [3, 4]], "right": [0.5, -1]}
    for body in ({"instances": rows}, {"inputs": columns}):
        predictions = predict(public, "pair", body).json()["predictions"]
        assert predictions["sum"] == [3.5, 6.0]
        assert predictions["text"] == ["3.5", "6"]


def test_text_and_bytes_are_taken(public: Public) -> None:
    encoded = base64.b64encode("ä".encode()).decode()
    body = {"instances": ["ö", {"b64": encoded}]}
    assert predict(public, "text", body).json() == {"predictions": ["ö", "ä"]}
    raw = base64.b64encode(b"\xff").decode()
    assert predict(public, "text", {"instances": [{"b64": raw}]}).json() == {
        "predictions": [{"b64": raw}]
    }


def test_a_version_is_chosen_by_the_path(public: Public) -> None:
    rows = rows_of(public, "prices")
    newest = predict(public, "prices", {"instances": rows}).json()
    second = predict(public, "prices/versions/2", {"instances": rows}).json()
    first = predict(public, "prices/versions/1", {"instances": rows}).json()
    assert newest == second
    assert first != second
    assert predict(public, "prices/versions/9", {"instances": rows}).status_code == 404


def test_the_colon_may_be_escaped(public: Public) -> None:
    answer = public.server.http.post(
        "/v1/models/iris%3Apredict", json={"instances": rows_of(public, "iris")}
    )
    assert answer.json() == {"predictions": answer_of(public, "iris")}


def test_bodies_are_compressed_both_ways(public: Public) -> None:
    body = {"instances": rows_of(public, "iris") * 300}
    answer = public.server.http.post(
        "/v1/models/iris:predict", content=gzip.compress(json.dumps(body).encode()),
        headers={"content-encoding": "gzip", "accept-encoding": "deflate"},
    )
    assert answer.headers["content-encoding"] == "deflate"
    assert answer.json()["predictions"] == answer_of(public, "iris") * 300


def test_nan_is_null(public: Public) -> None:
    assert predict(public, "not-a-number", {"instances": [1, 2]}).json() == {
        "predictions": [None, None]
    }


# --- what is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "body", "said"),
    [
        ("iris", {}, "either 'instances' (a list of rows) or 'inputs'"),
        ("iris", {"instances": [[1] * 4], "inputs": [[1] * 4]}, "this one has both"),
        ("iris", {"instances": []}, "'instances' is empty"),
        ("iris", {"instances": 5}, "instances: expected a list, got an integer"),
        ("iris", {"instances": [[1, 2, 3]]}, "has the shape [1, 3], but the model takes [-1, 4]"),
        ("iris", {"instances": [[1, 2], [3]]}, "differ in length"),
        ("iris", {"instances": [["a"] * 4]}, "got a string"),
        ("iris", {"instances": [[1, 2, 3, None]]}, "JSON has no NaN"),
        ("pair", {"instances": [[1]]}, "each row must be an object with the names 'left', 'right'"),
        ("pair", {"instances": [{"left": [1, 2]}]}, "row 0 lacks 'right'"),
        ("pair", {"instances": [{"left": [1, 2], "right": 1, "up": 2}]}, "the unknown 'up'"),
        ("pair", {"inputs": {"left": [[1, 2]], "down": [1]}}, "lacks 'right' and has the unknown"),
        ("penguins", {"instances": [[1]]}, "row 0 has 1 values"),
        ("penguins", {"instances": [{"island": "Dream"}]}, "lacks 'sex', 'bill_length_mm'"),
        ("echo", {"instances": [1]}, "the model declares no inputs"),
        ("text", {"instances": [{"b64": "%"}]}, "not valid base64"),
    ],
)
def test_wrong_requests_are_told_what_is_wrong(
    public: Public, model: str, body: object, said: str
) -> None:
    answer = predict(public, model, body)
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]


def test_binary_tensors_belong_to_v2(public: Public) -> None:
    answer = predict(public, "iris", {}, inference_header_content_length="2")
    assert answer.status_code == 400
    assert "V1 protocol has no binary tensors" in answer.json()["error"]


def test_other_verbs_are_not_known(public: Public) -> None:
    assert public.server.http.post("/v1/models/iris:explain", json={}).status_code == 404
    wrong = public.server.http.get("/v1/models/iris:predict")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    wrong = public.server.http.post("/v1/models/iris", json={})
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD")
