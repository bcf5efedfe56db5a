"""The book-keeping of the disk cache: what it holds, who uses it, and what it is worth.

A SQLite file that all processes share; it is written only by who has the cache's lock. It can be
made anew from what lies on disk, so it is written through to the disk only now and then. Knows of
no file but its own.

What a tree is worth, its rank, is set when it comes and when it is used, as in `core.eviction`:

    L + uses x (seconds to fetch it again + what a look costs) / bytes

The tree of the least rank leaves, and L becomes its rank, so that what stays ages. Uses outlive
their tree, halved for every four turnovers of the cache.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LAYOUT: Final = 1
"""Of the files and tables on disk; another one is not read."""

_LOOK_S: Final = 0.1
_TURNOVERS_TO_HALVE: Final = 4.0
_MAX_PAST: Final = 10_000
_MAX_STATES: Final = 8  # of one URI
_MAX_PLACES: Final = 100_000

_TABLES: Final = """
create table trees (
    tree text primary key, digest text not null, lone blob not null, bytes integer not null,
    cost_s real not null, uses real not null, rank real not null, stamp blob not null,
    checked integer not null
) without rowid;
create index trees_by_digest on trees (digest);
create index trees_by_rank on trees (rank);
create table files (
    tree text not null, name blob not null, sha256 text not null, bytes integer not null,
    primary key (tree, name)
) without rowid;
create index files_by_content on files (sha256);
create table blobs (sha256 text primary key, bytes integer not null) without rowid;
create table holds (tree text not null, user text not null, primary key (tree, user)) without rowid;
create table fetches (key text primary key, bytes integer not null, at_s real not null);
create table places (
    uri blob not null, tag text not null, digest text not null, number integer not null,
    primary key (uri, tag)
) without rowid;
create index places_by_number on places (number);
create table past (digest text primary key, uses real not null, turnovers real not null);
create table state (name text primary key, value real not null) without rowid;
"""


class NewerLayout(Exception):
    """The file was written by a later release."""


@dataclass(frozen=True, slots=True)
class Tree:
    """An artifact on disk. tree: the name of its folder. digest: `sha256:` and 64 hex digits.
    lone: the name of the file that it is; empty: it is the folder. stamp: of its files when they
    were looked at last. checked: nothing has happened since then that would need more than that."""

    tree: str
    digest: str
    lone: str
    size_bytes: int
    cost_s: float
    stamp: bytes
    checked: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """A file of a tree. name: relative to the tree's folder."""

    name: str
    sha256: str
    size_bytes: int


class Index:
    """Not safe for threads; who uses it has the cache's lock."""

    def __init__(self, path: Path) -> None:
        """Raises sqlite3.Error for a file that cannot be used, NewerLayout."""
        self.is_new = not path.exists()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        try:
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = normal")
            layout = self._db.execute("pragma user_version").fetchone()[0]
            if layout > LAYOUT:
                raise NewerLayout
            if layout != LAYOUT:
                self.is_new = True
                with self.transaction():
                    for statement in _TABLES.split(";"):
                        self._db.execute(statement)
                    self._db.execute(f"pragma user_version = {LAYOUT}")
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    def is_sound(self) -> bool:
        """Reads all of the file."""
        return [tuple(row) for row in self._db.execute("pragma quick_check(1)")] == [("ok",)]

    # --- trees

    def find(self, digest: str, lone: str = "") -> Tree | None:
        """The tree of this content, of a file of the name `lone` where there is one."""
        row = self._db.execute(
            "select tree, digest, lone, bytes, cost_s, stamp, checked from trees where digest = ? "
            "order by lone = ? desc, tree limit 1", (digest, os.fsencode(lone))).fetchone()
        if row is None:
            return None
        return Tree(row[0], row[1], os.fsdecode(row[2]), row[3], row[4], row[5], bool(row[6]))

    def trees(self) -> list[str]:
        return [row[0] for row in self._db.execute("select tree from trees order by tree")]

    def files(self, tree: str) -> list[Row]:
        rows = self._db.execute(
            "select name, sha256, bytes from files where tree = ? order by name", (tree,))
        return [Row(os.fsdecode(name), sha256, size) for name, sha256, size in rows]

    def add(self, tree: Tree, files: Iterable[Row], budget_bytes: int) -> None:
        turnovers = self.state("turnovers") + tree.size_bytes / max(budget_bytes, 1)
        self.set_state("turnovers", turnovers)
        past = self._db.execute(
            "select uses, turnovers from past where digest = ?", (tree.digest,)).fetchone()
        uses = past[0] * 0.5 ** ((turnovers - past[1]) / _TURNOVERS_TO_HALVE) if past else 0.0
        self._db.execute(
            "insert or replace into trees values (?, ?, ?, ?, ?, ?, 0, ?, ?)",
            (tree.tree, tree.digest, os.fsencode(tree.lone), tree.size_bytes, tree.cost_s, uses,
             tree.stamp, tree.checked))
        rows = [(os.fsencode(file.name), file.sha256, file.size_bytes) for file in files]
        self._db.executemany("insert or replace into files values (?, ?, ?, ?)",
                             [(tree.tree, *row) for row in rows])
        self._db.executemany("insert or ignore into blobs values (?, ?)",
                             [row[1:] for row in rows])
        self.use(tree.tree)

    def use(self, tree: str) -> None:
        self._db.execute(
            "update trees set uses = uses + 1, rank = ? + (uses + 1) * (cost_s + ?) / "
            "max(bytes, 1) where tree = ?", (self.state("inflation"), _LOOK_S, tree))

    def remove(self, tree: str, *, evicted: bool = False) -> list[str]:
        """Forget a tree. Returns the SHA-256 of the files that no other tree has. evicted: for
        being worth least."""
        found = self._db.execute(
            "select digest, uses, rank from trees where tree = ?", (tree,)).fetchone()
        if found is not None and evicted:
            self.set_state("inflation", max(self.state("inflation"), found[2]))
        if found is not None:
            self._db.execute("insert or replace into past values (?, ?, ?)",
                             (found[0], found[1], self.state("turnovers")))
            self._db.execute("delete from past where turnovers < (select turnovers from past "
                             "order by turnovers desc limit 1 offset ?)", (_MAX_PAST,))
        files = [row.sha256 for row in self.files(tree)]
        self._db.execute("delete from trees where tree = ?", (tree,))
        self._db.execute("delete from files where tree = ?", (tree,))
        gone = []
        for sha256 in dict.fromkeys(files):
            other = self._db.execute(
                "select 1 from files where sha256 = ? limit 1", (sha256,)).fetchone()
            if other is None:
                gone.append(sha256)
                self._db.execute("delete from blobs where sha256 = ?", (sha256,))
        return gone

    def saw(self, tree: str, stamp: bytes) -> None:
        """All of the tree was read, and is right."""
        self._db.execute(
            "update trees set stamp = ?, checked = 1 where tree = ?", (stamp, tree))

    def doubt(self, contents: Iterable[str] | None = None) -> None:
        """Trees that have files with one of these SHA-256 are to be read before they are used;
        None: all."""
        if contents is None:
            self._db.execute("update trees set checked = 0")
            return
        for sha256 in contents:
            self._db.execute("update trees set checked = 0 where tree in "
                             "(select tree from files where sha256 = ?)", (sha256,))

    def least(self) -> str | None:
        """The tree of the least rank among those that nobody holds and that would leave room."""
        row = self._db.execute(
            "select tree from trees t where tree not in (select tree from holds) and exists ("
            "select 1 from files f where f.tree = t.tree and f.bytes > 0 and f.sha256 not in ("
            "select sha256 from files where tree in (select tree from holds)"
            ")) order by rank, tree limit 1").fetchone()
        return row[0] if row else None

    # --- who uses it

    def hold(self, tree: str, user: str) -> None:
        self._db.execute("insert or ignore into holds values (?, ?)", (tree, user))

    def release(self, tree: str, user: str) -> None:
        self._db.execute("delete from holds where tree = ? and user = ?", (tree, user))

    def forget(self, user: str) -> None:
        self._db.execute("delete from holds where user = ?", (user,))

    def only_users(self, users: Sequence[str]) -> None:
        """There is nobody but `users`."""
        marks = ", ".join("?" * len(users))
        self._db.execute(f"delete from holds where user not in ({marks})", tuple(users))

    # --- room

    def blob_bytes(self) -> int:
        return int(self._db.execute("select coalesce(sum(bytes), 0) from blobs").fetchone()[0])

    def contents(self) -> set[str]:
        """The SHA-256 of all files."""
        return {row[0] for row in self._db.execute("select sha256 from blobs")}

    def blob_count(self) -> int:
        return int(self._db.execute("select count(*) from blobs").fetchone()[0])

    def held_bytes(self) -> int:
        """Of the files in trees that somebody holds."""
        return int(self._db.execute(
            "select coalesce(sum(bytes), 0) from blobs where sha256 in (select sha256 from files "
            "where tree in (select tree from holds))").fetchone()[0])

    def missing_bytes(self, files: Iterable[Row]) -> int:
        """How much larger the cache would be with these files."""
        wanted = {file.sha256: file.size_bytes for file in files}
        return sum(size for sha256, size in wanted.items() if self._db.execute(
            "select 1 from blobs where sha256 = ?", (sha256,)).fetchone() is None)

    def reserve(self, key: str, size_bytes: int, now_s: float) -> None:
        self._db.execute(
            "insert or replace into fetches values (?, ?, ?)", (key, size_bytes, now_s))

    def reserved_bytes(self, besides: str) -> int:
        return int(self._db.execute("select coalesce(sum(bytes), 0) from fetches where key <> ?",
                                    (besides,)).fetchone()[0])

    def fetches(self) -> list[tuple[str, float]]:
        """Downloads under way or left by those that did not end them, oldest first, and when they
        began, in seconds since the epoch."""
        return [(key, at_s) for key, at_s in
                self._db.execute("select key, at_s from fetches order by at_s, key")]

    def end_fetch(self, key: str) -> None:
        self._db.execute("delete from fetches where key = ?", (key,))

    # --- places

    def remember(self, uri: bytes, tag: str, digest: str) -> None:
        number = self.state("places") + 1
        self.set_state("places", number)
        self._db.execute("insert or replace into places values (?, ?, ?, ?)",
                         (uri, tag, digest, int(number)))
        self._db.execute(
            "delete from places where uri = ? and number <= (select number from places "
            "where uri = ? order by number desc limit 1 offset ?)", (uri, uri, _MAX_STATES))
        self._db.execute("delete from places where number <= ?", (int(number) - _MAX_PLACES,))

    def recall(self, uri: bytes, tag: str) -> str | None:
        row = self._db.execute(
            "select digest from places where uri = ? and tag = ?", (uri, tag)).fetchone()
        return row[0] if row else None

    def remembered(self, uri: bytes) -> list[str]:
        """Latest first."""
        rows = self._db.execute(
            "select digest from places where uri = ? order by number desc", (uri,))
        return list(dict.fromkeys(row[0] for row in rows))

    # --- numbers

    def state(self, name: str) -> float:
        row = self._db.execute("select value from state where name = ?", (name,)).fetchone()
        return float(row[0]) if row else 0.0

    def set_state(self, name: str, value: float) -> None:
        self._db.execute("insert or replace into state values (?, ?)", (name, value))
