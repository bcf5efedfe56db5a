"""Every setting of Shoal with its meaning, unit and default, in one immutable object.

Knows nothing of flags, environment or files; `reading` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr

from shoal.settings.kinds import Bytes, Folder, Group, Names, Port, Seconds, off
from shoal.settings.mesh import MeshSettings


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


class AcceleratorSettings(Group):
    """Accelerators (GPUs), on which models run that ask for it (`placement.accelerator`)."""

    devices: Annotated[Names, BeforeValidator(off)] = ("auto",)
    """Which are used (comma-separated), as frameworks name them, such as `cuda:0,cuda:1`. `auto`:
    all that NVIDIA's driver shows, which CUDA_VISIBLE_DEVICES limits; `off`: none. One that is
    named need not be found where `accelerator.memory` says how much it has."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the memory of each that models may fill where `accelerator.memory` is not set; of
    several workers, all together. The rest is for frameworks and for calls in progress, which take
    some beside the models."""

    memory: Bytes = 0
    """Budget for models on each, in bytes or with a unit (`20GiB`); 0: `accelerator.share` of what
    it has. Each of `workers` has its part."""


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

    retry_deadly_s: Seconds = 3600.0
    """Seconds until a revision is tried again that ended two instances while they loaded it, if
    nobody loads it by hand. An hour: each try may cost an instance."""

    max_wait_s: Seconds = 30.0
    """Seconds that a new load would have to wait in the queue, by the measured load times, beyond
    which the instance counts as thrashing while it is evicting, and refuses models worth less than
    those they would displace. Clients rarely wait longer."""

    optimize: Annotated[Literal["auto", "off"], BeforeValidator(off)] = "off"
    """Whether scikit-learn, XGBoost and LightGBM models are converted to ONNX once they are asked
    often; kept where sampled answers agree and are faster. A model's own `optimize` wins. Off:
    a converted model's answers may differ in the sixth digit, and it takes more memory."""


class RequestSettings(Group):
    """Handling inference requests."""

    timeout_s: Seconds = 60.0
    """Seconds a request may take when it carries no deadline of its own, cold start included. As
    KServe's default."""

    threads: Annotated[int, Field(ge=0)] = 0
    """Threads for models too slow for the event loop, of which each of `workers` has its part,
    rounded up; 0: four for each CPU that may be used, and at least 16 in each. A model uses only
    what its framework gains from, so that several slow ones leave threads for the others; an idle
    thread costs nothing."""

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
    """`sqlite`: a file in `data_dir`, survives restarts; `memory`: forgotten at the end;
    `etcd://host:2379,host2:2379/prefix`: an etcd of version 3.4 or later, by any of its members,
    for instances on several machines; `etcds://`: the same over TLS. Without a prefix, keys begin
    with `/shoal/`."""

    username: str = ""
    """User of etcd; empty: none."""

    password: SecretStr = SecretStr("")
    """That user's password. Better said in the environment, or in a file, than by the flag, which
    every user of the machine can read."""

    password_file: str = ""
    """File with that password, read again at every sign-in, so that a changed one counts."""

    ca_file: str = ""
    """Certificates of the authorities that sign those of etcd's members, in PEM; empty: the
    system's. Only with `etcds://`."""

    cert_file: str = ""
    """Certificate by which etcd knows this client, in PEM, with those that lead to its authority;
    empty: none."""

    key_file: str = ""
    """Private key of `cert_file`, in PEM."""

    timeout_s: Annotated[float, Field(gt=0)] = 5.0
    """Seconds that a request to etcd may take, whichever members it is tried at, and after which a
    silent watch asks for a sign of life. Elections end within two or three."""

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


class StorageSettings(Group):
    """Artifacts that lie elsewhere: in object stores, on web servers, in registries of models."""

    cache_dir: str = ""
    """Folder for what was downloaded, shared by the processes of this machine; empty:
    `artifacts` in `data_dir`."""

    cache_size: Bytes = 10 * 1024**3
    """What downloaded artifacts may take on disk, in bytes or with a unit; the least valuable ones
    that no model uses leave first."""

    credentials: Names = ()
    """Files or folders (comma-separated) with named credentials, in the shape of KServe's and
    ModelMesh's `storage-config`. Changes in them take effect without a restart."""

    credentials_key_file: str = ""
    """File with the keys that named credentials in the registry are encrypted with, the same for
    all instances: one a line, 32 bytes in base64 or hex, read at the start. The first encrypts, all
    decrypt. Empty: they are stored as they are, for whoever reads the registry to see."""

    connections: Annotated[int, Field(ge=1, le=256)] = 8
    """Connections at once for one download."""

    downloads: Annotated[int, Field(ge=1, le=256)] = 8
    """Models that are to be loaded whose files come at once. They take no place of
    `load.concurrency` meanwhile, but their room in memory is reserved."""

    part_size: Bytes = 16 * 1024**2
    """Larger files are downloaded in parts of this size, in bytes or with a unit, at once and
    resumed one by one. Smaller parts lose less when a connection is cut, larger ones ask less."""

    poll_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds between looks at a watched folder that lies elsewhere: each lists all of it."""

    ca_file: str = ""
    """Certificates of private authorities, in PEM, that are trusted at every place beside the
    system's; read at the start. Those of one place alone belong into its credentials."""

    insecure_registries: Names = ()
    """Registries of images (comma-separated, `host` or `host:port` as in the URI) that are asked
    without TLS, beside those of this machine. Empty: who is between could send other models."""


class TrustSettings(Group):
    """Artifacts that can run code when they load: pickle, joblib, Python classes."""

    locations: Names = ()
    """Folders and URIs (comma-separated) from which such artifacts may be loaded, beside those
    named on the command line. Empty: a registered path must be listed first."""

    skops_types: Names = ()
    """Types (comma-separated, full names) accepted in skops files beside its defaults."""

    scan: Annotated[Literal["off", "advise"], BeforeValidator(off)] = "off"
    """Whether picklescan looks into artifacts that can run code once they are declared, and says in
    events what it finds. It decides nothing. Off: it takes some 0.2 s of a processor a model at
    every start, and finds little in joblib files."""

    signatures: Annotated[Literal["off", "required"], BeforeValidator(off)] = "off"
    """Whether artifacts must be signed by one of `trust.public_keys` to be loaded, whatever their
    format and whoever registered them. Off: few are signed yet."""

    signed_locations: Names = ()
    """Folders and URIs (comma-separated) in which artifacts must be signed, where
    `trust.signatures` is `required`; empty: everywhere."""

    public_keys: Names = ()
    """Files (comma-separated) with the public keys that are trusted to sign models, in PEM:
    elliptic curve keys over P-256, P-384 or P-521, or certificates that hold one. Read at the
    start."""


class IsolationSettings(Group):
    """Models in processes of their own: those registered with `trust: isolated`, and Python models
    with a `requirements.txt`."""

    environments_dir: str = ""
    """Folder for the environments of models with requirements, shared by the processes of this
    machine; empty: `environments` in `data_dir`."""

    max_environments: Annotated[int, Field(ge=1)] = 16
    """Environments that are kept; of those that no model uses the one used longest ago leaves
    first. Some frameworks take gigabytes on disk."""

    memory_factor: Annotated[float, Field(ge=0)] = 4.0
    """A process may take so many times its model's size, as declared or measured after the load,
    and at least 512 MiB more than it has then; beyond, what asks for memory fails in it. While a
    model of undeclared size loads, its process may take the instance's whole budget. 0: no bound.
    Answers of some models need a multiple of the model."""

    start_timeout_s: Annotated[float, Field(gt=0)] = 180.0
    """Seconds until the process must have loaded its model; then it is killed. Less than
    `load.timeout_s`, after which nobody would wait for it."""

    call_timeout_s: Seconds = 120.0
    """Seconds in which a call must be answered; then the process is killed, and started again by
    the next request. 0: never. Twice `request.timeout_s`, so that nobody waits any more."""


class RecycleSettings(Group):
    """Processes replaced by fresh ones, for frameworks and models' code that leak or hang: workers,
    that is with `workers` above 1 or with `recycle.supervise`."""

    supervise: bool = False
    """Whether a single process (`workers` is 1) has a supervisor too, which starts it again when it
    dies and replaces it when it leaks. Off: it costs 31 MB, and containers and service managers
    start processes again as well, though requests fail meanwhile."""

    max_leak_share: Annotated[float, Field(ge=0)] = 0.5
    """Share of its budget, at least 64 MiB, that a process may hold beyond what its models are
    booked for, for `recycle.leak_s`; then it has leaked. A worker is replaced: its successor starts
    and loads what was used lately, then it leaves. Any other process says so, in events and
    problems. 0: never. Half, as the cache shrinks by as much before."""

    leak_s: Seconds = 600.0
    """Seconds for which it must hold that much all the time: requests in progress hold memory,
    too, and a successor costs loads. So a worker is replaced once in that time at most."""

    exit: bool = False
    """Whether a process without a supervisor of Shoal's ends in order when it has leaked, with
    status 75, for who started it (Kubernetes, systemd) to start it again. Others of its mesh take
    over what was used lately, and go one after the other. Off: without others, requests fail until
    it is back."""

    max_age_s: Seconds = 0.0
    """Seconds after which a worker is replaced, one at a time; 0: never."""

    max_growth: Bytes = 0
    """Bytes that a worker may grow beyond its budget for models and what it had when it was ready,
    in bytes or with a unit; then it is replaced, at most once a minute. 0: never."""

    hang_timeout_s: Seconds = 60.0
    """Seconds without a sign of life of a worker's event loop, after which the stacks of its
    threads are logged and it is ended with SIGABRT and started again; 0: never. Longer than any
    load that keeps the interpreter's lock. Time that a worker is stopped, by a signal or a
    debugger, does not count."""


class Settings(Group):
    """Everything together; immutable once read."""

    host: str = "127.0.0.1"
    """Address to listen on. Only this machine by default; 0.0.0.0 for all."""

    data_dir: Folder = Field(default=Path("~/.local/share/shoal"), validate_default=True)
    """Folder for the registry's file; created when missing."""

    memory: Bytes = 0
    """Budget for models in memory, in bytes or with a unit (`4GiB`); 0: `cache.share` of what this
    process may use."""

    workers: Annotated[int, Field(ge=0, le=256)] = 1
    """Processes that serve together on the same ports, each with its part of `memory`; 0: one for
    each processor that may be used. One by default: a process answers thousands of requests a
    second, and each costs memory for the frameworks it imports."""

    instance_id: str = ""
    """Name of this instance; empty: host name and a random suffix. Of several workers, what their
    names begin with."""

    shutdown_timeout_s: Seconds = 30.0
    """Seconds that running requests have to finish after SIGTERM. Kubernetes' grace period."""

    http: HttpSettings = HttpSettings()
    grpc: GrpcSettings = GrpcSettings()
    management: ManagementSettings = ManagementSettings()
    cache: CacheSettings = CacheSettings()
    accelerator: AcceleratorSettings = AcceleratorSettings()
    load: LoadSettings = LoadSettings()
    request: RequestSettings = RequestSettings()
    folder: FolderSettings = FolderSettings()
    registry: RegistrySettings = RegistrySettings()
    mesh: MeshSettings = MeshSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    recycle: RecycleSettings = RecycleSettings()
    isolation: IsolationSettings = IsolationSettings()
    storage: StorageSettings = StorageSettings()
    trust: TrustSettings = TrustSettings()
