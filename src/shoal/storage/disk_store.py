"""What all users of the disk cache share, and how it is changed: by one at a time, in one
transaction, with room made first.

What is in the cache, and who asks for it, is for `disk_cache`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shoal.domain.errors import InvalidSpecification, NoRoom, ShoalError, TooLarge, Unavailable
from shoal.observability.logs import get_logger
from shoal.storage import disk_repair
from shoal.storage.disk_folders import Folders
from shoal.storage.disk_index import Index, NewerLayout
from shoal.storage.disk_locks import Presence, alone, if_nobody_has, open_lock, survey
from shoal.storage.files import readable_name
from shoal.storage.writing import free_bytes, sync_folder, unwritable, writing

log = get_logger("shoal.storage")


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """keep_partial_s: for how long what came of an interrupted download is kept at most. clock,
    wall, sleep, free: seconds that only grow, seconds since the epoch, a wait, and the room on a
    folder's disk: arguments for tests."""

    keep_partial_s: float = 7 * 24 * 3600.0
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    free: Callable[[Path], int] = free_bytes


class Store:
    """One process's hand on the cache. Safe for threads; `index` may only be used, and what is said
    so may only be called, inside of `change`."""

    def __init__(self, root: Path, budget_bytes: int, options: CacheOptions) -> None:
        """See `DiskCache`."""
        self.root = root.absolute()
        self.name = readable_name(self.root)
        self.budget_bytes = budget_bytes
        self.options = options
        self.folders = Folders(self.root)
        self.evictions = 0
        self._threads = threading.RLock()
        self._held: dict[str, int] = {}
        self._closed = False
        self._broken = False
        with writing(self.root):
            self.folders.make()
            self._lock = open_lock(self.folders.lock)
            try:
                with alone(self._lock):
                    self.index = self._open()
                    self._presence = Presence(self.folders.users)
                    sync_folder(self.folders.users)
            except BaseException:
                os.close(self._lock)
                raise

    def close(self) -> None:
        """Raises nothing."""
        with self._threads:
            if self._closed:
                return
            clean = False
            try:
                with self.change():
                    self.index.forget(self._presence.name)
                clean = not self._broken
            except ShoalError as error:  # the next one to open it mends it
                log.warning("the disk cache was not closed cleanly", error=error.message)
            finally:
                with alone(self._lock):
                    self._presence.end(clean=clean)
                self._closed = True
                self.index.close()
                os.close(self._lock)

    @contextmanager
    def change(self) -> Iterator[None]:
        """Alone among all threads and processes, in one transaction."""
        with self._threads:
            if self._closed:
                raise Unavailable(f"the disk cache in {self.name} is closed")
            try:
                with alone(self._lock), self.index.transaction():
                    yield
            except OSError as error:
                raise unwritable(error, self.root) from error
            except sqlite3.Error as error:
                self._broken |= not isinstance(error, sqlite3.OperationalError)
                raise Unavailable(
                    f"the disk cache in {self.name} cannot be used: {error}; look after that disk, "
                    "and restart, which mends the cache", retry_after_s=30.0) from error

    def hold(self, tree: str) -> None:
        """Until `release`, or this process ends, nobody evicts `tree`. Inside of `change`."""
        self._held[tree] = self._held.get(tree, 0) + 1
        self.index.hold(tree, self._presence.name)

    def release(self, tree: str) -> None:
        with self._threads:
            if self._closed:
                return
            self._held[tree] -= 1
            if self._held[tree]:
                return
            del self._held[tree]
            try:
                with self.change():
                    self.index.release(tree, self._presence.name)
            except ShoalError as error:  # it stays held until the process ends, and no longer
                log.warning("an artifact in the disk cache stays held", error=error.message)

    def make_room(self, wanted: Callable[[], int], own: str, to_write: int = 0) -> None:
        """Remove what is worth least until `wanted()` bytes more fit into the budget, and
        `to_write` onto the disk. Nothing is removed where that would not be enough. Inside of
        `change`.

        own: the fetch that wants room, whose reservation does not count.
        Raises TooLarge, NoRoom.
        """
        if wanted() > self.budget_bytes:
            raise TooLarge(
                f"{wanted():,} bytes are more than the disk cache in {self.name} may hold, which "
                f"is {self.budget_bytes:,}; give it more, or make the model smaller")
        if self._missing(wanted(), own, to_write) > 0:
            self._forget_the_dead()
        while (missing := self._missing(wanted(), own, to_write)) > 0:
            if self._clear_abandoned(own):
                continue
            victim = self.index.least()
            removable = self.index.blob_bytes() - self.index.held_bytes()
            if victim is None or missing > removable:
                raise self._no_room(wanted(), own)
            self.remove(victim, evicted=True)
            self.evictions += 1

    def remove(self, tree: str, *, evicted: bool = False) -> None:
        """Inside of `change`."""
        gone = self.index.remove(tree, evicted=evicted)
        self.folders.remove_tree(tree)
        for sha256 in gone:
            self.folders.remove_blob(sha256)
        log.info("an artifact left the disk cache", tree=tree, evicted=evicted)

    def _no_room(self, wanted: int, own: str) -> NoRoom:
        return NoRoom(
            f"the disk cache in {self.name} has no room for {wanted:,} bytes: "
            f"{self.index.held_bytes():,} are in use, {self.index.reserved_bytes(own):,} reserved "
            f"for downloads, {self.options.free(self.root):,} free on its disk, and it may hold "
            f"{self.budget_bytes:,}; give it more, or unload models", retry_after_s=30.0)

    def _open(self) -> Index:
        alive, dead = survey(self.folders.users)
        try:
            index = Index(self.folders.index)
            if not alive and dead and not index.is_sound():
                index.close()
                raise sqlite3.DatabaseError("it is damaged")
        except NewerLayout as error:
            raise InvalidSpecification(
                f"the disk cache in {self.name} was written by a later release of "
                "Shoal; give this one another folder") from error
        except sqlite3.Error as error:
            if alive or isinstance(error, sqlite3.OperationalError):
                raise Unavailable(
                    f"the disk cache in {self.name} cannot be used: {error}; look "
                    "after that disk, or give another folder", retry_after_s=30.0) from error
            log.warning("the disk cache's index is damaged and made anew", error=str(error))
            self.folders.remove_index()
            index = Index(self.folders.index)
        with index.transaction():
            index.only_users(sorted(alive))
            if dead:
                index.set_state("crashed", 1)
            if not alive and (index.is_new or index.state("crashed")):
                disk_repair.repair(self.folders, index, self.budget_bytes)
                index.set_state("crashed", 0)
            if not alive:
                self._clear_old(index)
        return index

    def _clear_old(self, index: Index) -> None:
        oldest_s = self.options.wall() - self.options.keep_partial_s
        for key, at_s in index.fetches():
            if at_s < oldest_s:
                self.folders.remove_fetch(key)
                index.end_fetch(key)

    def _missing(self, wanted: int, own: str, to_write: int) -> int:
        """How many bytes have to go."""
        used = self.index.blob_bytes() + self.index.reserved_bytes(own)
        short = to_write - self.options.free(self.root) if to_write else 0
        return max(used + wanted - self.budget_bytes, short)

    def _forget_the_dead(self) -> None:
        alive, dead = survey(self.folders.users)
        if dead:
            self.index.only_users(sorted(alive))
            self.index.set_state("crashed", 1)

    def _clear_abandoned(self, own: str) -> bool:
        """Remove the oldest download that nobody goes on with. Was there one?"""
        for key, _ in self.index.fetches():
            if key == own:
                continue
            with if_nobody_has(self.folders.fetching / key) as mine:
                if mine:
                    self.folders.remove_fetch(key)
                    self.index.end_fetch(key)
                    return True
        return False
