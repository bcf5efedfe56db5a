"""Models as people declare them, and the immutable revisions that declarations become."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from shoal.domain.errors import InvalidSpecification
from shoal.domain.serving_runtime import OWN, PROTOCOLS, offer_of
from shoal.domain.signature import DATATYPES, TensorSpec

if TYPE_CHECKING:
    JsonValue: TypeAlias = (
        "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
    )
else:  # msgspec resolves annotations but takes no recursive alias; Any decodes just JSON's values
    JsonValue = Any

DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
# Characters that need no escaping in a URL path segment; Kubernetes names are a subset.
MODEL_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,253}")


class VersionPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which of a model's numeric versions are served. The highest served one is the default.

    `latest`: only the N highest; `specific`: only these; neither: all. As in Triton's
    `version_policy`.
    """

    latest: int | None = None
    specific: tuple[int, ...] | None = None

    def choose(self, versions: tuple[int, ...]) -> tuple[int, ...]:
        """The served ones among `versions`, ascending."""
        ordered = sorted(versions)
        if self.specific is not None:
            return tuple(v for v in ordered if v in self.specific)
        if self.latest is not None:
            return tuple(ordered[-self.latest :])
        return tuple(ordered)


class Placement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which instances may hold a model. required: labels that they must have, with these values.
    preferred: labels that are better to have. accelerator: a kind, such as `cuda`, that they must
    have, and on which the model runs. preferred_accelerator: the same where there is one; elsewhere
    it runs on the processor."""

    required: dict[str, str] = {}
    preferred: dict[str, str] = {}
    accelerator: str | None = None
    preferred_accelerator: str | None = None


class ModelSpec(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """What somebody declares: a registration, or a `model.yaml` beside the artifact.

    name: as in request paths; letters, digits, `_`, `.`, `-`.
    uri: of the artifact or of a folder in a known layout: a local path, or a URI of a place that
        Shoal reads from.
    credentials: name of the credentials to read it with; None: the default ones of such a place,
        or else those of the environment.
    format: `sklearn`, `onnx`, …; None: recognised from the files.
    digest: `sha256:` and 64 hex digits: what the artifact's content must be, as `sha256sum` tells
        of a file; None: whatever lies there when it is registered.
    trust: `code`: its artifact may run code when it is loaded, wherever it lies; `isolated`: the
        same, in a process of its own; `data`: it must not, even where it is trusted; None: as
        `trust.locations` says. A description beside the artifact cannot say it.
    runtime: the serving runtime that loads it, or `shoal` for the instance itself; None: chosen by
        format, version and protocol.
    format_version: of its format, as serving runtimes say it, such as `1` or `1.14`; None: any.
    protocol: `v1`, `v2` or `grpc-v2`: what its runtime must answer to; None: any.
    version_policy: which numeric version folders are served.
    inputs, outputs: replace what the framework says; empty: the framework's word.
    options: handed to the runtime, which documents them.
    pin: never evicted for room.
    priority: of two copies the one of lower priority leaves first, whatever their value.
    idle_ttl_s: unloaded after so many seconds without a request; None: the setting
        `cache.idle_ttl_s`.
    memory_bytes: taken as the copy's size instead of measuring it.
    accelerator_bytes: the same of what it takes on an accelerator.
    max_concurrency: calls at once into one copy; None: the runtime's default.
    max_batch_rows: rows of several requests that may run as one call; 1: none; None: what the
        runtime says, or `request.max_batch_rows` after a trial.
    max_batch_delay_ms: how long a request may wait for others to run with; None: the setting
        `request.max_batch_delay_ms`.
    optimize: `auto`: run in a faster form when there is one whose answers are the same within a
        tolerance; `off`: as its own framework runs it; None: the setting `load.optimize`.
    repeatable: an inference that may have run may be run again after a failure.
    min_copies: instances that hold it at all times, where there are so many.
    max_copies: instances that may hold it at once; None: as many as its use asks for.
    placement: which instances may hold it; None: any.
    labels: free text pairs, for filters.
    """

    name: str
    uri: str
    credentials: str | None = None
    format: str | None = None
    digest: str | None = None
    trust: Literal["data", "code", "isolated"] | None = None
    runtime: str | None = None
    format_version: str | None = None
    protocol: str | None = None
    version_policy: VersionPolicy = VersionPolicy()
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    options: dict[str, JsonValue] = {}
    pin: bool = False
    priority: int = 0
    idle_ttl_s: float | None = None
    memory_bytes: int | None = None
    accelerator_bytes: int | None = None
    max_concurrency: int | None = None
    max_batch_rows: int | None = None
    max_batch_delay_ms: float | None = None
    optimize: Literal["auto", "off"] | None = None
    repeatable: bool = True
    min_copies: int = 0
    max_copies: int | None = None
    placement: Placement | None = None
    labels: dict[str, str] = {}


class Revision(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """One immutable, loadable state of one version of a model.

    uri: where the artifact lies: a file, or the folder its framework reads. credentials, trust,
        format_version: as in ModelSpec.
    runtime: the serving runtime that was chosen; None: the instance itself loads it.
    artifact_digest: of the artifact's content; files_bytes: their size on disk, 0 while nobody has
        read them.
    accelerator: the kind that it runs on; accelerator_optional: where there is none, it runs on the
        processor.
    id: `<model>@<version>-<12 hex digits>`, a digest of all other fields; see `revision_id`.
    """

    id: str
    model: str
    version: int
    uri: str
    format: str
    artifact_digest: str
    files_bytes: int
    credentials: str | None = None
    trust: Literal["data", "code", "isolated"] | None = None
    runtime: str | None = None
    format_version: str | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    options: dict[str, JsonValue] = {}
    pin: bool = False
    priority: int = 0
    idle_ttl_s: float | None = None
    memory_bytes: int | None = None
    accelerator_bytes: int | None = None
    max_concurrency: int | None = None
    max_batch_rows: int | None = None
    max_batch_delay_ms: float | None = None
    optimize: Literal["auto", "off"] | None = None
    repeatable: bool = True
    accelerator: str | None = None
    accelerator_optional: bool = False

    @property
    def needs(self) -> str:
        """What an instance must offer to load it: its format, or its serving runtime."""
        return self.format if self.runtime is None else offer_of(self.runtime)


class ModelRecord(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """What the registry stores of a model, under `models/<name>`.

    revisions: the served ones, ascending by version; the last is the default. Empty when no
        artifact could be found; then `problem` says why.
    problem: why the newest state of the declaration is not (wholly) served. problem_code: of the
        error that says so.
    origin: `api`, or `folder:<path>` when a watched folder declared it.
    registered_at: seconds since the epoch.
    unloaded: versions that an operator took out of service; 0 stands for the whole model.
    """

    name: str
    spec: ModelSpec
    revisions: tuple[Revision, ...] = ()
    problem: str | None = None
    origin: str = "api"
    registered_at: float = 0.0
    unloaded: tuple[int, ...] = ()
    problem_code: str | None = None

    @property
    def out_of_service(self) -> set[int | None]:
        """The versions of `unloaded`; None stands for the whole model."""
        return {version or None for version in self.unloaded}


def make_revision(spec: ModelSpec, *, version: int, uri: str, format: str, artifact_digest: str,  # noqa: A002
                  files_bytes: int, inputs: tuple[TensorSpec, ...] = (),
                  outputs: tuple[TensorSpec, ...] = (),
                  options: dict[str, JsonValue] | None = None) -> Revision:
    """The revision that `spec` and one found version of its artifact determine, with its id.
    `spec.runtime` is the one that was chosen."""
    placement = spec.placement or Placement()
    draft = Revision(
        id="", model=spec.name, version=version, uri=uri, format=format,
        artifact_digest=artifact_digest, files_bytes=files_bytes, credentials=spec.credentials,
        trust=spec.trust, runtime=None if spec.runtime == OWN else spec.runtime,
        format_version=spec.format_version,
        inputs=spec.inputs or inputs, outputs=spec.outputs or outputs,
        options={**(options or {}), **spec.options},
        pin=spec.pin, priority=spec.priority, idle_ttl_s=spec.idle_ttl_s,
        memory_bytes=spec.memory_bytes, accelerator_bytes=spec.accelerator_bytes,
        max_concurrency=spec.max_concurrency,
        max_batch_rows=spec.max_batch_rows, max_batch_delay_ms=spec.max_batch_delay_ms,
        optimize=spec.optimize, repeatable=spec.repeatable,
        accelerator=placement.accelerator or placement.preferred_accelerator,
        accelerator_optional=placement.accelerator is None
        and placement.preferred_accelerator is not None,
    )
    return msgspec.structs.replace(draft, id=revision_id(draft))


def revision_id(revision: Revision) -> str:
    """`<model>@<version>-<12 hex digits of SHA-256 over every other field>`."""
    body = msgspec.json.encode(msgspec.structs.replace(revision, id=""), order="sorted")
    return f"{revision.model}@{revision.version}-{hashlib.sha256(body).hexdigest()[:12]}"


def check_spec(spec: ModelSpec) -> None:
    """Raise InvalidSpecification unless every field of `spec` can mean something."""
    check_name(spec.name)
    if not spec.uri:
        raise InvalidSpecification(
            f"model {spec.name!r}: 'uri' is empty; say where the artifact lies"
        )
    if spec.digest is not None and not DIGEST.fullmatch(spec.digest):
        raise InvalidSpecification(
            f"model {spec.name!r}: digest {spec.digest!r} is not 'sha256:' and 64 digits of 0-9, "
            "a-f; `sha256sum` prints them of a file"
        )
    _check_runtime(spec)
    policy = spec.version_policy
    if policy.latest is not None and policy.specific is not None:
        raise InvalidSpecification(
            f"model {spec.name!r}: version_policy has both 'latest' and 'specific'; keep one"
        )
    if policy.latest is not None and policy.latest < 1:
        raise InvalidSpecification(
            f"model {spec.name!r}: version_policy.latest is {policy.latest}; it must be at least 1"
        )
    for field, least in (
        ("idle_ttl_s", 0.0), ("memory_bytes", 1), ("accelerator_bytes", 1), ("max_concurrency", 1),
        ("max_batch_rows", 1), ("max_batch_delay_ms", 0.0), ("min_copies", 0), ("max_copies", 1),
    ):
        value = getattr(spec, field)
        if value is not None and value < least:
            raise InvalidSpecification(
                f"model {spec.name!r}: {field} is {value}; it must be at least {least}"
            )
    _check_placement(spec)
    if spec.max_copies is not None and spec.max_copies < spec.min_copies:
        raise InvalidSpecification(
            f"model {spec.name!r}: max_copies is {spec.max_copies}, less than min_copies, which is "
            f"{spec.min_copies}"
        )
    for tensor in (*spec.inputs, *spec.outputs):
        if tensor.datatype not in DATATYPES:
            raise InvalidSpecification(
                f"model {spec.name!r}: tensor {tensor.name!r} has the datatype "
                f"{tensor.datatype!r}; it must be one of {', '.join(DATATYPES)}"
            )
        if any(extent < -1 or extent == 0 for extent in tensor.shape):
            raise InvalidSpecification(
                f"model {spec.name!r}: tensor {tensor.name!r} has the shape {list(tensor.shape)}; "
                "each extent must be positive, or -1 for any"
            )


def _check_runtime(spec: ModelSpec) -> None:
    if spec.runtime is not None:
        check_name(spec.runtime, "runtime")
    if spec.protocol is not None and spec.protocol not in PROTOCOLS:
        raise InvalidSpecification(
            f"model {spec.name!r}: protocol {spec.protocol!r} is not one of {', '.join(PROTOCOLS)}"
        )
    if spec.format_version == "":
        raise InvalidSpecification(
            f"model {spec.name!r}: 'format_version' is empty; leave it out where any will do"
        )


def _check_placement(spec: ModelSpec) -> None:
    placement = spec.placement
    if placement is None:
        return
    if placement.accelerator is not None and placement.preferred_accelerator is not None:
        raise InvalidSpecification(
            f"model {spec.name!r}: placement has both 'accelerator' and 'preferred_accelerator'; "
            "keep the first where it must run on one, the second where it need not"
        )
    for field in ("accelerator", "preferred_accelerator"):
        kind = getattr(placement, field)
        if kind is not None and (not kind or ":" in kind):
            raise InvalidSpecification(
                f"model {spec.name!r}: placement.{field} is {kind!r}; name a kind, such as 'cuda': "
                "which one of several is chosen by the room there is"
            )


def check_name(name: str, of: str = "model") -> None:
    """Raise InvalidSpecification unless `name` can stand in a request path as it is. of: what has
    it."""
    if not MODEL_NAME.fullmatch(name):
        raise InvalidSpecification(
            f"{of} name {name!r} is not valid: use 1 to 254 letters, digits, '_', '.', '-', "
            "beginning with a letter, a digit or '_'"
        )
