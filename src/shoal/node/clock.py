"""The real clock."""

from __future__ import annotations

import time


class SystemClock:
    """`ports.Clock` on the system's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()
