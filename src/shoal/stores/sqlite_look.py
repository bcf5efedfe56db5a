"""Notices that another process wrote to the file, or that a lease ended, and says so.

A look costs microseconds while nothing happens: SQLite counts in shared memory what others commit,
and tells it without reading the file (https://sqlite.org/pragma.html#pragma_data_version). So it is
done on the event loop, over a connection of its own, and one look serves all watches of a store.
Must not know what changed: each watch reads that for itself.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Lookout:
    """Calls `tell` when there may be news, at most `poll_s` late, while somebody `watches`.

    is_due: whether something is to be told that no write shows. Belongs to one event loop; made on
    any thread.
    """

    def __init__(
        self, path: Path, poll_s: float, is_due: Callable[[], bool], tell: Callable[[], None]
    ) -> None:
        self._poll_s = poll_s
        self._is_due = is_due
        self._tell = tell
        self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        self._seen: int | None = None
        self._watches = 0
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._watches += 1
        if self._watches == 1:
            self._wait()
        try:
            yield
        finally:
            self._watches -= 1
            if self._watches == 0:
                self.stop()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """After `stop`, on any thread."""
        self._db.close()

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._poll_s, self._look)

    def _look(self) -> None:
        self._wait()
        if self._is_written() or self._is_due():
            self._tell()

    def _is_written(self) -> bool:
        """By any other connection, this store's own included."""
        try:
            (version,) = self._db.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            return True  # who reads then finds out what is wrong, and has the words for it
        if version == self._seen:
            return False
        self._seen = version
        return True
