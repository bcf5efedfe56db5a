"""Header blocks to fields and back: HPACK (RFC 7541), with a memory of blocks seen before.

The table, its static part and Huffman's code are the `hpack` package's. The loop over a block's
fields is here, for three reasons: it takes an eighth of the time; a list over the limits is read to
its end, so that the connection survives it; and it knows whether a block has used or changed the
dynamic table, without which blocks cannot be recognised by their bytes:

- one that touches no dynamic entry means the same for ever;
- one that refers to dynamic entries means the same until the table changes;
- one that changes the table is decoded each time.

Must not know what makes a request well-formed, nor streams.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from shoal.codecs.http2.faults import ConnectionFault
from shoal.codecs.http2.frames import FIRST_TABLE_BYTES, ErrorCode
from shoal.codecs.http2.headers import Field

_STATIC: Final[tuple[Field, ...]] = HeaderTable.STATIC_TABLE
_DYNAMIC: Final = len(_STATIC) + 1  # the first index of the dynamic table
_OVERHEAD: Final = 32  # bytes that a field is reckoned with beyond name and value
_INTEGER_BYTES: Final = 4  # after the first: up to 2**28, beyond any length or index here

_remembered_huffman = lru_cache(maxsize=1024)(decode_huffman)
_REMEMBERED_BYTES: Final = 64  # the longest string that is worth it


class FieldDecoder:
    """One connection's decoder. `limit` bytes and `most` fields: beyond, a list is too large.

    `max_table_bytes`: what the peer may set its table to; to be lowered only when it knows.
    `changed`, `self_contained`: the last block changed the dynamic table; did not refer to it.
    """

    __slots__ = (
        "_entries", "_limit", "_most", "_table", "changed", "max_table_bytes", "self_contained",
    )  # fmt: skip

    def __init__(self, limit: int, most: int) -> None:
        self._limit = limit
        self._most = most
        self._table = HeaderTable()
        self._entries = self._table.dynamic_entries
        self.max_table_bytes = FIRST_TABLE_BYTES
        self.changed = False
        self.self_contained = True

    def decode(self, block: bytes) -> tuple[Field, ...] | None:
        """The fields of `block`; None when they exceed a limit (the table is right all the same).

        Raises ConnectionFault, COMPRESSION_ERROR, after which the decoder cannot go on.
        """
        self.changed = False
        self.self_contained = True
        fields: list[Field] = []
        entries, limit = self._entries, self._limit
        size = count = at = 0
        end = len(block)
        try:
            while at < end:
                byte = block[at]
                if byte >= 0x80 + _DYNAMIC and byte != 0xFF:  # most fields, without a call
                    field = entries[byte - 0x80 - _DYNAMIC]
                    self.self_contained = False
                    at += 1
                elif byte & 0x80:
                    at += 1
                    index = byte & 0x7F
                    if index == 0x7F:
                        index, at = _integer(block, at, index)
                    field = self._field(index)
                elif byte & 0x60 == 0x20:
                    if count:
                        raise _fault("a table size update that is not at a block's beginning")
                    at = self._resize(block, at)
                    continue
                else:
                    field, at = self._literal(block, at)
                count += 1
                size += _OVERHEAD + len(field[0]) + len(field[1])
                if size <= limit:
                    fields.append(field)
        except IndexError:
            raise _fault("a header block is cut short, or refers beyond the table") from None
        except HPACKDecodingError as error:
            raise _fault(str(error)) from None
        if self._table.maxsize > self.max_table_bytes:
            raise _fault("the table was not made smaller after SETTINGS_HEADER_TABLE_SIZE")
        return tuple(fields) if size <= limit and count <= self._most else None

    def _field(self, index: int) -> Field:
        if index < _DYNAMIC:
            if not index:
                raise _fault("a field has index 0")
            return _STATIC[index - 1]
        self.self_contained = False
        if index - _DYNAMIC >= len(self._entries):
            raise _fault(f"a field has index {index}, which the table does not have")
        return self._entries[index - _DYNAMIC]

    def _literal(self, block: bytes, at: int) -> tuple[Field, int]:
        """A literal field, which enters the table or not (RFC 7541, section 6.2)."""
        byte = block[at]
        at += 1
        mask = 0x3F if byte & 0x40 else 0x0F
        index = byte & mask
        if index:
            if index == mask:
                index, at = _integer(block, at, index)
            name = self._field(index)[0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        if mask == 0x3F:
            self._table.add(name, value)
            self.changed = True
        return (name, value), at

    def _resize(self, block: bytes, at: int) -> int:
        size = block[at] & 0x1F
        at += 1
        if size == 0x1F:
            size, at = _integer(block, at, size)
        if size > self.max_table_bytes:
            raise _fault(f"a table of {size} bytes; {self.max_table_bytes} are allowed")
        self._table.maxsize = size
        self.changed = True
        return at


def _fault(reason: str) -> ConnectionFault:
    return ConnectionFault(ErrorCode.COMPRESSION_ERROR, reason)


def _integer(block: bytes, at: int, number: int) -> tuple[int, int]:
    """The integer whose prefix is all ones, `number` (RFC 7541, section 5.1); where it ends."""
    for place in range(_INTEGER_BYTES):
        byte = block[at + place]
        number += (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, at + place + 1
    raise _fault("an integer is too long")


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    """RFC 7541, section 5.2."""
    first = block[at]
    length = first & 0x7F
    at += 1
    if length == 0x7F:
        length, at = _integer(block, at, length)
    stop = at + length
    if stop > len(block):
        raise _fault("a header block is cut short")
    string = block[at:stop]
    if first & 0x80:
        decode = _remembered_huffman if length <= _REMEMBERED_BYTES else decode_huffman
        string = decode(string)
    return string, stop


# --- encoding -------------------------------------------------------------------------------------

_STATIC_FIELD: Final = {field: index for index, field in reversed(list(enumerate(_STATIC, 1)))}
_STATIC_NAME: Final = {field[0]: index for index, field in reversed(list(enumerate(_STATIC, 1)))}

SHRINK: Final = b"\x20"
"""Begins a block after the peer has made its table smaller: from now on it is empty."""


def encode_headers(fields: Iterable[Field]) -> bytes:
    """A header block that neither reads nor fills a dynamic table: the same bytes are right at any
    time on any connection, so blocks can be made once and kept.

    Names in lower case; pseudo-headers first. Raises ValueError for a name or value that HTTP/2
    does not allow, since a peer would take it for a fault of the whole connection.
    """
    return b"".join(_encoded(name, value) for name, value in fields)


def _encoded(name: bytes, value: bytes) -> bytes:
    if not name or name != name.lower() or any(byte in name for byte in b" \t\r\n\0"):
        raise ValueError(f"{name!r} is no name of an HTTP/2 header: lower case, without spaces")
    if any(byte in value for byte in b"\r\n\0") or value != value.strip(b" \t"):
        raise ValueError(f"{value!r} is no value of a header: a control character or outer space")
    index = _STATIC_FIELD.get((name, value))
    if index is not None:
        return _prefixed(0x80, 0x7F, index)
    index = _STATIC_NAME.get(name, 0)
    head = _prefixed(0, 0x0F, index)
    if not index:
        head += _prefixed(0, 0x7F, len(name)) + name
    return head + _prefixed(0, 0x7F, len(value)) + value


def _prefixed(pattern: int, most: int, number: int) -> bytes:
    """An integer, begun in the low bits `most` of a byte whose others are `pattern`'s."""
    if number < most:
        return bytes((pattern | number,))
    out = bytearray((pattern | most,))
    number -= most
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
