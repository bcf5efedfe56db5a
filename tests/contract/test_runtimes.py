"""What every runtime owes, whatever its framework: one suite over every format."""

from __future__ import annotations

import random
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples.cases import Case
from numpy.typing import NDArray

from shoal.codecs.tensors import DTYPES
from shoal.domain.errors import ArtifactMissing, InvalidArtifact, InvalidInput
from shoal.domain.signature import DATATYPES, TensorSpec
from shoal.ports import Artifact, LoadedModel, Noted
from shoal.runtimes.registry import RuntimeRegistry

NAMES = (
    "iris", "digits", "wine", "penguins", "prices-1", "prices-2", "iris-tree", "diabetes",
    "tumours", "cultivars", "grapes", "iris-net", "digits-net", "mood",
)
# Of frameworks that take longer to import: `<module of examples.further>:<model>`.
FURTHER: tuple[str, ...] = (
    "mlflow:flats",
    "catboost:rentals",
    "catboost:diabetes-trees",
    "openvino:iris-ir",
    *(("pmml:loans",) if shutil.which("java") else ()),
    "tensorflow:iris-saved",
    "tensorflow:totals",
    "keras:petals",
    "keras:blooms",
    "huggingface:moods",
    "huggingface:phrases",
    "pytorch:digits-exported", "pytorch:digits-class", "pytorch:digits-state",
    "ort:iris-ort",
)
# Whose artifact is not one file of data.
FOLDERS: tuple[str, ...] = (
    "mood", "tensorflow:iris-saved", "mlflow:flats", "huggingface:moods",
    "huggingface:phrases", "pytorch:digits-class", "pytorch:digits-state",
)
ALL = NAMES + FURTHER
FILES = tuple(name for name in ALL if name not in FOLDERS)

REGISTRY = RuntimeRegistry.installed()

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Sample:
    """A case as the runtimes see it."""

    case: Case
    artifact: Artifact

    @property
    def inputs(self) -> Arrays:
        return arrays(self.case.request["inputs"], self)

    def load(self) -> LoadedModel:
        return REGISTRY.get(self.case.format).load(self.artifact)


def arrays(tensors: list[dict[str, Any]], sample: Sample) -> Arrays:
    """As the validation of requests hands them over: numbers in the signature's datatype."""
    numeric = {"sklearn": "FP64", "xgboost": "FP32", "lightgbm": "FP64"}.get(sample.case.format)
    made: Arrays = {}
    for tensor in tensors:
        datatype = tensor["datatype"]
        if datatype == "BYTES":
            data = np.array([text.encode() for text in tensor["data"]], dtype=object)
        else:
            data = np.array(tensor["data"], DTYPES[numeric or datatype])
        made[tensor["name"]] = data.reshape(tensor["shape"])
    return made


def specs(tensors: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(t["name"], t["datatype"], tuple(t["shape"])) for t in tensors)


@pytest.fixture
def sample(request: pytest.FixtureRequest) -> Sample:
    maker, _, name = request.param.rpartition(":")
    folder, cases = request.getfixturevalue("further")(maker) if maker else (
        request.getfixturevalue("examples_folder"))
    case = cases[name]
    return Sample(case, Artifact(
        case.model, int(case.version or 1), folder / case.artifact, case.format,
        inputs=specs(case.inputs), outputs=specs(case.outputs),
    ))


@pytest.fixture
def model(sample: Sample) -> Iterator[LoadedModel]:
    loaded = sample.load()
    yield loaded
    loaded.close()


def check_answer(answer: Arrays, case: Case) -> None:
    for expected in case.expect["outputs"]:
        array = answer[expected["name"]]
        assert array.dtype == DTYPES[expected["datatype"]]
        assert list(array.shape) == expected["shape"]
        if expected["datatype"] == "BYTES":
            assert [item.decode() for item in array.ravel().tolist()] == expected["data"]
        else:
            close(array.ravel(), expected["data"])


def close(actual: NDArray[np.generic], expected: object) -> None:
    np.testing.assert_allclose(actual.astype(np.float64), np.asarray(expected, np.float64), 1e-5)


def damaged(sample: Sample, folder: Path, data: bytes) -> Artifact:
    path = folder / sample.artifact.path.name
    path.write_bytes(data)
    return Artifact(sample.case.model, 1, path, sample.case.format)


every_model = pytest.mark.parametrize("sample", ALL, indirect=True)
every_file = pytest.mark.parametrize("sample", FILES, indirect=True)


@every_model
def test_exactly_one_runtime_recognises_an_artifact(sample: Sample) -> None:
    path = sample.artifact.path
    head = b"" if path.is_dir() else path.read_bytes()[:4096]
    claims = [f for f in REGISTRY.formats() if REGISTRY.get(f).recognise(path, head)]
    assert claims == [sample.case.format] == [REGISTRY.recognise(path)]


@every_file
def test_a_folder_is_not_claimed_by_its_name(sample: Sample, tmp_path: Path) -> None:
    folder = tmp_path / sample.artifact.path.name
    folder.mkdir()
    for form in REGISTRY.formats():
        runtime = REGISTRY.get(form)
        assert not runtime.recognise(folder, b"")
        for suffix in runtime.suffixes:
            named = tmp_path / f"folder{suffix}"
            named.mkdir(exist_ok=True)
            assert not runtime.recognise(named, b"")
    assert REGISTRY.recognise(folder) is None


@every_model
def test_only_pickles_and_python_run_code(sample: Sample) -> None:
    runs = REGISTRY.runs_code(sample.case.format, sample.artifact.path)
    path = sample.artifact.path
    pickled = path.suffix in (".joblib", ".pkl", ".pt2") or (
        sample.case.format == "pytorch" and path.is_dir())
    expected = pickled or sample.case.format in ("python", "mlflow")
    assert runs == expected


@every_model
def test_the_signature_describes_inputs_and_outputs(model: LoadedModel, sample: Sample) -> None:
    signature = model.signature
    assert signature.inputs
    assert signature.outputs
    for spec in (*signature.inputs, *signature.outputs):
        assert spec.name
        assert spec.datatype in DATATYPES
        assert spec.shape
        assert spec.shape[0] == -1
    assert {spec.name for spec in signature.inputs} == set(sample.inputs)
    for expected in sample.case.expect["outputs"]:
        shown = next(spec for spec in signature.outputs if spec.name == expected["name"])
        assert shown.datatype == expected["datatype"]
        assert len(shown.shape) == len(expected["shape"])


@every_model
def test_predict_answers_as_the_framework_does(model: LoadedModel, sample: Sample) -> None:
    answer = model.predict(sample.inputs, {})
    check_answer(answer, sample.case)
    assert set(answer) == {output["name"] for output in sample.case.expect["outputs"]}


@every_model
def test_one_row_answers_as_it_does_among_others(model: LoadedModel, sample: Sample) -> None:
    together = model.predict(sample.inputs, {})
    alone = model.predict({name: array[1:2] for name, array in sample.inputs.items()}, {})
    for name, array in alone.items():
        if array.dtype == object:
            assert array.tolist() == together[name][1:2].tolist()
        else:
            close(array, together[name][1:2])


@every_model
def test_read_only_arrays_are_taken(model: LoadedModel, sample: Sample) -> None:
    inputs = sample.inputs
    for array in inputs.values():
        array.flags.writeable = False
    check_answer(model.predict(inputs, {}), sample.case)


@every_model
def test_an_output_asked_for_by_name_is_in_the_answer(model: LoadedModel, sample: Sample) -> None:
    for spec in model.signature.outputs:
        assert spec.name in model.predict(sample.inputs, {}, (spec.name,))


@every_model
def test_four_threads_get_right_answers(model: LoadedModel, sample: Sample) -> None:
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: model.predict(sample.inputs, {}), range(24)))
    for answer in answers:
        check_answer(answer, sample.case)


@every_model
def test_two_copies_do_not_disturb_each_other(sample: Sample) -> None:
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: sample.load(), range(2))
    first.close()
    check_answer(second.predict(sample.inputs, {}), sample.case)
    second.close()


@every_model
def test_loading_leaves_the_filters_of_warnings_alone(sample: Sample) -> None:
    before = (list(warnings.filters), warnings.showwarning)
    sample.load().close()
    assert (list(warnings.filters), warnings.showwarning) == before


@every_model
def test_figures_are_sane(model: LoadedModel, sample: Sample) -> None:
    size = model.size_bytes()
    assert model.max_concurrency >= 1
    assert isinstance(model, Noted)
    assert model.notes == ()
    if sample.case.format in ("python", "mlflow"):
        assert size is None
    else:
        on_disk = sample.artifact.path.stat().st_size
        assert size is not None
        assert on_disk * 0.1 < size < on_disk * 4 + 600_000


@every_file
def test_data_of_the_wrong_width_are_the_callers_fault(model: LoadedModel, sample: Sample) -> None:
    wrong = {name: np.concatenate([array, array[..., :1]], axis=-1)
             for name, array in sample.inputs.items()}
    if model.signature.table:  # one column longer than the others
        name = next(iter(wrong))
        wrong = {**sample.inputs, name: wrong[name]}
    with pytest.raises(InvalidInput) as raised:
        model.predict(wrong, {})
    assert "\n" not in raised.value.message


@every_model
def test_a_missing_input_is_the_callers_fault(model: LoadedModel) -> None:
    with pytest.raises(InvalidInput):
        model.predict({}, {})


@every_file
def test_an_unknown_output_is_the_callers_fault(model: LoadedModel, sample: Sample) -> None:
    with pytest.raises(InvalidInput, match="nonsense"):
        model.predict(sample.inputs, {}, ("nonsense",))


@every_file
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9, 0.999])
def test_a_half_written_file_is_refused(sample: Sample, tmp_path: Path, kept: float) -> None:
    data = sample.artifact.path.read_bytes()
    artifact = damaged(sample, tmp_path, data[: max(1, int(len(data) * kept))])
    with pytest.raises(InvalidArtifact) as raised:
        REGISTRY.get(sample.case.format).load(artifact)
    message = raised.value.message
    assert repr(sample.case.model) in message
    assert artifact.path.name in message
    assert "\n" not in message


@every_file
def test_an_empty_file_is_refused(sample: Sample, tmp_path: Path) -> None:
    with pytest.raises(InvalidArtifact, match="is empty"):
        REGISTRY.get(sample.case.format).load(damaged(sample, tmp_path, b""))


@every_file
def test_random_bytes_are_refused(sample: Sample, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(5_000)
    with pytest.raises(InvalidArtifact):
        REGISTRY.get(sample.case.format).load(damaged(sample, tmp_path, data))


@every_model
def test_a_vanished_artifact_is_missing(sample: Sample, tmp_path: Path) -> None:
    path = tmp_path / sample.artifact.path.name
    with pytest.raises(ArtifactMissing, match=path.stem):
        REGISTRY.get(sample.case.format).load(Artifact("gone", 1, path, sample.case.format))


@every_file
def test_a_folder_in_a_files_place_is_refused(sample: Sample, tmp_path: Path) -> None:
    path = tmp_path / sample.artifact.path.name
    path.mkdir()
    with pytest.raises(InvalidArtifact, match="is a folder"):
        REGISTRY.get(sample.case.format).load(Artifact("m", 1, path, sample.case.format))


@every_model
def test_declared_names_and_datatypes_are_kept(sample: Sample) -> None:
    plain = sample.load()
    outputs = [
        spec for spec in plain.signature.outputs
        if spec.name in {tensor["name"] for tensor in sample.case.expect["outputs"]}
    ]
    plain.close()
    renamed = Artifact(
        sample.case.model, 1, sample.artifact.path, sample.case.format,
        inputs=tuple(TensorSpec(f"in_{i}", spec.datatype, spec.shape)
                     for i, spec in enumerate(plain.signature.inputs)),
        outputs=tuple(TensorSpec(f"out_{i}", spec.datatype, spec.shape)
                      for i, spec in enumerate(outputs)),
    )
    model = REGISTRY.get(sample.case.format).load(renamed)
    assert model.signature.inputs == renamed.inputs
    assert model.signature.outputs == renamed.outputs
    inputs = sample.inputs
    answer = model.predict(
        {f"in_{i}": inputs[spec.name] for i, spec in enumerate(plain.signature.inputs)}, {}
    )
    check_answer({spec.name: answer[f"out_{i}"] for i, spec in enumerate(outputs)}, sample.case)
    model.close()
