"""Decides how long to wait until the process of a model that died is started again. Must not know
processes."""

from __future__ import annotations

from typing import Final

_LASTED_S: Final = 60.0  # a process that lived so long did not die of how it was started
_FIRST_WAIT_S: Final = 0.5
_MOST_WAIT_S: Final = 60.0  # a cause that is mended is noticed within a minute

# Of processes that the kernel kills, each try may cost others theirs, and it takes long to fill
# the memory.
_MOST_KILLS: Final = 5
_KILLED_LASTED_S: Final = 600.0
_KILLED_WAIT_S: Final = 3600.0


class Restarts:
    """The deaths of one model's processes. `early`: in a row, each soon after its start. `kills`:
    those in a row that nobody here caused."""

    def __init__(self) -> None:
        self.early = 0
        self.kills = 0
        self._not_before = 0.0

    def died(self, lived_s: float, now: float, *, killed: bool = False) -> None:
        """0 s after the first death, so that clients hardly notice; then 0.5 s, doubled with every
        death within a minute of the start. killed: by SIGKILL, as when memory runs out; an hour
        after the fifth in a row, each within ten minutes of its start."""
        if lived_s >= (_KILLED_LASTED_S if killed else _LASTED_S):
            self.early = 0
        if lived_s >= _KILLED_LASTED_S or not killed:
            self.kills = 0
        self.kills += killed
        wait_s = min(_FIRST_WAIT_S * 2.0 ** min(self.early - 1, 10), _MOST_WAIT_S)
        wait_s = wait_s if self.early else 0.0
        self._not_before = now + (_KILLED_WAIT_S if self.is_given_up else wait_s)
        self.early += 1

    @property
    def is_given_up(self) -> bool:
        """Was it killed so often that it is not started again for long?"""
        return self.kills >= _MOST_KILLS

    def wait_s(self, now: float) -> float:
        """Seconds until the next start may be."""
        return max(self._not_before - now, 0.0)
