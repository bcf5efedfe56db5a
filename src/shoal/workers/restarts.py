"""Decides how long to wait until a worker that died is started again. Must not know processes."""

from __future__ import annotations

from typing import Final

_LASTED_S: Final = 60.0  # who lived so long did not die of how it was started
_FIRST_WAIT_S: Final = 0.5
_MOST_WAIT_S: Final = 30.0  # a cause that is mended is noticed within half a minute


class Restarts:
    """The deaths of one worker and its successors."""

    def __init__(self) -> None:
        self._early = 0  # deaths in a row that came soon after a start

    def wait_s(self, lived_s: float) -> float:
        """Seconds until the next start, after a life of `lived_s` seconds.

        0 after the first death, so that clients hardly notice; then 0.5, doubled with every death
        within a minute of the start.
        """
        if lived_s >= _LASTED_S:
            self._early = 0
        waits = self._early
        self._early += 1
        return min(_FIRST_WAIT_S * 2.0 ** min(waits - 1, 10), _MOST_WAIT_S) if waits else 0.0
