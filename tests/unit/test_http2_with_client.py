"""Random conversations of an `h2` client with our connection: every body arrives whole, both ways.

Bytes are cut anywhere and delayed, windows are small and change, streams are reset from both sides.
When all has arrived both sides agree about every window.
"""

from __future__ import annotations

import random

import hypothesis.strategies as st
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, SettingsAcknowledged, StreamEnded, StreamReset
from h2.events import DataReceived as H2Data
from h2.events import TrailersReceived as H2Trailers
from h2.settings import SettingCodes, Settings
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.http2_wire import ANSWER, REQUEST, TRAILERS

from shoal.codecs.http2 import (
    ConnectionEnded,
    DataReceived,
    ErrorCode,
    Options,
    RequestReceived,
    ServerConnection,
    TrailersReceived,
)
from shoal.codecs.http2 import StreamReset as Reset

LARGEST = 150_000
sizes = st.one_of(st.integers(0, 200), st.integers(0, LARGEST))
windows = st.one_of(st.integers(0, 2_000), st.integers(0, LARGEST))
chunks = st.one_of(st.integers(1, 30), st.integers(1, 60_000))
picks = st.integers(0, 1_000)


def body(stream: int, size: int) -> bytes:
    return random.Random(stream).randbytes(size)


class Exchange:
    """A request as both sides have it."""

    def __init__(self, request: bytes, header: str | None) -> None:
        self.request = request
        self.header = header
        self.sent = 0
        self.trailers = False
        self.unread = 0  # by the client
        self.received = bytearray()  # by the server
        self.complete = False
        self.held = False
        self.answer: bytes | None = None
        self.answered = bytearray()
        self.answer_complete = False
        self.cancelled = False


class Conversation(RuleBasedStateMachine):
    client: H2Connection
    server: ServerConnection

    @initialize(
        window=st.integers(65_535, 120_000), connection=st.integers(65_535, 200_000),
        caches=st.integers(1, 3), first=windows, frame=st.integers(16_384, 30_000),
    )  # fmt: skip
    def begin(self, window: int, connection: int, caches: int, first: int, frame: int) -> None:
        self.server = ServerConnection(Options(
            stream_window=window, connection_window=connection, max_header_caches=caches,
            max_send_frame_bytes=20_000, max_streams=8, max_frame_bytes=20_000,
        ))  # fmt: skip
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.client.local_settings = Settings(client=True, initial_values={
            SettingCodes.INITIAL_WINDOW_SIZE: first, SettingCodes.MAX_FRAME_SIZE: frame,
        })  # fmt: skip
        self.client.max_inbound_frame_size = frame
        self.client.initiate_connection()
        self.up = bytearray()
        self.down = bytearray()
        self.exchanges: dict[int, Exchange] = {}
        self.settled = False  # h2 takes any ACK for one of all its settings

    # --- the client --------------------------------------------------------------------------

    def open_ones(self) -> dict[int, Exchange]:
        return {
            stream: each for stream, each in self.exchanges.items()
            if not each.cancelled and not each.answer_complete
        }

    def pick(self, number: int) -> tuple[int, Exchange] | None:
        exchanges = list(self.open_ones().items())
        return exchanges[number % len(exchanges)] if exchanges else None

    @rule(size=sizes, header=st.sampled_from([None, "a", "b", "c" * 50]), trailers=st.booleans())
    def ask(self, size: int, header: str | None, trailers: bool) -> None:
        if len(self.open_ones()) >= 6:
            return
        stream = self.client.get_next_available_stream_id()
        exchange = self.exchanges[stream] = Exchange(body(stream, size), header)
        exchange.trailers = trailers
        fields = list(REQUEST) + ([(b"x-id", header.encode())] if header else [])
        self.client.send_headers(stream, fields)
        self.collect()

    @rule(number=picks, most=chunks, padding=st.sampled_from([None, None, 0, 9]))
    def send(self, number: int, most: int, padding: int | None) -> None:
        found = self.pick(number)
        if found is None or found[1].sent < 0:
            return
        stream, exchange = found
        room = min(
            self.client.local_flow_control_window(stream), self.client.max_outbound_frame_size
        )
        if padding is not None:
            room -= padding + 1
        piece = exchange.request[exchange.sent : exchange.sent + max(0, min(room, most))]
        exchange.sent += len(piece)
        last = exchange.sent == len(exchange.request)
        if room < 0 or (not piece and not last):
            return
        ends = last and not exchange.trailers
        self.client.send_data(stream, piece, end_stream=ends, pad_length=padding)
        if last and exchange.trailers:
            self.client.send_headers(stream, [(b"x-end", b"1")], end_stream=True)
        if last:
            exchange.sent = -1
        self.collect()

    @rule(number=picks)
    def cancel(self, number: int) -> None:
        found = self.pick(number)
        if found is not None:
            found[1].cancelled = True
            self.client.reset_stream(found[0], ErrorCode.CANCEL)
            self.collect()

    @rule(number=picks)
    def read(self, number: int) -> None:
        found = self.pick(number)
        if found is not None and found[1].unread:
            self.client.acknowledge_received_data(found[1].unread, found[0])
            found[1].unread = 0
            self.collect()

    @precondition(lambda self: self.settled)
    @rule(window=windows, table=st.sampled_from([0, 100, 4096]))
    def change(self, window: int, table: int) -> None:
        self.client.update_settings({
            SettingCodes.INITIAL_WINDOW_SIZE: window, SettingCodes.HEADER_TABLE_SIZE: table,
        })
        self.settled = False
        self.client.ping(b"12345678")
        self.collect()

    def collect(self) -> None:
        self.up += self.client.data_to_send()

    # --- the wires ---------------------------------------------------------------------------

    @precondition(lambda self: self.up)
    @rule(size=chunks)
    def arrive(self, size: int) -> None:
        piece = bytes(self.up[:size])
        del self.up[:size]
        for event in self.server.receive(piece, 0.0):
            assert not isinstance(event, ConnectionEnded), event
            if isinstance(event, RequestReceived):
                exchange = self.exchanges[event.stream]
                assert event.headers.get(b"x-id") == (
                    exchange.header.encode() if exchange.header else None
                )
                self.take_in(event.stream, event.data, event.ended)
            elif isinstance(event, DataReceived):
                self.take_in(event.stream, event.data, event.ended)
            elif isinstance(event, TrailersReceived):
                assert event.fields == ((b"x-end", b"1"),)
                self.take_in(event.stream, b"", True)
            elif isinstance(event, Reset):
                assert event.by_peer

    def take_in(self, stream: int, data: bytes | memoryview, ended: bool) -> None:
        exchange = self.exchanges[stream]
        assert not exchange.complete
        exchange.received += data
        exchange.complete = ended
        assert exchange.request.startswith(exchange.received)
        if ended:
            assert exchange.received == exchange.request

    @rule(size=chunks, limit=st.sampled_from([1, 30_000, 10**6]))
    def depart(self, size: int, limit: int) -> None:
        self.down += b"".join(self.server.take(limit))
        piece = bytes(self.down[:size])
        del self.down[:size]
        for event in self.client.receive_data(piece):
            assert not isinstance(event, ConnectionTerminated), event
            if isinstance(event, H2Data):
                exchange = self.exchanges[event.stream_id]
                exchange.answered += event.data
                exchange.unread += event.flow_controlled_length
            elif isinstance(event, StreamEnded):
                exchange = self.exchanges[event.stream_id]
                exchange.answer_complete = True
                assert bytes(exchange.answered) == exchange.answer
                self.client.acknowledge_received_data(exchange.unread, event.stream_id)
            elif isinstance(event, StreamReset):
                exchange = self.exchanges[event.stream_id]
                assert exchange.cancelled or exchange.answer is not None
                exchange.cancelled = True
            elif isinstance(event, SettingsAcknowledged):
                self.settled = True
            elif isinstance(event, H2Trailers):
                assert event.headers == [(b"grpc-status", b"0")]
        self.collect()

    # --- the server --------------------------------------------------------------------------

    @rule(number=picks, size=sizes, early=st.booleans())
    def respond(self, number: int, size: int, early: bool) -> None:
        found = self.pick(number)
        if found is None or found[1].answer is not None or not (found[1].complete or early):
            return
        stream, exchange = found
        answer = body(stream + 1, size)
        if self.server.respond(stream, ANSWER, (answer[:5], memoryview(answer)[5:]), TRAILERS):
            exchange.answer = answer

    @rule(number=picks, size=sizes, ends=st.booleans())
    def stream(self, number: int, size: int, ends: bool) -> None:
        found = self.pick(number)
        if found is None:
            return
        stream, exchange = found
        if exchange.answer is None:
            if not self.server.send_headers(stream, ANSWER):
                return
            exchange.answer = b""
        piece = random.Random(size).randbytes(size)
        if self.server.send_data(stream, (piece,), end=ends):
            exchange.answer += piece

    @rule(number=picks)
    def hold(self, number: int) -> None:
        found = self.pick(number)
        if found is not None:
            self.server.hold(found[0])
            found[1].held = True

    @rule(number=picks, size=chunks)
    def acknowledge(self, number: int, size: int) -> None:
        found = self.pick(number)
        if found is not None:
            self.server.acknowledge(found[0], size)

    @rule(number=picks)
    def refuse(self, number: int) -> None:
        found = self.pick(number)
        if found is not None and self.server.reset(found[0], ErrorCode.INTERNAL_ERROR):
            found[1].answer = b""

    # --- the end ------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "client"):
            return
        for _ in range(400):
            if not self.open_ones():
                break
            self.finish_some()
        assert not self.open_ones(), "a body did not get through"
        while self.up or self.server.pending_bytes or self.down:
            self.move_all()
        self.check_windows()

    def move_all(self) -> None:
        if self.up:
            self.arrive(10**9)
        self.depart(10**9, 10**9)

    def finish_some(self) -> None:
        for number, (stream, exchange) in enumerate(list(self.open_ones().items())):
            if exchange.sent >= 0:
                self.send(number, 10**9, None)
            self.server.acknowledge(stream, 10**9)
            if exchange.complete and exchange.answer is None:
                self.server.respond(stream, ANSWER, (b"last",), TRAILERS)
                exchange.answer = b"last"
            elif exchange.answer is not None:
                self.server.send_trailers(stream, TRAILERS)
        self.move_all()
        for number, (stream, exchange) in enumerate(list(self.open_ones().items())):
            self.read(number)
            if self.client.remote_flow_control_window(stream) < 1_000 and exchange.answer:
                self.client.increment_flow_control_window(20_000, stream)
                self.collect()

    def check_windows(self) -> None:
        """A last request shows them to both."""
        self.change(65_535, 4096)
        self.move_all()
        stream = self.client.get_next_available_stream_id()
        self.exchanges[stream] = Exchange(b"", None)
        self.client.send_headers(stream, list(REQUEST))
        self.collect()
        self.move_all()
        state = self.server._streams[stream]
        assert self.client.local_flow_control_window(stream) == min(
            self.server._window, state.window
        )
        assert self.client.remote_flow_control_window(stream) == min(
            self.server._send_window, self.server._initial_window
        )
        assert self.server._unread == self.server._queued == 0


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
