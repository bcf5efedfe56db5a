"""Gets on after a registry file was damaged: moves it aside, and reads from it what can be read.

Never changes or deletes the damaged file: it is all that is left of what people declared. Whether
to go on without it is for the caller to decide, and to say loudly.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Final

from shoal.domain.errors import StoreUnavailable
from shoal.stores.sqlite_rows import is_sound

_COMPANIONS: Final = ("-wal", "-shm")  # must go where the file goes, under its new name
_LAST_ROW: Final = 2**62


def quarantine(path: Path) -> Path:
    """Rename the file, and what SQLite keeps beside it, to `<name>.corrupt-<UTC time>`; the new
    path. No process may have it open. Raises StoreUnavailable."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = path.with_name(f"{path.name}.corrupt-{stamp}")
    for number in count(2):
        if not aside.exists():
            break
        aside = path.with_name(f"{path.name}.corrupt-{stamp}-{number}")
    try:
        # The log first: were it left behind, SQLite could replay it into the next file.
        for companion in _COMPANIONS:
            beside = path.with_name(path.name + companion)
            if beside.exists():
                beside.rename(aside.with_name(aside.name + companion))
        path.rename(aside)
    except OSError as error:
        raise StoreUnavailable(
            f"damaged registry {path} cannot be moved aside: {error.strerror or error}; move it "
            "by hand, or set registry.url to another file"
        ) from error
    return aside


def replace(path: Path, anew: Path) -> Path:
    """Let the closed registry `anew` take the place of the damaged `path`; where that is now.
    No process may open `path` meanwhile; those that have it open notice. Raises StoreUnavailable.
    """
    aside = quarantine(path)
    try:
        anew.rename(path)
    except OSError as error:
        raise StoreUnavailable(
            f"registry {path}: what could be read of it lies in {anew} and cannot be renamed: "
            f"{error.strerror or error}; rename it by hand"
        ) from error
    return aside


def discard(path: Path) -> None:
    """Delete an unfinished registry of a repair, if there is one. Raises StoreUnavailable."""
    try:
        for each in ("", *_COMPANIONS):
            path.with_name(path.name + each).unlink(missing_ok=True)
    except OSError as error:
        raise StoreUnavailable(
            f"{path}, left by an earlier repair, cannot be deleted: {error.strerror or error}; "
            "delete it by hand"
        ) from error


def salvage(path: Path) -> list[tuple[str, bytes]]:
    """What can still be read of a damaged file and has its right checksum, by key. Keys that hung
    on leases are left out: their owners write them anew.

    The history repeats the latest changes, so a record lost in one table may be found in the other;
    of two states of a key the later counts. A key deleted long ago does not come back, but one
    deleted lately may, where just that line of the history is lost. Raises StoreUnavailable when
    the file cannot be copied for reading.
    """
    with tempfile.TemporaryDirectory(prefix="shoal-salvage-") as folder:
        copy = Path(folder) / "registry"
        try:
            shutil.copyfile(path, copy)
            log = path.with_name(path.name + "-wal")
            if log.exists():
                shutil.copyfile(log, copy.with_name(copy.name + "-wal"))
        except OSError as error:
            raise StoreUnavailable(
                f"damaged registry {path} cannot be read: {error.strerror or error}"
            ) from error
        with closing(sqlite3.connect(copy, isolation_level=None)) as db:
            return _readable(db)


def _readable(db: sqlite3.Connection) -> list[tuple[str, bytes]]:
    try:
        db.execute("PRAGMA writable_schema = ON")  # SQLite then reads truncated files too
    except sqlite3.Error:
        return []  # not even the first page is SQLite's
    latest: dict[str, tuple[int, bytes | None]] = {}
    leased: set[str] = set()
    for table, lease in (("entry", "lease"), ("history", "NULL")):
        for key, value, revision, held in _scan(db, table, lease):
            name = key.decode()
            if held is not None:
                leased.add(name)
            if revision >= latest.get(name, (0, None))[0]:
                latest[name] = (revision, value)
    return sorted(
        (name, value)
        for name, (_, value) in latest.items()
        if value is not None and name not in leased
    )


_Row = tuple[bytes, bytes | None, int, object]


def _scan(db: sqlite3.Connection, table: str, lease: str) -> Iterator[_Row]:
    """Every readable and sound row, in order of row number.

    Where reading fails, it goes on from further and further ahead until it succeeds, then comes
    back half-way as long as that succeeds too; 62 doublings reach the end of any table.
    """
    select = (
        f"SELECT id, key, value, revision, checksum, {lease} FROM {table} "
        "WHERE id >= ? ORDER BY id LIMIT ?"
    )

    def readable(at: int) -> bool:
        try:
            db.execute(select, (at, 1)).fetchone()
        except sqlite3.Error:
            return False
        return True

    at = 1
    while at < _LAST_ROW:
        try:
            for number, key, value, revision, check, held in db.execute(select, (at, -1)):
                at = number + 1
                if is_sound(key, value, revision, check):
                    yield key, value, revision, held
            return
        except sqlite3.Error:
            step = 1
            while not readable(at + step):
                step *= 2
                if at + step >= _LAST_ROW:
                    return
            low, high = at + step // 2, at + step
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if readable(middle) else (middle, high)
            at = high
