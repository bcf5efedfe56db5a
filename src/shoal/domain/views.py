"""What the system shows of itself: answers of the management API, the SDK and the command line.

Times are seconds since the epoch, sizes bytes, durations seconds. Fields are only ever added.
"""

from __future__ import annotations

import enum

import msgspec

from shoal.domain.model import JsonValue
from shoal.domain.serving_runtime import OWN, ServingRuntime, SupportedFormat
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
    """`optimized`: what came of looking for a faster form of the copy in memory. `runtime`: the
    serving runtime that loads it; `shoal`: the instance itself."""

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
    runtime: str = OWN


class CopyView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A copy of a version, on one instance. state: ready, loading or queued. since: of this state.
    reason: why it was loaded there. requests: answered by it; requests_per_s: over the last minute.
    leaving: it answers no new requests. device, accelerator_bytes: the accelerator that it lies on,
    and what it takes there, if it does. downloaded_bytes, download_bytes: of its files that lie
    elsewhere, while they come: so many of so many."""

    instance: str
    revision: str
    version: int
    state: State
    size_bytes: int | None = None
    since: float | None = None
    last_used: float | None = None
    requests: int = 0
    requests_per_s: float = 0.0
    reason: str | None = None
    leaving: bool = False
    downloaded_bytes: int | None = None
    download_bytes: int | None = None
    device: str | None = None
    accelerator_bytes: int | None = None


class ModelView(msgspec.Struct, frozen=True):
    """`serving`: the revision that answers requests without a version. `pending`: a newer one that
    waits to take over. `home`: the instance that decides about the model. `where`: its copies, on
    all instances; a version's `requests` are the sum over them, `size_bytes` is of one copy.
    `problem_code`: of the error that `problem` is, such as `NO_SUPPORTING_RUNTIME`."""

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
    home: str = ""
    where: list[CopyView] = []
    problem_code: str | None = None


class ModelPage(msgspec.Struct, frozen=True):
    """`next`: pass as `after` for the following page; None on the last. `total`: matches in all.
    `problems`: what is missing here, and why: instances that do not answer."""

    models: list[ModelView]
    total: int
    next: str | None = None
    problems: list[str] = []


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
    """Something that was decided or that happened. `seq` grows with every event of an instance: its
    time in microseconds, or as much more as makes it the next. `reason` is an enum's value (see
    `shoal.domain.reasons`). `instance`: where, if there are several."""

    seq: int
    time: float
    kind: str
    message: str
    model: str | None = None
    revision: str | None = None
    reason: str | None = None
    instance: str = ""


class EventPage(msgspec.Struct, frozen=True):
    """Oldest first. `next`: pass as `after` for what follows. `problems`: as in ModelPage."""

    events: list[EventView]
    next: int
    problems: list[str] = []


class FailureView(msgspec.Struct, frozen=True):
    """A revision that could not be loaded, on all instances that were tried. first_at, last_at: of
    such failures."""

    revision: str
    code: str
    message: str
    count: int
    first_at: float
    last_at: float
    next_try_at: float | None


class Story(msgspec.Struct, frozen=True):
    """Why a model is (not) loaded. `summary`: a few sentences, most important first. `events`: the
    last ones of the model, of all instances in order of time. `problems`: as in ModelPage."""

    model: ModelView
    summary: list[str]
    failures: list[FailureView]
    events: list[EventView]
    problems: list[str] = []


class PoolView(msgspec.Struct, frozen=True):
    """The memory of an accelerator of an instance, such as `cuda:0`. used_bytes: of copies that are
    loaded or leave; reserved_bytes: of loads in progress. besides_bytes: that frameworks hold there
    beyond the copies. copies: that lie there, ready."""

    name: str
    budget_bytes: int
    used_bytes: int = 0
    reserved_bytes: int = 0
    besides_bytes: int = 0
    copies: int = 0


class InstanceView(msgspec.Struct, frozen=True):
    """pressure: turnovers of the cache an hour; cache_age_s: time since the last use of the copy
    evicted last (None before the first eviction).

    zone, labels: as its settings say. load: processors in use over those it may use. homes: models
    it decides about at present. peer_address: where other instances reach it. unreachable_since:
    since when the instance that was asked cannot reach it; its figures are then the last ones
    heard. problem: why it cannot be reached, or what parts it from the registry. pools: of its
    accelerators.
    """

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
    zone: str = ""
    labels: dict[str, str] = {}
    load: float = 0.0
    homes: int = 0
    peer_address: str = ""
    unreachable_since: float | None = None
    problem: str | None = None
    pools: list[PoolView] = []


class Drained(msgspec.Struct, frozen=True):
    """Of an instance that was told to leave, or to come back. left: copies used lately that no
    other instance has loaded. ending: it ends now, by itself."""

    id: str
    state: str
    left: int
    took_s: float
    ending: bool = False


class Latency(msgspec.Struct, frozen=True):
    """Seconds, over the last five minutes and the requests of all instances together; None without
    requests."""

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
    """One line of `shoal top`: rates over the last minute. size_bytes: of all its copies.
    instances: that have one ready."""

    name: str
    state: State
    requests_per_s: float
    mean_latency_s: float | None
    size_bytes: int | None
    instances: list[str] = []


class Status(msgspec.Struct, frozen=True):
    """Of all instances together. ready: does one of them take requests? by_state: models by the
    best state that a copy of their default version has anywhere."""

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


class CredentialsView(msgspec.Struct, frozen=True):
    """Credentials by name: never a value. type: of the places they are for; empty while `problem`
    says why they cannot be used.

    fields: the names of those that are set. source: `registry`, or the file that has them.
    encrypted: in the registry; null for those of a file.
    """

    name: str
    type: str
    fields: list[str]
    source: str
    encrypted: bool | None = None
    problem: str | None = None


class CredentialsList(msgspec.Struct, frozen=True):
    """By name. problems: why some source of credentials cannot be read."""

    credentials: list[CredentialsView]
    problems: list[str] = []


class CredentialsDeleted(msgspec.Struct, frozen=True):
    """models: how many name them, or read with them by default. first: the names of ten."""

    name: str
    models: int
    first: list[str]


class RuntimeView(msgspec.Struct, frozen=True):
    """A serving runtime: what loads models. own: it is the instances themselves, called `shoal`;
    `declaration` and `created_at` are then null. priority of a format: of several runtimes that may
    load it, the one with the highest is chosen."""

    name: str
    formats: list[SupportedFormat]
    protocols: list[str]
    disabled: bool = False
    own: bool = False
    created_at: float | None = None
    declaration: ServingRuntime | None = None


class RuntimeList(msgspec.Struct, frozen=True):
    """The own one first, others by name. problems: why a record of the registry cannot be read."""

    runtimes: list[RuntimeView]
    problems: list[str] = []


class RuntimeDeleted(msgspec.Struct, frozen=True):
    """models: how many used it, and are served by another one as soon as one takes them. first: the
    names of ten."""

    name: str
    models: int
    first: list[str]
