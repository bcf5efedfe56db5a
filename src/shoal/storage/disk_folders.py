"""The files of the disk cache: where they lie, and how they come and go.

Decides nothing: what is worth keeping and who may change what is for `disk_cache`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

from shoal.domain.errors import ArtifactChanged, ArtifactError, InvalidSpecification
from shoal.storage.digest import FileDigest, content_of, read_files
from shoal.storage.files import ignored
from shoal.storage.writing import sync_folder

_READINGS: Final = 3  # of files that get or lose other names meanwhile


def tree_name(digest: str, lone: str) -> str:
    """The folder of an artifact. A lone file's digest says nothing of its name, so its folder's
    does."""
    hexadecimal = digest.removeprefix("sha256:")
    if not lone:
        return hexadecimal
    return f"{hexadecimal}.{hashlib.blake2b(os.fsencode(lone), digest_size=4).hexdigest()}"


def tree_stamp(folder: Path) -> bytes:
    """Changes whenever a file of the artifact comes, goes, or is written to. Unlike `files.stamp`
    it does not look at when files changed their status, which every further link to them does."""
    digest = hashlib.blake2b(digest_size=16)
    for top, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not ignored(name))
        for name in sorted(name for name in files if not ignored(name)):
            info = os.lstat(os.path.join(top, name))
            digest.update(os.fsencode(os.path.join(top, name)[len(str(folder)):]))
            digest.update(b"\0%d %d %d\0" % (info.st_size, info.st_mtime_ns, info.st_ino))
    return digest.digest()


def folder_bytes(folder: Path) -> int:
    """What the files below `folder` take that lie nowhere else."""
    found = (path.lstat() for path in folder.rglob("*"))
    return sum(info.st_size for info in found
               if stat.S_ISREG(info.st_mode) and info.st_nlink == 1)


def readable_files(path: Path, go_on: Callable[[], None]) -> list[FileDigest]:
    """As `read_files`, again where a file gets or loses another name meanwhile; none where they
    cannot be read. Raises ArtifactChanged when they do not stay the same."""
    for left in reversed(range(_READINGS)):
        try:
            return read_files(path, go_on=go_on)
        except ArtifactChanged:
            if not left:
                raise
        except (ArtifactError, InvalidSpecification):
            break
    return []


class Folders:
    """What lies below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = root / "lock"
        self.index = root / "index"
        self.users = root / "users"
        self.blobs = root / "blobs"
        self.trees = root / "trees"
        self.fetching = root / "fetching"
        self.leaving = root / "leaving"

    def make(self) -> None:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.users, self.blobs, self.trees, self.fetching, self.leaving):
            folder.mkdir(mode=0o700, exist_ok=True)

    def remove_index(self) -> None:
        for ending in ("", "-wal", "-shm"):
            self.index.with_name(self.index.name + ending).unlink(missing_ok=True)

    def remove_tree(self, tree: str) -> None:
        """It is gone at once, whoever dies meanwhile."""
        leaving = self.leaving / uuid.uuid4().hex
        try:
            os.rename(self.trees / tree, leaving)
        except FileNotFoundError:
            return
        shutil.rmtree(leaving)

    def remove_blob(self, sha256: str) -> None:
        (self.blobs / sha256).unlink(missing_ok=True)

    def remove_fetch(self, key: str) -> None:
        shutil.rmtree(self.fetching / key, ignore_errors=True)

    def sound_blob(self, sha256: str, go_on: Callable[[], None]) -> int | None:
        """The inode of the blob if it is here and its bytes are right."""
        blob = self.blobs / sha256
        try:
            inode = blob.stat().st_ino
            files = readable_files(blob, go_on)
        except (ArtifactChanged, FileNotFoundError):
            return None
        return inode if files and content_of(files).digest == f"sha256:{sha256}" else None

    def link_blob(self, sha256: str, path: str, sound: dict[str, int], target: Path) -> None:
        """Make `target` another name of the blob, which the file `path` becomes where there is no
        sound one. sound: inodes by SHA-256; added to."""
        blob = self.blobs / sha256
        try:
            known = blob.lstat().st_ino
        except FileNotFoundError:
            known = None
        if known is None or known != sound.get(sha256):
            blob.unlink(missing_ok=True)
            os.link(path, blob)
            sound[sha256] = blob.lstat().st_ino
        try:
            os.link(blob, target)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            os.link(path, target)  # an empty file in very many trees: then it is not shared

    def place_tree(self, making: Path, tree: str) -> None:
        self.remove_tree(tree)
        for top, _, _ in os.walk(making):
            sync_folder(Path(top))
        os.rename(making, self.trees / tree)
        sync_folder(self.trees)
        sync_folder(self.blobs)
