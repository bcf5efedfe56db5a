"""ONNX and TorchScript: what is particular to models of tensors."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from shoal.domain.errors import InvalidArtifact, InvalidInput, InvalidSpecification
from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact, LoadedModel
from shoal.runtimes.onnx import OnnxRuntime
from shoal.runtimes.pytorch import PyTorchRuntime
from shoal.storage.digest import parts_of

Info = tuple[str, int, list[Any] | None]


def graph(folder: Path, nodes: list[Any], takes: list[Info], gives: list[Any],
          **artifact: Any) -> LoadedModel:
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(*info) for info in takes],
        [helper.make_tensor_value_info(*info) if isinstance(info, tuple) else info
         for info in gives],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    path = folder / "model.onnx"
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=9), path)
    return OnnxRuntime().load(Artifact("m", 1, path, "onnx", **artifact))


def identity(folder: Path, kind: int, shape: list[Any] | None, **artifact: Any) -> LoadedModel:
    return graph(folder, [helper.make_node("Identity", ["x"], ["y"])], [("x", kind, shape)],
                 [("y", kind, shape)], **artifact)


@pytest.mark.parametrize(("kind", "datatype", "data"), [
    (TensorProto.STRING, "BYTES", np.array([["é".encode(), b"b"]], dtype=object)),
    (TensorProto.BOOL, "BOOL", np.array([[True, False]])),
    (TensorProto.FLOAT16, "FP16", np.array([[1.5, 2]], dtype=np.float16)),
    (TensorProto.UINT8, "UINT8", np.array([[1, 2]], dtype=np.uint8)),
    (TensorProto.INT64, "INT64", np.array([[1, 2]])),
])
def test_onnx_keeps_datatypes(tmp_path: Path, kind: int, datatype: str, data: Any) -> None:
    model = identity(tmp_path, kind, ["n", 2])
    assert model.signature.inputs == (TensorSpec("x", datatype, (-1, 2)),)
    answer = model.predict({"x": data}, {})["y"]
    assert answer.dtype == data.dtype
    assert answer.tolist() == data.tolist()


def test_onnx_refuses_another_datatype_or_shape(tmp_path: Path) -> None:
    model = identity(tmp_path, TensorProto.FLOAT, ["n", 2])
    assert not model.signature.converts
    for wrong in (np.zeros((1, 2)), np.zeros((1, 3), np.float32), np.zeros(2, np.float32)):
        with pytest.raises(InvalidInput, match="refuses the data") as raised:
            model.predict({"x": wrong}, {})
        assert "ONNXRuntimeError" not in raised.value.message


def test_onnx_converts_where_another_number_is_declared(tmp_path: Path) -> None:
    model = identity(
        tmp_path, TensorProto.FLOAT, ["n", 2],
        inputs=(TensorSpec("a", "FP64", (-1, 2)),), outputs=(TensorSpec("b", "INT32", (-1, 2)),),
    )
    answer = model.predict({"a": np.array([[1.0, 2.0]])}, {})["b"]
    assert answer.dtype == np.int32
    assert answer.tolist() == [[1, 2]]


def test_onnx_values_out_of_range_are_the_callers(tmp_path: Path) -> None:
    model = graph(
        tmp_path, [helper.make_node("Gather", ["d", "i"], ["y"])],
        [("d", TensorProto.FLOAT, ["n"]), ("i", TensorProto.INT64, ["k"])],
        [("y", TensorProto.FLOAT, ["k"])],
    )
    with pytest.raises(InvalidInput, match="out of data bounds"):
        model.predict({"d": np.zeros(3, np.float32), "i": np.array([9])}, {})


def test_onnx_inputs_of_two_lengths_are_the_callers(tmp_path: Path) -> None:
    model = graph(
        tmp_path, [helper.make_node("Add", ["a", "b"], ["y"])],
        [("a", TensorProto.FLOAT, ["n"]), ("b", TensorProto.FLOAT, ["m"])],
        [("y", TensorProto.FLOAT, None)],
    )
    with pytest.raises(InvalidInput):
        model.predict({"a": np.zeros(3, np.float32), "b": np.zeros(2, np.float32)}, {})


def test_an_onnx_input_of_any_rank_is_shown_as_a_guess(tmp_path: Path) -> None:
    model = identity(tmp_path, TensorProto.FLOAT, None)
    assert model.signature.guessed
    assert model.predict({"x": np.ones((2, 3), np.float32)}, {})["y"].shape == (2, 3)


def zipmap(folder: Path, **labels: Any) -> LoadedModel:
    kind = TensorProto.STRING if "classlabels_strings" in labels else TensorProto.INT64
    output = helper.make_value_info("y", helper.make_sequence_type_proto(
        helper.make_map_type_proto(kind, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    ))
    node = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", **labels)
    return graph(folder, [node], [("x", TensorProto.FLOAT, ["n", 3])], [output])


@pytest.mark.parametrize("labels", [
    {"classlabels_int64s": [0, 1, 2]}, {"classlabels_strings": ["a", "b", "c"]},
])
def test_maps_of_class_to_probability_become_rows(tmp_path: Path, labels: dict[str, Any]) -> None:
    model = zipmap(tmp_path, **labels)
    assert model.signature.outputs == (TensorSpec("y", "FP32", (-1, -1)),)
    rows = np.array([[0.5, 0.25, 0.25], [1, 0, 0]], np.float32)
    answer = model.predict({"x": rows}, {})["y"]
    assert answer.dtype == np.float32
    assert answer.tolist() == rows.tolist()


def test_onnx_of_unknown_operations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArtifact, match="Fishify"):
        graph(tmp_path, [helper.make_node("Fishify", ["x"], ["y"])],
              [("x", TensorProto.FLOAT, [1])], [("y", TensorProto.FLOAT, [1])])


def test_onnx_of_the_future_says_what_to_do(tmp_path: Path) -> None:
    identity(tmp_path, TensorProto.FLOAT, [1])
    path = tmp_path / "model.onnx"
    model = onnx.load(path)
    model.opset_import[0].version = 999
    onnx.save(model, path)
    with pytest.raises(InvalidArtifact, match="upgrade onnxruntime"):
        OnnxRuntime().load(Artifact("m", 1, path, "onnx"))


def test_too_many_declared_inputs_are_refused(tmp_path: Path) -> None:
    spec = TensorSpec("x", "FP32", (1,))
    with pytest.raises(InvalidSpecification, match="2 inputs are declared"):
        identity(tmp_path, TensorProto.FLOAT, [1], inputs=(spec, TensorSpec("z", "FP32", (1,))))
    with pytest.raises(InvalidSpecification, match="under one name"):
        graph(
            tmp_path, [helper.make_node("Add", ["a", "b"], ["y"])],
            [("a", TensorProto.FLOAT, [1]), ("b", TensorProto.FLOAT, [1])],
            [("y", TensorProto.FLOAT, [1])], inputs=(spec, spec),
        )


WEIGHTS = np.arange(300, dtype=np.float32).reshape(3, 100)


def external(folder: Path, location: str, place: str, nested: bool = False) -> Path:
    """A model whose weights lie at `place` and are looked for at `location`."""
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / place).write_bytes(WEIGHTS.tobytes())
    weights = numpy_helper.from_array(WEIGHTS, "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("length", str(WEIGHTS.nbytes))):
        weights.external_data.add(key=key, value=value)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    if nested:
        nodes = [helper.make_node("Constant", [], ["w"], value=weights), *nodes]
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 100])],
        [] if nested else [weights],
    )
    path = folder / "models" / "m.onnx"
    path.parent.mkdir(exist_ok=True)
    opsets = [helper.make_opsetid("", 17)]
    path.write_bytes(helper.make_model(made, opset_imports=opsets, ir_version=9)
                     .SerializeToString())
    return path


@pytest.mark.parametrize("location", ["m.onnx.data", "m.onnx_data", "./m.onnx.data"])
def test_onnx_weights_in_a_file_that_belongs_to_the_model_are_read(
    tmp_path: Path, location: str
) -> None:
    path = external(tmp_path, location, f"models/{location}")
    assert set(parts_of(path)) == {path, path.with_name(Path(location).name)}
    model = OnnxRuntime().load(Artifact("m", 1, path, "onnx"))
    answer = model.predict({"x": np.ones((1, 3), np.float32)}, {})["y"]
    assert answer.tolist() == WEIGHTS.sum(0, keepdims=True).tolist()
    size = model.size_bytes()
    assert size is not None
    assert size > WEIGHTS.nbytes


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("location", "place"), [
    ("weights.bin", "models/weights.bin"),
    ("m.onnx-data", "models/m.onnx-data"),
    ("parts/m.onnx.data", "models/parts/m.onnx.data"),
    ("../m.onnx.data", "m.onnx.data"),
    ("/etc/hostname", "models/unused"),
])
def test_onnx_weights_in_other_files_are_refused(
    tmp_path: Path, location: str, place: str, nested: bool
) -> None:
    path = external(tmp_path, location, place, nested)
    with pytest.raises(InvalidArtifact) as raised:
        OnnxRuntime().load(Artifact("m", 1, path, "onnx"))
    assert f"keeps weights in {location!r}, which is no part of it" in raised.value.message
    assert "location='m.onnx.data')" in raised.value.message


def test_onnx_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    path = external(tmp_path, "m.onnx.data", "elsewhere")
    with pytest.raises(InvalidArtifact, match=r"m\.onnx\.data"):
        OnnxRuntime().load(Artifact("m", 1, path, "onnx"))


def test_onnx_that_speaks_of_locations_keeps_its_weights_inside(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["location"], ["y"])]
    info = ("location", TensorProto.FLOAT, [1])
    model = graph(tmp_path, nodes, [info], [("y", TensorProto.FLOAT, [1])])
    assert model.predict({"location": np.ones(1, np.float32)}, {})["y"].tolist() == [1]
    path = tmp_path / "model.onnx"
    data = path.read_bytes()
    for end in range(1, len(data), 7):
        path.write_bytes(data[:end])
        with pytest.raises(InvalidArtifact):
            OnnxRuntime().load(Artifact("m", 1, path, "onnx"))


# --- ONNX Runtime's own format ------------------------------------------------------------------


@pytest.fixture(scope="module")
def ort(further: Callable[[str], tuple[Path, Any]]) -> Path:
    return further("ort")[0] / "iris-ort.ort"


def test_ort_files_are_known_by_their_mark(ort: Path, tmp_path: Path) -> None:
    data = ort.read_bytes()
    runtime = OnnxRuntime()
    assert runtime.recognise(ort, data[:4096])
    assert not runtime.recognise(ort, b"\0" * 4096)
    assert not runtime.recognise(tmp_path, b"")
    path = tmp_path / "model.ort"
    path.write_bytes(b"\0" * 100)
    with pytest.raises(InvalidArtifact, match="is no ORT file; copy it again, or convert it"):
        runtime.load(Artifact("m", 1, path, "onnx"))


def test_ort_files_are_read_by_their_suffix_alone(ort: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.ORT"
    path.write_bytes(ort.read_bytes())
    with pytest.raises(InvalidArtifact, match=r"rename it to model\.ort"):
        OnnxRuntime().load(Artifact("m", 1, path, "onnx"))


def test_damaged_ort_files_are_refused(ort: Path, tmp_path: Path) -> None:
    data, chance, path = ort.read_bytes(), random.Random(3), tmp_path / "model.ort"
    for _ in range(20):
        changed = bytearray(data)
        for _ in range(5):
            changed[chance.randrange(8, 400)] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        with suppress(InvalidArtifact):  # or it was a weight
            OnnxRuntime().load(Artifact("m", 1, path, "onnx")).close()
    path.write_bytes(data[:-4])
    with pytest.raises(InvalidArtifact, match="it is cut off or damaged"):
        OnnxRuntime().load(Artifact("m", 1, path, "onnx"))


def test_ort_files_have_their_own_answer(ort: Path) -> None:
    model = OnnxRuntime().load(Artifact("m", 1, ort, "onnx"))
    rows = np.array([[5.1, 3.5, 1.4, 0.2]], "f4")
    session = onnxruntime.InferenceSession(ort, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"measures": rows})
    answer = model.predict({"measures": rows}, {})
    assert answer["label"].tolist() == expected[0].tolist()
    assert answer["probabilities"].tolist() == expected[1].tolist()


# --- TorchScript --------------------------------------------------------------------------------


def script(folder: Path, module: torch.nn.Module, **artifact: Any) -> LoadedModel:
    path = folder / "model.pt"
    with warnings.catch_warnings():  # TorchScript is deprecated
        warnings.simplefilter("ignore")
        torch.jit.script(module.eval()).save(str(path))
    return PyTorchRuntime().load(Artifact("m", 1, path, "pytorch", **artifact))


class Pair(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.names = torch.nn.Embedding(7, 3)
        self.sizes = torch.nn.Linear(4, 3)

    def forward(self, ids: torch.Tensor, size: torch.Tensor, scale: float = 1.0
                ) -> tuple[torch.Tensor, torch.Tensor]:
        total = self.names(ids).sum(1) + self.sizes(torch.relu(size)) * scale
        return total, total.argmax(1)


class Named(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"twice": x * 2, "half": x / 2}


class Listed(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [part * 2 for part in x]


class Growing(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for name in ("a", "b"):
            found[name] = x + len(found)
        return found


class Broken(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.sum() > 0, "the sky is empty"
        return x


class Many(torch.nn.Module):  # type: ignore[misc]
    def forward(self, xs: list[torch.Tensor]) -> torch.Tensor:
        return xs[0]


def test_torch_inputs_are_read_off_the_graph(tmp_path: Path) -> None:
    model = script(tmp_path, Pair())
    assert model.signature.inputs == (
        TensorSpec("ids", "INT64", (-1, -1)), TensorSpec("size", "FP32", (-1, 4)),
    )
    assert [spec.name for spec in model.signature.outputs] == ["output_0", "output_1"]
    assert not model.signature.guessed
    answer = model.predict({"ids": np.ones((2, 5), np.int64), "size": np.ones((2, 4), "f4")}, {})
    assert answer["output_1"].dtype == np.int64


@pytest.mark.parametrize(("module", "shape"), [
    (torch.nn.Conv1d(4, 2, 3), (-1, 4, -1)),
    (torch.nn.Conv2d(4, 2, 3, groups=2), (-1, 4, -1, -1)),
    (torch.nn.Conv3d(2, 2, 1), (-1, 2, -1, -1, -1)),
    (torch.nn.ConvTranspose1d(5, 2, 3), (-1, 5, -1)),
    (torch.nn.Linear(9, 2), (-1, 9)),
    (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.ReLU(), torch.nn.Linear(6, 2)), (-1, 6)),
])
def test_torch_shapes_come_from_the_first_weights(
    tmp_path: Path, module: torch.nn.Module, shape: tuple[int, ...]
) -> None:
    assert script(tmp_path, module).signature.inputs[0].shape == shape


def test_a_frozen_traced_module_shows_its_shapes(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(torch.nn.Linear(5, 2).eval(), torch.zeros(1, 5))
        torch.jit.freeze(traced).save(str(path))
    model = PyTorchRuntime().load(Artifact("m", 1, path, "pytorch"))
    assert model.signature.inputs[0].shape == (-1, 5)
    assert model.signature.outputs == (TensorSpec("output", "FP32", (-1, 2)),)


def test_torch_dictionaries_answer_by_key(tmp_path: Path) -> None:
    model = script(tmp_path, Named())
    assert [spec.name for spec in model.signature.outputs] == ["twice", "half"]
    assert model.signature.guessed
    answer = model.predict({"x": np.array([[2.0]])}, {})
    assert {name: array.tolist() for name, array in answer.items()} == {
        "twice": [[4.0]], "half": [[1.0]],
    }


def test_torch_lists_need_declared_outputs(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecification, match=r"declare them in a model\.yaml"):
        script(tmp_path, Listed())
    names = tuple(TensorSpec(name, "FP32", (-1,)) for name in ("first", "second"))
    model = script(tmp_path, Listed(), outputs=names)
    answer = model.predict({"x": np.array([[1.0], [2.0]], np.float32)}, {})
    assert answer["second"].tolist() == [4.0]


def test_a_growing_torch_dictionary_answers_by_its_declared_keys(tmp_path: Path) -> None:
    model = script(tmp_path, Growing(), outputs=(TensorSpec("b", "FP32", (-1,)),))
    assert model.predict({"x": np.ones(2, np.float32)}, {})["b"].tolist() == [2.0, 2.0]


def test_torch_takes_half_precision(tmp_path: Path) -> None:
    model = script(tmp_path, Named())
    data = np.array([[1.5, 2.0]], ml_dtypes.bfloat16)
    answer = model.predict({"x": data}, {})["twice"]
    assert answer.dtype == ml_dtypes.bfloat16
    assert answer.astype(float).tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize("wrong", [
    {"ids": np.full((2, 5), 99), "size": np.ones((2, 4), "f4")},  # beyond the embedding
    {"ids": np.ones((2, 5), "f4"), "size": np.ones((2, 4), "f4")},
    {"ids": np.ones((2, 5), "i8"), "size": np.ones((2, 5), "f4")},
    {"ids": np.ones((2, 5), "i8"), "size": np.ones((3, 4), "f4")},
])
def test_tensors_that_do_not_fit_are_the_callers(tmp_path: Path, wrong: dict[str, Any]) -> None:
    model = script(tmp_path, Pair())
    with pytest.raises(InvalidInput, match="refuses the data") as raised:
        model.predict(wrong, {})
    assert "\n" not in raised.value.message
    assert "Traceback" not in raised.value.message


def test_what_the_module_raises_is_its_own_fault(tmp_path: Path) -> None:
    model = script(tmp_path, Broken())
    with pytest.raises(torch.jit.Error, match="the sky is empty"):
        model.predict({"x": np.zeros(2, np.float32)}, {})


def test_a_module_of_lists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArtifact, match="'xs' of the type"):
        script(tmp_path, Many())


@pytest.mark.parametrize("thing", ["weights", "module"])
def test_weights_without_a_program_say_what_to_do(tmp_path: Path, thing: str) -> None:
    module = torch.nn.Linear(2, 2)
    path = tmp_path / "model.pth"
    torch.save(module if thing == "module" else module.state_dict(), path)
    assert PyTorchRuntime().recognise(path, path.read_bytes()[:4096])
    with pytest.raises(InvalidArtifact, match=r"not a program; put it into a folder with a model"):
        PyTorchRuntime().load(Artifact("m", 1, path, "pytorch"))
