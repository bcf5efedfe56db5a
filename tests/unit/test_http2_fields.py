"""Header blocks: decoded as `hpack` does, remembered only while they mean the same."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hpack import Decoder, Encoder, HPACKError
from hypothesis import given, settings
from tests.http2_wire import REQUEST, block, feed, headers, opened, refusals

from shoal.codecs.http2 import (
    ErrorCode,
    Field,
    Headers,
    Options,
    RequestReceived,
    ServerConnection,
    encode_headers,
)
from shoal.codecs.http2.faults import ConnectionFault
from shoal.codecs.http2.field_blocks import FieldDecoder

NO_LIMIT = 2**30


def by_hpack(decoder: Decoder, sent: bytes) -> list[Field] | None:
    try:
        return [(name, value) for name, value in decoder.decode(sent, raw=True)]
    except HPACKError:
        return None


def by_us(decoder: FieldDecoder, sent: bytes) -> list[Field] | None:
    try:
        fields = decoder.decode(sent)
    except ConnectionFault as fault:
        return None if fault.code == ErrorCode.COMPRESSION_ERROR else []
    return None if fields is None else list(fields)


names = st.sampled_from([b":path", b":method", b"te", b"grpc-timeout", b"x", b"authorization"])
values = st.one_of(st.sampled_from([b"POST", b"/", b"trailers", b""]), st.binary(max_size=300))
fields = st.tuples(names, values, st.booleans())
steps = st.lists(
    st.tuples(st.lists(fields, max_size=8), st.booleans(), st.integers(0, 4096)), max_size=6
)


class TestDecoding:
    @given(steps)
    @settings(max_examples=60, deadline=None)
    def test_what_an_encoder_writes_is_read_as_hpack_reads_it(
        self, steps: list[tuple[list[tuple[bytes, bytes, bool]], bool, int]]
    ) -> None:
        encoder, theirs, ours = Encoder(), Decoder(NO_LIMIT), FieldDecoder(NO_LIMIT, NO_LIMIT)
        for fields, huffman, size in steps:
            if size % 3 == 0:
                encoder.header_table_size = size
            sent = encoder.encode(fields, huffman)
            assert by_us(ours, sent) == by_hpack(theirs, sent) is not None
            assert list(ours._entries) == list(theirs.header_table.dynamic_entries)

    @given(st.lists(st.binary(max_size=40), max_size=4), st.lists(fields, max_size=4))
    @settings(max_examples=200, deadline=None)
    def test_any_bytes_are_read_or_refused_as_by_hpack(
        self, blocks: list[bytes], first: list[tuple[bytes, bytes, bool]]
    ) -> None:
        theirs, ours = Decoder(NO_LIMIT), FieldDecoder(NO_LIMIT, NO_LIMIT)
        for sent in [Encoder().encode(first), *blocks]:
            decoded = by_us(ours, sent)
            assert decoded == by_hpack(theirs, sent)
            if decoded is None:
                return

    def test_a_list_over_the_limit_is_read_to_its_end(self) -> None:
        decoder = FieldDecoder(100, 10)
        assert decoder.decode(b"\x40\x01x\x7f\x49" + b"v" * 200) is None
        assert decoder.decode(b"\x40\x01y\x01w\xbf") is None  # the long one again
        assert decoder.decode(b"\xbe") == ((b"y", b"w"),)

    def test_too_many_fields_are_too_large(self) -> None:
        assert FieldDecoder(10_000, 3).decode(b"\x82" * 4) is None
        assert FieldDecoder(10_000, 3).decode(b"\x82" * 3) == ((b":method", b"GET"),) * 3

    def test_the_table_must_become_as_small_as_was_agreed(self) -> None:
        decoder = FieldDecoder(NO_LIMIT, NO_LIMIT)
        decoder.max_table_bytes = 100
        assert by_us(decoder, b"\x82") is None
        decoder = FieldDecoder(NO_LIMIT, NO_LIMIT)
        decoder.max_table_bytes = 100
        assert by_us(decoder, b"\x3f\x45\x82") == [(b":method", b"GET")]


class TestEncoding:
    @given(st.lists(st.tuples(
        st.sampled_from([b":status", b"content-type", b"grpc-status", b"x" * 200]),
        st.sampled_from([b"200", b"404", b"", b"v" * 127, b"w" * 20_000]),
    )))  # fmt: skip
    def test_it_is_read_back_and_leaves_the_table_alone(self, fields: list[Field]) -> None:
        decoder = Decoder(NO_LIMIT)
        assert by_hpack(decoder, encode_headers(fields)) == fields
        assert not decoder.header_table.dynamic_entries

    def test_bytes(self) -> None:
        assert encode_headers([(b":status", b"200")]) == b"\x88"
        assert encode_headers([(b":status", b"431")]) == b"\x08\x03431"
        assert encode_headers([(b"date", b"d")]) == b"\x0f\x12\x01d"
        assert encode_headers([(b"grpc-status", b"0")]) == b"\x00\x0bgrpc-status\x010"

    @pytest.mark.parametrize(
        "field",
        [(b"", b"v"), (b"X", b"v"), (b"a b", b"v"), (b"a", b"v\n"), (b"a", b" v"), (b"a", b"\0")],
        ids=str,
    )
    def test_what_peers_would_refuse_is_refused(self, field: Field) -> None:
        with pytest.raises(ValueError, match="header"):
            encode_headers([field])


class Client:
    """Requests with blocks of a stateful encoder; gives what the connection makes of them."""

    def __init__(self, **options: int) -> None:
        self.connection = opened(Options(**options))
        self.stream = -1

    def ask(self, sent: bytes) -> Headers:
        self.stream += 2
        [event] = feed(self.connection, headers(self.stream, sent, end=True))
        assert isinstance(event, RequestReceived)
        return event.headers


class TestRemembering:
    def test_a_block_that_touches_no_table_is_the_same_object(self) -> None:
        client = Client()
        first = client.ask(block(*REQUEST))
        client.ask(Encoder().encode(REQUEST))  # changes the table
        assert client.ask(block(*REQUEST)) is first

    def test_a_block_of_references_is_the_same_object_while_the_table_is_the_same(self) -> None:
        client, encoder = Client(), Encoder()
        first = client.ask(encoder.encode(REQUEST))
        again = encoder.encode(REQUEST)
        second = client.ask(again)
        assert client.ask(again) is second
        assert second is not first
        assert second.fields == first.fields

    def test_the_same_bytes_are_read_anew_after_the_table_changed(self) -> None:
        client, encoder = Client(), Encoder()
        client.ask(encoder.encode([*REQUEST, (b"x", b"1")]))
        last = encoder.encode([*REQUEST, (b"x", b"1")])
        assert client.ask(last).get(b"x") == b"1"
        newest = block(*REQUEST) + b"\xbe"  # the newest entry of the table
        assert client.ask(newest).get(b"x") == b"1"
        client.ask(block(*REQUEST) + b"\x40\x01x\x012")
        assert client.ask(newest).get(b"x") == b"2"

    def test_a_block_that_enters_something_is_done_each_time(self) -> None:
        client = Client()
        entering = block(*REQUEST) + b"\x40\x01x\x012"
        for _ in range(3):
            assert client.ask(entering).get(b"x") == b"2"
        assert client.ask(block(*REQUEST) + b"\xc0").get(b"x") == b"2"  # the third newest

    def test_a_name_from_the_table_counts_as_reference(self) -> None:
        client = Client()
        named = block(*REQUEST) + b"\x0f\x2f\x01v"  # of the newest entry
        for name in (b"x", b"y"):
            client.ask(block(*REQUEST) + b"\x40\x01" + name + b"\x012")
            assert client.ask(named).get(name) == b"v"

    @pytest.mark.parametrize("size", [0, 100, 8_192])
    def test_the_tables_size_is_agreed_upon_with_the_acknowledgement(self, size: int) -> None:
        client, encoder = Client(header_table_bytes=size), Encoder()
        encoder.header_table_size = size
        for _ in range(3):
            assert client.ask(encoder.encode(REQUEST)).path == dict(REQUEST)[b":path"]
        late = opened(Options(header_table_bytes=100))
        feed(late, headers(1, block(*REQUEST)))
        assert refusals(late.take()) == [(0, ErrorCode.COMPRESSION_ERROR)]

    def test_a_smaller_table_forgets_what_it_dropped(self) -> None:
        client = Client()
        client.ask(block(*REQUEST) + b"\x40\x01x\x012")
        newest = block(*REQUEST) + b"\xbe"
        client.ask(newest)
        client.ask(b"\x20" + block(*REQUEST))
        client.connection.take()
        client.connection.receive(headers(client.stream + 2, newest, end=True), 0.0)
        assert refusals(client.connection.take()) == [(0, ErrorCode.COMPRESSION_ERROR)]

    def test_trailers_that_enter_something_count_too(self) -> None:
        client = Client()
        client.ask(block(*REQUEST) + b"\x40\x01x\x012")
        newest = block(*REQUEST) + b"\xbe"
        assert client.ask(newest).get(b"x") == b"2"
        client.stream += 2
        feed(
            client.connection, headers(client.stream),
            headers(client.stream, b"\x40\x01x\x013", end=True),
        )  # fmt: skip
        assert client.ask(newest).get(b"x") == b"3"

    def test_a_value_that_differs_each_time_fills_no_memory(self) -> None:
        client = Client(max_header_caches=4)
        for number in range(50):
            sent = block(*REQUEST, (b"x-request-id", b"%d" % number))
            assert client.ask(sent).get(b"x-request-id") == b"%d" % number
            client.connection.respond(client.stream, b"\x88", (), b"\x88")
        assert len(client.connection._known) <= 4
        assert len(client.connection._lasting) <= 4

    def test_refused_requests_are_not_remembered(self) -> None:
        connection: ServerConnection = opened()
        wrong = headers(1, block((b":method", b"POST")), end=True)
        feed(connection, wrong)
        assert not connection._known

    @given(st.lists(st.tuples(
        st.sampled_from([b"a", b"b", b"c", b"d" * 1500]), st.booleans(), st.booleans(),
        st.sampled_from([None, None, None, None, 0, 200, 4096]),
    ), max_size=25))  # fmt: skip
    @settings(max_examples=50, deadline=None)
    def test_any_mix_of_blocks_means_what_hpack_says(
        self, requests: list[tuple[bytes, bool, bool, int | None]]
    ) -> None:
        client, encoder = Client(max_header_caches=3), Encoder()
        for value, indexed, huffman, size in requests:
            if size is not None:
                encoder.header_table_size = size
            fields = [*REQUEST, (b"x", value)]
            sent = encoder.encode([(*field, not indexed) for field in fields], huffman)
            request = client.ask(sent)
            assert request.get(b"x") == value
            assert request.path == dict(REQUEST)[b":path"]
            client.connection.respond(client.stream, b"\x88", (), b"\x88")
