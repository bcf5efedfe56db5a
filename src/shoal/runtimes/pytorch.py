"""Runs networks of PyTorch, on the CPU or an accelerator: TorchScript, exported programs, a class
with its weights.

    TorchScript          loading it runs no code; datatypes and shapes come from the declaration
                         (Triton's `config.pbtxt`, a `model.yaml`), and from the graph as far as it
                         says them
    exported programs    say all of that themselves; see `torch_exported`
    class and weights    a folder; the declaration says what it takes; see `torch_class`
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import ml_dtypes
import numpy as np

from shoal.codecs.tensors import DTYPES
from shoal.domain.errors import InvalidArtifact, InvalidInput, InvalidSpecification
from shoal.domain.model import JsonValue
from shoal.domain.signature import Signature, TensorSpec
from shoal.ports import Artifact, LoadedModel
from shoal.runtimes.arrays import datatype_of
from shoal.runtimes.binding import Bound, bind_inputs, bind_outputs, feed, wanted
from shoal.runtimes.loading import (
    bound_openmp,
    check_file,
    one_line,
    parallel_calls,
    taking_notes,
    unreadable,
)
from shoal.runtimes.network_folder import FILE, is_network_folder
from shoal.runtimes.torch_class import OPTIONS, open_class
from shoal.runtimes.torch_device import (
    KINDS,
    bytes_on,
    check_device,
    finding_room,
    give_back,
    import_torch,
    lacks_room,
    no_room_for_a_call,
)
from shoal.runtimes.torch_exported import SAVE, open_exported
from shoal.runtimes.torch_file import Kind, kind_of, runs_code
from shoal.runtimes.torch_graph import Unsupported, output_name, read_graph
from shoal.runtimes.torch_program import Program

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

    from shoal.ports import Arrays

_SAVE: Final = "save it with torch.jit.save(torch.jit.script(module.eval()), 'model.pt')"
# What PyTorch says when tensors do not fit each other; it has no type for that.
_MISFIT: Final = re.compile(
    r"size|shape|dimension|\bdims?\b|channels|dtype|scalar type|must match|broadcast|mat1|"
    r"out of range|out of bounds|not implemented for|numel|elements|same type|expected .* but",
    re.IGNORECASE,
)


class PyTorchRuntime:
    format = "pytorch"
    suffixes = (".pt", ".pth", ".torchscript", ".pt2", ".safetensors")
    options: tuple[str, ...] | None = OPTIONS
    accelerators = KINDS

    def recognise(self, path: Path, head: bytes) -> bool:
        """Also weights without a model and pickled modules, to say what to do about them."""
        if path.is_dir():
            return is_network_folder(path)
        return path.suffix.lower() in self.suffixes

    def runs_code(self, path: Path) -> bool:
        """A class's, and an exported program's: see `torch_file.runs_code`."""
        return path.is_dir() or runs_code(kind_of(path))

    def load(self, artifact: Artifact) -> LoadedModel:
        """See `Runtime.load`."""
        is_class = (artifact.path / FILE).is_file()
        if not is_class:
            check_file(artifact, self.suffixes)
        bound_openmp(artifact.threads)
        with taking_notes() as notes:
            torch = import_torch("pytorch", artifact)
            check_device(torch, artifact)
            said: list[str] = []
            try:
                with finding_room(torch, artifact):
                    program = (open_class(torch, artifact) if is_class
                               else _open(torch, artifact, said))
            except Unsupported as error:
                raise InvalidArtifact(
                    f"model {artifact.model!r}: {artifact.path.name} cannot be served: {error}; "
                    f"wrap it in a module that takes and gives tensors, and {SAVE}"
                ) from error
            try:
                model = _TorchModel(artifact, torch, program)
            except BaseException:
                program.close()
                raise
        model.notes = (*said, *notes)
        return model


class _TorchModel:
    notes: tuple[str, ...] = ()

    def __init__(self, artifact: Artifact, torch: ModuleType, program: Program) -> None:
        self._torch = torch
        self._program: Program | None = program
        self._call = program.call
        self._device = artifact.device
        self._model = artifact.model
        self._positions: tuple[str, ...] = ()
        self._problem = ""
        read = program.read
        self._inputs = tuple(
            bound if certain else replace(bound, own_type=None)
            for bound, certain in zip(bind_inputs(artifact, read.inputs), read.certain, strict=True)
        )
        known = program.outputs or self._tried(artifact, program) or tuple(
            TensorSpec(name, read.inputs[0].datatype, (-1,)) for name in read.outputs
        )
        self._outputs = bind_outputs(artifact, known or self._undescribed(artifact, program))
        self._promised = bool(artifact.outputs)
        self._size, self._there = program.size_bytes, program.accelerator_bytes
        self.platform = program.platform
        # Programs in evaluation are safe for several threads: they only read their weights.
        self.may_wait = program.may_wait
        self.max_concurrency = 1 if program.alone else parallel_calls(artifact.threads)
        self.signature = Signature(
            inputs=tuple(bound.shown for bound in self._inputs),
            outputs=tuple(bound.shown for bound in self._outputs),
            guessed=not artifact.inputs and not all(read.certain),
        )

    def predict(self, inputs: Arrays, parameters: Mapping[str, JsonValue],
                outputs: tuple[str, ...] = ()) -> Arrays:
        """See `LoadedModel.predict`."""
        fed = feed(inputs, self._inputs)
        try:
            answer = self._run([self._tensor(array) for array in fed.values()])
        except (RuntimeError, IndexError, TypeError) as error:
            if self._device is not None and lacks_room(self._torch, error):
                raise no_room_for_a_call(self._model, self._device) from error
            reason = _say(error)
            if isinstance(error, self._torch.jit.Error) or not _MISFIT.search(reason):
                raise
            raise InvalidInput(f"model {self._model!r} refuses the data: {reason}") from error
        return {
            bound.shown.name: self._array(answer, bound)
            for bound in wanted(outputs, self._outputs)
        }

    def size_bytes(self) -> int | None:
        return self._size

    def accelerator_bytes(self) -> int:
        return self._there

    def close(self) -> None:
        program, self._program = self._program, None
        self._call = _closed
        if program is not None:
            program.close()
            del program
            give_back(self._torch, self._device)

    def _run(self, tensors: Sequence[Any]) -> dict[str, Any]:
        """Tensors of the answer by their own names."""
        with self._torch.inference_mode():
            answer = self._call(*tensors)
        if isinstance(answer, dict):
            return answer
        parts = answer if isinstance(answer, tuple | list) else (answer,)
        if self._positions:
            return dict(zip(self._positions, parts, strict=False))
        return {output_name(index, len(parts)): part for index, part in enumerate(parts)}

    def _tensor(self, array: NDArray[np.generic]) -> Any:
        """On the processor PyTorch shares the array's memory; what it cannot write or does not know
        is copied."""
        if array.dtype == ml_dtypes.bfloat16:
            bits = np.ascontiguousarray(array).view(np.int16)
            tensor = self._torch.from_numpy(bits.copy()).view(self._torch.bfloat16)
        else:
            if not array.flags.writeable or any(stride < 0 for stride in array.strides):
                array = array.copy()
            tensor = self._torch.from_numpy(array)
        return tensor if self._device is None else tensor.to(self._device)

    def _array(self, answer: Mapping[str, Any], bound: Bound) -> NDArray[np.generic]:
        part = answer.get(bound.own)
        if not isinstance(part, self._torch.Tensor):
            raise TypeError(
                f"forward gave no tensor {bound.own!r}; it gave {', '.join(map(str, answer))}"
            )
        array = self._numpy(part)
        return array.astype(DTYPES[bound.shown.datatype], copy=False) if self._promised else array

    def _numpy(self, part: Any) -> NDArray[np.generic]:
        part = part.detach().cpu().contiguous()
        if part.dtype == self._torch.bfloat16:
            bits: NDArray[np.generic] = part.view(self._torch.int16).numpy()
            return bits.view(ml_dtypes.bfloat16)
        array: NDArray[np.generic] = part.numpy()
        return array

    def _tried(self, artifact: Artifact, program: Program) -> tuple[TensorSpec, ...]:
        """The outputs as one row of zeros makes them, where all inputs are known but for the batch:
        the graph has neither datatypes nor shapes. It also spares the first request PyTorch's
        profiling. Empty when it is not possible."""
        read = program.read
        specs = [bound.shown for bound in self._inputs]
        if not (artifact.inputs or all(read.certain)) or not (read.outputs or read.keyed):
            return ()
        if any(-1 in spec.shape[1:] or spec.datatype == "BYTES" for spec in specs):
            return ()
        rows = {
            spec.name: np.zeros((1, *spec.shape[1:]), DTYPES[spec.datatype]) for spec in specs
        }
        try:
            answer = self._run([self._tensor(row) for row in feed(rows, self._inputs).values()])
            return tuple(
                TensorSpec(name, datatype_of(array.dtype), (-1, *array.shape[1:]))
                for name, array in ((name, self._numpy(part)) for name, part in answer.items())
            )
        except Exception as error:  # noqa: BLE001 - zeros may lie outside its domain
            self._problem = f" (one row of zeros fails: {type(error).__name__}: {_say(error)})"
            return ()

    def _undescribed(self, artifact: Artifact, program: Program) -> tuple[TensorSpec, ...]:
        """Where the graph does not fix how many outputs there are, the declaration does."""
        if not artifact.outputs:
            raise InvalidSpecification(
                f"model {artifact.model!r}: the {program.source} of {artifact.path.name} does not "
                f"say which outputs it has{self._problem}; declare them in a model.yaml beside it, "
                "in their order"
            )
        if program.read.keyed:
            self._positions = tuple(spec.name for spec in artifact.outputs)
            return artifact.outputs
        count = len(artifact.outputs)
        return tuple(
            TensorSpec(output_name(index, count), spec.datatype, spec.shape)
            for index, spec in enumerate(artifact.outputs)
        )


def _open(torch: ModuleType, artifact: Artifact, notes: list[str]) -> Program:
    """Of one file, whichever PyTorch wrote."""
    kind, suffix = kind_of(artifact.path), artifact.path.suffix.lower()
    if kind is Kind.EXPORTED:
        return open_exported(torch, artifact, notes)
    if kind is Kind.COMPILED:
        raise unreadable(artifact, f"it is {kind.value}, code for one kind of machine",
                         f"save the program instead: {SAVE}")
    if kind in (Kind.WEIGHTS, Kind.SAFETENSORS):
        raise unreadable(
            artifact, f"it holds {kind.value}, not a program",
            f"put it into a folder with a model.py that has their class, or {SAVE}",
        )
    if kind is Kind.UNKNOWN and suffix in (".pt2", ".safetensors"):
        raise unreadable(
            artifact, f"it is cut off, damaged, or no {suffix} file",
            f"copy it again, or {SAVE}" if suffix == ".pt2" else "copy it again",
        )
    return _open_script(torch, artifact, kind)


def _open_script(torch: ModuleType, artifact: Artifact, kind: Kind) -> Program:
    try:
        module = torch.jit.load(
            str(artifact.path), map_location=artifact.device or "cpu").eval()
    except (RuntimeError, ValueError, AttributeError, EOFError) as error:
        if lacks_room(torch, error):
            raise
        text = str(error)
        reason = one_line(error)
        if kind is Kind.UNKNOWN or "zip archive" in text or "PytorchStreamReader" in text:
            reason = "it is cut off, damaged, or no TorchScript archive"
        raise unreadable(artifact, reason, f"copy it again, or {_SAVE}") from error
    weights = (*module.parameters(), *module.buffers())
    size = sum(
        tensor.numel() * tensor.element_size() for tensor in weights
    ) or artifact.path.stat().st_size
    there = bytes_on(weights, artifact.device)
    return Program(
        call=module, read=read_graph(module), source="graph",
        size_bytes=max(size - there, 0), accelerator_bytes=there,
        platform="pytorch_torchscript",
    )


def _closed(*_: object) -> Any:
    raise AssertionError("predict after close")


def _say(error: BaseException) -> str:
    """TorchScript prints its code first and the reason last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    return one_line(last.removeprefix("RuntimeError: "))
