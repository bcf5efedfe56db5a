"""OpenVINO: what is its own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import openvino
import pytest
from examples.cases import Case
from numpy.typing import NDArray
from openvino import opset13, opset15
from openvino.op.util import VariableInfo

from shoal.domain.errors import InvalidArtifact, InvalidInput, RuntimeMissing
from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact, LoadedModel
from shoal.runtimes.openvino import OpenVinoRuntime

Node = Any  # OpenVINO's own are untyped here


def save(folder: Path, inputs: list[Node], outputs: list[Node]) -> Path:
    model = openvino.Model([opset13.result(node) for node in outputs], inputs, "m")
    for kind, tensors in (("in", model.inputs), ("out", model.outputs)):
        for index, tensor in enumerate(tensors):
            tensor.set_names({f"{kind}_{index}"})
    path = folder / "m.xml"
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


def load(path: Path, **artifact: Any) -> LoadedModel:
    return OpenVinoRuntime().load(Artifact("m", 1, path, "openvino", **artifact))


def doubled(folder: Path, shape: Any = (-1, 4), kind: str = "f32") -> Path:
    value = opset13.parameter(openvino.PartialShape(list(shape)), getattr(openvino.Type, kind))
    return save(folder, [value], [opset13.add(value, value)])


@pytest.mark.parametrize(("kind", "datatype", "dtype"), [
    ("f32", "FP32", np.float32), ("f64", "FP64", np.float64), ("f16", "FP16", np.float16),
    ("bf16", "BF16", ml_dtypes.bfloat16), ("i64", "INT64", np.int64), ("u8", "UINT8", np.uint8),
], ids=["f32", "f64", "f16", "bf16", "i64", "u8"])
def test_numbers_keep_their_datatype(tmp_path: Path, kind: str, datatype: str, dtype: Any) -> None:
    model = load(doubled(tmp_path, kind=kind))
    assert model.signature.inputs == (TensorSpec("in_0", datatype, (-1, 4)),)
    assert model.signature.outputs == (TensorSpec("out_0", datatype, (-1, 4)),)
    answer = model.predict({"in_0": np.array([[1, 2, 3, 4]], dtype)}, {})["out_0"]
    assert answer.dtype == dtype
    assert answer.tolist() == [[2, 4, 6, 8]]


def test_truth_values_are_taken(tmp_path: Path) -> None:
    value = opset13.parameter(openvino.PartialShape([-1]), openvino.Type.boolean)
    model = load(save(tmp_path, [value], [opset13.logical_not(value)]))
    answer = model.predict({"in_0": np.array([True, False])}, {})["out_0"]
    assert answer.dtype == np.bool_
    assert answer.tolist() == [False, True]


def test_strings_go_in_and_out(tmp_path: Path) -> None:
    value = opset15.parameter(openvino.PartialShape([-1]), openvino.Type.string)
    parts = opset15.string_tensor_unpack(value)
    again = opset15.string_tensor_pack(*(parts.output(index) for index in range(3)))
    model = load(save(tmp_path, [value], [again]))
    assert model.signature.inputs == (TensorSpec("in_0", "BYTES", (-1,)),)
    texts = np.array([b"one", "zwölf".encode(), b"\xff"], dtype=object)
    assert model.predict({"in_0": texts}, {})["out_0"].tolist() == texts.tolist()


def test_a_tensor_without_rows_is_taken(tmp_path: Path) -> None:
    model = load(doubled(tmp_path))
    assert model.predict({"in_0": np.zeros((0, 4), "f4")}, {})["out_0"].shape == (0, 4)


def test_any_extents_are_shown_as_such_and_bounded_ones_checked(tmp_path: Path) -> None:
    model = load(doubled(tmp_path, (openvino.Dimension(1, 8), -1, 3)))
    assert model.signature.inputs[0].shape == (-1, -1, 3)
    assert model.predict({"in_0": np.ones((8, 5, 3), "f4")}, {})["out_0"].shape == (8, 5, 3)
    for shape in [(9, 5, 3), (1, 5, 4), (1, 5), (0, 5, 3)]:
        with pytest.raises(InvalidInput, match=r"the model takes \[1\.\.8,-1,3\]"):
            model.predict({"in_0": np.ones(shape, "f4")}, {})


def test_what_the_graph_refuses_is_the_callers_fault(tmp_path: Path) -> None:
    value = opset13.parameter(openvino.PartialShape([-1]), openvino.Type.f32)
    square = opset13.reshape(value, opset13.constant(np.array([2, 2])), False)
    model = load(save(tmp_path, [value], [square]))
    assert model.predict({"in_0": np.ones(4, "f4")}, {})["out_0"].tolist() == [[1, 1], [1, 1]]
    with pytest.raises(InvalidInput, match="refuses the data") as raised:
        model.predict({"in_0": np.ones(5, "f4")}, {})
    assert "\n" not in raised.value.message
    assert ".cpp" not in raised.value.message
    assert model.predict({"in_0": np.ones(4, "f4")}, {})["out_0"].tolist() == [[1, 1], [1, 1]]


def test_an_open_rank_is_refused(tmp_path: Path) -> None:
    value = opset13.parameter(openvino.PartialShape.dynamic(), openvino.Type.f32)
    path = save(tmp_path, [value], [opset13.add(value, value)])
    with pytest.raises(InvalidArtifact, match="dynamic rank"):
        load(path)


def test_answers_stay_after_later_calls(tmp_path: Path) -> None:
    model = load(doubled(tmp_path))
    first = model.predict({"in_0": np.ones((1, 4), "f4")}, {})["out_0"]
    model.predict({"in_0": np.zeros((1, 4), "f4")}, {})
    assert first.tolist() == [[2, 2, 2, 2]]


def test_what_one_thread_asks_another_does_not_get(tmp_path: Path) -> None:
    model = load(doubled(tmp_path))

    def ask(number: int) -> bool:
        row = np.full((1, 4), number, "f4")
        return bool((model.predict({"in_0": row}, {})["out_0"] == 2 * number).all())

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(ask, range(400)))


def test_arrays_of_any_memory_layout_are_taken(tmp_path: Path) -> None:
    model = load(doubled(tmp_path))
    rows = np.arange(8, dtype="f4").reshape(4, 2).T
    assert model.predict({"in_0": rows}, {})["out_0"].tolist() == (2 * rows).tolist()


def test_a_model_with_a_memory_forgets_between_calls(tmp_path: Path) -> None:
    value = opset13.parameter(openvino.PartialShape([1, 2]), openvino.Type.f32)
    variable = VariableInfo()
    variable.data_shape = openvino.PartialShape([1, 2])
    variable.data_type = openvino.Type.f32
    variable.variable_id = "sum"
    start = opset13.constant(np.zeros((1, 2), "f4"))
    total = opset13.add(value, opset13.read_value(start, "sum", openvino.Type.f32, [1, 2]))
    assign = opset13.assign(total, "sum")
    model = openvino.Model([opset13.result(total)], [assign], [value], "m")
    path = tmp_path / "m.xml"
    openvino.save_model(model, path)
    loaded = load(path)
    name = loaded.signature.inputs[0].name
    for _ in range(3):
        answer = loaded.predict({name: np.ones((1, 2), "f4")}, {})
        assert next(iter(answer.values())).tolist() == [[1, 1]]


def test_a_declared_name_may_be_any_of_a_tensors_names(tmp_path: Path) -> None:
    one, two = (opset13.parameter(openvino.PartialShape([-1]), openvino.Type.f32) for _ in "ab")
    model = openvino.Model([opset13.result(opset13.subtract(one, two))], [one, two], "m")
    model.inputs[0].set_names({"a", "a:0"})
    model.inputs[1].set_names({"b", "b:0"})
    path = tmp_path / "m.xml"
    openvino.save_model(model, path)
    declared = tuple(TensorSpec(name, "FP32", (-1,)) for name in ("b:0", "a:0"))
    loaded = load(path, inputs=declared)
    assert [spec.name for spec in load(path).signature.inputs] == ["a", "b"]
    answer = loaded.predict({"a:0": np.array([5], "f4"), "b:0": np.array([3], "f4")}, {})
    assert next(iter(answer.values())).tolist() == [2]


def test_types_that_the_protocol_lacks_are_refused(tmp_path: Path) -> None:
    value = opset13.parameter(openvino.PartialShape([-1, 4]), openvino.Type.u4)
    path = save(tmp_path, [value], [opset13.convert(value, "f32")])
    with pytest.raises(InvalidArtifact, match="'in_0' of the type u4"):
        load(path)


# --- files --------------------------------------------------------------------------------------

Further = Callable[[str], tuple[Path, dict[str, Case]]]


@pytest.fixture
def iris(further: Further, tmp_path: Path) -> Path:
    """A copy of the example, to be harmed."""
    folder, _ = further("openvino")
    for name in ("iris-ir.xml", "iris-ir.bin"):
        shutil.copyfile(folder / name, tmp_path / name)
    return tmp_path / "iris-ir.xml"


@pytest.mark.parametrize(("old", "new", "reason"), [
    (b'version="11"', b'version="7"', "it is of version 7, of OpenVINO before 2020.3"),
    (b'version="11"', b'version="99"', "no representation that this OpenVINO knows"),
    (b'type="MatMul"', b'type="Wonder"', "doesn't contain the operation with type: Wonder"),
    (b'version="opset1"', b'version="opset99"', "unsupported opset: opset99"),
], ids=["old", "new", "operation", "opset"])
def test_what_this_release_does_not_know_is_refused_in_one_line(
    iris: Path, old: bytes, new: bytes, reason: str
) -> None:
    content = iris.read_bytes()
    assert old in content
    iris.write_bytes(content.replace(old, new, 1))
    with pytest.raises(InvalidArtifact, match=reason) as raised:
        load(iris)
    assert "\n" not in raised.value.message
    assert ".cpp" not in raised.value.message


def test_weights_that_are_missing_are_named(iris: Path) -> None:
    iris.with_suffix(".bin").unlink()
    with pytest.raises(InvalidArtifact, match=r"iris-ir\.bin, which has its weights, is not besid"):
        load(iris)


def test_weights_that_are_cut_off_are_refused(iris: Path) -> None:
    weights = iris.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InvalidArtifact, match="Incorrect weights in bin file"):
        load(iris)


def test_a_loaded_model_does_not_change_with_its_files(iris: Path) -> None:
    model = load(iris)
    row = {"measures": np.ones((1, 4), "f4")}
    before: NDArray[Any] = model.predict(row, {})["probabilities"]
    weights = iris.with_suffix(".bin")
    with weights.open("r+b") as file:
        file.write(bytes(weights.stat().st_size))
    assert model.predict(row, {})["probabilities"].tolist() == before.tolist()


def test_xml_of_others_is_not_openvinos(tmp_path: Path) -> None:
    runtime = OpenVinoRuntime()
    path = tmp_path / "m.xml"
    assert runtime.recognise(path, b'<?xml version="1.0"?>\n<net name="m" version="11">')
    assert not runtime.recognise(path, b'<?xml version="1.0"?><PMML version="4.4">')
    assert not runtime.recognise(tmp_path / "m.bin", b'<net name="m" version="11">')


def test_a_missing_framework_names_the_extra(iris: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RuntimeMissing, match=r"pip install 'shoal\[openvino\]'"):
        load(iris)


def test_its_telemetry_stays_out(iris: Path) -> None:
    load(iris)
    assert sys.modules["openvino_telemetry"] is None
