"""Which calls of a model may run as one, by rows: joins their inputs, splits the answer.

Pure: knows arrays and signatures, but no copy, thread or clock. Whether it pays is not decided
here (`call_cost`), nor whether a model treats rows apart (`batch_run`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from shoal.domain.model import JsonValue
from shoal.domain.signature import Signature

if TYPE_CHECKING:
    from shoal.ports import Arrays

MAX_BATCH_BYTES: Final = 8 * 1024 * 1024  # of the inputs; larger ones gain nothing from company

# How far answers may differ from those of calls alone: sums of other lengths are rounded otherwise.
_TOLERANCE: Final = {2: 1e-2, 4: 1e-4, 8: 1e-5}  # by the bytes of an element
_NEAR_ZERO: Final = 1e-6


class NotByRows(Exception):
    """A model's answer does not have one row for each row that it was given."""


class Kind(NamedTuple):
    """Calls of equal kinds may run as one. tensors: name, numpy type and extents after the first of
    each input. parameters: as JSON, in which `true` and `1` differ."""

    tensors: tuple[tuple[str, np.dtype[np.generic], tuple[int, ...]], ...]
    parameters: bytes
    outputs: tuple[str, ...]


class Rows(Protocol):
    """What waits: see `take`. rows: 0: only alone. kind: None: only alone."""

    rows: int
    size_bytes: int
    kind: Kind | None


AnyRows = TypeVar("AnyRows", bound=Rows)


def by_rows(signature: Signature) -> bool:
    """Whether every tensor is described, and its first axis free."""
    tensors = (*signature.inputs, *signature.outputs)
    described = signature.inputs and signature.outputs and not signature.guessed
    return bool(described) and all(tensor.shape[:1] == (-1,) for tensor in tensors)


def has_fixed_rows(signature: Signature) -> bool:
    """Whether a tensor is described whose first axis is not free, so that nothing can be joined."""
    tensors = (*signature.inputs, *signature.outputs)
    return not signature.guessed and any(tensor.shape[:1] != (-1,) for tensor in tensors)


def kind_of(
    inputs: Arrays, parameters: Mapping[str, JsonValue], outputs: tuple[str, ...]
) -> tuple[int, Kind | None]:
    """The rows of a call, and its kind; (0, None) when it can only run alone: without rows, with
    inputs that differ in their number, or with parameters that cannot be compared."""
    rows = 0
    tensors = []
    for name, array in inputs.items():
        shape = array.shape
        if not shape or shape[0] == 0 or shape[0] != (rows or shape[0]):
            return 0, None
        rows = shape[0]
        tensors.append((name, array.dtype, shape[1:]))
    if not tensors:
        return 0, None
    if len(tensors) > 1:
        tensors.sort(key=lambda tensor: tensor[0])
    try:
        said = msgspec.json.encode(parameters, order="deterministic") if parameters else b""
    except (TypeError, ValueError, OverflowError, RecursionError):
        return 0, None
    return rows, Kind(tuple(tensors), said, outputs)


def take(waiting: list[AnyRows], most_rows: int, most_calls: int) -> list[AnyRows]:
    """Remove from `waiting` the first call and those behind it that run with it, in their order:
    of its kind, up to `most_calls` of at most `most_rows` rows and MAX_BATCH_BYTES together. The
    first of its kind that does not fit ends the batch, so that none is overtaken by its like."""
    first = waiting[0]
    taken = [first]
    passed = []
    kind, rows, size_bytes = first.kind, first.rows, first.size_bytes
    index = 1
    if kind is not None:
        while index < len(waiting) and len(taken) < most_calls and rows < most_rows:
            call = waiting[index]
            if call.kind != kind:
                passed.append(call)
            elif rows + call.rows > most_rows or size_bytes + call.size_bytes > MAX_BATCH_BYTES:
                break
            else:
                rows += call.rows
                size_bytes += call.size_bytes
                taken.append(call)
            index += 1
    waiting[:index] = passed
    return taken


def join(calls: Sequence[Arrays]) -> Arrays:
    """The inputs of calls of one kind as those of one call: rows after rows."""
    return {name: np.concatenate([call[name] for call in calls]) for name in calls[0]}


def split(outputs: Arrays, rows: Sequence[int]) -> list[Arrays]:
    """The answers of the calls that had so many rows each; they share memory with `outputs`.
    Raises NotByRows."""
    expected = sum(rows)
    for name, array in outputs.items():
        if array.shape[:1] != (expected,):
            raise NotByRows(
                f"{expected} rows were given, and output {name!r} has the shape "
                f"{list(array.shape)}"
            )
    answers: list[Arrays] = []
    start = 0
    for count in rows:
        end = start + count
        answers.append({name: array[start:end] for name, array in outputs.items()})
        start = end
    return answers


# --- comparing ------------------------------------------------------------------------------------


def same_inputs(one: Arrays, other: Arrays) -> bool:
    return all(_identical(array, other[name]) for name, array in one.items())


def varied(inputs: Arrays) -> Arrays:
    """Inputs of the same kind with other values, as far as these can be made without knowing what
    they mean: in the opposite order, floating-point numbers changed a little as well."""
    return {name: _varied(array) for name, array in inputs.items()}


def alike(joined: Arrays, alone: Arrays) -> bool:
    """Whether a call's answer out of a joined one is the answer that it got alone, but for the
    rounding of floating-point numbers."""
    return joined.keys() == alone.keys() and all(
        _alike(array, alone[name]) for name, array in joined.items()
    )


def _identical(one: NDArray[np.generic], other: NDArray[np.generic]) -> bool:
    if one.dtype == np.object_:
        return one.shape == other.shape and one.tolist() == other.tolist()
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def _varied(array: NDArray[np.generic]) -> NDArray[np.generic]:
    reversed_ = np.ascontiguousarray(array.reshape(-1)[::-1]).reshape(array.shape)
    if array.dtype.kind != "f":
        return reversed_
    changed: NDArray[np.generic] = (reversed_ * 0.75 + 0.625).astype(array.dtype)
    return changed


def _alike(one: NDArray[np.generic], other: NDArray[np.generic]) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    tolerance = _TOLERANCE.get(one.dtype.itemsize)
    is_float = one.dtype.kind == "f" or one.dtype.name == "bfloat16"
    if not is_float or tolerance is None:
        return _identical(one, other)
    got, expected = one.astype(np.float64), other.astype(np.float64)
    finite = np.abs(expected[np.isfinite(expected)])
    scale = float(finite.max()) if finite.size else 0.0
    return bool(np.allclose(
        got, expected, rtol=tolerance, atol=tolerance * scale + _NEAR_ZERO, equal_nan=True
    ))
