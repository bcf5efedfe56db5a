"""The wire format of protocol buffers: varints and fields. Knows no message.

Reads what encoders usually write. What else may be right (fields in another wire type than they
are declared with, groups, overlong numbers) is `Unusual`: for the protobuf library to judge.

Source: protobuf.dev, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2

_LENGTH_BYTES: Final = 5  # of a length, which is below 2**31


class Unusual(Exception):
    """Bytes whose meaning the protobuf library must say."""


def varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """The number at `at`, and where the next thing begins. Raises Unusual, IndexError."""
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value = byte & 0x7F
    for shift in range(7, 70, 7):
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, at + 1
    raise Unusual


def length(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """As `varint`, for the length of something that begins there."""
    size, after = varint(data, at)
    if after - at > _LENGTH_BYTES or size >> 31:
        raise Unusual
    return size, after


def fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Each field of a message: its tag (number << 3 | wire type) and its value, a number or bytes.
    Raises Unusual."""
    at, end = 0, len(data)
    try:
        while at < end:
            tag = data[at]
            kind = tag & 7
            if tag >= 0x80 or tag < 8:
                raise Unusual
            if kind == BYTES:
                size, at = length(data, at + 1)
                if size > end - at:
                    raise Unusual
                yield tag, data[at : at + size]
                at += size
            elif kind == VARINT:
                value, at = varint(data, at + 1)
                yield tag, value
            elif kind == FIXED64 and end - at > 8:
                yield tag, data[at + 1 : at + 9]
                at += 9
            else:
                raise Unusual
    except IndexError:
        raise Unusual from None


def signed(value: int) -> int:
    """A varint as an int64."""
    return value - (1 << 64) if value >> 63 else value


def write_varint(value: int) -> bytes:
    """Of an int64 or a uint64."""
    value &= (1 << 64) - 1
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def field(number: int, value: bytes) -> bytes:
    """A field of bytes, text or a message."""
    return bytes((number << 3 | BYTES,)) + write_varint(len(value)) + value
