"""How often something may happen: a burst, and a rate in the long run. Knows no clock."""

from __future__ import annotations


class Budget:
    """A bucket of `burst` tokens that fills by `rate` a second."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, burst: int, rate: float) -> None:
        self._burst = self._tokens = float(burst)
        self._rate = rate
        self._at: float | None = None

    def spend(self, now: float, earned: int = 0) -> bool:
        """One token, after `earned` ones were added; False if there is none."""
        if self._at is not None and now > self._at:
            earned_since = (now - self._at) * self._rate
        else:
            earned_since = 0.0
        self._at = now
        tokens = min(self._burst, self._tokens + earned_since + earned)
        if tokens < 1:
            self._tokens = tokens
            return False
        self._tokens = tokens - 1
        return True
