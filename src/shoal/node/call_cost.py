"""Learns what a model's calls cost, a fixed part and a part for each row, and how many rows pay.

Pure: is told what was measured. Must not know how or where calls run.
"""

from __future__ import annotations

from typing import Final

_KEPT: Final = 0.97  # weight of all earlier calls at each new one: about thirty count
_LEAST_SPREAD: Final = 0.01  # variance of rows below which the two parts cannot be told apart
_WILD: Final = 4.0  # times the expectation at which a measurement is cut: somebody else's pause
_GAIN: Final = 0.1  # of a call's cost that the fixed part must still be to be worth sharing


class CallCost:
    """Seconds of a call of n rows as `fixed_s + n * row_s`, by decayed least squares."""

    __slots__ = ("_n", "_reach", "_x", "_xx", "_xy", "_y", "fixed_s", "row_s")

    def __init__(self) -> None:
        self.fixed_s = 0.0
        self.row_s = 0.0
        self._n = self._x = self._y = self._xx = self._xy = 0.0
        self._reach = 2  # rows up to which may be tried: twice what was measured

    def add(self, rows: int, seconds: float) -> None:
        """A call of `rows` rows took so long."""
        if self._n > 2.0:
            seconds = min(seconds, _WILD * self.expected_s(rows))
        self._n = n = self._n * _KEPT + 1.0
        self._x = x = self._x * _KEPT + rows
        self._y = y = self._y * _KEPT + seconds
        self._xx = xx = self._xx * _KEPT + rows * rows
        self._xy = xy = self._xy * _KEPT + rows * seconds
        if rows >= self._reach:
            self._reach = 2 * rows
        spread = xx / n - (x / n) ** 2
        if spread < _LEAST_SPREAD * max(x / n, 1.0):
            self.row_s = 0.0
            self.fixed_s = y / n
            self._reach = max(2, 2 * round(x / n))
            return
        slope = (xy / n - (x / n) * (y / n)) / spread
        self.row_s = min(max(slope, 0.0), y / x)  # neither part can be negative
        self.fixed_s = y / n - self.row_s * x / n

    def expected_s(self, rows: int) -> float:
        """What a call of `rows` rows will take; 0 before anything was measured."""
        return self.fixed_s + rows * self.row_s

    def worthwhile_rows(self) -> int:
        """Up to how many rows it pays to run calls as one, as far as is known; 1: not at all.

        Beyond `fixed / (0.1 * row)` rows less than a tenth of a call is shared, and waiting for
        each other costs more. Larger calls than were measured are tried in steps of two."""
        if self.row_s * self._reach * _GAIN <= self.fixed_s:
            return self._reach
        return max(int(self.fixed_s / (_GAIN * self.row_s)), 1)
