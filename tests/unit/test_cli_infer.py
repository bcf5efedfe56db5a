"""`shoal infer`: what it reads and what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.canned_server import CannedServer, json_of
from tests.canned_views import Shoal

V2_ANSWER = {
    "model_name": "churn",
    "model_version": "3",
    "outputs": [{"name": "label", "datatype": "INT64", "shape": [2], "data": [1, 0]}],
}


@pytest.fixture
def churn(server: CannedServer) -> CannedServer:
    server.answers("POST /v2/models/churn/infer", json_of(V2_ANSWER))
    server.answers("POST /v1/models/churn:predict", json_of({"predictions": [1, "b", [0.5]]}))
    server.answers(
        "GET /v2/models/churn",
        json_of({"name": "churn", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}]}),
    )
    return server


def test_infer_takes_plain_values(churn: CannedServer, shoal: Shoal) -> None:
    result = shoal("infer", "churn", "--data", "[[1, 2]]")
    assert result.stdout == "label  INT64 [2]\n  [1, 0]\n"
    body = churn.asked[-1].json
    assert body == {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2],
                                "data": [1.0, 2.0]}]}  # fmt: skip


def test_infer_prints_the_answer_as_json(churn: CannedServer, shoal: Shoal) -> None:
    assert json.loads(shoal("infer", "churn", "--data", "[1]", "--json").stdout) == V2_ANSWER


def test_infer_sends_a_v2_body_as_it_is(churn: CannedServer, shoal: Shoal) -> None:
    body = {"id": "7", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}
    result = shoal("infer", "churn", "-", "--output", "label", stdin=json.dumps(body))
    assert result.stdout == "label  INT64 [2]\n  [1, 0]\n"
    assert churn.asked[-1].json == {**body, "outputs": [{"name": "label"}]}
    assert json.loads(shoal("infer", "churn", "--json", stdin=json.dumps(body)).stdout) == V2_ANSWER


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ('{"instances": [[1]]}', {"instances": [[1]]}),
        ('{"inputs": {"a": [1]}}', {"inputs": {"a": [1]}}),
        ('[{"a": 1}]', {"instances": [{"a": 1}]}),
    ],
)
def test_infer_sends_v1_bodies_and_rows(
    given: str, sent: object, churn: CannedServer, shoal: Shoal
) -> None:
    assert shoal("infer", "churn", "--data", given).stdout == "1\nb\n[0.5]\n"
    assert churn.asked[-1].json == sent


def test_infer_takes_columns_by_name(churn: CannedServer, shoal: Shoal) -> None:
    assert shoal("infer", "churn", "--data", '{"a": [1], "b": ["x"]}').exit_code == 0
    assert [entry["name"] for entry in churn.asked[-1].json["inputs"]] == ["a", "b"]  # type: ignore[index]


def test_infer_takes_numpy_files(churn: CannedServer, shoal: Shoal, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1.5]], np.float32))
    assert shoal("infer", "churn", str(tmp_path / "x.npy")).exit_code == 0
    assert churn.asked[-1].json["inputs"][0]["data"] == [1.5]  # type: ignore[index]


def test_infer_takes_tables(churn: CannedServer, shoal: Shoal, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("age,score,city\n30,1.5,Bonn\n40,2,Köln\n")
    assert shoal("infer", "churn", str(tmp_path / "rows.csv")).exit_code == 0
    body = churn.asked[-1].json
    assert body["parameters"] == {"content_type": "pd"}  # type: ignore[index]
    inputs = {entry["name"]: (entry["datatype"], entry["shape"], entry["data"])
              for entry in body["inputs"]}  # type: ignore[index]  # fmt: skip
    assert inputs == {
        "age": ("INT64", [2, 1], [30, 40]),
        "score": ("FP64", [2, 1], [1.5, 2.0]),
        "city": ("BYTES", [2, 1], ["Bonn", "Köln"]),
    }


def test_missing_numbers_of_a_table_need_the_binary_form(
    churn: CannedServer, shoal: Shoal, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n1,x\n,y\n")
    result = shoal("infer", "churn", str(tmp_path / "rows.csv"))
    assert result.exit_code == 5
    assert "binary" in result.stderr
    assert shoal("infer", "churn", str(tmp_path / "rows.csv"), "--binary").exit_code == 0
    assert churn.asked[-1].headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.json", "{", "not valid JSON"),
        ("a.json", "7", "neither a V2 body"),
        ("a.json", '{"a": 1}', "neither a V2 body"),
        ("a.npy", "nonsense", "not a readable .npy file"),
        ("a.csv", "a,b\n", "at least one of values"),
        ("a.csv", "a,b\n1\n", "row 2 has 1 values for 2 columns"),
        (None, "", "cannot be read"),
    ],
)
def test_infer_says_what_is_wrong_with_its_data(
    name: str | None, content: str, complaint: str, shoal: Shoal, tmp_path: Path
) -> None:
    file = tmp_path / (name or "missing")
    if name:
        file.write_text(content)
    result = shoal("infer", "churn", str(file))
    assert result.exit_code == 5
    assert complaint in result.stderr


def test_infer_refuses_choices_that_v1_lacks(shoal: Shoal) -> None:
    for flags in (["--version", "1"], ["--output", "y"]):
        result = shoal("infer", "churn", "--data", '{"instances": [1]}', *flags)
        assert result.exit_code == 5
        assert flags[0] in result.stderr


def test_infer_takes_one_source(shoal: Shoal) -> None:
    assert shoal("infer", "churn", "file.json", "--data", "[1]").exit_code == 2
