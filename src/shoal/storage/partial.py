"""What of a file is here already, on disk, so that a download can be gone on with.

    <mark>         the file, whole and checked
    <mark>.new     the file in the making
    <mark>.parts   which parts of that are on disk: a line for each, written after their bytes

A mark names the file, and after `-` its state. Reads nothing from anywhere; one process at a time
may use a folder.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from shoal.storage.places.place import RemoteFile
from shoal.storage.writing import create


class Partial:
    """One file on its way. left: the parts that are missing, from where to before where; None: its
    end, wherever that is."""

    def __init__(self, file: RemoteFile, name: str, mark: str, folder: Path) -> None:
        self.file = file
        self.name = name
        self.whole = folder / mark
        self.new = folder / f"{mark}.new"
        self.parts = folder / f"{mark}.parts"
        self.left: set[tuple[int, int | None]] = set()
        self.sha256 = ""  # of the bytes, where they came in one piece
        self.copies = 0
        self.lock = threading.Lock()

    def plan(self, part_bytes: int) -> int:
        """Find out what is missing, and make the new file for it. Returns the bytes that are
        here. part_bytes: 0 where the file comes in one piece."""
        self.left = set()
        if self.whole.exists():
            return self.whole.stat().st_size
        size = self.file.size_bytes
        if size and part_bytes:
            starts = range(0, size, part_bytes)
            self.left.update((start, min(start + part_bytes, size)) for start in starts)
        else:
            self.left.add((0, size))
        have = self.left.intersection(_journal(self.parts)) if self.new.exists() else set()
        self.left -= have
        if not have:
            self.reset()
        return sum((end or 0) - start for start, end in have)

    def reset(self) -> None:
        """Nothing of it is here."""
        self.parts.unlink(missing_ok=True)
        self.new.unlink(missing_ok=True)
        os.close(create(self.new))

    def note(self, part: tuple[int, int | None]) -> bool:
        """The bytes of `part` are on disk. Is the file complete by that?"""
        with self.lock:
            self.left.discard(part)
            if self.left:
                with open(self.parts, "a") as journal:
                    journal.write(f"{part[0]} {part[1]}\n")
            return not self.left


def _journal(path: Path) -> Iterator[tuple[int, int]]:
    """What the journal says; a line that was cut is no line."""
    try:
        lines = path.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return
    for line in lines:
        start, _, end = line.rstrip("\n").partition(" ")
        if line.endswith("\n") and start.isdecimal() and end.isdecimal():
            yield int(start), int(end)
