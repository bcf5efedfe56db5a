"""What the system shows of itself: answers of the management API, the SDK and the command line.

Times are seconds since the epoch, sizes bytes, durations seconds. Fields are only ever added.
"""

from __future__ import annotations

import enum

import msgspec

from shoal.domain.model import JsonValue
from shoal.domain.signature import TensorSpec


class State(enum.StrEnum):
    """Of a model's version on this instance, or of the model: its default version's."""

    READY = "ready"
    LOADING = "loading"
    QUEUED = "queued"  # waits for a loading slot or for room
    COLD = "cold"  # not in memory; the next request loads it
    FAILED = "failed"  # the last load failed
    UNLOADED = "unloaded"  # taken out of service by hand, until it is loaded by hand
    INVALID = "invalid"  # declared, but nothing servable was found


class VersionView(msgspec.Struct, frozen=True):
    """`optimized`: what came of looking for a faster form of the copy in memory."""

    version: int
    revision: str
    state: State
    format: str
    uri: str
    files_bytes: int
    size_bytes: int | None = None  # in memory, measured; None while it never was
    loaded_at: float | None = None
    last_used: float | None = None
    requests: int = 0
    error: str | None = None
    optimized: str | None = None


class ModelView(msgspec.Struct, frozen=True):
    """`serving`: the revision that answers requests without a version. `pending`: a newer one that
    waits to take over."""

    name: str
    state: State
    uri: str
    origin: str
    registered_at: float
    versions: list[VersionView]
    default_version: int | None = None
    serving: str | None = None
    pending: str | None = None
    problem: str | None = None
    pin: bool = False
    priority: int = 0
    labels: dict[str, str] = {}
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []


class ModelPage(msgspec.Struct, frozen=True):
    """`next`: pass as `after` for the following page; None on the last. `total`: matches in all."""

    models: list[ModelView]
    total: int
    next: str | None = None


class Registered(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one model of a batch.

    unchanged: it was registered just so already, or unregistered, and nothing was written.
    error, code, retryable: of the failure, as in ErrorView; absent when `ok`.
    """

    name: str
    ok: bool
    unchanged: bool = False
    error: str | None = None
    code: str | None = None
    retryable: bool | None = None


class BatchOutcome(msgspec.Struct, frozen=True):
    """What became of a batch.

    results: of each model, in the order of the request.
    registered, unchanged, failed: how many of each; for a batch that unregisters, `registered`
        counts the models that were unregistered.
    """

    results: list[Registered]
    registered: int
    unchanged: int
    failed: int

    @staticmethod
    def of(results: list[Registered]) -> BatchOutcome:
        failed = sum(not result.ok for result in results)
        unchanged = sum(result.unchanged for result in results)
        return BatchOutcome(results, len(results) - failed - unchanged, unchanged, failed)


class EventView(msgspec.Struct, frozen=True):
    """Something that was decided or that happened. `seq` grows by one; `reason` is an enum's value
    (see `shoal.domain.reasons`)."""

    seq: int
    time: float
    kind: str
    message: str
    model: str | None = None
    revision: str | None = None
    reason: str | None = None


class EventPage(msgspec.Struct, frozen=True):
    """Oldest first. `next`: pass as `after` for what follows."""

    events: list[EventView]
    next: int


class FailureView(msgspec.Struct, frozen=True):
    revision: str
    code: str
    message: str
    count: int
    first_at: float
    last_at: float
    next_try_at: float | None


class Story(msgspec.Struct, frozen=True):
    """Why a model is (not) loaded. `summary`: a few sentences, most important first."""

    model: ModelView
    summary: list[str]
    failures: list[FailureView]
    events: list[EventView]


class InstanceView(msgspec.Struct, frozen=True):
    """pressure: turnovers of the cache an hour; cache_age_s: time since the last use of the copy
    evicted last (None before the first eviction)."""

    id: str
    host: str
    pid: int
    version: str
    state: str  # starting, ready, draining
    started_at: float
    http_address: str
    management_address: str
    budget_bytes: int
    used_bytes: int
    reserved_bytes: int
    process_bytes: int
    copies: int
    loading: int
    queued: int
    waiting_requests: int
    pressure: float
    cache_age_s: float | None
    thrashing: bool
    grpc_address: str = ""


class Latency(msgspec.Struct, frozen=True):
    """Seconds, over the last five minutes; None without requests."""

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    max: float | None = None


class Totals(msgspec.Struct, frozen=True):
    """Since the start. hits: requests that found their copy ready; cold: that waited for a load."""

    requests: int = 0
    failed: int = 0
    hits: int = 0
    cold: int = 0
    loads: int = 0
    load_failures: int = 0
    evictions: int = 0
    unloads: int = 0


class BusyModel(msgspec.Struct, frozen=True):
    """One line of `shoal top`: rates over the last minute."""

    name: str
    state: State
    requests_per_s: float
    mean_latency_s: float | None
    size_bytes: int | None


class Status(msgspec.Struct, frozen=True):
    ready: bool
    models: int
    by_state: dict[str, int]
    totals: Totals
    latency: Latency
    cold_latency: Latency
    instances: list[InstanceView]
    busiest: list[BusyModel]
    problems: list[str]  # anything an operator should look at, in sentences


class SettingView(msgspec.Struct, frozen=True):
    """source: default, file, environment or flag. Secrets are shown as `***`."""

    name: str
    value: JsonValue
    default: JsonValue
    source: str
    flag: str
    variable: str
    doc: str


class Outcome(msgspec.Struct, frozen=True):
    """Of a load or unload that was waited for."""

    name: str
    state: State
    version: int | None
    took_s: float
