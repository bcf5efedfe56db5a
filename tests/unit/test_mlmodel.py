"""`MLmodel`: when the framework's own file is served, and what the signature says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.storage_fakes import SuffixFinder, put

from shoal.domain.model import ModelSpec
from shoal.domain.signature import TensorSpec
from shoal.storage.artifact import find_artifact
from shoal.storage.declare import declare
from shoal.storage.formats import Found
from shoal.storage.mlmodel import native
from shoal.storage.mlserver import parse_model_settings

Fields = dict[str, Any]
SKLEARN: Fields = {"pickled_model": "model.pkl", "serialization_format": "cloudpickle"}
COLUMNS = [{"type": "double", "name": "area", "required": True},
           {"type": "string", "name": "town", "required": True}]


def saved(folder: Path, flavor: str, fields: Fields, signature: Fields | None = None,
          **pyfunc: object) -> Path:
    """A folder as MLflow writes it, with an empty file for the model."""
    sides = {side: json.dumps(said) for side, said in (signature or {}).items()}
    put(folder / "MLmodel", yaml.safe_dump({
        "flavors": {
            "python_function": {"loader_module": f"mlflow.{flavor}", **pyfunc}, flavor: fields,
        },
        "signature": sides or None, "mlflow_version": "3.17.2",
    }))
    put(folder / "requirements.txt", "")
    put(folder / str(fields.get("pickled_model") or fields.get("data")))
    return folder


def found(folder: Path) -> Found | None:
    return native(folder, SuffixFinder())


@pytest.mark.parametrize(("flavor", "fields", "name", "form"), [
    ("sklearn", SKLEARN, "model.pkl", "sklearn"),
    ("xgboost", {"data": "model.ubj", "model_class": "xgboost.core.Booster"}, "model.ubj",
     "xgboost"),
    ("xgboost", {"data": "model.model"}, "model.model", "xgboost"),
    ("lightgbm", {"data": "model.pkl", "model_class": "lightgbm.sklearn.LGBMClassifier"},
     "model.pkl", "sklearn"),
    ("onnx", {"data": "model.onnx"}, "model.onnx", "onnx"),
])
def test_a_frameworks_own_file_is_found(tmp_path: Path, flavor: str, fields: Fields, name: str,
                                        form: str) -> None:
    assert found(saved(tmp_path, flavor, fields)) == Found(tmp_path / name, form)


@pytest.mark.parametrize(("flavor", "fields"), [
    ("xgboost", {"data": "model.ubj", "model_class": "xgboost.sklearn.XGBClassifier"}),
    ("lightgbm", {"data": "model.joblib", "model_class": "lightgbm.sklearn.LGBMClassifier"}),
    ("sklearn", {**SKLEARN, "skops_trusted_types": ["my.Type"]}),
    ("sklearn", {**SKLEARN, "code": "code"}),
    ("sklearn", {"pickled_model": "model.unknown"}),
    ("sklearn", {"pickled_model": "../model.pkl"}),
    ("catboost", {"data": "model.onnx", "model_type": "CatBoost"}),
    ("spark", {"data": "model.pkl"}),
], ids=["wrapped", "types", "skops", "code", "unknown", "outside", "labels", "spark"])
def test_what_only_mlflow_answers_is_left_to_it(tmp_path: Path, flavor: str, fields: Fields
                                                ) -> None:
    assert found(saved(tmp_path / "m", flavor, fields)) is None


def test_own_code_and_other_loaders_are_left_to_mlflow(tmp_path: Path) -> None:
    assert found(saved(tmp_path / "a", "sklearn", SKLEARN, code="code")) is None
    assert found(saved(tmp_path / "b", "sklearn", SKLEARN, loader_module="mine")) is None


def test_columns_of_the_signature_become_inputs(tmp_path: Path) -> None:
    model = found(saved(tmp_path, "sklearn", SKLEARN, {
        "inputs": COLUMNS, "outputs": [{"type": "long", "name": "price"}],
    }))
    assert model is not None
    assert model.inputs == (TensorSpec("area", "FP64", (-1,)), TensorSpec("town", "BYTES", (-1,)))
    assert model.outputs == (TensorSpec("price", "INT64", (-1,)),)


def test_tensors_without_a_name_are_left_to_the_framework(tmp_path: Path) -> None:
    tensor = {"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 4]}}
    model = found(saved(tmp_path, "sklearn", SKLEARN, {"inputs": [tensor], "outputs": [tensor]}))
    assert model == Found(tmp_path / "model.pkl", "sklearn")


def test_a_named_tensor_keeps_datatype_and_shape(tmp_path: Path) -> None:
    tensor = {"type": "tensor", "name": "x", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}
    model = found(saved(tmp_path, "sklearn", SKLEARN, {"inputs": [tensor]}))
    assert model is not None
    assert model.inputs == (TensorSpec("x", "FP32", (-1, 4)),)


def test_another_function_than_predict_is_asked_for_by_its_name(tmp_path: Path) -> None:
    tensor = {"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 3]}}
    model = found(saved(tmp_path / "a", "sklearn", SKLEARN, {"outputs": [tensor]},
                        predict_fn="predict_proba"))
    assert model is not None
    assert model.outputs == (TensorSpec("predict_proba", "FP64", (-1, 3)),)
    assert found(saved(tmp_path / "b", "sklearn", SKLEARN, predict_fn="score")) is None


@pytest.mark.parametrize("signature", [
    {"inputs": [{"type": "double", "name": "a", "required": False}]},
    {"inputs": [{"type": "datetime", "name": "a"}]},
    {"inputs": [{"type": "tensor", "tensor-spec": {"dtype": "complex64", "shape": [-1]}}]},
    {"inputs": {"no": "list"}},
    {"params": [{"name": "k", "type": "double", "default": 1.0}]},
], ids=["optional", "datetime", "complex", "mapping", "parameters"])
def test_signatures_that_only_mlflow_honours_are_left_to_it(tmp_path: Path, signature: Fields
                                                            ) -> None:
    assert found(saved(tmp_path, "sklearn", SKLEARN, signature)) is None


def test_networks_describe_themselves(tmp_path: Path) -> None:
    model = found(saved(tmp_path, "onnx", {"data": "model.onnx"}, {"inputs": COLUMNS}))
    assert model == Found(tmp_path / "model.onnx", "onnx")


def test_onnx_with_weights_in_a_file_of_any_name_is_left_to_mlflow(tmp_path: Path) -> None:
    saved(tmp_path, "onnx", {"data": "model.onnx"})
    put(tmp_path / "26ff5184-e5d0-11f1-8d8a-02fc00000001.data")
    assert found(tmp_path) is None


@pytest.mark.parametrize("text", ["", "- a\n", "a: [", "a: &b 1\nc: *b\n", "flavors: none\n"])
def test_what_cannot_be_read_is_left_to_mlflow(tmp_path: Path, text: str) -> None:
    put(tmp_path / "MLmodel", text)
    assert found(tmp_path) is None


def test_a_broken_signature_is_left_to_mlflow(tmp_path: Path) -> None:
    saved(tmp_path, "sklearn", SKLEARN)
    path = tmp_path / "MLmodel"
    path.write_text(path.read_text().replace("signature: null", "signature: {inputs: '['}"))
    assert found(tmp_path) is None


def test_a_folder_without_the_file_is_nothing_of_mlflows(tmp_path: Path) -> None:
    assert found(tmp_path) is None


def test_another_format_that_is_asked_for_wins(tmp_path: Path) -> None:
    saved(tmp_path, "sklearn", SKLEARN)
    put(tmp_path / "other.onnx")
    assert find_artifact(tmp_path, SuffixFinder()).format == "sklearn"
    assert find_artifact(tmp_path, SuffixFinder(), "sklearn").path == tmp_path / "model.pkl"
    assert find_artifact(tmp_path, SuffixFinder(), "onnx").path == tmp_path / "other.onnx"


def test_each_version_has_a_signature_of_its_own(tmp_path: Path) -> None:
    saved(tmp_path / "1", "sklearn", SKLEARN)
    saved(tmp_path / "2", "sklearn", SKLEARN, {"inputs": COLUMNS})
    record = declare(ModelSpec(name="m", uri=str(tmp_path)), SuffixFinder(), registered_at=0)
    assert [revision.uri for revision in record.revisions] == [
        str(tmp_path / version / "model.pkl") for version in "12"
    ]
    assert [len(revision.inputs) for revision in record.revisions] == [0, 2]


def test_what_is_registered_wins_over_the_signature(tmp_path: Path) -> None:
    saved(tmp_path, "sklearn", SKLEARN, {"inputs": COLUMNS})
    inputs = (TensorSpec("x", "FP32", (-1, 2)),)
    record = declare(ModelSpec(name="m", uri=str(tmp_path), inputs=inputs), SuffixFinder(),
                     registered_at=0)
    assert record.revisions[0].inputs == inputs


def test_mlservers_settings_lead_to_it() -> None:
    settings = json.dumps({"implementation": "mlserver_mlflow.MLflowRuntime",
                           "parameters": {"uri": "./model"}})
    described = parse_model_settings(settings, Path("/m/model-settings.json"))
    assert described.spec.format is None
    assert described.spec.uri == "./model"
