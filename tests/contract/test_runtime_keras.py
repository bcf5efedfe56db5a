"""Keras: archives and HDF5 files, what in them runs code, and how they fail."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from examples.cases import Case
from numpy.typing import NDArray

from shoal.domain.errors import InvalidArtifact, InvalidInput, RuntimeMissing
from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact, LoadedModel
from shoal.runtimes.keras import KerasRuntime
from shoal.runtimes.keras_config import runs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("absl").setLevel(logging.ERROR)
    import keras
    from keras import layers

Further = Callable[[str], tuple[Path, dict[str, Case]]]

RUNTIME = KerasRuntime()
FP32 = np.float32


def load(path: Path, **artifact: Any) -> LoadedModel:
    return RUNTIME.load(Artifact("m", 1, path, "keras", **artifact))


def refused(path: Path) -> str:
    with pytest.raises(InvalidArtifact) as raised:
        load(path)
    assert "\n" not in raised.value.message
    assert "'m'" in raised.value.message
    return raised.value.message


def saved(folder: Path, model: Any, name: str = "m.keras") -> Path:
    path = folder / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    return path


def chain(*parts: Any, width: int = 3) -> Any:
    return keras.Sequential([keras.Input((width,), name="x"), *parts])


def with_config(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The archive with another configuration."""
    made = path.with_name("changed.keras")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(made, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "config.json":
                config = json.loads(data)
                change(config)
                data = json.dumps(config).encode()
            target.writestr(name, data)
    return made


def ask(model: LoadedModel, data: Any) -> NDArray[Any]:
    (answer,) = model.predict({"x": np.array(data, FP32)}, {}).values()
    return answer


def close(found: NDArray[Any], expected: NDArray[Any]) -> None:
    np.testing.assert_allclose(found, expected, 1e-4, 1e-6)


def test_inputs_and_outputs_have_the_models_names(tmp_path: Path) -> None:
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b", dtype="int32")
    words = layers.Flatten()(layers.Embedding(5, 2)(b))
    both = layers.Concatenate(name="both")([a, words])
    by_key = keras.Model({"b": b, "a": a}, {"size": keras.ops.sum(both, 1), "all": both})
    inputs: dict[str, NDArray[Any]]
    inputs = {"a": np.ones((2, 2), FP32), "b": np.array([[0, 1, 2], [3, 4, 0]], np.int32)}
    expected = {name: np.asarray(each) for name, each in by_key(inputs).items()}
    model = load(saved(tmp_path, by_key))
    assert model.signature.inputs == (
        TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "INT32", (-1, 3)),
    )
    assert model.signature.outputs == (
        TensorSpec("all", "FP32", (-1, 8)), TensorSpec("size", "FP32", (-1,)),
    )
    answer = model.predict(inputs, {})
    for name, array in expected.items():
        close(answer[name], array)
    listed = load(saved(tmp_path, keras.Model([b, a], [both, both, a])))
    assert [each.name for each in listed.signature.inputs] == ["b", "a"]
    assert [each.name for each in listed.signature.outputs] == ["both", "both_1", "a"]
    close(listed.predict(inputs, {})["both_1"], expected["all"])


@pytest.mark.parametrize("part", [
    lambda: [layers.Reshape((3, 1)), layers.LSTM(2)],
    lambda: [layers.Dropout(0.5), layers.BatchNormalization(), layers.GaussianNoise(1.0)],
    lambda: [layers.Dense(4), layers.Reshape((2, 2, 1)), layers.Conv2D(2, 1)],
    lambda: [layers.Dense(2), chain(layers.Dense(2, name="inner"), width=2)],
], ids=["recurrent", "only in training", "convolution", "nested"])
def test_layers_answer_as_keras_does(tmp_path: Path, part: Callable[[], list[Any]]) -> None:
    made = chain(*part())
    rows = np.arange(6, dtype=FP32).reshape(2, 3)
    expected = np.asarray(made(rows, training=False))
    model = load(saved(tmp_path, made))
    for _ in range(2):
        close(ask(model, rows), expected)
    assert model.platform == "keras_tensorflow"
    model.close()


def test_words_are_looked_up(tmp_path: Path) -> None:
    made = keras.Sequential([keras.Input((), dtype="string", name="x"),
                             layers.StringLookup(vocabulary=["red", "green"])])
    path = saved(tmp_path, made)
    assert not RUNTIME.runs_code(path)
    model = load(path)
    assert model.signature.inputs == (TensorSpec("x", "BYTES", (-1,)),)
    (answer,) = model.predict({"x": np.array([b"green", b"blue"], object)}, {}).values()
    assert answer.tolist() == [2, 0]
    size = model.size_bytes()
    assert size is not None
    assert size > 0
    model.close()


def test_wrong_data_are_the_callers(tmp_path: Path) -> None:
    model = load(saved(tmp_path, chain(layers.Dense(1))))
    with pytest.raises(InvalidInput, match=r"has the shape \[2, 4\]; the model takes \[-1, 3\]"):
        ask(model, np.zeros((2, 4)))
    with pytest.raises(InvalidInput, match="refuses the data"):
        model.predict({"x": np.zeros((1, 3))}, {})


def test_weights_alone_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chain(layers.Dense(1)).save_weights(path)
    assert RUNTIME.recognise(path, path.read_bytes()[:4096])
    assert "it holds weights alone, not a model; save the model with" in refused(path)


def test_files_are_told_by_their_first_bytes(tmp_path: Path) -> None:
    assert not RUNTIME.recognise(tmp_path / "m.keras", b"\x89HDF\r\n\x1a\n")
    assert not RUNTIME.recognise(tmp_path / "m.h5", b"PK\x03\x04")
    assert RUNTIME.recognise(tmp_path / "M.HDF5", b"\x89HDF\r\n\x1a\n")


class Odd(layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return x


keras.saving.register_keras_serializable("shop")(Odd)


def test_only_layers_that_compute_are_no_code(tmp_path: Path, further: Further) -> None:
    folder, cases = further("keras")
    for case in cases.values():
        assert runs(folder / case.artifact) is None
    for number, part in enumerate([
        layers.Dense(2, activation="gelu", kernel_regularizer="l2", kernel_constraint="max_norm"),
        layers.Normalization(), layers.ReLU(max_value=3.0), layers.UnitNormalization(),
    ]):
        made = chain(part)
        made.compile("adam", "mse", metrics=["mae"])
        assert runs(saved(tmp_path, made, f"{number}.keras")) is None
        assert runs(saved(tmp_path, made, f"{number}.h5")) is None


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_lambdas_and_own_classes_are_code(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, chain(layers.Lambda(lambda x: x * 2)), name)
    assert runs(path) == "a layer Lambda"
    assert RUNTIME.runs_code(path)
    # Whoever loads it has found that it lies in a trusted place.
    assert ask(load(path), [[1, 2, 3]]).tolist() == [[2, 4, 6]]
    assert runs(saved(tmp_path, chain(Odd()), name)) == "the registered class shop>Odd"


@pytest.mark.parametrize(("thing", "says"), [
    ({"module": "keras.utils", "class_name": "function", "config": "get_file"},
     "get_file of the module keras.utils"),
    ({"module": "keras.models", "class_name": "function", "config": "load_model"},
     "load_model of the module keras.models"),
    ({"module": "os", "class_name": "system", "config": {}}, "system of the module os"),
    ({"module": "builtins", "class_name": "eval", "config": {}}, "eval of the module builtins"),
    ({"class_name": "__lambda__", "config": {"value": ""}}, "a layer __lambda__"),
    ({"module": "keras.layers", "class_name": "TFSMLayer", "config": {}}, "a layer TFSMLayer"),
    ({"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": "/etc/x"}},
     "a layer StringLookup that reads the file /etc/x"),
    ({"class_name": 3}, "a class without a name"),
])
def test_what_else_a_configuration_may_name(
    tmp_path: Path, thing: dict[str, Any], says: str
) -> None:
    path = saved(tmp_path, chain(layers.Dense(1)))
    changed = with_config(path, lambda config: config["config"].update(deep=[{"in": thing}]))
    assert runs(changed) == says


def test_classes_that_are_not_installed_are_named(tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["config"]["layers"][1].update(
            module="shop.layers", class_name="Till", registered_name="shop>Till")

    message = refused(with_config(saved(tmp_path, chain(layers.Dense(1))), change))
    assert "Till" in message
    assert "model.export(folder)" in message


def test_weights_in_other_files_count_as_code(tmp_path: Path) -> None:
    path = saved(tmp_path, chain(layers.Dense(1)), "m.h5")
    with h5py.File(path, "r+") as file:
        file["model_weights"]["far"] = h5py.ExternalLink("/etc/hostname", "/x")
    assert runs(path) == "a link to the file /etc/hostname"


def test_what_cannot_be_looked_into_may_run_code(tmp_path: Path) -> None:
    for name, data in (("m.keras", b"PK\x03\x04..."), ("m.h5", b"\x89HDF\r\n\x1a\n...")):
        path = tmp_path / name
        assert not RUNTIME.runs_code(path)
        path.write_bytes(data)
        assert RUNTIME.runs_code(path)


def test_a_class_of_its_own_says_how_to_export_it(tmp_path: Path) -> None:
    class Whole(keras.Model):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.dense = layers.Dense(1)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    keras.saving.register_keras_serializable("shop")(Whole)
    made = Whole()
    made(np.ones((1, 3), FP32))
    assert "model.export(folder)" in refused(saved(tmp_path, made))


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, chain(layers.Dense(1)))
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(RuntimeMissing, match=r"pip install 'shoal\[keras\]'"):
        load(path)


@pytest.mark.parametrize("backend", ["torch"])
def test_on_another_backend_it_answers_the_same(
    tmp_path: Path, further: Further, backend: str
) -> None:
    folder, cases = further("keras")
    case = cases["petals"]
    code = (
        "import json, sys; from pathlib import Path; import numpy as np\n"
        "from shoal.ports import Artifact; from shoal.runtimes.keras import KerasRuntime\n"
        "model = KerasRuntime().load(Artifact('m', 1, Path(sys.argv[1]), 'keras'))\n"
        "inputs = {t['name']: np.array(t['data'], 'f4').reshape(t['shape'])"
        " for t in json.loads(sys.argv[2])['inputs']}\n"
        "answer = model.predict(inputs, {})['probabilities'].ravel().tolist()\n"
        "print(json.dumps([model.platform, answer]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder / case.artifact, json.dumps(case.request)],
        capture_output=True, text=True, timeout=180, check=False,
        env={key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
        | {"KERAS_BACKEND": backend, "KERAS_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    platform, answer = json.loads(done.stdout)
    assert platform == f"keras_{backend}"
    np.testing.assert_allclose(answer, case.expect["outputs"][0]["data"], 1e-4)
