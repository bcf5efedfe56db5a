"""The short ways into XGBoost, LightGBM and ONNX Runtime answer exactly as the public ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightgbm
import numpy as np
import onnx
import onnxruntime
import pytest
import xgboost
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.datasets import load_diabetes, load_iris

from shoal.domain.errors import InvalidInput
from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact
from shoal.runtimes.lightgbm_call import Predictor
from shoal.runtimes.onnx import OnnxRuntime
from shoal.runtimes.onnx_session import open_session
from shoal.runtimes.xgboost_call import in_place

IRIS, SPECIES = load_iris(return_X_y=True)
SUGAR, PROGRESS = load_diabetes(return_X_y=True)

Rows = NDArray[np.floating]


def odd(rows: Rows, dtype: type[np.floating]) -> list[Rows]:
    """The same rows in every form that may come."""
    holes = rows.astype(dtype)
    holes[::2, 1] = np.nan
    return [
        rows[:1].astype(dtype), rows.astype(dtype), holes, holes[:1], np.asfortranarray(holes),
        holes[::-1], holes[:5].astype(np.float64 if dtype is np.float32 else np.float32),
        np.full((1, rows.shape[1]), np.inf, dtype),
    ]


# --- XGBoost ------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", [
    {"objective": "multi:softprob", "num_class": 3}, {"objective": "multi:softmax", "num_class": 3},
    {"objective": "reg:squarederror"}, {"objective": "reg:squarederror", "num_parallel_tree": 3},
], ids=["classes", "labels", "numbers", "forest"])
def test_xgboost_answers_as_its_own_method(parameters: dict[str, object]) -> None:
    booster = xgboost.train({"nthread": 1, **parameters}, xgboost.DMatrix(IRIS, SPECIES), 5)
    call = in_place(xgboost, booster)
    assert call.__name__ == "call"  # the short one
    for rows in odd(IRIS, np.float32):
        expected = booster.inplace_predict(rows, validate_features=False)
        answer = call(rows)
        assert answer.dtype == expected.dtype
        np.testing.assert_array_equal(answer, expected)


def test_answers_of_xgboost_outlive_the_next_call() -> None:
    booster = xgboost.train({"nthread": 1}, xgboost.DMatrix(SUGAR, PROGRESS), 5)
    call = in_place(xgboost, booster)
    rows = SUGAR.astype(np.float32)
    first = call(rows[:3])
    kept = first.copy()
    call(rows[10:13])
    np.testing.assert_array_equal(first, kept)


def test_threads_do_not_get_each_others_answers_from_xgboost() -> None:
    booster = xgboost.train({"nthread": 1}, xgboost.DMatrix(SUGAR, PROGRESS), 5)
    call = in_place(xgboost, booster)
    rows = SUGAR.astype(np.float32)
    expected = booster.inplace_predict(rows)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda at: call(rows[at : at + 7]), range(300)))
    for at, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, expected[at : at + 7])


def test_another_xgboost_is_called_by_its_public_method() -> None:
    booster = xgboost.train({"nthread": 1}, xgboost.DMatrix(SUGAR, PROGRESS), 5)
    strange: Any = SimpleNamespace(core=SimpleNamespace())
    call = in_place(strange, booster)
    rows = SUGAR[:3].astype(np.float32)
    np.testing.assert_array_equal(call(rows), booster.inplace_predict(rows))


# --- LightGBM -----------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", [
    {"objective": "multiclass", "num_class": 3}, {"objective": "regression"},
    {"objective": "binary"},
], ids=["classes", "numbers", "two classes"])
def test_lightgbm_answers_as_its_own_method(parameters: dict[str, object]) -> None:
    target = SPECIES > 0 if parameters["objective"] == "binary" else SPECIES
    booster = lightgbm.train(
        {"num_threads": 1, "verbose": -1, **parameters}, lightgbm.Dataset(IRIS, target), 5)
    call = Predictor(lightgbm, booster, 1)
    assert call._one_row is not None  # there is a short way
    for rows in odd(IRIS, np.float64):
        expected = booster.predict(rows)
        answer = call(rows)
        assert answer.dtype == expected.dtype
        np.testing.assert_array_equal(answer, expected)


def test_threads_do_not_get_each_others_answers_from_lightgbm() -> None:
    booster = lightgbm.train(
        {"num_threads": 1, "verbose": -1}, lightgbm.Dataset(SUGAR, PROGRESS), 5)
    call = Predictor(lightgbm, booster, 1)
    expected = booster.predict(SUGAR)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda at: call(SUGAR[at : at + 1]), range(len(SUGAR))))
    np.testing.assert_array_equal(np.concatenate(answers), expected)


def test_another_lightgbm_is_called_by_its_public_method() -> None:
    booster = lightgbm.train(
        {"num_threads": 1, "verbose": -1}, lightgbm.Dataset(SUGAR, PROGRESS), 5)
    strange: Any = SimpleNamespace(basic=SimpleNamespace())
    call = Predictor(strange, booster, 1)
    np.testing.assert_array_equal(call(SUGAR[:1]), booster.predict(SUGAR[:1]))


# --- ONNX Runtime -------------------------------------------------------------------------------


def convolution(folder: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])],
        "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, 2, 2])],
        [helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 3, 3], [1.0] * 9)],
    )
    return _saved(graph, folder)


def affine(folder: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"]), helper.make_node("Neg", ["y"], ["z"])],
        "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in "yz"],
        [helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0]),
         helper.make_tensor("b", TensorProto.FLOAT, [2], [0.5, -0.5])],
    )
    return _saved(graph, folder)


def _saved(graph: onnx.GraphProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


X = np.array([[1.0, 2.0]], np.float32)
Y = [[7.5, 9.5]]


def test_outputs_come_by_name_and_only_those_asked_for(tmp_path: Path) -> None:
    model = OnnxRuntime().load(Artifact("m", 1, affine(tmp_path), "onnx"))
    assert {name: each.tolist() for name, each in model.predict({"x": X}, {}).items()} == {
        "y": Y, "z": [[-7.5, -9.5]]}
    assert list(model.predict({"x": X}, {}, ("z",))) == ["z"]
    assert list(model.predict({"x": X}, {}, ("z", "y"))) == ["z", "y"]


@pytest.mark.parametrize(("inputs", "reason"), [
    ({}, "input 'x' is missing"),
    ({"x": X.astype(np.float64)}, "Unexpected input data type"),
    ({"x": X[0]}, "Invalid rank"),
    ({"x": np.zeros((1, 3), np.float32)}, "invalid dimensions"),
    ({"x": np.array([[b"a", b"b"]], object)}, "refuses the data"),
], ids=["missing", "datatype", "rank", "width", "text"])
def test_wrong_data_are_refused_without_being_looked_at_before(
    tmp_path: Path, inputs: dict[str, NDArray[np.generic]], reason: str
) -> None:
    model = OnnxRuntime().load(Artifact("m", 1, affine(tmp_path), "onnx"))
    with pytest.raises(InvalidInput, match=reason):
        model.predict(inputs, {})
    assert model.predict({"x": X}, {})["y"].tolist() == Y


def test_renamed_and_converted_tensors_still_fit(tmp_path: Path) -> None:
    model = OnnxRuntime().load(Artifact(
        "m", 1, affine(tmp_path), "onnx", inputs=(TensorSpec("in", "FP64", (-1, 2)),),
        outputs=(TensorSpec("y", "FP64", (-1, 2)),),
    ))
    answer = model.predict({"in": X.astype(np.float64)}, {})
    assert list(answer) == ["y"]
    assert answer["y"].dtype == np.float64
    assert answer["y"].tolist() == Y


def test_a_tiny_graph_takes_less_memory_than_one_that_is_optimised_fully(tmp_path: Path) -> None:
    tiny = open_session(onnxruntime, affine(tmp_path), 1)
    whole = open_session(onnxruntime, convolution(tmp_path), 1)
    assert tiny.size_bytes < whole.size_bytes
    image = np.ones((1, 1, 4, 4), np.float32)
    (answer,) = whole.run(["y"], {"x": image}, None)
    np.testing.assert_array_equal(np.asarray(answer), np.full((1, 1, 2, 2), 9.0))
    (answer,) = open_session(onnxruntime, affine(tmp_path).read_bytes(), 1).run(
        ["y"], {"x": X}, None)
    np.testing.assert_array_equal(np.asarray(answer), Y)
