"""Loads TorchScript archives onto the CPU. Loading them runs no code; predicting runs their graph.

Names, datatypes and shapes come from the declaration (Triton's `config.pbtxt`, a `model.yaml`), and
from the graph as far as it says them. Options: none.
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
    import_framework,
    one_line,
    parallel_calls,
    taking_notes,
    unreadable,
)
from shoal.runtimes.torch_graph import Read, Unsupported, output_name, read_graph

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
    suffixes = (".pt", ".pth", ".torchscript")
    options: tuple[str, ...] | None = ()

    def recognise(self, path: Path, head: bytes) -> bool:
        """Also weights without a model and pickled modules, to say what to do about them."""
        return path.suffix.lower() in self.suffixes and not path.is_dir()

    def runs_code(self, path: Path) -> bool:
        return False

    def load(self, artifact: Artifact) -> LoadedModel:
        """See `Runtime.load`."""
        check_file(artifact, self.suffixes)
        bound_openmp(artifact.threads)
        with taking_notes() as notes:
            torch = import_framework("torch", "pytorch", artifact)
            if torch.get_num_threads() != artifact.threads:
                torch.set_num_threads(artifact.threads)
            module = _open(torch, artifact)
            try:
                read = read_graph(module)
            except Unsupported as error:
                raise InvalidArtifact(
                    f"model {artifact.model!r}: {artifact.path.name} cannot be served: {error}; "
                    f"wrap it in a module that takes tensors and {_SAVE}"
                ) from error
            model = _TorchModel(artifact, torch, module, read)
        model.notes = tuple(notes)
        return model


class _TorchModel:
    notes: tuple[str, ...] = ()

    def __init__(self, artifact: Artifact, torch: ModuleType, module: Any, read: Read) -> None:
        self._torch = torch
        self._module = module
        self._model = artifact.model
        self._declared = bool(artifact.inputs)
        self._inputs = tuple(
            bound if certain else replace(bound, own_type=None)
            for bound, certain in zip(bind_inputs(artifact, read.inputs), read.certain, strict=True)
        )
        known = self._tried(read) or tuple(
            TensorSpec(name, read.inputs[0].datatype, (-1,)) for name in read.outputs
        )
        self._outputs = bind_outputs(artifact, known or _undescribed(artifact, read))
        self._promised = bool(artifact.outputs)
        self._size = sum(
            tensor.numel() * tensor.element_size()
            for tensor in (*module.parameters(), *module.buffers())
        ) or artifact.path.stat().st_size
        self.platform = "pytorch_torchscript"
        # Modules in evaluation are safe for several threads: they only read their weights.
        self.may_wait = False
        self.max_concurrency = parallel_calls(artifact.threads)
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

    def close(self) -> None:
        self._module = None

    def _run(self, tensors: Sequence[Any]) -> dict[str, Any]:
        """Tensors of the answer by their own names."""
        with self._torch.inference_mode():
            answer = self._module(*tensors)
        if isinstance(answer, dict):
            return answer
        parts = answer if isinstance(answer, tuple | list) else (answer,)
        return {output_name(index, len(parts)): part for index, part in enumerate(parts)}

    def _tensor(self, array: NDArray[np.generic]) -> Any:
        """PyTorch shares the array's memory; what it cannot write or does not know is copied."""
        if array.dtype == ml_dtypes.bfloat16:
            bits = np.ascontiguousarray(array).view(np.int16)
            return self._torch.from_numpy(bits.copy()).view(self._torch.bfloat16)
        if not array.flags.writeable or any(stride < 0 for stride in array.strides):
            array = array.copy()
        return self._torch.from_numpy(array)

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

    def _tried(self, read: Read) -> tuple[TensorSpec, ...]:
        """The outputs as one row of zeros makes them, where all inputs are known but for the batch:
        the graph has neither datatypes nor shapes. It also spares the first request PyTorch's
        profiling. Empty when it is not possible."""
        specs = [bound.shown for bound in self._inputs]
        if not (self._declared or all(read.certain)) or not (read.outputs or read.keyed):
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
        except Exception:  # noqa: BLE001 - zeros may lie outside its domain; the graph must do
            return ()


def _open(torch: ModuleType, artifact: Artifact) -> Any:
    """A ScriptModule; Any: PyTorch's are untyped."""
    try:
        module = torch.jit.load(str(artifact.path), map_location="cpu")
        return module.eval()
    except (RuntimeError, ValueError, AttributeError, EOFError) as error:
        text = str(error)
        reason, way_out = one_line(error), f"copy it again, or {_SAVE}"
        if "constants.pkl" in text:
            reason = "it holds weights or a pickled module, not a TorchScript program"
            way_out = _SAVE
        elif "zip archive" in text or "PytorchStreamReader" in text:
            reason = "it is cut off, damaged, or no TorchScript archive"
        raise unreadable(artifact, reason, way_out) from error


def _undescribed(artifact: Artifact, read: Read) -> tuple[TensorSpec, ...]:
    """Where the graph does not fix how many outputs there are, the declaration does."""
    if not artifact.outputs:
        raise InvalidSpecification(
            f"model {artifact.model!r}: the graph of {artifact.path.name} does not say which "
            "outputs it has; declare them in a model.yaml beside it, in their order"
        )
    if read.keyed:
        return artifact.outputs
    count = len(artifact.outputs)
    return tuple(
        TensorSpec(output_name(index, count), spec.datatype, spec.shape)
        for index, spec in enumerate(artifact.outputs)
    )


def _say(error: BaseException) -> str:
    """TorchScript prints its code first and the reason last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    return one_line(last.removeprefix("RuntimeError: "))
