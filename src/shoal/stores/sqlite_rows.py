"""What a registry file holds and how it changes: the `KVStore` contract in SQL, without waiting.

Runs on the store's own thread. Must not know the event loop, and wakes nobody: `writes` grows when
there is news. Never waits for a lock: SQLite's error for it passes through, and nothing was done.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from zlib import crc32

from shoal.domain.errors import StoreDamaged
from shoal.ports import Change, Delete, Entry, Listing, Op, Put
from shoal.stores import rules
from shoal.stores.sqlite_file import damaged

_BATCH: Final = 256  # revisions that a watch reads at once,
_BATCH_ROWS: Final = 2_000  # … or as many whole ones as begin within so many rows

# SQLite empties its log by itself, but only at a moment when nobody reads from it; where several
# read by turns there may be none. Beyond this size, readers are waited for.
_LOG_BYTES: Final = 8 * 1024**2
_LOG_WAIT_MS: Final = 100  # longer than reading takes, unless a reader stands still

# A lease kept alive that much later than now shows that the clock was set back. Not less: who was
# stopped after reading the clock, and goes on, sees the like.
_CLOCK_WENT_BACK_S: Final = 5.0


def checksum(key: bytes, value: bytes | None, revision: int) -> int:
    """SQLite checks the structure of its pages, not their content; a flipped bit in a value would
    be served as if somebody had written it."""
    return crc32(value or b"", crc32(key, revision & 0xFFFFFFFF))


def is_sound(key: object, value: object, revision: object, check: object) -> bool:
    """Is the row as it was written? Damage may even turn a column into a value of another type."""
    return (
        isinstance(key, bytes)
        and isinstance(value, bytes | None)
        and isinstance(revision, int)
        and checksum(key, value, revision) == check
    )


def end_of(prefix: bytes) -> bytes:
    """The least key behind all that begin with `prefix`. UTF-8 has no byte 0xFF, so the last byte
    can always grow; behind everything is 0xFF."""
    return prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else b"\xff"


class Rows:
    """The open file. Methods raise sqlite3.Error; the caller puts that in words.

    writes: grows with each revision made here. next_end: when the next lease ends (wall clock), as
    `expire` last saw it.
    """

    def __init__(self, db: sqlite3.Connection, path: Path, history_limit: int) -> None:
        self.writes = 0
        self.next_end = math.inf
        self._db = db
        self._path = path
        self._history_limit = history_limit
        self._log = path.with_name(f"{path.name}-wal")
        self._log_limit = _LOG_BYTES

    def close(self) -> None:
        self._db.close()

    def verify(self) -> None:
        """Does the revision go with the history? A lower one would be given out twice. Raises
        StoreDamaged."""
        with self._reading():
            (newest,) = self._db.execute("SELECT max(revision) FROM history").fetchone()
            revision, compacted = self._number("revision"), self._number("compacted")
        if (newest or 0) != revision or not 0 <= compacted <= revision:
            raise damaged(self._path, "its revision does not go with its history")

    def get(self, key: bytes) -> Entry | None:
        row = self._db.execute(
            "SELECT key, value, revision, checksum FROM entry WHERE key = ?", (key,)
        ).fetchone()
        return self._entry(row) if row else None

    def list(self, prefix: str, start_after: str | None, limit: int | None) -> Listing:
        low, high = prefix.encode(), end_of(prefix.encode())
        behind = (start_after or "").encode()
        with self._reading():
            rows = self._db.execute(
                "SELECT key, value, revision, checksum FROM entry "
                "WHERE key >= ? AND key < ? AND key > ? ORDER BY key LIMIT ?",
                (max(low, behind), high, behind, -1 if limit is None else limit + 1),
            ).fetchall()
            revision = self._number("revision")
        more = limit is not None and len(rows) > limit
        return Listing([self._entry(row) for row in rows[:limit]], revision, more)

    def transact(self, ops: Sequence[Op]) -> int:
        with self._writing():
            for op in ops:
                self._check(op)
            return self._apply(ops)

    def changes(self, prefix: str, cursor: int) -> tuple[Sequence[Change], int]:
        """The next changes with revision > `cursor`, some transactions at a time, and the cursor
        behind them. Raises Compacted."""
        with self._reading():
            current = self._number("revision")
            rules.check_history(cursor, self._number("compacted"), current)
            if cursor == current:
                return (), cursor
            last = min(current, cursor + _BATCH)
            far = self._db.execute(
                "SELECT revision FROM history WHERE revision > ? ORDER BY revision LIMIT 1 "
                "OFFSET ?", (cursor, _BATCH_ROWS),
            ).fetchone()
            if far is not None:
                last = min(last, far[0])
            rows = self._db.execute(
                "SELECT key, value, revision, checksum FROM history WHERE revision > ? "
                "AND revision <= ? AND key >= ? AND key < ? ORDER BY id",
                (cursor, last, prefix.encode(), end_of(prefix.encode())),
            ).fetchall()
        return [self._change(row) for row in rows], last

    # --- leases

    def grant(self, ttl_s: float, now: float) -> int:
        added = self._db.execute(
            "INSERT INTO lease (ttl_s, ends_at) VALUES (?, ?)", (ttl_s, now + ttl_s)
        )
        assert added.lastrowid is not None
        return added.lastrowid

    def keep_alive(self, lease: int, now: float) -> None:
        updated = self._db.execute(
            "UPDATE lease SET ends_at = ? + ttl_s WHERE id = ?", (now, lease)
        )
        if updated.rowcount == 0:
            raise rules.lease_lost(lease)

    def revoke(self, leases: Sequence[int]) -> None:
        with self._writing():
            self._end(leases)

    def expire(self, now: float) -> None:
        """End the leases whose time is up, in the order in which they ended. Where the clock was
        set back, those of processes that died before would stay as long as it was set back by: they
        begin anew instead."""
        ends, begun = self._db.execute(
            "SELECT min(ends_at), max(ends_at - ttl_s) FROM lease"
        ).fetchone()
        self.next_end = math.inf if ends is None else ends
        if self.next_end <= now:
            with self._writing():
                due = "SELECT id FROM lease WHERE ends_at <= ? ORDER BY ends_at, id"
                self._end([lease for (lease,) in self._db.execute(due, (now,)).fetchall()])
        if begun is not None and begun > now + _CLOCK_WENT_BACK_S:
            self._db.execute(
                "UPDATE lease SET ends_at = ? + ttl_s WHERE ends_at - ttl_s > ?",
                (now, now + _CLOCK_WENT_BACK_S),
            )

    def _end(self, leases: Sequence[int]) -> None:
        for lease in leases:
            keys = self._db.execute(
                "SELECT key FROM entry WHERE lease = ? ORDER BY key", (lease,)
            ).fetchall()
            self._apply([Delete(bytes(key).decode()) for (key,) in keys])
            self._db.execute("DELETE FROM lease WHERE id = ?", (lease,))

    # --- inside a transaction

    def _check(self, op: Op) -> None:
        if op.expect is None and (isinstance(op, Delete) or op.lease is None):
            return
        row = self._db.execute(
            "SELECT revision FROM entry WHERE key = ?", (op.key.encode(),)
        ).fetchone()
        rules.check_expected(op.key, op.expect, row[0] if row else 0)
        if isinstance(op, Put) and op.lease is not None:
            held = self._db.execute("SELECT 1 FROM lease WHERE id = ?", (op.lease,)).fetchone()
            if held is None:
                raise rules.lease_lost(op.lease)

    def _apply(self, ops: Sequence[Op]) -> int:
        """Checked ops; those that change nothing do not count."""
        current = self._number("revision")
        changed = [self._apply_one(op, current + 1) for op in ops]
        if not any(changed):
            return current
        self._set("revision", current + 1)
        self._compact()
        self.writes += 1
        return current + 1

    def _apply_one(self, op: Op, revision: int) -> bool:
        key = op.key.encode()
        value = op.value if isinstance(op, Put) else None
        check = checksum(key, value, revision)
        if isinstance(op, Put):
            self._db.execute(
                "INSERT INTO entry (key, value, revision, lease, checksum) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = "
                "excluded.revision, lease = excluded.lease, checksum = excluded.checksum",
                (key, value, revision, op.lease, check),
            )
        elif self._db.execute("DELETE FROM entry WHERE key = ?", (key,)).rowcount == 0:
            return False
        self._db.execute(
            "INSERT INTO history (key, value, revision, checksum) VALUES (?, ?, ?, ?)",
            (key, value, revision, check),
        )
        return True

    def _compact(self) -> None:
        """Keep at least the latest `history_limit` changes, whole transactions at a time. A quarter
        more may gather, so that not every write deletes."""
        limit = self._history_limit
        (oldest,) = self._db.execute("SELECT min(id) FROM history").fetchone()
        (newest,) = self._db.execute("SELECT max(id) FROM history").fetchone()
        if newest - oldest < limit + limit // 4:
            return
        (kept,) = self._db.execute(
            "SELECT revision FROM history WHERE id > ? ORDER BY id LIMIT 1", (newest - limit,)
        ).fetchone()
        self._db.execute("DELETE FROM history WHERE revision < ?", (kept,))
        self._set("compacted", kept - 1)

    def _number(self, name: str) -> int:
        row = self._db.execute("SELECT value FROM registry WHERE name = ?", (name,)).fetchone()
        if row is None or not isinstance(row[0], int):
            raise damaged(self._path, f"its {name} is missing")
        return row[0]

    def _set(self, name: str, value: int) -> None:
        self._db.execute("UPDATE registry SET value = ? WHERE name = ?", (value, name))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Several statements that see one state."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            if self._db.in_transaction:  # some errors end it by themselves
                self._db.execute("ROLLBACK")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        writes = self.writes
        try:
            yield
            self._db.execute("COMMIT")
            self._shorten_log()
        except BaseException:
            self.writes = writes
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _shorten_log(self) -> None:
        try:
            if self._log.stat().st_size <= self._log_limit:
                return
            self._db.execute(f"PRAGMA busy_timeout = {_LOG_WAIT_MS}")
            try:
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                self._db.execute("PRAGMA busy_timeout = 0")
            # Not again at every write where a reader stands still.
            self._log_limit = max(self._log.stat().st_size + _LOG_BYTES // 2, _LOG_BYTES)
        except (sqlite3.Error, OSError):
            pass  # what is written stays written; what is wrong shows at the next write

    # --- rows to values

    def _entry(self, row: tuple[bytes, bytes, int, int]) -> Entry:
        if not is_sound(*row):
            raise self._damaged(row[0])
        key, value, revision, _ = row
        return Entry(key.decode(), value, revision)

    def _change(self, row: tuple[bytes, bytes | None, int, int]) -> Change:
        if not is_sound(*row):
            raise self._damaged(row[0])
        key, value, revision, _ = row
        return Change(key.decode(), value, revision)

    def _damaged(self, key: object) -> StoreDamaged:
        name = key.decode(errors="replace") if isinstance(key, bytes) else key
        return damaged(self._path, f"the record of {name!r} was altered")
