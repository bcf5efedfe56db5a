"""What an MLflow signature says of inputs, outputs and parameters; and how arrays become what a
pyfunc takes, and its answers arrays.

A pyfunc takes a data frame where its signature has columns, else an array or several by name. Knows
MLflow's schema objects by what they answer, and neither loads nor calls a model.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shoal.codecs.tensors import DTYPES
from shoal.domain.errors import InvalidArtifact, InvalidInput, ModelFailed
from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact
from shoal.runtimes.arrays import datatype_of, text_of, to_protocol
from shoal.runtimes.features import MATRIX_NAME, check_lengths, flat
from shoal.runtimes.loading import one_line

if TYPE_CHECKING:
    from shoal.ports import Arrays

_SCALARS: Final = {
    "boolean": "BOOL", "integer": "INT32", "long": "INT64", "float": "FP32", "double": "FP64",
    "string": "BYTES", "binary": "BYTES",
}
_TEXT, _BINARY, _LISTS, _JSON = "text", "binary", "lists", "json"


@dataclass(frozen=True, slots=True)
class Taken:
    """One input. own: its name in the signature; None where it gives none. kind: how elements of
    BYTES, or rows of lists, are read. column: of a data frame."""

    spec: TensorSpec
    own: str | None
    kind: str = _TEXT
    column: bool = True
    required: bool = True


@dataclass(frozen=True, slots=True)
class Schema:
    """A signature as far as it goes. inputs empty: anything is passed on. outputs empty: only an
    answer tells. parameters: names that requests may give."""

    inputs: tuple[Taken, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    parameters: tuple[str, ...] = ()

    @property
    def any_name(self) -> bool:
        return len(self.inputs) == 1 and self.inputs[0].own is None

    @property
    def table(self) -> bool:
        return bool(self.inputs) and not self.any_name and all(
            each.column and len(each.spec.shape) == 1 for each in self.inputs
        )


def read_schema(signature: Any, artifact: Artifact) -> Schema:
    """Of a ModelSignature, or None. Raises InvalidArtifact for what no tensor can carry."""
    if signature is None:
        return Schema()
    if not hasattr(signature, "inputs"):
        raise InvalidArtifact(
            f"model {artifact.model!r}: the signature in its MLmodel is no mapping of inputs and "
            "outputs; save the model again"
        )
    return Schema(
        _side(signature.inputs, artifact),
        tuple(each.spec for each in _side(signature.outputs, artifact)),
        tuple(each.name for each in getattr(signature.params, "params", ())),
    )


def _side(schema: Any, artifact: Artifact) -> tuple[Taken, ...]:
    listed = () if schema is None else schema.inputs
    return tuple(_taken(each, index, artifact) for index, each in enumerate(listed))


def _taken(described: Any, index: int, artifact: Artifact) -> Taken:
    own: str | None = described.name if described.name is not None else None
    name = own or (str(index) if index else MATRIX_NAME)
    required = bool(getattr(described, "required", True))
    kind = described.type
    if hasattr(described, "shape"):  # a tensor; `type` is numpy's
        datatype = datatype_of(np.dtype(kind))
        return Taken(TensorSpec(name, datatype, tuple(described.shape)), own, column=False)
    scalar = getattr(kind, "name", None)
    if scalar in _SCALARS:
        spec = TensorSpec(name, _SCALARS[scalar], (-1,))
        return Taken(spec, own, _BINARY if scalar == "binary" else _TEXT, required=required)
    inner = getattr(getattr(kind, "dtype", None), "name", None)
    if inner in _SCALARS and inner != "binary":
        return Taken(TensorSpec(name, _SCALARS[inner], (-1, -1)), own, _LISTS, required=required)
    if scalar == "datetime" or inner == "datetime":
        raise InvalidArtifact(
            f"model {artifact.model!r}: {name!r} of its signature is a datetime, for which the "
            "Open Inference Protocol has no datatype; save the model with it as a string or as a "
            "long, and turn that into a time in predict"
        )
    return Taken(TensorSpec(name, "BYTES", (-1,)), own, _JSON, required=required)


# --- inputs -------------------------------------------------------------------------------------


def data_of(schema: Schema, inputs: Arrays) -> Any:
    """What the pyfunc is called with, of inputs by the signature's names. Raises InvalidInput."""
    if not schema.inputs:
        return _undescribed(inputs)
    present = [each for each in schema.inputs if each.required or each.spec.name in inputs]
    missing = [repr(each.spec.name) for each in present if each.spec.name not in inputs]
    if missing:
        raise InvalidInput(
            f"input{'s' if len(missing) > 1 else ''} {', '.join(missing)} missing; the model takes "
            f"{', '.join(repr(each.spec.name) for each in schema.inputs)}"
        )
    if not schema.inputs[0].column:
        if schema.any_name:
            return _plain(inputs[present[0].spec.name], present[0])
        return {each.own: _plain(inputs[each.spec.name], each) for each in present}
    columns = {each.own if each.own is not None else index: _column(inputs[each.spec.name], each)
               for index, each in enumerate(present)}
    return _frame(columns)


def _undescribed(inputs: Arrays) -> Any:
    """Columns, if all can be; a lone matrix; or whatever came, by name."""
    texts = {
        name: text_of(array, name) if array.dtype.kind == "O" else array
        for name, array in inputs.items()
    }
    if texts and all(array.ndim == 1 or array.shape[1:] == (1,) for array in texts.values()):
        return _frame({name: array.reshape(-1) for name, array in texts.items()})
    return next(iter(texts.values())) if len(texts) == 1 else texts


def _frame(columns: Mapping[str | int, Any]) -> Any:
    check_lengths(columns)
    return importlib.import_module("pandas").DataFrame(dict(columns))


def _plain(array: NDArray[np.generic], taken: Taken) -> NDArray[np.generic]:
    return text_of(array, taken.spec.name) if array.dtype.kind == "O" else array


def _column(array: NDArray[np.generic], taken: Taken) -> Any:
    """As a data frame has it: an array, or a list of what its cells hold."""
    name = taken.spec.name
    if taken.kind == _LISTS:
        if array.ndim != 2:
            raise InvalidInput(f"input {name!r} has the shape {list(array.shape)}; it is [-1, -1]")
        return _plain(array, taken).tolist()
    array = flat(array, name)
    if taken.kind == _BINARY:
        return array
    array = _plain(array, taken)
    return array if taken.kind == _TEXT else [_from_json(str(item), name) for item in array]


def _from_json(text: str, name: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"input {name!r} takes JSON text: {one_line(error)}") from error


# --- outputs ------------------------------------------------------------------------------------


def answers(schema: Schema, answer: Any, who: str) -> Arrays:
    """A pyfunc's answer by the names of the signature's outputs; of its own where it has none.
    Raises ModelFailed when it is not what the signature says."""
    parts = _parts(answer)
    wanted = schema.outputs
    if not wanted:
        return {name: _array(part) for name, part in parts.items()} if parts is not None else {
            MATRIX_NAME: _array(answer)
        }
    if parts is None or (len(wanted) == 1 and len(wanted[0].shape) > 1):
        array = _array(answer)
        if len(wanted) == 1:
            return {wanted[0].name: _fitted(array, wanted[0])}
        if array.ndim != 2 or array.shape[1] != len(wanted):
            raise ModelFailed(
                f"{who} returned an array of the shape {list(array.shape)}; its signature has "
                f"{len(wanted)} outputs: {', '.join(spec.name for spec in wanted)}"
            )
        parts = {spec.name: array[:, axis] for axis, spec in enumerate(wanted)}
    if not all(spec.name in parts for spec in wanted) and len(parts) == len(wanted):
        parts = dict(zip([spec.name for spec in wanted], parts.values(), strict=True))
    missing = [spec.name for spec in wanted if spec.name not in parts]
    if missing:
        raise ModelFailed(
            f"{who} returned {', '.join(parts) or 'nothing'}, but not {', '.join(missing)}, which "
            "its signature declares"
        )
    return {spec.name: _fitted(_array(parts[spec.name]), spec) for spec in wanted}


def _parts(answer: Any) -> dict[str, Any] | None:
    """The columns of a data frame, or the entries of a dict, by name."""
    if isinstance(answer, Mapping):
        return {str(name): part for name, part in answer.items()}
    if hasattr(answer, "columns") and hasattr(answer, "to_numpy"):
        return {str(name): answer[name] for name in answer.columns}
    return None


def _array(value: Any) -> NDArray[np.generic]:
    """At least one row; what is neither text, bytes nor a number becomes JSON."""
    if isinstance(value, str | bytes):
        value = [value]
    if hasattr(value, "detach"):  # a tensor of PyTorch
        value = value.detach().cpu()
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = np.array([None, *value], dtype=object)[1:]  # each dict an element
    elif isinstance(value, list):
        value = _even(value)
    elif hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        value = np.array([None, *map(_text, value.reshape(-1))], dtype=object)[1:].reshape(
            value.shape)
    return np.atleast_1d(to_protocol(value))


def _even(rows: list[Any]) -> ArrayLike:
    """Lists of one length become an array; others elements."""
    try:
        return np.array(rows)
    except ValueError:
        made = np.empty(len(rows), dtype=object)
        made[:] = rows
        return made


def _text(item: object) -> object:
    if isinstance(item, dict | list | tuple | np.ndarray):
        return json.dumps(item.tolist() if isinstance(item, np.ndarray) else item, default=str)
    return "" if item is None else item


def _fitted(array: NDArray[np.generic], spec: TensorSpec) -> NDArray[np.generic]:
    """In the signature's datatype where that loses nothing but digits, and a column as one."""
    if len(spec.shape) == 1 and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    wanted = DTYPES[spec.datatype]
    if spec.datatype == "BYTES" or not np.can_cast(array.dtype, wanted, "same_kind"):
        return array
    return array.astype(wanted, copy=False)
