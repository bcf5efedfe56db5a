"""gRPC's messages within a stream of bytes: five bytes before each say how it is packed.

Source: gRPC over HTTP/2, "Length-Prefixed-Message". Knows neither frames nor methods.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from shoal.codecs import compression
from shoal.codecs.v2_proto import first_tensor_at
from shoal.dataplane.grpc.message import Code, Data
from shoal.domain.errors import BodyTooLarge, InvalidRequest, ShoalError

PREFIX: Final = struct.Struct(">BI")
ENCODINGS: Final = (b"identity", b"gzip", b"deflate")

_ALIGNMENT: Final = 64  # bytes, of a cache line


class BadMessage(Exception):
    """What came is no message, or none that is taken: the call ends with `error`, or with `code`,
    where the tree of errors has no word for it."""

    def __init__(self, error: ShoalError, code: Code | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.code = code


class MessageReader:
    """Takes the bytes of one call, gives its messages. max_bytes: of one, before and after
    decompression."""

    __slots__ = ("_buffer", "_encoding", "_filled", "_head", "_max_bytes", "_packed", "_size")

    def __init__(self, encoding: bytes, max_bytes: int) -> None:
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._head = b""  # what came of a prefix
        self._size = -1  # of the message that is being read; -1 before its prefix is complete
        self._packed = False
        self._buffer: memoryview | None = None  # of one that comes in pieces
        self._filled = 0

    @property
    def amid(self) -> bool:
        """Has a message begun that is not complete?"""
        return bool(self._head) or self._size >= 0

    def feed(self, data: Data) -> Iterator[Data]:
        """The messages that are complete now, decompressed. To be gone through to its end. Raises
        BadMessage.

        One that came in pieces lies in memory of its own, of which tensors may keep a part."""
        while True:
            if self._size < 0:
                if self._head:
                    data = self._head + bytes(data)
                    self._head = b""
                if len(data) < PREFIX.size:
                    self._head = bytes(data)
                    return
                self._read_prefix(data)
                data = memoryview(data)[PREFIX.size :]
            size = self._size
            if self._buffer is None and len(data) >= size:
                message: Data = bytes(data[:size])
                data = data[size:]
            else:
                if self._buffer is None:
                    self._buffer = _room(size, data)
                data = self._fill(self._buffer, data)
                if self._filled < size:
                    return
                message = self._buffer
                self._buffer = None
                self._filled = 0
            self._size = -1
            yield self._unpacked(message)

    def _read_prefix(self, data: Data) -> None:
        flag, size = PREFIX.unpack_from(data)
        if flag > 1:
            raise BadMessage(
                InvalidRequest(f"a message begins with {flag}, where only 0 and 1 have a meaning"),
                Code.INTERNAL,
            )
        if size > self._max_bytes:
            raise BadMessage(too_large(f"a message has {size} bytes", self._max_bytes))
        self._packed = bool(flag)
        self._size = size
        if flag and self._encoding == b"identity":
            raise BadMessage(
                InvalidRequest("a message is compressed, but grpc-encoding names no encoding"),
                Code.INTERNAL,
            )

    def _fill(self, buffer: memoryview, data: Data) -> Data:
        count = min(self._size - self._filled, len(data))
        buffer[self._filled : self._filled + count] = data[:count]
        self._filled += count
        return data[count:]

    def _unpacked(self, message: Data) -> Data:
        if not self._packed:
            return message
        try:
            return compression.decompress(bytes(message), self._encoding, self._max_bytes)
        except BodyTooLarge:
            raise BadMessage(
                too_large("a message has more bytes when decompressed", self._max_bytes)
            ) from None
        except InvalidRequest:
            raise BadMessage(
                InvalidRequest(
                    f"a message is not valid {self._encoding.decode()}, which grpc-encoding says"
                ),
                Code.INTERNAL,
            ) from None


def too_large(what: str, max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"{what}; at most {max_bytes} are taken (setting grpc.max_message_bytes); send less at once"
    )


def framed(parts: Sequence[Data], encoding: bytes = b"identity") -> list[Data]:
    """A message with its prefix; compressed unless `encoding` is identity."""
    if encoding == b"identity":
        return [PREFIX.pack(0, sum(map(len, parts))), *parts]
    packed = compression.compress(parts, "gzip" if encoding == b"gzip" else "deflate")
    return [PREFIX.pack(1, sum(map(len, packed))), *packed]


def _room(size: int, beginning: Data) -> memoryview:
    """Memory for a message, laid so that its first tensor, which `beginning` shows, is aligned. Not
    filled with zeros: what does not come must not take memory."""
    room = np.empty(size + _ALIGNMENT, np.uint8)
    first = first_tensor_at(beginning) or 0
    pad = -(room.ctypes.data + first) % _ALIGNMENT
    return room.data[pad : pad + size]
