"""What every runtime owes it owes in a process of its own, too: some formats, for all."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from examples.cases import Case
from tests.contract import test_runtimes as suite
from tests.contract.test_runtimes import Sample
from tests.isolated import isolated

from shoal.ports import Artifact, LoadedModel

CHECKS = (
    suite.test_the_signature_describes_inputs_and_outputs,
    suite.test_predict_answers_as_the_framework_does,
    suite.test_one_row_answers_as_it_does_among_others,
    suite.test_read_only_arrays_are_taken,
    suite.test_an_output_asked_for_by_name_is_in_the_answer,
    suite.test_four_threads_get_right_answers,
    suite.test_two_copies_do_not_disturb_each_other,
    suite.test_a_missing_input_is_the_callers_fault,
)
NAMES = ("iris", "penguins", "iris-tree", "iris-net", "mood")


class IsolatedSample(Sample):
    def load(self) -> LoadedModel:
        return isolated(self.artifact)


@pytest.fixture
def sample(examples_folder: tuple[Path, dict[str, Case]],
           request: pytest.FixtureRequest) -> Sample:
    folder, cases = examples_folder
    case = cases[request.param]
    return IsolatedSample(case, Artifact(
        case.model, int(case.version or 1), folder / case.artifact, case.format,
        inputs=suite.specs(case.inputs), outputs=suite.specs(case.outputs)))


@pytest.fixture
def model(sample: Sample) -> Iterator[LoadedModel]:
    loaded = sample.load()
    yield loaded
    loaded.close()


@pytest.mark.parametrize("sample", NAMES, indirect=True)
def test_what_runtimes_owe(sample: Sample, model: LoadedModel) -> None:
    for check in CHECKS:
        call(check, sample, model)


def call(check: Callable[..., None], sample: Sample, model: LoadedModel) -> None:
    given = {"sample": sample, "model": model}
    check(**{name: given[name] for name in inspect.signature(check).parameters})
