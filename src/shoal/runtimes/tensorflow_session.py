"""Imports TensorFlow quietly, and opens its sessions as Shoal wants them.

Shared by the runtimes of TensorFlow's own files and of Keras. Sessions, not eager functions: a call
of a small model takes 20 µs in one and 150 µs as a function; they hold a graph and its variables
and nothing else, and let go of all when they are closed. Must not know files.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from shoal.domain.errors import InvalidArtifact
from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact
from shoal.runtimes.loading import import_framework, one_line
from shoal.runtimes.native_output import without_lines

if TYPE_CHECKING:
    from numpy.typing import NDArray

Run: TypeAlias = "Callable[..., list[NDArray[np.generic]]]"

SESSION_BYTES: Final = 500 * 1024  # of a session beside its weights, as measured
_LOG_LEVEL: Final = "TF_CPP_MIN_LOG_LEVEL"
_LOG_NOTHING: Final = "3"
# What TensorFlow's libraries print when they are mapped, before they look at that variable.
_AT_IMPORT: Final = re.compile(
    rb"^WARNING: All log messages before absl::InitializeLog|"
    rb"^[IWE]\d{4} .*\b(port|cuda_\w+|computation_placer)\.cc:\d+\]"
)
_IN_CALLERS_THREAD: Final = -1
_PLACES: Final = re.compile(r"\{\{[^}]*\}\}\s*|\[\[.*?\]\]|\[Op:\w+\].*")

_DATATYPES: Final = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "float16": "FP16", "bfloat16": "BF16", "float32": "FP32", "float64": "FP64",
    "string": "BYTES",
}
_importing = threading.Lock()


@contextmanager
def quiet() -> Iterator[None]:
    """While TensorFlow is imported it prints nothing, unless somebody set TF_CPP_MIN_LOG_LEVEL."""
    with _importing:
        if os.environ.setdefault(_LOG_LEVEL, _LOG_NOTHING) != _LOG_NOTHING:
            yield
            return
        # Its Python half warns of what nobody who serves a model can change.
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
        if "tensorflow" in sys.modules:
            yield
            return
        with without_lines(_AT_IMPORT):
            yield


def import_tensorflow(extra: str, artifact: Artifact) -> ModuleType:
    """Raises RuntimeMissing."""
    give_memory_back()
    with quiet():
        return import_framework("tensorflow", extra, artifact)


def give_memory_back() -> None:
    """Before TensorFlow is imported: with oneDNN, which is usual, it has an allocator of its own
    that keeps whatever models and calls ever needed at once. Without it calls take as long."""
    os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")


class OpenSession:
    """A graph that runs. Safe for several threads at once."""

    def __init__(self, framework: ModuleType, graph: Any, threads: int) -> None:
        """graph: a `tf.Graph`; Any: TensorFlow's are untyped. threads: for one call; the first
        session of the process decides for all."""
        config = framework.compat.v1.ConfigProto(
            intra_op_parallelism_threads=threads,
            # All sessions share one pool of such threads. With one thread they would wait for each
            # other, and handing a call over takes a quarter of its time.
            inter_op_parallelism_threads=_IN_CALLERS_THREAD,
        )
        config.gpu_options.allow_growth = True  # else the first session takes all there is
        # The graph is given once and stays: the session need not keep a copy to extend it.
        config.experimental.optimize_for_static_graph = True
        config.experimental.disable_output_partition_graphs = True
        self._session: Any = framework.compat.v1.Session(graph=graph, config=config)

    def runner(self, feeds: Sequence[str], fetches: Sequence[str] = (), targets: Sequence[str] = ()
               ) -> Run:
        """Takes arrays for the tensors `feeds`, in their order, runs the operations `targets`, and
        answers the tensors `fetches`. Prepares the graph for that, once."""
        from tensorflow.core.protobuf.config_pb2 import CallableOptions

        # What `Session.make_callable` is made of; that checks again what is checked already, for 60
        # to 90 µs a call.
        made: Run = self._session._make_callable_from_options(
            CallableOptions(feed=feeds, fetch=fetches, target=targets)
        )
        return made

    def close(self) -> None:
        """Nothing may run in it any more."""
        from tensorflow.python.framework.ops import dismantle_graph

        self._session.close()
        # A graph is full of cycles: with its constants it would stay until Python looks for them.
        dismantle_graph(self._session.graph)


def callers_errors(framework: ModuleType) -> tuple[type[Exception], ...]:
    """What a run raises when the data are wrong."""
    errors = framework.errors
    return (errors.InvalidArgumentError, errors.OutOfRangeError, errors.UnimplementedError,
            ValueError, TypeError)


def say(error: BaseException | str) -> str:
    """Without the places in the graph, which come first and last."""
    return one_line(_PLACES.sub("", str(getattr(error, "message", error))))


def spec_of(artifact: Artifact, name: str, dtype: str, shape: Sequence[int | None] | None
            ) -> TensorSpec:
    """Of a datatype and a shape as TensorFlow and Keras write them. Where not even the rank is
    known (None) it is shown as [-1]. Raises InvalidArtifact."""
    datatype = _DATATYPES.get(dtype)
    if datatype is None:
        raise InvalidArtifact(
            f"model {artifact.model!r}: {artifact.path.name} has {name!r} of the type {dtype}, "
            "which the Open Inference Protocol cannot carry; export it without"
        )
    extents = (None,) if shape is None else shape
    return TensorSpec(name, datatype, tuple(-1 if each is None else each for each in extents))
