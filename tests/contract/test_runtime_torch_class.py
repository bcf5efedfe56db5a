"""PyTorch's classes with their weights, and weights alone."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.torch_files import load, refused

from shoal.domain.errors import (
    ArtifactMissing,
    InvalidArtifact,
    InvalidInput,
    InvalidSpecification,
    NotTrusted,
    RuntimeMissing,
)
from shoal.domain.signature import TensorSpec
from shoal.runtimes.python import PythonRuntime
from shoal.runtimes.pytorch import PyTorchRuntime
from shoal.runtimes.registry import RuntimeRegistry
from shoal.runtimes.torch_file import Kind, kind_of
from shoal.storage.trust import check_trusted

REGISTRY = RuntimeRegistry.installed()

NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self, width: int = 4, gives: str = "one"):
        super().__init__()
        self.layer = torch.nn.Linear(width, 3)
        self.gives = gives

    def forward(self, x, scale=1.0):
        y = self.layer(x) * scale
        return {"one": y, "two": (y, y.argmax(1)), "named": {"scores": y}}[self.gives]
"""
X = TensorSpec("x", "FP32", (-1, 4))
ONES = np.ones((2, 4), "f4")
LAYER = torch.nn.Linear(4, 3)
STATE = {f"layer.{name}": each for name, each in LAYER.state_dict().items()}


def network(folder: Path, source: str = NET, state: Any = STATE, name: str = "weights.pt",
            **files: str) -> Path:
    place = folder / "net"
    place.mkdir()
    (place / "model.py").write_text(source)
    for stem, text in files.items():
        (place / f"{stem}.py").write_text(text)
    if name.endswith(".safetensors"):
        save_file(state, place / name)
    else:
        torch.save(state, place / name)
    return place


def expected() -> Any:
    with torch.inference_mode():
        return LAYER(torch.from_numpy(ONES)).numpy()


@pytest.mark.parametrize("name", ["weights.pt", "model.pt", "best.pth", "model.safetensors"])
def test_a_class_answers_with_its_weights(tmp_path: Path, name: str) -> None:
    path = network(tmp_path, name=name)
    assert REGISTRY.recognise(path) == "pytorch"
    model = load(path, inputs=(X,))
    assert model.signature.inputs == (X,)
    assert model.signature.outputs == (TensorSpec("output", "FP32", (-1, 3)),)
    assert model.platform == "pytorch_module"
    assert (model.max_concurrency, model.may_wait) == (1, True)
    assert model.size_bytes() == sum(each.nbytes for each in STATE.values())
    np.testing.assert_array_equal(model.predict({"x": ONES}, {})["output"], expected())
    model.close()


@pytest.mark.parametrize(("gives", "names"), [
    ("two", ["output_0", "output_1"]), ("named", ["scores"]),
])
def test_a_class_may_give_several_tensors(tmp_path: Path, gives: str, names: list[str]) -> None:
    path = network(tmp_path)
    model = load(path, inputs=(X,), options={"arguments": {"gives": gives}})
    assert [spec.name for spec in model.signature.outputs] == names
    np.testing.assert_array_equal(model.predict({"x": ONES}, {})[names[0]], expected())


@pytest.mark.parametrize("gives", ["two", "one"])
def test_where_extents_are_open_declared_outputs_stand_in_order(tmp_path: Path, gives: str) -> None:
    path = network(tmp_path)
    outputs = (TensorSpec("scores", "FP32", (-1, -1)),)
    options = {"arguments": {"gives": gives}}
    model = load(path, inputs=(TensorSpec("x", "FP32", (-1, -1)),), outputs=outputs,
                 options=options)
    np.testing.assert_array_equal(model.predict({"x": ONES}, {})["scores"], expected())
    message = refused(path, InvalidSpecification, inputs=(TensorSpec("x", "FP32", (-1, -1)),))
    assert "declare them in a model.yaml" in message


def test_a_row_that_fails_is_told_where_outputs_are_not_declared(tmp_path: Path) -> None:
    message = refused(network(tmp_path), InvalidSpecification,
                      inputs=(TensorSpec("x", "FP32", (-1, 5)),))
    assert "one row of zeros fails: RuntimeError: mat1 and mat2 shapes" in message


def test_a_class_without_a_declaration_says_what_to_declare(tmp_path: Path) -> None:
    message = refused(network(tmp_path), InvalidSpecification)
    assert "Net takes x, but does not say of which datatype" in message
    assert "inputs: [{name: x, datatype: FP32, shape: [-1, 4]}]" in message


def test_a_network_takes_no_text(tmp_path: Path) -> None:
    message = refused(network(tmp_path), InvalidSpecification,
                      inputs=(TensorSpec("x", "BYTES", (-1,)),))
    assert "format python" in message


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_checkpoints_of_training_are_read(tmp_path: Path, key: str, prefix: str) -> None:
    wrapped = {prefix + name: each for name, each in STATE.items()}
    path = network(tmp_path, state={"epoch": 3, key: wrapped})
    model = load(path, inputs=(X,))
    np.testing.assert_array_equal(model.predict({"x": ONES}, {})["output"], expected())


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_weights_of_another_class_are_refused(tmp_path: Path, name: str) -> None:
    path = network(tmp_path, state={"layer.weight": torch.zeros(3, 5)}, name=name)
    message = refused(path, inputs=(X,))
    assert f"{name} does not fit the class Net" in message
    assert 'Missing key(s) in state_dict: "layer.bias"' in message
    assert "size mismatch for layer.weight" in message


def test_arguments_make_the_class_fit(tmp_path: Path) -> None:
    path = network(tmp_path, state=STATE | {"layer.weight": torch.zeros(3, 5)})
    model = load(path, inputs=(TensorSpec("x", "FP32", (-1, 5)),),
                 options={"arguments": {"width": 5}})
    assert model.predict({"x": np.zeros((1, 5), "f4")}, {})["output"].shape == (1, 3)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("ran",))


@pytest.mark.parametrize("state", [Evil(), {"layer": Evil()}, LAYER])
def test_weights_run_no_code(
    tmp_path: Path, state: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    message = refused(network(tmp_path, state=state), inputs=(X,))
    assert "holds more than weights" in message
    assert "torch.save(net.state_dict()" in message
    assert capfd.readouterr().out == ""


def test_weights_that_are_no_tensors_by_name_are_refused(tmp_path: Path) -> None:
    assert "holds no tensors by name" in refused(network(tmp_path, state=[1, 2]), inputs=(X,))


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
def test_half_written_weights_are_refused(tmp_path: Path, name: str, kept: float) -> None:
    path = network(tmp_path, name=name)
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[: int(len(data) * kept)])
    assert REGISTRY.recognise(path) == "pytorch"
    assert name in refused(path, inputs=(X,))


def test_several_files_of_weights_need_a_choice(tmp_path: Path) -> None:
    path = network(tmp_path)
    save_file({name: each * 0 for name, each in STATE.items()}, path / "zero.safetensors")
    assert "weights.pt, zero.safetensors" in refused(path, inputs=(X,))
    model = load(path, inputs=(X,), options={"weights": "zero.safetensors"})
    assert not model.predict({"x": ONES}, {})["output"].any()
    refused(path, ArtifactMissing, inputs=(X,), options={"weights": "gone.pt"})
    refused(path, InvalidSpecification, inputs=(X,), options={"weights": "../net/weights.pt"})


TWO = NET + "\nclass Head(torch.nn.Module):\n    def forward(self, x):\n        return x\n"


def test_several_classes_need_a_choice(tmp_path: Path) -> None:
    path = network(tmp_path, TWO)
    assert "it has Net, Head of torch.nn.Module" in refused(path, InvalidSpecification)
    for name in ("Net", "model:Net"):
        model = load(path, inputs=(X,), options={"class": name})
        np.testing.assert_array_equal(model.predict({"x": ONES}, {})["output"], expected())
    assert "has no network Nut" in refused(path, InvalidSpecification, options={"class": "Nut"})
    refused(path, ArtifactMissing, options={"class": "gone:Net"})
    refused(path, InvalidSpecification, options={"class": 3})
    refused(path, InvalidSpecification, options={"class": "Net", "arguments": [1]})
    message = refused(path, InvalidSpecification,
                      options={"class": "Net", "arguments": {"depth": 1}})
    assert "unexpected keyword argument 'depth'" in message


def test_a_class_may_use_files_beside_it(tmp_path: Path) -> None:
    source = NET.replace("torch.nn.Linear(width, 3)", "parts.layer(width)")
    path = network(tmp_path, source.replace("import torch\n", "import torch\nimport parts\n"),
                   parts="import torch\ndef layer(n):\n    return torch.nn.Linear(n, 3)\n")
    model = load(path, inputs=(X,))
    np.testing.assert_array_equal(model.predict({"x": ONES}, {})["output"], expected())


@pytest.mark.parametrize(("source", "kind", "reason"), [
    (NET + "\nimport nonexistent_package", RuntimeMissing, "imports 'nonexistent_package'"),
    (NET + "\n1 / 0", InvalidArtifact, "ZeroDivisionError"),
    (NET.replace("super", "undefined"), InvalidArtifact, "making its Net failed at model.py line"),
])
def test_what_fails_in_the_class_is_told_with_its_line(
    tmp_path: Path, source: str, kind: type[Exception], reason: str
) -> None:
    assert reason in refused(network(tmp_path, source), kind, inputs=(X,))


def test_wrong_data_for_a_class_are_the_callers(tmp_path: Path) -> None:
    model = load(network(tmp_path), inputs=(X,))
    with pytest.raises(InvalidInput, match="mat1 and mat2 shapes cannot be multiplied"):
        model.predict({"x": np.zeros((2, 5), "f4")}, {})


# --- whose folder is it? -------------------------------------------------------------------------

SERVED = "class Model:\n    def predict(self, inputs, parameters):\n        return inputs\n"


@pytest.mark.parametrize(("source", "files", "form"), [
    (NET, {}, "pytorch"),
    (NET.replace("torch.nn.Module", "Base") + SERVED, {}, "python"),
    (NET, {"serve": SERVED.replace("Model", "Server")}, "python"),
    (NET, {"parts": "class Head(Module):\n    pass\n"}, "pytorch"),
    (NET.replace("class Net", "class Model"), {}, "pytorch"),
    (NET.replace("def forward", "def predict").replace("(torch.nn.Module)", ""), {}, "python"),
    ("from net import Net as Model\n", {"net": NET}, "python"),
    ("class Model(\n", {}, "python"),
])
def test_a_folder_is_a_networks_or_a_served_classs(
    tmp_path: Path, source: str, files: dict[str, str], form: str
) -> None:
    path = network(tmp_path, source, **files)
    claims = [name for name in REGISTRY.formats() if REGISTRY.get(name).recognise(path, b"")]
    assert claims == [form]


def test_a_class_without_weights_is_a_served_one(tmp_path: Path) -> None:
    path = network(tmp_path)
    (path / "weights.pt").rename(path / "weights.bin")
    assert not PyTorchRuntime().recognise(path, b"")
    assert PythonRuntime().recognise(path, b"")
    assert "holds no weights" in refused(path, inputs=(X,))


def test_a_folder_of_hugging_face_is_another_formats(tmp_path: Path) -> None:
    path = network(tmp_path, name="model.safetensors")
    (path / "config.json").write_text('{"model_type": "bert"}')
    assert not PyTorchRuntime().recognise(path, b"")
    (path / "config.json").write_text('{"width": 4}')
    assert PyTorchRuntime().recognise(path, b"")
    (path / "MLmodel").touch()
    assert not PyTorchRuntime().recognise(path, b"")


def test_a_class_is_loaded_from_trusted_places_alone(tmp_path: Path) -> None:
    path = network(tmp_path)
    assert PyTorchRuntime().runs_code(path)
    with pytest.raises(NotTrusted, match="can run code"):
        check_trusted(str(path), path, "pytorch", [str(tmp_path / "other")])


# --- weights alone -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "legacy.pth"])
def test_weights_alone_say_what_is_missing(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".safetensors"):
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=name == "model.pt")
    assert REGISTRY.recognise(path) == "pytorch"
    assert not PyTorchRuntime().runs_code(path)
    message = refused(path)
    assert "put it into a folder with a model.py that has their class" in message
    assert "torch.export.save" in message


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt2", "model.pt"])
def test_other_files_under_pytorchs_names_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes/readme.txt", "nothing")
    assert kind_of(path) is Kind.UNKNOWN
    assert "cut off, damaged, or no" in refused(path)
