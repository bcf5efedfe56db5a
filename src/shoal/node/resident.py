"""Keeps Python's cyclic garbage collector from walking through models that stay.

A full collection looks at every object of every loaded model and of their frameworks: with a few
frameworks that takes 50 to 100 ms, with 20,000 small models half a second, in which no request is
answered. While models only come, what is in memory is set aside (`gc.freeze`) for the collector
once a second; as soon as one leaves, all is given back to it, so that models made of cycles are
collected as ever. Knows no model.
"""

from __future__ import annotations

import gc
from typing import Final

CALM_S: Final = 60.0  # without a copy leaving


class Resident:
    """Times are seconds of any clock that never goes back."""

    def __init__(self) -> None:
        self._is_news = False
        self._is_aside = False
        self._calm_from = 0.0

    def came(self) -> None:
        """A copy was loaded."""
        self._is_news = True

    def leaves(self, now: float) -> None:
        """A copy is about to leave."""
        self._calm_from = now + CALM_S
        self._is_news = True
        self.give_back()

    def give_back(self) -> None:
        """The instance ends."""
        if self._is_aside:
            gc.unfreeze()
            self._is_aside = False

    def tick(self, now: float) -> None:
        """Once a second."""
        if not self._is_news or now < self._calm_from:
            return
        gc.collect(1)  # young garbage must not be set aside for long; takes about a millisecond
        gc.freeze()
        self._is_news, self._is_aside = False, True
