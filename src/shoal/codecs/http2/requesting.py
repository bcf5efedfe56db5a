"""The half of a connection that is asked: header blocks, requests, bodies, flow control inwards.

Must not know how frames follow each other in what is read, nor frames about the connection.
"""

from __future__ import annotations

from typing import Final

from shoal.codecs.http2.answering import Answering
from shoal.codecs.http2.budget import Budget
from shoal.codecs.http2.events import (
    Data,
    DataReceived,
    Event,
    RequestReceived,
    StreamReset,
    TrailersReceived,
)
from shoal.codecs.http2.faults import ConnectionFault, StreamFault
from shoal.codecs.http2.field_blocks import FieldDecoder, encode_headers
from shoal.codecs.http2.frames import (
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    PADDED,
    PRIORITISED,
    ErrorCode,
    rst_stream,
    window_update,
)
from shoal.codecs.http2.headers import Headers
from shoal.codecs.http2.options import Options
from shoal.codecs.http2.requests import Malformed, read_request, read_trailers
from shoal.codecs.http2.streams import Fate, Stream

_LEAST_CHARGE: Final = 256  # what a DATA frame costs in memory at least
CACHED_BYTES: Final = 4096  # the longest header block that is remembered
_TOO_LARGE: Final = encode_headers([(b":status", b"431")])


class Requesting(Answering):
    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._now = 0.0
        self._decoder = FieldDecoder(options.max_header_list_bytes, options.max_header_fields)
        self._known: dict[bytes, Headers] = {}  # what blocks mean while the table is as it is
        self._lasting: dict[bytes, Headers] = {}  # … and of those that do not depend on it
        self._block: list[bytes] | None = None  # pieces of a block that CONTINUATION goes on with
        self._block_stream = 0
        self._block_ends_stream = False
        self._block_bytes = 0
        self._resets = Budget(options.reset_burst, options.reset_rate)
        self._chatter = Budget(options.chatter_burst, options.chatter_rate)
        self._counted = -1  # the last stream that has earned something for `_chatter`
        self._refuse_above: int | None = None  # GOAWAY has named this as the last stream
        self._window = FIRST_WINDOW  # what the peer may send on the connection
        self._half_window = options.connection_window // 2
        self._unread = 0  # bytes of held streams

    # --- what the layer above calls ----------------------------------------------------------

    def hold(self, stream: int) -> None:
        """From now on credit for this stream's body waits for `acknowledge`, and
        `Options.max_body_bytes` does not apply: for bodies that are read at the reader's pace."""
        state = self._streams.get(stream)
        if state is not None:
            state.held = True

    def acknowledge(self, stream: int, size: int) -> None:
        """`size` bytes of a held stream's data have been dealt with; the peer may send more."""
        state = self._streams.get(stream)
        if state is None:
            return  # what was unread was given back when it closed
        size = min(size, state.unread)
        state.unread -= size
        self._credit_stream(stream, state)
        self._release(size)

    # --- header blocks -----------------------------------------------------------------------

    def _on_headers(self, flags: int, stream: int, payload: bytes, events: list[Event]) -> None:
        if not stream & 1:
            raise _fault(f"HEADERS on stream {stream}, which is not a client's")
        block = payload
        if flags & (PADDED | PRIORITISED):
            block = _without_padding(payload, flags, 5 if flags & PRIORITISED else 0)
        if flags & END_HEADERS:
            self._on_block(stream, bool(flags & END_STREAM), block, events)
            return
        self._block = [block]
        self._block_stream = stream
        self._block_ends_stream = bool(flags & END_STREAM)
        self._block_bytes = len(block)

    def _on_continuation(
        self, flags: int, stream: int, payload: bytes, events: list[Event]
    ) -> None:
        pieces = self._block
        if pieces is None or stream != self._block_stream:
            raise _fault("CONTINUATION without a header block to go on with")
        pieces.append(payload)
        self._block_bytes += len(payload)
        options = self.options
        if (
            self._block_bytes > options.max_header_block_bytes
            or len(pieces) > options.max_continuations + 1
        ):
            reason = f"a header block of {self._block_bytes} bytes in {len(pieces)} frames"
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, reason)
        if flags & END_HEADERS:
            self._block = None
            self._on_block(stream, self._block_ends_stream, b"".join(pieces), events)

    def _on_block(self, stream: int, ends: bool, block: bytes, events: list[Event]) -> None:
        """A complete header block: a request, or trailers. Always decoded: the table depends on
        it."""
        if len(block) > self.options.max_header_block_bytes:
            reason = f"a header block of {len(block)} bytes"
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, reason)
        if stream <= self._past.last:
            self._on_trailers(stream, ends, block, events)
            return
        self._past.open(stream)
        headers: Headers | str | None = self._known.get(block)
        if headers is None:
            headers = self._read_block(block)
        self._open(stream, headers, ends, events)

    def _on_trailers(self, stream: int, ends: bool, block: bytes, events: list[Event]) -> None:
        decoder = self._decoder
        fields = decoder.decode(block)
        if decoder.changed:
            self._known.clear()
        state = self._streams.get(stream)
        if state is None:
            self._check_closed(stream, "HEADERS")
            return
        if not state.reading:
            raise StreamFault(stream, ErrorCode.STREAM_CLOSED, "HEADERS after END_STREAM")
        if not ends or fields is None:
            raise _malformed(stream, "trailers do not end the stream, or are too large")
        try:
            trailers = read_trailers(fields)
        except Malformed as malformed:
            raise _malformed(stream, str(malformed)) from None
        self._check_length(stream, state)
        state.reading = False
        events.append(TrailersReceived(stream, trailers))

    def _read_block(self, block: bytes) -> Headers | str | None:
        """A request's headers; why they are malformed; None if they are too large."""
        headers: Headers | None = self._lasting.get(block)
        if headers is None:
            decoder = self._decoder
            fields = decoder.decode(block)
            if decoder.changed:
                self._known.clear()
            if fields is None:
                return None
            try:
                headers = read_request(fields)
            except Malformed as malformed:
                return str(malformed)
            if decoder.changed or len(block) > CACHED_BYTES:
                return headers
            if decoder.self_contained:
                if len(self._lasting) >= self.options.max_header_caches:
                    self._lasting.clear()
                self._lasting[block] = headers
        if len(self._known) >= self.options.max_header_caches:
            self._known.clear()
        self._known[block] = headers
        return headers

    def _open(
        self, stream: int, headers: Headers | str | None, ends: bool, events: list[Event]
    ) -> None:
        if self._refuse_above is not None:
            return  # sent before it knew of our GOAWAY; it will try elsewhere
        if len(self._streams) >= self.options.max_streams:
            self._past.reset(stream, Fate.RESET_HERE)
            self._reply(rst_stream(stream, ErrorCode.REFUSED_STREAM))
        elif headers is None:
            self._streams[stream] = Stream(not ends, 0)
            self._charge_reset("header lists that are too large")
            self.send_headers(stream, _TOO_LARGE, end=True)
        elif isinstance(headers, str):
            raise _malformed(stream, headers)
        else:
            expected = headers.content_length
            if expected is None:
                expected = -1
            elif ends and expected:
                raise _malformed(stream, f"no body, but content-length {expected}")
            self._streams[stream] = Stream(not ends, self.options.stream_window, expected)
            events.append(RequestReceived(stream, headers, b"", ends))

    # --- bodies ------------------------------------------------------------------------------

    def _admit_data(self, stream: int, length: int) -> Stream | None:
        """A DATA frame of `length` bytes begins; its stream's state, None if it is to be dropped.

        All its bytes are taken from the windows.
        """
        self._window -= length
        if self._window < 0:
            reason = "DATA beyond the connection's window"
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, reason)
        state = self._streams.get(stream)
        if state is None:
            self._check_closed(stream, "DATA")
            return None
        if not state.reading:
            raise StreamFault(stream, ErrorCode.STREAM_CLOSED, "DATA after END_STREAM")
        state.window -= length
        if state.window < 0:
            reason = "DATA beyond the stream's window"
            raise StreamFault(stream, ErrorCode.FLOW_CONTROL_ERROR, reason)
        return state

    def _on_data(self, stream: int, state: Stream, data: Data, ends: bool) -> DataReceived:
        """Bytes of a body, without padding."""
        size = len(data)
        state.received += size
        if 0 <= state.expected < state.received:
            raise _malformed(stream, f"more of a body than content-length {state.expected}")
        if ends:
            self._check_length(stream, state)
            state.reading = False
        elif not size:
            self._spend("empty DATA frames")
        else:
            self._earned += 1
        if state.held:
            state.unread += size
            self._unread += size
        else:
            state.charged += size if size > _LEAST_CHARGE else _LEAST_CHARGE
            if state.charged > self.options.max_body_bytes:
                reason = f"a body of more than {self.options.max_body_bytes} bytes"
                raise StreamFault(stream, ErrorCode.ENHANCE_YOUR_CALM, reason)
        if not ends:
            self._credit_stream(stream, state)
        return DataReceived(stream, data, ends)

    def _check_length(self, stream: int, state: Stream) -> None:
        if state.expected not in (-1, state.received):
            reason = f"a body of {state.received} bytes, but content-length {state.expected}"
            raise _malformed(stream, reason)

    def _credit_stream(self, stream: int, state: Stream) -> None:
        window = self.options.stream_window
        credit = window - state.window - state.unread
        if state.reading and (credit * 2 >= window or credit > state.window):
            state.window += credit
            self._put(window_update(stream, credit))

    def _credit_connection(self) -> None:
        window = self.options.connection_window
        credit = window - self._window - self._unread
        if credit * 4 >= window or credit > self._window:
            self._window += credit
            self._put(window_update(0, credit))

    def _release(self, size: int) -> None:
        self._unread -= size
        if self._window < self._half_window:
            self._credit_connection()

    # --- faults ------------------------------------------------------------------------------

    def _check_closed(self, stream: int, kind: str) -> None:
        """`kind` came on a stream that is not open (section 5.1). Returns if it is dropped."""
        if self._refuse_above is not None and stream > self._refuse_above:
            return
        fate = self._past.fate(stream)
        if fate in (Fate.IDLE, Fate.SKIPPED):
            raise _fault(f"{kind} on stream {stream}, which was never opened")
        reason = f"{kind} on stream {stream}, which has ended"
        if fate is Fate.ENDED:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, reason)
        if fate is Fate.RESET_BY_PEER:
            raise StreamFault(stream, ErrorCode.STREAM_CLOSED, reason)

    def _reset_faulty(self, fault: StreamFault, events: list[Event]) -> None:
        stream = fault.stream
        state = self._streams.get(stream)
        known = state is not None
        if state is not None:
            self._close(stream, state)
        self._past.reset(stream, Fate.RESET_HERE)
        self._reply(rst_stream(stream, fault.code))
        if known:
            events.append(StreamReset(stream, fault.code, False, fault.reason))
        self._charge_reset("faulty streams")

    def _charge_reset(self, what: str) -> None:
        if not self._resets.spend(self._now):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many {what}")

    def _spend(self, what: str) -> None:
        """For a frame that brings nothing. What was worth something since the last one earns."""
        last = self._past.last
        earned = self._earned + (last - self._counted) // 2
        self._earned, self._counted = 0, last
        if not self._chatter.spend(self._now, 4 * earned):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many {what}")


def _without_padding(payload: bytes, flags: int, fixed: int) -> bytes:
    """The payload of a padded or prioritised frame, without both (sections 6.1, 6.2)."""
    start = fixed + (1 if flags & PADDED else 0)
    if len(payload) < start:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame shorter than its fixed fields")
    padding = payload[0] if flags & PADDED else 0
    if start + padding > len(payload):
        raise _fault("padding longer than its frame")
    return payload[start : len(payload) - padding]


def _fault(reason: str) -> ConnectionFault:
    return ConnectionFault(ErrorCode.PROTOCOL_ERROR, reason)


def _malformed(stream: int, reason: str) -> StreamFault:
    return StreamFault(stream, ErrorCode.PROTOCOL_ERROR, reason)
