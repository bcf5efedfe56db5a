"""A connection by the sections of RFC 9113: what is written, and what is told."""

from __future__ import annotations

import pytest
from tests.http2_wire import (
    ANSWER,
    HELLO,
    PATH,
    REQUEST,
    TRAILERS,
    Frame,
    block,
    data,
    feed,
    frame,
    frames,
    headers,
    opened,
    refusals,
    rst_stream,
    settings,
    window_update,
)

from shoal.codecs.http2 import (
    ConnectionEnded,
    DataReceived,
    ErrorCode,
    Options,
    PeerLeaving,
    PingAcknowledged,
    RequestReceived,
    ServerConnection,
    StreamReset,
    TrailersReceived,
)
from shoal.codecs.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)

FIRST, LAST = END_HEADERS, END_HEADERS | END_STREAM


class TestIntroduction:
    """Section 3.4."""

    def test_the_first_bytes_are_settings_and_the_connections_window(self) -> None:
        connection = ServerConnection(Options(
            max_streams=7, stream_window=2**20, max_frame_bytes=2**14, max_header_list_bytes=2**15,
            header_table_bytes=4096, connection_window=2**23,
        ))  # fmt: skip
        assert b"".join(connection.take()) == bytes.fromhex(
            "00001e 04 00 00000000"
            "0003 00000007  0004 00100000  0005 00004000  0006 00008000  0001 00001000"
            "000004 08 00 00000000 007f0001"
        )

    def test_settings_are_acknowledged(self) -> None:
        connection = ServerConnection()
        connection.take()
        assert feed(connection, PREFACE + settings((3, 100))) == []
        assert b"".join(connection.take()) == bytes.fromhex("000000 04 01 00000000")

    def test_ours_count_as_known_once_the_peer_says_so(self) -> None:
        connection = ServerConnection()
        feed(connection, HELLO)
        assert not connection.settings_acknowledged
        feed(connection, frame(SETTINGS, ACK, 0))
        assert connection.settings_acknowledged

    @pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nXX", b"\x16"])
    def test_another_protocol_ends_the_connection_as_soon_as_it_shows(self, sent: bytes) -> None:
        connection = ServerConnection()
        connection.take()
        [event] = feed(connection, sent)
        assert isinstance(event, ConnectionEnded)
        assert event.code == ErrorCode.PROTOCOL_ERROR
        assert "not HTTP/2" in event.reason
        assert refusals(connection.take()) == [(0, ErrorCode.PROTOCOL_ERROR)]

    @pytest.mark.parametrize(
        "first", [headers(1), data(1), frame(PING, 0, 0, bytes(8)), frame(SETTINGS, ACK, 0)],
        ids=["HEADERS", "DATA", "PING", "SETTINGS ACK"],
    )  # fmt: skip
    def test_the_first_frame_must_be_settings(self, first: bytes) -> None:
        connection = ServerConnection()
        connection.take()
        feed(connection, PREFACE + first)
        assert refusals(connection.take()) == [(0, ErrorCode.PROTOCOL_ERROR)]


class TestRequests:
    """Section 8.1."""

    def test_a_small_request_in_one_read_is_one_event(self) -> None:
        for _ in ("not seen before", "seen before"):
            [event] = feed(opened(), headers(1) + data(1, b"body", end=True))
            assert isinstance(event, RequestReceived)
            assert (event.stream, event.data, event.ended) == (1, b"body", True)
            assert event.headers.method == b"POST"
            assert event.headers.scheme == b"http"
            assert event.headers.path == PATH
            assert event.headers.authority == b"127.0.0.1:8081"
            assert event.headers.fields == ((b"te", b"trailers"), REQUEST[-1])
            assert event.headers.get(b"te") == b"trailers"
            assert event.headers.get(b"x") is None

    def test_what_comes_later_is_told_later(self) -> None:
        connection = opened()
        request, *rest = feed(
            connection, headers(1), data(1, b"ab"), data(1, b"c"), headers(1, block(), end=True)
        )
        assert isinstance(request, RequestReceived)
        assert not request.ended
        assert rest == [
            DataReceived(1, b"ab"), DataReceived(1, b"c"), TrailersReceived(1, ())
        ]

    def test_host_stands_for_authority(self) -> None:
        fields = [field for field in REQUEST if field[0] != b":authority"]
        [event] = feed(opened(), headers(1, block(*fields, (b"host", b"h"))))
        assert isinstance(event, RequestReceived)
        assert event.headers.authority == b"h"

    def test_connect_has_neither_scheme_nor_path(self) -> None:
        [event] = feed(opened(), headers(1, block((b":method", b"CONNECT"), (b":authority", b"a"))))
        assert isinstance(event, RequestReceived)
        connection = opened()
        assert feed(connection, headers(1, block((b":method", b"CONNECT"), *REQUEST[1:]))) == []
        assert refusals(connection.take()) == [(1, ErrorCode.PROTOCOL_ERROR)]

    def test_a_malformed_request_leaves_the_others_alone(self) -> None:
        connection = opened()
        [event] = feed(connection, headers(1, block((b"x", b"y"))) + headers(3, end=True))
        assert isinstance(event, RequestReceived)
        assert event.stream == 3
        assert feed(connection, data(1, b"was on its way")) == []
        assert refusals(connection.take()) == [(1, ErrorCode.PROTOCOL_ERROR)]

    def test_a_fault_in_a_body_is_told(self) -> None:
        connection = opened()
        request = headers(1, block(*REQUEST, (b"content-length", b"1")))
        *_, event = feed(connection, request, data(1, b"22"))
        assert isinstance(event, StreamReset)
        assert (event.stream, event.code, event.by_peer) == (1, ErrorCode.PROTOCOL_ERROR, False)
        assert "content-length" in event.reason
        assert connection.open_streams == 0

    def test_a_large_body_is_not_copied(self) -> None:
        sent = data(1, bytes(100_000), end=True)
        _, event = feed(opened(), headers(1), sent)
        assert isinstance(event, DataReceived)
        assert isinstance(event.data, memoryview)
        assert event.data.obj is sent

    def test_a_large_frame_is_handed_on_as_it_comes(self) -> None:
        sent = headers(1) + data(1, bytes(100_000), end=True) + headers(3, end=True)
        connection = opened()
        events = feed(connection, *(sent[at : at + 9_000] for at in range(0, len(sent), 9_000)))
        pieces = [event for event in events if isinstance(event, DataReceived)]
        assert len(pieces) > 10
        assert sum(len(piece.data) for piece in pieces) == 100_000
        assert [piece.ended for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        assert isinstance(events[-1], RequestReceived)

    def test_the_rest_of_a_large_frame_is_dropped_after_a_reset(self) -> None:
        sent = headers(1) + data(1, bytes(100_000), end=True)
        connection = opened()
        feed(connection, sent[:50_000])
        connection.reset(1, ErrorCode.CANCEL)
        [event] = feed(connection, sent[50_000:] + headers(3, end=True))
        assert isinstance(event, RequestReceived)


class TestAnswers:
    """Sections 8.1, 8.2, and 5.1 for what is left of their streams."""

    def test_a_whole_answer_is_three_frames(self) -> None:
        connection = opened()
        feed(connection, headers(1, end=True))
        assert connection.respond(1, ANSWER, (b"ab", b"c"), TRAILERS)
        assert frames(connection.take()) == [
            Frame(HEADERS, FIRST, 1, ANSWER),
            Frame(DATA, 0, 1, b"abc"),
            Frame(HEADERS, LAST, 1, TRAILERS),
        ]
        assert connection.open_streams == connection.pending_bytes == 0

    def test_an_answer_can_come_in_parts(self) -> None:
        connection = opened()
        feed(connection, headers(1, end=True))
        assert connection.send_headers(1, ANSWER)
        assert connection.send_data(1, (b"a",))
        assert connection.send_data(1, ())
        assert connection.send_data(1, (b"b",))
        assert connection.send_trailers(1, TRAILERS)
        assert frames(connection.take()) == [
            Frame(HEADERS, FIRST, 1, ANSWER),
            Frame(DATA, 0, 1, b"a"),
            Frame(DATA, 0, 1, b"b"),
            Frame(HEADERS, LAST, 1, TRAILERS),
        ]

    @pytest.mark.parametrize("last", [b"", b"x"])
    def test_an_answer_can_end_with_data(self, last: bytes) -> None:
        connection = opened()
        feed(connection, headers(1, end=True))
        connection.send_headers(1, ANSWER)
        connection.send_data(1, (last,), end=True)
        assert frames(connection.take())[1:] == [Frame(DATA, END_STREAM, 1, last)]
        assert connection.open_streams == 0

    def test_an_answer_can_be_headers_alone(self) -> None:
        connection = opened()
        feed(connection, headers(1, end=True))
        assert connection.send_headers(1, ANSWER, end=True)
        assert frames(connection.take()) == [Frame(HEADERS, LAST, 1, ANSWER)]

    def test_a_large_header_block_is_continued(self) -> None:
        connection = opened()
        feed(connection, headers(1, end=True))
        connection.respond(1, bytes(16_385), (b"a",), b"t")
        out = frames(connection.take())
        assert [(each.kind, each.flags, len(each.payload)) for each in out] == [
            (HEADERS, 0, 16_384), (CONTINUATION, END_HEADERS, 1), (DATA, 0, 1), (HEADERS, LAST, 1)
        ]  # fmt: skip

    def test_nothing_is_sent_for_a_stream_that_is_gone(self) -> None:
        connection = opened()
        feed(connection, headers(1), rst_stream(1, ErrorCode.CANCEL))
        assert not connection.respond(1, ANSWER, (), TRAILERS)
        assert not connection.send_headers(1, ANSWER)
        assert not connection.send_data(1, (b"x",))
        assert not connection.send_trailers(1, TRAILERS)
        assert not connection.reset(1, ErrorCode.CANCEL)
        assert connection.blocked(1) == 0
        assert connection.take() == []

    def test_nothing_is_sent_after_an_answers_end(self) -> None:
        connection = opened(None, (4, 1))
        feed(connection, headers(1, end=True))
        connection.respond(1, ANSWER, (b"abc",), TRAILERS)
        assert connection.blocked(1) == 3
        assert not connection.respond(1, ANSWER, (), TRAILERS)
        assert not connection.send_data(1, (b"x",))
        assert not connection.send_trailers(1, TRAILERS)

    def test_an_answer_before_the_requests_end_ends_the_stream(self) -> None:
        connection = opened()
        feed(connection, headers(1), data(1, b"a"))
        connection.respond(1, ANSWER, (b"no",), TRAILERS)
        assert [each.kind for each in frames(connection.take())] == [
            HEADERS, DATA, HEADERS, RST_STREAM
        ]  # fmt: skip
        assert feed(connection, data(1, b"on its way", end=True)) == []
        assert connection.take() == []

    def test_resetting_drops_what_waits(self) -> None:
        connection = opened(None, (4, 0))
        feed(connection, headers(1, end=True))
        connection.send_headers(1, ANSWER)
        connection.send_data(1, (b"abc",))
        connection.take()
        assert connection.reset(1, ErrorCode.INTERNAL_ERROR)
        assert connection.pending_bytes == 13
        assert frames(connection.take()) == [Frame(RST_STREAM, 0, 1, b"\0\0\0\2")]

    def test_a_peer_that_made_its_table_smaller_is_told_that_ours_is_empty(self) -> None:
        """RFC 7541, section 4.2."""
        connection = opened(None, (1, 100))
        feed(connection, headers(1, end=True) + headers(3, end=True))
        connection.respond(1, ANSWER, (b"a",), TRAILERS)
        connection.respond(3, ANSWER, (b"a",), TRAILERS)
        blocks = [each.payload for each in frames(connection.take()) if each.kind == HEADERS]
        assert blocks == [b"\x20" + ANSWER, TRAILERS, ANSWER, TRAILERS]
        feed(connection, settings((1, 0)) + headers(5, end=True))
        connection.send_headers(5, ANSWER, end=True)
        assert frames(connection.take())[-1].payload == ANSWER


class TestControl:
    """Sections 6.4 to 6.8."""

    def test_a_ping_is_answered(self) -> None:
        connection = opened()
        feed(connection, frame(PING, 0, 0, b"12345678"))
        assert frames(connection.take()) == [Frame(PING, ACK, 0, b"12345678")]

    def test_our_ping_is_acknowledged(self) -> None:
        connection = opened()
        connection.ping(b"12345678")
        assert frames(connection.take()) == [Frame(PING, 0, 0, b"12345678")]
        assert feed(connection, frame(PING, ACK, 0, b"12345678")) == [PingAcknowledged(b"12345678")]
        with pytest.raises(ValueError, match="8 bytes"):
            connection.ping(b"1")

    def test_a_clients_reset_is_told(self) -> None:
        connection = opened()
        _, event = feed(connection, headers(1) + rst_stream(1, 77))
        assert event == StreamReset(1, 77, True)
        assert connection.open_streams == 0

    def test_a_client_that_leaves_is_still_served(self) -> None:
        connection = opened()
        _, event = feed(connection, headers(1, end=True), frame(GOAWAY, 0, 0, bytes(8) + b"bye"))
        assert event == PeerLeaving(ErrorCode.NO_ERROR, b"bye")
        assert connection.respond(1, ANSWER, (b"a",), TRAILERS)

    def test_leaving_takes_two_steps(self) -> None:
        connection = opened()
        feed(connection, headers(1, end=True))
        connection.goaway()
        assert frames(connection.take()) == [
            Frame(GOAWAY, 0, 0, b"\x7f\xff\xff\xff" + bytes(4))
        ]  # fmt: skip
        assert len(feed(connection, headers(3))) == 1
        connection.goaway()
        assert frames(connection.take()) == [Frame(GOAWAY, 0, 0, b"\0\0\0\3" + bytes(4))]
        late = headers(5) + data(5, b"a") + window_update(5, 1) + rst_stream(5, 8) + data(7, b"b")
        assert feed(connection, late) == []
        assert feed(connection, data(3, b"a", end=True)) == [DataReceived(3, b"a", True)]
        connection.goaway()
        assert connection.take() == []
        assert connection.respond(1, ANSWER, (b"a",), TRAILERS)
        assert connection.open_streams == 1

    def test_failing_ends_everything(self) -> None:
        connection = opened(None, (4, 0))
        feed(connection, headers(1, end=True))
        connection.respond(1, ANSWER, (b"a",), TRAILERS)
        connection.take()
        connection.fail(ErrorCode.ENHANCE_YOUR_CALM, "why")
        connection.fail(ErrorCode.ENHANCE_YOUR_CALM, "once")
        assert frames(connection.take()) == [Frame(GOAWAY, 0, 0, b"\0\0\0\1\0\0\0\x0bwhy")]
        assert connection.ended
        assert connection.open_streams == connection.pending_bytes == 0
        assert feed(connection, headers(3)) == []

    def test_a_fault_names_the_last_stream_and_the_reason(self) -> None:
        connection = opened()
        *_, event = feed(connection, headers(1) + frame(PING, 0, 5, bytes(8)) + headers(3))
        assert isinstance(event, ConnectionEnded)
        [last] = frames(connection.take())
        assert last.payload == b"\0\0\0\1\0\0\0\1" + event.reason.encode()

    def test_the_reserved_bit_is_not_looked_at(self) -> None:
        connection = opened()
        [event] = feed(connection, headers(2**31 + 1, end=True))
        assert isinstance(event, RequestReceived)
        assert event.stream == 1

    def test_stream_numbers_end(self) -> None:
        connection = opened()
        feed(connection, headers(2**31 - 1, end=True))
        feed(connection, headers(2**31 + 1, end=True))
        assert refusals(connection.take()) != []


class TestClosedStreams:
    """Section 5.1."""

    def test_frames_after_an_exchange_end_the_connection(self) -> None:
        for late in (data(1, b"x"), headers(1, end=True)):
            connection = opened()
            feed(connection, headers(1, end=True))
            connection.respond(1, ANSWER, (b"a",), TRAILERS)
            connection.take()
            feed(connection, late)
            assert refusals(connection.take()) == [(0, ErrorCode.STREAM_CLOSED)]

    def test_window_updates_and_resets_after_an_exchange_are_dropped(self) -> None:
        connection = opened()
        feed(connection, headers(1, end=True))
        connection.respond(1, ANSWER, (b"a",), TRAILERS)
        connection.take()
        assert feed(connection, window_update(1, 5) + window_update(1, 0) + rst_stream(1, 8)) == []
        assert connection.take() == []

    def test_very_old_resets_are_forgotten_in_the_peers_favour(self) -> None:
        connection = opened(Options(max_streams=2_000))
        for stream in range(1, 1_200, 2):
            feed(connection, headers(stream))
            connection.reset(stream, ErrorCode.CANCEL)
        connection.take()
        assert feed(connection, data(1, b"late") + headers(3, end=True)) == []
        assert connection.take() == []
        assert len(connection._past._resets) <= 256


def test_updates_of_windows_are_exactly_as_given() -> None:
    assert frames([window_update(3, 5)]) == [Frame(WINDOW_UPDATE, 0, 3, b"\0\0\0\5")]
