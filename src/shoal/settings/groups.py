"""Every setting of Shoal with its meaning, unit and default, in one immutable object.

Knows nothing of flags, environment or files; `reading` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_UNITS: Final = {
    "": 1, "b": 1,
    "k": 1000, "kb": 1000, "m": 1000**2, "mb": 1000**2, "g": 1000**3, "gb": 1000**3,
    "t": 1000**4, "tb": 1000**4,
    "ki": 1024, "kib": 1024, "mi": 1024**2, "mib": 1024**2, "gi": 1024**3, "gib": 1024**3,
    "ti": 1024**4, "tib": 1024**4,
}


def parse_bytes(value: object) -> object:
    """`512MiB`, `2g`, `1.5 GB` or a number of bytes, to an int; anything else unchanged, for the
    validation that follows to refuse."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower().replace("_", "")
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = text[len(number) :].strip()
    if unit not in _UNITS:
        raise ValueError(f"{value!r} is not a size; write for example 512MiB, 2GiB or 1000000")
    try:
        return round(float(number) * _UNITS[unit])
    except (ValueError, OverflowError):
        raise ValueError(
            f"{value!r} is not a size; write for example 512MiB, 2GiB or 1000000"
        ) from None


def _comma_separated(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _off(value: object) -> object:
    """YAML 1.1 takes `off` for "no"."""
    return "off" if value is False else value


Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Port = Annotated[int, Field(ge=0, le=65535)]
Folder = Annotated[Path, AfterValidator(Path.expanduser)]
Names = Annotated[tuple[str, ...], BeforeValidator(_comma_separated)]


class Group(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class HttpSettings(Group):
    """Inference over HTTP."""

    port: Port = 8080
    """TCP port; 0 takes any free one. 8080 is what KServe's servers use."""

    max_header_bytes: Bytes = 32 * 1024
    """Bytes of the request line and all headers; more is answered 431. Four times what browsers
    and proxies send at most."""

    max_body_bytes: Bytes = 256 * 1024**2
    """Bytes of a request body, before and after decompression; more is answered 413. Room for a
    batch of images; the body lies in memory while it is handled."""

    max_connections: Annotated[int, Field(ge=1)] = 10_000
    """Open connections; the next one is answered 503 and closed. Each costs about 10 KiB."""

    idle_timeout_s: Seconds = 75.0
    """Seconds a connection may be idle between requests. Longer than the 60 s of common load
    balancers, so that they close first and never meet a closed connection."""

    read_timeout_s: Seconds = 30.0
    """Seconds without a byte in the middle of a request, after which it is answered 408: slow
    clients must not hold memory."""

    write_timeout_s: Seconds = 30.0
    """Seconds in which a client takes nothing of its answer, after which the connection is cut."""

    max_pipelined: Annotated[int, Field(ge=1)] = 64
    """Requests of one connection in progress at once; reading pauses beyond. Clients rarely
    pipeline more than a few."""


class GrpcSettings(Group):
    """Inference over gRPC."""

    port: Port = 8081
    """TCP port; 0 takes any free one. 8081 is what KServe's servers use."""

    max_header_bytes: Bytes = 32 * 1024
    """Bytes of a call's headers, decoded, each reckoned with 32 bytes more, as HTTP/2 does; more is
    answered 431. As over HTTP."""

    max_message_bytes: Bytes = 256 * 1024**2
    """Bytes of a message, before and after decompression; more is answered RESOURCE_EXHAUSTED. As
    `http.max_body_bytes`; what clients take from a server is their own setting, often 4 MiB."""

    max_connections: Annotated[int, Field(ge=1)] = 10_000
    """Open connections; the next one is closed with GOAWAY. Each costs about 30 KiB, most of it
    for header compression."""

    max_concurrent_streams: Annotated[int, Field(ge=1)] = 1_000
    """Calls of one connection in progress at once; clients keep further ones back. A client has one
    connection for all its threads, so this is above the 100 that are usual for browsers."""

    max_requests_per_stream: Annotated[int, Field(ge=1)] = 64
    """Requests of one ModelStreamInfer in progress at once; no more is read beyond. Enough to keep
    a model busy, few enough that other callers get their turn."""

    idle_timeout_s: Seconds = 3600.0
    """Seconds a connection may be without a call, after which it is closed with GOAWAY; 0: never.
    Clients open it again by themselves. An hour, as a new connection costs a call and an idle one
    little; load balancers spread callers anew then."""

    keepalive_s: Seconds = 300.0
    """Seconds without a byte from a client with calls in progress, after which it is sent a ping,
    so that a machine that vanished is noticed; 0: never. Much rarer than the ends that routers
    forget connections after, and a client that waits for a long answer costs one ping."""

    keepalive_timeout_s: Annotated[float, Field(gt=0)] = 20.0
    """Seconds for the answer to that ping, after which the connection is cut. grpcio's default."""

    read_timeout_s: Seconds = 30.0
    """Seconds without a byte in the middle of a request's message, or before a connection's first
    call, after which the call or the connection ends: slow clients must not hold memory."""

    write_timeout_s: Seconds = 30.0
    """Seconds in which a client takes nothing of its answers, after which the connection is cut."""


class ManagementSettings(Group):
    """The management API, metrics and health, for operators."""

    port: Port = 8082
    """TCP port; 0 takes any free one. Apart from inference, so that it can be guarded apart."""

    host: str = ""
    """Address to listen on; empty means the value of `host`."""


class CacheSettings(Group):
    """Which models stay in memory."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of the memory this process may use (the smaller of the machine's and its cgroup's) that
    models may fill when `memory` is not set. The rest is for requests, frameworks and loading."""

    eviction: Literal["gdsf", "lru"] = "gdsf"
    """What leaves when room is needed: `gdsf`, least value a byte (uses x reload time / bytes,
    aged), or `lru`, for comparison. GDSF had 6 to 64 % fewer cold starts in every trace
    measured."""

    cold_start_cost_s: Seconds = 0.25
    """Seconds that a cold start is reckoned to cost beyond the load itself, in the value of a copy.
    0 minimises waiting alone, larger values the number of cold starts."""

    fill: Literal["recent", "all", "none"] = "all"
    """What free memory is filled with, at the lowest priority, most recently used first: models
    that were ever used (`recent`), every registered one (`all`), or nothing until asked."""

    fill_share: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Share of the budget that filling may use: the rest takes requested models without an
    eviction."""

    idle_ttl_s: Seconds = 0.0
    """Seconds without a request after which a copy is unloaded; 0: never. A model's own value wins.
    Off, because free memory serves nobody."""


class LoadSettings(Group):
    """Getting models into memory."""

    concurrency: Annotated[int, Field(ge=1)] = 2
    """Loads at once. Loading is mostly parsing under the interpreter's lock, so more only helps
    when the disk is slow."""

    timeout_s: Annotated[float, Field(gt=0)] = 240.0
    """Seconds a load may take; then it counts as failed, and others get its place, whether it ends
    or hangs. ModelMesh's value."""

    max_waiting: Annotated[int, Field(ge=1)] = 10_000
    """Requests that may wait for loads, over all models; the next is answered 503. A waiting
    request costs its body and about 1 KiB."""

    max_waiting_per_model: Annotated[int, Field(ge=1)] = 2_000
    """Requests that may wait for one model's load; the next is answered 503."""

    retry_base_s: Seconds = 2.0
    """Seconds until a failed load is tried again; doubled with every further failure. Short, since
    half-written files heal in seconds."""

    retry_max_s: Seconds = 300.0
    """Seconds between tries at most: an outage that ends is noticed within five minutes."""

    max_wait_s: Seconds = 30.0
    """Seconds that a new load would have to wait in the queue, by the measured load times, beyond
    which the instance counts as thrashing while it is evicting, and refuses models worth less than
    those they would displace. Clients rarely wait longer."""

    optimize: Annotated[Literal["auto", "off"], BeforeValidator(_off)] = "off"
    """Whether scikit-learn, XGBoost and LightGBM models are converted to ONNX once they are asked
    often; kept where sampled answers agree and are faster. A model's own `optimize` wins. Off:
    a converted model's answers may differ in the sixth digit, and it takes more memory."""


class RequestSettings(Group):
    """Handling inference requests."""

    timeout_s: Seconds = 60.0
    """Seconds a request may take when it carries no deadline of its own, cold start included. As
    KServe's default."""

    threads: Annotated[int, Field(ge=0)] = 0
    """Threads for models too slow for the event loop; 0: four for each CPU this process may use,
    and at least 16. Each model uses only what its framework gains from, so that several slow ones
    leave threads for the others; an idle thread costs nothing."""

    thread_niceness: Annotated[int, Field(ge=0, le=19)] = 5
    """How much less of the processors threads that run and load models get than the event loop, as
    nice(1) counts, where both want the same one. With 5, the 99th percentile of a fast model beside
    one that computes is 3 ms instead of 5, with 10 it is 2 ms; but such threads also give way to
    other programs in the same control group, and what waits for them takes longer."""

    inline_limit_ms: Annotated[float, Field(ge=0)] = 0.25
    """A model whose calls take less, in milliseconds, runs on the event loop: a hop to a thread
    costs more than such a call gains. 0 never runs inline."""

    max_queued_per_model: Annotated[int, Field(ge=1)] = 1_000
    """Requests that may wait for a busy copy; the next is answered 429. At 10 ms a call the last
    one waits ten seconds."""

    max_batch_rows: Annotated[int, Field(ge=1)] = 64
    """Rows of several requests that may run as one call, where a model allows it and it pays; 1:
    none. A model's own value wins. At 64 hardly anything is left of what a call costs beside its
    rows, and nobody waits long for the others."""

    max_batch_delay_ms: Annotated[float, Field(ge=0)] = 0.0
    """How long a request may wait for others to run with, in milliseconds. 0: only what waits
    anyway, while the model is busy, runs together. A model's own value wins."""

    framework_threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads a framework may use for one call; 0: one, which measures best when many small
    models share the CPUs."""

    repository_control: bool = False
    """Whether the public port takes the repository extension's load and unload. Off: what changes
    state belongs to the management port."""


class FolderSettings(Group):
    """Folders of models given to `shoal serve`."""

    watch: bool = True
    """Whether changes in the folders take effect without a restart."""

    settle_s: Seconds = 1.0
    """Seconds a model's files must stay unchanged before they are read, so that no half-copied file
    is. Copies over slow networks may want more."""

    poll_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds between full scans, beside the file system's notices: some mounts give none."""


class RegistrySettings(Group):
    """Where declarations are kept."""

    url: str = "sqlite"
    """`sqlite`: a file in `data_dir`, survives restarts; `memory`: forgotten at the end."""

    usage_interval_s: Annotated[float, Field(gt=0)] = 60.0
    """Seconds between saves of when models were last used, which orders loading after a restart."""


class LogSettings(Group):
    """What is logged, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is written."""

    format: Literal["auto", "console", "json"] = "auto"
    """`console` for people, `json` for machines; `auto`: console on a terminal, else json."""

    requests: bool = False
    """Whether each request is logged. Off: at full speed a log line costs more than a small
    inference."""


class MetricsSettings(Group):
    """Prometheus metrics, at /metrics of the management port."""

    per_model: bool = True
    """Whether series carry the model's name."""

    max_models: Annotated[int, Field(ge=0)] = 1_000
    """Models with series of their own; those that come later share `model="_other"`. A series costs
    a few KiB here and in Prometheus."""


class TrustSettings(Group):
    """Artifacts that can run code when they load: pickle, joblib, Python classes."""

    locations: Names = ()
    """Folders (comma-separated) from which such artifacts may be loaded, beside those named on the
    command line. Empty: a registered path must be listed first."""

    skops_types: Names = ()
    """Types (comma-separated, full names) accepted in skops files beside its defaults."""


class Settings(Group):
    """Everything together; immutable once read."""

    host: str = "127.0.0.1"
    """Address to listen on. Only this machine by default; 0.0.0.0 for all."""

    data_dir: Folder = Field(default=Path("~/.local/share/shoal"), validate_default=True)
    """Folder for the registry's file; created when missing."""

    memory: Bytes = 0
    """Budget for models in memory, in bytes or with a unit (`4GiB`); 0: `cache.share` of what this
    process may use."""

    instance_id: str = ""
    """Name of this instance; empty: host name and a random suffix."""

    shutdown_timeout_s: Seconds = 30.0
    """Seconds that running requests have to finish after SIGTERM. Kubernetes' grace period."""

    http: HttpSettings = HttpSettings()
    grpc: GrpcSettings = GrpcSettings()
    management: ManagementSettings = ManagementSettings()
    cache: CacheSettings = CacheSettings()
    load: LoadSettings = LoadSettings()
    request: RequestSettings = RequestSettings()
    folder: FolderSettings = FolderSettings()
    registry: RegistrySettings = RegistrySettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    trust: TrustSettings = TrustSettings()
