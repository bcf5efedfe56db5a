"""gRPC calls as bytes on a connection: as much of HTTP/2 as a load generator needs.

Every call is the same, so its frames are made once: the first header block fills the peer's
dynamic table (RFC 7541), all later ones are five references to it, as every real client has it.
Knows no sockets and no model.
"""

from __future__ import annotations

import struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
FRAME: Final = 9  # bytes of a frame's head
WIDE_OPEN: Final = struct.pack(">I", 2**31 - 1 - 65535)  # raises a connection's window to its most


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    )


def message(body: bytes) -> bytes:
    """A protobuf message as gRPC sends it: not compressed, after its length."""
    return b"\0" + struct.pack(">I", len(body)) + body


def _indexed(name: bytes, value: bytes) -> bytes:
    """A literal header that enters the dynamic table; `name`: a static index or a literal name."""
    return name + bytes((len(value),)) + value


def _header_blocks(path: bytes) -> tuple[bytes, bytes]:
    """Of a connection's first call, and of all others."""
    post_http = b"\x83\x86"
    first = post_http + b"".join((
        _indexed(b"\x44", path),
        _indexed(b"\x41", b"127.0.0.1"),
        _indexed(_indexed(b"\x40", b"te"), b"trailers"),
        _indexed(b"\x5f", b"application/grpc"),
        _indexed(b"\x7a", b"grpc-benchmark"),
    ))
    return first, post_http + bytes(0x80 | index for index in (66, 65, 64, 63, 62))


class Calls:
    """One connection's calls of one method with one body, and its answers.

    `out`: bytes to send. `received`: answers that are complete, by stream.
    """

    def __init__(self, path: bytes, body: bytes) -> None:
        self._block, self._later = _header_blocks(path)
        self._data = message(body)
        self._stream = 1
        self._window = 65535  # what may be sent before the server allows more
        self._waiting = 0  # calls that it does not allow yet
        self._rest = b""
        self._bodies: dict[int, bytes] = {}
        self.received: list[tuple[int, bytes]] = []
        self.out = bytearray(
            PREFACE + frame(SETTINGS, 0, 0) + frame(WINDOW_UPDATE, 0, 0, WIDE_OPEN)
        )

    def call(self) -> int:
        """Begin a call; its stream."""
        stream = self._stream + 2 * self._waiting
        self._waiting += 1
        self._send_waiting()
        return stream

    def feed(self, data: bytes) -> None:
        """Read what came. Raises ConnectionError when the server refuses a call or goes away."""
        data = self._rest + data
        at, end = 0, len(data)
        while end - at >= FRAME:
            stop = at + FRAME + int.from_bytes(data[at : at + 3], "big")
            if stop > end:
                break
            kind, flags = data[at + 3], data[at + 4]
            if kind in (DATA, HEADERS):
                stream = int.from_bytes(data[at + 5 : at + 9], "big")
                if kind == DATA:
                    body = self._bodies.get(stream, b"")
                    self._bodies[stream] = body + data[at + FRAME : stop]
                if flags & END_STREAM:
                    self.received.append((stream, self._bodies.pop(stream, b"")))
            else:
                self._control(kind, flags, data[at + 5 : stop])
            at = stop
        self._rest = data[at:]

    def _control(self, kind: int, flags: int, rest: bytes) -> None:
        """Frames of the connection; `rest`: of the frame, from its stream on."""
        if kind == WINDOW_UPDATE:
            if rest[:4] == b"\0\0\0\0":
                self._window += int.from_bytes(rest[4:], "big")
                self._send_waiting()
        elif kind in (SETTINGS, PING):
            if not flags & ACK:
                self.out += frame(kind, ACK, 0, rest[4:] if kind == PING else b"")
        elif kind in (RST_STREAM, GOAWAY):
            raise ConnectionError(f"the server ends calls: frame {kind}, {rest!r}")

    def _send_waiting(self) -> None:
        while self._waiting and self._window >= len(self._data):
            self.out += frame(HEADERS, END_HEADERS, self._stream, self._block)
            self.out += frame(DATA, END_STREAM, self._stream, self._data)
            self._block = self._later
            self._window -= len(self._data)
            self._stream += 2
            self._waiting -= 1
