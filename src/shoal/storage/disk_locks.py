"""Locks between processes that end with who holds them, however that comes to its end.

They are `flock`s, so they hold on one machine, between threads too, and need no clean-up.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(descriptor: int) -> Iterator[None]:
    """Waits until nobody else is inside with the same file."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def open_lock(path: Path) -> int:
    """A descriptor of the file `path`, made if it is missing, to be locked."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


@contextmanager
def own_folder(folder: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Makes `folder` unless it is there, and has it alone, though who has it may remove it.

    wait: called as long as another one has it; what it raises ends the waiting.
    """
    descriptor = _lock_folder(folder)
    while descriptor is None:
        wait()
        descriptor = _lock_folder(folder)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def if_nobody_has(folder: Path) -> Iterator[bool]:
    """Has `folder` alone, and says True; or False, and another one has it."""
    descriptor = _lock_folder(folder)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock_folder(folder: Path) -> int | None:
    """None: another one has it, or removed it just now."""
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    if _try_lock(descriptor) and _is_still(descriptor, folder):
        return descriptor
    os.close(descriptor)
    return None


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Presence:
    """Shows in a folder that this user of it is there: a file that is locked for as long as it
    lives. The file is left by those that came to no clean end."""

    def __init__(self, folder: Path) -> None:
        self.name = uuid.uuid4().hex
        self._path = folder / self.name
        self._descriptor = open_lock(self._path)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def end(self, *, clean: bool) -> None:
        """clean: False: to be taken for one that crashed. To be called as `survey` is."""
        if clean:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def survey(folder: Path) -> tuple[set[str], set[str]]:
    """The names of who is there, and of those who died since this was asked last. To be called by
    one at a time, and not while somebody appears."""
    alive, dead = set(), set()
    for path in sorted(folder.iterdir()):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if _try_lock(descriptor):
                path.unlink(missing_ok=True)
                dead.add(path.name)
            else:
                alive.add(path.name)
        finally:
            os.close(descriptor)
    return alive, dead
