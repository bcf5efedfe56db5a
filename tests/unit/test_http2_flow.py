"""Flow control both ways (RFC 9113, sections 5.2 and 6.9), and whose turn it is."""

from __future__ import annotations

import pytest
from tests.http2_wire import (
    ANSWER,
    TRAILERS,
    Frame,
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

from shoal.codecs.http2 import DataReceived, ErrorCode, Options, ServerConnection
from shoal.codecs.http2.frames import DATA, HEADERS, PADDED, SETTINGS, WINDOW_UPDATE

WIDE = window_update(0, 2**30)
TIGHT = Options(stream_window=65_535, connection_window=100_000)


def asked(*streams: int, initial: int = 65_535) -> ServerConnection:
    """A connection with requests that wait for answers."""
    connection = opened(None, (4, initial))
    feed(connection, *(headers(stream, end=True) for stream in streams))
    return connection


def sent(connection: ServerConnection, limit: int = 10**9) -> list[tuple[int, int]]:
    """(stream, bytes) of the DATA frames that are taken."""
    return [
        (each.stream, len(each.payload))
        for each in frames(connection.take(limit)) if each.kind == DATA
    ]  # fmt: skip


class TestOutwards:
    def test_no_more_is_sent_than_the_stream_allows(self) -> None:
        connection = asked(1, initial=5)
        connection.respond(1, ANSWER, (b"12345678",), TRAILERS)
        assert sent(connection) == [(1, 5)]
        assert connection.pending_bytes == connection.blocked(1) == 3
        feed(connection, window_update(1, 1))
        assert sent(connection) == [(1, 1)]
        feed(connection, window_update(1, 100))
        assert frames(connection.take()) == [
            Frame(DATA, 0, 1, b"78"), Frame(HEADERS, 5, 1, TRAILERS)
        ]  # fmt: skip
        assert connection.open_streams == connection.pending_bytes == 0

    def test_no_more_is_sent_than_the_connection_allows(self) -> None:
        connection = asked(1, 3, 5, initial=2**20)
        for stream in (1, 3, 5):
            connection.respond(stream, ANSWER, (bytes(30_000),), TRAILERS)
        assert sum(size for _, size in sent(connection)) == 65_535
        assert sent(connection) == []
        feed(connection, window_update(0, 10))
        assert sent(connection) == [(5, 10)]
        feed(connection, WIDE)
        assert sum(size for _, size in sent(connection)) == 90_000 - 65_545
        assert connection.open_streams == 0

    def test_a_small_answer_waits_its_turn_when_the_connections_window_is_used_up(self) -> None:
        connection = asked(1, 3, initial=2**20)
        connection.respond(1, ANSWER, (bytes(80_000),), TRAILERS)
        sent(connection)
        connection.respond(3, ANSWER, (b"",), TRAILERS)
        feed(connection, headers(5, end=True) + window_update(0, 100))
        assert sent(connection) == [(1, 100)]

    def test_a_small_answer_waits_no_longer_when_the_window_is_opened(self) -> None:
        connection = asked(1, 3, initial=2**20)
        connection.respond(1, ANSWER, (bytes(80_000),), TRAILERS)
        sent(connection)
        feed(connection, window_update(0, 1_000))
        connection.respond(3, ANSWER, (b"small",), TRAILERS)
        assert sent(connection) == [(3, 5), (1, 995)]

    def test_a_small_answer_passes_a_large_one(self) -> None:
        connection = asked(1, 3, initial=2**24)
        feed(connection, WIDE)
        connection.respond(1, ANSWER, (bytes(200_000),), TRAILERS)
        connection.respond(3, ANSWER, (b"small",), TRAILERS)
        assert sent(connection, 40_000)[0] == (3, 5)

    def test_large_answers_take_turns(self) -> None:
        connection = asked(1, 3, initial=2**24)
        feed(connection, WIDE)
        connection.respond(1, ANSWER, (bytes(40_000),), TRAILERS)
        connection.respond(3, ANSWER, (bytes(20_000),), TRAILERS)
        assert [stream for stream, _ in sent(connection)] == [1, 3, 1, 3, 1]

    def test_taking_stops_near_the_limit(self) -> None:
        connection = asked(1, initial=2**24)
        feed(connection, WIDE)
        connection.respond(1, ANSWER, (bytes(1_000_000),), TRAILERS)
        assert sum(map(len, connection.take(100_000))) < 120_000
        assert 880_000 < connection.pending_bytes < 900_000

    def test_frames_are_as_large_as_both_sides_allow(self) -> None:
        connection = opened(Options(max_send_frame_bytes=50_000), (4, 2**20), (5, 2**20))
        feed(connection, headers(1, end=True), WIDE)
        connection.respond(1, ANSWER, (bytes(120_000),), TRAILERS)
        assert sent(connection) == [(1, 50_000), (1, 50_000), (1, 20_000)]

    def test_large_parts_are_sent_as_they_are(self) -> None:
        connection = opened(Options(max_send_frame_bytes=50_000), (4, 2**20), (5, 2**20))
        feed(connection, headers(1, end=True), WIDE)
        part, view = bytes(40_000), memoryview(bytearray(30_000))
        connection.respond(1, ANSWER, (b"head", part, b"", view), TRAILERS)
        out = connection.take()
        assert any(piece is part for piece in out)
        assert [piece.obj is view.obj for piece in out if isinstance(piece, memoryview)] == [
            True, True
        ]  # fmt: skip

    def test_a_changed_setting_changes_open_windows(self) -> None:
        connection = asked(1, initial=10)
        connection.respond(1, ANSWER, (bytes(30),), TRAILERS)
        assert sent(connection) == [(1, 10)]
        feed(connection, settings((4, 15)))
        assert sent(connection) == [(1, 5)]

    def test_a_window_can_be_negative(self) -> None:
        connection = asked(1, initial=10)
        connection.respond(1, ANSWER, (bytes(30),), TRAILERS)
        assert sent(connection) == [(1, 10)]
        feed(connection, settings((4, 3)), window_update(1, 7))
        assert sent(connection) == []
        feed(connection, window_update(1, 1))
        assert sent(connection) == [(1, 1)]

    def test_the_end_needs_no_window(self) -> None:
        connection = asked(1, 3, initial=0)
        connection.respond(1, ANSWER, (), TRAILERS)
        connection.send_headers(3, ANSWER)
        connection.send_data(3, (), end=True)
        assert connection.open_streams == 0

    def test_the_end_comes_after_data_that_waits(self) -> None:
        connection = asked(1, initial=2)
        connection.send_headers(1, ANSWER)
        connection.send_data(1, (b"abc",))
        connection.send_data(1, (), end=True)
        feed(connection, window_update(1, 9))
        out = [each for each in frames(connection.take()) if each.kind == DATA]
        assert out[-1].flags == 1
        assert b"".join(each.payload for each in out) == b"abc"
        assert connection.open_streams == 0

    def test_whoever_waits_for_room_is_told(self) -> None:
        connection = asked(1, 3, initial=2)
        for stream in (1, 3):
            connection.send_headers(stream, ANSWER)
            connection.send_data(stream, (b"abc",))
        connection.take()
        assert connection.drained() == []
        feed(connection, window_update(3, 9))
        connection.take()
        assert connection.drained() == [3]
        assert connection.drained() == []
        assert (connection.blocked(1), connection.blocked(3)) == (1, 0)

    def test_streams_that_end_while_they_wait_leave_nothing_behind(self) -> None:
        connection = asked(1, initial=2**20)
        connection.respond(1, ANSWER, (bytes(100_000),), TRAILERS)
        connection.take(10**9)
        for stream in range(3, 1_003, 2):
            feed(connection, headers(stream, end=True))
            connection.respond(stream, ANSWER, (b"x",), TRAILERS)
            feed(connection, rst_stream(stream, 8))
        assert len(connection._round) < 100
        assert connection.pending_bytes < 100_000

    @pytest.mark.parametrize("increment", [1, 2**31 - 1])
    def test_the_largest_window_may_be_reached_but_not_passed(self, increment: int) -> None:
        connection = asked(1)
        feed(connection, window_update(0, 2**31 - 1 - 65_535) + window_update(1, 2**31 - 65_536))
        assert refusals(connection.take()) == []
        feed(connection, window_update(1, increment))
        feed(connection, window_update(0, increment))
        assert refusals(connection.take()) == [
            (1, ErrorCode.FLOW_CONTROL_ERROR), (0, ErrorCode.FLOW_CONTROL_ERROR)
        ]  # fmt: skip


def given_back(connection: ServerConnection) -> list[tuple[int, int]]:
    """(stream, increment) of the WINDOW_UPDATE frames that are taken."""
    return [
        (each.stream, int.from_bytes(each.payload, "big"))
        for each in frames(connection.take()) if each.kind == WINDOW_UPDATE
    ]  # fmt: skip


class TestInwards:
    def test_credit_comes_back_by_itself(self) -> None:
        connection = opened(TIGHT)
        feed(connection, headers(1), data(1, bytes(30_000)))
        assert given_back(connection) == []
        feed(connection, data(1, bytes(3_000)))
        assert given_back(connection) == [(1, 33_000)]
        feed(connection, data(1, bytes(20_000)))
        assert given_back(connection) == [(0, 53_000)]

    def test_a_body_may_be_larger_than_every_window(self) -> None:
        connection = opened(TIGHT)
        feed(connection, headers(1))
        for _ in range(100):
            feed(connection, data(1, bytes(16_384)))
        assert not connection.ended
        assert connection.open_streams == 1

    def test_small_requests_give_credit_back_too(self) -> None:
        connection = opened(TIGHT)
        total = 0
        for stream in range(1, 201, 2):
            feed(connection, headers(stream) + data(stream, bytes(2_000), end=True))
            connection.respond(stream, ANSWER, (b"a",), TRAILERS)
            total += sum(size for _, size in given_back(connection))
        assert connection._window == 100_000 - 200_000 + total > 50_000 - 2_000

    def test_padding_counts(self) -> None:
        connection = opened(TIGHT)
        feed(connection, headers(1))
        for _ in range(200):
            feed(connection, frame(DATA, PADDED, 1, b"\xff" + bytes(255)))
        assert given_back(connection) == [(1, 32_768), (0, 50_176)]

    def test_data_for_streams_that_are_gone_is_given_back_to_the_connection(self) -> None:
        connection = opened(TIGHT)
        feed(connection, headers(1))
        connection.reset(1, ErrorCode.CANCEL)
        feed(connection, data(1, bytes(60_000)))
        assert given_back(connection) == [(0, 60_000)]

    def test_more_than_the_streams_window_is_a_streams_fault(self) -> None:
        connection = opened(TIGHT)
        feed(connection, headers(1))
        connection.hold(1)
        feed(connection, data(1, bytes(65_535)))
        assert refusals(connection.take()) == []
        feed(connection, data(1, b"x"))
        assert refusals(connection.take()) == [(1, ErrorCode.FLOW_CONTROL_ERROR)]

    def test_more_than_the_connections_window_is_the_connections_fault(self) -> None:
        connection = opened(TIGHT)
        feed(connection, headers(1), headers(3))
        connection.hold(1)
        connection.hold(3)
        feed(connection, data(1, bytes(50_000)), data(3, bytes(50_000)))
        assert refusals(connection.take()) == []
        feed(connection, data(3, b"x"))
        assert refusals(connection.take()) == [(0, ErrorCode.FLOW_CONTROL_ERROR)]

    def test_what_is_held_is_given_back_when_acknowledged(self) -> None:
        connection = opened(TIGHT)
        feed(connection, headers(1))
        connection.hold(1)
        feed(connection, data(1, bytes(40_000)), data(1, bytes(20_000)))
        assert given_back(connection) == []
        connection.acknowledge(1, 20_000)
        assert given_back(connection) == [(1, 20_000)]
        connection.acknowledge(1, 999_999)
        assert given_back(connection) == [(1, 40_000), (0, 60_000)]

    def test_what_is_held_is_given_back_when_the_stream_ends(self) -> None:
        for ended in (True, False):
            connection = opened(TIGHT)
            feed(connection, headers(1))
            connection.hold(1)
            feed(connection, data(1, bytes(60_000), end=ended))
            connection.respond(1, ANSWER, (b"a",), TRAILERS)
            assert given_back(connection) == [(0, 60_000)]
            connection.acknowledge(1, 60_000)
            assert given_back(connection) == []

    def test_a_held_body_has_no_limit_in_all(self) -> None:
        connection = opened(Options(max_body_bytes=1_000))
        feed(connection, headers(1))
        connection.hold(1)
        events = feed(connection, data(1, bytes(5_000)))
        assert events == [DataReceived(1, bytes(5_000))]

    def test_windows_count_from_the_start_of_a_frame_that_comes_in_pieces(self) -> None:
        connection = opened(TIGHT)
        feed(connection, headers(1))
        connection.hold(1)
        sent = data(1, bytes(70_000))
        feed(connection, sent[:5_000])
        assert refusals(connection.take()) == [(1, ErrorCode.FLOW_CONTROL_ERROR)]
        assert feed(connection, sent[5_000:]) == []
        assert not connection.ended


def test_settings_are_acknowledged_before_what_they_allow_is_sent() -> None:
    connection = asked(1, initial=0)
    connection.respond(1, ANSWER, (b"abc",), TRAILERS)
    connection.take()
    feed(connection, settings((4, 10)))
    assert [each.kind for each in frames(connection.take())] == [SETTINGS, DATA, HEADERS]
