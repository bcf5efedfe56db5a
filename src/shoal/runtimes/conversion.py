"""Decides whether a model answers through ONNX Runtime instead of its own framework.

A form converted to ONNX is kept only when it answers as the original does on sampled rows, and is
measured to be faster. Requests out of the ordinary, and labels too close to call, still go to the
original, which stays in memory. Must not know scikit-learn, XGBoost or LightGBM: each brings a
`Conversion`.

Tolerance: scores, probabilities and regressions may differ by a share of the value plus a tenth of
that share of the largest answer sampled, since ONNX Runtime sums in another order: `TOLERANCES`, by
what it computes in. Labels must be the same: they are read off scores, and rows of which the two
largest are nearer than `CLOSE_CALL` times the tolerance are given to the original.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from time import perf_counter
from types import ModuleType
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from shoal.runtimes.loading import one_line
from shoal.runtimes.onnx_session import Session, open_session

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Matrix: TypeAlias = NDArray[np.floating]
    Scores: TypeAlias = NDArray[np.floating]
    Functions: TypeAlias = Mapping[str, Callable[[Matrix], ArrayLike]]

TOLERANCES: Final = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-9}
CLOSE_CALL: Final = 10
# A row whose squares sum up to less has no missing, infinite, or for float32 too large values.
_ORDINARY: Final = 1e70

_PAIRS: Final = 8
_HALVINGS: Final = 30  # then a step is a few units in the last place of float32
_ROUNDS: Final = 9  # of measuring
_ROUND_S: Final = 0.001
_FAST_S: Final = 5e-6  # for one row; no session is faster
_GAIN: Final = 0.8  # of the original's time for one row, at most
_MANY_ROWS: Final = 64
_LOSS: Final = 1.5  # of the original's time for many rows, close calls among them, at most


class NotConverted(Exception):
    """Why a model stays as it is, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a runtime brings so that its model can be converted.

    candidates: ONNX models of one input [rows, features], most exact first; made when asked for.
        The output that is used is the last one. Raises NotConverted, or whatever a converter does.
    rows: what to compare on, in the type that the original takes.
    reference: the original's functions by name, which the converted are compared with. They may be
        called while others call the model.
    score: which of them gives the scores: what the last output of a candidate must equal.
    classes: where `predict` gives the label of the largest score; None: it gives the scores.
    takes_missing: missing and infinite values are part of what is converted.
    """

    candidates: Callable[[], Iterator[bytes]]
    rows: Callable[[], Matrix]
    reference: Functions
    score: str = "predict"
    classes: NDArray[np.generic] | None = None
    takes_missing: bool = False


@dataclass(frozen=True, slots=True)
class Converted:
    """functions: instead of the original's of these names. size_bytes: what it takes more."""

    functions: Functions
    size_bytes: int
    note: str


def convert(conversion: Conversion, functions: Functions, framework: ModuleType, threads: int
            ) -> Converted:
    """The first candidate that passes. `functions`: the original's that requests call. Raises
    NotConverted with the reason of the last."""
    with np.errstate(all="ignore"):
        rows = conversion.rows()
        rows = rows[_can_answer(conversion, rows)]
        own = conversion.reference["predict"]
        if not len(rows):
            raise NotConverted("it refuses every sampled row")
        own_s, _ = _measure(own, own, rows[:1])
        if own_s < _FAST_S:
            raise NotConverted(f"its own framework takes only {own_s * 1e6:.1f} µs for a row")
        if conversion.classes is not None:
            rows = np.concatenate([rows, _boundaries(conversion, rows)])
        reason = NotConverted("no conversion is known for its kind")
        for model in _made(conversion):
            try:
                return _tried(conversion, functions, rows, model, (framework, threads))
            except NotConverted as error:
                reason = error
    raise reason


def _made(conversion: Conversion) -> Iterator[bytes]:
    try:
        yield from conversion.candidates()
    except NotConverted:
        raise
    except Exception as error:  # converters raise anything; told as the reason
        raise NotConverted(f"the converter refuses it ({one_line(error)})") from error


def _tried(conversion: Conversion, functions: Functions, rows: Matrix, model: bytes,
           where: tuple[ModuleType, int]) -> Converted:
    try:
        session = open_session(where[0], model, where[1])
    except Exception as error:  # ONNX Runtime's errors share no base; told as the reason
        raise NotConverted(f"ONNX Runtime refuses its form ({one_line(error)})") from error
    made = _Functions(conversion, session)
    worst = _compare(conversion, made, rows)
    replaced, own = made.replaced(), conversion.reference["predict"]
    one, many = made.usual(rows)[:1], np.resize(rows, (_MANY_ROWS, rows.shape[1]))
    own_s, its_s = _measure(own, replaced["predict"], one)
    if its_s > own_s * _GAIN:
        raise NotConverted(
            f"it would not be faster ({its_s * 1e6:.1f} instead of {own_s * 1e6:.1f} µs for a row)"
        )
    own_many_s, its_many_s = _measure(own, replaced["predict"], many)
    if its_many_s > own_many_s * _LOSS:
        raise NotConverted(
            f"it would be slower for {_MANY_ROWS} rows ({its_many_s * 1e6:.0f} instead of "
            f"{own_many_s * 1e6:.0f} µs)"
        )
    made.original = functions
    labels = "labels are the same and " if conversion.classes is not None else ""
    return Converted(
        replaced, len(model) + session.size_bytes,
        f"converted to ONNX: {own_s / its_s:.0f} times as fast ({its_s * 1e6:.1f} instead of "
        f"{own_s * 1e6:.0f} µs for a row); on {len(rows)} sampled rows {labels}numbers differ by "
        f"at most {worst:.1g} (allowed: {made.tolerance:g})",
    )


class _Functions:
    """The session as functions of matrices, with the original behind it. Knows what the scores
    look like once `expect` was called. Stays with the model, so it does not keep the conversion,
    which may hold a copy of the model."""

    def __init__(self, conversion: Conversion, session: Session) -> None:
        if len(session.inputs) != 1:
            raise NotConverted("its form takes more than one input")
        self.original = conversion.reference
        self._score = conversion.score
        self._takes_missing = conversion.takes_missing
        self._run = session.run
        self._name: str = session.inputs[0].name
        self._output: str = session.outputs[-1].name
        self._dtype = np.dtype(np.float64 if "double" in session.inputs[0].type else np.float32)
        self.tolerance = TOLERANCES[self._dtype]
        self._shown: np.dtype[np.floating] = np.dtype(np.float64)
        self._rank = 1
        self._close = 0.0
        self._classes: NDArray[np.generic] | None = None
        if conversion.classes is not None:  # answers are parts of it, and nobody may write to them
            self._classes = conversion.classes.copy()
            self._classes.flags.writeable = False

    def replaced(self) -> dict[str, Callable[[Matrix], ArrayLike]]:
        if self._classes is None:
            return {self._score: self._scores}
        return {self._score: self._scores, "predict": self._labels}

    def expect(self, scores: Scores, largest: float) -> None:
        """Learn from the original's scores the datatype and rank that the converted have too, and
        what a close call is."""
        self._shown = scores.dtype
        self._rank = scores.ndim
        self._close = CLOSE_CALL * 0.1 * self.tolerance * largest

    def usual(self, rows: Matrix) -> Matrix:
        """Those of which the label is no close call; all, if there are none."""
        if self._classes is None:
            return rows
        clear = self._clear(self.raw(rows))
        return rows[clear] if clear.any() else rows

    def raw(self, matrix: Matrix) -> Scores:
        (answer,) = self._run((self._output,), {self._name: matrix.astype(self._dtype, copy=False)},
                              None)
        assert isinstance(answer, np.ndarray)
        return self._in_shape(answer)

    def _in_shape(self, answer: Scores) -> Scores:
        """Of two classes some give one column, others both; one output may be a column."""
        if self._rank == 1 and answer.ndim == 2:
            return answer[:, -1]
        return answer

    def _is_ordinary(self, matrix: Matrix) -> bool:
        if matrix.dtype.kind != "f" or not len(matrix):
            return False
        if self._takes_missing:
            return True
        flat = matrix.ravel()
        return bool(flat.dot(flat) < _ORDINARY)

    def _scores(self, matrix: Matrix) -> ArrayLike:
        if not self._is_ordinary(matrix):
            return self.original[self._score](matrix)
        return self.raw(matrix).astype(self._shown, copy=False)

    def _labels(self, matrix: Matrix) -> ArrayLike:
        classes = self._classes
        assert classes is not None
        if not self._is_ordinary(matrix):
            return self.original["predict"](matrix)
        scores = self.raw(matrix)
        if len(scores) == 1:
            place = self._place(scores.tolist()[0])
            return self.original["predict"](matrix) if place is None else classes[place : place + 1]
        labels: NDArray[np.generic] = classes[_largest(scores)]
        clear = self._clear(scores)
        if not clear.all():
            labels[~clear] = self.original["predict"](matrix[~clear])
        return labels

    def _place(self, scores: float | list[float]) -> int | None:
        """Of one row's label; None when it is a close call. As `_clear`, without numpy."""
        if isinstance(scores, float):
            return int(scores > 0) if abs(scores) > self._close else None
        *_, second, first = sorted(scores)
        if first - second > CLOSE_CALL * self.tolerance * abs(first) + self._close and (
            isfinite(sum(scores))
        ):
            return scores.index(first)
        return None

    def _clear(self, scores: Scores) -> NDArray[np.bool_]:
        """Of each row, whether its label could not turn within the tolerance."""
        clear: NDArray[np.bool_]
        if scores.ndim == 1:
            clear = np.abs(scores) > self._close
            return clear
        if scores.shape[1] == 2:
            second, first = scores.min(axis=1), scores.max(axis=1)
        else:
            second, first = np.partition(scores, -2, axis=1)[:, -2:].T
        clear = first - second > CLOSE_CALL * self.tolerance * np.abs(first) + self._close
        return clear


def _largest(scores: Scores) -> NDArray[np.intp]:
    return (scores > 0).astype(np.intp) if scores.ndim == 1 else scores.argmax(axis=1)


# --- comparing ----------------------------------------------------------------------------------


def _can_answer(conversion: Conversion, rows: Matrix) -> NDArray[np.bool_]:
    """Which rows the original does not refuse, nor answer with what is no number."""
    score = conversion.reference[conversion.score]

    def fine(part: Matrix) -> bool:
        try:
            return bool(np.isfinite(np.asarray(score(part))).all())
        except (ValueError, TypeError, ArithmeticError):
            return False

    if fine(rows):
        return np.ones(len(rows), np.bool_)
    return np.array([fine(rows[index : index + 1]) for index in range(len(rows))], np.bool_)


def _boundaries(conversion: Conversion, rows: Matrix) -> Matrix:
    """Rows between two of different labels, ever nearer to where the label turns."""
    def labels_of(matrix: Matrix) -> NDArray[np.intp]:
        return _largest(np.asarray(conversion.reference[conversion.score](matrix)))

    labels = labels_of(rows)
    turns = np.flatnonzero(labels[1:] != labels[:-1])[:_PAIRS]
    if not len(turns):
        return rows[:0]
    left, right, wanted = rows[turns], rows[turns + 1], labels[turns]
    found = []
    for _ in range(_HALVINGS):
        middle = left + (right - left) / 2
        found.append(middle)
        same = (labels_of(middle) == wanted)[:, None]
        left, right = np.where(same, middle, left), np.where(same, right, middle)
    near = np.concatenate(found).astype(rows.dtype)
    return near[_can_answer(conversion, near)]


def _compare(conversion: Conversion, made: _Functions, rows: Matrix) -> float:
    """The largest difference, as a share of the value or of the largest one, whichever is larger.
    Raises NotConverted."""
    expected = np.asarray(conversion.reference[conversion.score](rows))
    largest = float(np.abs(expected).max(initial=0.0))
    made.expect(expected, largest)
    worst = 0.0
    for part in _parts(len(rows)):
        answer, right = made.raw(rows[part]), expected[part]
        if answer.shape != right.shape:
            raise NotConverted(
                f"its form answers the shape {list(answer.shape)} instead of {list(right.shape)}"
            )
        off = np.abs(answer.astype(np.float64) - right)
        if not np.isfinite(off).all():
            raise NotConverted("its answers are no numbers where the original's are")
        if not (off <= made.tolerance * (np.abs(right) + 0.1 * largest)).all():
            raise NotConverted(
                f"its answers differ by up to {float(off.max()):.2g} where they are up to "
                f"{largest:.3g}, beyond {made.tolerance:g}"
            )
        worst = max(worst, float((off / np.maximum(np.abs(right), 0.1 * largest)).max(initial=0.0)))
    for name, function in made.replaced().items():
        labels = name == "predict" and conversion.classes is not None
        _compare_answers(conversion.reference[name], function, rows, labels)
    return worst


def _compare_answers(own: Callable[[Matrix], ArrayLike], its: Callable[[Matrix], ArrayLike],
                     rows: Matrix, labels: bool) -> None:
    """Datatypes and shapes, and labels themselves. Raises NotConverted."""
    for part in _parts(len(rows)):
        right, answer = np.asarray(own(rows[part])), np.asarray(its(rows[part]))
        if right.dtype != answer.dtype or right.shape != answer.shape:
            raise NotConverted(
                f"it would answer {answer.dtype}{list(answer.shape)} instead of "
                f"{right.dtype}{list(right.shape)}"
            )
        if labels and not np.array_equal(right, answer):
            raise NotConverted(f"{int((right != answer).sum())} labels differ")


def _parts(count: int) -> Sequence[slice]:
    """One row, a few, and all: converted models may run these differently."""
    return [slice(0, 1), slice(1, 2), slice(2, 9), slice(9, None)] if count > 9 else [slice(None)]


def _measure(own: Callable[[Matrix], ArrayLike], its: Callable[[Matrix], ArrayLike], rows: Matrix
             ) -> tuple[float, float]:
    """Seconds of a call of each, the least of rounds in turns."""
    best = [float("inf"), float("inf")]
    for _ in range(_ROUNDS):
        for number, call in enumerate((own, its)):
            calls, started = 0, perf_counter()
            while (took := perf_counter() - started) < _ROUND_S or not calls:
                call(rows)
                calls += 1
            best[number] = min(best[number], took / calls)
    return best[0], best[1]
