"""Runtimes that are told a device: what they say where what is installed cannot use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch

from shoal.domain.errors import AcceleratorFull, InvalidArtifact, RuntimeMissing
from shoal.ports import Accelerated, Accelerating, Artifact
from shoal.runtimes.onnx import OnnxRuntime
from shoal.runtimes.python import PythonRuntime
from shoal.runtimes.pytorch import PyTorchRuntime
from shoal.runtimes.torch_device import bytes_on, finding_room, lacks_room

DEVICE = "cuda:0"
on_a_processor_alone = pytest.mark.skipif(
    torch.cuda.is_available() or "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
    reason="there is a CUDA device here")


def artifact(path: Path, form: str, **more: Any) -> Artifact:
    return Artifact("m", 1, path, form, device=DEVICE, **more)


@on_a_processor_alone
def test_pytorch_for_processors_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"not looked at")
    with pytest.raises(RuntimeMissing, match=r"'m' is to run on cuda:0, and the torch installed "
                                             r"here \(.*\) cannot use it; install one"):
        PyTorchRuntime().load(artifact(path, "pytorch"))


@on_a_processor_alone
def test_onnx_runtime_for_processors_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "g",
        [value("x", onnx.TensorProto.FLOAT, [None])], [value("y", onnx.TensorProto.FLOAT, [None])])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    with pytest.raises(RuntimeMissing, match="install onnxruntime-gpu in its place"):
        OnnxRuntime().load(artifact(path, "onnx"))


CLASS = '''
class Model:
    def load(self, folder, options):
        self.options = options

    def predict(self, inputs, parameters):
        return {"device": [self.options.get("device", "none")]}

    def accelerator_bytes(self):
        return %s
'''


def python_model(folder: Path, told: str) -> Path:
    (folder / "model.py").write_text(CLASS % told)
    return folder


def test_a_python_model_is_told_its_device_and_says_what_it_takes_there(tmp_path: Path) -> None:
    model = PythonRuntime().load(artifact(python_model(tmp_path, "77"), "python"))
    assert isinstance(model, Accelerated)
    assert model.accelerator_bytes() == 77
    assert model.predict({}, {})["device"].tolist() == [b"cuda:0"]
    model.close()


def test_a_python_model_on_the_processor_takes_nothing_there(tmp_path: Path) -> None:
    path = python_model(tmp_path, "77")
    model = PythonRuntime().load(Artifact("m", 1, path, "python"))
    assert isinstance(model, Accelerated)
    assert model.accelerator_bytes() == 0
    assert model.predict({}, {})["device"].tolist() == [b"none"]
    model.close()


def test_a_python_model_that_tells_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArtifact, match="accelerator_bytes of Model gave 'much'; it must"):
        PythonRuntime().load(artifact(python_model(tmp_path, "'much'"), "python"))


def test_want_of_the_devices_memory_is_told_from_other_errors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1024)
    full = pytest.raises(AcceleratorFull, match="cuda:0 has too little memory free")
    with full as raised, finding_room(torch, artifact(tmp_path, "pytorch")):
        raise RuntimeError("CUDA out of memory. Tried to allocate 1.50 MiB. GPU 0 has …")
    assert raised.value.needed_bytes == 3 * 2**19
    other = pytest.raises(RuntimeError, match="sizes do not match")
    with other, finding_room(torch, artifact(tmp_path, "pytorch")):
        raise RuntimeError("sizes do not match")
    assert lacks_room(torch, torch.OutOfMemoryError("…"))


def test_what_tensors_share_counts_once() -> None:
    tensor = torch.zeros(100)
    assert bytes_on([tensor, tensor[10:], torch.zeros(1)], "cpu") == 512 + 512
    assert bytes_on([tensor], DEVICE) == 0


@pytest.mark.parametrize("runtime", [OnnxRuntime, PyTorchRuntime, PythonRuntime],
                         ids=lambda runtime: runtime.format)
def test_they_say_on_what_they_can_run(runtime: Any) -> None:
    assert isinstance(runtime(), Accelerating)
    assert "cuda" in runtime.accelerators
