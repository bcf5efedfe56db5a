"""Turns a specification into the record that the registry keeps: what can be served of it, and why
the rest cannot.

Reads files through `layout`, `artifact` and `digest`; stores and loads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
from shoal.storage.description import complete
from shoal.storage.digest import Content, read_content
from shoal.storage.files import readable_name
from shoal.storage.formats import FormatFinder, check_format
from shoal.storage.layout import Layout, look
from shoal.storage.uri import local_path


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a declaration takes what it needs from.

    read: gives an artifact's content; `folder` passes one that remembers.
    """

    finder: FormatFinder
    read: Callable[[Path], Content] = read_content


def declare(spec: ModelSpec, finder: FormatFinder, *, origin: str = "api",
            registered_at: float) -> ModelRecord:
    """Find all that `spec` declares and can be served. Blocking: reads every byte of it.

    What `spec` leaves at its default is taken from a description beside the artifact, if there is
    one. Versions that cannot be served are left out when others can, and `problem` says why; a
    policy of the latest N takes the latest N that can. While one changes, nothing can be said.

    registered_at: seconds since the epoch, kept as it is.
    Raises InvalidSpecification, ArtifactMissing, UnknownFormat or ArtifactChanged when nothing can
    be served.
    """
    try:
        check_spec(spec)
        layout = look(local_path(spec.uri), finder)
        return declare_found(spec, layout, Sources(finder), origin=origin,
                             registered_at=registered_at)
    except ShoalError as error:
        raise about_model(spec.name, error) from error


def declare_unread(spec: ModelSpec, finder: FormatFinder, *, registered_at: float) -> ModelRecord:
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
        check_format(spec.format, finder)
        chosen = spec.version_policy.specific or (1,)
        if len(chosen) != 1:
            raise InvalidSpecification(
                "its files are not to be read now, which is possible for one version only; name "
                "one in version_policy.specific, or let them be read"
            )
        with _storable():
            revision = make_revision(
                spec, version=chosen[0], uri=str(local_path(spec.uri)), format=spec.format,
                artifact_digest=spec.digest, files_bytes=0,
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
    good, broken = _served(full, layout, sources)
    if not good:
        if len(broken) == 1 and list(layout.versions) == list(broken):
            raise next(iter(broken.values()))
        raise _nothing(layout, broken)
    record = ModelRecord(
        name=spec.name, spec=spec, origin=origin, registered_at=registered_at,
        revisions=tuple(good[version] for version in sorted(good)),
        problem=_problem(broken),
    )
    with _storable():
        msgspec.json.encode(record)
    return record


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
    found = find_artifact(place, sources.finder, spec.format, layout.described)
    content = sources.read(found.path)
    if spec.digest is not None and content.digest != spec.digest:
        raise InvalidSpecification(
            f"{readable_name(found.path)} has the digest {content.digest} and not {spec.digest}, "
            "which is declared; put the right file there, or correct 'digest'"
        )
    with _storable():
        return make_revision(
            spec, version=version, uri=str(found.path), format=found.format,
            artifact_digest=content.digest, files_bytes=content.files_bytes,
        )


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
    return type(kind)(f"no version can be served: {_problem(broken)}")


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
    return type(error)(readable_name(message))
