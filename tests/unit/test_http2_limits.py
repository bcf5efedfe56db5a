"""What a hostile peer may not do, and what a busy one may."""

from __future__ import annotations

import pytest
from tests.http2_wire import (
    ANSWER,
    REQUEST,
    REQUEST_BLOCK,
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
    ErrorCode,
    Options,
    RequestReceived,
    ServerConnection,
    StreamReset,
)
from shoal.codecs.http2.frames import CONTINUATION, HEADERS, PING, PRIORITY, RST_STREAM

CALM = [(0, ErrorCode.ENHANCE_YOUR_CALM)]
PINGS = frame(PING, 0, 0, bytes(8))


def ended(connection: ServerConnection) -> list[tuple[int, ErrorCode]]:
    return [each for each in refusals(connection.take()) if each[0] == 0]


class TestStreams:
    def test_too_many_are_refused_and_may_be_tried_again(self) -> None:
        connection = opened(Options(max_streams=2))
        events = feed(connection, headers(1) + headers(3) + headers(5) + data(5, b"x"))
        assert len(events) == 2
        assert refusals(connection.take()) == [(5, ErrorCode.REFUSED_STREAM)]
        connection.respond(1, ANSWER, (b"a",), TRAILERS)
        [event] = feed(connection, headers(7, end=True))
        assert isinstance(event, RequestReceived)

    def test_a_body_over_the_limit_is_reset(self) -> None:
        connection = opened(Options(max_body_bytes=1_000))
        *_, event = feed(connection, headers(1), data(1, bytes(600)), data(1, bytes(600)))
        assert isinstance(event, StreamReset)
        assert "1000 bytes" in event.reason
        assert refusals(connection.take()) == [(1, ErrorCode.ENHANCE_YOUR_CALM)]

    def test_a_complete_request_is_checked_too(self) -> None:
        connection = opened(Options(max_body_bytes=1_000))
        *_, event = feed(connection, headers(1) + data(1, bytes(1_001), end=True))
        assert isinstance(event, StreamReset)

    def test_tiny_frames_count_as_what_they_cost(self) -> None:
        connection = opened(Options(max_body_bytes=256 * 100))
        events = feed(connection, headers(1), *[data(1, b"x")] * 101)
        assert isinstance(events[-1], StreamReset)

    @pytest.mark.parametrize("late", [rst_stream, lambda stream, _: window_update(stream, 0)])
    def test_resets_have_a_budget_whoever_makes_them(self, late: object) -> None:
        """CVE-2023-44487 and CVE-2025-8671."""
        assert callable(late)
        connection = opened(Options(reset_burst=20, reset_rate=10))
        for stream in range(1, 41, 2):
            feed(connection, headers(stream) + late(stream, 8))
        assert ended(connection) == []
        feed(connection, headers(41) + late(41, 8), now=0.05)
        assert ended(connection) == CALM

    def test_the_budget_fills_again(self) -> None:
        connection = opened(Options(reset_burst=20, reset_rate=10))
        for stream in range(1, 401, 2):
            feed(connection, headers(stream) + rst_stream(stream, 8), now=stream / 20)
        assert ended(connection) == []

    def test_malformed_requests_spend_it_too(self) -> None:
        connection = opened(Options(reset_burst=20, reset_rate=0))
        for stream in range(1, 43, 2):
            feed(connection, headers(stream, block((b"x", b"y"))))
        assert ended(connection) == CALM


class TestHeaders:
    def test_a_list_over_the_limit_is_answered_431(self) -> None:
        connection = opened(Options(max_header_list_bytes=400))
        assert feed(connection, headers(1, block(*REQUEST, (b"x", bytes(300))), end=True)) == []
        assert frames(connection.take()) == [Frame(HEADERS, 5, 1, b"\x08\x03431")]
        assert len(feed(connection, headers(3, end=True))) == 1

    def test_the_rest_of_such_a_request_is_not_wanted(self) -> None:
        connection = opened(Options(max_header_list_bytes=400))
        feed(connection, headers(1, block(*REQUEST, (b"x", bytes(300)))))
        assert [each.kind for each in frames(connection.take())] == [HEADERS, RST_STREAM]
        assert feed(connection, data(1, b"x", end=True)) == []

    def test_a_bomb_of_references_is_answered_431(self) -> None:
        connection = opened()
        large = b"\x40\x01x\x7f\xa1\x1e" + b"v" * 4_000
        feed(connection, headers(1, REQUEST_BLOCK + large, end=True))
        connection.respond(1, ANSWER, (), TRAILERS)
        connection.take()
        assert feed(connection, headers(3, REQUEST_BLOCK + b"\xbe" * 10_000, end=True)) == []
        assert frames(connection.take())[0].payload == b"\x08\x03431"

    def test_too_many_fields_are_answered_431(self) -> None:
        connection = opened(Options(max_header_fields=10))
        feed(connection, headers(1, block(*REQUEST, *[(b"a", b"")] * 5), end=True))
        assert frames(connection.take())[0].payload == b"\x08\x03431"

    def test_a_block_over_the_limit_ends_the_connection_before_it_is_all_there(self) -> None:
        connection = opened()
        feed(connection, headers(1, bytes(70_000))[:9])
        assert ended(connection) == CALM

    def test_a_small_limit_holds_for_blocks_that_are_all_there(self) -> None:
        connection = opened(Options(max_header_block_bytes=len(REQUEST_BLOCK)))
        assert len(feed(connection, headers(1))) == 1
        feed(connection, headers(3, REQUEST_BLOCK + b"\x00\1x\1y"))
        assert ended(connection) == CALM

    def test_a_block_over_the_limit_in_pieces_ends_the_connection(self) -> None:
        connection = opened()
        feed(connection, frame(HEADERS, 0, 1, bytes(40_000)))
        feed(connection, frame(CONTINUATION, 0, 1, bytes(40_000)))
        assert ended(connection) == CALM

    def test_continuations_are_counted(self) -> None:
        connection = opened(Options(max_continuations=5))
        feed(connection, frame(HEADERS, 0, 1), *[frame(CONTINUATION, 0, 1)] * 5)
        assert ended(connection) == []
        feed(connection, frame(CONTINUATION, 0, 1))
        assert ended(connection) == CALM


FLOODS = {
    "PING": PINGS,
    "PING ACK": frame(PING, 1, 0, bytes(8)),
    "SETTINGS": settings((4, 65_535)),
    "PRIORITY": frame(PRIORITY, 0, 1, b"\0\0\0\3\1"),
    "unknown": frame(0xEE, 0, 0),
    "WINDOW_UPDATE": window_update(0, 1),
    "empty DATA": data(1),
    "RST_STREAM": rst_stream(3, 8),
}


class TestChatter:
    @pytest.mark.parametrize("name", FLOODS)
    def test_frames_that_bring_nothing_have_a_budget(self, name: str) -> None:
        connection = opened(Options(chatter_burst=100, chatter_rate=10))
        feed(connection, headers(1) + headers(3) + rst_stream(3, 8))
        for _ in range(95):
            feed(connection, FLOODS[name])
            connection.take()
        assert not connection.ended
        *_, event = feed(connection, FLOODS[name] * 10)
        assert isinstance(event, ConnectionEnded)
        assert event.code == ErrorCode.ENHANCE_YOUR_CALM

    def test_it_fills_again(self) -> None:
        connection = opened(Options(chatter_burst=10, chatter_rate=10))
        for second in range(100):
            feed(connection, PINGS, now=second / 10)
            connection.take()
        assert not connection.ended

    def test_requests_earn_more(self) -> None:
        connection = opened(Options(chatter_burst=10, chatter_rate=0))
        for stream in range(1, 2_001, 2):
            feed(connection, headers(stream) + data(stream, b"x", end=True))
            connection.respond(stream, ANSWER, (b"a",), TRAILERS)
            feed(connection, window_update(0, 1) * 2 + PINGS)
            connection.take()
        assert not connection.ended

    def test_large_answers_earn_more(self) -> None:
        connection = opened(Options(chatter_burst=10, chatter_rate=0))
        feed(connection, headers(1, end=True))
        connection.respond(1, ANSWER, (bytes(3_000_000),), TRAILERS)
        while connection.open_streams and not connection.ended:
            connection.take()
            feed(connection, window_update(0, 30_000) + window_update(1, 30_000))
        assert not connection.ended

    def test_tiny_windows_do_not(self) -> None:
        connection = opened(Options(chatter_burst=100, chatter_rate=0), (4, 0))
        feed(connection, headers(1, end=True))
        connection.respond(1, ANSWER, (bytes(3_000),), TRAILERS)
        while connection.open_streams:
            connection.take()
            feed(connection, window_update(1, 1))
        assert ended(connection) == CALM

    def test_answers_that_nobody_takes_are_bounded(self) -> None:
        connection = opened(Options(max_control_bytes=200))
        feed(connection, PINGS * 11)
        assert not connection.ended
        feed(connection, PINGS)
        assert ended(connection) == CALM
        assert connection.pending_bytes == 0

    def test_refusals_that_nobody_takes_are_bounded(self) -> None:
        connection = opened(Options(max_control_bytes=200, max_streams=0))
        feed(connection, *(headers(stream) for stream in range(1, 101, 2)))
        assert (0, ErrorCode.ENHANCE_YOUR_CALM) in refusals(connection.take())


class TestOptions:
    @pytest.mark.parametrize(
        ("name", "value"),
        [("stream_window", 65_534), ("connection_window", 2**31), ("max_frame_bytes", 16_383),
         ("max_send_frame_bytes", 2**24), ("max_streams", -1), ("header_table_bytes", 2**32)],
    )  # fmt: skip
    def test_what_the_protocol_forbids_is_refused(self, name: str, value: int) -> None:
        with pytest.raises(ValueError, match=f"{name} is {value}; HTTP/2 allows"):
            Options(**{name: value})


def test_bytes_that_come_one_by_one_cost_no_more_memory() -> None:
    connection = opened()
    sent = headers(1) + frame(0xEE, 0, 0, bytes(3_000)) + data(1, bytes(3_000), end=True)
    events = feed(connection, *(sent[at : at + 1] for at in range(len(sent))))
    assert len(events) == 2
    assert connection._rest == []
