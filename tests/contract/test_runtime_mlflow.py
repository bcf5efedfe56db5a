"""MLflow models: what is particular to those that MLflow calls itself."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from examples.cases import Case

from shoal.codecs.message import InferRequest
from shoal.codecs.v1 import decode, to_request
from shoal.dataplane.validation import RequestCheck
from shoal.domain.errors import InvalidArtifact, InvalidInput, ModelFailed, RuntimeMissing
from shoal.domain.model import ModelSpec
from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact, LoadedModel, RowLimited
from shoal.runtimes.mlflow import MlflowRuntime
from shoal.runtimes.registry import RuntimeRegistry
from shoal.storage.declare import declare

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

Further = Callable[[str], tuple[Path, dict[str, Case]]]

# A loader as people write it: MLflow imports it from the folder `code`.
LOADER = """
class Model:
    def predict(self, data, params=None):
        {body}

def _load_pyfunc(path):
    return Model()
"""


def texts(*words: str) -> Any:
    return np.array([word.encode() for word in words], dtype=object)


def written(folder: Path, body: str, *, inputs: str | None = None, outputs: str | None = None,
            params: str | None = None, requirements: str = "") -> Path:
    """A model with a loader of its own; `inputs` and so on as JSON, as MLflow writes them."""
    signature = {"inputs": inputs, "outputs": outputs, "params": params}
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "loader.py").write_text(LOADER.format(body=body))
    (folder / "requirements.txt").write_text(requirements)
    (folder / "MLmodel").write_text(yaml.safe_dump({
        "flavors": {"python_function": {"loader_module": "loader", "code": "code"}},
        "signature": signature if any(signature.values()) else None,
    }))
    return folder


def scripted(folder: Path, answer: int) -> Path:
    """A model from code, which hands itself over to MLflow."""
    folder.mkdir()
    (folder / "script.py").write_text(
        "import mlflow\n"
        "class Model(mlflow.pyfunc.PythonModel):\n"
        f"    def predict(self, context, model_input: object, params=None): return [{answer}]\n"
        "mlflow.models.set_model(Model())\n"
    )
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {"python_function": {
        "loader_module": "mlflow.pyfunc.loaders.code_model", "model_code_path": "script.py",
    }}}))
    return folder


def load(folder: Path, **artifact: Any) -> LoadedModel:
    return MlflowRuntime().load(Artifact("m", 1, folder, "mlflow", **artifact))


def column(kind: str, name: str = "a", **more: object) -> str:
    return json.dumps([{"type": kind, "name": name, **more}])


def imported_from(folder: Path) -> list[str]:
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    return [name for name, file in files.items() if file and file.startswith(str(folder))]


class TestInputs:
    def test_an_optional_column_may_be_missing(self, further: Further) -> None:
        folder, cases = further("mlflow")
        model = load(folder / cases["flats"].artifact)
        assert model.signature.optional == ("floor",)
        assert model.signature.table
        answer = model.predict({"town": texts("Oslo"), "area": np.array([2.0])}, {})
        assert answer["price"].tolist() == [2000.0]

    def test_a_request_may_leave_an_optional_column_out(self, further: Further) -> None:
        signature = load(further("mlflow")[0] / "flats").signature
        check = RequestCheck(signature)
        request = to_request(decode(b'{"instances": [{"town": "Oslo", "area": 2}]}'), signature)
        assert list(check.arrays(request)) == ["town", "area"]
        with pytest.raises(InvalidInput, match="lacks 'area'; the model's columns"):
            to_request(decode(b'{"instances": [{"town": "Oslo"}]}'), signature)
        with pytest.raises(InvalidInput, match="column 'area' missing"):
            check.arrays(InferRequest([request.inputs[0]]))

    def test_parameters_of_the_signature_reach_the_model(self, further: Further) -> None:
        folder, _ = further("mlflow")
        model = load(folder / "flats")
        inputs = {"town": texts("Oslo"), "area": np.array([2.0])}
        answer = model.predict(inputs, {"factor": 2.0, "binary_data_output": True})
        assert answer["price"].tolist() == [4000.0]
        with pytest.raises(InvalidInput, match="factor"):
            model.predict(inputs, {"factor": "twice"})

    def test_the_only_column_without_a_name_takes_any(self, tmp_path: Path) -> None:
        model = load(written(tmp_path / "m", "return data.iloc[:, 0].str.upper()",
                             inputs='[{"type": "string", "required": true}]'))
        assert model.signature.any_name
        assert model.signature.inputs == (TensorSpec("predict", "BYTES", (-1,)),)
        assert model.predict({"predict": texts("é")}, {})["predict"].tolist() == ["É".encode()]

    def test_a_tensor_comes_as_an_array(self, tmp_path: Path) -> None:
        tensor = '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 2]}}]'
        model = load(written(tmp_path / "m", "return data.sum(axis=1)", inputs=tensor))
        assert model.signature.inputs == (TensorSpec("predict", "FP32", (-1, 2)),)
        answer = model.predict({"predict": np.ones((3, 2), np.float32)}, {})
        assert answer["predict"].tolist() == [2, 2, 2]
        with pytest.raises(InvalidInput, match="refuses the data"):
            model.predict({"predict": np.ones((3, 5), np.float32)}, {})

    def test_tensors_with_names_come_by_name(self, tmp_path: Path) -> None:
        tensors = ('[{"type": "tensor", "name": "a", "tensor-spec": {"dtype": "int64", "shape":'
                   ' [-1]}}, {"type": "tensor", "name": "b", "tensor-spec": {"dtype": "int64",'
                   ' "shape": [-1, 2]}}]')
        model = load(written(tmp_path / "m", "return data['a'] + data['b'].sum(axis=1)",
                             inputs=tensors))
        answer = model.predict({"a": np.array([1]), "b": np.array([[2, 3]])}, {})
        assert answer["predict"].tolist() == [6]

    def test_bytes_stay_bytes(self, tmp_path: Path) -> None:
        model = load(written(tmp_path / "m", "return [len(each) for each in data['a']]",
                             inputs=column("binary")))
        raw = np.array([b"\xff\xfe", b""], dtype=object)
        assert model.predict({"a": raw}, {})["predict"].tolist() == [2, 0]

    def test_lists_come_as_rows(self, tmp_path: Path) -> None:
        inputs = '[{"type": "array", "items": {"type": "double"}, "name": "a", "required": true}]'
        model = load(written(tmp_path / "m", "return [sum(row) for row in data['a']]",
                             inputs=inputs))
        assert model.signature.inputs == (TensorSpec("a", "FP64", (-1, -1)),)
        answer = model.predict({"a": np.array([[1.0, 2.0], [3.0, 4.0]])}, {})
        assert answer["predict"].tolist() == [3, 7]
        with pytest.raises(InvalidInput, match="shape"):
            model.predict({"a": np.array([1.0])}, {})

    def test_objects_come_as_json(self, tmp_path: Path) -> None:
        inputs = ('[{"type": "object", "name": "a", "required": true, "properties":'
                  ' {"role": {"type": "string", "required": true}}}]')
        model = load(written(tmp_path / "m", "return [each['role'] for each in data['a']]",
                             inputs=inputs))
        answer = model.predict({"a": texts('{"role": "user"}')}, {})
        assert answer["predict"].tolist() == [b"user"]
        with pytest.raises(InvalidInput, match="takes JSON text"):
            model.predict({"a": texts("{role")}, {})

    def test_a_datetime_is_refused_with_the_way_out(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidArtifact, match=r"'a' of its signature is a datetime.*string"):
            load(written(tmp_path / "m", "return data", inputs=column("datetime")))

    def test_columns_of_different_lengths_are_the_callers(self, tmp_path: Path) -> None:
        inputs = '[{"type": "long", "name": "a"}, {"type": "long", "name": "b"}]'
        model = load(written(tmp_path / "m", "return data['a']", inputs=inputs))
        with pytest.raises(InvalidInput, match="differ in length"):
            model.predict({"a": np.array([1, 2]), "b": np.array([1])}, {})
        with pytest.raises(InvalidInput, match="a column is"):
            model.predict({"a": np.ones((1, 2), int), "b": np.array([1])}, {})

    def test_without_a_signature_columns_matrices_and_others_pass(self, tmp_path: Path) -> None:
        model = load(written(tmp_path / "m", "return [type(data).__name__]"))
        assert model.signature.inputs == ()

        def kind(**inputs: Any) -> bytes:
            answer: bytes = model.predict(inputs, {})["predict"].tolist()[0]
            return answer

        assert kind(a=np.array([1]), b=texts("x")) == b"DataFrame"
        assert kind(a=np.ones((1, 2))) == b"ndarray"
        assert kind(a=np.ones((1, 2)), b=np.array([1])) == b"dict"

    def test_what_is_declared_names_inputs_and_outputs(self, tmp_path: Path) -> None:
        folder = written(tmp_path / "m", "return data['x'] * 2")
        model = load(folder, inputs=(TensorSpec("x", "INT64", (-1,)),),
                     outputs=(TensorSpec("predict", "FP64", (-1,)),))
        answer = model.predict({"x": np.array([1])}, {})["predict"]
        assert answer.dtype == np.float64


class TestAnswers:
    def answer(self, folder: Path, body: str, outputs: str | None = None) -> Any:
        model = load(written(folder / "m", f"import pandas as pd; {body}", outputs=outputs))
        return model.predict({"x": np.array([1, 2])}, {})

    def test_columns_of_a_data_frame_are_outputs(self, tmp_path: Path) -> None:
        answer = self.answer(tmp_path, "return pd.DataFrame({'a': data.x, 'b': ['p', 'q']})")
        assert answer["a"].tolist() == [1, 2]
        assert answer["b"].tolist() == [b"p", b"q"]

    def test_entries_of_a_dict_are_outputs(self, tmp_path: Path) -> None:
        answer = self.answer(tmp_path, "return {'a': data.x.to_numpy(), 'b': 'text'}")
        assert answer["a"].tolist() == [1, 2]
        assert answer["b"].tolist() == [b"text"]

    def test_dicts_in_a_list_become_json(self, tmp_path: Path) -> None:
        answer = self.answer(tmp_path, "return [{'a': 1}, {'a': [None]}]")
        assert answer["predict"].tolist() == [b'{"a": 1}', b'{"a": [null]}']

    def test_rows_of_different_lengths_become_json(self, tmp_path: Path) -> None:
        answer = self.answer(tmp_path, "return [[1], [2, 3]]")
        assert answer["predict"].tolist() == [b"[1]", b"[2, 3]"]

    def test_unnamed_columns_are_those_of_the_signature_in_order(self, tmp_path: Path) -> None:
        outputs = '[{"type": "long", "name": "a"}, {"type": "double", "name": "b"}]'
        answer = self.answer(tmp_path, "return pd.DataFrame({0: data.x, 1: data.x})", outputs)
        assert answer["a"].tolist() == [1, 2]
        assert answer["b"].dtype == np.float64

    def test_an_array_is_split_into_the_signatures_columns(self, tmp_path: Path) -> None:
        outputs = '[{"type": "long", "name": "a"}, {"type": "long", "name": "b"}]'
        answer = self.answer(tmp_path, "return [[1, 2], [3, 4]]", outputs)
        assert answer["b"].tolist() == [2, 4]

    def test_a_whole_number_in_the_signature_cuts_nothing_off(self, tmp_path: Path) -> None:
        answer = self.answer(tmp_path, "return data.x + 0.5", column("long"))
        assert answer["a"].tolist() == [1.5, 2.5]

    @pytest.mark.parametrize(("body", "said"), [
        ("return {'c': [1]}", r"returned c, but not a, b"),
        ("return [1, 2]", r"shape \[2\]; its signature has 2 outputs: a, b"),
    ], ids=["names", "array"])
    def test_another_answer_than_the_signatures_is_the_models_fault(
        self, tmp_path: Path, body: str, said: str
    ) -> None:
        outputs = '[{"type": "long", "name": "a"}, {"type": "long", "name": "b"}]'
        with pytest.raises(ModelFailed, match=said):
            self.answer(tmp_path, body, outputs)


class TestLoading:
    def test_two_models_modules_of_one_name_do_not_meet(self, tmp_path: Path) -> None:
        models = [load(written(tmp_path / str(n), f"return [{n}]")) for n in (1, 2)]
        assert [model.predict({}, {})["predict"].tolist() for model in models] == [[1], [2]]
        assert "loader" not in sys.modules
        assert not any(str(tmp_path) in path for path in sys.path)

    def test_its_own_modules_can_be_imported_later(self, tmp_path: Path) -> None:
        folder = written(tmp_path / "m", "import later; return [later.ANSWER]")
        (folder / "code" / "later.py").write_text("ANSWER = 42\n")
        assert load(folder).predict({}, {})["predict"].tolist() == [42]

    def test_nothing_of_it_stays_after_it_is_closed(self, tmp_path: Path) -> None:
        model = load(written(tmp_path / "m", "return [1]"))
        assert imported_from(tmp_path)
        model.close()
        assert not imported_from(tmp_path)

    def test_models_of_scripts_that_load_at_once_do_not_mix(self, tmp_path: Path) -> None:
        folders = [scripted(tmp_path / str(n), n) for n in range(6)]
        with ThreadPoolExecutor(6) as threads:
            models = list(threads.map(load, folders))
        assert [model.predict({}, {})["predict"].tolist() for model in models] == [
            [n] for n in range(6)
        ]
        for model in models:
            model.close()
        assert not imported_from(tmp_path)

    def test_a_script_without_a_model_does_not_get_another_ones(self, tmp_path: Path) -> None:
        load(scripted(tmp_path / "a", 1))
        folder = scripted(tmp_path / "b", 2)
        (folder / "script.py").write_text("")
        with pytest.raises(InvalidArtifact, match="set_model"):
            load(folder)

    def test_rows_of_several_requests_never_meet_in_own_code(self, further: Further) -> None:
        folder, _ = further("mlflow")
        model = load(folder / "flats")
        assert isinstance(model, RowLimited)
        assert model.max_batch_rows == 1
        assert model.max_concurrency == 1

    def test_requirements_that_are_not_met_are_noted(self, tmp_path: Path) -> None:
        model: Any = load(written(
            tmp_path / "m", "return [1]",
            requirements="# pins\nmlflow\nnumpy\nnosuch==3  # why\npandas<1\n-e .\nother; "
                         "python_version < '3'\n",
        ))
        assert len(model.notes) == 1
        assert "nosuch==3 (not installed), pandas<1 (installed: " in model.notes[0]

    def test_another_python_is_noted(self, tmp_path: Path) -> None:
        folder = written(tmp_path / "m", "return [1]")
        (folder / "python_env.yaml").write_text("python: 3.8.2\n")
        model: Any = load(folder)
        assert model.notes == (
            f"it was saved with Python 3.8.2, and runs with {sys.version_info[0]}."
            f"{sys.version_info[1]}",
        )

    def test_what_mlflow_logs_while_loading_is_noted_and_not_printed(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        folder = written(tmp_path / "m", "return [1]")
        with (folder / "code" / "loader.py").open("a") as file:
            file.write("import logging; logging.getLogger('mlflow.x').warning('take %s', 'care')")
        model: Any = load(folder)
        assert model.notes == ("take care",)
        logging.getLogger("mlflow.x").warning("while predicting")
        assert capfd.readouterr() == ("", "")

    def test_a_missing_package_is_named_with_the_requirements(self, tmp_path: Path) -> None:
        folder = written(tmp_path / "m", "return [1]")
        (folder / "code" / "loader.py").write_text("import nosuchpackage\n")
        with pytest.raises(RuntimeMissing, match=r"'nosuchpackage'.*requirements.txt"):
            load(folder)

    def test_a_failing_loader_is_told_with_what_is_not_installed(self, tmp_path: Path) -> None:
        folder = written(tmp_path / "m", "return [1]", requirements="nosuch==3\n")
        (folder / "code" / "loader.py").write_text("raise OSError('no weights\\nat all')\n")
        with pytest.raises(InvalidArtifact, match=r"OSError: no weights; .*nosuch==3") as raised:
            load(folder)
        assert "\n" not in raised.value.message
        assert not imported_from(tmp_path)

    @pytest.mark.parametrize(("text", "said"), [
        ("flavors: {sklearn: {}}\n", "no pyfunc"),
        ("a: [\n", "MLmodel"),
        ("flavors: {python_function: {loader_module: loader, code: code}}\nsignature: 1\n",
         "MLmodel"),
    ], ids=["flavor", "yaml", "signature"])
    def test_a_damaged_description_is_refused(self, tmp_path: Path, text: str, said: str) -> None:
        folder = written(tmp_path / "m", "return [1]")
        (folder / "MLmodel").write_text(text)
        with pytest.raises(InvalidArtifact, match=said) as raised:
            load(folder)
        assert "\n" not in raised.value.message

    def test_a_folder_without_a_description_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidArtifact, match="has no file MLmodel"):
            load(tmp_path)

    def test_without_mlflow_the_extra_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "mlflow.pyfunc", None)
        with pytest.raises(RuntimeMissing, match=r"shoal\[mlflow\]"):
            load(written(tmp_path / "m", "return [1]"))

    def test_a_model_script_in_the_folder_is_no_python_model(self, tmp_path: Path) -> None:
        folder = written(tmp_path / "m", "return [1]")
        (folder / "model.py").write_text("class Model: ...")
        registry = RuntimeRegistry.installed()
        claims = [f for f in registry.formats() if registry.get(f).recognise(folder, b"")]
        assert claims == ["mlflow"]


class TestNative:
    def test_a_framework_answers_for_its_own_file(self, further: Further) -> None:
        folder, cases = further("mlflow")
        registry = RuntimeRegistry.installed()
        spec = ModelSpec(name="irises", uri=str(folder / "irises"))
        revision = declare(spec, registry, registered_at=0).revisions[0]
        assert (revision.format, Path(revision.uri).name) == ("sklearn", "model.skops")
        assert not registry.runs_code(revision.format, Path(revision.uri))
        model = registry.get(revision.format).load(Artifact(
            "irises", 1, Path(revision.uri), revision.format, inputs=revision.inputs))
        case = cases["irises"]
        inputs = {each["name"]: np.array(each["data"]) for each in case.request["inputs"]}
        assert model.predict(inputs, {})["predict"].tolist() == case.expect["outputs"][0]["data"]
        assert names(model.signature.inputs) == names(revision.inputs)

    def test_the_folder_is_taken_where_mlflow_is_asked_for(self, further: Further) -> None:
        folder, cases = further("mlflow")
        spec = ModelSpec(name="irises", uri=str(folder / "irises"), format="mlflow")
        revision = declare(spec, RuntimeRegistry.installed(), registered_at=0).revisions[0]
        assert Path(revision.uri) == folder / "irises"
        model = load(folder / "irises")
        case = cases["irises"]
        inputs = {each["name"]: np.array(each["data"]) for each in case.request["inputs"]}
        assert model.predict(inputs, {})["predict"].tolist() == case.expect["outputs"][0]["data"]


def names(specs: Sequence[TensorSpec]) -> list[str]:
    return [spec.name for spec in specs]
