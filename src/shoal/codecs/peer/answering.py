"""The side of a link that answers: requests and messages in, replies out. Must not know sockets,
loops or clocks, nor what is asked.

Memory is bounded: beyond `Limits.max_held_bytes` requests are refused, and bodies beyond their
first part come only when there is room for them.
"""

from __future__ import annotations

from typing import Protocol

from shoal.codecs.peer.bodies import split
from shoal.codecs.peer.calls import PeerCall, PeerReply, refusal
from shoal.codecs.peer.frames import (
    CANCEL,
    DATA,
    HELLO,
    MAX_HEAD_BYTES,
    MAX_PING_BYTES,
    MAX_REVISION_BYTES,
    MESSAGE,
    PART_BYTES,
    PING,
    PONG,
    REQUEST,
    REQUEST_HEAD,
    WINDOW,
    PeerFault,
    frame,
    goaway_frame,
    reply_frame,
)
from shoal.codecs.peer.hello import Hello, hello_frame, read_hello
from shoal.codecs.peer.limits import Limits
from shoal.codecs.peer.side import Side


class Asked(Protocol):
    """Who is told what the other side wants."""

    def on_call(self, stream: int, call: PeerCall) -> None:
        """Complete; ends with `Answering.reply`, now or later, unless it is cancelled."""

    def on_cancel(self, stream: int) -> None:
        """A call that has not been answered yet."""

    def on_message(self, peer: str, payload: bytes) -> None: ...


class Answering(Side[PeerCall]):
    """hello: who we are. leaving: new requests are refused."""

    __slots__ = ("_asked", "_held", "_held_bytes", "leaving")

    def __init__(self, hello: Hello, limits: Limits, asked: Asked) -> None:
        super().__init__(hello, limits)
        self.leaving = False
        self._asked = asked
        self._held: dict[int, int] = {}  # requests without a reply: bytes of their bodies
        self._held_bytes = 0

    @property
    def unanswered(self) -> int:
        return len(self._held)

    @property
    def busy(self) -> bool:
        """Is a request without a reply, or a reply not yet sent?"""
        return bool(self._held) or self.out.size_bytes > 0

    # --- answering ------------------------------------------------------------------------------

    def reply(self, stream: int, reply: PeerReply) -> None:
        """Nothing happens for a call that was cancelled. Raises ValueError for a reply that no
        frame can carry; then the call still waits for another."""
        held = self._held.get(stream)
        if held is None:
            return
        head, body = reply.head, reply.body
        if len(head) > MAX_HEAD_BYTES:
            raise ValueError("the reply's head is too long for a peer frame")
        size = 0
        for piece in body:
            size += len(piece)
        if size > self._limits.max_body_bytes:
            raise ValueError(f"a reply of {size} bytes is beyond what a link may carry")
        if size <= PART_BYTES:
            self.out.add(reply_frame(stream, reply.outcome, head, body, size))
        else:
            first, rest = split(body)
            self.out.add(reply_frame(stream, reply.outcome, head, first, size))
            self.out.flow.add(stream, rest)
        self._forget(stream)

    def leave(self, why: str) -> None:
        """No new requests from now on; what was asked is still answered."""
        if not self.leaving:
            self.leaving = True
            self.out.add(goaway_frame(why))

    # --- what the other side sends --------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Tells `asked` of the calls and messages in it. Raises PeerFault: the link must end, after
        what is in `out` was written."""
        data, frames = self._reader.cut(data)
        for kind, stream, at, end in frames:
            if self.peer is None:
                self._greeted(kind, data[at:end])
            elif kind == REQUEST:
                self._request(stream, data, at, end)
            elif kind == MESSAGE:
                self._asked.on_message(self.peer.instance, data[at:end])
            elif kind == DATA:
                self._more(stream, memoryview(data)[at:end])
            elif kind == CANCEL:
                self._cancel(stream)
            elif kind == WINDOW:
                self._grant(stream, data, at, end)
            elif kind == PING:
                if end - at > MAX_PING_BYTES:
                    raise PeerFault("a PING is too long")
                if self.out.frame_bytes <= self._limits.max_queued_bytes:
                    self.out.add(frame(PONG, 0, data[at:end]))

    def _greeted(self, kind: int, payload: bytes) -> None:
        if kind != HELLO:
            raise PeerFault("who calls does not introduce itself as an instance of Shoal")
        peer = read_hello(payload)
        # Even when they cannot talk: the other side's operator should learn why.
        self.out.add(hello_frame(self._hello))
        self._know(peer)

    def _request(self, stream: int, data: bytes, at: int, end: int) -> None:
        head_at = at + REQUEST_HEAD.size
        if head_at > end:
            raise PeerFault("a REQUEST is too short")
        kind, flags, timeout_ms, name_size, head_size, size = REQUEST_HEAD.unpack_from(data, at)
        body_at = head_at + name_size + head_size
        here = end - body_at
        if (
            here < 0 or size < here or name_size > MAX_REVISION_BYTES or head_size > MAX_HEAD_BYTES
            or not stream
        ):  # fmt: skip
            raise PeerFault("the lengths in a REQUEST contradict each other")
        if stream in self._held:
            raise PeerFault(f"two requests came on stream {stream}")
        assert self.peer is not None
        try:
            revision = str(data[head_at : head_at + name_size], "utf-8")
        except UnicodeDecodeError as error:
            raise PeerFault("a REQUEST names its revision in no UTF-8") from error
        call = PeerCall(
            kind, revision, data[head_at + name_size : body_at], data[body_at:end], timeout_ms,
            flags, self.peer.instance,
        )  # fmt: skip
        limits = self._limits
        self._held[stream] = here
        self._held_bytes += here
        if self.leaving:
            self.reply(stream, refusal("the instance is shutting down"))
        elif len(self._held) > limits.max_streams or size > limits.max_body_bytes:
            self.reply(stream, refusal("too many requests at once, or too large a body"))
        elif max(self._held_bytes - here, self.out.size_bytes) > limits.max_held_bytes:
            self.reply(stream, refusal("too many bytes of requests and replies at once"))
        elif size == here:
            self._asked.on_call(stream, call)
        else:
            self._begin_body(stream, call, data[body_at:end], size)

    def _more(self, stream: int, part: memoryview) -> None:
        body = self._inflow.add(stream, part)
        if body is None:
            return
        call = self._coming.pop(stream)
        call.body = body
        self._asked.on_call(stream, call)

    def _cancel(self, stream: int) -> None:
        if stream in self._held:
            begun = stream not in self._coming
            self._forget(stream)
            if begun:
                self._asked.on_cancel(stream)
        else:
            self.out.flow.drop(stream)

    def _forget(self, stream: int) -> None:
        self._held_bytes -= self._held.pop(stream)
        self._end_body(stream)
