"""Runs calls of one kind as one, or one alone, and tries whether the model treats rows apart.

Blocking, on whatever thread it is called. Must not know turns, queues or statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Protocol

from shoal.domain.errors import ModelFailed, ShoalError
from shoal.domain.model import JsonValue
from shoal.node.batching import NotByRows, alike, join, same_inputs, split, varied

if TYPE_CHECKING:
    from shoal.ports import Arrays, LoadedModel


class Asked(Protocol):
    """A call of a model."""

    inputs: Arrays
    parameters: Mapping[str, JsonValue]
    outputs: tuple[str, ...]
    rows: int


@dataclass(slots=True)
class Outcome:
    """answers: one a call, in their order; empty: joined they failed, so each must run alone.
    measured: rows and seconds of each call of the model that succeeded, for `CallCost`. took_s: of
    all. trial: the answers are those of the calls alone. tried: joined they were the same. problem:
    why no calls of this model may be joined."""

    answers: list[Arrays | ShoalError] = field(default_factory=list)
    measured: list[tuple[int, float]] = field(default_factory=list)
    took_s: float = 0.0
    trial: bool = False
    tried: bool = False
    problem: str | None = None


class BatchRun:
    """model: by whose name errors tell. on_loop: it runs on the event loop."""

    __slots__ = ("_loaded", "_name", "_outcome", "_wall")

    def __init__(self, name: str, loaded: LoadedModel, *, on_loop: bool) -> None:
        self._name = name
        self._loaded = loaded
        # On a thread a call also waits for the interpreter's lock, which it would not on the loop:
        # so processor time counts there, unless the model may wait for other things.
        self._wall = on_loop or loaded.may_wait
        self._outcome = Outcome()

    def run(self, calls: Sequence[Asked], *, trial: bool) -> Outcome:
        """trial: compare what the calls get joined with what each gets alone."""
        started = perf_counter()
        outcome = self._outcome
        try:
            if len(calls) == 1:
                outcome.answers.append(self._alone(calls[0]))
            elif trial:
                outcome.trial = True
                self._try(calls)
            else:
                self._together(calls)
        except Exception as error:  # noqa: BLE001 - arrays that numpy cannot join, split, compare
            outcome.problem = f"{type(error).__name__}: {error}"
        outcome.took_s = perf_counter() - started
        return outcome

    def _alone(self, call: Asked) -> Arrays | ShoalError:
        try:
            return self._predict(call, call.inputs, call.rows)
        except ShoalError as error:
            return error

    def _together(self, calls: Sequence[Asked]) -> None:
        rows = [call.rows for call in calls]
        try:
            answer = self._predict(calls[0], join([call.inputs for call in calls]), sum(rows))
            self._outcome.answers.extend(split(answer, rows))
        except NotByRows as error:
            self._outcome.problem = str(error)
        except ShoalError:
            return

    def _try(self, calls: Sequence[Asked]) -> None:
        """Answers are those of the calls alone. Calls with equal inputs prove nothing, so then a
        variation of them is tried."""
        outcome = self._outcome
        outcome.answers.extend(self._alone(call) for call in calls)
        alone = [answer for answer in outcome.answers if isinstance(answer, dict)]
        if len(alone) < len(calls):
            return
        first = calls[0]
        inputs = [call.inputs for call in calls]
        rows = [call.rows for call in calls]
        if all(same_inputs(first.inputs, each) for each in inputs[1:]):
            other = varied(first.inputs)
            if same_inputs(first.inputs, other):
                return
            try:
                alone = [alone[0], self._predict(first, other, first.rows)]
            except ShoalError:
                return
            inputs, rows = [first.inputs, other], [first.rows, first.rows]
        try:
            joined = split(self._predict(first, join(inputs), sum(rows)), rows)
        except (NotByRows, ShoalError) as error:
            outcome.problem = str(error)
            return
        if all(alike(got, expected) for got, expected in zip(joined, alone, strict=True)):
            outcome.tried = True
        else:
            outcome.problem = "rows are answered otherwise when others are beside them"

    def _predict(self, call: Asked, inputs: Arrays, rows: int) -> Arrays:
        """Raises InvalidInput, ModelFailed."""
        started, used = perf_counter(), thread_time()
        try:
            answer = self._loaded.predict(inputs, call.parameters, call.outputs)
        except ShoalError:
            raise
        except BaseException as error:  # its SystemExit must not end the server
            raise model_failed(self._name, error) from error
        seconds = perf_counter() - started if self._wall else thread_time() - used
        self._outcome.measured.append((rows, seconds))
        return answer


def model_failed(name: str, error: BaseException) -> ModelFailed:
    """What a model raised, as its failure."""
    first_line = (str(error).strip().splitlines() or [""])[0][:300]
    return ModelFailed(f"model {name!r} failed: {type(error).__name__}: {first_line}")
