"""Real models with known answers, over HTTP: JSON, binary, and through tritonclient.

The example models are always there; the models of `../shared/models` only on some machines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tritonclient.http as triton
from tests.served import Served

if TYPE_CHECKING:
    from examples.cases import Case

SHARED = Path(__file__).parents[3] / "shared" / "models"
SERVED_FORMATS = (
    "sklearn", "xgboost", "lightgbm", "onnx", "pytorch", "python", "openvino", "tensorflow",
)
NUMPY = {"FP32": "f4", "FP64": "f8", "INT64": "i8", "INT32": "i4", "BYTES": "O"}


def shared_cases() -> list[dict[str, Any]]:
    cases = SHARED / "cases.json"
    if not cases.exists():
        return []
    return [case for case in json.loads(cases.read_text()) if case["format"] in SERVED_FORMATS]


def served_name(case: dict[str, Any]) -> str:
    """After its path, unless the model says itself what it is called."""
    own = {"tensorflow/simple_string": "simple_string"}
    return own.get(case["model"], str(case["model"]).replace("/", "-"))


def case_id(case: dict[str, Any]) -> str:
    return str(case["model"]).replace("/", "-") + ("-argmax" if "expect_argmax" in case else "")


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, example_cases: tuple[Path, list[Case]]
) -> Iterator[Served]:
    """One server for the examples and, from a second folder, the shared models."""
    arguments: list[str | Path] = [example_cases[0]]
    if shared_cases():
        linked = tmp_path_factory.mktemp("shared")
        for case in shared_cases():
            name = served_name(case)
            if not (linked / name).exists():
                (linked / name).symlink_to(SHARED / case["model"])
        arguments += [linked, "--trust-locations", str(SHARED)]
    with Served(*arguments, data_dir=tmp_path_factory.mktemp("data")) as running:
        yield running


def array(tensor: dict[str, Any]) -> Any:
    data = tensor["data"]
    if tensor["datatype"] == "BYTES":
        data = [each.encode() for each in data]
    return np.array(data, dtype=NUMPY[tensor["datatype"]]).reshape(tensor["shape"])


def assert_same(found: Any, expected: dict[str, Any], tolerance: float) -> None:
    wanted = array(expected)
    assert list(found.shape) == expected["shape"]
    if wanted.dtype.kind == "f":
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=1e-6)
    else:
        assert found.tolist() == wanted.tolist()


def check_answer(answer: dict[str, Any], case: dict[str, Any]) -> None:
    outputs = {output["name"]: output for output in answer["outputs"]}
    for expected in case.get("expect", {}).get("outputs", []):
        output = outputs[expected["name"]]
        assert output["datatype"] == expected["datatype"]
        assert_same(array(output), expected, case.get("tolerance", 1e-4))
    for name, position in case.get("expect_argmax", {}).items():
        assert int(np.argmax(outputs[name]["data"])) == position


def ask_triton(server: Served, model: str, request: dict[str, Any], version: str = "") -> Any:
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    try:
        inputs = []
        for tensor in request["inputs"]:
            given = triton.InferInput(tensor["name"], tensor["shape"], tensor["datatype"])
            given.set_data_from_numpy(array(tensor), binary_data=True)
            inputs.append(given)
        return client.infer(model, inputs, model_version=version)
    finally:
        client.close()


class TestExamples:
    """Compared with what their own frameworks answered when they were made."""

    def test_each_answers_over_json(
        self, server: Served, example_cases: tuple[Path, list[Case]]
    ) -> None:
        for case in example_cases[1]:
            version = int(case.version) if case.version else None
            response = server.infer(case.model, case.request, version)
            assert response.status_code == 200, (case.model, response.text)
            check_answer(response.json(), {"expect": case.expect})
            assert response.json()["model_name"] == case.model

    def test_each_answers_in_binary_through_tritonclient(
        self, server: Served, example_cases: tuple[Path, list[Case]]
    ) -> None:
        for case in example_cases[1]:
            result = ask_triton(server, case.model, case.request, case.version or "")
            for expected in case.expect["outputs"]:
                assert_same(result.as_numpy(expected["name"]), expected, 1e-4)

    def test_each_answers_through_the_sdk(
        self, server: Served, example_cases: tuple[Path, list[Case]]
    ) -> None:
        for case in example_cases[1]:
            inputs = {tensor["name"]: array(tensor) for tensor in case.request["inputs"]}
            result = server.client.infer(case.model, inputs, version=case.version)
            for expected in case.expect["outputs"]:
                assert_same(result[expected["name"]], expected, 1e-4)

    def test_each_tells_its_inputs_and_outputs(
        self, server: Served, example_cases: tuple[Path, list[Case]]
    ) -> None:
        for case in example_cases[1]:
            metadata = server.http.get(f"/v2/models/{case.model}").json()
            assert metadata["platform"]
            asked = {tensor["name"] for tensor in case.request["inputs"]}
            assert {tensor["name"] for tensor in metadata["inputs"]} == asked
            assert all(t["datatype"] and t["shape"] for t in metadata["inputs"])
            answered = {tensor["name"] for tensor in case.expect["outputs"]}
            assert answered <= {tensor["name"] for tensor in metadata["outputs"]}

    def test_the_highest_version_answers_by_default(
        self, server: Served, example_cases: tuple[Path, list[Case]]
    ) -> None:
        versions = {case.version: case for case in example_cases[1] if case.model == "prices"}
        answer = server.infer("prices", versions["2"].request).json()
        assert answer["model_version"] == "2"
        check_answer(answer, {"expect": versions["2"].expect})


@pytest.mark.parametrize("case", shared_cases(), ids=case_id)
class TestShared:
    """Public models, compared with the answers that their documentation gives."""

    def test_answers_over_json(self, server: Served, case: dict[str, Any]) -> None:
        response = server.infer(served_name(case), case["request"])
        assert response.status_code == 200, response.text
        check_answer(response.json(), case)

    def test_answers_in_binary(self, server: Served, case: dict[str, Any]) -> None:
        result = ask_triton(server, served_name(case), case["request"])
        for expected in case.get("expect", {}).get("outputs", []):
            assert_same(result.as_numpy(expected["name"]), expected, case.get("tolerance", 1e-4))
        for name, position in case.get("expect_argmax", {}).items():
            assert int(np.argmax(result.as_numpy(name))) == position
