"""A copy: one revision queued, loading, ready or leaving on this instance."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from shoal.domain.model import Revision
from shoal.domain.reasons import Reason


class CopyState(enum.Enum):
    QUEUED = "queued"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"


class Urgency(enum.IntEnum):
    """Of a load; lower goes first."""

    REQUEST = 0  # a request waits
    WANTED = 1  # a revision is to take over, or an operator pinned it
    FILL = 2  # memory is free


@dataclass(slots=True)
class Copy:
    """size_bytes: occupied in the budget: reserved while loading, measured when ready.
    tickets: requests that wait for it to be ready. wanted_again: a request came while it was
    leaving. asked: somebody wants it in memory, whether a request waits or not. orphan: nothing
    refers to it any more; it leaves as soon as it is loaded."""

    revision: Revision
    state: CopyState
    urgency: Urgency
    reason: Reason
    size_bytes: int
    tickets: list[int] = field(default_factory=list)
    unload_tickets: list[int] = field(default_factory=list)
    wanted_again: bool = False
    asked: bool = False
    orphan: bool = False
    loaded_at: float = 0.0
    last_used: float = 0.0
    uses: int = 0
