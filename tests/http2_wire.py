"""HTTP/2 as a client writes it, frame by frame, and reads it: for tests of our connection."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from hpack import Encoder

from shoal.codecs.http2 import Data, ErrorCode, Event, Options, ServerConnection, encode_headers
from shoal.codecs.http2.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    rst_stream,
    window_update,
)

PATH = b"/inference.GRPCInferenceService/ModelInfer"
REQUEST = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", PATH),
    (b":authority", b"127.0.0.1:8081"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)
ANSWER = encode_headers([(b":status", b"200"), (b"content-type", b"application/grpc")])
TRAILERS = encode_headers([(b"grpc-status", b"0")])
HELLO = PREFACE + frame(SETTINGS, 0, 0)


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frames(out: Iterable[Data]) -> list[Frame]:
    """What a peer reads; it must be whole frames."""
    data = b"".join(out)
    found, at = [], 0
    while at < len(data):
        assert len(data) - at >= 9, "half a head"
        length, kind, flags, stream = struct.unpack(">IBBI", b"\0" + data[at : at + 9])
        at += 9 + length
        assert at <= len(data), "half a frame"
        found.append(Frame(kind, flags, stream, data[at - length : at]))
    return found


def block(*fields: tuple[bytes, bytes]) -> bytes:
    """Literal fields without indexing, of whatever form: not checked as `encode_headers` does."""
    encoder = Encoder()
    return b"".join(encoder.add(field, sensitive=True, huffman=False) for field in fields)


REQUEST_BLOCK = block(*REQUEST)


def headers(stream: int, payload: bytes = REQUEST_BLOCK, *, end: bool = False) -> bytes:
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, payload)


def data(stream: int, payload: bytes = b"", *, end: bool = False) -> bytes:
    return frame(DATA, END_STREAM if end else 0, stream, payload)


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def opened(options: Options | None = None, *pairs: tuple[int, int]) -> ServerConnection:
    """A connection whose introductions are over; the peer has sent `pairs` as its settings."""
    connection = ServerConnection(options)
    connection.receive(PREFACE + settings(*pairs) + frame(SETTINGS, ACK, 0), 0.0)
    connection.take()
    return connection


def refusals(out: Iterable[Data]) -> list[tuple[int, ErrorCode]]:
    """(stream, code) of RST_STREAM, and (0, code) of GOAWAY."""
    found = []
    for each in frames(out):
        if each.kind == RST_STREAM:
            found.append((each.stream, ErrorCode(int.from_bytes(each.payload, "big"))))
        elif each.kind == GOAWAY:
            found.append((0, ErrorCode(int.from_bytes(each.payload[4:8], "big"))))
    return found


def feed(connection: ServerConnection, *pieces: bytes, now: float = 0.0) -> list[Event]:
    return [event for piece in pieces for event in connection.receive(piece, now)]


__all__ = [
    "ANSWER",
    "HELLO",
    "PATH",
    "REQUEST",
    "REQUEST_BLOCK",
    "TRAILERS",
    "WINDOW_UPDATE",
    "Frame",
    "block",
    "data",
    "feed",
    "frame",
    "frames",
    "headers",
    "opened",
    "refusals",
    "rst_stream",
    "settings",
    "window_update",
]  # fmt: skip
