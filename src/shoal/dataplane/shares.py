"""How many connections each process has that accepts from the same sockets, in memory they share.

One row a process, one column a port; a process writes its own row only, and a number is written and
read in one step, so nobody locks. Must not know what is done with the numbers.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

_BYTES: Final = 8
_ABSENT: Final = -1

PORTS: Final = ("http", "grpc")


class Shares:
    """The table in the file `fd`, which the caller keeps. rows: for how many processes."""

    def __init__(self, fd: int, rows: int) -> None:
        self._cells = memoryview(mmap.mmap(fd, rows * len(PORTS) * _BYTES)).cast("q")
        self._rows = rows

    @staticmethod
    def create(rows: int) -> int:
        """A file without a name, in which nobody accepts yet; its descriptor."""
        fd = os.memfd_create("shoal-connections")
        os.ftruncate(fd, rows * len(PORTS) * _BYTES)
        table = Shares(fd, rows)
        for row in range(rows):
            table.clear(row)
        return fd

    def share(self, port: str, row: int) -> Share:
        """port: one of `PORTS`."""
        start = PORTS.index(port) * self._rows
        return Share(self._cells[start : start + self._rows], row)

    def clear(self, row: int) -> None:
        """The process of this row accepts no more."""
        for port in PORTS:
            self.share(port, row).leave()


class Share:
    """One process's number of connections of one port, beside those of the others."""

    def __init__(self, column: memoryview, row: int) -> None:
        self._column = column
        self._row = row

    @property
    def mine(self) -> int:
        return int(self._column[self._row])

    def tell(self, connections: int) -> None:
        self._column[self._row] = connections

    def leave(self) -> None:
        self.tell(_ABSENT)

    def is_fair(self) -> bool:
        """May this process take one more, or has another clearly fewer?

        An eighth more is fair: the few microseconds by which clients would be served more evenly
        are not worth a wait for them.
        """
        numbers = self._column.tolist()
        mine = numbers[self._row]
        others = [
            number for row, number in enumerate(numbers) if row != self._row and number != _ABSENT
        ]
        return not others or mine <= min(others) + mine // 8
