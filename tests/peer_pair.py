"""Two sides of a link between instances, without a socket between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import pytest

from shoal.codecs.peer import (
    HTTP,
    Answering,
    Hello,
    Limits,
    Lost,
    Outbox,
    Outcome,
    PeerCall,
    PeerFault,
    PeerReply,
    Requesting,
)
from shoal.codecs.peer import frames as wire
from shoal.codecs.peer.hello import hello_frame

A = Hello(instance="a", mesh="sea", version="1.0")
B = Hello(instance="b", mesh="sea", version="1.1")
PART = wire.PART_BYTES
SMALL = Limits(
    max_streams=4, max_body_bytes=8 * PART, max_held_bytes=4 * PART, max_queued_bytes=2000
)

TEN = wire.frame(wire.DATA, 1, bytes(10))

Answer = PeerReply | Lost


class Side:
    """Who answers: at once with `reply`, if it is set."""

    def __init__(self, hello: Hello = B, limits: Limits | None = None) -> None:
        self.wire = Answering(hello, limits or Limits(), self)
        self.calls: dict[int, PeerCall] = {}
        self.cancelled: list[int] = []
        self.messages: list[tuple[str, bytes]] = []
        self.reply: Callable[[PeerCall], PeerReply] | None = None

    def on_call(self, stream: int, call: PeerCall) -> None:
        self.calls[stream] = call
        if self.reply is not None:
            self.wire.reply(stream, self.reply(call))

    def on_cancel(self, stream: int) -> None:
        self.cancelled.append(stream)

    def on_message(self, peer: str, payload: bytes) -> None:
        self.messages.append((peer, payload))


class Pair:
    """Two sides, and the bytes between them."""

    def __init__(self, limits: Limits | None = None, **hello: object) -> None:
        self.errors: list[BaseException] = []
        self.asking = Requesting(
            msgspec.structs.replace(A, **hello), "b", limits or Limits(), self.errors.append
        )
        self.side = Side(limits=limits)
        self.replies: dict[int, Answer] = {}
        self.cut: Callable[[bytes], Iterator[bytes]] = lambda data: iter([data])

    def pump(self) -> None:
        """Until nobody has anything to say."""
        while True:
            out = self.sent_by_requester()
            back = taken(self.side.wire.out)
            for part in self.cut(out):
                self.side.wire.receive(part)
            for part in self.cut(back):
                self.asking.receive(part)
            if not out and not back:
                return

    def sent_by_requester(self) -> bytes:
        return self.asking.take() + b"".join(self.asking.out.flow.take(10 * PART))

    def ask(self, body: bytes | memoryview = b"body", head: bytes = b"head") -> int:
        call = PeerCall(HTTP, "m@1/abc", head, body, 5000)
        stream: list[int] = []
        got = self.asking.request(call, lambda reply: self.replies.update({stream[0]: reply}))
        assert got is not None
        stream.append(got)
        return got

    def refused(self, body: bytes = b"") -> bool:
        return self.asking.request(PeerCall(HTTP, "m", b"", body), print) is None


def taken(out: Outbox) -> bytes:
    return out.take() + b"".join(out.flow.take(10 * PART))


def body_of(reply: Answer) -> bytes:
    assert isinstance(reply, PeerReply)
    return b"".join(reply.body)


def echo(call: PeerCall) -> PeerReply:
    return PeerReply(Outcome.ANSWERED, call.head, [call.body])


def fault(side: Side, data: bytes) -> str:
    with pytest.raises(PeerFault) as caught:
        side.wire.receive(data)
    return caught.value.reason


def greeted(limits: Limits | None = None) -> Side:
    side = Side(limits=limits)
    side.wire.receive(hello_frame(A))
    side.wire.out.take()
    return side
