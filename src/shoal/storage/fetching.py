"""Shows what lies elsewhere as if it lay here: lists it, downloads what is needed, and keeps that
in the disk cache.

What a URI means is for `places`, how bytes come for `download`, what is kept for `disk_cache`.
Blocks, on threads; must not know the core, nor who wants a model.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final, TypeAlias

from shoal.domain.errors import (
    ArtifactChanged,
    ArtifactMissing,
    InvalidSpecification,
    PlaceDenied,
    ShoalError,
    ShuttingDown,
)
from shoal.domain.external_data import may_have_company, names_beside
from shoal.domain.model import Revision
from shoal.storage.archives import root_of, unpack
from shoal.storage.declare import Sources
from shoal.storage.digest import check_digest
from shoal.storage.disk_cache import DiskCache, Fetch, Held
from shoal.storage.download import Options, download
from shoal.storage.formats import FormatFinder
from shoal.storage.names import lone_name, shown
from shoal.storage.places.known import check_uri, place_for
from shoal.storage.places.place import Files, Place, RemoteFile, Snapshot, Whole
from shoal.storage.places.reach import Reach
from shoal.storage.signing import (
    MAX_SIGNATURE_BYTES,
    Signature,
    find_signature,
    places_of,
    read_signature,
)
from shoal.storage.stage import Stage

if TYPE_CHECKING:
    from shoal.storage.places.credentials import Credentials

_FILES: Final = "files"
_PACKED: Final = "packed"
_LARGE_BYTES: Final = 64 * 1024**2  # whose beginning is told, as people will wait for its end


@dataclass(frozen=True, slots=True)
class Told:
    """A download of so many bytes of `uri` has ended, after so many seconds; None: a large one has
    begun."""

    uri: str
    size_bytes: int
    took_s: float | None = None


Progress: TypeAlias = Callable[[int, int | None], None]
"""Called with the bytes that have come and those of all, None where nobody says."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was listed. inside: where in it the artifact, or the folder with it, lies."""

    place: Place
    snapshot: Snapshot
    inside: str

    @property
    def packed(self) -> bool:
        return self.snapshot.is_lone and self.snapshot.files[0].archive


class Fetching:
    """open_cache: opens the disk cache, which is done when it is needed first. tell: called, by any
    thread, after each download."""

    def __init__(
        self, open_cache: Callable[[], DiskCache], credentials: Credentials,
        options: Options | None = None, tell: Callable[[Told], None] = lambda _: None,
        reach: Reach | None = None,
    ) -> None:
        self._open_cache = open_cache
        self._cache: DiskCache | None = None
        self._opening = threading.Lock()
        self._credentials = credentials
        self._stopping = threading.Event()
        self._options = replace(options or Options(), go_on=self._go_on)
        self._tell = tell
        self._reach = reach or Reach()

    @property
    def cache(self) -> DiskCache:
        with self._opening:
            if self._cache is None:
                self._cache = self._open_cache()
            return self._cache

    def stop(self) -> None:
        """What is under way ends soon, with ShuttingDown; what has come is kept."""
        self._stopping.set()

    def close(self) -> None:
        with self._opening:
            if self._cache is not None:
                self._cache.close()

    def check(self, uri: str) -> None:
        """Raise InvalidSpecification for a URI of no place that is known."""
        check_uri(uri)

    # --- to declare -----------------------------------------------------------------------------

    @contextmanager
    def staged(
        self, uri: str, credentials: str | None, finder: FormatFinder
    ) -> Iterator[tuple[Path, Sources]]:
        """See `declare.Elsewhere`. What is found to be an artifact lies in the disk cache after."""
        with self.staged_as(self.look(uri, credentials), finder) as (path, sources):
            try:
                yield path, sources
            except ShoalError as error:  # people know the URI, not where it is shown meanwhile
                raise error.worded(error.message.replace(str(path), shown(uri))) from error

    @contextmanager
    def staged_as(self, found: Found, finder: FormatFinder) -> Iterator[tuple[Path, Sources]]:
        """As `staged`, of what was listed already."""
        place, snapshot = found.place, found.snapshot
        key = f"stage {snapshot.uri} {found.inside}"
        with self.cache.fetching(key, self._go_on) as fetch:
            folder = _emptied(fetch, snapshot.uri)
            if isinstance(place, Files) and snapshot.files and not found.packed:
                def bring(files: tuple[RemoteFile, ...]) -> None:
                    self._download(place, replace(snapshot, files=files), folder, fetch)

                stage = Stage(self.cache, fetch, snapshot, folder, bring, nested=place.nested)
            else:
                root = self._bring_all(found, folder, fetch)
                stage = Stage(self.cache, fetch, snapshot, root, None, nested=False)
            try:
                yield stage.at(found.inside), Sources(
                    finder, stage.read, stage.fetch, stage.uri_of)
            finally:
                stage.release()

    # --- to load --------------------------------------------------------------------------------

    def here(self, revision: Revision) -> Held | None:
        """The files of a revision that lies elsewhere, where the disk cache has them."""
        return self.cache.open(revision.artifact_digest, _name_of(revision), self._go_on)

    def open(self, revision: Revision, progress: Progress = lambda done, total: None) -> Held:
        """The files of a revision that lies elsewhere, to be released when they are not needed any
        more. Raises ArtifactChanged when other content lies there now, and as `places` do."""
        if (held := self.here(revision)) is not None:
            return held
        digest = revision.artifact_digest
        with self.cache.fetching(f"artifact {digest}", self._go_on) as fetch:
            # Another process may have been first.
            held = self.cache.take(digest, _name_of(revision), self._go_on)
            if held is None:
                found = self.look(revision.uri, revision.credentials)
                folder = _emptied(fetch, revision.uri)
                path = self._bring_all(found, folder, fetch, progress) / found.inside
                if not path.exists():
                    raise ArtifactMissing(f"{shown(revision.uri)} does not exist any more")
                held = fetch.adopt(path)
        try:
            check_digest(held.digest, digest, shown(revision.uri))
        except ArtifactChanged:
            held.release()
            raise
        return held

    def signature(self, revision: Revision, *, is_folder: bool) -> Signature | None:
        """What signs a revision that lies elsewhere: from the disk cache where it was read before,
        else from its place; None: there is none. is_folder: of its artifact. Raises as `places`
        do."""
        key = f"signature of {revision.uri}"
        with self.cache.fetching(f"{key} {revision.artifact_digest}", self._go_on) as fetch:
            digest = self.cache.recall(key, revision.artifact_digest)
            held = self.cache.take(digest, "", self._go_on) if digest else None
            if held is None:
                path = self._bring_signature(
                    revision, _emptied(fetch, revision.uri), fetch, is_folder=is_folder)
                if path is None:
                    return None
                held = fetch.adopt(path)
                self.cache.remember(key, revision.artifact_digest, held.digest)
        with held:
            return read_signature(held.path, f"of {shown(revision.uri)}")

    def _bring_signature(
        self, revision: Revision, folder: Path, fetch: Fetch, *, is_folder: bool
    ) -> Path | None:
        found = self.look(revision.uri, revision.credentials)
        place, snapshot = found.place, found.snapshot
        if not isinstance(place, Files) or not snapshot.files or found.packed:
            return find_signature(self._bring_all(found, folder, fetch) / found.inside)
        base, _, inside = revision.uri.partition("#")
        if inside or not (place.nested or snapshot.is_lone):
            names = {file.name: file for file in snapshot.files}
            for name in places_of(inside, is_folder=is_folder):
                if name in names and (names[name].size_bytes or 0) <= MAX_SIGNATURE_BYTES:
                    self._download(place, replace(snapshot, files=(names[name],)), folder, fetch)
                    return folder / name
            return None
        for uri in places_of(base, is_folder=is_folder):
            try:
                alone = place.look(uri)
            except (ArtifactMissing, PlaceDenied, InvalidSpecification):
                continue  # S3 and the Hub deny what is not there to those who may not list
            if alone.is_lone and (alone.size_bytes or 0) <= MAX_SIGNATURE_BYTES:
                self._download(place, alone, folder, fetch)
                return folder / lone_name(uri)
        return None

    # --- what both do ---------------------------------------------------------------------------

    def look(self, uri: str, credentials: str | None = None) -> Found:
        """List what lies at `uri`."""
        base, _, inside = uri.partition("#")
        place = place_for(base, self._credentials, credentials, self._reach)
        snapshot = place.look(base)
        found = Found(place, snapshot, inside.strip("/"))
        if isinstance(place, Files) and place.nested and snapshot.is_lone and not found.packed:
            return _in_its_folder(place, snapshot)
        return found

    def _bring_all(
        self, found: Found, folder: Path, fetch: Fetch,
        progress: Progress = lambda done, total: None,
    ) -> Path:
        """Everything, unpacked where it is an archive; where it begins."""
        place, snapshot = found.place, found.snapshot
        if isinstance(place, Whole) and not snapshot.files:
            started = perf_counter()
            place.fetch(snapshot, folder, self._go_on)
            size = sum(path.lstat().st_size for path in folder.rglob("*"))
            self._tell(Told(shown(snapshot.uri), size, perf_counter() - started))
            return folder
        assert isinstance(place, Files), place
        if not found.packed:
            self._download(place, snapshot, folder, fetch, progress)
            return folder / lone_name(snapshot.uri) if snapshot.is_lone else folder
        packed = fetch.folder / _PACKED
        self._download(place, snapshot, packed, fetch, progress)
        unpack(packed / lone_name(snapshot.uri), folder, go_on=self._go_on)
        shutil.rmtree(packed)
        return root_of(folder)

    def _download(
        self, place: Files, snapshot: Snapshot, folder: Path, fetch: Fetch,
        progress: Progress = lambda done, total: None,
    ) -> None:
        uri, size_bytes = shown(snapshot.uri), snapshot.size_bytes or 0
        if size_bytes:
            fetch.reserve(size_bytes)
        if size_bytes >= _LARGE_BYTES:
            self._tell(Told(uri, size_bytes))
        started = perf_counter()
        download(place, snapshot, folder, self._options, progress)
        self._tell(Told(uri, size_bytes, perf_counter() - started))

    def _go_on(self) -> None:
        if self._stopping.is_set():
            raise ShuttingDown("this instance is shutting down")


def _name_of(revision: Revision) -> str:
    """What a lone file is called in the disk cache."""
    return lone_name(revision.uri.replace("#", "/"))


def _emptied(fetch: Fetch, uri: str) -> Path:
    """The folder for the files, called as at the place; what came of an interrupted download lies
    beside it."""
    above = fetch.folder / _FILES
    folder = above / lone_name(uri)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    return folder


def _in_its_folder(place: Files, snapshot: Snapshot) -> Found:
    """A lone file, with those that belong to it although they lie beside it."""
    above, _, name = snapshot.uri.rpartition("/")
    if not may_have_company(name):
        return Found(place, snapshot, "")
    files = [replace(snapshot.files[0], name=name)]
    for beside in names_beside(name):
        try:
            found = place.look(f"{above}/{beside}")
        except ArtifactMissing:
            continue
        if found.is_lone:
            files.append(replace(found.files[0], name=beside))
    files.sort(key=lambda file: file.name)
    return Found(place, Snapshot(above, tuple(files), snapshot.version), name)
