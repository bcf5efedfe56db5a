"""Collects a body that comes in parts, in memory that its tensors can be used in as they lie.

Must not know requests or parsers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALIGNMENT: Final = 16  # bytes: a multiple of the largest element's

# numpy asks for huge pages from here on: filling them costs a fifth of filling small ones.
_LARGE_BYTES: Final = 4 * 1024**2
# What must have come before memory for the whole is taken at the client's word.
_TRIED_BYTES: Final = 1024**2


class Spool:
    """expected: bytes that will come, if the client is right; 0: nobody knows. aligned: where in
    the body tensors begin."""

    __slots__ = ("_expected", "_grown", "_padding", "_room", "size")

    def __init__(self, expected: int, aligned: int) -> None:
        self._padding = -aligned % ALIGNMENT
        self._expected = expected
        # Not a list of parts: of two bytes each they would take twenty times their size.
        self._grown = bytearray(self._padding)
        self._room: NDArray[np.uint8] | None = None
        self.size = 0

    def add(self, part: bytes | memoryview) -> None:
        """Together the parts may not be longer than `expected`, when that is known."""
        end = self.size + len(part)
        if self._room is None:
            self._grown += part
            if end > _TRIED_BYTES and self._expected - end > _LARGE_BYTES:
                self._room = np.empty(self._padding + self._expected, np.uint8)
                self._room[: len(self._grown)] = self._grown
                self._grown = bytearray()
        else:
            start = self._padding + self.size
            self._room[start : start + len(part)] = np.frombuffer(part, np.uint8)
        self.size = end

    def whole(self) -> memoryview:
        """The body; it may be written to."""
        whole = memoryview(self._grown) if self._room is None else self._room.data
        return whole[self._padding :]
