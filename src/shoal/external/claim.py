"""Lets one instance at a time use a model server of this machine that it did not start.

By a lock (`flock`) that ends with its holder, on a file that says who that is. Servers of other
machines are not watched over. Must not know servers.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Final

from shoal.external.interface import ServerFailed
from shoal.storage.disk_locks import open_lock

_LOOPBACK: Final = ("localhost", "127.", "[::1]")
_UNIX: Final = "unix:"
_MOST_BYTES: Final = 200


def runtime_folder() -> Path:
    """Of this user on this machine, for what ends with its processes. Raises OSError."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    folder = (Path(base) / "shoal" if base and os.access(base, os.W_OK)
              else Path(tempfile.gettempdir()) / f"shoal-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    info = folder.lstat()
    if info.st_uid != os.getuid() or not folder.is_dir() or folder.is_symlink():
        raise PermissionError(f"{folder} is not this user's own folder")
    return folder


class Claim:
    """On the server at `address`, for `holder`, in words, until `end`. Raises ServerFailed while
    another has it."""

    def __init__(self, address: str, holder: str, folder: Path) -> None:
        self._descriptor: int | None = None
        place = _place(address)
        if place is None:
            return
        digest = hashlib.sha256(place.encode()).hexdigest()[:16]
        path = folder / f"server-{digest}.lock"
        descriptor = open_lock(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder.encode()[:_MOST_BYTES], 0)
        except BlockingIOError:
            other = os.pread(descriptor, _MOST_BYTES, 0).decode(errors="replace") or "another"
            os.close(descriptor)
            raise ServerFailed(
                f"is used by {other}: a server holds the models of one instance; let that one go, "
                "start a server for each, or declare a 'command', which each instance starts for "
                "itself") from None
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def end(self) -> None:
        """May be called again. The file stays: who removed it could remove another's lock."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _place(address: str) -> str | None:
    """One word for all ways to write an address; None for those of other machines."""
    if address.startswith(_UNIX):
        return _UNIX + os.path.realpath(address.removeprefix(_UNIX))
    if address.startswith(_LOOPBACK):
        return f"port {address.rpartition(':')[2]}"
    return None
