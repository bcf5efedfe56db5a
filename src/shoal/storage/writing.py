"""Writes what came from elsewhere: only inside its folder, never through a link, and with words for
a disk that refuses.

Knows neither places nor archives nor the cache.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from shoal.domain.errors import InvalidSpecification, NoRoom, ShoalError, Unavailable
from shoal.storage.files import readable_name

# Each sync waits for the disk, 4 ms on a cheap one; one of the whole disk waits as long, and for
# what others have written.
_SYNCED_ALONE: Final = 8
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


class Inside:
    """A folder that is written into by relative names. Links in it are never followed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made = {""}

    def path_of(self, name: str) -> Path:
        """Where the file `name` is to be written, with the folders above it made. `name`: as
        `names.why_not_confined` allows. Raises OSError."""
        self.make_folder(name.rpartition("/")[0])
        return self.folder / name

    def make_folder(self, name: str) -> None:
        """Raises FileExistsError where something else than a folder has that name."""
        if name in self._made:
            return
        self.make_folder(name.rpartition("/")[0])
        path = self.folder / name
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            if not stat.S_ISDIR(path.lstat().st_mode):
                raise
        self._made.add(name)


def create(path: Path) -> int:
    """A descriptor of a new file, which only its owner may read. Raises FileExistsError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, 0o600)


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written


def sync_folder(folder: Path) -> None:
    """Names in `folder` outlast a loss of power once this returns."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_files(paths: Sequence[str | os.PathLike[str]]) -> None:
    """The bytes of these files outlast a loss of power once this returns. All lie on one disk."""
    if not paths:
        return
    for path in paths[:1] if len(paths) > _SYNCED_ALONE else paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if len(paths) > _SYNCED_ALONE:
                _sync_disk(descriptor)
            else:
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)


def _sync_disk(descriptor: int) -> None:
    """Python has no name for it. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def free_bytes(folder: Path) -> int:
    """What this process may still write to the disk that `folder` lies on."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def check_room(folder: Path, wanted_bytes: int, free: int) -> None:
    """Raise NoRoom when `wanted_bytes` more do not fit into `free`, what the disk has left."""
    if wanted_bytes > free:
        raise NoRoom(
            f"the disk of {readable_name(folder)} has {free:,} bytes free and {wanted_bytes:,} are "
            f"needed; free {wanted_bytes - free:,} bytes there, or use a folder on another disk",
            retry_after_s=30.0,
        )


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What the system refuses inside becomes the error of `unwritable`."""
    try:
        yield
    except OSError as error:
        raise unwritable(error, folder) from error


def unwritable(error: OSError, folder: Path) -> ShoalError:
    """The error to answer with when the system refuses to write to `folder` or something in it."""
    name = readable_name(folder)
    if error.errno in _NO_ROOM:
        return NoRoom(f"{name} cannot be written: {error.strerror}; free room on that disk, or use "
                      "a folder on another one", retry_after_s=30.0)
    if error.errno in _NOT_ALLOWED:
        return InvalidSpecification(
            f"{name} cannot be written: {error.strerror}; give the user that runs Shoal write "
            "access to it, or use another folder"
        )
    at = f" ({readable_name(error.filename)})" if isinstance(error.filename, str) else ""
    return Unavailable(f"{name} cannot be written: {error.strerror or error}{at}; look after that "
                       "disk, or use a folder on another one", retry_after_s=30.0)
