"""Chooses the artifact among the files of one version, or says which choice is missing.

Reads names, and the first bytes of files through the finder; knows nothing of versions.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from shoal.domain.errors import ArtifactMissing, InvalidSpecification, UnknownFormat
from shoal.storage.description import Description
from shoal.storage.files import SIGNATURE_SUFFIX, ignored, readable_name, reading
from shoal.storage.formats import (
    FormatFinder,
    Found,
    check_format,
    describe_formats,
    folder_format,
)
from shoal.storage.layout import DESCRIPTION_NAMES
from shoal.storage.mlmodel import native
from shoal.storage.names import some

MAX_ENTRIES: Final = 1_000
"""Names in a folder among which an artifact is looked for; in a larger one it must be named."""

_TEXT_STEMS: Final = ("readme", "license", "licence", "notice", "changelog")
_TEXT_SUFFIXES: Final = (".md", ".rst", ".txt")


def is_text(name: str) -> bool:
    """Is a file of this name written for people? It may still be an artifact: LightGBM's are
    `.txt`, and then they are recognised."""
    lower = name.lower()
    return lower.endswith(_TEXT_SUFFIXES) or lower.split(".")[0] in _TEXT_STEMS


def find_artifact(place: Path, finder: FormatFinder, wanted: str | None = None,
                  described: Description | None = None) -> Found:
    """The one artifact at `place`, a file or folder. Blocking.

    wanted: the format that was given; None: recognised from the files.
    described: may name the file.
    Raises ArtifactMissing when nothing is there, UnknownFormat when nothing is recognised,
    InvalidSpecification when there are several.
    """
    if wanted is not None:
        check_format(wanted, finder)
    with reading(place):
        if place.is_dir():
            return _in_folder(place, finder, wanted, described)
        place.stat()
        return _file(place, finder, wanted)


def _file(path: Path, finder: FormatFinder, wanted: str | None) -> Found:
    if not path.is_file():
        raise InvalidSpecification(
            f"{readable_name(path)} is neither a file nor a folder; point to the artifact"
        )
    found = wanted or finder.recognise(path)
    if found is None:
        raise UnknownFormat(
            f"{readable_name(path)} is of no known format; known are {describe_formats(finder)}; "
            "give 'format' if it is one of them"
        )
    return Found(path, found)


def _in_folder(folder: Path, finder: FormatFinder, wanted: str | None,
               described: Description | None) -> Found:
    names = _names(folder)
    named = _named(folder, described)
    if named is not None:
        return _with_folder(find_artifact(named, finder, wanted), folder, finder, names)
    if wanted is not None and wanted not in finder.formats():
        return _of_server(wanted, folder, names)
    framework = native(folder, finder)
    if framework is not None and wanted in (None, framework.format):
        return framework
    whole = folder_format(folder, finder)
    if whole is not None and wanted in (None, whole):
        lone = folder / names[0] if len(names) == 1 else None
        if lone is not None and lone.is_file() and finder.recognise(lone) == whole:
            return Found(lone, whole)
        return Found(folder, whole)
    if len(names) > MAX_ENTRIES:
        raise InvalidSpecification(
            f"{folder} holds more than {MAX_ENTRIES:,} files and folders; name the artifact with "
            "'uri' in a model.yaml there"
        )
    candidates = _candidates(folder, names, finder)
    if wanted is not None:
        candidates = _of_format(wanted, candidates, folder, names, finder)
    if len(candidates) == 1:
        return candidates[0]
    raise _undecided(folder, names, candidates, finder, wanted)


def _of_server(wanted: str, folder: Path, names: list[str]) -> Found:
    """Of a format that only serving runtimes know: the one file there is, else all of it."""
    told = [name for name in names if not is_text(name)]
    if not told:
        raise ArtifactMissing(
            f"{folder} holds no artifact; put one of the format {wanted!r} there")
    lone = folder / told[0]
    return Found(lone if len(told) == 1 and lone.is_file() else folder, wanted)


def _names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = {e.name for e in entries if not ignored(e.name)}
    return sorted(
        name for name in names - set(DESCRIPTION_NAMES)
        if not (name.endswith(SIGNATURE_SUFFIX) and name.removesuffix(SIGNATURE_SUFFIX) in names)
    )


def _named(folder: Path, described: Description | None) -> Path | None:
    if described is None:
        return None
    if described.filename:
        named = folder / described.filename
        if not named.exists():
            raise ArtifactMissing(
                f"{named} does not exist, but {described.source} names it as the artifact; put it "
                "there or correct the name"
            )
        return named
    usual = (folder / name for name in described.usual)
    return next((path for path in usual if path.exists()), None)


def _with_folder(found: Found, folder: Path, finder: FormatFinder, names: list[str]) -> Found:
    """A format that is a folder (Python: the class and what it imports) takes the whole of it,
    though one file of it was named."""
    beside = len(names) > 1
    if beside and found.path.is_file() and folder_format(folder, finder) == found.format:
        return Found(folder, found.format)
    return found


def _candidates(folder: Path, names: list[str], finder: FormatFinder) -> list[Found]:
    """Files first: folders beside an artifact are rarely meant."""
    paths = [folder / name for name in names]
    for group in ([p for p in paths if p.is_file()], [p for p in paths if p.is_dir()]):
        found = [Found(p, form) for p in group if (form := _format_of(p, finder)) is not None]
        if found:
            return found
    for path in paths:
        if not path.exists():
            path.stat()  # a link to nothing is the better reason
    return []


def _format_of(path: Path, finder: FormatFinder) -> str | None:
    return folder_format(path, finder) if path.is_dir() else finder.recognise(path)


def _of_format(wanted: str, candidates: list[Found], folder: Path, names: list[str],
               finder: FormatFinder) -> list[Found]:
    """Recognised as `wanted`; else named like it; else whatever is the only file there."""
    found = [each for each in candidates if each.format == wanted]
    if not found:
        suffixes = finder.get(wanted).suffixes
        found = [Found(folder / n, wanted) for n in names if n.lower().endswith(suffixes)]
    if not found:
        files = [n for n in names if (folder / n).is_file() and not is_text(n)]
        found = [Found(folder / files[0], wanted)] if len(files) == 1 else []
    return found


def _undecided(folder: Path, names: list[str], candidates: list[Found], finder: FormatFinder,
               wanted: str | None) -> ArtifactMissing | UnknownFormat | InvalidSpecification:
    if candidates:
        listed = some([f"{each.path.name} ({each.format})" for each in candidates])
        return InvalidSpecification(
            f"{folder} holds several artifacts: {listed}; name the one to serve with 'uri' in a "
            "model.yaml there, or give 'format' if that tells them apart"
        )
    known = describe_formats(finder)
    shown = [readable_name(name) for name in names if not is_text(name)]
    if not shown:
        return ArtifactMissing(f"{folder} holds no artifact; put one there, of a format out of "
                               f"{known}")
    looked_for = f"an artifact of the format {wanted!r}" if wanted else f"one of {known}"
    return UnknownFormat(
        f"{folder} holds nothing that is recognised: found {some(shown)}; looked for "
        f"{looked_for}; name the file with 'uri' and its 'format' in a model.yaml there"
    )
