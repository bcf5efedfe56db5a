"""What happens to an instance: the only input of its core. Past tense; an event carries all that
is known, so that the core looks nothing up.

Durations are seconds, sizes bytes. `ticket` numbers a waiting request; the shell maps it to a
future.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from shoal.domain.mesh import Member, Message
from shoal.domain.model import ModelRecord, Revision


class ModelDeclared(msgspec.Struct, frozen=True, tag=True):
    """A model was registered, or its declaration changed. as_of: the registry's revision in which
    that is written; 0: in none."""

    record: ModelRecord
    as_of: int = 0


class ModelRemoved(msgspec.Struct, frozen=True, tag=True):
    name: str


class Miss(msgspec.Struct, frozen=True):
    """A request was forwarded in vain. revision: that it was for. code, message, retry_after_s: of
    the refusal. lost: the connection ended, and the request may have run."""

    instance: str
    revision: str
    code: str
    message: str
    retry_after_s: float | None = None
    lost: bool = False


class CopyRequested(msgspec.Struct, frozen=True, tag=True):
    """A request found no ready copy. `version` None: the default one. `attempt`: how often it was
    forwarded; `miss`: how that ended the last time."""

    ticket: int
    model: str
    version: int | None = None
    attempt: int = 0
    miss: Miss | None = None


class ForwardReceived(msgspec.Struct, frozen=True, tag=True):
    """Another instance forwarded a request for a copy that is not ready here."""

    ticket: int
    revision: str


class LoadAsked(msgspec.Struct, frozen=True, tag=True):
    """Somebody wants the copy loaded now and back in service, whatever failed before. as_of: as of
    ModelDeclared."""

    ticket: int
    model: str
    version: int | None = None
    as_of: int = 0


class UnloadAsked(msgspec.Struct, frozen=True, tag=True):
    """Somebody wants the model (or one version) out of service until LoadAsked. as_of: as of
    ModelDeclared."""

    ticket: int
    model: str
    version: int | None = None
    as_of: int = 0


class TicketAbandoned(msgspec.Struct, frozen=True, tag=True):
    """The client left or its deadline passed."""

    ticket: int


class FillOffered(msgspec.Struct, frozen=True, tag=True):
    """Registered models that may not be in memory, the most recently used first."""

    models: tuple[str, ...]


class CopyLoaded(msgspec.Struct, frozen=True, tag=True):
    """size_bytes: measured. load_s: from the start of the load, without its wait in the queue.
    peak_bytes: by how much the process rose meanwhile; None: nobody could tell. accelerator_bytes:
    on the device that the load was told; 0: it runs on the processor after all."""

    revision: str
    size_bytes: int
    load_s: float
    peak_bytes: int | None = None
    accelerator_bytes: int = 0


class CopyLoadFailed(msgspec.Struct, frozen=True, tag=True):
    """code: of the error in `domain.errors`; message: its text; retry_after_s: before which trying
    again is of no use; None: nobody said. deadly: nothing was tried, since processes died when it
    was. accelerator_bytes: where its accelerator had too little memory (ACCELERATOR_FULL), what it
    would have taken at least."""

    revision: str
    code: str
    message: str
    retry_after_s: float | None = None
    deadly: bool = False
    accelerator_bytes: int = 0


class FilesComing(msgspec.Struct, frozen=True, tag=True):
    """The files of a copy that is to be loaded come from elsewhere: others may be loaded meanwhile.
    Ends as FilesCame, whether they came or not."""

    revision: str


class FilesCame(msgspec.Struct, frozen=True, tag=True):
    """They are here, or will not come: what follows is the load, or its failure."""

    revision: str


class CopyUnloaded(msgspec.Struct, frozen=True, tag=True):
    """Its last request was answered and its memory given back."""

    revision: str


class Use(msgspec.Struct, frozen=True):
    """Requests answered by a copy since the last report, and seconds they kept it busy. waiting:
    for a thread, now."""

    revision: str
    count: int
    last_used: float
    busy_s: float = 0.0
    waiting: int = 0


class UsesReported(msgspec.Struct, frozen=True, tag=True):
    uses: tuple[Use, ...]


class MemoryMeasured(msgspec.Struct, frozen=True, tag=True):
    """models_bytes: what the process grew by since it started, less the frameworks' code. pools:
    what its frameworks hold on accelerators, as far as they tell."""

    models_bytes: int
    pools: tuple[tuple[str, int], ...] = ()


class SizeRemembered(msgspec.Struct, frozen=True, tag=True):
    """What an artifact took in an earlier run. accelerator_bytes: on an accelerator, if it lay on
    one; then the other is what it took beside it."""

    artifact_digest: str
    size_bytes: int
    accelerator_bytes: int = 0


class ForwardsReported(msgspec.Struct, frozen=True, tag=True):
    """Names for which requests were forwarded, on the word of RouteElsewhere, since the last
    report, and how many requests that were."""

    names: tuple[tuple[str, int | None], ...]
    count: int = 0


class MembersChanged(msgspec.Struct, frozen=True, tag=True):
    """All members of the mesh, this instance among them. view: grows with every change, and is the
    same for all who know the same. unlinked: those that messages do not reach yet; PeerUp will
    follow."""

    members: tuple[Member, ...]
    view: int
    unlinked: tuple[str, ...] = ()


class PeerUp(msgspec.Struct, frozen=True, tag=True):
    """Messages reach the instance; those sent before may be lost."""

    instance: str


class PeerDown(msgspec.Struct, frozen=True, tag=True):
    """Messages do not reach the instance, at least from here."""

    instance: str


class Told(msgspec.Struct, frozen=True, tag=True):
    """Another instance said something."""

    sender: str
    message: Message


class FiguresMeasured(msgspec.Struct, frozen=True, tag=True):
    """How this instance does: what only the shell can measure."""

    load: float
    waiting_requests: int


class Ticked(msgspec.Struct, frozen=True, tag=True):
    """Time passed."""


Event: TypeAlias = (
    ModelDeclared
    | ModelRemoved
    | CopyRequested
    | ForwardReceived
    | LoadAsked
    | UnloadAsked
    | TicketAbandoned
    | FillOffered
    | CopyLoaded
    | CopyLoadFailed
    | FilesComing
    | FilesCame
    | CopyUnloaded
    | UsesReported
    | MemoryMeasured
    | SizeRemembered
    | ForwardsReported
    | MembersChanged
    | PeerUp
    | PeerDown
    | Told
    | FiguresMeasured
    | Ticked
)


def served(record: ModelRecord, version: int | None) -> Revision | None:
    """The revision of `record` that stands for `version` (None: the default, its highest)."""
    if version is None:
        return record.revisions[-1] if record.revisions else None
    return next((each for each in record.revisions if each.version == version), None)
