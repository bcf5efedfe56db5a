"""What happens to an instance: the only input of its core. Past tense; an event carries all that
is known, so that the core looks nothing up.

Durations are seconds, sizes bytes. `ticket` numbers a waiting request; the shell maps it to a
future.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from shoal.domain.model import ModelRecord, Revision


class ModelDeclared(msgspec.Struct, frozen=True, tag=True):
    """A model was registered, or its declaration changed."""

    record: ModelRecord


class ModelRemoved(msgspec.Struct, frozen=True, tag=True):
    name: str


class CopyRequested(msgspec.Struct, frozen=True, tag=True):
    """A request found no ready copy. `version` None: the default one."""

    ticket: int
    record: ModelRecord
    version: int | None = None


class LoadAsked(msgspec.Struct, frozen=True, tag=True):
    """Somebody wants the copy loaded now and back in service, whatever failed before."""

    ticket: int
    record: ModelRecord
    version: int | None = None


class UnloadAsked(msgspec.Struct, frozen=True, tag=True):
    """Somebody wants the model (or one version) out of service until LoadAsked."""

    ticket: int
    record: ModelRecord
    version: int | None = None


class TicketAbandoned(msgspec.Struct, frozen=True, tag=True):
    """The client left or its deadline passed."""

    ticket: int


class FillOffered(msgspec.Struct, frozen=True, tag=True):
    """Registered models not in memory, the most recently used first."""

    records: tuple[ModelRecord, ...]


class CopyLoaded(msgspec.Struct, frozen=True, tag=True):
    """size_bytes: measured. load_s: from the start of the load, without its wait in the queue."""

    revision: str
    size_bytes: int
    load_s: float


class CopyLoadFailed(msgspec.Struct, frozen=True, tag=True):
    """code: of the error in `domain.errors`; message: its text."""

    revision: str
    code: str
    message: str


class CopyUnloaded(msgspec.Struct, frozen=True, tag=True):
    """Its last request was answered and its memory given back."""

    revision: str


class Use(msgspec.Struct, frozen=True):
    """Requests answered by a copy since the last report."""

    revision: str
    count: int
    last_used: float


class UsesReported(msgspec.Struct, frozen=True, tag=True):
    uses: tuple[Use, ...]


class MemoryMeasured(msgspec.Struct, frozen=True, tag=True):
    """models_bytes: what the process grew by since it started, less the frameworks' code."""

    models_bytes: int


class SizeRemembered(msgspec.Struct, frozen=True, tag=True):
    """What an artifact took in an earlier run."""

    artifact_digest: str
    size_bytes: int


class Ticked(msgspec.Struct, frozen=True, tag=True):
    """Time passed."""


Event: TypeAlias = (
    ModelDeclared
    | ModelRemoved
    | CopyRequested
    | LoadAsked
    | UnloadAsked
    | TicketAbandoned
    | FillOffered
    | CopyLoaded
    | CopyLoadFailed
    | CopyUnloaded
    | UsesReported
    | MemoryMeasured
    | SizeRemembered
    | Ticked
)


def served(record: ModelRecord, version: int | None) -> Revision | None:
    """The revision of `record` that stands for `version` (None: the default, its highest)."""
    if version is None:
        return record.revisions[-1] if record.revisions else None
    return next((each for each in record.revisions if each.version == version), None)
