"""Models that are converted once they are asked often, as clients and operators see them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import joblib
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from tests.served import Served, until

ROWS, SPECIES = load_iris(return_X_y=True)
REQUEST: dict[str, Any] = {"inputs": [
    {"name": "predict", "datatype": "FP64", "shape": [3, 4], "data": ROWS[::50].ravel().tolist()}
], "outputs": [{"name": "predict"}, {"name": "predict_proba"}]}
LABELS: dict[str, Any] = {"inputs": REQUEST["inputs"]}
ENOUGH = 12  # requests, after which it is tried


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("models")
    classifier = LogisticRegression(max_iter=500).fit(ROWS, SPECIES)
    for name, model, wish in (
        ("wanted", classifier, "auto"), ("unwanted", classifier, None),
        ("cannot", KMeans(3, n_init=1, random_state=0).fit(ROWS), "auto"),
    ):
        joblib.dump(model, folder / f"{name}.joblib")
        if wish is not None:
            (folder / f"{name}.yaml").write_text(f"optimize: {wish}\n")
    with Served(folder, data_dir=tmp_path_factory.mktemp("data")) as running:
        yield running


def asked_often(server: Served, model: str, request: dict[str, Any]) -> dict[str, Any]:
    """The first answer."""
    answers = [server.infer(model, request).raise_for_status().json() for _ in range(ENOUGH)]
    return answers[0]  # type: ignore[no-any-return]


def note(server: Served, model: str) -> str | None:
    return server.client.explain(model).model.versions[0].optimized


def platform(server: Served, model: str) -> str:
    return str(server.http.get(f"/v2/models/{model}").json()["platform"])


def test_a_model_that_is_asked_often_is_converted(server: Served) -> None:
    server.infer("wanted", REQUEST)
    told = server.client.explain("wanted").summary
    assert any("once it has answered 10 requests" in line for line in told)
    before = server.http.get("/v2/models/wanted").json()
    first = asked_often(server, "wanted", REQUEST)
    until(lambda: note(server, "wanted"), "an outcome")
    assert "converted to ONNX: " in str(note(server, "wanted"))
    assert server.http.get("/v2/models/wanted").json() == {
        **before, "platform": "onnxruntime_sklearn",
    }
    again = server.infer("wanted", REQUEST).json()
    for old, new in zip(first["outputs"], again["outputs"], strict=True):
        assert {**old, "data": None} == {**new, "data": None}
        assert new["data"] == pytest.approx(old["data"], rel=1e-9)
    story = server.client.explain("wanted")
    assert any(line.startswith("It is converted to ONNX: ") for line in story.summary)
    assert any(event.kind == "optimized" for event in story.events)


def test_what_cannot_be_converted_says_why(server: Served) -> None:
    asked_often(server, "cannot", LABELS)
    until(lambda: note(server, "cannot"), "an outcome")
    assert str(note(server, "cannot")).startswith("not converted to ONNX: it is neither")
    assert platform(server, "cannot") == "sklearn"


def test_nothing_is_converted_unless_somebody_wants_it(server: Served) -> None:
    asked_often(server, "unwanted", REQUEST)
    asked_often(server, "wanted", REQUEST)
    until(lambda: note(server, "wanted"), "an outcome of the other")
    assert note(server, "unwanted") is None
    assert platform(server, "unwanted") == "sklearn"
