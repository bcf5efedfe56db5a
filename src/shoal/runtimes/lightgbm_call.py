"""Calls LightGBM's prediction of one row without what its Python wrapper sets up anew every time.

The wrapper parses parameters and makes a predictor for each call: 17 of 21 µs for one row. The same
library has functions for one row that keep those: `LGBM_BoosterPredictForMatSingleRowFast` of its
documented C API. Must not know artifacts.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.floating]

# Of LightGBM's c_api.h.
_NORMAL: Final = 0
_FLOAT64: Final = 1


class Predictor:
    """A function of a matrix [rows, features] of float64: what `Booster.predict` answers.

    Raises what that raises. Safe for several threads at once: LightGBM locks the buffers of single
    rows. Where this release of LightGBM is not as expected, it only calls that method.
    """

    def __init__(self, lightgbm: ModuleType, booster: Any, threads: int) -> None:
        self._booster = booster
        self._threads = threads
        self._width: int = booster.num_feature()
        self._one_row: Callable[[int, int, int], int] | None = None
        example = self._public(np.zeros((1, self._width)))
        self._shape = example.shape
        try:
            one_row = self._prepared(lightgbm.basic._LIB, booster)
        except (AttributeError, TypeError, ctypes.ArgumentError):
            return
        if one_row is None:
            return
        self._one_row = one_row
        for value in (0.0, 1.0, np.nan):
            row = np.full((1, self._width), value)
            if not np.array_equal(self(row), self._public(row), equal_nan=True):
                self._one_row = None
                return

    def __call__(self, matrix: Matrix) -> NDArray[np.float64]:
        one_row = self._one_row
        if one_row is None or matrix.shape != (1, self._width) or matrix.dtype != np.float64 or (
            not matrix.flags.c_contiguous
        ):
            return self._public(matrix)
        answer = np.empty(self._shape)
        written = ctypes.c_int64()
        failed = one_row(
            matrix.__array_interface__["data"][0], ctypes.addressof(written),
            answer.__array_interface__["data"][0],
        )
        return self._public(matrix) if failed or written.value != answer.size else answer

    def _public(self, matrix: Matrix) -> NDArray[np.float64]:
        # A scalar parameter, not an environment variable: it holds for this call alone.
        answer: NDArray[np.float64] = self._booster.predict(matrix, num_threads=self._threads)
        return answer

    def _prepared(self, library: Any, booster: Any) -> Callable[[int, int, int], int] | None:
        prepared = ctypes.c_void_p()
        failed = library.LGBM_BoosterPredictForMatSingleRowFastInit(
            booster._handle, _NORMAL, 0, booster.best_iteration, _FLOAT64, self._width,
            b"num_threads=%d" % self._threads, ctypes.byref(prepared),
        )
        if failed:
            return None
        # It reads the booster, which must not go first: `self` holds both.
        weakref.finalize(self, library.LGBM_FastConfigFree, prepared).atexit = False
        function = library.LGBM_BoosterPredictForMatSingleRowFast
        pointer = ctypes.c_void_p

        def one_row(row: int, written: int, answer: int) -> int:
            code: int = function(prepared, pointer(row), pointer(written), pointer(answer))
            return code

        return one_row
