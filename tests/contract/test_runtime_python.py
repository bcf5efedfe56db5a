"""Models written as a Python class."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.domain.errors import (
    ArtifactMissing,
    InvalidArtifact,
    InvalidInput,
    InvalidSpecification,
    ModelFailed,
    RuntimeMissing,
)
from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact, LoadedModel, Noted, RowLimited
from shoal.runtimes.python import PythonRuntime

RUNTIME = PythonRuntime()
ECHO = """
class Model:
    def predict(self, inputs, parameters):
        return {"y": inputs["x"]}
"""


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        path = folder.joinpath(*name.split("__", 1)).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def load(path: Path, **artifact: Any) -> LoadedModel:
    return RUNTIME.load(Artifact("m", 1, path, "python", **artifact))


def our_modules() -> list[str]:
    return [name for name in sys.modules if name.startswith("_shoal_model_")]


def test_a_folder_or_a_file_model_py_is_recognised(tmp_path: Path) -> None:
    write(tmp_path, model=ECHO, other=ECHO)
    assert RUNTIME.recognise(tmp_path, b"")
    assert RUNTIME.recognise(tmp_path / "model.py", b"")
    assert not RUNTIME.recognise(tmp_path / "other.py", b"")


def test_a_folder_called_model_py_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.py").mkdir()
    assert not RUNTIME.recognise(tmp_path / "model.py", b"")
    assert not RUNTIME.recognise(tmp_path, b"")


def test_a_folder_with_a_dot_in_its_name_is_recognised(tmp_path: Path) -> None:
    assert RUNTIME.recognise(write(tmp_path / "v1.2", model=ECHO), b"")


def test_without_declarations_anything_passes(tmp_path: Path) -> None:
    model = load(write(tmp_path, model=ECHO))
    assert model.signature.inputs == ()
    assert model.predict({"x": np.arange(3)}, {})["y"].tolist() == [0, 1, 2]


def test_a_file_alone_is_a_model(tmp_path: Path) -> None:
    model = load(write(tmp_path, model=ECHO) / "model.py")
    assert model.predict({"x": np.arange(3)}, {})["y"].tolist() == [0, 1, 2]


def test_files_beside_the_model_are_imported_each_copy_apart(tmp_path: Path) -> None:
    source = """
from prices import PRICE
import parts.deep as deep
from . import prices

class Model:
    def predict(self, inputs, parameters):
        import late
        return {"y": [PRICE, deep.DEPTH, late.LATE, prices.PRICE]}
"""
    for number in (1, 2):
        write(
            tmp_path / str(number), model=source, prices=f"PRICE = {number}",
            parts__deep="import prices\nDEPTH = prices.PRICE * 10\n", late=f"LATE = {number}",
        )
    first, second = load(tmp_path / "1"), load(tmp_path / "2")
    assert second.predict({}, {})["y"].tolist() == [2, 20, 2, 2]
    assert first.predict({}, {})["y"].tolist() == [1, 10, 1, 1]
    assert "prices" not in sys.modules
    first.close()
    second.close()


def test_the_models_folder_is_left_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, model="import beside\n" + ECHO, beside="")
    path = list(sys.path)
    load(tmp_path).close()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["beside.py", "model.py"]
    assert sys.path == path


def test_modules_go_when_the_copy_is_closed(tmp_path: Path) -> None:
    before = our_modules()
    model = load(write(tmp_path, model="import beside\n" + ECHO, beside=""))
    assert len(our_modules()) == len(before) + 3
    model.close()
    assert our_modules() == before


def test_modules_go_when_loading_fails(tmp_path: Path) -> None:
    before = our_modules()
    with pytest.raises(InvalidArtifact):
        load(write(tmp_path, model="1 / 0"))
    assert our_modules() == before


def test_load_and_close_of_the_class_are_called(tmp_path: Path) -> None:
    write(tmp_path, model=ECHO + """
    max_concurrency = 3
    def load(self, folder):
        self.folder = folder
        (folder / "trace").write_text("loaded")
    def close(self):
        (self.folder / "trace").write_text("closed")
""")
    model = load(tmp_path)
    assert (tmp_path / "trace").read_text() == "loaded"
    assert model.max_concurrency == 3
    model.close()
    assert (tmp_path / "trace").read_text() == "closed"


def test_rows_of_several_requests_meet_only_where_the_class_says_so(tmp_path: Path) -> None:
    alone = load(write(tmp_path / "a", model=ECHO))
    together = load(write(tmp_path / "b", model=ECHO + "    max_batch_rows = 32"))
    rows = [model.max_batch_rows for model in (alone, together) if isinstance(model, RowLimited)]
    assert rows == [1, 32]


def test_another_class_is_named_by_an_option(tmp_path: Path) -> None:
    write(tmp_path, parts__echo=ECHO.replace("Model", "Echo"))
    model = load(tmp_path, options={"class": "parts.echo:Echo"})
    assert model.predict({"x": np.ones(1)}, {})["y"].tolist() == [1.0]


@pytest.mark.parametrize("wish", ["Echo", "a b:C", 3, ""])
def test_a_wrong_option_is_refused(tmp_path: Path, wish: object) -> None:
    with pytest.raises(InvalidSpecification, match="module:Name"):
        load(write(tmp_path, model=ECHO), options={"class": wish})


def test_a_missing_module_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing, match=r"no other\.py"):
        load(write(tmp_path, model=ECHO), options={"class": "other:Model"})


@pytest.mark.parametrize(("source", "said"), [
    ("class Model:\n  def (self): pass", "model.py line 2"),
    ("\n\n1 / 0", "model.py line 3: ZeroDivisionError: division by zero"),
    ("x = 1", "class Model of model.py does not exist"),
    ("class Model: pass", "has no method predict"),
    ("from beside import Mod\n", "cannot import name"),
    (ECHO + "    def load(self, folder): open(folder / 'gone')", "line 5: FileNotFoundError"),
    (ECHO + "    def __init__(self, x): pass", "TypeError"),
    (ECHO + "    inputs = [{'name': 'x'}]", "inputs of Model is not a list of tensors"),
    (ECHO + "    inputs = [{'name': 'x', 'datatype': 'FLOAT', 'shape': [1]}]", "FLOAT"),
    (ECHO + "    outputs = 7", "outputs of Model"),
    (ECHO + "    max_concurrency = 0", "max_concurrency of Model is 0; it must be a number from 1"),
    (ECHO + "    max_batch_rows = True", "max_batch_rows of Model is True"),
])
def test_what_is_wrong_with_the_code_is_said_in_one_line(
    tmp_path: Path, source: str, said: str
) -> None:
    with pytest.raises(InvalidArtifact) as raised:
        load(write(tmp_path, model=source, beside="class Model: pass"))
    assert said in raised.value.message
    assert "\n" not in raised.value.message


def test_a_package_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeMissing, match=r"model\.py line 1 imports 'beekeeping'"):
        load(write(tmp_path, model="import beekeeping\n" + ECHO))


@pytest.mark.parametrize("load_it", ["joblib.load(file)", "pickle.load(file)"])
@pytest.mark.parametrize("place", [
    "\n    def load(self, folder):\n        with open(folder / 'scaler.pkl', 'rb') as file: {}",
    "\nwith open({!r}, 'rb') as file: {}",
])
def test_a_pickle_of_a_class_of_the_folder_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_it: str, place: str
) -> None:
    module = types.ModuleType("scaling")
    exec("class Scaler: pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "scaling", module)
    pickled = tmp_path / "scaler.pkl"
    pickled.write_bytes(pickle.dumps(module.Scaler()))
    monkeypatch.delitem(sys.modules, "scaling")
    line = place.format(load_it) if "def" in place else place.format(str(pickled), load_it)
    write(tmp_path, model="import joblib, pickle, scaling\n" + ECHO + line,
          scaling="class Scaler: pass")
    with pytest.raises(InvalidArtifact, match="own scaling cannot be loaded: install it as a"):
        load(tmp_path)


def test_the_class_may_refuse_the_callers_data(tmp_path: Path) -> None:
    model = load(write(tmp_path, model="""
from shoal.domain.errors import InvalidInput
class Model:
    def predict(self, inputs, parameters):
        raise InvalidInput("no bees today")
"""))
    with pytest.raises(InvalidInput, match="no bees today"):
        model.predict({}, {})


def test_what_the_class_raises_passes(tmp_path: Path) -> None:
    model = load(write(tmp_path, model=ECHO))
    with pytest.raises(KeyError):
        model.predict({}, {})


@pytest.mark.parametrize(("answer", "said"), [
    ("[1]", "returned a list"), ("{'z': 1}", "returned z, but not y"), ("{}", "returned nothing"),
])
def test_a_wrong_answer_is_the_models_fault(tmp_path: Path, answer: str, said: str) -> None:
    model = load(write(tmp_path, model=f"""
class Model:
    outputs = [{{"name": "y", "datatype": "FP32", "shape": [-1]}}]
    def predict(self, inputs, parameters):
        return {answer}
"""))
    with pytest.raises(ModelFailed, match=said):
        model.predict({}, {})


def test_specifications_may_be_tensor_specs(tmp_path: Path) -> None:
    model = load(write(tmp_path, model="""
from shoal.domain.signature import TensorSpec
class Model:
    inputs = [TensorSpec("x", "FP32", (-1,))]
    outputs = [TensorSpec("y", "FP32", (-1,))]
    def predict(self, inputs, parameters):
        return {"y": [float(v) for v in inputs["x"]]}
"""))
    assert model.signature.inputs == (TensorSpec("x", "FP32", (-1,)),)
    assert model.predict({"x": np.ones(2, "f4")}, {})["y"].dtype == np.float32


def test_warnings_of_loading_become_notes(tmp_path: Path) -> None:
    model = load(write(tmp_path, model="import warnings\nwarnings.warn('old words')\n" + ECHO))
    assert isinstance(model, Noted)
    assert model.notes == ("old words",)


def test_options_reach_a_class_whose_load_takes_them(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "class Model:\n"
        "    def load(self, folder, options):\n"
        "        self.factor = options['factor']\n"
        "    def predict(self, inputs, parameters):\n"
        "        return {'y': inputs['x'] * self.factor}\n"
    )
    artifact = Artifact("m", 1, tmp_path, "python", options={"factor": 3})
    model = PythonRuntime().load(artifact)
    assert model.predict({"x": np.array([2.0])}, {})["y"].tolist() == [6.0]
    model.close()
