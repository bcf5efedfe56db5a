"""An instance as the other instances of its mesh see it, and what cores say to each other.

Members live in the registry, under `instances/<id>`; messages pass between instances as they are
needed. Both may come from another release: fields that are unknown are ignored, fields that are
missing have their defaults.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

import msgspec

from shoal.domain.accelerators import PoolBudget, PoolFigures
from shoal.domain.model import Revision
from shoal.domain.reasons import Reason


class MemberState(enum.StrEnum):
    """starting: takes no part yet. ready: decides for its share of the models and loads them.
    draining: about to leave; answers for what it holds, loads nothing."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Figures(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How an instance does; refreshed every few seconds, and as stale as that.

    load: processors in use by this instance over those it may use. pressure: turnovers of its cache
    an hour. free_bytes: of its budget, beside what is loaded, reserved and queued. fill_bytes: of
    them, what may be filled with what nobody asked for. queued: loads that wait. pools: of its
    accelerators.
    """

    load: float = 0.0
    pressure: float = 0.0
    free_bytes: int = 0
    fill_bytes: int = 0
    used_bytes: int = 0
    copies: int = 0
    queued: int = 0
    waiting_requests: int = 0
    pools: tuple[PoolFigures, ...] = ()


class Member(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """incarnation: differs between two runs under one id. address: where other instances reach it,
    `unix:/path` or `tcp:host:port`. processors: what it may use. formats: those it can load, and
    the serving runtimes into which it loads (`serving_runtime.offer_of`); empty: it does not say.
    accelerators: kinds, such as `cuda`; pools: their memory, one each. folders: those it was told
    to watch; folders_read: those of them whose models it has declared for all. protocol: the
    highest version of peer frames that it speaks. started_at: seconds since the epoch."""

    id: str
    incarnation: str
    state: MemberState = MemberState.STARTING
    address: str = ""
    http_address: str = ""
    grpc_address: str = ""
    management_address: str = ""
    host: str = ""
    pid: int = 0
    version: str = ""
    protocol: int = 1
    started_at: float = 0.0
    zone: str = ""
    labels: dict[str, str] = {}
    accelerators: tuple[str, ...] = ()
    pools: tuple[PoolBudget, ...] = ()
    formats: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    folders_read: tuple[str, ...] = ()
    processors: float = 1.0
    budget_bytes: int = 0
    figures: Figures = Figures()


# --- what cores say to each other ---------------------------------------------------------------


class Locate(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """An entry asks a home who answers for `model`. `ask` numbers the question; its answer is
    Located or NotLocated. `without`: instances that just failed to answer from `revision`.
    by_hand: take it back into service and load it, whatever failed before. relayed: by an instance
    that did not take itself for the home. as_of: the registry's revision in which it is written
    that the model is back in service; 0: in none."""

    model: str
    version: int | None
    ask: int
    revision: str = ""
    without: tuple[str, ...] = ()
    by_hand: bool = False
    relayed: str = ""
    as_of: int = 0


class Located(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """holders: those that have the copy ready, else the one that loads it now (not ready)."""

    ask: int
    revision: str
    holders: tuple[str, ...]
    ready: bool = True


class NotLocated(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Nobody can answer. code: of a class in `domain.errors`, or empty where the entry knows better
    why: it ruled out everybody itself."""

    ask: int
    code: str = ""
    message: str = ""
    retry_after_s: float | None = None


class Holders(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """From now on these answer for a name; sent to entries that asked for it. None: forget it."""

    model: str
    version: int | None
    revision: str
    holders: tuple[str, ...] = ()


class Interest(msgspec.Struct, frozen=True, tag=True):
    """An entry goes on using what it was told about these names, and wants to hear of changes."""

    names: tuple[tuple[str, int | None], ...]


class TakeOut(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Somebody wants the model (or one version) out of service. Answered by TakenOut when it has
    left all memory. as_of: the registry's revision in which that is written; 0: in none."""

    model: str
    version: int | None
    ask: int
    as_of: int = 0


class TakenOut(msgspec.Struct, frozen=True, tag=True):
    ask: int


class Grant(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """A home lets an instance load. urgency: as `core.copies.Urgency`. by_hand: it stays wanted
    when nobody waits for it any more. size_bytes: that a copy of it took elsewhere; 0: nobody
    knows. accelerator_bytes: that it took beside it on an accelerator, if it lay on one."""

    revision: Revision
    urgency: int
    reason: Reason
    by_hand: bool = False
    size_bytes: int = 0
    accelerator_bytes: int = 0


class Release(msgspec.Struct, frozen=True, tag=True):
    """A home wants a copy gone: now if it waits to be loaded, else once its requests are
    answered."""

    revision: str
    reason: Reason


class Held(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """An instance holds a copy, or will (not ready). revision: whole. load_s: what loading took.
    used_ago_s: since its last use; None: never used. loading: as `Loading`. device,
    accelerator_bytes: the accelerator that it lies on, if any."""

    revision: Revision
    ready: bool = True
    size_bytes: int = 0
    load_s: float = 0.0
    used_ago_s: float | None = None
    loading: bool = False
    device: str | None = None
    accelerator_bytes: int = 0


class Loading(msgspec.Struct, frozen=True, tag=True):
    """The load of a copy begins: if nothing is heard of the instance any more, that may be why."""

    revision: str


class Dropped(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """A copy is no longer there (`gone`), or answers no new requests. again: it is queued to be
    loaded anew."""

    revision: str
    reason: Reason
    gone: bool = True
    again: bool = False


class Failed(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """A granted load did not come to pass. declined: nothing was tried, for want of room or time;
    it may go better soon, and elsewhere. size_bytes, accelerator_bytes: that it would take, where
    that was too much. deadly: processes died when they loaded it, so nobody is to try for long."""

    revision: str
    code: str
    message: str
    retry_after_s: float | None = None
    declined: bool = False
    size_bytes: int = 0
    deadly: bool = False
    accelerator_bytes: int = 0


class Announce(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Copies of the sender whose home the receiver is: all of them (`whole`), or those whose home
    it was not before. view: the latest change of members that the sender knows of; -1: there is
    more to tell. besides: revisions of copies told of in earlier parts of the same."""

    view: int
    copies: tuple[Held, ...] = ()
    whole: bool = False
    besides: tuple[str, ...] = ()


class Used(msgspec.Struct, frozen=True):
    """Since the last report: requests answered, seconds they kept the model busy, and how many
    wait now."""

    revision: str
    count: int
    busy_s: float = 0.0
    waiting: int = 0


class Demand(msgspec.Struct, frozen=True, tag=True):
    """What was asked, in `period_s` seconds, of copies whose home the receiver is."""

    period_s: float
    uses: tuple[Used, ...]


class Beat(msgspec.Struct, frozen=True, tag=True):
    """How the sender does now."""

    figures: Figures


class KnownFailure(msgspec.Struct, frozen=True):
    revision: str
    code: str
    message: str
    count: int
    retry_in_s: float


class HomeState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What only its home knows of a model. active: the revision that answers, by version.
    out_of_service: versions taken out by hand, as of that revision of the registry; None stands for
    the whole model. deaths: instances that ended while they loaded a revision, by revision."""

    model: str
    active: tuple[tuple[int | None, Revision], ...] = ()
    out_of_service: tuple[int | None, ...] = ()
    failures: tuple[KnownFailure, ...] = ()
    deaths: dict[str, tuple[str, ...]] = {}
    as_of: int = 0


class HandOver(msgspec.Struct, frozen=True, tag=True):
    """The receiver is the home of these models from now on."""

    models: tuple[HomeState, ...]


Message: TypeAlias = (
    Locate | Located | NotLocated | Holders | Interest | TakeOut | TakenOut | Grant | Release
    | Held | Loading | Dropped | Failed | Announce | Demand | Beat | HandOver
)
