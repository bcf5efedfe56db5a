"""Reads one entry of a watched folder: the record it declares, or why it declares none.

Blocking. Remembers nothing, and compares with nothing that was there before.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from shoal.domain.errors import (
    ArtifactChanged,
    InvalidSpecification,
    ShoalError,
    ShuttingDown,
    UnknownFormat,
)
from shoal.domain.model import ModelRecord, check_name
from shoal.storage.artifact import is_text
from shoal.storage.declare import Sources, about_model, declare_found
from shoal.storage.files import readable_name
from shoal.storage.layout import Layout, look, spec_for_child


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of reading an entry: a record, or a problem, or neither when there is no model.

    name: what the entry calls its model; None: that could not be found out.
    beside: a path outside the entry whose change is the entry's.
    problem_code: of the error that the problem is.
    retry: it may come right though no file changes.
    changed: it changed while it was read, or reading ended early: nothing else here counts.
    """

    entry: str
    name: str | None = None
    record: ModelRecord | None = None
    problem: str | None = None
    beside: tuple[Path, ...] = ()
    retry: bool = False
    changed: bool = False
    problem_code: str | None = None


def read_entry(entry: str, path: Path, sources: Sources, *, origin: str, registered_at: float
               ) -> Outcome:
    """What `path`, the entry's file or folder, declares now. Raises nothing."""
    name: str | None = None
    beside: tuple[Path, ...] = ()
    try:
        _check_text(entry)
        layout = look(path, sources.finder)
        beside = _beside(layout)
        spec = spec_for_child(layout, sources.uri_of(path))
        name = spec.name
        check_name(name)
        record = declare_found(spec, layout, sources, origin=origin, registered_at=registered_at)
    except (ArtifactChanged, ShuttingDown):
        return Outcome(entry, changed=True)
    except ShoalError as error:
        if not os.path.lexists(path):
            return Outcome(entry, changed=True)
        if isinstance(error, UnknownFormat) and path.is_file() and is_text(entry):
            return Outcome(entry)
        problem = about_model(name or entry, error).message
        return Outcome(entry, name and readable_name(name), problem=problem, beside=beside,
                       retry=error.retryable, problem_code=error.code)
    return Outcome(entry, name, record, beside=beside, retry=record.problem is not None)


def _beside(layout: Layout) -> tuple[Path, ...]:
    return () if layout.place.is_relative_to(layout.path) else (layout.place,)


def _check_text(entry: str) -> None:
    try:
        entry.encode()
    except UnicodeEncodeError as error:
        raise InvalidSpecification(
            f"the name {readable_name(entry)!r} is not UTF-8; rename it"
        ) from error
