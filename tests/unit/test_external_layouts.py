"""Model repositories of Triton and MLServer, made out of artifacts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shoal.domain.errors import InvalidArtifact, InvalidSpecification, ShoalError
from shoal.domain.model import JsonValue
from shoal.domain.signature import TensorSpec
from shoal.external.interface import ToLoad
from shoal.external.mlserver import MlserverLayout, write_server_settings
from shoal.external.servers import brings_its_runtime
from shoal.external.triton import TritonLayout
from shoal.ports import Artifact

INPUTS = (TensorSpec("x", "FP32", (-1, 4)),)
OUTPUTS = (TensorSpec("label", "BYTES", (-1,)),)


def to_load(path: Path, form: str, *, declared: bool = False, **options: JsonValue) -> ToLoad:
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text("a model")
    return ToLoad(
        id="m__1-0123456789ab", files_bytes=7, format_version=None,
        artifact=Artifact(
            model="m", version=1, path=path, format=form, options=options,
            inputs=INPUTS if declared else (), outputs=OUTPUTS if declared else ()))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(("file", "form", "name"), [
    ("iris.onnx", "onnx", "model.onnx"),
    ("net.pt", "pytorch", "model.pt"),
    ("graph.pb", "tensorflow", "model.graphdef"),
    ("engine.plan", "tensorrt", "model.plan"),
    ("code.py", "python", "model.py"),
    ("trees.json", "xgboost", "xgboost.json"),
    ("trees.ubj", "xgboost", "xgboost.ubj"),
    ("trees.txt", "lightgbm", "model.txt"),
    ("net.xml", "openvino", "model.xml"),
])
def test_a_file_gets_the_name_that_triton_wants(
    tmp_path: Path, models: Path, file: str, form: str, name: str
) -> None:
    path = tmp_path / "files" / file
    TritonLayout(models).add(to_load(path, form, declared=True))
    link = models / "m__1-0123456789ab" / "1" / name
    assert link.is_symlink()
    assert link.resolve() == path.resolve()


def test_a_saved_model_is_linked_as_a_folder(tmp_path: Path, models: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"x")
    TritonLayout(models).add(to_load(folder, "tensorflow"))
    link = models / "m__1-0123456789ab" / "1" / "model.savedmodel"
    assert (link / "saved_model.pb").is_file()


def test_what_lies_beside_a_model_comes_along(tmp_path: Path, models: Path) -> None:
    (tmp_path / "iris.onnx.data").write_bytes(b"weights")
    (tmp_path / "net.bin").write_bytes(b"weights")
    TritonLayout(models).add(to_load(tmp_path / "iris.onnx", "onnx"))
    version = models / "m__1-0123456789ab" / "1"
    assert (version / "iris.onnx.data").read_bytes() == b"weights"
    TritonLayout(models).add(to_load(tmp_path / "net.xml", "openvino"))
    assert (version / "model.bin").read_bytes() == b"weights"
    assert not (version / "model.onnx").exists()


def test_triton_completes_by_itself_what_it_can(tmp_path: Path, models: Path) -> None:
    TritonLayout(models).add(to_load(tmp_path / "iris.onnx", "onnx", declared=True))
    assert not (models / "m__1-0123456789ab" / "config.pbtxt").exists()


def test_triton_is_told_what_was_declared_where_it_cannot_know(
    tmp_path: Path, models: Path
) -> None:
    TritonLayout(models).add(to_load(tmp_path / "net.pt", "pytorch", declared=True))
    assert (models / "m__1-0123456789ab" / "config.pbtxt").read_text() == (
        'platform: "pytorch_libtorch"\n'
        "max_batch_size: 0\n"
        'input [{ name: "x" data_type: TYPE_FP32 dims: [-1, 4] }]\n'
        'output [{ name: "label" data_type: TYPE_STRING dims: [-1] }]\n')


def test_a_forest_takes_rows(tmp_path: Path, models: Path) -> None:
    TritonLayout(models).add(to_load(tmp_path / "trees.json", "xgboost", declared=True))
    config = (models / "m__1-0123456789ab" / "config.pbtxt").read_text()
    assert 'backend: "fil"' in config
    assert '"xgboost_json"' in config
    assert "max_batch_size: 32768" in config
    assert "dims: [4] }" in config
    assert "dims: [1] }" in config


@pytest.mark.parametrize(("file", "form", "problem"), [
    ("net.pt", "pytorch", "declare its 'inputs' and 'outputs', or give the option 'config'"),
    ("model.cbm", "catboost", "not known how Triton wants the format 'catboost'; known are onnx"),
])
def test_what_triton_could_not_load_is_refused(
    tmp_path: Path, models: Path, file: str, form: str, problem: str
) -> None:
    with pytest.raises(InvalidArtifact, match=problem):
        TritonLayout(models).add(to_load(tmp_path / file, form))


def test_a_given_configuration_is_taken_as_it_is(tmp_path: Path, models: Path) -> None:
    TritonLayout(models).add(to_load(tmp_path / "net.pt", "pytorch", config="max_batch_size: 8"))
    assert (models / "m__1-0123456789ab" / "config.pbtxt").read_text() == "max_batch_size: 8"


def test_a_folder_of_triton_is_taken_as_it_is_but_for_its_name(
    tmp_path: Path, models: Path
) -> None:
    folder = tmp_path / "iris"
    (folder / "3").mkdir(parents=True)
    (folder / "3" / "model.onnx").write_bytes(b"x")
    (folder / "config.pbtxt").write_text('name: "iris"\nbackend: "onnxruntime"\n')
    TritonLayout(models).add(to_load(folder, "onnx"))
    added = models / "m__1-0123456789ab"
    assert (added / "3" / "model.onnx").read_bytes() == b"x"
    assert (added / "config.pbtxt").read_text() == '\nbackend: "onnxruntime"\n'


def test_what_is_removed_leaves_the_artifact(tmp_path: Path, models: Path) -> None:
    layout = TritonLayout(models)
    layout.add(to_load(tmp_path / "iris.onnx", "onnx"))
    layout.remove("m__1-0123456789ab")
    layout.remove("never was")
    assert not list(models.iterdir())
    assert (tmp_path / "iris.onnx").read_text() == "a model"


# --- MLServer -------------------------------------------------------------------------------------


def settings(models: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(
        (models / "m__1-0123456789ab" / "model-settings.json").read_bytes())
    return found


def test_mlserver_is_told_the_class_the_files_and_what_was_declared(
    tmp_path: Path, models: Path
) -> None:
    path = tmp_path / "model.joblib"
    MlserverLayout(models).add(to_load(path, "sklearn", declared=True))
    assert settings(models) == {
        "name": "m__1-0123456789ab", "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": str(path), "version": None},
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "label", "datatype": "BYTES", "shape": [-1]}],
    }


def test_the_class_and_its_parameters_may_be_named(tmp_path: Path, models: Path) -> None:
    MlserverLayout(models).add(to_load(
        tmp_path / "m.bin", "ours", implementation="ours.Model", parameters={"extra": {"a": 1}}))
    found = settings(models)
    assert found["implementation"] == "ours.Model"
    assert found["parameters"] == {
        "extra": {"a": 1}, "uri": str(tmp_path / "m.bin"), "version": None}


def test_settings_that_come_with_the_model_are_kept_but_for_its_name(
    tmp_path: Path, models: Path
) -> None:
    folder = tmp_path / "iris"
    folder.mkdir()
    (folder / "model-settings.json").write_text(json.dumps({
        "name": "iris", "implementation": "ours.Model", "max_batch_size": 5,
        "parameters": {"uri": "./iris.joblib", "version": "v3"}}))
    MlserverLayout(models).add(to_load(folder, "sklearn"))
    found = settings(models)
    assert (found["name"], found["implementation"]) == ("m__1-0123456789ab", "ours.Model")
    assert found["max_batch_size"] == 5
    assert found["parameters"] == {"uri": str(folder / "iris.joblib"), "version": None}


@pytest.mark.parametrize(("form", "options", "error", "problem"), [
    ("onnx", {}, InvalidArtifact, "which class of MLServer loads the format 'onnx'.*'implementat"),
    ("sklearn", {"config": ""}, InvalidSpecification, "unknown options config; .*'parameters'"),
    ("sklearn", {"parameters": 3}, InvalidSpecification, "'parameters' must be an object"),
])
def test_what_mlserver_could_not_load_is_refused(
    tmp_path: Path, models: Path, form: str, options: dict[str, JsonValue],
    error: type[ShoalError], problem: str,
) -> None:
    with pytest.raises(error, match=problem):
        MlserverLayout(models).add(to_load(tmp_path / "m", form, declared=False, **options))


def test_mlserver_listens_on_the_ports_of_this_machine_alone(models: Path) -> None:
    write_server_settings(models, {"grpc_port": 1, "http_port": 2, "metrics_port": 3})
    found = json.loads((models / "settings.json").read_bytes())
    assert found["host"] == "127.0.0.1"
    assert (found["grpc_port"], found["http_port"], found["metrics_port"]) == (1, 2, 3)
    assert found["load_models_at_startup"] is False


def test_folders_that_name_their_own_code_are_known(tmp_path: Path) -> None:
    for name in ("config.pbtxt", "model-settings.json"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        assert not brings_its_runtime(folder)
        (folder / name).write_text("{}")
        assert brings_its_runtime(folder)
