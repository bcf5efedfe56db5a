"""What instances ask each other for those who look at the mesh, and what they answer.

Both may come from another release: fields that are unknown are ignored, fields that are missing
have their defaults, and a question that is unknown is refused. Must not know how they travel.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from shoal.domain.errors import PlaceUnavailable, ShoalError, Unavailable, family
from shoal.domain.views import BusyModel, EventView, FailureView, InstanceView, ModelView, Totals
from shoal.observability.window import Counts

_BY_CODE: Final = {kind.code: kind for kind in family(ShoalError)}


# --- questions ------------------------------------------------------------------------------------


class TellReport(msgspec.Struct, frozen=True, tag=True):
    """How do you do? Answered by Report."""


class TellInstance(msgspec.Struct, frozen=True, tag=True):
    """Who are you? Answered by InstanceView."""


class TellModels(msgspec.Struct, frozen=True, tag=True):
    """What do you know of these models? Answered by the views of those of which something is loaded
    or decided there."""

    names: tuple[str, ...]


class TellStates(msgspec.Struct, frozen=True, tag=True):
    """Which models that you decide about are in this state (`cold`: in any other)? Answered by
    their states by name."""

    state: str


class TellLoaded(msgspec.Struct, frozen=True, tag=True):
    """Of which models do you have a ready copy? Answered by their names."""


class TellStory(msgspec.Struct, frozen=True, tag=True):
    """What do you know of the model, and why is it so? Answered by Facts."""

    model: str


class TellEvents(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """What happened behind the number `after`? Answered by EventPage."""

    after: int
    limit: int
    model: str | None = None


class TellStatistics(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """What did you count of the model, or of all? Answered by Counted, by model and version."""

    model: str | None = None


class AwaitCopy(msgspec.Struct, frozen=True, tag=True):
    """Tell me when the copy is ready, or why it will not be. Answered by nothing."""

    revision: str
    timeout_s: float


class Leave(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Hand over what you hold, or (undo) take your share again. stop: end afterwards. Answered by
    Drained, after `timeout_s` seconds at most."""

    timeout_s: float
    undo: bool = False
    stop: bool = False


Question: TypeAlias = (
    TellReport | TellInstance | TellModels | TellStates | TellLoaded | TellStory | TellEvents
    | TellStatistics | AwaitCopy | Leave
)


# --- answers --------------------------------------------------------------------------------------


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """in_play: models that it decides about by state, without those that are cold or invalid.
    busiest: of its own requests. problems: in sentences."""

    instance: InstanceView
    ready: bool = True
    totals: Totals = Totals()
    latency: Counts = Counts()
    cold_latency: Counts = Counts()
    in_play: dict[str, int] = {}
    busiest: list[BusyModel] = []
    problems: list[str] = []


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an instance knows of a model. tried: where a load just failed, and how, by revision,
    while it is tried elsewhere. notes: whole sentences. queued: loads queued beside the model's.
    left: why a copy left memory there the last time."""

    model: ModelView
    failures: list[FailureView] = []
    tried: dict[str, dict[str, str]] = {}
    notes: list[str] = []
    queued: int = 0
    left: str | None = None
    events: list[EventView] = []


class Joined(msgspec.Struct, frozen=True, array_like=True):
    """Requests that ran as one call; see `dataplane.statistics`."""

    calls: int
    answered: int
    calls_s: float
    requests_s: float


class Counted(msgspec.Struct, frozen=True, omit_defaults=True):
    """Counts of one version of a model on one instance; see `dataplane.statistics`. last_at: in
    seconds since the epoch, 0 if never. joined: by how many requests ran as one."""

    model: str
    version: int
    successes: int = 0
    success_s: float = 0.0
    queue_s: float = 0.0
    decode_s: float = 0.0
    compute_s: float = 0.0
    fails: int = 0
    fail_s: float = 0.0
    last_at: float = 0.0
    joined: dict[int, Joined] = {}


class Refusal(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error instead of an answer."""

    code: str
    message: str
    retry_after_s: float | None = None

    @staticmethod
    def of(error: ShoalError) -> Refusal:
        return Refusal(error.code, error.message, error.retry_after_s)

    def error(self) -> ShoalError:
        kind = _BY_CODE.get(self.code, Unavailable)
        if issubclass(kind, Unavailable | PlaceUnavailable):
            return kind(self.message, self.retry_after_s or 1.0)
        return kind(self.message)
