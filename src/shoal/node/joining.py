"""Decides how many rows of a copy's calls may run as one, from what was declared, tried, measured.

A model that nobody vouches for is tried: its first joined calls are compared with calls alone, and
now and then a later one. Must not know turns or threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shoal.domain.model import Revision
from shoal.node.batch_run import Outcome
from shoal.node.batching import by_rows, has_fixed_rows
from shoal.node.call_cost import CallCost
from shoal.ports import RowLimited

if TYPE_CHECKING:
    from shoal.ports import LoadedModel

TRIALS: Final = 2  # joined calls that must be as good as calls alone, before it is relied on
TRIAL_CALLS: Final = 2  # requests in each
TRIAL_EVERY: Final = 1_000  # joined calls, after which one is tried again
MAX_FRUITLESS: Final = 100  # trials that show nothing: equal requests, or requests that fail


class Joining:
    """most_rows: that may run as one; 1: never. trials: that must still succeed. cost: to be told
    what calls took."""

    __slots__ = ("_fruitless", "_joined", "_vouched", "cost", "most_rows", "trials")

    def __init__(self, revision: Revision, model: LoadedModel, most_rows: int) -> None:
        """most_rows: where neither the revision nor the model says."""
        told = revision.max_batch_rows
        if told is None and isinstance(model, RowLimited):
            told = model.max_batch_rows
        self._vouched = told is not None
        if told is not None:
            self.most_rows = 1 if has_fixed_rows(model.signature) else told
        else:
            # A trial, or a joined call that fails, runs requests a second time.
            free = by_rows(model.signature) and revision.repeatable
            self.most_rows = most_rows if free else 1
        self.trials = 0 if self._vouched else TRIALS
        self.cost = CallCost()
        self._joined = 0
        self._fruitless = 0

    def rows(self) -> int:
        """How many may run as one now: no more than pay; 1: none."""
        return min(self.most_rows, self.cost.worthwhile_rows())

    def rows_within(self, seconds: float) -> int:
        """The same, of a call that should not take longer."""
        row_s, spare_s = self.cost.row_s, seconds - self.cost.fixed_s
        return min(self.rows(), max(int(spare_s / row_s), 1)) if row_s else self.rows()

    def saves_s(self, calls: float) -> float:
        """What it saves to run so many calls as one."""
        return (calls - 1.0) * self.cost.fixed_s if self.most_rows > 1 else 0.0

    def learn(self, outcome: Outcome) -> str | None:
        """Requests ran as one, or should have: why this will be the last time, if it is."""
        problem = outcome.problem
        if problem is not None:
            pass
        elif outcome.tried:
            self.trials = max(self.trials - 1, 0)  # others may have ended at the same time
        elif outcome.trial:
            self._fruitless += 1
            if self._fruitless == MAX_FRUITLESS:
                problem = "they are too much alike to show whether rows are answered apart"
        else:
            self._joined += 1
            if not self._vouched and (not outcome.answers or self._joined % TRIAL_EVERY == 0):
                self.trials = 1
        if problem is not None:
            self.most_rows = 1
            self.trials = 0
        return problem
