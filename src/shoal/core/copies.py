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

    __hash__ = object.__hash__  # there is one of each: its name need not be hashed every time


class Urgency(enum.IntEnum):
    """Of a load; lower goes first."""

    REQUEST = 0  # a request waits
    WANTED = 1  # a revision is to take over, or an operator pinned it
    FILL = 2  # memory is free


@dataclass(slots=True)
class Copy:
    """size_bytes: occupied in the host's budget: reserved while loading, measured when ready.
    device, accelerator_bytes: the pool that it lies in, and what it occupies there; None: it runs
    on the processor, or that is not decided yet. load_s: what loading took. tickets: requests that
    wait for it to be ready. wanted_again: it was granted anew, or a request came, while it was
    leaving. by_hand: somebody wants it in memory, whether a request waits or not. released: why it
    leaves as soon as it is loaded. overwritten: other files lie in the place of its own by now, so
    that it could not be loaded again. kept: its model is to have copies at all times.
    on_processor: its accelerator had no room for it, and it may do without. home, home_score: who
    is told of it."""

    revision: Revision
    state: CopyState
    urgency: Urgency
    reason: Reason
    size_bytes: int
    device: str | None = None
    accelerator_bytes: int = 0
    tickets: list[int] = field(default_factory=list)
    wanted_again: bool = False
    by_hand: bool = False
    released: Reason | None = None
    overwritten: bool = False
    kept: bool = False
    on_processor: bool = False
    home: str = ""
    home_score: float = 0.0
    loaded_at: float = 0.0
    load_s: float = 0.0
    last_used: float = 0.0
    uses: int = 0

    @property
    def is_protected(self) -> bool:
        """Must it not be evicted?"""
        return self.revision.pin or self.overwritten or self.kept
