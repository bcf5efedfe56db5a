"""What the protocols tell about servers and models: metadata, configuration, statistics, readiness.

Sources: Open Inference Protocol; Triton's model_configuration, model_repository and statistics
extensions. Values are JSON; each protocol puts them into its own form.
"""

from __future__ import annotations

from time import perf_counter, time
from typing import Final

import shoal
from shoal.dataplane.statistics import Statistics
from shoal.domain.errors import (
    LoadFailed,
    NoRoom,
    ShoalError,
    TooLarge,
    Unavailable,
    Unloaded,
    VersionNotFound,
)
from shoal.domain.events import served
from shoal.domain.model import VersionPolicy
from shoal.domain.signature import TensorSpec
from shoal.domain.views import ModelView, State, VersionView
from shoal.node.instance import Instance
from shoal.node.live import LiveCopy
from shoal.node.story import state_of

EXTENSIONS: Final = ("binary_tensor_data", "model_configuration", "statistics", "parameters")
CONTROL_EXTENSION: Final = "model_repository"

# Triton's model_config.proto names datatypes differently from its inference protocol.
_CONFIG_TYPES: Final = {"BYTES": "TYPE_STRING"}

RETRY_S: Final = 5.0  # when to look again at what only people can put right

_FAILURES: Final[dict[str, type[Unavailable]]] = {
    kind.code: kind for kind in (LoadFailed, NoRoom, TooLarge)
}

_INDEX_STATES: Final = {
    State.READY: "READY",
    State.LOADING: "LOADING",
    State.QUEUED: "LOADING",
    State.COLD: "UNAVAILABLE",
    State.FAILED: "UNAVAILABLE",
    State.UNLOADED: "UNAVAILABLE",
    State.INVALID: "UNAVAILABLE",
}


def server(*, repository_control: bool) -> dict[str, object]:
    """`extensions`: what works, and only that."""
    extensions = [*EXTENSIONS, CONTROL_EXTENSION] if repository_control else list(EXTENSIONS)
    return {"name": "shoal", "version": shoal.__version__, "extensions": sorted(extensions)}


def metadata(copy: LiveCopy, versions: list[int]) -> dict[str, object]:
    return {
        "name": copy.revision.model,
        "versions": [str(version) for version in versions],
        "platform": copy.platform,
        "inputs": [_tensor(spec) for spec in copy.signature.inputs],
        "outputs": [_tensor(spec) for spec in copy.signature.outputs],
    }


def config(copy: LiveCopy, policy: VersionPolicy) -> dict[str, object]:
    """The model's configuration as Triton would hold it. Shapes are whole, so `max_batch_size` is
    0: a first axis of any extent is shown as -1."""
    if policy.specific is not None:
        version_policy: dict[str, object] = {"specific": {"versions": list(policy.specific)}}
    elif policy.latest is not None:
        version_policy = {"latest": {"num_versions": policy.latest}}
    else:
        version_policy = {"all": {}}
    return {
        "name": copy.revision.model,
        "platform": copy.platform,
        "backend": copy.revision.format,
        "max_batch_size": 0,
        "version_policy": version_policy,
        "input": [_config_tensor(spec) for spec in copy.signature.inputs],
        "output": [_config_tensor(spec) for spec in copy.signature.outputs],
        "parameters": {},
    }


def _tensor(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _config_tensor(spec: TensorSpec) -> dict[str, object]:
    data_type = _CONFIG_TYPES.get(spec.datatype, f"TYPE_{spec.datatype}")
    return {"name": spec.name, "data_type": data_type, "dims": list(spec.shape)}


def why_not_ready(instance: Instance, name: str, version: int | None) -> ShoalError | None:
    """None when the next request for the model can be answered, after a load if need be. Raises as
    `Instance.record` does."""
    record = instance.record(name)
    revision = served(record, version)
    if revision is None and not record.revisions:
        why = record.problem or "nothing that can be served was found"
        return LoadFailed(f"model {name!r} cannot be served: {why}", RETRY_S)
    if revision is None:
        return VersionNotFound(
            f"model {name!r} has no version {version}; it serves "
            f"{', '.join(str(each.version) for each in record.revisions)}"
        )
    if instance.find(name, version) is not None or instance.elsewhere(name, version) is not None:
        return None
    # Where this instance is not the home, it knows no more: as cold models, it takes it for ready.
    play = instance.core.models.get(name)
    slot = play.slots.get(version) if play is not None and not play.removed else None
    if slot is not None:
        revision = slot.active  # an older one, where the newest could not be loaded
    state = state_of(instance, record, revision)
    if state is State.UNLOADED:
        return Unloaded(f"model {name!r} was taken out of service", RETRY_S)
    failure = instance.core.failures.of(revision.id)
    if failure is not None:  # also while it is tried again: that would be news
        wait_s = max(failure.retry_at - instance.clock.monotonic(), 0.0)
        return _FAILURES.get(failure.code, LoadFailed)(failure.message, wait_s)
    if state is State.FAILED:  # known to be too large without a try
        return TooLarge(instance.core.too_large(revision) or "", RETRY_S)
    return None


def index_entries(model: ModelView, only_ready: bool) -> list[dict[str, str]]:
    """One for each version; of a model that has none that could be served, one that says why."""
    if not model.versions and not only_ready:
        return [{"name": model.name, "version": "", "state": "UNAVAILABLE",
                 "reason": model.problem or "nothing that can be served was found"}]
    return [
        _index_entry(model, version) for version in model.versions
        if not only_ready or version.state is State.READY
    ]


def _index_entry(model: ModelView, version: VersionView) -> dict[str, str]:
    """`reason` says why a version is not ready; a cold one is loaded by the next request."""
    reason = version.error or ("" if version.state is State.READY else version.state.value)
    return {
        "name": model.name, "version": str(version.version),
        "state": _INDEX_STATES[version.state], "reason": reason,
    }


def statistics(name: str, version: int, counted: Statistics) -> dict[str, object]:
    """Durations in nanoseconds, `last_inference` in milliseconds since the epoch, as Triton's.

    An inference is a request, as in Triton where `max_batch_size` is 0; an execution is a call of
    the model, for one request or for several together. `batch_size` is the number of these."""
    count = counted.successes
    single, single_s = counted.single()
    batches = {1: (single, single_s)} if single else {}
    batches |= {size: (each.calls, each.calls_s) for size, each in sorted(counted.joined.items())}
    last_ms = round((time() - (perf_counter() - counted.last_at)) * 1e3) if counted.last_at else 0
    return {
        "name": name,
        "version": str(version),
        "last_inference": last_ms,
        "inference_count": count,
        "execution_count": sum(executions for executions, _ in batches.values()),
        "inference_stats": {
            "success": _duration(count, counted.success_s),
            "fail": _duration(counted.fails, counted.fail_s),
            "queue": _duration(count, counted.queue_s),
            "compute_input": _duration(count, counted.decode_s),
            "compute_infer": _duration(count, counted.compute_s),
            "compute_output": _duration(count, counted.encode_s),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "batch_stats": [
            {
                "batch_size": size,
                # Joining tensors and splitting the answer are part of the inference.
                "compute_input": _duration(executions, 0.0),
                "compute_infer": _duration(executions, seconds),
                "compute_output": _duration(executions, 0.0),
            }
            for size, (executions, seconds) in batches.items()
        ],
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}
