"""A store in one SQLite file: survives restarts, shared by the processes of one machine.

SQLite blocks, so everything runs on one thread of the store's own, in order. Other processes'
writes are noticed by looking every `poll_s` while a watch is open. How rows are written lies in
`sqlite_rows`, how the file is opened and its errors are told in `sqlite_file`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from shoal.domain.errors import StoreUnavailable
from shoal.observability.logs import get_logger
from shoal.ports import Change, Clock, Delete, Entry, Listing, Op, Put
from shoal.stores import rules
from shoal.stores.signal import Signal
from shoal.stores.sqlite_file import Opening, in_words, open_file
from shoal.stores.sqlite_rows import Rows

_log = get_logger(__name__)
_T = TypeVar("_T")


class SqliteStore:
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

        history_limit: changes kept for watches. busy_timeout_s: how long a write waits for one of
        another process. poll_s: how late a watch may hear of another process's write, or that a
        lease ended.

        Raises StoreDamaged for a corrupt file, which is left as it is, else StoreUnavailable.
        """
        self.path = path.absolute()
        self._clock = clock
        self._poll_s = poll_s
        self._opening = Opening(self.path, busy_timeout_s)
        self._granted: set[int] = set()
        self._changed = Signal()
        self._announced = 0
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="registry")
        try:
            self._rows, self._file = self._thread.submit(self._open, history_limit).result()
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
        return await self._run(lambda rows, _: rows.transact(ops))

    async def put(
        self, key: str, value: bytes, *, expect: int | None = None, lease: int | None = None
    ) -> int:
        return await self.transact([Put(key, value, expect, lease)])

    async def delete(self, key: str, *, expect: int | None = None) -> int:
        return await self.transact([Delete(key, expect)])

    async def watch(self, prefix: str, from_revision: int) -> AsyncIterator[Change]:
        cursor = from_revision
        while True:
            seen = self._changed.count
            changes, read_to = await self._changes(prefix, cursor)
            for change in changes:
                yield change
            if read_to == cursor:
                await self._changed.beyond(seen, self._poll_s)
            cursor = read_to

    async def grant(self, ttl_s: float) -> int:
        rules.check_ttl(ttl_s)
        lease = await self._run(lambda rows, now: rows.grant(ttl_s, now))
        self._granted.add(lease)
        return lease

    async def keep_alive(self, lease: int) -> None:
        await self._run(lambda rows, now: rows.keep_alive(lease, now))

    async def revoke(self, lease: int) -> None:
        await self._run(lambda rows, _: rows.revoke([lease]))
        self._granted.discard(lease)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._changed.fire()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    async def _changes(self, prefix: str, cursor: int) -> tuple[Sequence[Change], int]:
        return await self._run(lambda rows, _: rows.changes(prefix, cursor))

    async def _run(self, work: Callable[[Rows, float], _T]) -> _T:
        if self._closed:
            raise rules.closed(f"registry {self.path}")
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, self._work, work
            )
        finally:
            if self._rows.writes != self._announced:
                self._announced = self._rows.writes
                self._changed.fire()

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

    def _work(self, work: Callable[[Rows, float], _T]) -> _T:
        with in_words(self._opening):
            self._check_place()
            now = self._clock.wall()
            self._rows.expire(now)
            return work(self._rows, now)

    def _check_place(self) -> None:
        """SQLite goes on with a file that was moved or deleted: writes would vanish with it."""
        try:
            if _identity(self.path) == self._file:
                return
        except FileNotFoundError:
            pass
        raise StoreUnavailable(
            f"registry {self.path} was moved or replaced while it was open: restart this instance "
            "to use what lies there now"
        )

    def _close(self) -> None:
        try:
            if self._granted:
                with in_words(self._opening):
                    self._check_place()
                    self._rows.revoke(sorted(self._granted))
        except StoreUnavailable as error:  # the leases end by themselves, only later
            _log.warning("leases were not revoked", error=error.message)
        finally:
            self._rows.close()


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
