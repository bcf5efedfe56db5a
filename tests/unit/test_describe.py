"""What the protocols tell about servers and models."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, time
from typing import TYPE_CHECKING

import pytest

from shoal.dataplane import describe
from shoal.dataplane.statistics import Statistics
from shoal.domain.model import ModelSpec, VersionPolicy, make_revision
from shoal.domain.signature import DATATYPES, Signature, TensorSpec
from shoal.domain.views import ModelView, State, VersionView
from shoal.node.live import LiveCopy, Running

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shoal.domain.model import JsonValue
    from shoal.ports import Arrays


class Model:
    """Only described, never asked."""

    platform = "onnxruntime_onnx"
    max_concurrency = 1
    may_wait = False

    def __init__(self, signature: Signature) -> None:
        self.signature = signature

    def predict(self, inputs: Arrays, parameters: Mapping[str, JsonValue],
                outputs: tuple[str, ...] = ()) -> Arrays:
        raise NotImplementedError

    def size_bytes(self) -> int | None:
        return None

    def close(self) -> None:
        pass


def copy_of(signature: Signature) -> LiveCopy:
    spec = ModelSpec(name="m", uri="/m")
    revision = make_revision(
        spec, version=2, uri="/m/2", format="onnx", artifact_digest="d", files_bytes=1
    )
    return LiveCopy(revision, Model(signature), Running(ThreadPoolExecutor(1), 1, 0.0, 1))


COPY = copy_of(Signature(
    (TensorSpec("text", "BYTES", (-1,)), TensorSpec("x", "FP32", (-1, 4))),
    (TensorSpec("y", "INT64", (-1,)),),
))


def test_a_server_lists_the_repository_only_where_it_may_be_changed() -> None:
    assert describe.server(repository_control=True)["extensions"] == [
        "binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics",
    ]
    assert describe.server(repository_control=False)["extensions"] == [
        "binary_tensor_data", "model_configuration", "parameters", "statistics",
    ]


def test_metadata_lists_versions_inputs_and_outputs() -> None:
    assert describe.metadata(COPY, [1, 2]) == {
        "name": "m", "versions": ["1", "2"], "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "text", "datatype": "BYTES", "shape": [-1]},
            {"name": "x", "datatype": "FP32", "shape": [-1, 4]},
        ],
        "outputs": [{"name": "y", "datatype": "INT64", "shape": [-1]}],
    }


def test_a_configuration_has_tritons_words() -> None:
    config = describe.config(COPY, VersionPolicy())
    assert (config["name"], config["backend"], config["max_batch_size"]) == ("m", "onnx", 0)
    assert config["input"] == [
        {"name": "text", "data_type": "TYPE_STRING", "dims": [-1]},
        {"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 4]},
    ]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_has_a_name_in_triton(datatype: str) -> None:
    config = describe.config(
        copy_of(Signature((TensorSpec("x", datatype, ()),), ())), VersionPolicy()
    )
    # model_config.proto, enum DataType
    assert config["input"][0]["data_type"] in {  # type: ignore[index]
        "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8",
        "TYPE_INT16", "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64",
        "TYPE_STRING", "TYPE_BF16",
    }


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (VersionPolicy(), {"all": {}}),
        (VersionPolicy(latest=2), {"latest": {"num_versions": 2}}),
        (VersionPolicy(specific=(1, 3)), {"specific": {"versions": [1, 3]}}),
    ],
)
def test_the_version_policy_is_told_as_triton_writes_it(
    policy: VersionPolicy, told: dict[str, object]
) -> None:
    assert describe.config(COPY, policy)["version_policy"] == told


def version(number: int, state: State, error: str | None = None) -> VersionView:
    return VersionView(number, f"m@{number}", state, "onnx", "/m", 1, error=error)


def view(*versions: VersionView, problem: str | None = None) -> ModelView:
    return ModelView("m", State.READY, "/m", "api", 1.0, list(versions), problem=problem)


@pytest.mark.parametrize(
    ("state", "told", "reason"),
    [
        (State.READY, "READY", ""), (State.LOADING, "LOADING", "loading"),
        (State.QUEUED, "LOADING", "queued"), (State.COLD, "UNAVAILABLE", "cold"),
        (State.UNLOADED, "UNAVAILABLE", "unloaded"),
    ],
)
def test_the_index_knows_three_states_and_why(state: State, told: str, reason: str) -> None:
    assert describe.index_entries(view(version(1, state)), only_ready=False) == [
        {"name": "m", "version": "1", "state": told, "reason": reason}
    ]


def test_the_index_has_an_entry_for_each_version() -> None:
    model = view(version(1, State.READY), version(2, State.FAILED, "it is broken"))
    both = describe.index_entries(model, only_ready=False)
    told = [(each["version"], each["reason"]) for each in both]
    assert told == [("1", ""), ("2", "it is broken")]
    assert describe.index_entries(model, only_ready=True) == both[:1]


def test_the_index_says_why_a_model_has_no_version() -> None:
    (entry,) = describe.index_entries(view(problem="nothing at /m"), only_ready=False)
    assert entry == {
        "name": "m", "version": "", "state": "UNAVAILABLE", "reason": "nothing at /m",
    }
    assert describe.index_entries(view(), only_ready=True) == []


def test_statistics_are_nanoseconds_and_milliseconds() -> None:
    counted = Statistics(
        successes=2, success_s=0.5, compute_s=0.25, fails=1, fail_s=1e-9,
        last_at=perf_counter() - 10,
    )
    told = describe.statistics("m", 3, counted)
    assert (told["name"], told["version"]) == ("m", "3")
    assert (told["inference_count"], told["execution_count"]) == (2, 2)
    assert abs(int(str(told["last_inference"])) - (time() - 10) * 1e3) < 1000
    stats = told["inference_stats"]
    assert isinstance(stats, dict)
    assert stats["success"] == {"count": 2, "ns": 500_000_000}
    assert stats["compute_infer"] == {"count": 2, "ns": 250_000_000}
    assert stats["fail"] == {"count": 1, "ns": 1}
    assert stats["cache_hit"] == {"count": 0, "ns": 0}


def test_requests_that_ran_together_are_one_execution() -> None:
    counted = Statistics(successes=6, compute_s=4.0)
    counted.count_joined(2, answered=2, seconds=0.25)
    counted.count_joined(2, answered=1, seconds=0.5)  # the other caller had left
    counted.count_joined(3, answered=0, seconds=1.0)
    told = describe.statistics("m", 1, counted)
    assert (told["inference_count"], told["execution_count"]) == (6, 6)
    nothing = {"count": 2, "ns": 0}
    batches = told["batch_stats"]
    assert isinstance(batches, list)
    assert [each["batch_size"] for each in batches] == [1, 2, 3]
    assert batches[0]["compute_infer"] == {"count": 3, "ns": 3_000_000_000}
    assert batches[1] == {"batch_size": 2, "compute_input": nothing,
                          "compute_infer": {"count": 2, "ns": 750_000_000},
                          "compute_output": nothing}


def test_a_version_that_nobody_asked_has_no_last_inference() -> None:
    assert describe.statistics("m", 1, Statistics())["last_inference"] == 0
