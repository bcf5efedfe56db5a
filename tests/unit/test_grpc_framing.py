"""gRPC's messages within a stream of bytes, however it is cut."""

from __future__ import annotations

import gzip
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.codecs import protobuf
from shoal.dataplane.grpc.framing import PREFIX, BadMessage, MessageReader, framed
from shoal.dataplane.grpc.message import Code, Reply
from shoal.dataplane.grpc.packing import THREAD_BYTES, message, pack
from shoal.domain.errors import BodyTooLarge


def reader(encoding: bytes = b"identity", max_bytes: int = 10_000) -> MessageReader:
    return MessageReader(encoding, max_bytes)


def joined(parts: list[bytes | memoryview]) -> bytes:
    return b"".join(parts)


@given(st.lists(st.binary(max_size=300), max_size=5), st.data())
def test_messages_are_found_however_they_are_cut(
    messages: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(joined(framed([message])) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    reading = reader()
    found = [bytes(message) for piece in pieces for message in reading.feed(piece)]
    assert found == messages
    assert not reading.amid


def test_a_message_that_is_incomplete_is_known_to_be() -> None:
    reading = reader()
    assert list(reading.feed(b"\0\0")) == []
    assert reading.amid
    assert list(reading.feed(b"\0\0\2a")) == []
    assert reading.amid
    assert [bytes(each) for each in reading.feed(b"b")] == [b"ab"]
    assert not reading.amid


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_packed_messages_are_unpacked(encoding: bytes) -> None:
    text = b"shoal " * 1000
    stream = joined(framed([text], encoding)) + joined(framed([b"plain"]))
    assert len(stream) < 200
    assert [bytes(each) for each in reader(encoding).feed(stream)] == [text, b"plain"]


def refused(stream: bytes, encoding: bytes = b"identity") -> BadMessage:
    with pytest.raises(BadMessage) as caught:
        list(reader(encoding).feed(stream))
    return caught.value


def test_messages_that_are_too_large_are_refused_before_they_come() -> None:
    bad = refused(PREFIX.pack(0, 10_001))
    assert isinstance(bad.error, BodyTooLarge)
    assert "a message has 10001 bytes; at most 10000 are taken" in bad.error.message


def test_messages_that_are_too_large_unpacked_are_refused() -> None:
    packed = gzip.compress(bytes(1_000_000))
    bad = refused(PREFIX.pack(1, len(packed)) + packed, b"gzip")
    assert "more bytes when decompressed" in bad.error.message
    assert "grpc.max_message_bytes" in bad.error.message


def test_what_is_not_packed_as_it_says_is_refused() -> None:
    bad = refused(PREFIX.pack(1, 4) + b"junk", b"gzip")
    assert (bad.code, "not valid gzip" in bad.error.message) == (Code.INTERNAL, True)
    bad = refused(PREFIX.pack(1, 4) + zlib.compress(b"")[:4])
    assert (bad.code, "names no encoding" in bad.error.message) == (Code.INTERNAL, True)
    assert "begins with 7" in refused(PREFIX.pack(7, 0)).error.message


def test_a_message_in_pieces_lies_so_that_its_tensor_is_aligned() -> None:
    made = protobuf.message_class("inference.ModelInferRequest")(
        model_name="m", raw_input_contents=[bytes(range(256)) * 20]
    ).SerializeToString()
    stream = joined(framed([made]))
    reading = reader()
    assert list(reading.feed(stream[:100])) == []
    (whole,) = reading.feed(stream[100:])
    assert isinstance(whole, memoryview)
    first = bytes(whole).index(bytes(range(256)))
    assert np.frombuffer(whole, np.uint8)[first:].ctypes.data % 64 == 0


async def test_answers_are_packed_where_that_is_worth_it() -> None:
    small = pack(Reply([b"x"]), b"gzip")
    assert isinstance(small, Reply)
    assert joined(list(small.parts)) == b"\0\0\0\0\1x"
    middle = pack(Reply([b"x" * (THREAD_BYTES - 1)]), b"gzip")
    assert isinstance(middle, Reply)
    assert len(joined(list(middle.parts))) < 100
    large = pack(Reply([b"x" * THREAD_BYTES]), b"gzip")
    assert not isinstance(large, Reply)
    found = joined(list((await large).parts))
    assert found == joined(await message([b"x" * THREAD_BYTES], b"gzip"))
    assert gzip.decompress(found[5:]) == b"x" * THREAD_BYTES
