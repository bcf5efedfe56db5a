"""Which revisions this process loads now, in a file that tells it when the process has died.

The file is mapped into memory: an entry costs a copy of a few bytes and no call of the system, and
what is written is the kernel's, so that it outlives the process however that ends. A machine that
loses power forgets it; that was no model's fault. Its lock ends with the process. Must not know
what is made of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from shoal.observability.logs import get_logger
from shoal.observability.oom import killed_since, oom_kills

SUFFIX: Final = ".loads"

_HEADER_BYTES: Final = 512
_SLOT_BYTES: Final = 512  # a revision's id has at most some 300
_SLOTS: Final = 64  # loads at once; more than anybody sets `load.concurrency` to
_FILE_BYTES: Final = _HEADER_BYTES + _SLOTS * _SLOT_BYTES
_LENGTH: Final = struct.Struct("<H")  # of what follows it; 0: nothing
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

log = get_logger("shoal.node")


class _Header(msgspec.Struct, frozen=True):
    pid: int
    boot: str
    oom_kills: int | None


@dataclass(frozen=True, slots=True)
class Left:
    """What a process that died was doing. revisions: that it was loading. for_memory: the kernel
    has killed a process of the same control group for want of memory since it started."""

    pid: int
    revisions: tuple[str, ...]
    for_memory: bool


class UnderWay:
    """Raises OSError when the file cannot be made. For threads."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        beside = folder / f".{name}"  # until it has its lock: others take what has none
        self._path = folder / f"{name}{SUFFIX}"
        self._fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(self._fd, 0, _FILE_BYTES)  # a full disk is noticed here
            self._map = mmap.mmap(self._fd, _FILE_BYTES)
            header = msgspec.json.encode(_Header(os.getpid(), _boot(), oom_kills()))
            _write(self._map, 0, header)
            beside.rename(self._path)
        except BaseException:
            os.close(self._fd)
            beside.unlink(missing_ok=True)
            raise
        self._lock = threading.Lock()
        self._free = list(range(_SLOTS))

    @contextmanager
    def loading(self, revision: str) -> Iterator[None]:
        """From now until it is left, however that is."""
        text = revision.encode()
        with self._lock:
            fits = self._free and len(text) <= _SLOT_BYTES - _LENGTH.size
            slot = self._free.pop() if fits else None
        if slot is None:
            yield
            return
        at = _HEADER_BYTES + slot * _SLOT_BYTES
        _write(self._map, at, text)
        try:
            yield
        finally:
            _LENGTH.pack_into(self._map, at, 0)
            with self._lock:
                self._free.append(slot)

    def close(self) -> None:
        """The process ends in order: whatever still hangs is not to be blamed."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._fd)


def left_behind(folder: Path) -> list[Left]:
    """What processes that died left in `folder`, each told once. Raises OSError."""
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # another one was quicker
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:  # else it was told to somebody meanwhile
                data = os.pread(fd, _FILE_BYTES, 0)
                path.unlink()
                if (left := _read(data)) is not None:
                    found.append(left)
        except BlockingIOError:
            pass  # its process lives
        finally:
            os.close(fd)
    return found


def _write(memory: mmap.mmap, at: int, text: bytes) -> None:
    """The length comes last: half an entry is none."""
    start = at + _LENGTH.size
    memory[start : start + len(text)] = text
    _LENGTH.pack_into(memory, at, len(text))


def _read(data: bytes) -> Left | None:
    """None: nothing was under way, or the machine has been started anew since."""
    if len(data) < _FILE_BYTES:
        return None
    try:
        header = msgspec.json.decode(_entry(data, 0), type=_Header)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        log.warning("a file of loads under way cannot be read and is ignored")
        return None
    entries = (_entry(data, at) for at in range(_HEADER_BYTES, _FILE_BYTES, _SLOT_BYTES))
    revisions = tuple(sorted({each.decode(errors="replace") for each in entries if each}))
    if not revisions or header.boot != _boot():
        return None
    return Left(header.pid, revisions, killed_since(header.oom_kills))


def _entry(data: bytes, at: int) -> bytes:
    (length,) = _LENGTH.unpack_from(data, at)
    return data[at + _LENGTH.size : at + _LENGTH.size + min(length, _SLOT_BYTES - _LENGTH.size)]


def _boot() -> str:
    """Of the machine: differs with every start."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
