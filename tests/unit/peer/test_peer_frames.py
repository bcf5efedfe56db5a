"""The two sides of a link between instances, joined without sockets."""

from __future__ import annotations

import struct

import msgspec
import pytest
from tests.peer_pair import (
    PART,
    TEN,
    A,
    Answer,
    B,
    Pair,
    Side,
    body_of,
    echo,
    fault,
    greeted,
    taken,
)

from shoal.codecs.peer import (
    GRPC,
    HTTP,
    Limits,
    Lost,
    Outcome,
    PeerCall,
    PeerFault,
    PeerReply,
    Requesting,
)
from shoal.codecs.peer import frames as wire
from shoal.codecs.peer.hello import hello_frame


class TestHello:
    def test_each_side_learns_who_the_other_is(self, pair: Pair) -> None:
        assert pair.asking.peer == B
        assert pair.side.wire.peer == A

    def test_nothing_is_asked_before(self) -> None:
        pair = Pair()
        assert pair.refused()
        assert not pair.asking.message(b"early")

    def test_unknown_fields_are_ignored(self) -> None:
        side = Side()
        payload = msgspec.msgpack.encode({**msgspec.to_builtins(A), "compression": ["zstd"]})
        side.wire.receive(wire.frame(wire.HELLO, 0, payload))
        assert side.wire.peer == A

    def test_a_later_version_that_still_speaks_ours_is_welcome(self) -> None:
        pair = Pair(highest=7)
        pair.pump()
        assert pair.asking.peer == B

    def test_no_common_protocol_is_an_error_that_names_both_versions(self) -> None:
        pair = Pair(lowest=5, highest=7, version="9.0")
        reason = fault(pair.side, pair.sent_by_requester())
        assert "instance b (Shoal 1.1) speaks the peer protocols 1 to 1" in reason
        assert "a (Shoal 9.0) 5 to 7" in reason
        with pytest.raises(PeerFault, match=r"a \(Shoal 9.0\) .* b \(Shoal 1.1\)"):
            pair.asking.receive(taken(pair.side.wire.out))

    def test_another_mesh_is_an_error_on_both_sides(self) -> None:
        pair = Pair(mesh="lake")
        assert "'lake'" in fault(pair.side, pair.sent_by_requester())
        with pytest.raises(PeerFault, match="'sea'"):
            pair.asking.receive(taken(pair.side.wire.out))

    def test_two_instances_of_one_name_are_an_error(self) -> None:
        assert "two instances are called b" in fault(Side(), hello_frame(B))

    def test_another_instance_at_the_address_is_an_error(self) -> None:
        asking = Requesting(A, "c", Limits(), print)
        with pytest.raises(PeerFault, match="instance b answers where c should"):
            asking.receive(hello_frame(B))

    def test_a_refusal_instead_of_an_introduction_says_why(self) -> None:
        asking = Requesting(A, "b", Limits(), print)
        with pytest.raises(PeerFault, match="b refuses: full"):
            asking.receive(wire.goaway_frame("full"))

    @pytest.mark.parametrize("first", [
        wire.frame(wire.PING, 0), wire.frame(wire.HELLO, 0, b"\xc1"), wire.frame(wire.HELLO, 0),
        wire.frame(wire.HELLO, 0, b"\x80"), wire.frame(wire.HELLO, 0, b"\x81\xa4mesh\xa1\xff"),
    ], ids=["ping", "no-msgpack", "empty", "no-fields", "no-utf8"])  # fmt: skip
    def test_who_does_not_introduce_itself_is_refused(self, first: bytes) -> None:
        assert "introduc" in fault(Side(), first)
        with pytest.raises(PeerFault, match="introduc"):
            Requesting(A, "b", Limits(), print).receive(first)

    def test_a_stranger_cannot_make_us_keep_much(self) -> None:
        assert "is this the address of another program" in fault(Side(), b"GET / HTTP/1.1\r\n\r\n")
        assert "4096 are allowed" in fault(Side(), wire.HEAD.pack(5000, wire.HELLO, 0))


class TestRequest:
    def test_arrives_whole_and_its_reply_comes_back(self, pair: Pair) -> None:
        pair.side.reply = lambda call: PeerReply(Outcome.ANSWERED, b"200", [b"o", memoryview(b"k")])
        stream = pair.ask(b"body")
        assert pair.asking.in_flight == 1
        pair.pump()
        assert pair.side.calls[stream] == PeerCall(HTTP, "m@1/abc", b"head", b"body", 5000, 0, "a")
        assert pair.replies == {stream: PeerReply(Outcome.ANSWERED, b"200", [b"ok"])}
        assert pair.asking.in_flight == 0
        assert not pair.side.wire.busy

    def test_keeps_its_kind_flags_and_revision(self, pair: Pair) -> None:
        call = PeerCall(GRPC, "modèle@3", b"", b"", 2**32 - 1, 255)
        assert pair.asking.request(call, print)
        pair.pump()
        (got,) = pair.side.calls.values()
        assert (got.kind, got.revision, got.timeout_ms, got.flags) == (
            GRPC, "modèle@3", 2**32 - 1, 255
        )  # fmt: skip

    @pytest.mark.parametrize("outcome", list(Outcome))
    def test_every_outcome_comes_back(self, pair: Pair, outcome: Outcome) -> None:
        pair.side.reply = lambda call: PeerReply(outcome)
        stream = pair.ask()
        pair.pump()
        assert pair.replies == {stream: PeerReply(outcome, b"", [b""])}

    def test_an_outcome_of_a_later_version_counts_as_failed(self, pair: Pair) -> None:
        stream = pair.ask()
        pair.asking.receive(wire.reply_frame(stream, 77, b"", [], 0))
        assert pair.replies == {stream: PeerReply(Outcome.FAILED, b"", [b""])}

    def test_replies_come_in_any_order(self, pair: Pair) -> None:
        first, second = pair.ask(), pair.ask()
        pair.pump()
        pair.side.wire.reply(second, PeerReply(Outcome.ANSWERED, b"", [b"2"]))
        pair.side.wire.reply(first, PeerReply(Outcome.ANSWERED, b"", [b"1"]))
        pair.pump()
        assert [body_of(pair.replies[each]) for each in (first, second)] == [b"1", b"2"]
        assert list(pair.replies) == [second, first]

    def test_a_callback_that_fails_costs_nobody_else(self, pair: Pair) -> None:
        def fail(reply: Answer) -> None:
            raise RuntimeError("mine")

        assert pair.asking.request(PeerCall(HTTP, "m", b"", b""), fail)
        stream = pair.ask()
        pair.side.reply = echo
        pair.pump()
        assert [str(error) for error in pair.errors] == ["mine"]
        assert stream in pair.replies

    def test_a_callback_may_ask_again(self, pair: Pair) -> None:
        pair.side.reply = echo
        got: list[Answer] = []

        def again(reply: Answer) -> None:
            got.append(reply)
            if len(got) < 3:
                pair.asking.request(PeerCall(HTTP, "m", b"", b""), again)

        pair.asking.request(PeerCall(HTTP, "m", b"", b""), again)
        pair.pump()
        assert len(got) == 3

    def test_stream_numbers_begin_anew_past_those_in_use(self, pair: Pair) -> None:
        used = pair.ask()
        pair.asking._last = wire.MAX_STREAM - 1
        assert [pair.ask(), pair.ask()] == [wire.MAX_STREAM, used + 1]
        pair.side.reply = echo
        pair.pump()
        assert sorted(pair.replies) == [used, used + 1, wire.MAX_STREAM]


class TestCancel:
    def test_is_heard_and_no_reply_comes(self, pair: Pair) -> None:
        stream = pair.ask()
        pair.pump()
        pair.asking.cancel(stream)
        pair.pump()
        assert pair.side.cancelled == [stream]
        pair.side.wire.reply(stream, PeerReply(Outcome.ANSWERED))
        pair.pump()
        assert pair.replies == {}
        assert not pair.side.wire.busy

    def test_that_crosses_the_reply_is_ignored(self, pair: Pair) -> None:
        pair.side.reply = echo
        stream = pair.ask(bytes(3 * PART))
        small = pair.ask()
        pair.side.wire.receive(pair.asking.take())
        pair.asking.cancel(small)
        pair.asking.cancel(stream)
        pair.pump()
        assert pair.replies == {}
        assert pair.side.cancelled == []
        assert pair.side.wire.out.size_bytes == 0

    def test_of_a_large_reply_under_way_ends_it(self, pair: Pair) -> None:
        stream = pair.ask()
        pair.pump()
        pair.side.wire.reply(stream, PeerReply(Outcome.ANSWERED, b"", [bytes(9 * PART)]))
        pair.asking.receive(pair.side.wire.out.take())
        pair.side.wire.receive(pair.asking.take())
        pair.asking.receive(b"".join(pair.side.wire.out.flow.take(PART)))
        pair.asking.cancel(stream)
        pair.pump()
        assert not pair.side.wire.busy
        assert pair.replies == {}

    def test_after_the_reply_does_nothing(self, pair: Pair) -> None:
        pair.side.reply = echo
        stream = pair.ask()
        pair.pump()
        pair.asking.cancel(stream)
        assert not pair.asking.out


class TestLost:
    def test_tells_what_may_have_run(self, pair: Pair) -> None:
        written = pair.ask()
        pair.asking.take()
        unwritten = pair.ask()
        pair.asking.lose("gone")
        assert pair.replies == {written: Lost(True, "gone"), unwritten: Lost(False, "gone")}
        assert pair.refused()

    def test_half_a_body_cannot_have_run(self, pair: Pair) -> None:
        stream = pair.ask(bytes(3 * PART))
        pair.pump()
        second = pair.ask(bytes(3 * PART))
        pair.asking.take()
        pair.asking.lose("gone")
        assert pair.replies == {stream: Lost(True, "gone"), second: Lost(False, "gone")}

    def test_knows_across_the_end_of_the_numbers(self, pair: Pair) -> None:
        pair.asking._last = wire.MAX_STREAM - 1
        written = [pair.ask(), pair.ask()]
        pair.asking.take()
        unwritten = pair.ask()
        pair.asking.lose("gone")
        assert [pair.replies[each] for each in (*written, unwritten)] == [
            Lost(True, "gone"), Lost(True, "gone"), Lost(False, "gone")
        ]  # fmt: skip


class TestBrokenPeer:
    @pytest.mark.parametrize(("data", "reason"), [
        (wire.HEAD.pack(wire.MAX_FRAME_BYTES + 1, wire.REQUEST, 1), "16777216 are allowed"),
        (wire.frame(wire.REQUEST, 1, b"short"), "too short"),
        (wire.frame(wire.REQUEST, 1, wire.REQUEST_HEAD.pack(1, 0, 0, 9, 9, 9)), "contradict"),
        (wire.request_frame(1, (1, 0, 0), (b"m", b""), b"body", 2), "contradict"),
        (wire.request_frame(0, (1, 0, 0), (b"m", b""), b"", 0), "contradict"),
        (wire.request_frame(1, (1, 0, 0), (b"m" * 1025, b""), b"", 0), "contradict"),
        (wire.request_frame(1, (1, 0, 0), (b"m", bytes(65537)), b"", 0), "contradict"),
        (wire.request_frame(1, (1, 0, 0), (b"\xff", b""), b"", 0), "UTF-8"),
        (2 * wire.request_frame(1, (1, 0, 0), (b"m", b""), b"", 0), "two requests"),
        (wire.frame(wire.WINDOW, 1, b"123"), "too short"),
        (wire.frame(wire.PING, 0, bytes(65)), "too long"),
        (wire.request_frame(1, (1, 0, 0), (b"m", b""), b"", 9) + TEN, "more of a body"),
    ], ids=["frame", "short", "lengths", "body", "stream-0", "revision", "head", "utf8", "twice",
            "window", "ping", "data"])  # fmt: skip
    def test_is_told_what_is_wrong(self, data: bytes, reason: str) -> None:
        assert reason in fault(greeted(), data)

    @pytest.mark.parametrize(("data", "reason"), [
        (wire.frame(wire.REPLY, 1, b"short"), "too short"),
        (wire.frame(wire.REPLY, 1, wire.REPLY_HEAD.pack(1, 0, 5, 0)), "contradict"),
        (wire.reply_frame(1, 1, b"", [b"body"], 2), "contradict"),
        (wire.reply_frame(1, 1, bytes(65537), [], 0), "contradict"),
        (wire.reply_frame(1, 1, b"", [], 2**40), "beyond"),
        (2 * wire.reply_frame(1, 1, b"", [], 9), "two replies"),
        (wire.reply_frame(1, 1, b"", [], 9) + TEN, "more of a body"),
        (wire.frame(wire.WINDOW, 1, b""), "too short"),
    ], ids=["short", "lengths", "body", "head", "size", "twice", "data", "window"])  # fmt: skip
    def test_that_answers_is_told_too(self, pair: Pair, data: bytes, reason: str) -> None:
        pair.ask()
        with pytest.raises(PeerFault, match=reason):
            pair.asking.receive(data)

    def test_what_is_for_streams_that_are_over_is_ignored(self, pair: Pair) -> None:
        late = wire.frame(wire.DATA, 9, b"late") + wire.window_frame(9, 5)
        pair.asking.receive(late + wire.reply_frame(9, 1, b"", [], 0))
        pair.side.wire.receive(late + wire.frame(wire.CANCEL, 9))
        assert not pair.side.wire.out

    def test_an_empty_part_changes_nothing(self, pair: Pair) -> None:
        stream = pair.ask(bytes(PART + 1))
        pair.side.wire.receive(pair.asking.take() + wire.frame(wire.DATA, stream))
        assert pair.side.calls == {}


class TestForwardCompatibility:
    def test_unknown_kinds_are_skipped(self, pair: Pair) -> None:
        later = wire.frame(42, 1, bytes(100_000)) + wire.frame(0, 0) + wire.frame(255, 7, b"x")
        pair.cut = lambda data: iter([data[:50_000], data[50_000:]])
        pair.side.wire.receive(later[:70_000])
        pair.side.wire.receive(later[70_000:])
        pair.asking.receive(later)
        pair.side.reply = echo
        stream = pair.ask()
        pair.pump()
        assert stream in pair.replies

    def test_a_window_may_say_more(self, pair: Pair) -> None:
        stream = pair.ask(bytes(2 * PART))
        pair.asking.take()
        pair.asking.receive(wire.frame(wire.WINDOW, stream, struct.pack("<QQ", 5, 9)))
        assert len(b"".join(pair.asking.out.flow.take(PART))) == wire.HEAD_BYTES + 5


class TestTheRest:
    def test_messages_arrive_in_order(self, pair: Pair) -> None:
        assert pair.asking.message(b"one")
        assert pair.asking.message(bytes(100_000))
        pair.pump()
        assert pair.side.messages == [("a", b"one"), ("a", bytes(100_000))]

    def test_a_ping_is_answered_with_what_it_said(self, pair: Pair) -> None:
        pair.side.wire.receive(wire.frame(wire.PING, 0, b"12345678"))
        assert pair.side.wire.out.take() == wire.frame(wire.PONG, 0, b"12345678")
        pair.asking.ping()
        pair.pump()

    def test_who_leaves_answers_what_was_asked_and_refuses_the_rest(self, pair: Pair) -> None:
        before = pair.ask()
        pair.side.wire.receive(pair.asking.take())
        crossing = pair.ask()
        pair.side.wire.leave("closing time")
        pair.pump()
        assert pair.asking.leaving == "closing time"
        assert pair.refused()
        reply = pair.replies[crossing]
        assert isinstance(reply, PeerReply)
        assert reply.outcome is Outcome.REFUSED
        pair.side.wire.reply(before, PeerReply(Outcome.ANSWERED, b"", [b"late"]))
        pair.pump()
        assert body_of(pair.replies[before]) == b"late"
