"""Loads OpenVINO's intermediate representation, `.xml` with `.bin` beside it, compiled for the CPU.

Names, datatypes and shapes are the graph's own, strictly. Loading runs no code: operations of other
libraries are not known here. Options: none.
"""

from __future__ import annotations

import math
import re
import sys
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import ml_dtypes
import numpy as np

from shoal.codecs.tensors import DTYPES
from shoal.domain.errors import InvalidArtifact, InvalidInput
from shoal.domain.model import JsonValue
from shoal.domain.signature import Signature, TensorSpec
from shoal.ports import Artifact, LoadedModel
from shoal.runtimes.binding import bind_inputs, bind_outputs, feed, shown_array, wanted
from shoal.runtimes.loading import (
    check_file,
    import_framework,
    one_line,
    parallel_calls,
    taking_notes,
    unreadable,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shoal.ports import Arrays

_DATATYPES: Final = {
    "boolean": "BOOL", "u8": "UINT8", "u16": "UINT16", "u32": "UINT32", "u64": "UINT64",
    "i8": "INT8", "i16": "INT16", "i32": "INT32", "i64": "INT64",
    "f16": "FP16", "bf16": "BF16", "f32": "FP32", "f64": "FP64", "string": "BYTES",
}
_CONFIG: Final = {
    # Else it computes in 16 bits where the processor can, and answers differ by machine.
    "INFERENCE_PRECISION_HINT": "f32",
    # Pinned threads of many models would meet on the same processors.
    "ENABLE_CPU_PINNING": False,
}
# Of a compiled model beside its weights, measured for a small network.
_COMPILED_BYTES: Final = 96 * 1024
# A call of more leaves no buffers behind.
_KEPT_BYTES: Final = 4 * 1024**2
_OLDEST_VERSION: Final = 10

_NET: Final = re.compile(rb'<net\s[^>]*?version="(\d+)"')
_WHERE: Final = re.compile(r"\.[ch]pp:\d+:?$")  # ends a line that tells a place in its sources
_WAY_OUT: Final = "copy both files again, or convert it anew: openvino.save_model(model, 'm.xml')"

_lock = threading.Lock()
_cores: dict[ModuleType, Any] = {}


class OpenVinoRuntime:
    format = "openvino"
    suffixes = (".xml",)
    options: tuple[str, ...] | None = ()

    def recognise(self, path: Path, head: bytes) -> bool:
        """XML of a `net`; also of old releases, to say what to do about them."""
        return path.suffix.lower() in self.suffixes and not path.is_dir() and b"<net " in head

    def runs_code(self, path: Path) -> bool:
        return False

    def load(self, artifact: Artifact) -> LoadedModel:
        """See `Runtime.load`. Weights are those of `domain.external_data`, and no others."""
        check_file(artifact, self.suffixes)
        _check_version(artifact)
        with taking_notes() as notes:
            openvino = _framework(artifact)
            compiled = _compile(openvino, artifact)
            model = _OpenVinoModel(artifact, openvino, compiled)
        model.notes = tuple(notes)
        return model


class _OpenVinoModel:
    notes: tuple[str, ...] = ()

    def __init__(self, artifact: Artifact, openvino: ModuleType, compiled: Any) -> None:
        own_inputs = [_described(artifact, port, artifact.inputs) for port in compiled.inputs]
        own_outputs = [_described(artifact, port, artifact.outputs) for port in compiled.outputs]
        self._openvino = openvino
        self._model = artifact.model
        self._compiled: Any = compiled
        self._inputs = bind_inputs(artifact, own_inputs)
        self._outputs = bind_outputs(artifact, own_outputs)
        self._position = {spec.name: index for index, spec in enumerate(own_outputs)}
        self._bounds = {spec.name: _Bounds(port.partial_shape) for spec, port in zip(
            own_inputs, compiled.inputs, strict=True)}
        # A request of OpenVINO's serves one call at a time; idle ones wait here.
        self._idle: deque[Any] = deque([compiled.create_infer_request()])
        self._stateful = bool(self._idle[0].query_state())
        files = (artifact.path, _weights(artifact))
        self._size = sum(file.stat().st_size for file in files if file.is_file())
        self.platform = "openvino"
        self.may_wait = False
        self.max_concurrency = parallel_calls(artifact.threads)
        self.signature = Signature(
            inputs=tuple(bound.shown for bound in self._inputs),
            outputs=tuple(bound.shown for bound in self._outputs),
        )
        self._warm_up(own_inputs)

    def predict(self, inputs: Arrays, parameters: Mapping[str, JsonValue],
                outputs: tuple[str, ...] = ()) -> Arrays:
        """See `LoadedModel.predict`."""
        asked = wanted(outputs, self._outputs)
        fed = feed(inputs, self._inputs)
        for bound in self._inputs:
            self._bounds[bound.own].check(fed[bound.own], bound.shown.name)
        try:
            answers = self._run(fed)
        except RuntimeError as error:
            raise InvalidInput(f"model {self._model!r} refuses the data: {_say(error)}") from error
        return {
            bound.shown.name: shown_array(answers[self._position[bound.own]], bound)
            for bound in asked
        }

    def size_bytes(self) -> int | None:
        return self._size + _COMPILED_BYTES

    def close(self) -> None:
        self._idle.clear()
        self._compiled = None

    def _run(self, fed: Arrays) -> list[NDArray[np.generic]]:
        """All outputs, in the graph's order."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        if self._stateful:  # else one client's call would answer another's
            request.reset_state()
        for index, array in enumerate(fed.values()):
            request.set_input_tensor(index, _tensor(self._openvino, array))
        request.start_async()  # the same as `infer`, without what its wrapper finds out anew
        request.wait()
        answers = [_array(tensor) for tensor in request.output_tensors]
        if sum(array.nbytes for array in (*fed.values(), *answers)) <= _KEPT_BYTES:
            self._idle.append(request)
        return answers

    def _warm_up(self, specs: list[TensorSpec]) -> None:
        """The first run packs the weights: time and memory that belong to the loading."""
        if any(-1 in spec.shape[1:] or spec.datatype == "BYTES" for spec in specs):
            return
        try:
            self._run({
                spec.name: np.zeros([1 if extent == -1 else extent for extent in spec.shape],
                                    DTYPES[spec.datatype])
                for spec in specs
            })
        except RuntimeError:
            pass  # zeros may lie outside its domain


class _Bounds:
    """The shapes that an input takes. OpenVINO computes something with others, too."""

    def __init__(self, shape: Any) -> None:
        self._rank = len(shape)
        self._shown = str(shape).replace("?", "-1")
        limits = ((dim.get_min_length(), dim.get_max_length()) for dim in shape)
        self._limits = tuple(
            (axis, low, high if high >= 0 else math.inf)
            for axis, (low, high) in enumerate(limits) if low > 0 or high >= 0
        )

    def check(self, array: NDArray[np.generic], name: str) -> None:
        """Raise InvalidInput unless `array` is within them."""
        shape = array.shape
        if len(shape) != self._rank or any(
            not low <= shape[axis] <= high for axis, low, high in self._limits
        ):
            raise InvalidInput(
                f"input {name!r} has the shape {list(shape)}, but the model takes {self._shown}"
            )


def _framework(artifact: Artifact) -> ModuleType:
    """OpenVINO as it is without its package for telemetry, which reports each import to its makers
    and writes into the home folder."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_framework("openvino", "openvino", artifact)


def _core(openvino: ModuleType) -> Any:
    """One for all models: it holds the plugin and its threads."""
    with _lock:
        if openvino not in _cores:
            core = openvino.Core()
            # Weights that are mapped would change, or vanish, with the file.
            core.set_property({"ENABLE_MMAP": False})
            _cores[openvino] = core
        return _cores[openvino]


def _compile(openvino: ModuleType, artifact: Artifact) -> Any:
    """A CompiledModel; Any: as the framework's types go."""
    streams = parallel_calls(artifact.threads)
    config = {
        **_CONFIG, "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": streams * artifact.threads,
    }
    weights = _weights(artifact)
    try:
        core = _core(openvino)
        if weights.is_file():
            model = core.read_model(str(artifact.path), str(weights))
        else:
            model = core.read_model(str(artifact.path))
        return core.compile_model(model, "CPU", config)
    except RuntimeError as error:
        reason = _say(error)
        if "Unable to read the model" in reason:
            reason = "it is no representation that this OpenVINO knows"
        elif not weights.is_file():
            reason = f"{weights.name}, which has its weights, is not beside it"
        raise unreadable(artifact, reason, _WAY_OUT) from error


def _weights(artifact: Artifact) -> Path:
    return artifact.path.with_suffix(".bin")


def _check_version(artifact: Artifact) -> None:
    with artifact.path.open("rb") as file:
        found = _NET.search(file.read(4096))
    if found is not None and int(found[1]) < _OLDEST_VERSION:
        raise unreadable(
            artifact, f"it is of version {int(found[1])}, of OpenVINO before 2020.3",
            "convert it anew from what it was made of",
        )


def _described(artifact: Artifact, port: Any, declared: tuple[TensorSpec, ...]) -> TensorSpec:
    """A tensor may have several names: of these a declared one, else the first in the alphabet; or
    none: then it is called as its operation."""
    names = sorted(port.names)
    known = {spec.name for spec in declared}
    name = next((each for each in names if each in known), names[0] if names else "")
    if not name:
        name = port.node.friendly_name.removesuffix("/sink_port_0")
    kind = port.element_type.get_type_name()
    if kind not in _DATATYPES:
        raise InvalidArtifact(
            f"model {artifact.model!r}: {artifact.path.name} has {name!r} of the type {kind}, "
            "which the Open Inference Protocol cannot carry; convert it to another at the edge"
        )
    shape = port.partial_shape
    if shape.rank.is_dynamic:
        return TensorSpec(name, _DATATYPES[kind], ())
    extents = tuple(dim.get_length() if dim.is_static else -1 for dim in shape)
    return TensorSpec(name, _DATATYPES[kind], extents)


def _tensor(openvino: ModuleType, array: NDArray[np.generic]) -> Any:
    """OpenVINO shares the array's memory where it may write there; else it copies."""
    if array.dtype.kind == "O":
        return openvino.Tensor(array.astype(np.bytes_))
    if array.dtype == ml_dtypes.bfloat16:
        tensor = openvino.Tensor(openvino.Type.bf16, openvino.Shape(array.shape))
        tensor.data[...] = np.ascontiguousarray(array).view(np.float16)
        return tensor
    array = np.ascontiguousarray(array).reshape(array.shape)  # which makes scalars vectors
    return openvino.Tensor(array, shared_memory=array.flags.writeable)


def _array(tensor: Any) -> NDArray[np.generic]:
    """A copy: the request writes its next answer over this one."""
    kind = tensor.element_type.get_type_name()
    if kind == "string":
        texts: NDArray[np.generic] = tensor.bytes_data.astype(np.object_)
        return texts
    copied: NDArray[np.generic] = tensor.data.copy()
    return copied.view(ml_dtypes.bfloat16) if kind == "bf16" else copied


def _say(error: BaseException) -> str:
    """The first line that is no place in OpenVINO's sources."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not _WHERE.search(line)]
    return one_line(said[0] if said else error)
