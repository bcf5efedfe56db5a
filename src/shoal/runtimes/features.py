"""What a model of tables takes: named columns, or one matrix; and how a request's arrays become it.

Shared by the runtimes of tables, from scikit-learn to CatBoost; imports none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shoal.domain.errors import InvalidInput, InvalidSpecification
from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact
from shoal.runtimes.arrays import text_of
from shoal.runtimes.binding import in_order

if TYPE_CHECKING:
    from shoal.ports import Arrays

MATRIX_NAME: Final = "predict"  # as KServe's and MLServer's examples name it
_SHOWN_CATEGORIES: Final = 10

Category: TypeAlias = "str | float"


@dataclass(frozen=True, slots=True)
class Features:
    """What a model was trained on.

    width: number of features; None when the framework does not say.
    names: of the columns, when it was trained on a data frame.
    datatypes: of the columns, as many as `names`.
    matrix: how the model is shown when it takes one matrix.
    categories: by column, its values in the order of their codes.
    refuse_unknown: a value that is none of its column's categories is the caller's mistake;
        otherwise it counts as missing.
    """

    width: int | None
    matrix: TensorSpec
    names: tuple[str, ...] = ()
    datatypes: tuple[str, ...] = ()
    categories: Mapping[str, tuple[Category, ...]] = field(default_factory=dict)
    refuse_unknown: bool = False
    shown: tuple[str, ...] = ()  # names under which columns come; empty: `names`

    @property
    def table(self) -> bool:
        return bool(self.names)

    def specs(self) -> tuple[TensorSpec, ...]:
        """The inputs of the signature."""
        if not self.table:
            return (self.matrix,)
        shown = self.shown or self.names
        return tuple(
            TensorSpec(name, datatype, (-1,))
            for name, datatype in zip(shown, self.datatypes, strict=True)
        )

    def columns(self, inputs: Arrays) -> dict[str, NDArray[np.generic]] | None:
        """One-dimensional arrays by the names of training, when all columns came by name, text as
        `str`; None when a single matrix came. Raises InvalidInput."""
        shown = self.shown or self.names
        if not all(name in inputs for name in shown):
            if len(inputs) == 1:
                return None
            missing = [name for name in shown if name not in inputs]
            raise InvalidInput(
                f"{'column' if len(missing) == 1 else 'columns'} "
                f"{', '.join(map(repr, missing))} missing; the columns are {', '.join(shown)}"
            )
        if len(shown) == 1 and inputs[shown[0]].ndim == 2 and inputs[shown[0]].shape[1] != 1:
            return None  # then `matrix_of` says what is wrong with its width
        found = {
            own: _flat(inputs[name], name) for own, name in zip(self.names, shown, strict=True)
        }
        check_lengths(found)
        return found

    def matrix_of(self, inputs: Arrays) -> NDArray[np.generic]:
        """The single array of shape [rows, width], text as `str`. Raises InvalidInput."""
        if len(inputs) != 1:
            raise InvalidInput(
                f"{len(inputs)} inputs were sent ({', '.join(inputs)}); the model takes one"
            )
        name, array = next(iter(inputs.items()))
        if array.ndim != 2 or (self.width is not None and array.shape[1] != self.width):
            width = -1 if self.width is None else self.width
            raise InvalidInput(
                f"input {name!r} has the shape {list(array.shape)}; the model takes [-1, {width}]"
            )
        return text_of(array, name) if array.dtype.kind == "O" else array

    def numbers(self, inputs: Arrays, dtype: type[np.floating]) -> NDArray[np.floating]:
        """A matrix [rows, width] of `dtype`; categories as their codes. Raises InvalidInput."""
        columns = self.columns(inputs) if self.table else None
        if columns is not None:
            coded = [self._coded(column, name, dtype) for name, column in columns.items()]
            return np.column_stack(coded).astype(dtype, copy=False)
        matrix = self.matrix_of(inputs)
        if matrix.dtype.kind != "O" and not self.categories:
            return matrix.astype(dtype, copy=False)
        coded = [
            self._coded(matrix[:, index], name, dtype)
            for index, name in enumerate(self.names or map(str, range(matrix.shape[1])))
        ]
        return np.column_stack(coded).astype(dtype, copy=False)

    def _coded(self, column: NDArray[np.generic], name: str, dtype: type[np.floating]
               ) -> NDArray[np.generic]:
        known = self.categories.get(name)
        if known is None:
            return _as_numbers(column, name, dtype)
        values = column.tolist()
        if not are_text(known):
            values = _as_numbers(column, name, np.float64).tolist()
        codes = {value: float(code) for code, value in enumerate(known)}
        if self.refuse_unknown:
            for value in values:
                if value not in codes and value == value:  # NaN: missing, not unknown
                    raise InvalidInput(
                        f"column {name!r}: {value!r} is none of the values the model was trained "
                        f"on: {_some(known)}"
                    )
        return np.array([codes.get(value, np.nan) for value in values], dtype=dtype)


def declared(features: Features, artifact: Artifact) -> Features:
    """`features` under the names, datatypes and shapes that people declared, if any.

    One declared input stands for the whole matrix; as many as there are features name the columns:
    those that equal a name of training stand for it, the others follow in order. Raises
    InvalidSpecification for any other number.
    """
    specs = artifact.inputs
    if not specs:
        return features
    names = features.names or tuple(spec.name for spec in specs)
    if len(specs) == 1 and features.width != 1:
        return replace(features, names=(), datatypes=(), matrix=specs[0])
    if features.width is not None and len(specs) != features.width:
        raise InvalidSpecification(
            f"model {artifact.model!r}: {len(specs)} inputs are declared, but the model has "
            f"{features.width} features; declare one matrix of shape [-1, {features.width}], or "
            "every column"
        )
    if len(specs) == 1 and not features.names:
        return replace(features, matrix=specs[0])
    shown = in_order(names, specs)
    return replace(
        features, names=names, shown=tuple(spec.name for spec in shown),
        datatypes=tuple(spec.datatype for spec in shown),
    )


def single_column(inputs: Arrays) -> NDArray[np.generic]:
    """The single array, [rows] or [rows, 1], as [rows]; text as `str`. Raises InvalidInput."""
    if len(inputs) != 1:
        raise InvalidInput(f"{len(inputs)} inputs were sent ({', '.join(inputs)}); send one")
    name, array = next(iter(inputs.items()))
    return _flat(array, name)


def are_text(categories: Sequence[Category] | None) -> bool:
    return bool(categories) and isinstance(next(iter(categories or ())), str)


def flat(array: NDArray[np.generic], name: str) -> NDArray[np.generic]:
    """A column, [rows] or [rows, 1], as [rows]. Raises InvalidInput."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InvalidInput(
            f"column {name!r} has the shape {list(array.shape)}; a column is [-1] or [-1, 1]"
        )
    return array


def check_lengths(columns: Mapping[str, Sized] | Mapping[str | int, Sized]) -> None:
    """Raise InvalidInput unless all have as many rows."""
    if len({len(column) for column in columns.values()}) > 1:
        counted = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        raise InvalidInput(f"the columns differ in length ({counted}); one row needs them all")


def _flat(array: NDArray[np.generic], name: str) -> NDArray[np.generic]:
    array = flat(array, name)
    return text_of(array, name) if array.dtype.kind == "O" else array


def _as_numbers(column: NDArray[np.generic], name: str, dtype: type[np.floating]
                ) -> NDArray[np.generic]:
    try:
        return column.astype(dtype, copy=False)
    except ValueError as error:
        raise InvalidInput(f"column {name!r} takes numbers: {error}") from error


def _some(categories: Sequence[Category]) -> str:
    shown = ", ".join(str(value) for value in categories[:_SHOWN_CATEGORIES])
    more = len(categories) - _SHOWN_CATEGORIES
    return f"{shown} and {more} more" if more > 0 else shown
