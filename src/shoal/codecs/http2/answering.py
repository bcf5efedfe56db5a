"""The half of a connection that answers: flow control outwards, and whose turn it is to be sent.

What must go at once (control frames, headers, small bodies) goes in order. Bodies that are large or
wait for the peer's permission queue by stream, and `take` gives them frame by frame in turns, so
that a small answer passes a large one. Nothing is copied but small bodies.

Must not know how frames are read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from shoal.codecs.http2.events import Data
from shoal.codecs.http2.faults import ConnectionFault
from shoal.codecs.http2.field_blocks import SHRINK
from shoal.codecs.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FIRST_TABLE_BYTES,
    FIRST_WINDOW,
    HEAD,
    HEAD_BYTES,
    HEADERS,
    LEAST_FRAME_BYTES,
    MAX_WINDOW,
    ErrorCode,
    rst_stream,
)
from shoal.codecs.http2.options import Options
from shoal.codecs.http2.streams import Fate, Past, Stream

PORTION: Final = 256 * 1024  # what `take` gives at once: enough for a socket's buffer
_SMALL: Final = LEAST_FRAME_BYTES  # a body up to this is one frame for everybody, and joined
_SLACK: Final = 64  # closed streams that the round may hold beyond the open ones
_EARNING: Final = 1024  # bytes of a DATA frame that tiny windows cannot be the reason for


class Answering:
    def __init__(self, options: Options) -> None:
        self.options = options
        self._streams: dict[int, Stream] = {}
        self._past = Past()
        self._out: list[Data] = []
        self._out_bytes = 0
        self._queued = 0  # bytes in the queues of all streams
        self._control_bytes = 0  # answers to control frames in `_out`
        self._round: deque[int] = deque()  # streams whose turn to send data comes
        self._starved = False  # somebody in the round waits for the connection's window
        self._drained: list[int] = []
        self._earned = 0  # frames that were worth something, for the budget of those that are not
        self._begin_block = b""  # what the next header block begins with
        # What the peer allows:
        self._send_window = FIRST_WINDOW
        self._initial_window = FIRST_WINDOW
        self._frame_bytes = LEAST_FRAME_BYTES
        self._table_bytes = FIRST_TABLE_BYTES

    # --- what the layer above calls ----------------------------------------------------------

    def respond(
        self, stream: int, header_block: bytes, parts: Sequence[Data], trailers_block: bytes
    ) -> bool:
        """A whole answer: headers, a body of `parts`, trailers.

        Blocks are `encode_headers`' and 16 KiB at most to be quick; parts are bytes or flat
        memoryviews of bytes, sent as they are, so they must not change until they have been taken.
        False if the stream is not there any more or has its answer: then nothing is sent.
        """
        state = self._streams.get(stream)
        if state is None or state.begun:
            return False
        size = 0
        for part in parts:
            size += len(part)
        if (
            size <= _SMALL
            and size <= self._send_window
            and size <= self._initial_window + state.credit
            and not (state.reading or self._starved or self._begin_block)
            and len(header_block) <= _SMALL
            and len(trailers_block) <= _SMALL
        ):
            del self._streams[stream]
            self._send_window -= size
            pack = HEAD.pack
            frames = b"".join((
                pack(len(header_block) << 8 | HEADERS, END_HEADERS, stream),
                header_block,
                pack(size << 8 | DATA, 0, stream),
                *parts,
                pack(len(trailers_block) << 8 | HEADERS, END_HEADERS | END_STREAM, stream),
                trailers_block,
            ))
            self._out.append(frames)
            self._out_bytes += len(frames)
            if state.unread:
                self._close(stream, state)
            return True
        self.send_headers(stream, header_block)
        self.send_data(stream, parts)
        return self.send_trailers(stream, trailers_block)

    def send_headers(self, stream: int, block: bytes, *, end: bool = False) -> bool:
        """An answer's headers; `end`: they are all of it. Once a stream. False as in `respond`."""
        state = self._streams.get(stream)
        if state is None or state.begun:
            return False
        state.begun = True
        self._put_block(stream, block, end)
        if end:
            self._end(stream, state)
        return True

    def send_data(self, stream: int, parts: Sequence[Data], *, end: bool = False) -> bool:
        """More of an answer's body, as in `respond`; `end`: the rest of it, without trailers.

        After `send_headers`. It is always taken in: see `blocked`. False as in `respond`.
        """
        state = self._streams.get(stream)
        if state is None or state.ending:
            return False
        assert state.begun, f"data for stream {stream} before its headers"
        size = 0
        for part in parts:
            size += len(part)
        if state.queued or not self._fits(size, state):
            queue = state.queue
            if queue is None:
                queue = state.queue = deque()
            queue.extend(part for part in parts if part)
            state.queued += size
            self._queued += size
            state.ending = end
            self._list(stream, state)
        elif size or end:
            self._send_window -= size
            state.credit -= size
            self._earned += 1
            head = HEAD.pack(size << 8 | DATA, END_STREAM if end else 0, stream)
            self._put(b"".join((head, *parts)))
            if end:
                self._end(stream, state)
        return True

    def send_trailers(self, stream: int, block: bytes) -> bool:
        """Ends an answer after its data. False as in `respond`."""
        state = self._streams.get(stream)
        if state is None or state.ending:
            return False
        assert state.begun, f"trailers for stream {stream} before its headers"
        state.ending = True
        if state.queued:
            state.trailers = block
        else:
            self._put_block(stream, block, True)
            self._end(stream, state)
        return True

    def reset(self, stream: int, code: int) -> bool:
        """End a stream without (the rest of) an answer; data that waits is dropped. False as in
        `respond`. No event follows."""
        state = self._streams.get(stream)
        if state is None:
            return False
        self._close(stream, state)
        self._past.reset(stream, Fate.RESET_HERE)
        self._put(rst_stream(stream, code))
        return True

    def blocked(self, stream: int) -> int:
        """Bytes given for the stream that wait for flow control, or for their turn in `take`."""
        state = self._streams.get(stream)
        return 0 if state is None else state.queued

    def drained(self) -> list[int]:
        """Streams whose `blocked` fell to 0 in `take` since this was last asked, and may go on."""
        drained = self._drained
        if drained:
            self._drained = []
        return drained

    @property
    def pending_bytes(self) -> int:
        """What `take` has not given yet, over all streams; also what flow control holds back."""
        return self._out_bytes + self._queued

    @property
    def open_streams(self) -> int:
        """Requests whose answers have not ended."""
        return len(self._streams)

    def take(self, limit: int = PORTION) -> list[Data]:
        """What to write to the peer next: all that goes at once, and bodies up to `limit` bytes in
        all (a frame more or less). Empty when there is nothing to be sent now."""
        if self._round and self._out_bytes < limit:
            self._send_round(limit)
        out = self._out
        if out:
            self._out = []
            self._out_bytes = self._control_bytes = 0
        return out

    # --- frames ------------------------------------------------------------------------------

    def _put(self, data: Data) -> None:
        self._out.append(data)
        self._out_bytes += len(data)

    def _reply(self, frame: bytes) -> None:
        """An answer to a control frame. Raises ConnectionFault when the peer asks for more and more
        and takes none."""
        self._put(frame)
        self._control_bytes += len(frame)
        if self._control_bytes > self.options.max_control_bytes:
            reason = f"{self._control_bytes} bytes of answers to control frames are not taken"
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, reason)

    def _put_block(self, stream: int, block: bytes, end: bool) -> None:
        if self._begin_block:
            block = self._begin_block + block
            self._begin_block = b""
        kind, flags = HEADERS, END_STREAM if end else 0
        most = self._frame_bytes
        for at in range(0, len(block) or 1, most):
            piece = block[at : at + most]
            if at + most >= len(block):
                flags |= END_HEADERS
            self._put(HEAD.pack(len(piece) << 8 | kind, flags, stream) + piece)
            kind, flags = CONTINUATION, 0

    def _end(self, stream: int, state: Stream) -> None:
        """The answer's last frame is put. What the peer still sends is not wanted (section 8.1)."""
        reading = state.reading
        self._close(stream, state)
        if reading:
            self._past.reset(stream, Fate.RESET_HERE)
            self._put(rst_stream(stream, ErrorCode.NO_ERROR))

    def _close(self, stream: int, state: Stream) -> None:
        self._streams.pop(stream, None)
        self._queued -= state.queued
        state.queued = 0
        if state.listed and len(self._round) > 2 * len(self._streams) + _SLACK:
            self._round = deque(each for each in self._round if each in self._streams)
        if state.unread:
            self._release(state.unread)
            state.unread = 0

    def _release(self, size: int) -> None:
        """Bytes that were held for a stream are the connection's again."""
        raise NotImplementedError

    # --- flow control and turns ------------------------------------------------------------------

    def _fits(self, size: int, state: Stream) -> bool:
        return not size or (
            size <= _SMALL
            and size <= self._send_window
            and size <= self._initial_window + state.credit
            and not self._starved
        )

    def _list(self, stream: int, state: Stream) -> None:
        if not state.listed:
            state.listed = True
            self._round.append(stream)

    def _send_round(self, limit: int) -> None:
        """Frames of the streams in the round, one each in turn."""
        turns = self._round
        most = min(self._frame_bytes, self.options.max_send_frame_bytes)
        while turns and self._out_bytes < limit:
            stream = turns.popleft()
            state = self._streams.get(stream)
            if state is None:
                continue
            allowed = self._initial_window + state.credit
            size = min(state.queued, most, allowed, self._send_window)
            if size <= 0:
                if allowed > 0 and state.queued:
                    turns.appendleft(stream)
                    self._starved = True
                    return
                state.listed = False  # until its window opens
                continue
            self._send_queued(stream, state, size)
            if state.queued:
                turns.append(stream)
            else:
                state.listed = False
        if not turns:
            self._starved = False

    def _send_queued(self, stream: int, state: Stream, size: int) -> None:
        """One DATA frame of `size` bytes from the queue, and what comes after the last."""
        state.queued -= size
        state.credit -= size
        self._queued -= size
        self._send_window -= size
        done = not state.queued
        self._earned += done or size >= _EARNING
        ends = done and state.ending and state.trailers is None
        self._out.append(HEAD.pack(size << 8 | DATA, END_STREAM if ends else 0, stream))
        self._out_bytes += HEAD_BYTES + size
        queue = state.queue
        assert queue is not None
        while size:
            part = queue[0]
            if len(part) <= size:
                queue.popleft()
            else:
                part, queue[0] = memoryview(part)[:size], memoryview(part)[size:]
            self._out.append(part)
            size -= len(part)
        if not done:
            return
        if state.trailers is not None:
            self._put_block(stream, state.trailers, True)
        if state.ending:
            self._end(stream, state)
        else:
            self._drained.append(stream)

    # --- what the peer allows ------------------------------------------------------------------

    def _widen(self, increment: int) -> None:
        """The peer raises the connection's window. Raises ConnectionFault."""
        self._send_window += increment
        self._starved = False
        if self._send_window > MAX_WINDOW:
            reason = "WINDOW_UPDATE raises the connection's window beyond 2**31 - 1"
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, reason)

    def _widen_stream(self, stream: int, state: Stream, increment: int) -> bool:
        """The same for a stream; False when it goes beyond the largest window."""
        state.credit += increment
        if self._initial_window + state.credit > MAX_WINDOW:
            return False
        if state.queued:
            self._list(stream, state)
        return True

    def _set_initial_window(self, size: int) -> None:
        """Also changes the windows of open streams, which may become negative (section 6.9.2).
        Raises ConnectionFault."""
        self._initial_window = size
        for stream, state in self._streams.items():
            if size + state.credit > MAX_WINDOW:
                reason = f"SETTINGS raise the window of stream {stream} beyond 2**31 - 1"
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, reason)
            if state.queued:
                self._list(stream, state)

    def _set_table_bytes(self, size: int) -> None:
        """The peer's table for header compression, which is never filled: once made empty, it
        satisfies every later limit (RFC 7541, section 4.2)."""
        if size < self._table_bytes:
            self._table_bytes = 0
            self._begin_block = SHRINK
