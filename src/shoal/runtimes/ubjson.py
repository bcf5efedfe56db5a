"""Reads Universal Binary JSON, in the dialect that XGBoost writes, without trusting a byte of it.

In that dialect every length is a 64-bit integer, and numbers are big-endian. No length is believed
beyond the end of the data, and nothing is nested deeper than `MAX_DEPTH`. Knows nothing of models.
Format: https://ubjson.org, `UBJReader` in XGBoost's `src/common/json.cc`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

if TYPE_CHECKING:
    Value: TypeAlias = "dict[str, Value] | list[Value] | str | int | float | bool | None"
    ArrayReader: TypeAlias = Callable[[bytes, int, int], tuple[list[Value], int] | None]
    """Of the data, where an array's first element begins and how many there are: the elements and
    where they end; None leaves them to the general way."""

MAX_DEPTH: Final = 32
NUMBERS: Final[dict[bytes, np.dtype[np.generic]]] = {
    b"i": np.dtype(">i1"), b"U": np.dtype(">u1"), b"C": np.dtype(">i1"), b"I": np.dtype(">i2"),
    b"l": np.dtype(">i4"), b"L": np.dtype(">i8"), b"d": np.dtype(">f4"), b"D": np.dtype(">f8"),
}
_CONSTANTS: Final[dict[bytes, bool | None]] = {b"Z": None, b"T": True, b"F": False}
_LENGTH: Final = Struct(">cq")
_RUN: Final = 1024  # numbers of one type that are looked for at once


class NotUbjson(ValueError):
    """Says what is wrong, in a few words."""


def read_ubjson(data: bytes, own: Mapping[str, ArrayReader] | None = None) -> Value:
    """The first value of `data`; what follows it is ignored, as XGBoost does.

    Of two equal keys the first counts.
    own: special ways to read the array under a key.
    Raises NotUbjson.
    """
    return _Reader(data, own or {}).value(0)


class _Reader:
    def __init__(self, data: bytes, own: Mapping[str, ArrayReader]) -> None:
        self._data = data
        self._size = len(data)
        self._own = own
        self._at = 0

    def value(self, depth: int, key: str = "") -> Value:
        marker = self._peek()
        self._at += 1
        if marker == b"S":
            return self._text()
        if marker in NUMBERS:
            kind = NUMBERS[marker]
            number: int | float = np.frombuffer(self._take(kind.itemsize), kind)[0].item()
            return number
        if marker in _CONSTANTS:
            return _CONSTANTS[marker]
        if depth == MAX_DEPTH:
            raise NotUbjson(f"it is nested deeper than {MAX_DEPTH} levels")
        if marker == b"{":
            return self._object(depth + 1)
        if marker == b"[":
            return self._array(depth + 1, key)
        raise NotUbjson(f"byte {self._at - 1:,} begins no value")

    def _object(self, depth: int) -> dict[str, Value]:
        found: dict[str, Value] = {}
        while self._peek() != b"}":
            key = self._text()
            found.setdefault(key, self.value(depth, key))
        self._at += 1
        return found

    def _array(self, depth: int, key: str) -> list[Value]:
        marker = self._peek()
        if marker == b"$":
            kind = NUMBERS.get(self._take(2)[1:])
            if kind is None or self._take(1) != b"#":
                raise NotUbjson(f"byte {self._at - 1:,} is no type of number")
            count = self._length(kind.itemsize)
            numbers: list[Value] = np.frombuffer(self._take(count * kind.itemsize), kind).tolist()
            return numbers
        if marker == b"#":
            self._at += 1
            count = self._length(1)
            own = self._own.get(key)
            done = own(self._data, self._at, count) if own else None
            if done is None:
                return self._items(count, depth)
            items, self._at = done
            return items
        found: list[Value] = []
        while self._peek() != b"]":
            found.append(self.value(depth))
        self._at += 1
        return found

    def _items(self, count: int, depth: int) -> list[Value]:
        found: list[Value] = []
        while len(found) < count:
            kind = NUMBERS.get(self._peek())
            if kind is None:
                found.append(self.value(depth))
            else:
                found += self._run(kind, min(count - len(found), _RUN))
        return found

    def _run(self, kind: np.dtype[np.generic], most: int) -> list[Value]:
        """The next numbers as far as they are all of one type, at least one and at most `most`:
        reading them one by one would take longer than XGBoost takes for the whole file."""
        step = 1 + kind.itemsize
        most = min(most, (self._size - self._at) // step)
        if most == 0:
            raise _cut_off()
        pairs = np.frombuffer(self._data, [("marker", "u1"), ("number", kind)], most, self._at)
        markers = pairs["marker"]
        others = np.flatnonzero(markers != markers[0])
        count = int(others[0]) if len(others) else most
        self._at += count * step
        numbers: list[Value] = pairs["number"][:count].tolist()
        return numbers

    def _text(self) -> str:
        text = self._take(self._length(1))
        try:
            return text.decode()
        except UnicodeDecodeError:
            raise NotUbjson(f"the text before byte {self._at:,} is no UTF-8") from None

    def _length(self, item_bytes: int) -> int:
        """Of something whose items take at least `item_bytes` each."""
        begin = self._at
        at = self._at = begin + _LENGTH.size
        if at > self._size:
            raise _cut_off()
        marker: bytes
        length: int
        marker, length = _LENGTH.unpack_from(self._data, begin)
        if marker != b"L" or length < 0:
            raise NotUbjson(f"bytes {begin:,} to {at:,} are no length")
        if length * item_bytes > self._size - at:
            raise _cut_off()
        return length

    def _peek(self) -> bytes:
        at = self._at
        if at >= self._size:
            raise _cut_off()
        return self._data[at : at + 1]

    def _take(self, count: int) -> bytes:
        at = self._at
        end = self._at = at + count
        if end > self._size:
            raise _cut_off()
        return self._data[at:end]


def _cut_off() -> NotUbjson:
    return NotUbjson("its end is missing")
