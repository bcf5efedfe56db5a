"""Decides when memory that no model is booked for counts as leaked: when there is much of it, for
long. Knows neither models nor what becomes of the process.
"""

from __future__ import annotations

from typing import Final

FROM_BYTES: Final = 64 * 1024**2
"""Below, it is noise of allocators, and what frameworks set up with their first requests."""


class LeakWatch:
    """share: of the budget that may be held so; 0: however much. for_s: how long it must have been
    more all the time. Times are seconds of any clock that never goes back."""

    def __init__(self, share: float, for_s: float, budget_bytes: int) -> None:
        self._most = max(round(share * budget_bytes), FROM_BYTES) if share > 0 else None
        self._share = share
        self._for_s = for_s
        self._since: float | None = None

    def look(self, unbooked_bytes: int, now: float) -> str | None:
        """To be called once a second: what leaks, in words that follow "the process"; None: it is
        no leak, or not yet."""
        if self._most is None or unbooked_bytes <= self._most:
            self._since = None
            return None
        if self._since is None:
            self._since = now
        if now - self._since < self._for_s:
            return None
        return (
            f"has held more than {self._most:,} bytes beyond what its models are booked for, "
            f"{unbooked_bytes:,} now, for {now - self._since:.0f} s (recycle.max_leak_share, "
            "recycle.leak_s)")
