"""Names the content of an artifact by its SHA-256, and notices when it changes meanwhile.

Knows nothing of formats or layouts: an artifact is a file or a folder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shoal.domain.errors import ArtifactChanged, ArtifactMissing
from shoal.domain.external_data import names_beside
from shoal.storage.files import File, Stamp, readable_name, stamp, unreadable, walk

_CHUNK_BYTES: Final = 1024 * 1024
_WORTH_REMEMBERING_BYTES: Final = 1024 * 1024
_MAX_REMEMBERED: Final = 10_000  # of some 300 bytes


@dataclass(frozen=True, slots=True)
class Content:
    """What an artifact holds. `digest`: `sha256:` and 64 hex digits; `files_bytes`: their size."""

    digest: str
    files_bytes: int


def parts_of(path: Path) -> list[Path]:
    """The artifact and the files beside it that belong to it."""
    beside = [path.with_name(name) for name in names_beside(path.name)]
    return [path, *(other for other in beside if other.is_file())]


@dataclass(frozen=True, slots=True)
class FileDigest:
    """A file of an artifact. name: relative, with `/`; empty: the artifact is this file. path:
    where it was read. sha256: 64 hex digits."""

    name: str
    path: str
    size_bytes: int
    sha256: str


def read_content(path: Path, *, go_on: Callable[[], None] = lambda: None) -> Content:
    """Read all of a file or folder. Blocking, for as long as the disk takes.

    A lone file's digest is that of its bytes, as `sha256sum` prints it; several files': of
    `<hex digits>  <relative name>\\0` for each, sorted by name. Files that `files.ignored` names
    count for nothing.

    go_on: called between chunks; what it raises ends the reading.
    Raises ArtifactChanged when anything changes between the first and the last byte,
    ArtifactMissing or InvalidSpecification when something cannot be read.
    """
    return content_of(read_files(path, go_on=go_on))


def read_files(path: Path, *, go_on: Callable[[], None] = lambda: None) -> list[FileDigest]:
    """The files of which `read_content` makes its digest, sorted by name; raises as it does."""
    parts = parts_of(path)
    before = stamp(*parts)
    try:
        files = _named(parts)
        if not files:
            raise ArtifactMissing(f"{readable_name(path)} holds no files; put the artifact there")
        digests = [
            FileDigest(file.name, file.path, file.info.st_size, _sha256(file, go_on))
            for file in files
        ]
    except OSError as error:
        if before != stamp(*parts):
            raise _changed(path) from error
        raise unreadable(error, path) from error
    if before is None or before != stamp(*parts):
        raise _changed(path)
    return digests


def content_of(files: Sequence[FileDigest]) -> Content:
    """What an artifact of these files holds, sorted by name, by the rule of `read_content`."""
    total = sum(file.size_bytes for file in files)
    if len(files) == 1 and not files[0].name:
        return Content(f"sha256:{files[0].sha256}", total)
    folder = hashlib.sha256()
    for file in files:
        folder.update(f"{file.sha256}  ".encode() + os.fsencode(file.name) + b"\0")
    return Content(f"sha256:{folder.hexdigest()}", total)


class ContentMemory:
    """Reads content, but large artifacts only once for each state of their files: what a changed
    description or another version in the same folder would otherwise read again."""

    def __init__(self, go_on: Callable[[], None] = lambda: None) -> None:
        self._go_on = go_on
        self._known: dict[Path, tuple[Stamp, Content]] = {}

    def read(self, path: Path) -> Content:
        """As `read_content`."""
        known = self._known.pop(path, None)
        now = stamp(*parts_of(path))
        if known is None or known[0] != now:
            content = read_content(path, go_on=self._go_on)
            if now is None or content.files_bytes < _WORTH_REMEMBERING_BYTES:
                return content
            known = now, content
        self._known[path] = known
        if len(self._known) > _MAX_REMEMBERED:
            self._known.pop(next(iter(self._known)), None)
        return known[1]


def check_content(path: Path, expected: str) -> None:
    """Raise ArtifactChanged unless the content of `path` still has the digest `expected`."""
    check_digest(read_content(path).digest, expected, readable_name(path))


def check_digest(found: str, expected: str, name: str) -> None:
    """Raise ArtifactChanged unless what `name` holds has the digest `expected`."""
    if found != expected:
        raise ArtifactChanged(
            f"{name} is not what was declared: its digest is {found} instead of {expected}; "
            "register the model again to serve the new content"
        )


def _named(parts: list[Path]) -> list[File]:
    files = [
        File(part.name if part is not parts[0] else file.name, file.path, file.info)
        for part in parts
        for file in walk(part)
    ]
    return sorted(files, key=lambda file: file.name)


def _sha256(file: File, go_on: Callable[[], None]) -> str:
    """Ends also where the file grows faster than it is read."""
    digest, left = hashlib.sha256(), file.info.st_size
    with open(file.path, "rb", buffering=0) as source:
        while left >= 0 and (chunk := source.read(_CHUNK_BYTES)):
            left -= len(chunk)
            digest.update(chunk)
            go_on()
    if left < 0:
        raise _changed(Path(file.path))
    return digest.hexdigest()


def _changed(path: Path) -> ArtifactChanged:
    return ArtifactChanged(
        f"{readable_name(path)} changed while it was read; it is read again once it is still"
    )
