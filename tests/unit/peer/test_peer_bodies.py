"""Frames between instances: large bodies, limits, and any bytes at all."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.peer_pair import (
    PART,
    SMALL,
    A,
    B,
    Pair,
    Side,
    body_of,
    echo,
    greeted,
    taken,
)

from shoal.codecs.peer import (
    HTTP,
    Limits,
    Outcome,
    PeerCall,
    PeerFault,
    PeerReply,
    Requesting,
)
from shoal.codecs.peer import frames as wire
from shoal.codecs.peer.hello import hello_frame


class TestLargeBody:
    @pytest.mark.parametrize("size", [PART - 1, PART, PART + 1, 3 * PART, 10 * PART + 7])
    def test_goes_and_comes_back(self, pair: Pair, size: int) -> None:
        body = random.Random(size).randbytes(size)
        pair.side.reply = echo
        stream = pair.ask(body)
        pair.pump()
        assert body_of(pair.replies[stream]) == body
        assert not pair.asking.out
        assert not pair.side.wire.busy

    def test_of_several_pieces_comes_back(self, pair: Pair) -> None:
        pieces: list[bytes | memoryview] = [b"a" * 10, b"", b"b" * PART, memoryview(b"c" * PART)]
        pair.side.reply = lambda call: PeerReply(Outcome.ANSWERED, b"", pieces)
        stream = pair.ask()
        pair.pump()
        assert body_of(pair.replies[stream]) == b"".join(pieces)

    def test_comes_only_when_it_is_granted(self, pair: Pair) -> None:
        pair.ask(bytes(3 * PART))
        out = pair.asking.take()
        assert PART < len(out) < PART + 100
        assert not pair.asking.out.flow.due
        pair.side.wire.receive(out)
        pair.asking.receive(taken(pair.side.wire.out))
        assert pair.asking.out.flow.due

    def test_small_requests_go_before_it_and_others_between(self, pair: Pair) -> None:
        pair.ask(bytes(5 * PART))
        pair.ask(bytes(5 * PART))
        pair.side.wire.receive(pair.asking.take())
        pair.asking.receive(taken(pair.side.wire.out))
        pair.ask(b"small")
        assert pair.asking.take()
        streams = []
        while parts := pair.asking.out.flow.take(1):
            streams.append(wire.HEAD.unpack(parts[0])[2])
        assert streams == [1, 2, 1, 2, 1, 2, 1, 2]

    def test_beyond_the_budget_waits_for_its_turn(self, small: Pair) -> None:
        first, second = small.ask(bytes(3 * PART)), None
        small.pump()
        second = small.ask(bytes(2 * PART))
        small.pump()
        assert list(small.side.calls) == [first]
        small.side.wire.reply(first, PeerReply(Outcome.ANSWERED))
        small.pump()
        assert list(small.side.calls) == [first, second]

    def test_a_cancelled_one_makes_way(self, small: Pair) -> None:
        first = small.ask(bytes(3 * PART))
        small.pump()
        second = small.ask(bytes(2 * PART))
        small.pump()
        third = small.ask(bytes(2 * PART))
        small.pump()
        small.asking.cancel(second)
        small.asking.cancel(first)
        small.pump()
        assert list(small.side.calls) == [first, third]
        assert small.side.cancelled == [first]

    def test_larger_than_the_whole_budget_passes_alone(self, small: Pair) -> None:
        small.side.reply = echo
        stream = small.ask(bytes(7 * PART))
        small.pump()
        assert len(body_of(small.replies[stream])) == 7 * PART

    def test_a_large_reply_waits_until_the_one_before_has_come(self, small: Pair) -> None:
        for _ in range(2):
            small.ask()
        small.pump()
        for stream in (1, 2):
            small.side.wire.reply(stream, PeerReply(Outcome.ANSWERED, b"", [bytes(3 * PART)]))
        small.asking.receive(small.side.wire.out.take())
        windows = small.asking.take()
        assert len(windows) == wire.HEAD_BYTES + 8
        small.side.wire.receive(windows)
        small.pump()
        assert len(small.replies) == 2

    def test_refused_before_it_came_stops_coming(self, pair: Pair) -> None:
        pair.side.wire.leave("bye")
        stream = pair.ask(bytes(5 * PART))
        pair.pump()
        reply = pair.replies[stream]
        assert isinstance(reply, PeerReply)
        assert reply.outcome is Outcome.REFUSED
        assert pair.asking.out.size_bytes == 0


class TestLimits:
    def test_too_many_requests_are_not_taken(self, small: Pair) -> None:
        for _ in range(4):
            small.ask()
            small.asking.take()
        assert small.refused()

    def test_what_waits_to_be_written_is_bounded(self, small: Pair) -> None:
        while not small.refused(bytes(1000)):
            pass
        assert small.asking.out.size_bytes < 4000
        assert not small.asking.message(b"more")

    def test_large_bodies_that_wait_are_bounded(self, small: Pair) -> None:
        small.ask(bytes(3 * PART))
        small.asking.take()
        assert small.refused(bytes(3 * PART))
        assert not small.refused(b"small")

    def test_calls_that_no_frame_carries_are_errors(self, small: Pair) -> None:
        for call in (
            PeerCall(HTTP, "m", bytes(wire.MAX_HEAD_BYTES + 1), b""),
            PeerCall(HTTP, "m" * 1025, b"", b""),
            PeerCall(HTTP, "m", b"", bytes(8 * PART + 1)),
        ):
            with pytest.raises(ValueError, match=r"too long|beyond"):
                small.asking.request(call, print)
        assert small.asking.in_flight == 0
        with pytest.raises(ValueError, match="send several"):
            small.asking.message(bytes(wire.MAX_MESSAGE_BYTES + 1))

    def test_replies_that_no_frame_carries_are_errors(self, small: Pair) -> None:
        stream = small.ask()
        small.pump()
        for reply in (
            PeerReply(Outcome.ANSWERED, bytes(wire.MAX_HEAD_BYTES + 1)),
            PeerReply(Outcome.ANSWERED, b"", [bytes(8 * PART + 1)]),
        ):
            with pytest.raises(ValueError, match=r"too long|beyond"):
                small.side.wire.reply(stream, reply)
        small.side.wire.reply(stream, PeerReply(Outcome.FAILED))
        small.pump()
        assert stream in small.replies

    def test_a_peer_that_asks_too_much_is_refused(self) -> None:
        side = greeted(SMALL)
        for stream in range(1, 6):
            side.wire.receive(wire.request_frame(stream, (1, 0, 0), (b"m", b""), b"", 0))
        side.wire.receive(wire.request_frame(6, (1, 0, 0), (b"m", b""), b"", 9 * PART))
        assert len(side.calls) == 4
        assert b"too many requests at once" in side.wire.out.take()

    def test_a_peer_that_asks_for_too_many_bytes_is_refused(self) -> None:
        side = greeted(SMALL)
        body = bytes(PART)
        for stream in range(1, 4):
            side.wire.receive(wire.request_frame(stream, (1, 0, 0), (b"m", b""), body, PART))
            side.wire.reply(stream, PeerReply(Outcome.ANSWERED, b"", [bytes(2 * PART)]))
        assert len(side.calls) == 2
        assert b"too many bytes" in taken(side.wire.out)


class TestAnyBytes:
    @settings(max_examples=30, deadline=None)
    @given(
        sizes=st.lists(st.integers(0, 3 * PART), min_size=1, max_size=5),
        cuts=st.lists(st.integers(1, 2 * PART), max_size=9).map(lambda cuts: [PART, *cuts]),
    )
    def test_splits_change_nothing(self, sizes: list[int], cuts: list[int]) -> None:
        pair = Pair()
        turn = iter(range(10**9))

        def cut(data: bytes) -> Iterator[bytes]:
            at = 0
            while at < len(data):
                size = cuts[next(turn) % len(cuts)]
                yield data[at : at + size]
                at += size

        pair.cut = cut
        pair.pump()
        pair.side.reply = echo
        bodies = {pair.ask(body): body for body in (random.Random(s).randbytes(s) for s in sizes)}
        pair.asking.message(b"hello")
        pair.pump()
        assert {stream: body_of(reply) for stream, reply in pair.replies.items()} == bodies
        assert pair.side.messages == [("a", b"hello")]

    def test_byte_by_byte(self) -> None:
        pair = Pair()
        pair.cut = lambda data: (data[i : i + 1] for i in range(len(data)))
        pair.pump()
        pair.side.reply = echo
        stream = pair.ask()
        pair.pump()
        assert body_of(pair.replies[stream]) == b"body"

    @settings(max_examples=200, deadline=None)
    @given(garbage=st.binary(max_size=300), greet=st.booleans())
    def test_garbage_is_a_fault_or_nothing(self, garbage: bytes, greet: bool) -> None:
        side, asking = Side(), Requesting(A, "b", Limits(), print)
        if greet:
            side.wire.receive(hello_frame(A))
            asking.receive(hello_frame(B))
            asking.request(PeerCall(HTTP, "m", b"", b""), lambda reply: None)
        for receive in (side.wire.receive, asking.receive):
            with contextlib.suppress(PeerFault):
                receive(garbage)

    @settings(max_examples=200, deadline=None)
    @given(seed=st.integers(0, 2**32), changes=st.integers(1, 8))
    def test_mutated_frames_are_a_fault_or_something_else_that_is_bounded(
        self, seed: int, changes: int
    ) -> None:
        chance = random.Random(seed)
        frames = bytearray(hello_frame(A))
        for stream in range(1, 6):
            body = bytes(chance.choice([0, 10, 300]))
            frames += wire.request_frame(
                stream, (1, 0, 9), (b"m@1", b"head"), body, len(body) + chance.choice([0, 0, 4])
            )
            other = chance.choice([wire.DATA, wire.PING, wire.MESSAGE])
            frames += wire.frame(other, stream, b"1234")
            frames += wire.frame(wire.CANCEL, chance.randrange(6)) + wire.window_frame(stream, 99)
        for _ in range(changes):
            frames[chance.randrange(len(frames))] = chance.randrange(256)
        side = Side(limits=SMALL)
        with contextlib.suppress(PeerFault):
            for at in range(0, len(frames), 100):
                side.wire.receive(bytes(frames[at : at + 100]))
                for stream in list(side.calls):
                    side.wire.reply(stream, PeerReply(Outcome.MISS))
        assert side.wire.unanswered <= SMALL.max_streams
