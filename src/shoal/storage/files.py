"""Which files belong to a model, and what may be told from their status without reading them.

Follows symbolic links, refuses those that lead back into themselves, and never opens a file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from shoal.domain.errors import ArtifactError, ArtifactMissing, InvalidSpecification

MAX_FILES: Final = 100_000
"""Files that one model may consist of: more is a mistaken path, not a model."""

_IGNORED_SUFFIXES: Final = (".part", ".partial", ".crdownload", ".tmp", ".swp", "~")
SIGNATURE: Final = "model.sig"
"""What signs a folder lies in it under this name, as `model_signing` calls it."""
SIGNATURE_SUFFIX: Final = ".sig"
"""What follows the name of the file, or of the folder, that a signature beside it signs."""

_IGNORED_NAMES: Final = frozenset({"__pycache__", "lost+found", SIGNATURE})


def ignored(name: str) -> bool:
    """Is a file or folder of this name no part of any model? Hidden ones, what editors, downloads
    and file systems leave behind, Python's caches, which loading a model would change, and what
    signs a model, which cannot sign itself."""
    return name.startswith(".") or name in _IGNORED_NAMES or name.endswith(_IGNORED_SUFFIXES)


@dataclass(frozen=True, slots=True)
class File:
    """A regular file. `name`: relative to the root of the walk, with `/`; empty: the root itself.
    `info`: of the file that links lead to."""

    name: str
    path: str
    info: os.stat_result


def walk(root: str | os.PathLike[str]) -> Iterator[File]:
    """The files of a model, always in the same order for the same names.

    Raises OSError, with `filename`, at the first thing that cannot be followed or that is neither
    file nor folder (a pipe would block its reader).
    """
    top = os.fspath(root)
    info = os.stat(top)
    if not stat.S_ISDIR(info.st_mode):
        yield File("", top, _regular(top, info))
        return
    count = 0
    folders = [""]
    while folders:
        folder = folders.pop()
        inner = []
        for entry in _sorted_entries(f"{top}/{folder}" if folder else top):
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir():
                if entry.is_symlink():
                    _refuse_loop(top, folder, entry)
                inner.append(name)
                continue
            count += 1
            if count > MAX_FILES:
                raise OSError(errno.EFBIG, f"holds more than {MAX_FILES:,} files", top)
            yield File(name, entry.path, _regular(entry.path, entry.stat()))
        folders.extend(reversed(inner))


def _sorted_entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not ignored(e.name)), key=lambda e: e.name)


def _regular(path: str, info: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(info.st_mode):
        raise OSError(errno.EINVAL, "is neither a file nor a folder", path)
    return info


def _refuse_loop(top: str, folder: str, link: os.DirEntry[str]) -> None:
    target = os.stat(link.path)
    above = top
    for part in ["", *folder.split("/")]:
        above = os.path.join(above, part) if part else above
        if os.path.samestat(os.stat(above), target):
            raise OSError(
                errno.ELOOP, "is a symbolic link to a folder that contains it", link.path
            )


@dataclass(frozen=True, slots=True)
class Stamp:
    """The cheap sign of a state of files.

    signature: 16 bytes over names, sizes, times, inodes; other files, other bytes.
    newest_s: when the youngest of them last changed in any way, seconds since the epoch.
    """

    signature: bytes
    newest_s: float


def stamp(*roots: str | os.PathLike[str]) -> Stamp | None:
    """The present state of all `roots` together; None when the first is absent.

    What cannot be read is part of the state, so that its repair is a change; raises nothing.
    """
    digest = hashlib.blake2b(digest_size=16)
    newest_ns = 0
    for root in roots:
        try:
            for file in walk(root):
                info = file.info
                newest_ns = max(newest_ns, info.st_mtime_ns, info.st_ctime_ns)
                digest.update(os.fsencode(file.name))
                digest.update(b"\0%d %d %d %d\0" % (
                    info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino))
        except OSError as error:
            if root is roots[0] and not os.path.lexists(root):
                return None
            digest.update(os.fsencode(f"{error.filename}\0!{error.errno}\0"))
        digest.update(b"\n")
    return Stamp(digest.digest(), newest_ns / 1e9)


def readable_name(path: str | os.PathLike[str]) -> str:
    """A path as text that can be shown and encoded, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def unreadable(error: OSError, path: str | os.PathLike[str]
               ) -> ArtifactError | InvalidSpecification:
    """The error to answer with when the system refuses to read `path` or something in it."""
    named = error.filename if isinstance(error.filename, str) else path
    name = readable_name(named)
    if error.errno == errno.ENOENT:
        if os.path.islink(named):
            return ArtifactMissing(f"{name} is a symbolic link to nothing; repair or remove it")
        return ArtifactMissing(f"{name} does not exist; put the artifact there or correct the path")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ArtifactMissing(
            f"{name} cannot be read: permission denied; give the user that runs Shoal read access"
        )
    if error.errno == errno.ELOOP:
        return InvalidSpecification(
            f"{name} is a symbolic link that leads back to itself or around itself; remove it"
        )
    if error.errno in (errno.EFBIG, errno.EINVAL):
        return InvalidSpecification(f"{name} {error.strerror}; point to the artifact alone")
    return ArtifactMissing(f"{name} cannot be read: {error.strerror or error}")


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Whatever the system refuses inside becomes the error of `unreadable`."""
    try:
        yield
    except OSError as error:
        raise unreadable(error, path) from error
