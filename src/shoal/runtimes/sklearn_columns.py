"""What a fitted scikit-learn estimator expects: how many features, which columns are text.

Looks at attributes that scikit-learn documents as the result of fitting; imports no framework.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import numpy as np

# Estimators have no common type; their attributes are looked up by name.
Estimator = Any

MAX_VISITED: Final = 2_000
_WRAPPED: Final = ("best_estimator_", "estimator_", "regressor_", "classifier_", "_preprocessor")


def width_of(estimator: Estimator) -> int | None:
    """Number of features; None when the estimator does not say."""
    for name in ("n_features_in_", "n_features_", "n_features"):
        found = getattr(estimator, name, None)
        if isinstance(found, int | np.integer) and found > 0:
            return int(found)
    for name in ("coef_", "support_vectors_", "cluster_centers_"):  # before scikit-learn 0.24
        shape = getattr(getattr(estimator, name, None), "shape", ())
        if shape:
            return int(shape[-1])
    return None


def names_of(estimator: Estimator) -> tuple[str, ...]:
    """Column names, when it was fitted on a data frame."""
    return tuple(str(name) for name in getattr(estimator, "feature_names_in_", ()))


def takes_text(estimator: Estimator) -> bool:
    """Does it begin with a vectorizer, which takes one text a row instead of a matrix?"""
    steps = getattr(estimator, "steps", None)
    if steps:
        return takes_text(steps[0][1])
    wrapped = getattr(estimator, "best_estimator_", None)
    if wrapped is not None:
        return takes_text(wrapped)
    unions = getattr(estimator, "transformer_list", None)
    if unions:
        return all(takes_text(part) for _, part in unions)
    return hasattr(estimator, "build_analyzer")


def values_by_column(estimator: Estimator, names: Sequence[str]) -> dict[str, list[object]]:
    """For columns that are not numbers: values they were fitted on, at least one each."""
    found: dict[str, list[object]] = {}
    for part, columns in islice(_parts(estimator, names), MAX_VISITED):
        for column, values in _fitted_values(part, columns):
            found.setdefault(column, values)
    return found


def _fitted_values(part: Estimator, columns: Sequence[str]
                   ) -> Iterator[tuple[str, list[object]]]:
    categories = getattr(part, "categories_", None)
    if isinstance(categories, list) and len(categories) == len(columns):
        for column, values in zip(columns, categories, strict=True):
            known: list[object] = [
                value for value in np.asarray(values).tolist() if isinstance(value, str)
            ]
            if known:
                yield column, known
    filled = np.asarray(getattr(part, "statistics_", ()))  # of a SimpleImputer
    if filled.dtype == np.object_ and len(filled) == len(columns):
        for column, value in zip(columns, filled.tolist(), strict=True):
            if isinstance(value, str):
                yield column, [value]
    if hasattr(part, "build_analyzer"):
        for column in columns:
            yield column, ["text"]


def _parts(estimator: Estimator, columns: Sequence[str]
           ) -> Iterator[tuple[Estimator, Sequence[str]]]:
    """Every estimator inside that sees columns of the caller, with these columns."""
    yield estimator, columns
    for _, part, chosen in getattr(estimator, "transformers_", ()):
        yield from _parts(part, _choose(chosen, columns))
    for _, part in getattr(estimator, "transformer_list", ()):
        yield from _parts(part, columns)
    for name in _WRAPPED:
        wrapped = getattr(estimator, name, None)
        if wrapped is not None:
            yield from _parts(wrapped, columns)
    for _, step in getattr(estimator, "steps", ()):
        yield from _parts(step, columns)
        if not _keeps_columns(step, len(columns)):
            return


def _keeps_columns(step: Estimator, count: int) -> bool:
    """Does what follows in the pipeline still see one value a column? True of imputers."""
    return step in (None, "passthrough") or len(getattr(step, "statistics_", ())) == count


def _choose(chosen: object, columns: Sequence[str]) -> list[str]:
    """The names that a ColumnTransformer's specification stands for."""
    if isinstance(chosen, str):
        return [chosen]
    if isinstance(chosen, int | np.integer):
        return [columns[int(chosen)]]
    if isinstance(chosen, slice):
        if isinstance(chosen.start, str) or isinstance(chosen.stop, str):
            start = 0 if chosen.start is None else columns.index(chosen.start)
            stop = len(columns) if chosen.stop is None else columns.index(chosen.stop) + 1
            return list(columns[start:stop])
        return list(columns[chosen])
    if not isinstance(chosen, Iterable) or isinstance(chosen, Mapping):
        return []
    items = list(chosen)
    if items and all(isinstance(item, bool | np.bool_) for item in items):
        return [name for name, taken in zip(columns, items, strict=False) if taken]
    return [item if isinstance(item, str) else columns[int(item)] for item in items]
