"""A folder that looks like what lies elsewhere, though most of it comes when it is asked for.

So the layouts, descriptions and formats of folders are found by the same code wherever they lie.
Files are empty until they are fetched, but for descriptions. Must not know how they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Final

from shoal.domain.errors import InvalidSpecification
from shoal.storage.digest import Content
from shoal.storage.disk_cache import DiskCache, Fetch, Held
from shoal.storage.download import local_names
from shoal.storage.layout import DESCRIPTION_NAMES
from shoal.storage.mlmodel import FILE_NAME as MLMODEL
from shoal.storage.names import lone_name, shown
from shoal.storage.places.place import RemoteFile, Snapshot

# What says which of the files are the artifact, and is none of it.
_READ_FIRST: Final = (*DESCRIPTION_NAMES, MLMODEL)
_SEPARATOR: Final = " "  # between a digest and where in its folder the artifact lies


def lay_out(folder: Path, names: Iterable[str]) -> None:
    """Make empty files of these names, relative and with `/`, in `folder`."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


class Stage:
    """bring: downloads these of the snapshot's files into `folder`; None: all are there. nested: a
    URI may have a path after it, rather than after `#`."""

    def __init__(
        self, cache: DiskCache, fetch: Fetch, snapshot: Snapshot, folder: Path,
        bring: Callable[[tuple[RemoteFile, ...]], None] | None, *, nested: bool,
    ) -> None:
        self._cache = cache
        self._fetch = fetch
        self._snapshot = snapshot
        self._folder = folder
        self._bring = bring
        self._nested = nested
        self._held: dict[Path, Held] = {}
        self._fetched: list[tuple[Path, str]] = []  # and the state that each was in
        lone = bring is not None and snapshot.is_lone
        self._root = folder / lone_name(snapshot.uri) if lone else folder
        if bring is not None:
            self._lay_out(bring)

    def at(self, inside: str) -> Path:
        return self._root / inside if inside else self._root

    def release(self) -> None:
        for held in self._held.values():
            held.release()

    def _lay_out(self, bring: Callable[[tuple[RemoteFile, ...]], None]) -> None:
        lay_out(self._folder, local_names(self._snapshot))
        described = tuple(
            file for file in self._snapshot.files
            if PurePosixPath(file.name).name in _READ_FIRST and file.name.count("/") <= 1)
        if described:
            bring(described)

    def _path_of(self, file: RemoteFile) -> Path:
        return self._root / file.name if file.name else self._root

    # --- `declare.Sources` ----------------------------------------------------------------------

    def fetch(self, path: Path) -> None:
        """See that what is at `path`, and what belongs to it, is there: from the disk cache where
        it was fetched in the same state before."""
        if not path.is_relative_to(self._folder):
            raise InvalidSpecification(
                f"a description at {shown(self._snapshot.uri)} leads out of it, to {path}; put the "
                "artifact beside it, or register that place itself"
            )
        if self._bring is None:
            return
        wanted = tuple(self._within(path))
        state = Snapshot(self._snapshot.uri, wanted, self._snapshot.version).tag
        if not self._recall(path, state):
            self._bring(wanted)
            self._fetched.append((path, state))

    def _within(self, path: Path) -> Iterable[RemoteFile]:
        """The files at or below `path`, and those beside it whose names begin like its own."""
        for file in self._snapshot.files:
            own = self._path_of(file)
            beside = own.parent == path.parent and own.name.startswith(path.stem) and own != path
            if own == path or own.is_relative_to(path) or (beside and not path.is_dir()):
                yield file

    def _recall(self, path: Path, state: str) -> bool:
        known = self._cache.recall(self.uri_of(path), state)
        if known is None:
            return False
        digest, _, inside = known.partition(_SEPARATOR)
        artifact = path / inside if inside else path
        held = self._cache.open(digest, "" if artifact.is_dir() else artifact.name)
        if held is None:
            return False
        self._held[artifact] = held
        is_folder = held.path.is_dir()
        top, into = (held.path, artifact) if is_folder else (held.path.parent, artifact.parent)
        for source in top.rglob("*"):
            if source.is_file():
                target = into / source.relative_to(top)
                target.unlink(missing_ok=True)
                target.symlink_to(source)
        return True

    def read(self, path: Path) -> Content:
        """What is at `path` goes into the disk cache."""
        held = self._held.get(path)
        if held is None:
            held = self._held[path] = self._fetch.adopt(path)
            for fetched, state in self._fetched:
                if path.is_relative_to(fetched):
                    inside = path.relative_to(fetched).as_posix()
                    known = held.digest if inside == "." else f"{held.digest}{_SEPARATOR}{inside}"
                    self._cache.remember(self.uri_of(fetched), state, known)
        return held.content()

    def uri_of(self, path: Path) -> str:
        inside = path.relative_to(self._root).as_posix()
        if inside == ".":
            return self._snapshot.uri
        joint = "/" if self._nested else "#"
        return f"{self._snapshot.uri.rstrip('/')}{joint}{inside}"
