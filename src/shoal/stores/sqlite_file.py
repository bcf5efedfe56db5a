"""Opens the registry's SQLite file, or says in words why it cannot be used.

Decides what counts as our file, which schema it must have, and what each of SQLite's errors means
for the person who operates the instance. Knows nothing of keys, leases or watches.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shoal.domain.errors import StoreDamaged, StoreUnavailable

SCHEMA: Final = 2
"""2: models may be written in a compact form that releases of schema 1 cannot read. The tables are
the same, so a file of schema 1 is taken over by saying so in it."""

_APPLICATION: Final = 0x53484F41  # "SHOA", in the file's header: tells our files from others'

_TABLES: Final = (
    "CREATE TABLE registry (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    # Keys are BLOBs: bytewise order and ranges, whatever characters they hold. Entries and history
    # have row numbers, by which salvage steps over damaged pages.
    """CREATE TABLE entry (
        id INTEGER PRIMARY KEY,
        key BLOB NOT NULL UNIQUE,
        value BLOB NOT NULL,
        revision INTEGER NOT NULL,
        lease INTEGER,
        checksum INTEGER NOT NULL
    )""",
    "CREATE INDEX entry_by_lease ON entry (lease) WHERE lease IS NOT NULL",
    """CREATE TABLE history (
        id INTEGER PRIMARY KEY,
        key BLOB NOT NULL,
        value BLOB,
        revision INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    )""",
    "CREATE INDEX history_by_revision ON history (revision)",
    # AUTOINCREMENT: the number of a lease that was lost must never come back as somebody else's.
    """CREATE TABLE lease (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        ttl_s REAL NOT NULL,
        ends_at REAL NOT NULL
    )""",
    "INSERT INTO registry VALUES ('revision', 0), ('compacted', 0)",
)

_RETRY_S: Final = 0.01

_LOG_BYTES: Final = 8 * 1024**2
"""Twice what SQLite lets the log grow to before it writes it into the file."""


@dataclass(frozen=True, slots=True)
class Opening:
    """path: absolute. busy_timeout_s: how long to wait for a lock that another process holds."""

    path: Path
    busy_timeout_s: float


def open_file(opening: Opening) -> sqlite3.Connection:
    """A connection in autocommit mode, for the calling thread alone, which does not wait for locks;
    the file is created when missing, its folder too. Blocks for milliseconds, or up to about
    `busy_timeout_s` while others hold locks.

    Raises StoreDamaged for a file that cannot be read as a registry any more, StoreUnavailable for
    everything else.
    """
    path = opening.path
    with in_words(opening):
        if path.is_dir():
            raise StoreUnavailable(
                f"registry {path} is a folder: set registry.url to a file, for example "
                f"sqlite://{path / 'registry.sqlite3'}"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(path, timeout=opening.busy_timeout_s, isolation_level=None)
        try:
            _prepare(db, opening)
        except BaseException:
            db.close()
            raise
    return db


def _prepare(db: sqlite3.Connection, opening: Opening) -> None:
    _refuse_foreign(db, opening.path)
    _use_wal(db, opening)
    # FULL: every commit reaches the disk before it is answered. NORMAL could lose the last ones at
    # a power cut, and their revisions would be given out a second time, unseen by watches.
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA trusted_schema = OFF")
    db.execute("PRAGMA cell_size_check = ON")
    if not _is_laid_out(db):
        _lay_out(db)
    _check_schema(db, opening.path)
    verdict = "; ".join(str(row[0]) for row in db.execute("PRAGMA integrity_check(3)"))
    if verdict != "ok":
        raise damaged(opening.path, verdict)
    db.execute("BEGIN IMMEDIATE")  # a file that cannot be written is refused now, not later
    db.execute("ROLLBACK")
    # The log may have grown while a reader stood still; afterwards it must not stay so long.
    db.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    db.execute("PRAGMA busy_timeout = 0")  # the store waits in its own way


def _refuse_foreign(db: sqlite3.Connection, path: Path) -> None:
    db.execute("BEGIN")  # one state: another process may be laying it out just now
    try:
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
    if application != _APPLICATION and (application or tables):
        raise StoreUnavailable(
            f"{path} is an SQLite database of another program, not a registry: "
            "set registry.url to another file"
        )


def _use_wal(db: sqlite3.Connection, opening: Opening) -> None:
    """Readers never wait for writers. SQLite does not apply its busy timeout here, so processes
    that start together must try again themselves."""
    give_up_at = time.monotonic() + opening.busy_timeout_s
    while True:
        try:
            (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            if not is_locked(error) or time.monotonic() > give_up_at:
                raise
            time.sleep(_RETRY_S)
    if mode != "wal":
        raise StoreUnavailable(
            f"registry {opening.path}: its file system does not support shared memory, which "
            "SQLite's write-ahead log needs: set data_dir or registry.url to a local disk"
        )


def _is_laid_out(db: sqlite3.Connection) -> bool:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    return bool(application == _APPLICATION)


def _lay_out(db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        if not _is_laid_out(db):  # another process may have been quicker
            for statement in _TABLES:
                db.execute(statement)
            db.execute("INSERT INTO registry VALUES ('schema', ?)", (SCHEMA,))
            db.execute(f"PRAGMA application_id = {_APPLICATION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _check_schema(db: sqlite3.Connection, path: Path) -> None:
    row = db.execute("SELECT value FROM registry WHERE name = 'schema'").fetchone()
    if row is None or not isinstance(row[0], int):
        raise damaged(path, "it does not say which schema it has")
    if row[0] > SCHEMA:
        raise StoreUnavailable(
            f"registry {path} was written by a newer Shoal (schema {row[0]}, this one knows "
            f"{SCHEMA}): upgrade this one, or set registry.url to another file"
        )
    if row[0] < SCHEMA:
        db.execute(  # unless a still newer one was quicker
            "UPDATE registry SET value = ? WHERE name = 'schema' AND value < ?", (SCHEMA, SCHEMA)
        )


def damaged(path: Path, cause: str) -> StoreDamaged:
    return StoreDamaged(
        f"registry {path} is damaged ({cause}): move it aside together with {path.name}-wal and "
        f"{path.name}-shm and start again, or restore a backup; nothing was deleted"
    )


@contextmanager
def in_words(opening: Opening) -> Iterator[None]:
    """Turns errors of SQLite and the file system into StoreUnavailable or StoreDamaged."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explain(error, opening) from error
    except OSError as error:
        raise StoreUnavailable(
            f"registry {opening.path} cannot be used: {error.strerror or error}; check the path "
            "and its permissions, or set data_dir or registry.url elsewhere"
        ) from error


def is_locked(error: sqlite3.Error) -> bool:
    """Does another process hold a lock that stands in the way?"""
    return _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _primary_code(error: sqlite3.Error) -> int | None:
    """The low byte names the kind of error, the rest its circumstances."""
    code = getattr(error, "sqlite_errorcode", None)  # absent where Python itself complains
    return None if code is None else code & 0xFF


def _explain(error: sqlite3.Error, opening: Opening) -> StoreUnavailable:
    path = opening.path
    code = _primary_code(error)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged(path, str(error))
    if is_locked(error):
        return StoreUnavailable(
            f"registry {path} has been locked by another process for {opening.busy_timeout_s:g} s: "
            f"end what holds it (`fuser {path}` names it), or try again later"
        )
    if code == sqlite3.SQLITE_FULL:
        return StoreUnavailable(
            f"registry {path} cannot grow, the disk is full: free space in {path.parent}; "
            "the change was not made"
        )
    if code in (
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_AUTH,
    ):
        return StoreUnavailable(
            f"registry {path} cannot be written ({error}): give this user write access to "
            f"{path.parent} and the files in it, or set data_dir or registry.url elsewhere"
        )
    if code == sqlite3.SQLITE_IOERR:
        return StoreUnavailable(
            f"registry {path}: the disk failed ({error}, {error.sqlite_errorname}): check the "
            f"disk, its free space and quotas of {path.parent}; the change was not made"
        )
    return StoreUnavailable(f"registry {path} failed: {error}; try again, or restart this instance")
