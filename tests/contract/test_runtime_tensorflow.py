"""TensorFlow: SavedModels and frozen graphs, what they may do, and how they fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from examples.cases import Case
from numpy.typing import NDArray

from shoal.domain.errors import (
    ArtifactMissing,
    InvalidArtifact,
    InvalidInput,
    InvalidSpecification,
    RuntimeMissing,
)
from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact, LoadedModel
from shoal.runtimes.registry import RuntimeRegistry
from shoal.runtimes.tensorflow import TensorFlowRuntime
from shoal.runtimes.tensorflow_file import is_graph, touches_system
from shoal.storage.artifact import find_artifact
from shoal.storage.triton import read_config

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

Further = Callable[[str], tuple[Path, dict[str, Case]]]

RUNTIME = TensorFlowRuntime()
SHARED = Path(__file__).parents[3] / "shared" / "models"
FP32 = np.float32


def load(path: Path, **artifact: Any) -> LoadedModel:
    return RUNTIME.load(Artifact("m", 1, path, "tensorflow", **artifact))


def refused(path: Path, **artifact: Any) -> str:
    with pytest.raises(InvalidArtifact) as raised:
        load(path, **artifact)
    assert "\n" not in raised.value.message
    assert "'m'" in raised.value.message
    return raised.value.message


def text(*items: str) -> NDArray[np.object_]:
    return np.array([each.encode() for each in items], dtype=object)


def saved(folder: Path, function: Any, *specs: Any, module: Any = None, **others: Any) -> Path:
    """A SavedModel of a plain function. others: further signatures, by name."""
    module = module or tf.Module()
    path = folder / "saved"
    made = tf.function(function).get_concrete_function(*specs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tf.saved_model.save(module, str(path), {"serving_default": made, **others})
    return path


def twice(x: Any) -> dict[str, Any]:
    return {"y": x * 2}


ROWS = tf.TensorSpec((None, 2), tf.float32, name="x")


def frozen(folder: Path, build: Callable[[], object], name: str = "model.graphdef") -> Path:
    """A graph of TensorFlow 1."""
    graph = tf.Graph()
    with graph.as_default():
        build()
    path = folder / name
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def placeholder(dtype: Any = tf.float32, shape: Any = (None, 2), name: str = "x") -> Any:
    return tf.compat.v1.placeholder(dtype, shape, name)


class TestSavedModels:
    def test_a_training_part_is_not_loaded(self, further: Further) -> None:
        folder, cases = further("tensorflow")
        model = load(folder / cases["iris-saved"].artifact)
        assert model.platform == "tensorflow_savedmodel"
        assert model.signature.inputs == (TensorSpec("measures", "FP32", (-1, 4)),)
        assert [spec.name for spec in model.signature.outputs] == ["probabilities", "species"]
        model.close()

    def test_another_signature_is_named_by_an_option(self, tmp_path: Path) -> None:
        half = tf.function(lambda x: {"z": x / 2}).get_concrete_function(ROWS)
        path = saved(tmp_path, twice, ROWS, half=half)
        assert [each.name for each in load(path).signature.outputs] == ["y"]
        model = load(path, options={"signature": "half"})
        assert model.predict({"x": np.ones((1, 2), FP32)}, {})["z"].tolist() == [[0.5, 0.5]]
        with pytest.raises(InvalidSpecification, match=r"no signature 'nonsense'; it has half"):
            load(path, options={"signature": "nonsense"})

    def test_without_a_signature_it_says_how_to_export(self, tmp_path: Path) -> None:
        tf.saved_model.save(tf.Module(), str(tmp_path / "bare"))
        assert "has no signature" in refused(tmp_path / "bare")
        assert "model.export(folder)" in refused(tmp_path / "bare")

    def test_a_model_of_tensorflow_1_answers(self, tmp_path: Path) -> None:
        path = tmp_path / "old"
        v1 = tf.compat.v1
        with tf.Graph().as_default(), v1.Session() as session:
            x = placeholder()
            unused = placeholder(name="unused")
            weight = v1.get_variable("w", initializer=np.float32(3), use_resource=False)
            session.run(v1.global_variables_initializer())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                builder = v1.saved_model.builder.SavedModelBuilder(str(path))
                info = v1.saved_model.build_tensor_info
                signature = v1.saved_model.build_signature_def(
                    {"x": info(x), "unused": info(unused)}, {"y": info(x * weight)}, "predict")
                builder.add_meta_graph_and_variables(session, ["serve"], {"predict": signature})
                builder.save()
        assert touches_system(path) is None
        model = load(path)  # the only signature there is
        rows = np.ones((1, 2), FP32)
        assert model.predict({"x": rows, "unused": rows}, {})["y"].tolist() == [[3, 3]]

    def test_words_are_looked_up_in_the_file_that_it_brings(self, tmp_path: Path) -> None:
        words = tmp_path / "words.txt"
        words.write_text("red\ngreen\n")
        module = tf.Module()
        module.table = tf.lookup.StaticHashTable(tf.lookup.TextFileInitializer(
            str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER), -1)
        path = saved(tmp_path, lambda words: {"id": module.table.lookup(words)},
                     tf.TensorSpec((None,), tf.string, name="words"), module=module)
        words.unlink()
        moved = path.rename(tmp_path / "moved")
        answer = load(moved).predict({"words": text("green", "blue", "red")}, {})
        assert answer["id"].tolist() == [1, -1, 0]
        assert RUNTIME.runs_code(moved)  # it reads a file, whichever

    def test_unknown_ranks_are_left_to_the_model(self, tmp_path: Path) -> None:
        model = load(saved(tmp_path, twice, tf.TensorSpec(None, tf.float32, name="x")))
        assert model.signature.guessed
        for shape in ((3,), (1, 2, 2)):
            assert model.predict({"x": np.ones(shape, FP32)}, {})["y"].shape == shape
        with pytest.raises(InvalidInput, match="double"):
            model.predict({"x": np.ones(3)}, {})

    def test_missing_variables_are_said(self, tmp_path: Path, further: Further) -> None:
        folder, cases = further("tensorflow")
        path = tmp_path / "copy"
        shutil.copytree(folder / cases["iris-saved"].artifact, path)
        weights = next(path.glob("variables/*.data-*"))
        whole = weights.read_bytes()
        weights.write_bytes(whole[: len(whole) // 2])
        assert "cannot be read as tensorflow" in refused(path)
        weights.write_bytes(bytes(byte ^ 1 for byte in whole))
        assert "cannot be read as tensorflow" in refused(path)
        (path / "variables/variables.index").unlink()
        assert "variables/variables.index is missing; copy the whole folder" in refused(path)

    @pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.999])
    def test_a_half_written_graph_is_refused(
        self, tmp_path: Path, further: Further, kept: float
    ) -> None:
        folder, cases = further("tensorflow")
        data = (folder / cases["iris-saved"].artifact / "saved_model.pb").read_bytes()
        path = tmp_path / "cut"
        path.mkdir()
        (path / "saved_model.pb").write_bytes(data[: int(len(data) * kept)])
        assert "cut off, damaged, or no graph" in refused(path)

    def test_a_folder_without_a_model_and_a_part_of_one_are_refused(self, tmp_path: Path) -> None:
        assert "is a folder without saved_model.pb" in refused(tmp_path)
        part = tmp_path / "saved_model.pb"
        part.write_bytes(b"\x08\x01\x12\x00")
        assert "point to the folder" in refused(part)
        assert not RUNTIME.recognise(part, part.read_bytes())
        with pytest.raises(ArtifactMissing):
            load(tmp_path / "gone")

    def test_files_outside_the_folder_are_not_read(self, tmp_path: Path) -> None:
        from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

        words = tmp_path / "words.txt"
        words.write_text("red\n")
        module = tf.Module()
        module.table = tf.lookup.StaticHashTable(tf.lookup.TextFileInitializer(
            str(words), tf.string, 0 - 2, tf.int64, 0 - 1), -1)
        path = saved(tmp_path, lambda x: {"id": module.table.lookup(x)},
                     tf.TensorSpec((None,), tf.string, name="x"), module=module)
        file = path / "saved_model.pb"
        stored = SavedModel()
        stored.ParseFromString(file.read_bytes())
        stored.meta_graphs[0].asset_file_def[0].filename = "../../words.txt"
        file.write_bytes(stored.SerializeToString())
        assert "'../../words.txt', which is no part of it" in refused(path)

    def test_a_python_model_may_hold_one(self, tmp_path: Path) -> None:
        (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01")
        assert RuntimeRegistry.installed().recognise(tmp_path) == "tensorflow"
        (tmp_path / "model.py").write_text("class Model: ...")
        assert RuntimeRegistry.installed().recognise(tmp_path) == "python"
        assert not RUNTIME.recognise(tmp_path, b"")


class TestFrozenGraphs:
    def test_strings_go_in_and_out(self) -> None:
        """The public example of Triton: sums and differences of numbers written as text."""
        path = SHARED / "tensorflow/simple_string/1/model.graphdef"
        if not path.exists():
            pytest.skip("the shared models are not on this machine")
        spec = read_config(path.parents[1] / "config.pbtxt").spec
        model = load(path, inputs=spec.inputs, outputs=spec.outputs)
        assert model.platform == "tensorflow_graphdef"
        assert model.signature.inputs[0] == TensorSpec("INPUT0", "BYTES", (-1, 16))
        first, ones = text(*map(str, range(16))), text(*["1"] * 16)
        answer = model.predict({"INPUT0": first[None], "INPUT1": ones[None]}, {})
        assert answer["OUTPUT0"].tolist() == [text(*map(str, range(1, 17))).tolist()]
        assert answer["OUTPUT1"].tolist() == [text(*map(str, range(-1, 15))).tolist()]
        with pytest.raises(InvalidInput, match="could not correctly convert string: x") as raised:
            model.predict({"INPUT0": text(*["x"] * 16)[None], "INPUT1": ones[None]}, {})
        assert "{{" not in raised.value.message

    @pytest.mark.parametrize(("dtype", "datatype"), [
        ("bool", "BOOL"), ("float16", "FP16"), ("bfloat16", "BF16"), ("float64", "FP64"),
        ("int8", "INT8"), ("uint64", "UINT64"),
    ])
    def test_datatypes_are_kept(self, tmp_path: Path, dtype: str, datatype: str) -> None:
        path = frozen(tmp_path, lambda: tf.identity(placeholder(tf.as_dtype(dtype)), name="y"))
        model = load(path)
        assert model.signature.inputs == (TensorSpec("x", datatype, (-1, 2)),)
        kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
        data = np.array([[1, 0]]).astype(kind)
        answer = model.predict({"x": data}, {})["y"]
        assert (answer.dtype, answer.tolist()) == (data.dtype, data.tolist())

    def test_a_type_that_no_client_can_send_is_refused(self, tmp_path: Path) -> None:
        path = frozen(tmp_path, lambda: tf.identity(placeholder(tf.complex64), name="y"))
        assert "'x' of the type complex64" in refused(path) or "'y' of" in refused(path)

    def test_inner_tensors_can_be_declared(self, tmp_path: Path) -> None:
        def build() -> None:
            inner = tf.identity(placeholder() * 2, name="inner")
            tf.add(inner, tf.compat.v1.placeholder_with_default(1.0, (), "shift"), name="y")

        path = frozen(tmp_path, build, "model.pb")
        assert RUNTIME.recognise(path, path.read_bytes()[:4096])
        rows = np.ones((1, 2), FP32)
        assert load(path).predict({"x": rows}, {})["y"].tolist() == [[3, 3]]
        model = load(path, inputs=(TensorSpec("inner", "FP32", (-1, 2)),),
                     outputs=(TensorSpec("y:0", "FP32", (-1, 2)),))
        assert model.predict({"inner": rows}, {})["y:0"].tolist() == [[2, 2]]

    def test_scalars_and_several_answers_of_one_operation(self, tmp_path: Path) -> None:
        def build() -> None:
            tf.nn.top_k(placeholder(), 1, name="best")
            tf.reduce_sum(tf.cast(placeholder(tf.string, (None,), "t") == "a", tf.int32), name="n")

        model = load(frozen(tmp_path, build))
        assert [each.name for each in model.signature.outputs] == ["best:0", "best:1", "n"]
        answer = model.predict({"x": np.array([[1, 5]], FP32), "t": text("a", "b")}, {})
        assert (answer["best:0"].tolist(), answer["best:1"].tolist()) == ([[5]], [[1]])
        assert answer["n"].shape == ()
        assert answer["n"].dtype == np.int32

    def test_operations_of_other_libraries_are_named(self, tmp_path: Path) -> None:
        path = frozen(tmp_path, lambda: tf.identity(placeholder(), name="y"))
        path.write_bytes(path.read_bytes().replace(b"Identity", b"Identitx"))
        message = refused(path)
        assert "'Identitx'" in message
        assert "loads no libraries of others" in message

    def test_variables_must_be_frozen(self, tmp_path: Path) -> None:
        def build() -> None:
            weight = tf.compat.v1.get_variable("w", initializer=FP32(1), use_resource=True)
            tf.add(placeholder(), weight, name="y")

        assert "its variables are not in it" in refused(frozen(tmp_path, build))

    def test_a_graph_without_ends_is_refused(self, tmp_path: Path) -> None:
        path = frozen(tmp_path, lambda: tf.constant(1.0))
        assert "no placeholders, or nothing that answers" in refused(path)

    def test_a_signature_is_no_option_of_a_graph(self, tmp_path: Path) -> None:
        path = frozen(tmp_path, lambda: tf.identity(placeholder(), name="y"))
        with pytest.raises(InvalidSpecification, match="remove the option signature"):
            load(path, options={"signature": "serving_default"})

    def test_a_graph_is_told_by_its_first_bytes(self, tmp_path: Path) -> None:
        big = tf.zeros((100, 100)).numpy()
        path = frozen(tmp_path, lambda: tf.add(tf.constant(big, name="c")[0, 0], 1.0))
        assert is_graph(path.read_bytes()[:4096])
        for other in (b"", b"\x0a", b"\x08\x07\x12\x04onnx", b"\x0a\x03\x0a\x01x", b"\x0a\xff" * 9):
            assert not is_graph(other)


class TestTrust:
    def path_with(self, folder: Path, operation: Callable[[Any], Any]) -> Path:
        return saved(folder, lambda x: {"y": x, "z": operation(x)}, ROWS)

    @pytest.mark.parametrize(("operation", "name"), [
        (lambda x: tf.io.read_file("/etc/hostname"), "ReadFile"),
        (lambda x: tf.py_function(lambda: 1.0, [], tf.float32), "EagerPyFunc"),
        (lambda x: tf.numpy_function(lambda: 1.0, [], tf.float32), "PyFunc"),
        (lambda x: tf.io.matching_files("/etc/*"), "MatchingFiles"),
        (lambda x: tf.raw_ops.RestoreV2(prefix="/x", tensor_names=["a"], shape_and_slices=[""],
                                        dtypes=[tf.float32])[0], "RestoreV2"),
    ])
    def test_what_touches_the_system_counts_as_code(
        self, tmp_path: Path, operation: Callable[[Any], Any], name: str
    ) -> None:
        path = self.path_with(tmp_path, operation)
        assert (touches_system(path) or "").startswith(name)
        assert RUNTIME.runs_code(path)

    def test_it_is_found_in_functions_of_functions(self, tmp_path: Path) -> None:
        @tf.function(autograph=False)  # type: ignore[untyped-decorator]
        def deep(x: Any) -> Any:
            return tf.cond(tf.reduce_sum(x) > 0, lambda: tf.io.read_file("/x"), lambda: "")

        assert touches_system(self.path_with(tmp_path, deep)) == "ReadFile"

    def test_what_no_signature_reaches_is_not_run(self, tmp_path: Path) -> None:
        module = tf.Module()

        def export(x: Any) -> Any:
            tf.io.write_file("/x", tf.strings.as_string(tf.reduce_sum(x)))
            return x

        module.export = tf.function(export, input_signature=[ROWS])
        path = saved(tmp_path, twice, ROWS, module=module)
        assert b"WriteFile" in (path / "saved_model.pb").read_bytes()
        assert not RUNTIME.runs_code(path)

    def test_frozen_graphs_are_looked_through_as_a_whole(self, tmp_path: Path) -> None:
        def build() -> None:
            tf.identity(placeholder(), name="y")
            tf.io.write_file("/x", "y")

        assert touches_system(frozen(tmp_path, build)) == "WriteFile"

    def test_what_cannot_be_read_may_run_code(self, tmp_path: Path) -> None:
        path = tmp_path / "m.pb"
        assert not RUNTIME.runs_code(path)
        path.write_bytes(b"\x0a\xff\xff")
        assert RUNTIME.runs_code(path)


@pytest.mark.parametrize(("platform", "name"), [
    ('platform: "tensorflow_savedmodel"', "model.savedmodel"), ('backend: "tensorflow"', "net"),
])
def test_triton_folders_are_found(tmp_path: Path, platform: str, name: str) -> None:
    (tmp_path / "config.pbtxt").write_text(platform)
    path = saved(tmp_path, twice, ROWS)
    (tmp_path / "1").mkdir()
    path = path.rename(tmp_path / "1" / name)
    described = read_config(tmp_path / "config.pbtxt")
    found = find_artifact(tmp_path / "1", RuntimeRegistry.installed(), "tensorflow", described)
    assert (found.path, found.format) == (path, "tensorflow")


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = frozen(tmp_path, lambda: tf.identity(placeholder(), name="y"))
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(RuntimeMissing, match=r"pip install 'shoal\[tensorflow\]'"):
        load(path)


def test_importing_it_prints_nothing_and_loses_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from shoal.ports import Artifact\n"
        "from shoal.runtimes.tensorflow import TensorFlowRuntime\n"
        "print('before', file=sys.stderr, flush=True)\n"
        f"model = TensorFlowRuntime().load(Artifact('m', 1, Path({str(tmp_path)!r}) / "
        "'model.graphdef', 'tensorflow'))\n"
        "model.close()\n"
        "print('after', file=sys.stderr, flush=True)"
    )
    frozen(tmp_path, lambda: tf.identity(placeholder(), name="y"))
    environ = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          timeout=120, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "before\nafter\n"
    assert done.stdout == ""
