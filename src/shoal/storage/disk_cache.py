"""Keeps artifacts on disk by their content, within a budget, for all processes of a machine.

    <root>/lock          who changes anything has it
    <root>/index         what is there, and what it is worth (`disk_index`)
    <root>/users/        who uses the cache now (`disk_locks`)
    <root>/blobs/<sha256>
    <root>/trees/<digest>/…      an artifact: hard links to blobs, so that equal files lie here once
    <root>/fetching/<key>/       what is on its way, or was left there by one who was killed
    <root>/leaving/              what is being removed

A tree is in place at once or not at all. Who opens one holds it until it is released or the process
ends, and what is held is never evicted. A tree is known to be right by its files' sizes and times;
after a crash, of Shoal or the machine, every byte is read before its first use. What is damaged is
dropped, as if it had never been here. Must not know where artifacts come from.
"""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Final

from shoal.domain.errors import ArtifactMissing, InvalidArtifact
from shoal.domain.external_data import names_beside
from shoal.observability.logs import get_logger
from shoal.storage.digest import Content, FileDigest, content_of, read_files
from shoal.storage.disk_folders import folder_bytes, readable_files, tree_name, tree_stamp
from shoal.storage.disk_index import Row, Tree
from shoal.storage.disk_locks import own_folder
from shoal.storage.disk_store import CacheOptions, Store
from shoal.storage.files import readable_name
from shoal.storage.names import why_not_confined
from shoal.storage.writing import Inside, sync_files, writing

__all__ = ["CacheOptions", "DiskCache", "Fetch", "Held", "Statistics"]

_POLL_S: Final = 0.05

log = get_logger("shoal.storage")


@dataclass(frozen=True, slots=True)
class Statistics:
    """size_bytes, trees, blobs: what lies there; held_bytes: of trees in use; reserved_bytes: for
    downloads. hits, misses, evictions, damaged: counted by this process."""

    budget_bytes: int
    size_bytes: int
    held_bytes: int
    reserved_bytes: int
    trees: int
    blobs: int
    hits: int
    misses: int
    evictions: int
    damaged: int


def _nothing() -> None:
    pass


class DiskCache:
    """Safe for threads. Everything blocks, mostly for less than a millisecond."""

    def __init__(self, root: Path, budget_bytes: int, options: CacheOptions | None = None) -> None:
        """Opens the cache in the folder `root`, which is made if it is missing, and mends what a
        crash left. budget_bytes: what all files in it may take together.

        Raises InvalidSpecification when the folder cannot be used, Unavailable for a disk that
        fails.
        """
        self._store = Store(root, budget_bytes, options or CacheOptions())
        self._counts = threading.Lock()
        self._hits = self._misses = self._damaged = 0

    def close(self) -> None:
        """What is held is held no more. The last one to close leaves a cache that needs no
        checking."""
        self._store.close()

    def __enter__(self) -> DiskCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def open(self, digest: str, name: str = "", go_on: Callable[[], None] = _nothing
             ) -> Held | None:
        """Hold the artifact of the content `digest`, as `read_content` names it; None: it is not
        here, or was damaged. Reads all of it where that is needed.

        name: what the file is to be called, where the artifact is a lone file.
        go_on: called between chunks; what it raises ends the reading.
        """
        held = self.take(digest, name, go_on)
        with self._counts:
            if held is None:
                self._misses += 1
            else:
                self._hits += 1
        return held

    @contextmanager
    def fetching(self, key: str, go_on: Callable[[], None] = _nothing) -> Iterator[Fetch]:
        """Be the only one, of all processes, that fetches `key`; waits for another one to end,
        after which what is wanted may be here. What is in the folder after an error is there for
        the next one; else it is removed.

        key: names what is fetched, such as a URI.
        go_on: called while waiting; what it raises ends it.
        """
        store = self._store

        def wait() -> None:
            go_on()
            store.options.sleep(_POLL_S)

        hashed = _hashed(key).hex()
        folder = store.folders.fetching / hashed
        with ExitStack() as stack:
            with writing(store.root):
                stack.enter_context(own_folder(folder, wait))
            fetch = Fetch(self, store, folder, go_on)
            try:
                yield fetch
            except BaseException:
                fetch.end(well=False)
                raise
            fetch.end(well=True)

    def remember(self, uri: str, tag: str, digest: str) -> None:
        """In the state that `tag` names, what lies at `uri` has the content `digest`. An empty tag
        names no state."""
        if tag:
            with self._store.change():
                self._store.index.remember(_hashed(uri), tag, digest)

    def recall(self, uri: str, tag: str) -> str | None:
        """What was remembered, though it need not be here any more."""
        with self._store.change():
            return self._store.index.recall(_hashed(uri), tag)

    def remembered(self, uri: str) -> list[str]:
        """The contents that `uri` had, latest first: for when the place cannot be asked."""
        with self._store.change():
            return self._store.index.remembered(_hashed(uri))

    def statistics(self) -> Statistics:
        store, index = self._store, self._store.index
        with store.change():
            return Statistics(
                budget_bytes=store.budget_bytes, size_bytes=index.blob_bytes(),
                held_bytes=index.held_bytes(), reserved_bytes=index.reserved_bytes(""),
                trees=len(index.trees()), blobs=index.blob_count(), hits=self._hits,
                misses=self._misses, evictions=store.evictions, damaged=self._damaged)

    def take(self, digest: str, name: str, go_on: Callable[[], None]) -> Held | None:
        """As `open`, and counted by nobody."""
        with self._store.change():
            tree = self._store.index.find(digest, name)
            if tree is None:
                return None
            tree = self._by_name(tree, name)
            self._store.hold(tree.tree)
            self._store.index.use(tree.tree)
        held = Held(self._store, tree)
        try:
            if self._is_sound(tree, go_on):
                return held
        except BaseException:
            held.release()
            raise
        held.release()
        return None

    def _by_name(self, tree: Tree, name: str) -> Tree:
        """The same content by another name: a file that is known by the digest of its bytes."""
        folders, index = self._store.folders, self._store.index
        files = index.files(tree.tree)
        if not tree.lone or name in ("", tree.lone) or len(files) > 1 or "/" in name \
                or why_not_confined(name):
            return tree
        other = replace(tree, tree=tree_name(tree.digest, name), lone=name)
        folder = folders.trees / other.tree
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            os.link(folders.trees / tree.tree / tree.lone, folder / name)
        except (FileExistsError, FileNotFoundError):
            other = replace(other, checked=False)
        other = replace(other, stamp=tree_stamp(folder))
        index.add(other, [replace(files[0], name=name)], self._store.budget_bytes)
        return other

    def _is_sound(self, tree: Tree, go_on: Callable[[], None]) -> bool:
        folder = self._store.folders.trees / tree.tree
        stamp = tree_stamp(folder)
        if tree.checked and stamp == tree.stamp:
            return True
        files = readable_files(folder / tree.lone, go_on)
        with self._store.change():
            if files and content_of(files).digest == tree.digest:
                self._store.index.saw(tree.tree, stamp)
                return True
            now = self._store.index.find(tree.digest, tree.lone)
            if now == tree:  # and nobody has dropped it, or brought it anew, meanwhile
                self._drop_damaged(tree, files)
        return False

    def _drop_damaged(self, tree: Tree, files: Sequence[FileDigest]) -> None:
        folders, index = self._store.folders, self._store.index
        self._damaged += 1
        log.warning("an artifact in the disk cache is damaged and dropped", digest=tree.digest)
        right = {(file.name or tree.lone, file.sha256) for file in files}
        wrong = [file.sha256 for file in index.files(tree.tree)
                 if (file.name, file.sha256) not in right]
        index.doubt(wrong)
        self._store.remove(tree.tree)
        for sha256 in wrong:
            folders.remove_blob(sha256)


class Held:
    """An artifact in the cache that stays there until it is released. path: the file or folder,
    only to be read."""

    def __init__(self, store: Store, tree: Tree) -> None:
        self._store = store
        self._tree = tree
        self._released = False
        self.digest = tree.digest
        self.path = store.folders.trees / tree.tree / tree.lone

    def content(self, inside: str = "") -> Content:
        """What `read_content` would say of `path / inside`, without reading it. inside: with `/`.
        Raises ArtifactMissing."""
        with self._store.change():
            rows = self._store.index.files(self._tree.tree)
        found = list(_inside(rows, inside or self._tree.lone))
        if not found:
            raise ArtifactMissing(f"{readable_name(self.path / inside)} does not exist")
        return content_of(sorted(found, key=lambda file: file.name))

    def release(self) -> None:
        """Any number of times."""
        if not self._released:
            self._released = True
            self._store.release(self._tree.tree)

    def __enter__(self) -> Held:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.release()


class Fetch:
    """Something that is being fetched. folder: for whatever comes; it may hold what an earlier one
    left there."""

    def __init__(self, cache: DiskCache, store: Store, folder: Path, go_on: Callable[[], None]
                 ) -> None:
        self._cache = cache
        self._store = store
        self._key = folder.name
        self._go_on = go_on
        self._began = store.options.clock()
        self._reserved = 0
        self.folder = folder

    def reserve(self, size_bytes: int) -> None:
        """Make room for `size_bytes` more, before they come; what an earlier one left in `folder`
        counts as part of them. Raises TooLarge, NoRoom."""
        store = self._store
        wanted = self._reserved + size_bytes
        with store.change():
            to_write = max(wanted - folder_bytes(self.folder), 0)
            store.make_room(lambda: wanted, self._key, to_write)
            store.index.reserve(self._key, wanted, store.options.wall())
        self._reserved = wanted

    def adopt(self, path: Path, cost_s: float | None = None) -> Held:
        """Take the file or folder `path`, which lies in `folder`, into the cache; it is not to be
        written any more. Reads all of it. Files that belong to no model (`files.ignored`) are left
        behind; links in it become files.

        cost_s: how long it takes to fetch it again; None: as long as since this began.
        Raises InvalidArtifact for a link that leads out of `folder` and the cache, what
        `read_content` raises, TooLarge, NoRoom.
        """
        cost_s = self._store.options.clock() - self._began if cost_s is None else cost_s
        files = read_files(path, go_on=self._go_on)
        content = content_of(files)
        lone = "" if all(file.name for file in files) else path.name
        held = self._cache.take(content.digest, lone, self._go_on)
        if held is None:
            rows = [Row(file.name or lone, file.sha256, file.size_bytes) for file in files]
            tree = Tree(tree_name(content.digest, lone), content.digest, lone,
                        content.files_bytes, cost_s, b"")
            with writing(self._store.root):
                paths = [self._settle(file.path) for file in files]
                sync_files(paths)
                held = self._move_in(tree, rows, paths)
        self._reserved = max(self._reserved - content.files_bytes, 0)
        return held

    def end(self, *, well: bool) -> None:
        """Nothing is fetched any more. well: False: to be gone on with."""
        store = self._store
        with store.change():
            if well or not any(self.folder.iterdir()):
                store.folders.remove_fetch(self._key)
                store.index.end_fetch(self._key)
            else:
                store.index.reserve(self._key, folder_bytes(self.folder), store.options.wall())

    def _settle(self, path: str) -> str:
        """The file that `path` leads to, from now on only to be read."""
        real = os.path.realpath(path)
        within = (os.path.realpath(self.folder), os.path.realpath(self._store.folders.trees))
        if not any(Path(real).is_relative_to(folder) for folder in within):
            raise InvalidArtifact(
                f"{readable_name(Path(path).name)} is a link that leads out of the artifact; put "
                "the file itself there")
        self._go_on()
        os.chmod(real, 0o400)
        return real

    def _move_in(self, tree: Tree, rows: list[Row], paths: list[str]) -> Held:
        store, folders = self._store, self._store.folders
        sound = {row.sha256: inode for row in rows
                 if (inode := folders.sound_blob(row.sha256, self._go_on)) is not None}
        making = self.folder / f".{uuid.uuid4().hex}"
        with store.change():
            store.make_room(lambda: store.index.missing_bytes(rows), self._key)
            making.mkdir(mode=0o700)
            inside = Inside(making)
            for row, path in zip(rows, paths, strict=True):
                folders.link_blob(row.sha256, path, sound, inside.path_of(row.name))
            folders.place_tree(making, tree.tree)
            tree = replace(tree, stamp=tree_stamp(folders.trees / tree.tree))
            store.index.add(tree, rows, store.budget_bytes)
            left = max(self._reserved - tree.size_bytes, 0)
            store.index.reserve(self._key, left, store.options.wall())
            store.hold(tree.tree)
        return Held(store, tree)


def _inside(rows: Sequence[Row], inside: str) -> Iterator[FileDigest]:
    """The files that `read_content` would find at `inside`."""
    by_name = {row.name: row for row in rows}
    if inside in by_name:
        path = PurePosixPath(inside)
        beside = [str(path.with_name(name)) for name in names_beside(path.name)]
        names = {inside: "", **{name: name.rpartition("/")[2] for name in beside}}
    else:
        prefix = f"{inside}/" if inside else ""
        names = {name: name[len(prefix):] for name in by_name if name.startswith(prefix)}
    for name, relative in names.items():
        if (row := by_name.get(name)) is not None:
            yield FileDigest(relative, row.name, row.size_bytes, row.sha256)


def _hashed(uri: str) -> bytes:
    """A URI may hold a credential, which is not to be on disk."""
    return hashlib.blake2b(uri.encode("utf-8", "surrogateescape"), digest_size=16).digest()
