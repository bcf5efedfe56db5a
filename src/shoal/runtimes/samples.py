"""Makes rows on which a model of tables can be compared with another form of itself.

What matters is where forms may differ: values at, just below and just above the thresholds of
trees, in float32 and in float64; magnitudes; missing values. Knows no framework.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.floating]

_SEED: Final = 20
_ROWS: Final = 32  # of each kind
_AT_THRESHOLDS: Final = 192
_MAGNITUDES: Final = (1e-3, 1.0, 30.0, 1e3)
_MISSING: Final = 0.2  # of the values of rows that have some
MOST_FEATURES: Final = 4_096  # some hundred rows of more take longer than there is to gain


def plain_rows(width: int, examples: Iterable[NDArray[np.generic]] = ()) -> Matrix:
    """Of several magnitudes, signs and kinds. examples: rows, or one row, that the model knows of;
    some are taken, and others made around them."""
    random = np.random.default_rng(_SEED)
    rows = [
        np.zeros((1, width)), np.ones((1, width)), np.full((1, width), -1.0),
        *(random.normal(size=(_ROWS, width)) * size for size in _MAGNITUDES),
        random.integers(0, 17, (_ROWS, width)).astype(np.float64),
        random.uniform(0, 255, (_ROWS, width)),
    ]
    for example in examples:
        known = np.atleast_2d(np.asarray(example, np.float64))
        if known.ndim == 2 and known.shape[1] == width and np.isfinite(known).all():
            some = known[random.integers(0, len(known), _ROWS)]
            rows += [some, some * random.normal(1, 0.3, some.shape),
                     some + random.normal(size=some.shape) * np.abs(some).mean(axis=0)]
    return _mixed(np.concatenate(rows))


def rows_at(width: int, thresholds: Mapping[int, NDArray[np.floating]]) -> Matrix:
    """With values at the thresholds of each feature and directly beside them."""
    random = np.random.default_rng(_SEED)
    rows = random.normal(size=(_AT_THRESHOLDS, width))
    for feature, values in thresholds.items():
        at = values[np.isfinite(values)].astype(np.float64)
        if len(at):
            rows[:, feature] = _beside(random.choice(at, len(rows)), random)
    return rows


def with_missing(rows: Matrix) -> Matrix:
    """The same, and copies of which some values are missing; one row has none at all."""
    random = np.random.default_rng(_SEED)
    some = rows[random.integers(0, len(rows), 2 * _ROWS)].copy()
    some[random.random(some.shape) < _MISSING] = np.nan
    some[-1] = np.nan
    return np.concatenate([rows, some])


def _beside(values: Matrix, random: np.random.Generator) -> Matrix:
    """A value, or one of its neighbours: among numbers of float64, or of float32."""
    single = values.astype(np.float32)
    step = np.float32(np.inf)
    choices = np.stack([
        values, np.nextafter(values, -np.inf), np.nextafter(values, np.inf), single,
        np.nextafter(single, -step), np.nextafter(single, step),
        values + random.normal(size=len(values)),
    ])
    return choices[random.integers(0, len(choices), len(values)), np.arange(len(values))]


def _mixed(rows: Matrix) -> Matrix:
    """In another order, so that neighbours differ in kind; always the same."""
    return rows[np.random.default_rng(_SEED).permutation(len(rows))]
