"""Models as people declare them, and the immutable revisions that declarations become."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from shoal.domain.errors import InvalidSpecification
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


class ModelSpec(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """What somebody declares: a registration, or a `model.yaml` beside the artifact.

    name: as in request paths; letters, digits, `_`, `.`, `-`.
    uri: a local path or `file://` URI of the artifact or of a folder in a known layout.
    format: `sklearn`, `onnx`, …; None: recognised from the files.
    digest: `sha256:` and 64 hex digits: what the artifact's content must be, as `sha256sum` tells
        of a file; None: whatever lies there when it is registered.
    version_policy: which numeric version folders are served.
    inputs, outputs: replace what the framework says; empty: the framework's word.
    options: handed to the runtime, which documents them.
    pin: never evicted for room.
    priority: of two copies the one of lower priority leaves first, whatever their value.
    idle_ttl_s: unloaded after so many seconds without a request; None: the setting
        `cache.idle_ttl_s`.
    memory_bytes: taken as the copy's size instead of measuring it.
    max_concurrency: calls at once into one copy; None: the runtime's default.
    max_batch_rows: rows of several requests that may run as one call; 1: none; None: what the
        runtime says, or `request.max_batch_rows` after a trial.
    max_batch_delay_ms: how long a request may wait for others to run with; None: the setting
        `request.max_batch_delay_ms`.
    optimize: `auto`: run in a faster form when there is one whose answers are the same within a
        tolerance; `off`: as its own framework runs it; None: the setting `load.optimize`.
    repeatable: an inference that may have run may be run again after a failure.
    labels: free text pairs, for filters.
    """

    name: str
    uri: str
    format: str | None = None
    digest: str | None = None
    version_policy: VersionPolicy = VersionPolicy()
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    options: dict[str, JsonValue] = {}
    pin: bool = False
    priority: int = 0
    idle_ttl_s: float | None = None
    memory_bytes: int | None = None
    max_concurrency: int | None = None
    max_batch_rows: int | None = None
    max_batch_delay_ms: float | None = None
    optimize: Literal["auto", "off"] | None = None
    repeatable: bool = True
    labels: dict[str, str] = {}


class Revision(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """One immutable, loadable state of one version of a model.

    uri: where the artifact lies: a file, or the folder its framework reads.
    artifact_digest: of the artifact's content; files_bytes: their size on disk, 0 while nobody has
        read them.
    id: `<model>@<version>-<12 hex digits>`, a digest of all other fields; see `revision_id`.
    """

    id: str
    model: str
    version: int
    uri: str
    format: str
    artifact_digest: str
    files_bytes: int
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    options: dict[str, JsonValue] = {}
    pin: bool = False
    priority: int = 0
    idle_ttl_s: float | None = None
    memory_bytes: int | None = None
    max_concurrency: int | None = None
    max_batch_rows: int | None = None
    max_batch_delay_ms: float | None = None
    optimize: Literal["auto", "off"] | None = None
    repeatable: bool = True


class ModelRecord(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """What the registry stores of a model, under `models/<name>`.

    revisions: the served ones, ascending by version; the last is the default. Empty when no
        artifact could be found; then `problem` says why.
    problem: why the newest state of the declaration is not (wholly) served.
    origin: `api`, or `folder:<path>` when a watched folder declared it.
    registered_at: seconds since the epoch.
    """

    name: str
    spec: ModelSpec
    revisions: tuple[Revision, ...] = ()
    problem: str | None = None
    origin: str = "api"
    registered_at: float = 0.0


def make_revision(spec: ModelSpec, *, version: int, uri: str, format: str, artifact_digest: str,  # noqa: A002
                  files_bytes: int, inputs: tuple[TensorSpec, ...] = (),
                  outputs: tuple[TensorSpec, ...] = (),
                  options: dict[str, JsonValue] | None = None) -> Revision:
    """The revision that `spec` and one found version of its artifact determine, with its id."""
    draft = Revision(
        id="", model=spec.name, version=version, uri=uri, format=format,
        artifact_digest=artifact_digest, files_bytes=files_bytes,
        inputs=spec.inputs or inputs, outputs=spec.outputs or outputs,
        options={**(options or {}), **spec.options},
        pin=spec.pin, priority=spec.priority, idle_ttl_s=spec.idle_ttl_s,
        memory_bytes=spec.memory_bytes, max_concurrency=spec.max_concurrency,
        max_batch_rows=spec.max_batch_rows, max_batch_delay_ms=spec.max_batch_delay_ms,
        optimize=spec.optimize, repeatable=spec.repeatable,
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
        ("idle_ttl_s", 0.0), ("memory_bytes", 1), ("max_concurrency", 1), ("max_batch_rows", 1),
        ("max_batch_delay_ms", 0.0),
    ):
        value = getattr(spec, field)
        if value is not None and value < least:
            raise InvalidSpecification(
                f"model {spec.name!r}: {field} is {value}; it must be at least {least}"
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


def check_name(name: str) -> None:
    """Raise InvalidSpecification unless `name` can stand in a request path as it is."""
    if not MODEL_NAME.fullmatch(name):
        raise InvalidSpecification(
            f"model name {name!r} is not valid: use 1 to 254 letters, digits, '_', '.', '-', "
            "beginning with a letter, a digit or '_'"
        )
