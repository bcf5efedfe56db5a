"""What a place where artifacts lie is asked: which files there are, and their bytes.

All calls block, and are safe for threads: declaring and loading happen on threads. A place knows
nothing of models, versions, disk caches or trust.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from shoal.storage.names import in_words


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """name: relative to the URI, with `/`; empty: the URI names this file itself. size_bytes: None
    where the place does not say. tag: other content, other tag (an ETag, a generation, a blob's
    id); empty: the place has none. sha256: 64 hex digits, where the place vouches for them.
    modified_s: when it was last written, seconds since the epoch, where the place says. archive:
    of a lone file: what counts is what is packed into it."""

    name: str
    size_bytes: int | None
    tag: str = ""
    sha256: str | None = None
    modified_s: float | None = None
    archive: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What lies at `uri` at one moment. uri: the one that was looked at, or one that will always
    mean this state (a commit instead of a branch, a digest instead of a tag). version: of all of it
    (a commit, an image's digest); empty: the files' tags tell. files: sorted by name; empty where
    the place gives only all at once (see `Whole`)."""

    uri: str
    files: tuple[RemoteFile, ...]
    version: str = ""

    @property
    def tag(self) -> str:
        """Other content, other tag: 32 hex digits. Empty: whether it changed cannot be told without
        reading it."""
        if not self.version and not all(file.tag or file.sha256 for file in self.files):
            return ""
        digest = hashlib.blake2b(self.version.encode(), digest_size=16)
        for file in self.files:
            known = file.sha256 or file.tag
            digest.update(f"{file.name}\0{file.size_bytes}\0{known}\0".encode())
        return digest.hexdigest()

    @property
    def is_lone(self) -> bool:
        """Is it one file, rather than a folder?"""
        return len(self.files) == 1 and not self.files[0].name

    def named(self, file: RemoteFile) -> str:
        """What messages call one of the files."""
        return f"{self.uri}: {in_words(file.name)}" if file.name else self.uri

    @property
    def size_bytes(self) -> int | None:
        sizes = [file.size_bytes for file in self.files if file.size_bytes is not None]
        return sum(sizes) if self.files and len(sizes) == len(self.files) else None


class Place(Protocol):
    """Errors: ArtifactMissing (nothing is there), PlaceDenied (these credentials may not),
    PlaceUnavailable (it does not answer, or in no way that can be used; retryable),
    InvalidSpecification for a URI that it cannot mean anything by. Their messages name the URI,
    never a credential."""

    def look(self, uri: str) -> Snapshot:
        """All files at `uri`: a file, or a folder (a prefix) with all that is below it."""


@runtime_checkable
class Files(Place, Protocol):
    """A place that gives single files. ranges: it can begin and end anywhere in them. nested: what
    lies within has a URI of its own, with a path after the folder's; else `#path` is added."""

    ranges: bool
    nested: bool

    def read(
        self, snapshot: Snapshot, file: RemoteFile, start: int = 0, end: int | None = None
    ) -> Iterator[bytes]:
        """Bytes from `start` to before `end` (None: the end), in pieces as they come. The iterator
        may be closed before its end.

        Raises ArtifactChanged when the file is not the one of the snapshot any more; may end early,
        or raise PlaceUnavailable in the midst, when the connection is cut: the caller goes on from
        where it was."""


@runtime_checkable
class Whole(Place, Protocol):
    """A place that gives all at once."""

    def fetch(self, snapshot: Snapshot, into: Path, go_on: Callable[[], None]) -> None:
        """Write the files into the empty folder `into`. go_on: called now and then; what it raises
        ends it."""
