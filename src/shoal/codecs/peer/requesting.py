"""The side of a link that asks: requests out, replies in. Must not know sockets, loops or clocks.

It never stops reading what the other side sends, so that the other side, which may, never waits in
a circle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from shoal.codecs.peer.bodies import split
from shoal.codecs.peer.calls import Lost, OnReply, Outcome, PeerCall, PeerReply
from shoal.codecs.peer.frames import (
    CANCEL,
    DATA,
    GOAWAY,
    HELLO,
    MAX_HEAD_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_REVISION_BYTES,
    MAX_STREAM,
    MESSAGE,
    PART_BYTES,
    PING,
    REPLY,
    REPLY_HEAD,
    WINDOW,
    PeerFault,
    frame,
    read_reason,
    request_frame,
)
from shoal.codecs.peer.hello import Hello, hello_frame, read_hello
from shoal.codecs.peer.limits import Limits
from shoal.codecs.peer.side import Side

_OUTCOMES: Final = {int(outcome): outcome for outcome in Outcome}
_HALF: Final = 2**31

OnError = Callable[[BaseException], None]


class Requesting(Side[PeerReply]):
    """hello: who we are. expected: the instance that should answer.

    on_error: gets what escapes from a callback, which then loses only itself.
    leaving: why no request is taken any more; "" while they are.
    """

    __slots__ = ("_expected", "_last", "_on_error", "_waiting", "_written_to", "leaving")

    def __init__(self, hello: Hello, expected: str, limits: Limits, on_error: OnError) -> None:
        super().__init__(hello, limits)
        self.leaving = ""
        self._expected = expected
        self._on_error = on_error
        self._waiting: dict[int, OnReply] = {}
        self._last = 0  # stream
        self._written_to = 0  # the last stream of which something was taken to be written
        self.out.add(hello_frame(hello))

    @property
    def in_flight(self) -> int:
        """Requests without a complete reply."""
        return len(self._waiting)

    # --- asking ---------------------------------------------------------------------------------

    def request(self, call: PeerCall, on_reply: OnReply) -> int | None:
        """The request's stream; `on_reply` will be called once, never from within. None: it is not
        taken now, because the other side leaves, has not answered yet, or too much waits already.

        Raises ValueError for a call that no frame can carry.
        """
        limits, out, body = self._limits, self.out, call.body
        size = len(body)
        if (
            self.leaving
            or self.peer is None
            or len(self._waiting) >= limits.max_streams
            or out.frame_bytes > limits.max_queued_bytes
        ):
            return None
        stream = self._next_stream()
        revision, head = call.revision.encode(), call.head
        if len(head) > MAX_HEAD_BYTES or len(revision) > MAX_REVISION_BYTES:
            raise ValueError("the call's head or revision is too long for a peer frame")
        fixed = call.kind, call.flags, call.timeout_ms
        if size <= PART_BYTES:
            out.add(request_frame(stream, fixed, (revision, head), body, size))
        else:
            if size > limits.max_body_bytes:
                raise ValueError(f"a body of {size} bytes is beyond what a link may carry")
            held = out.flow.size_bytes
            if held and held + size > limits.max_held_bytes:
                return None
            (first,), rest = split([body])
            out.add(request_frame(stream, fixed, (revision, head), first, size))
            out.flow.add(stream, rest)
        self._last = stream
        self._waiting[stream] = on_reply
        return stream

    def cancel(self, stream: int) -> None:
        """Its callback will not be called; the other side stops if it still can."""
        if self._waiting.pop(stream, None) is None:
            return
        self.out.flow.drop(stream)
        self.out.add(frame(CANCEL, stream))
        self._end_body(stream)

    def message(self, payload: bytes) -> bool:
        """False: it is not taken now. Raises ValueError beyond MAX_MESSAGE_BYTES."""
        if len(payload) > MAX_MESSAGE_BYTES:
            raise ValueError(
                f"a message of {len(payload)} bytes is beyond what a frame carries "
                f"({MAX_MESSAGE_BYTES}); send several"
            )
        if self.peer is None or self.out.frame_bytes > self._limits.max_queued_bytes:
            return False
        self.out.add(frame(MESSAGE, 0, payload))
        return True

    def ping(self) -> None:
        self.out.add(frame(PING, 0))

    def take(self) -> bytes:
        """The small frames to be written now; what was in them counts as written."""
        self._written_to = self._last
        return self.out.take()

    def lose(self, why: str) -> None:
        """The link is gone: every request without a reply is told so."""
        self.leaving = self.leaving or why
        waiting, self._waiting = self._waiting, {}
        self._coming.clear()
        for stream, on_reply in waiting.items():
            written = (self._written_to - stream) % (MAX_STREAM + 1) < _HALF
            written = written and stream not in self.out.flow
            self._call(on_reply, Lost(written, why))

    # --- what the other side sends --------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Calls the callbacks of the replies in it. Raises PeerFault: the link must end."""
        data, frames = self._reader.cut(data)
        for kind, stream, at, end in frames:
            if kind == REPLY and self.peer is not None:
                self._reply(stream, data, at, end)
            elif self.peer is None:
                if kind == GOAWAY:
                    raise PeerFault(f"{self._expected} refuses: {read_reason(data[at:end])}")
                self._greeted(kind, data[at:end])
            elif kind == DATA:
                self._more(stream, memoryview(data)[at:end])
            elif kind == WINDOW:
                self._grant(stream, data, at, end)
            elif kind == GOAWAY:
                self.leaving = read_reason(data[at:end]) or "the instance is shutting down"

    def _greeted(self, kind: int, payload: bytes) -> None:
        if kind != HELLO:
            raise PeerFault("what answers does not introduce itself as an instance of Shoal")
        peer = read_hello(payload)
        if peer.instance != self._expected:
            raise PeerFault(f"instance {peer.instance} answers where {self._expected} should")
        self._know(peer)

    def _reply(self, stream: int, data: bytes, at: int, end: int) -> None:
        body_at = at + REPLY_HEAD.size
        if body_at > end:
            raise PeerFault("a REPLY is too short")
        outcome, _, head_size, size = REPLY_HEAD.unpack_from(data, at)
        head = data[body_at : body_at + head_size]
        body_at += head_size
        if body_at > end or head_size > MAX_HEAD_BYTES or size < end - body_at:
            raise PeerFault("the lengths in a REPLY contradict each other")
        on_reply = self._waiting.get(stream)
        if on_reply is None:
            return  # cancelled meanwhile
        if stream in self._coming:
            raise PeerFault(f"two replies came on stream {stream}")
        kind = _OUTCOMES.get(outcome, Outcome.FAILED)
        if size == end - body_at:
            del self._waiting[stream]
            if self.out.flow.size_bytes:
                self.out.flow.drop(stream)  # answered before it was heard to the end
            self._call(on_reply, PeerReply(kind, head, [data[body_at:end]]))
            return
        if size > self._limits.max_body_bytes:
            raise PeerFault(f"a reply of {size} bytes is beyond what a link may carry")
        self.out.flow.drop(stream)
        self._begin_body(stream, PeerReply(kind, head), data[body_at:end], size)

    def _more(self, stream: int, part: memoryview) -> None:
        body = self._inflow.add(stream, part)
        if body is None:
            return
        reply = self._coming[stream]
        reply.body = [body]
        on_reply = self._waiting.pop(stream)
        self._end_body(stream)
        self._call(on_reply, reply)

    def _next_stream(self) -> int:
        stream = self._last % MAX_STREAM + 1
        while stream in self._waiting:  # after four thousand million others
            stream = stream % MAX_STREAM + 1
        return stream

    def _call(self, on_reply: OnReply, reply: PeerReply | Lost) -> None:
        try:
            on_reply(reply)
        except Exception as error:  # noqa: BLE001 - one caller's mistake must not cost the others
            self._on_error(error)
