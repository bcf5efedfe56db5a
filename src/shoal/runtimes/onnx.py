"""Loads ONNX models into ONNX Runtime sessions, on the CPU or on a CUDA device where the installed
ONNX Runtime can. Loading them runs no code. So it does with those that were converted to ONNX
Runtime's own format (`.ort`).

Names, datatypes and shapes are the graph's own, strictly. Options: none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shoal.domain.errors import InvalidArtifact, InvalidInput, RuntimeMissing
from shoal.domain.external_data import names_beside
from shoal.domain.model import JsonValue
from shoal.domain.signature import Signature, TensorSpec
from shoal.ports import Artifact, LoadedModel
from shoal.runtimes import cuda
from shoal.runtimes.arrays import text_of, to_protocol
from shoal.runtimes.binding import Bound, bind_inputs, bind_outputs, feed, shown_array, wanted
from shoal.runtimes.loading import (
    check_file,
    import_framework,
    no_room,
    parallel_calls,
    taking_notes,
    unreadable,
)
from shoal.runtimes.onnx_file import stray_location
from shoal.runtimes.onnx_session import (
    CUDA_PROVIDER,
    Session,
    callers_errors,
    open_session,
    say,
)
from shoal.runtimes.wire_format import NotProtobuf

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

    from shoal.ports import Arrays

_DATATYPES: Final = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "float16": "FP16", "float": "FP32", "double": "FP64", "string": "BYTES",
}
_DAMAGED: Final = "it is cut off, damaged, or no ONNX file"
_WAY_OUT: Final = "copy it again, or export it anew"
_ORT: Final = ".ort"
# How far the growth of a device's memory is believed beyond the weights: others use it, too.
_BELIEVED: Final = 4
_BELIEVED_BYTES: Final = 64 * 1024**2
# A flatbuffer's root comes first, then its identifier.
_ORT_MARK, _ORT_MARK_AT = b"ORTM", 4


class OnnxRuntime:
    format = "onnx"
    suffixes = (".onnx", _ORT)
    options: tuple[str, ...] | None = ()
    accelerators = (cuda.KIND,)

    def recognise(self, path: Path, head: bytes) -> bool:
        suffix = path.suffix.lower()
        if suffix == _ORT:
            return head.startswith(_ORT_MARK, _ORT_MARK_AT)
        return suffix in self.suffixes and not path.is_dir()

    def runs_code(self, path: Path) -> bool:
        return False

    def load(self, artifact: Artifact) -> LoadedModel:
        """See `Runtime.load`. Weights in the files of `domain.external_data` are read, too."""
        check_file(artifact, self.suffixes)
        if artifact.path.suffix.lower() == _ORT:
            _check_ort(artifact)
        else:
            _check_locations(artifact)
        with taking_notes() as notes:
            framework = import_framework("onnxruntime", "onnx", artifact)
            _check_device(framework, artifact)
            before = _used_there(artifact)
            session = _open(framework, artifact)
        path = artifact.path
        beside = [path.with_name(name) for name in names_beside(path.name)]
        files = [path, *(file for file in beside if file.is_file())]
        weights = sum(file.stat().st_size for file in files)
        if artifact.device is None:
            size = weights + session.size_bytes
            return _OnnxModel(artifact, framework, session, size, tuple(notes))
        model = _OnnxModel(artifact, framework, session, session.size_bytes, tuple(notes))
        grown = max(_used_there(artifact) - before, 0)
        model.there = max(weights, min(grown, weights * _BELIEVED + _BELIEVED_BYTES))
        return model


class _OnnxModel:
    __slots__ = (
        "_callers_errors", "_inputs", "_model", "_names", "_outputs", "_plain", "_run", "_size",
        "_texts", "max_concurrency", "may_wait", "notes", "platform", "signature", "there",
    )

    def __init__(self, artifact: Artifact, framework: ModuleType, session: Session, size: int,
                 notes: tuple[str, ...]) -> None:
        self.there = 0
        own_inputs = [_described(artifact, node) for node in session.inputs]
        own_outputs = [_described(artifact, node) for node in session.outputs]
        self._inputs = bind_inputs(artifact, own_inputs)
        self._outputs = bind_outputs(artifact, own_outputs)
        self._texts = tuple(spec.name for spec in own_inputs if spec.datatype == "BYTES")
        self._names = tuple(bound.shown.name for bound in self._outputs)
        # Then a call is a run and nothing else: names and arrays are already as it takes them.
        self._plain = not self._texts and all(map(_is_plain, (*self._inputs, *self._outputs))) and (
            all(node.type.startswith("tensor(") for node in session.outputs)
        )
        self._run: Callable[..., list[object]] | None = session.run
        self._size = size
        self._model = artifact.model
        self._callers_errors = callers_errors(framework)
        self.platform = "onnxruntime_onnx"
        # Sessions are documented as safe for several threads at once.
        self.may_wait = False
        self.max_concurrency = parallel_calls(artifact.threads)
        self.notes = notes
        # A graph may leave an input's rank open; ONNX Runtime shows that as no extents at all, like
        # a scalar's. Then it must check shapes itself, as it does names and datatypes.
        self.signature = Signature(
            inputs=tuple(bound.shown for bound in self._inputs),
            outputs=tuple(bound.shown for bound in self._outputs),
            guessed=any(not bound.shown.shape for bound in self._inputs),
        )

    def predict(self, inputs: Arrays, parameters: Mapping[str, JsonValue],
                outputs: tuple[str, ...] = ()) -> Arrays:
        """See `LoadedModel.predict`."""
        run = self._run
        assert run is not None, "predict after close"
        if not self._plain:
            return self._converted(run, inputs, outputs)
        names = outputs or self._names
        try:
            return dict(zip(names, run(names, inputs, None), strict=True))  # type: ignore[arg-type]
        except self._callers_errors as error:
            wanted(outputs, self._outputs)
            feed(inputs, self._inputs)
            raise self._refused(error) from error

    def _converted(self, run: Callable[..., list[object]], inputs: Arrays,
                   outputs: tuple[str, ...]) -> Arrays:
        asked = wanted(outputs, self._outputs)
        fed = feed(inputs, self._inputs)
        for name in self._texts:
            fed[name] = text_of(fed[name], name)
        try:
            answers = run([bound.own for bound in asked], fed, None)
        except self._callers_errors as error:
            raise self._refused(error) from error
        return {
            bound.shown.name: shown_array(_as_array(answer), bound)
            for bound, answer in zip(asked, answers, strict=True)
        }

    def size_bytes(self) -> int | None:
        return self._size

    def accelerator_bytes(self) -> int:
        return self.there

    def close(self) -> None:
        self._run = None

    def _refused(self, error: Exception) -> InvalidInput:
        return InvalidInput(f"model {self._model!r} refuses the data: {say(error)}")


def _is_plain(bound: Bound) -> bool:
    """Numbers under the graph's own name and of its own datatype."""
    return (
        bound.shown.name == bound.own and bound.shown.datatype != "BYTES"
        and bound.own_type is None and bound.shown_type is None
    )


def _check_ort(artifact: Artifact) -> None:
    """ONNX Runtime tells the two formats apart by the suffix, and only finds `.ort` in lower case.
    It keeps no weights outside the file."""
    path = artifact.path
    with path.open("rb") as file:
        head = file.read(_ORT_MARK_AT + len(_ORT_MARK))
    if not head.startswith(_ORT_MARK, _ORT_MARK_AT):
        raise unreadable(
            artifact, "it is no ORT file",
            "copy it again, or convert it: python -m onnxruntime.tools.convert_onnx_models_to_ort",
        )
    if path.suffix != _ORT:
        raise unreadable(artifact, "ONNX Runtime knows it by its suffix alone",
                         f"rename it to {path.stem}{_ORT}")


def _check_locations(artifact: Artifact) -> None:
    """Raise InvalidArtifact when weights lie in files that are no part of the artifact, which may
    change unnoticed or lie anywhere."""
    name = artifact.path.name
    try:
        stray = stray_location(artifact.path)
    except NotProtobuf as error:
        raise unreadable(artifact, f"{_DAMAGED} ({error})", _WAY_OUT) from error
    if stray is not None:
        raise unreadable(
            artifact, f"it keeps weights in {stray[:100]!r}, which is no part of it",
            f"keep them in {' or '.join(names_beside(name))} beside it: onnx.save(model, {name!r}, "
            f"save_as_external_data=True, location={names_beside(name)[0]!r})",
        )


def _check_device(framework: ModuleType, artifact: Artifact) -> None:
    if artifact.device is not None and CUDA_PROVIDER not in framework.get_available_providers():
        raise RuntimeMissing(
            f"model {artifact.model!r} is to run on {artifact.device}, and the onnxruntime "
            "installed here runs on the processor alone; install onnxruntime-gpu in its place, or "
            "let the model run on the processor: placement.preferred_accelerator instead of "
            "placement.accelerator"
        )


def _used_there(artifact: Artifact) -> int:
    """Of the memory of the artifact's device, by everybody."""
    return 0 if artifact.device is None else cuda.used_bytes(artifact.device) or 0


def _open(framework: ModuleType, artifact: Artifact) -> Session:
    device = None if artifact.device is None else cuda.number_of(artifact.device)
    try:
        return open_session(framework, artifact.path, artifact.threads, device)
    except Exception as error:  # ONNX Runtime's errors share no base; told as the reason
        reason = say(error)
        if device is not None and ("out of memory" in reason or "allocate memory" in reason):
            raise no_room(artifact, reason) from error
        way_out = _WAY_OUT
        if "Protobuf parsing failed" in reason or "No graph" in reason:
            reason = _DAMAGED
        elif "ORT model verification failed" in reason:
            reason = "it is cut off or damaged"
        elif "opset" in reason.lower() or "IR version" in reason or "format version" in reason:
            way_out = "upgrade onnxruntime, or export it for an older opset"
        raise unreadable(artifact, reason, way_out) from error


def _described(artifact: Artifact, node: Any) -> TensorSpec:
    """Of a tensor, or of a sequence of maps (scikit-learn converters' ZipMap), which answers as
    FP32 [rows, classes]."""
    kind: str = node.type
    if kind.startswith("tensor("):
        datatype = _DATATYPES.get(kind.removeprefix("tensor(").removesuffix(")"))
        if datatype is not None:
            shape = tuple(extent if isinstance(extent, int) and extent > 0 else -1
                          for extent in node.shape)
            return TensorSpec(node.name, datatype, shape)
    elif kind.startswith("seq(map("):
        return TensorSpec(node.name, "FP32", (-1, -1))
    elif kind.startswith("seq(tensor("):
        datatype = _DATATYPES.get(kind.removeprefix("seq(tensor(").removesuffix("))"))
        if datatype is not None:
            return TensorSpec(node.name, datatype, (-1,))
    raise InvalidArtifact(
        f"model {artifact.model!r}: {artifact.path.name} has {node.name!r} of the type {kind}, "
        "which the Open Inference Protocol cannot carry; export it without"
    )


def _as_array(answer: object) -> NDArray[np.generic]:
    if isinstance(answer, list):
        return to_protocol(_of_sequence(answer))
    array = np.asarray(answer)
    return to_protocol(array) if array.dtype.kind in "OU" else array


def _of_sequence(items: Sequence[object]) -> NDArray[np.generic]:
    """Maps of class to probability become rows, classes in the order of their labels; tensors of
    one shape are stacked."""
    if items and isinstance(items[0], dict):
        labels = sorted(items[0])
        rows = [[row[label] for label in labels] for row in items if isinstance(row, dict)]
        return np.array(rows, dtype=np.float32)
    return np.stack([np.asarray(item) for item in items]) if items else np.empty(0)
