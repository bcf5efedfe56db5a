"""Requests in made-up time: what clients ask, and what became of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from shoal.simulation.network import Link

Name: TypeAlias = tuple[str, int | None]


class Outcome(enum.Enum):
    OPEN = "open"
    ANSWERED = "answered"
    REFUSED = "refused"
    LATE = "late"  # its deadline passed
    CUT_OFF = "cut off"  # the instance it was sent to is gone


@dataclass(slots=True, eq=False)
class Request:
    """entry: where it was sent. repeatable: may run again after it may have run. code, message: of
    a refusal. forwards: how often it went to another instance; runs: how often a copy ran it."""

    number: int
    name: Name
    entry: str
    at: float
    deadline: float
    repeatable: bool = True
    outcome: Outcome = Outcome.OPEN
    code: str = ""
    message: str = ""
    revision: str = ""
    instance: str = ""
    ended_at: float = 0.0
    forwards: int = 0
    runs: int = 0
    waited: bool = False
    call: Call | None = None
    ticket: int | None = None


@dataclass(slots=True, eq=False)
class Call:
    """A request forwarded over `link`, for a revision. ticket: it waits for a copy there."""

    request: Request
    revision: str
    link: Link
    ticket: int | None = None
    cancelled: bool = False


@dataclass(slots=True, eq=False)
class ByHand:
    """An operator loads (or unloads) a model through an instance. outcome, code: as of requests."""

    name: Name
    entry: str
    load: bool
    outcome: Outcome = Outcome.OPEN
    code: str = ""


Waiting: TypeAlias = Request | Call | ByHand


@dataclass(slots=True)
class Live:
    """A copy in memory. device, accelerator_bytes: the accelerator it lies on, if any. running:
    requests that it answers now; uses, busy_s: since the last report. leaving: it is unloaded when
    the last one is answered."""

    revision: str
    size_bytes: int
    device: str | None = None
    accelerator_bytes: int = 0
    running: int = 0
    uses: int = 0
    busy_s: float = 0.0
    last_used: float = 0.0
    leaving: bool = False
    calls: dict[int, Request] = field(default_factory=dict)
