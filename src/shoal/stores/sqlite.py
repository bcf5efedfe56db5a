"""A store in one SQLite file: survives restarts, shared by the processes of one machine.

SQLite blocks, so everything runs on one thread of the store's own. Who meets a lock of another
process leaves that thread and comes back a little later, so that reading goes on while a write
waits; writes keep their order. How other processes' writes are noticed lies in `sqlite_look`, how
rows are written in `sqlite_rows`, how the file is opened and its errors are told in `sqlite_file`.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from shoal.domain.errors import StoreUnavailable
from shoal.observability.logs import get_logger
from shoal.ports import Change, Clock, Entry, Listing, Op
from shoal.stores import rules
from shoal.stores.signal import Signal
from shoal.stores.singly import WritesSingly
from shoal.stores.sqlite_file import Opening, in_words, is_locked, open_file
from shoal.stores.sqlite_look import Lookout
from shoal.stores.sqlite_rows import Rows

# Until a lock is tried again. SQLite's own waits grow up to 0.1 s, so that who waits longest tries
# most rarely: of eight that write without a pause, one waited 0.7 s for a commit of 0.5 ms.
_RETRY_S: Final = (0.000_5, 0.002_5)

_log = get_logger(__name__)
_T = TypeVar("_T")


class SqliteStore(WritesSingly):
    """See `ports.KVStore`. Leases end by the wall clock, which all processes share; those granted
    here are revoked by `close`."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        history_limit: int = rules.HISTORY_LIMIT,
        busy_timeout_s: float = 5.0,
        poll_s: float = 0.05,
    ) -> None:
        """Opens the file, which blocks for milliseconds, at most about `busy_timeout_s`.

        history_limit: changes kept for watches. busy_timeout_s: how long to wait for a lock that
        another process holds. poll_s: how late a watch may hear of another process's write, or
        that a lease ended.

        Raises StoreDamaged for a corrupt file, which is left as it is, else StoreUnavailable.
        """
        self.path = path.absolute()
        self._clock = clock
        self._opening = Opening(self.path, busy_timeout_s)
        self._granted: set[int] = set()
        self._changed = Signal()
        self._announced = 0
        self._closed = False
        self._turn = asyncio.Lock()  # of writes, which so happen in the order they were asked for
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="registry")
        try:
            self._rows, self._file = self._thread.submit(self._open, history_limit).result()
            with in_words(self._opening):
                self._lookout = Lookout(self.path, poll_s, self._is_due, self._changed.fire)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise

    async def get(self, key: str) -> Entry | None:
        encoded = rules.encode_key(key)
        return await self._run(lambda rows, _: rows.get(encoded))

    async def list(
        self, prefix: str, *, start_after: str | None = None, limit: int | None = None
    ) -> Listing:
        return await self._run(lambda rows, _: rows.list(prefix, start_after, limit))

    async def transact(self, ops: Sequence[Op]) -> int:
        rules.check_ops(ops)
        return await self._write(lambda rows, _: rows.transact(ops))

    async def watch(self, prefix: str, from_revision: int) -> AsyncIterator[Change]:
        cursor = from_revision
        with self._lookout.watching():
            while True:
                seen = self._changed.count
                changes, read_to = await self._changes(prefix, cursor)
                for change in changes:
                    yield change
                if read_to == cursor:
                    await self._changed.beyond(seen, None)
                cursor = read_to

    async def grant(self, ttl_s: float) -> int:
        rules.check_ttl(ttl_s)
        lease = await self._write(lambda rows, now: rows.grant(ttl_s, now))
        self._granted.add(lease)
        return lease

    async def keep_alive(self, lease: int) -> None:
        await self._write(lambda rows, now: rows.keep_alive(lease, now))

    async def revoke(self, lease: int) -> None:
        await self._write(lambda rows, _: rows.revoke([lease]))
        self._granted.discard(lease)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._lookout.stop()
        self._changed.fire()
        try:
            if leases := sorted(self._granted):
                await self._run(lambda rows, _: rows.revoke(leases), writes=True, closing=True)
        except StoreUnavailable as error:  # the leases end by themselves, only later
            _log.warning("leases were not revoked", error=error.message)
        finally:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
            self._thread.shutdown(wait=False)

    async def _changes(self, prefix: str, cursor: int) -> tuple[Sequence[Change], int]:
        return await self._run(lambda rows, _: rows.changes(prefix, cursor))

    async def _write(self, work: Callable[[Rows, float], _T]) -> _T:
        async with self._turn:
            return await self._run(work, writes=True)

    async def _run(
        self, work: Callable[[Rows, float], _T], *, writes: bool = False, closing: bool = False
    ) -> _T:
        """Do it on the store's thread, again and again while the file is locked.

        Doing it again is safe: all work is one transaction, and a lock is met before its first
        write or undoes them all.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._opening.busy_timeout_s
        with in_words(self._opening):
            while True:
                if self._closed and not closing:
                    raise rules.closed(f"registry {self.path}")
                try:
                    return await loop.run_in_executor(self._thread, self._work, work, writes)
                except sqlite3.OperationalError as error:
                    if not is_locked(error) or loop.time() >= give_up_at:
                        raise
                finally:
                    if self._rows.writes != self._announced:
                        self._announced = self._rows.writes
                        self._changed.fire()
                await asyncio.sleep(random.uniform(*_RETRY_S))

    def _is_due(self) -> bool:
        """Has a lease ended, or the file gone, so that watches must be told?"""
        try:
            return self._rows.next_end <= self._clock.wall() or self._lies_there() != self._file
        except OSError:
            return True  # who reads then has the words for it

    # --- on the store's thread

    def _open(self, history_limit: int) -> tuple[Rows, tuple[int, int]]:
        db = open_file(self._opening)
        with in_words(self._opening):
            rows = Rows(db, self.path, history_limit)
            try:
                rows.verify()
                return rows, _identity(self.path)
            except BaseException:
                rows.close()
                raise

    def _work(self, work: Callable[[Rows, float], _T], writes: bool) -> _T:
        self._check_place()
        now = self._clock.wall()
        try:
            self._rows.expire(now)
        except sqlite3.OperationalError as error:
            if writes or not is_locked(error):
                raise
            # Who holds the lock, or writes next, ends the leases; reading does not wait for it.
        return work(self._rows, now)

    def _check_place(self) -> None:
        """SQLite goes on with a file that was moved or deleted: writes would vanish with it. One
        that was put in its place counts its revisions and leases anew, which neither this store's
        users nor other instances can follow: only a restart takes it over."""
        there = self._lies_there()
        if there is None:
            raise StoreUnavailable(
                f"registry {self.path} was moved or deleted while it was open: put it back, or "
                "restart this instance to begin with an empty one"
            )
        if there != self._file:
            raise StoreUnavailable(
                f"registry {self.path} was replaced by another file while it was open: restart "
                "this instance to use that one"
            )

    def _lies_there(self) -> tuple[int, int] | None:
        """Which file is at the path now; None: there is none. Raises OSError."""
        try:
            return _identity(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _close(self) -> None:
        self._lookout.close()
        self._rows.close()


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
