"""Opens ONNX Runtime sessions as Shoal wants them, and says in one line what they complain of.

Shared by the runtime of ONNX files and by converted models. Must not know artifacts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from shoal.runtimes.loading import one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CUDA_PROVIDER: Final = "CUDAExecutionProvider"
_LOG_NOTHING: Final = 4  # of 0, verbose, to 4, fatal: what it logs as an error it raises as well
# Up to this size a graph has so few nodes that fusing them gains a call less than 0.5 µs, while the
# objects that fuse stay in memory with each session: 30 of 83 KiB, and half of the time to load.
# Convolutions are the exception: their layouts halve the time whatever the size of the file.
_TINY_BYTES: Final = 4096
_CONVOLUTION: Final = b"Conv"
# Of a session beside its weights, measured with and without those objects.
_SESSION_BYTES: Final = 84 * 1024
_TINY_SESSION_BYTES: Final = 52 * 1024


@dataclass(frozen=True, slots=True)
class Session:
    """run: output names and arrays by input name to a list of answers, one an output name; raises
    `callers_errors(framework)`. inputs, outputs: the framework's descriptions, for the moment of
    loading. size_bytes: beside the weights."""

    run: Callable[[Sequence[str], Mapping[str, NDArray[np.generic]], None], list[object]]
    inputs: Sequence[Any]  # as the framework's types go
    outputs: Sequence[Any]
    size_bytes: int


def open_session(
    framework: ModuleType, model: Path | bytes, threads: int, device: int | None = None
) -> Session:
    """Of a file, or of its content. device: the number of a CUDA device to run on, as far as its
    operations can. Raises whatever ONNX Runtime does: its errors share no base."""
    options = framework.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait would take the CPU from the other models.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Measured: without an arena a small session takes half the memory and its first run half the
    # time; later runs cost the same, from 3-layer networks to convolutions over 224 × 224, and the
    # same as with one arena for all. What a session frees goes back to the system.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = _LOG_NOTHING
    tiny = _is_tiny(model)
    if tiny:
        options.graph_optimization_level = framework.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = framework.InferenceSession(  # without a second try that prints
        str(model) if isinstance(model, Path) else model, options,
        providers=_providers(device), enable_fallback=0,
    )
    return Session(
        # The session inside takes the same arguments. What is around it checks names that ours or
        # ONNX Runtime's own code checks too, for 1 of 5.5 µs a call, and holds 5 KiB.
        run=getattr(session, "_sess", session).run,
        inputs=session.get_inputs(),
        outputs=session.get_outputs(),
        size_bytes=_TINY_SESSION_BYTES if tiny else _SESSION_BYTES,
    )


def _providers(device: int | None) -> list[str | tuple[str, dict[str, str]]]:
    if device is None:
        return ["CPUExecutionProvider"]
    # Answers as on a processor, and no more memory than asked for: many models share the device.
    wishes = {"device_id": str(device), "use_tf32": "0",
              "arena_extend_strategy": "kSameAsRequested"}
    return [(CUDA_PROVIDER, wishes), "CPUExecutionProvider"]


@cache
def callers_errors(framework: ModuleType) -> tuple[type[Exception], ...]:
    """What a run raises when the data are wrong."""
    state = framework.capi.onnxruntime_pybind11_state
    return (state.InvalidArgument, state.RuntimeException, state.Fail, ValueError, TypeError)


def say(error: BaseException) -> str:
    """Without `[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : `, which comes first."""
    text = " ".join(str(error).split())
    return one_line(text.split(" : ", 3)[-1] if text.startswith("[ONNXRuntimeError]") else text)


def _is_tiny(model: Path | bytes) -> bool:
    """Is it better off with few optimisations?"""
    if isinstance(model, Path):
        if model.stat().st_size > _TINY_BYTES:
            return False
        model = model.read_bytes()
    return len(model) <= _TINY_BYTES and _CONVOLUTION not in model
