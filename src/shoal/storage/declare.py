"""Turns a specification into the record that the registry keeps: what can be served of it, and why
the rest cannot.

Reads files through `layout`, `artifact` and `digest`; stores and loads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import msgspec

from shoal.domain.errors import (
    ArtifactChanged,
    ArtifactMissing,
    InvalidSpecification,
    ShoalError,
    ShuttingDown,
)
from shoal.domain.model import ModelRecord, ModelSpec, Revision, check_spec, make_revision
from shoal.storage.artifact import find_artifact
from shoal.storage.description import complete, merge
from shoal.storage.digest import Content, read_content
from shoal.storage.files import readable_name
from shoal.storage.formats import FormatFinder, check_format, check_runtime, chosen_runtime
from shoal.storage.layout import Layout, look
from shoal.storage.uri import is_remote, local_path


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a declaration takes what it needs from.

    read: gives an artifact's content; `folder` passes one that remembers. fetch: sees that the
    files at a path are there; uri_of: the URI of what lies at a path. elsewhere: None: only what
    lies on this machine, or in one remote place.
    """

    finder: FormatFinder
    read: Callable[[Path], Content] = read_content
    fetch: Callable[[Path], None] = lambda _: None
    uri_of: Callable[[Path], str] = str
    elsewhere: Elsewhere | None = None


class Elsewhere(Protocol):
    """Shows what lies at a remote URI as if it lay here; `fetching` does."""

    def check(self, uri: str) -> None:
        """Raise InvalidSpecification for a URI of no place that is known."""

    def staged(
        self, uri: str, credentials: str | None, finder: FormatFinder
    ) -> AbstractContextManager[tuple[Path, Sources]]:
        """A path that shows what lies at `uri`, and what a declaration of it takes. Raises as
        `places` do."""


def declare(spec: ModelSpec, finder: FormatFinder, *, registered_at: float,
            elsewhere: Elsewhere | None = None) -> ModelRecord:
    """Find all that `spec` declares and can be served. Blocking: reads every byte of it.

    What `spec` leaves at its default is taken from a description beside the artifact, if there is
    one. Versions that cannot be served are left out when others can, and `problem` says why; a
    policy of the latest N takes the latest N that can. While one changes, nothing can be said.

    registered_at: seconds since the epoch, kept as it is.
    Raises InvalidSpecification, ArtifactMissing, UnknownFormat, ArtifactChanged or, for want of a
    runtime, as `choosing.choose` when nothing can be served, and as `places` do. elsewhere: None:
    only what lies on this machine.
    """
    try:
        check_spec(spec)
        if elsewhere is not None and is_remote(spec.uri):
            where = elsewhere.staged(spec.uri, spec.credentials, finder)
        else:
            where = nullcontext(
                (local_path(spec.uri), Sources(finder, elsewhere=elsewhere)))
        with where as (path, sources):
            return declare_found(
                spec, look(path, finder), sources, origin="api", registered_at=registered_at)
    except ShoalError as error:
        raise about_model(spec.name, error) from error


def declare_unread(spec: ModelSpec, finder: FormatFinder, *, registered_at: float,
                   elsewhere: Elsewhere | None = None) -> ModelRecord:
    """What `spec` declares, without a look at its files: its format and digest are taken at their
    word until it is loaded, when other files are refused. `uri` is the artifact itself, of version
    1 unless the version policy names one.

    Raises InvalidSpecification when `spec` does not say so much.
    """
    try:
        check_spec(spec)
        if spec.format is None or spec.digest is None:
            missing = "'format'" if spec.digest is not None else (
                "'digest'" if spec.format is not None else "'format' and 'digest'")
            raise InvalidSpecification(
                f"its files are not to be read now, and {missing} would have to be read from "
                "them; say what they are, or let them be read"
            )
        check_runtime(spec, finder)
        check_format(spec.format, finder)
        chosen = spec.version_policy.specific or (1,)
        if len(chosen) != 1:
            raise InvalidSpecification(
                "its files are not to be read now, which is possible for one version only; name "
                "one in version_policy.specific, or let them be read"
            )
        if elsewhere is not None and is_remote(spec.uri):
            elsewhere.check(spec.uri)
            uri = spec.uri
        else:
            uri = str(local_path(spec.uri))
        with _storable():
            revision = make_revision(
                _choosing(spec, spec.format, finder), version=chosen[0], uri=uri,
                format=spec.format, artifact_digest=spec.digest, files_bytes=0,
            )
            return ModelRecord(
                name=spec.name, spec=spec, revisions=(revision,), registered_at=registered_at
            )
    except ShoalError as error:
        raise about_model(spec.name, error) from error


def declare_found(spec: ModelSpec, layout: Layout, sources: Sources, *, origin: str,
                  registered_at: float) -> ModelRecord:
    """As `declare`, for a layout at hand; errors do not name the model."""
    full = complete(spec, layout.described.spec) if layout.described else spec
    check_spec(full)
    if layout.remote:
        with _followed(layout, full.credentials, sources) as (layout, sources):
            return declare_found(
                spec, layout, sources, origin=origin, registered_at=registered_at)
    good, broken = _served(full, layout, sources)
    if not good:
        if len(broken) == 1 and list(layout.versions) == list(broken):
            raise next(iter(broken.values()))
        raise _nothing(layout, broken)
    record = ModelRecord(
        name=spec.name, spec=spec, origin=origin, registered_at=registered_at,
        revisions=tuple(good[version] for version in sorted(good)),
        problem=_problem(broken),
        problem_code=next((each.code for each in broken.values()), None),
    )
    with _storable():
        msgspec.json.encode(record)
    return record


@contextmanager
def _followed(
    layout: Layout, credentials: str | None, sources: Sources
) -> Iterator[tuple[Layout, Sources]]:
    """What lies where a description leads, which is not on this machine."""
    assert layout.described is not None
    if sources.elsewhere is None:
        raise InvalidSpecification(
            f"{layout.described.source} leads to {layout.remote}, which a description at a remote "
            "place must not; register that place itself"
        )
    with sources.elsewhere.staged(layout.remote, credentials, sources.finder) as (path, there):
        inner = look(path, sources.finder)
        outer = msgspec.structs.replace(layout.described.spec, uri="")
        described = replace(layout.described, spec=outer)
        if inner.described is not None:
            described = merge(described, inner.described)
        yield replace(inner, described=described), there


def _served(spec: ModelSpec, layout: Layout, sources: Sources
            ) -> tuple[dict[int, Revision], dict[int, ShoalError]]:
    """The chosen versions by number; and those that were chosen, but cannot be served."""
    good: dict[int, Revision] = {}
    broken: dict[int, ShoalError] = {}
    for version in spec.version_policy.specific or ():
        if version not in layout.versions:
            broken[version] = ArtifactMissing(f"there is no folder {layout.path / str(version)}")
    while True:
        usable = tuple(version for version in layout.versions if version not in broken)
        todo = [v for v in spec.version_policy.choose(usable) if v not in good]
        if not todo:
            return good, broken
        for version in todo:
            try:
                good[version] = _revision(spec, version, layout, sources)
            except (ArtifactChanged, ShuttingDown):
                raise  # it passes, and then all versions can be told together
            except ShoalError as error:
                broken[version] = error


def _revision(spec: ModelSpec, version: int, layout: Layout, sources: Sources) -> Revision:
    place = layout.versions[version]
    check_runtime(spec, sources.finder)
    sources.fetch(place)
    found = find_artifact(place, sources.finder, spec.format, layout.described)
    spec = _choosing(spec, found.format, sources.finder)
    content = sources.read(found.path)
    if spec.digest is not None and content.digest != spec.digest:
        raise InvalidSpecification(
            f"{readable_name(found.path)} has the digest {content.digest} and not {spec.digest}, "
            "which is declared; put the right file there, or correct 'digest'"
        )
    with _storable():
        return make_revision(
            spec, version=version, uri=sources.uri_of(found.path), format=found.format,
            artifact_digest=content.digest, files_bytes=content.files_bytes,
            inputs=found.inputs, outputs=found.outputs,
        )


def _choosing(spec: ModelSpec, form: str, finder: FormatFinder) -> ModelSpec:
    """With the runtime that was chosen for the format."""
    return msgspec.structs.replace(spec, runtime=chosen_runtime(spec, form, finder))


def _problem(broken: Mapping[int, ShoalError]) -> str | None:
    if not broken:
        return None
    return "; ".join(f"version {number} is not served: {broken[number].message}"
                     for number in sorted(broken))


def _nothing(layout: Layout, broken: Mapping[int, ShoalError]) -> ShoalError:
    """Retryable when any of the reasons is, so that what may heal by itself is tried again."""
    if not broken:
        return InvalidSpecification(
            f"{layout.path}: the version_policy chooses none of the versions there "
            f"({', '.join(map(str, layout.versions))}); name one of them"
        )
    kind = next((e for e in broken.values() if e.retryable), next(iter(broken.values())))
    return kind.worded(f"no version can be served: {_problem(broken)}")


@contextmanager
def _storable() -> Iterator[None]:
    """What JSON cannot carry is the declaration's fault: numbers over 64 bits, names that are not
    UTF-8."""
    try:
        yield
    except (OverflowError, UnicodeEncodeError) as error:
        raise InvalidSpecification(
            f"something declared for it cannot be stored ({error}); names must be UTF-8 and "
            "numbers fit in 64 bits"
        ) from error


def about_model(name: str, error: ShoalError) -> ShoalError:
    """The same error, its message beginning with the model it concerns and fit to be shown."""
    prefix = f"model {name!r}"
    message = error.message
    if not message.startswith((prefix, "model name")):
        message = f"{prefix}: {message}"
    return error.worded(readable_name(message))
