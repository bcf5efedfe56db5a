"""What the core wants done: its only output. Imperatives; each ends as an event."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from shoal.domain.model import Revision
from shoal.domain.reasons import Reason


class LoadCopy(msgspec.Struct, frozen=True, tag=True):
    """Ends as CopyLoaded or CopyLoadFailed. `reserved_bytes` are kept free for it."""

    revision: Revision
    reserved_bytes: int
    reason: Reason


class UnloadCopy(msgspec.Struct, frozen=True, tag=True):
    """Once its running requests are answered. Ends as CopyUnloaded."""

    revision: str
    reason: Reason


class Route(msgspec.Struct, frozen=True, tag=True):
    """From now on requests for `name` (and `version`; None: the default) go to this ready copy."""

    name: str
    version: int | None
    revision: str


class Unroute(msgspec.Struct, frozen=True, tag=True):
    """From now on such requests are events again."""

    name: str
    version: int | None


class Answer(msgspec.Struct, frozen=True, tag=True):
    """What the ticket waits for is ready. `revision` is empty after an unload."""

    ticket: int
    revision: str


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


Command: TypeAlias = LoadCopy | UnloadCopy | Route | Unroute | Answer | Refuse | Note
