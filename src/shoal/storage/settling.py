"""Decides when what was seen to change has been still for long enough to be read.

Pure bookkeeping on signatures and the time that is passed in: reads no file and no clock.
"""

from __future__ import annotations

import math
from typing import Final

_UNREAD: Final = b"unread"  # no signature, so whatever is seen next is a change


class Settling:
    """Signatures by key: as last taken, and as waiting. A signature of None: the thing is gone,
    which has to last as well, since replacing is often removing first.

    settle_s: seconds a new signature must stay the same.
    """

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._taken: dict[str, bytes] = {}
        self._waiting: dict[str, tuple[bytes | None, float]] = {}

    def see(self, key: str, signature: bytes | None, now: float, *, still: bool = False) -> None:
        """Note what was there at or before `now`. `still`: it is known to have lasted, so it need
        not wait."""
        if self._taken.get(key) == signature:
            self._waiting.pop(key, None)
        elif key not in self._waiting or self._waiting[key][0] != signature:
            self._waiting[key] = (signature, -math.inf if still else now)

    def due(self, now: float) -> list[str]:
        """What has been still for long enough, sorted. `now`: before the last look began."""
        return sorted(key for key, (_, since) in self._waiting.items()
                      if since + self._settle_s <= now)

    def next_due(self) -> float | None:
        """When the next one will have been still for long enough; None when nothing waits."""
        starts = [since for _, since in self._waiting.values()]
        return min(starts) + self._settle_s if starts else None

    def last_due(self) -> float | None:
        """When all that waits will have been still for long enough; None when nothing waits."""
        starts = [since for _, since in self._waiting.values()]
        return max(starts) + self._settle_s if starts else None

    def take(self, key: str) -> bool:
        """The state that waits is about to be read: is there something to read?"""
        signature, _ = self._waiting.pop(key)
        if signature is None:
            self._taken.pop(key, None)
            return False
        self._taken[key] = signature
        return True

    def again(self, key: str) -> None:
        """Reading failed for a reason that may pass: the next sight of it counts as a change."""
        self._taken[key] = _UNREAD

    def wait(self, key: str, now: float) -> None:
        """It changed while it was read: it has to be still anew."""
        self._taken[key] = _UNREAD
        self._waiting[key] = (_UNREAD, now)

    def waiting(self) -> set[str]:
        return set(self._waiting)

    def keys(self) -> set[str]:
        """Everything known: what a complete look must account for."""
        return self._taken.keys() | self._waiting.keys()
