"""What the core wants done: its only output. Imperatives; each ends as an event."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from shoal.domain.mesh import Message
from shoal.domain.model import Revision
from shoal.domain.reasons import Reason


class LoadCopy(msgspec.Struct, frozen=True, tag=True):
    """Ends as CopyLoaded or CopyLoadFailed. `reserved_bytes` are kept free for it, and
    `accelerator_bytes` on the accelerator `device`; None: it runs on the processor."""

    revision: Revision
    reserved_bytes: int
    reason: Reason
    device: str | None = None
    accelerator_bytes: int = 0


class UnloadCopy(msgspec.Struct, frozen=True, tag=True):
    """Once its running requests are answered. Ends as CopyUnloaded."""

    revision: str
    reason: Reason


class Route(msgspec.Struct, frozen=True, tag=True):
    """From now on requests for `name` (and `version`; None: the default) go to this ready copy."""

    name: str
    version: int | None
    revision: str


class RouteElsewhere(msgspec.Struct, frozen=True, tag=True):
    """From now on requests for `name` (and `version`) go to one of these instances, for this
    revision; forwarding in vain ends as CopyRequested with a Miss."""

    name: str
    version: int | None
    revision: str
    holders: tuple[str, ...]


class Unroute(msgspec.Struct, frozen=True, tag=True):
    """From now on such requests are events again."""

    name: str
    version: int | None


class Answer(msgspec.Struct, frozen=True, tag=True):
    """What the ticket waits for is ready. `revision` is empty after an unload."""

    ticket: int
    revision: str


class AnswerElsewhere(msgspec.Struct, frozen=True, tag=True):
    """The ticket's request is to be forwarded to one of these instances. ready: they have the copy;
    else the one loads it now."""

    ticket: int
    revision: str
    holders: tuple[str, ...]
    ready: bool = True


class Refuse(msgspec.Struct, frozen=True, tag=True):
    """`code` names a class of `domain.errors`; retry_after_s only where it makes sense."""

    ticket: int
    code: str
    message: str
    retry_after_s: float | None = None


class Note(msgspec.Struct, frozen=True, tag=True):
    """Something an operator may want to read. `kind`: a stable word for filters."""

    kind: str
    model: str
    revision: str
    reason: Reason
    message: str


class Tell(msgspec.Struct, frozen=True, tag=True):
    """Say something to another instance; nobody knows whether it arrives."""

    instance: str
    message: Message


class Wake(msgspec.Struct, frozen=True, tag=True):
    """Tick after so many seconds, besides the usual ticks."""

    after_s: float


Command: TypeAlias = (
    LoadCopy | UnloadCopy | Route | RouteElsewhere | Unroute | Answer | AnswerElsewhere | Refuse
    | Tell | Note | Wake
)
