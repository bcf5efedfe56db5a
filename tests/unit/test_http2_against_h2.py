"""The same bytes to `h2` (python-hyper) and to our connection: what each accepts and refuses."""

from __future__ import annotations

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived as H2Data
from h2.events import RequestReceived as H2Request
from h2.events import StreamEnded as H2Ended
from h2.exceptions import ProtocolError
from tests.http2_wire import (
    HELLO,
    REQUEST,
    REQUEST_BLOCK,
    block,
    data,
    frame,
    headers,
    refusals,
    rst_stream,
    settings,
    window_update,
)

from shoal.codecs.http2 import DataReceived, RequestReceived, ServerConnection, TrailersReceived
from shoal.codecs.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITISED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
)

E = ErrorCode
Refusals = list[tuple[int, ErrorCode]]
Bodies = dict[int, tuple[bytes, bool]]
"""By stream: what came of its body, and whether it ended."""


def without(name: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(field for field in REQUEST if field[0] != name)


def changed(name: bytes, value: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((known, value if known == name else old) for known, old in REQUEST)


def request(*more: tuple[bytes, bytes]) -> bytes:
    return headers(1, block(*REQUEST, *more), end=True)


def only(*fields: tuple[bytes, bytes]) -> bytes:
    return headers(1, block(*fields), end=True)


HALF = len(REQUEST_BLOCK) // 2
STREAM_PROTOCOL: Refusals = [(1, E.PROTOCOL_ERROR)]
PROTOCOL: Refusals = [(0, E.PROTOCOL_ERROR)]
SIZE: Refusals = [(0, E.FRAME_SIZE_ERROR)]

# name: what follows preface and SETTINGS, what we refuse.
CASES: dict[str, tuple[bytes, Refusals]] = {
    "a request without a body": (headers(1, end=True), []),
    "a request with a body": (headers(1) + data(1, b"abc", end=True), []),
    "a body in pieces": (headers(1) + data(1, b"a") + data(1, b"b") + data(1, end=True), []),
    "an open request": (headers(1) + data(1, b"abc"), []),
    "a body and trailers": (
        headers(1) + data(1, b"abc") + headers(1, block((b"x", b"y")), end=True), []
    ),
    "streams interleaved": (
        headers(1) + headers(3) + data(3, b"3") + data(1, b"1", end=True) + data(3, end=True), []
    ),
    "bodies crossed": (
        headers(1) + headers(3) + data(1, b"1", end=True) + data(3, b"3", end=True), []
    ),
    "streams skipped": (headers(5, end=True) + headers(9, end=True), []),
    "a block in three frames": (
        frame(HEADERS, END_STREAM, 1, REQUEST_BLOCK[:5])
        + frame(CONTINUATION, 0, 1, REQUEST_BLOCK[5:HALF])
        + frame(CONTINUATION, END_HEADERS, 1, REQUEST_BLOCK[HALF:]), [],
    ),
    "an empty HEADERS, then CONTINUATION": (
        frame(HEADERS, END_STREAM, 1) + frame(CONTINUATION, END_HEADERS, 1, REQUEST_BLOCK), []
    ),
    "padding": (
        frame(HEADERS, END_HEADERS | PADDED, 1, b"\x03" + REQUEST_BLOCK + b"\0\0\0")
        + frame(DATA, END_STREAM | PADDED, 1, b"\x02abc\0\0"), [],
    ),
    "padding alone": (headers(1) + frame(DATA, END_STREAM | PADDED, 1, b"\x02\0\0"), []),
    "priority in HEADERS": (
        frame(HEADERS, END_HEADERS | END_STREAM | PRIORITISED, 1, bytes(5) + REQUEST_BLOCK),
        [],
    ),
    "PRIORITY": (frame(PRIORITY, 0, 3, b"\0\0\0\x01\x10") + headers(1, end=True), []),
    "unknown frames": (frame(0xFA, 0xFF, 1, b"?") + headers(1, end=True), []),
    "PING, SETTINGS, WINDOW_UPDATE": (
        frame(PING, 0, 0, b"12345678") + settings((0x77, 5), (4, 100)) + window_update(0, 10)
        + headers(1) + window_update(1, 10) + data(1, end=True), [],
    ),
    "WINDOW_UPDATE on a closed stream": (headers(1) + rst_stream(1, 8) + window_update(1, 1), []),
    "RST_STREAM twice": (headers(1) + rst_stream(1, 8) + rst_stream(1, 8), []),
    "GOAWAY": (headers(1, end=True) + frame(GOAWAY, 0, 0, bytes(8) + b"bye"), []),
    "OPTIONS *": (only((b":method", b"OPTIONS"), (b":scheme", b"http"), (b":path", b"*"),
                       (b":authority", b"a")), []),
    "neither host nor :authority": (only(*without(b":authority")), []),
    "PRIORITY of a stream on itself": (
        headers(1) + frame(PRIORITY, 0, 1, b"\0\0\0\x01\x10") + data(1, end=True), []
    ),
    "host for :authority": (only(*without(b":authority"), (b"host", b"h")), []),
    "content-length that is right": (
        headers(1, block(*REQUEST, (b"content-length", b"3"))) + data(1, b"abc", end=True), []
    ),
    # Faults of a stream. h2 takes malformed requests for a connection's fault.
    "no method": (only(*without(b":method")), STREAM_PROTOCOL),
    "no scheme": (only(*without(b":scheme")), STREAM_PROTOCOL),
    "no path": (only(*without(b":path")), STREAM_PROTOCOL),
    "an empty path": (only(*changed(b":path", b"")), STREAM_PROTOCOL),
    "a method twice": (only((b":method", b"POST"), *REQUEST), STREAM_PROTOCOL),
    "an unknown pseudo-header": (only((b":port", b"1"), *REQUEST), STREAM_PROTOCOL),
    "a response's pseudo-header": (only((b":status", b"200"), *REQUEST), STREAM_PROTOCOL),
    "a late pseudo-header": (only(*without(b":path"), (b":path", b"/")), STREAM_PROTOCOL),
    "an upper-case name": (request((b"X-Id", b"1")), STREAM_PROTOCOL),
    "an empty name": (request((b"", b"1")), STREAM_PROTOCOL),
    "a space in a name": (request((b"x id", b"1")), STREAM_PROTOCOL),
    "a line break in a value": (request((b"x", b"1\r\ny: 2")), STREAM_PROTOCOL),
    "a zero in a value": (request((b"x", b"1\0")), STREAM_PROTOCOL),
    "a space around a value": (request((b"x", b" 1")), STREAM_PROTOCOL),
    "connection": (request((b"connection", b"close")), STREAM_PROTOCOL),
    "transfer-encoding": (request((b"transfer-encoding", b"chunked")), STREAM_PROTOCOL),
    "te that is not trailers": (only(*changed(b"te", b"gzip")), STREAM_PROTOCOL),
    "host that differs": (request((b"host", b"other")), STREAM_PROTOCOL),
    "content-length without a body": (request((b"content-length", b"3")), STREAM_PROTOCOL),
    "content-length too small": (
        headers(1, block(*REQUEST, (b"content-length", b"2"))) + data(1, b"abc"), STREAM_PROTOCOL
    ),
    "content-length too large": (
        headers(1, block(*REQUEST, (b"content-length", b"4"))) + data(1, b"abc", end=True),
        STREAM_PROTOCOL,
    ),
    "content-length that is no number": (request((b"content-length", b"+0")), STREAM_PROTOCOL),
    "trailers without END_STREAM": (headers(1) + headers(1, block((b"x", b"y"))), STREAM_PROTOCOL),
    "a pseudo-header in trailers": (
        headers(1) + headers(1, block((b":path", b"/")), end=True), STREAM_PROTOCOL
    ),
    "WINDOW_UPDATE by 0 on a stream": (headers(1) + window_update(1, 0), STREAM_PROTOCOL),
    "a stream's window too large": (
        headers(1) + window_update(1, 2**31 - 1), [(1, E.FLOW_CONTROL_ERROR)]
    ),
    "DATA after END_STREAM": (headers(1, end=True) + data(1, b"x"), [(1, E.STREAM_CLOSED)]),
    "HEADERS after END_STREAM": (
        headers(1, end=True) + headers(1, end=True), [(1, E.STREAM_CLOSED)]
    ),
    "DATA after RST_STREAM": (headers(1) + rst_stream(1, 8) + data(1), [(1, E.STREAM_CLOSED)]),
    # Faults of the connection.
    "HEADERS on stream 0": (headers(0), PROTOCOL),
    "HEADERS on an even stream": (headers(2), PROTOCOL),
    "HEADERS on a lower stream": (headers(5) + headers(3), PROTOCOL),
    "DATA on stream 0": (data(0, b"x"), PROTOCOL),
    "DATA on an idle stream": (data(1, b"x"), PROTOCOL),
    "RST_STREAM on an idle stream": (rst_stream(1, 0), PROTOCOL),
    "RST_STREAM on stream 0": (rst_stream(0, 0), PROTOCOL),
    "WINDOW_UPDATE on an idle stream": (window_update(1, 1), PROTOCOL),
    "WINDOW_UPDATE by 0": (window_update(0, 0), PROTOCOL),
    "the connection's window too large": (
        window_update(0, 2**31 - 1), [(0, E.FLOW_CONTROL_ERROR)]
    ),
    "PUSH_PROMISE": (headers(1) + frame(PUSH_PROMISE, 4, 1, b"\0\0\0\2"), PROTOCOL),
    "CONTINUATION from nowhere": (frame(CONTINUATION, 4, 1, REQUEST_BLOCK), PROTOCOL),
    "CONTINUATION of another stream": (
        frame(HEADERS, 0, 1, REQUEST_BLOCK) + frame(CONTINUATION, 4, 3), PROTOCOL
    ),
    "PING inside a header block": (
        frame(HEADERS, 0, 1, REQUEST_BLOCK) + frame(PING, 0, 0, bytes(8)), PROTOCOL
    ),
    "HEADERS inside a header block": (frame(HEADERS, 0, 1, REQUEST_BLOCK) + headers(1), PROTOCOL),
    "an unknown frame inside a header block": (
        frame(HEADERS, 0, 1, REQUEST_BLOCK) + frame(0xFA, 0, 1), PROTOCOL
    ),
    "too much padding of DATA": (headers(1) + frame(DATA, PADDED, 1, b"\x03ab"), PROTOCOL),
    "too much padding of HEADERS": (frame(HEADERS, PADDED | 4, 1, b"\x03ab"), PROTOCOL),
    "PING on a stream": (frame(PING, 0, 1, bytes(8)), PROTOCOL),
    "SETTINGS on a stream": (frame(SETTINGS, 0, 1), PROTOCOL),
    "GOAWAY on a stream": (frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL),
    "PRIORITY on stream 0": (frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL),
    "ENABLE_PUSH of 2": (settings((2, 2)), PROTOCOL),
    "INITIAL_WINDOW_SIZE too large": (settings((4, 2**31)), [(0, E.FLOW_CONTROL_ERROR)]),
    "MAX_FRAME_SIZE too small": (settings((5, 2**14 - 1)), PROTOCOL),
    "MAX_FRAME_SIZE too large": (settings((5, 2**24)), PROTOCOL),
    "SETTINGS that overflow a stream's window": (
        headers(1) + window_update(1, 2**31 - 1 - 65535) + settings((4, 65536)),
        [(0, E.FLOW_CONTROL_ERROR)],
    ),
    "a short PING": (frame(PING, 0, 0, bytes(7)), SIZE),
    "a short RST_STREAM": (headers(1) + frame(RST_STREAM, 0, 1, bytes(3)), SIZE),
    "a short WINDOW_UPDATE": (frame(WINDOW_UPDATE, 0, 0, bytes(3)), SIZE),
    "a short GOAWAY": (frame(GOAWAY, 0, 0, bytes(7)), SIZE),
    "SETTINGS that are no six": (frame(SETTINGS, 0, 0, bytes(5)), SIZE),
    "SETTINGS ACK with a payload": (frame(SETTINGS, ACK, 0, bytes(6)), SIZE),
    "a frame too large": (frame(0xFA, 0, 0, bytes(300_000)), SIZE),
    "a short PRIORITY": (headers(1) + frame(PRIORITY, 0, 1, bytes(4)), [(1, E.FRAME_SIZE_ERROR)]),
    "an index of 0": (headers(1, b"\x80"), [(0, E.COMPRESSION_ERROR)]),
    "an index beyond the table": (headers(1, b"\xbe"), [(0, E.COMPRESSION_ERROR)]),
    "a block cut short": (headers(1, REQUEST_BLOCK[:-1]), [(0, E.COMPRESSION_ERROR)]),
    "an integer too long": (headers(1, b"\xff" * 9), [(0, E.COMPRESSION_ERROR)]),
    "a table too large": (headers(1, b"\x3f\xe2\x1f" + REQUEST_BLOCK), [(0, E.COMPRESSION_ERROR)]),
    "a table's size in mid-block": (headers(1, REQUEST_BLOCK + b"\x20"),
                                    [(0, E.COMPRESSION_ERROR)]),
    "Huffman code with EOS": (headers(1, b"\x00\x84\xff\xff\xff\xff\x00"),
                              [(0, E.COMPRESSION_ERROR)]),
}

# Where h2 says something else: what, and why we do not.
_WHOLE = "a malformed request is its stream's fault; h2 ends the connection (RFC 9113, 8.1.1)"
_COMPRESSION = "h2 says PROTOCOL_ERROR where RFC 9113, 4.3, says COMPRESSION_ERROR"
DIFFERENT: dict[str, tuple[Refusals, str]] = {
    **{name: (PROTOCOL, _WHOLE) for name, (_, refused) in CASES.items()
       if refused == STREAM_PROTOCOL},
    **{name: (PROTOCOL, _COMPRESSION) for name, (_, refused) in CASES.items()
       if refused == [(0, E.COMPRESSION_ERROR)]},
    "content-length without a body": ([], "h2 does not compare them (RFC 9113, 8.1.1)"),
    "SETTINGS ACK with a payload": (PROTOCOL, "FRAME_SIZE_ERROR by RFC 9113, 6.5"),
    "a short PRIORITY": (SIZE, "a stream's fault by RFC 9113, 6.3"),
    "PRIORITY of a stream on itself": (PROTOCOL, "RFC 9113 has no such rule any more"),
    "neither host nor :authority": (PROTOCOL, "RFC 9113, 8.3.1, allows it"),
}


def by_h2(sent: bytes) -> tuple[Bodies, Refusals]:
    connection = H2Connection(H2Configuration(client_side=False, header_encoding=None))
    connection.initiate_connection()
    connection.data_to_send()
    bodies: Bodies = {}
    try:
        for event in connection.receive_data(sent):
            if isinstance(event, H2Request):
                bodies[event.stream_id] = (b"", False)
            elif isinstance(event, H2Data):
                bodies[event.stream_id] = (bodies[event.stream_id][0] + event.data, False)
            elif isinstance(event, H2Ended):
                bodies[event.stream_id] = (bodies[event.stream_id][0], True)
    except ProtocolError:
        pass  # said in GOAWAY
    return bodies, refusals([connection.data_to_send()])


def by_us(pieces: list[bytes]) -> tuple[Bodies, Refusals]:
    connection = ServerConnection()
    bodies: Bodies = {}
    for piece in pieces:
        for event in connection.receive(piece, 0.0):
            if isinstance(event, RequestReceived):
                bodies[event.stream] = (bytes(event.data), event.ended)
            elif isinstance(event, DataReceived):
                bodies[event.stream] = (bodies[event.stream][0] + event.data, event.ended)
            elif isinstance(event, TrailersReceived):
                bodies[event.stream] = (bodies[event.stream][0], True)
    return bodies, refusals(connection.take())


@pytest.mark.parametrize("name", CASES)
def test_h2_agrees_or_there_is_a_reason(name: str) -> None:
    sent, refused = CASES[name]
    ours, theirs = by_us([HELLO + sent]), by_h2(HELLO + sent)
    assert ours[1] == refused
    if name in DIFFERENT:
        assert theirs[1] == DIFFERENT[name][0]
        assert theirs[1] != refused
    else:
        assert theirs[1] == refused
        if not refused:
            assert ours[0] == theirs[0]


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("name", [name for name in CASES if name != "a frame too large"])
def test_it_does_not_matter_how_bytes_are_cut(name: str, size: int) -> None:
    sent = HELLO + CASES[name][0]
    pieces = [sent[at : at + size] for at in range(0, len(sent), size)]
    assert by_us(pieces) == by_us([sent])
