"""The encoding of protocol buffers, as far as reading a few fields of a message takes.

Knows no message: what the numbers mean is for who asks. Imports no framework.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_BITS: Final = 70  # of a number, seven a byte


class NotProtobuf(ValueError):
    """It is no protocol buffer of the kind that is looked for, or is cut off."""


def fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Numbers and contents; those of fixed size, which nobody needs, are passed over. Raises
    NotProtobuf."""
    at, end = 0, len(data)
    while at < end:
        tag, at = varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = varint(data, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, at = varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise NotProtobuf(f"byte {at - 1:,} begins no field")
        if size > end - at:
            raise NotProtobuf("its end is missing")
        if kind == _BYTES:
            yield tag >> 3, data[at : at + size]
        at += size


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """Little-endian, seven bits a byte; and where it ends. Raises NotProtobuf."""
    value = shift = 0
    while at < len(data) and shift < _MAX_BITS:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise NotProtobuf("its end is missing")
