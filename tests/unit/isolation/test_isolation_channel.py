"""Messages and tensors between two processes, here in one."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from shoal.domain.errors import (
    InvalidInput,
    MethodNotAllowed,
    ModelFailed,
    Overloaded,
    ShoalError,
    family,
)
from shoal.isolation.channel import KEPT_BYTES, SHARED_FROM_BYTES, Channel, Ended, Late
from shoal.isolation.messages import Answer, Failure, encode, read_reply
from shoal.isolation.tensors import Piece, take

Arrays = dict[str, NDArray[np.generic]]
LARGE = 4 * SHARED_FROM_BYTES


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    one, other = map(Channel, socket.socketpair())
    yield one, other
    one.close()
    other.close()


def carried(sender: Channel, receiver: Channel, tensors: Arrays) -> Arrays:
    sender.send(sender.pack(tensors, lambda pieces: encode(Answer(pieces))))
    received = receiver.receive()
    reply = read_reply(received.header)
    assert isinstance(reply, Answer)
    return take(reply.pieces, received.body)


def numbers(count: int, value: float = 1.0) -> Arrays:
    return {"x": np.full(count, value)}


@pytest.mark.parametrize("dtype", [
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16",
    "float32", "float64", "bfloat16",
])
def test_numbers_arrive_as_they_were(pair: tuple[Channel, Channel], dtype: str) -> None:
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    sent = np.arange(6).reshape(2, 3).astype(kind)
    got = carried(*pair, {"x": sent})["x"]
    assert got.dtype == sent.dtype
    assert got.tolist() == sent.tolist()


@pytest.mark.parametrize("count", [0, 1, 5_000, LARGE // 8, LARGE])
def test_any_size_arrives(pair: tuple[Channel, Channel], count: int) -> None:
    got = carried(*pair, {"x": np.arange(float(count)), "y": np.array([3], np.int8)})
    assert np.array_equal(got["x"], np.arange(float(count)))
    assert got["y"].tolist() == [3]


@pytest.mark.parametrize("longest", [10, LARGE])
def test_bytes_arrive_as_they_were(pair: tuple[Channel, Channel], longest: int) -> None:
    sent = np.array([[b"", b"a\x00b"], ["ü".encode(), b"z" * longest]], dtype=object)
    got = carried(*pair, {"t": sent})["t"]
    assert got.dtype == object
    assert got.tolist() == sent.tolist()


def test_arrays_that_are_not_contiguous_arrive(pair: tuple[Channel, Channel]) -> None:
    sent = np.arange(LARGE).reshape(-1, 2)[::2].T
    assert np.array_equal(carried(*pair, {"x": sent})["x"], sent)


def test_scalars_and_other_byte_orders_arrive(pair: tuple[Channel, Channel]) -> None:
    got = carried(*pair, {"x": np.array(2.5), "y": np.array([1, 2], ">i4")})
    assert got["x"].shape == ()
    assert got["y"].tolist() == [1, 2]
    assert got["y"].dtype == np.int32


def test_what_arrives_can_be_written_to(pair: tuple[Channel, Channel]) -> None:
    for count in (2, LARGE):
        carried(*pair, numbers(count))["x"][0] = 5.0


def test_large_tensors_that_live_on_are_not_written_over(pair: tuple[Channel, Channel]) -> None:
    one, other = pair
    kept = []
    for value in range(5):
        carried(one, other, numbers(10))
        kept.append(carried(other, one, numbers(LARGE, value))["x"])
    assert [array[-1] for array in kept] == [0, 1, 2, 3, 4]


def test_memory_is_used_again_when_nobody_reads_it(pair: tuple[Channel, Channel]) -> None:
    one, other = pair
    descriptors = []
    for _ in range(6):
        packed = one.pack(numbers(LARGE), lambda pieces: encode(Answer(pieces)))
        descriptors.append(packed.descriptor)
        one.send(packed)
        other.receive()
        carried(other, one, numbers(1))
    assert descriptors[0] is not None
    assert descriptors[1:] == [None] * 5


def test_very_large_memory_is_not_kept(pair: tuple[Channel, Channel]) -> None:
    one, other = pair
    count = KEPT_BYTES + 1
    for _ in range(2):
        packed = one.pack({"x": np.zeros(count, np.uint8)}, lambda pieces: encode(Answer(pieces)))
        assert packed.descriptor is not None
        one.send(packed)
        assert other.receive().body.size == count


def test_no_descriptor_is_left_behind(pair: tuple[Channel, Channel]) -> None:
    one, other = pair
    before = len(os.listdir("/proc/self/fd"))
    for count in (LARGE, 2 * LARGE, 4 * LARGE):
        carried(one, other, numbers(count))
    assert len(os.listdir("/proc/self/fd")) <= before + 4  # mappings have their own


def test_a_channel_can_come_over_a_channel(pair: tuple[Channel, Channel]) -> None:
    one, other = pair
    ours, theirs = socket.socketpair()
    with ours, theirs:
        one.send(one.pack({}, lambda _: b"open"), theirs.fileno())
        received = other.receive()
        assert received.descriptor is not None
        with socket.socket(fileno=received.descriptor) as end:
            end.sendall(b"here")
        assert ours.recv(4) == b"here"


def test_the_end_of_the_other_side_is_noticed(pair: tuple[Channel, Channel]) -> None:
    one, other = pair
    other.hang_up()
    with pytest.raises(Ended):
        one.receive()


def test_a_message_that_breaks_off_is_an_end(pair: tuple[Channel, Channel]) -> None:
    end, other = socket.socketpair()
    channel = Channel(other)
    end.sendall(b"\x05\x00\x00")
    end.close()
    with pytest.raises(Ended):
        channel.receive()
    channel.close()


@pytest.mark.parametrize(("size", "flags", "place"), [
    (2**40, 0, 0), (100, 1, 0), (100, 1, 9),
])
def test_what_cannot_be_is_an_end(size: int, flags: int, place: int) -> None:
    end, other = socket.socketpair()
    channel = Channel(other)
    with end:
        end.sendall(struct.pack("<IQBBB", 0, size, flags, place, 0))
        with pytest.raises(Ended):
            channel.receive()
    channel.close()


def test_silence_has_a_limit(pair: tuple[Channel, Channel]) -> None:
    one, _ = pair
    one.limit_waits(0.001)
    with pytest.raises(Late):
        one.receive()


@pytest.mark.parametrize("piece", [
    Piece("x", "FP64", (4,), 0, 64), Piece("x", "FP64", (5,), 0, 32), Piece("x", "FP9", (1,), 0, 8),
    Piece("x", "BYTES", (40,), 0, 32),
])
def test_tensors_lie_within_their_message(piece: Piece) -> None:
    with pytest.raises(ValueError, match="'x'"):
        take([piece], np.zeros(32, np.uint8))


def test_errors_arrive_as_they_were() -> None:
    failure = Failure.of(Overloaded("later", retry_after_s=7.0))
    error = failure.error()
    assert type(error) is Overloaded
    assert (error.message, error.retry_after_s) == ("later", 7.0)


@pytest.mark.parametrize("kind", sorted(
    [each for each in family(ShoalError) if each.__module__ == ShoalError.__module__], key=str))
def test_every_error_can_travel(kind: type[ShoalError]) -> None:
    error = Failure(kind.code, "why").error()
    assert error.message == "why"
    assert type(error) in (kind, ModelFailed)
    assert type(error) is kind or kind is MethodNotAllowed


def test_an_error_that_nobody_knows_is_the_models() -> None:
    assert type(Failure("NO_SUCH", "why").error()) is ModelFailed
    assert type(Failure(InvalidInput.code, "why").error()) is InvalidInput
