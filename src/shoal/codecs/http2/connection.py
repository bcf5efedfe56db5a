"""A server's HTTP/2 connection without sockets: bytes in, events and bytes out (RFC 9113).

Reads frames in their order and deals with those about the connection; requests are `requesting`'s,
answers `answering`'s. Must not know who reads and writes, what time it is, or what is served.

Everything that the peer does wrong is answered here as the RFC says: RST_STREAM for faults of a
stream, GOAWAY and a last event for faults of the connection. Where it leaves a choice:

- PRIORITY, and priority in HEADERS, is read over, as RFC 9113 deprecates it.
- A frame that is too large, or one on a stream that has not been opened, is a connection's fault.
- Frames on a stream that was reset here are dropped; the peer may not have known.
"""

from __future__ import annotations

import struct
from typing import Final

from shoal.codecs.http2.events import (
    ConnectionEnded,
    Data,
    Event,
    PeerLeaving,
    PingAcknowledged,
    RequestReceived,
    StreamReset,
)
from shoal.codecs.http2.faults import ConnectionFault, StreamFault
from shoal.codecs.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    GOAWAY,
    HEAD,
    HEAD_BYTES,
    HEADERS,
    LEAST_FRAME_BYTES,
    MAX_STREAM,
    MAX_WINDOW,
    MOST_FRAME_BYTES,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    Setting,
    frame,
    goaway,
    settings_frame,
    window_update,
)
from shoal.codecs.http2.headers import Headers
from shoal.codecs.http2.options import Options
from shoal.codecs.http2.requesting import CACHED_BYTES, Requesting
from shoal.codecs.http2.streams import Fate, Stream

_VIEWED_BYTES: Final = 4096  # a piece of a body from which on it is not copied
_DEBUG_BYTES: Final = 1024  # of a GOAWAY's debug data that are kept
_KNOWN_SETTINGS: Final = frozenset(Setting)


class ServerConnection(Requesting):
    """One connection. `receive` what is read, `take` what is to be written, after each `receive`
    and after answers. `ended`: nothing more is read; write what `take` gives, then close."""

    def __init__(self, options: Options | None = None) -> None:
        options = options or Options()
        super().__init__(options)
        self.ended = False
        self.settings_acknowledged = False
        self._leaving = False  # `goaway` was called
        # What is read without further checks: a stream more, when there are fewer (0: never); a
        # header block, a body up to these.
        self._most_streams = 0
        self._quick_block_bytes = min(CACHED_BYTES, options.max_header_block_bytes)
        self._quick_bytes = min(
            options.stream_window, options.max_body_bytes, options.max_frame_bytes
        )
        self._rest: list[bytes] = []  # what was read of an incomplete frame
        self._rest_bytes = 0
        self._needed = len(PREFACE)  # bytes in `_rest` to go on with
        self._begun = False  # the preface has come
        self._introduced = False  # … and the peer's SETTINGS, which must be the first frame
        self._data_left = 0  # of a DATA frame that is handed on as it comes
        self._data_stream = 0
        self._data_ends = False
        settings: dict[int, int] = {
            Setting.MAX_CONCURRENT_STREAMS: options.max_streams,
            Setting.INITIAL_WINDOW_SIZE: options.stream_window,
            Setting.MAX_FRAME_SIZE: options.max_frame_bytes,
            Setting.MAX_HEADER_LIST_SIZE: options.max_header_list_bytes,
            Setting.HEADER_TABLE_SIZE: options.header_table_bytes,
        }
        self._put(settings_frame(settings))
        if options.connection_window > FIRST_WINDOW:
            self._put(window_update(0, options.connection_window - FIRST_WINDOW))
            self._window = options.connection_window

    # --- what the layer above calls ----------------------------------------------------------

    def receive(self, data: bytes, now: float) -> list[Event]:
        """What the bytes `data` from the peer mean, at the monotonic time `now`, in seconds.

        Never raises for what the peer sends. Large bodies refer to `data`.
        """
        events: list[Event] = []
        if self.ended:
            return events
        self._now = now
        try:
            if self._needed:
                self._rest.append(data)
                self._rest_bytes += len(data)
                if self._rest_bytes < self._needed and self._begun:
                    return events
                data = b"".join(self._rest)
            at = self._read(data, 0, events) if self._begun else self._read_preface(data, events)
            self._keep(data, at)
        except ConnectionFault as fault:
            self.fail(fault.code, fault.reason)
            events.append(ConnectionEnded(fault.code, fault.reason))
        return events

    def ping(self, payload: bytes) -> None:
        """Ask for a sign of life: `payload`, 8 bytes, comes back as PingAcknowledged."""
        if len(payload) != 8:
            raise ValueError(f"a ping has 8 bytes, not {len(payload)}")
        if not self.ended:
            self._put(frame(PING, 0, 0, payload))

    def goaway(self) -> None:
        """Ask the peer to leave, in two steps (section 6.8). The first call says that it should
        open no more streams; those on their way are still served. The second, a round trip later
        (see `ping`), names the last one that is; later ones are dropped."""
        if self.ended:
            return
        if not self._leaving:
            self._leaving = True
            self._put(goaway(MAX_STREAM, ErrorCode.NO_ERROR))
        elif self._refuse_above is None:
            self._refuse_above = self.last_stream
            self._most_streams = 0
            self._put(goaway(self.last_stream, ErrorCode.NO_ERROR))

    def fail(self, code: int, reason: str) -> None:
        """End the connection: GOAWAY is queued, all requests are over, nothing more is read."""
        if self.ended:
            return
        self.ended = True
        self._streams.clear()
        self._round.clear()
        self._known.clear()
        self._lasting.clear()
        self._rest.clear()
        self._block = None
        self._rest_bytes = self._queued = self._unread = 0
        last = self.last_stream if self._refuse_above is None else self._refuse_above
        self._put(goaway(last, code, reason.encode()[:200]))

    @property
    def last_stream(self) -> int:
        """The latest stream that the peer has opened, 0 before the first."""
        return max(self._past.last, 0)

    # --- frames in their order -----------------------------------------------------------------

    def _read(self, data: bytes, at: int, events: list[Event]) -> int:
        """Read all frames that are complete; where the rest begins.

        A request in two frames, its headers and all its body, is dealt with here: that is what
        nearly all are.
        """
        if self._data_left:
            at = self._read_on(data, events)
        end = len(data)
        unpack = HEAD.unpack_from
        known, streams, past = self._known, self._streams, self._past
        while end - at >= HEAD_BYTES:
            word, flags, stream = unpack(data, at)
            start = at + HEAD_BYTES
            at = start + (word >> 8)
            if (
                word & 0xFF == HEADERS
                and stream == past.last + 2
                and flags & ~END_STREAM == END_HEADERS
                and at <= end
                and len(streams) < self._most_streams
                and at - start <= self._quick_block_bytes
                and self._block is None
                and stream <= MAX_STREAM
            ):
                block = data[start:at]
                headers = known.get(block) or self._read_block(block)
                past.last = stream
                ends = flags & END_STREAM
                if not ends and end - at >= HEAD_BYTES:
                    word, flags, following = unpack(data, at)
                    start = at + HEAD_BYTES
                    size = word >> 8
                    if (
                        following == stream
                        and word & 0xFF == DATA
                        and flags == END_STREAM
                        and start + size <= end
                        and size <= self._quick_bytes
                        and self._window - size >= self._half_window
                        and type(headers) is Headers
                        and headers.content_length in (None, size)
                    ):
                        self._window -= size
                        at = start + size
                        streams[stream] = Stream(False, 0)
                        piece = data[start:at] if size < _VIEWED_BYTES else _piece(data, start, at)
                        events.append(RequestReceived(stream, headers, piece, True))
                        continue
                self._begin(stream, headers, bool(ends), events)
            else:
                begin = start - HEAD_BYTES
                at = self._read_frame(word, flags, stream & MAX_STREAM, data, start, events)
                if not at:
                    return begin
        return at

    def _read_preface(self, data: bytes, events: list[Event]) -> int:
        if not PREFACE.startswith(data[: len(PREFACE)]):
            raise _fault(f"not HTTP/2: the connection begins with {data[: len(PREFACE)]!r}")
        if len(data) < len(PREFACE):
            return 0
        self._begun = True
        return self._read(data, len(PREFACE), events)

    def _keep(self, data: bytes, at: int) -> None:
        """The incomplete frame at the end of `data` waits for the rest of it."""
        left = len(data) - at
        if not left:
            if self._needed:
                self._rest = []
                self._needed = self._rest_bytes = 0
            return
        self._rest = [data[at:]]
        self._rest_bytes = left
        if not self._begun:
            self._needed = len(PREFACE)
        elif left < HEAD_BYTES:
            self._needed = HEAD_BYTES
        else:
            self._needed = HEAD_BYTES + int.from_bytes(data[at : at + 3], "big")

    def _begin(
        self, stream: int, headers: Headers | str | None, ends: bool, events: list[Event]
    ) -> None:
        try:
            self._open(stream, headers, ends, events)
        except StreamFault as fault:
            self._reset_faulty(fault, events)

    def _read_frame(
        self, word: int, flags: int, stream: int, data: bytes, start: int, events: list[Event]
    ) -> int:
        """Read a frame whose head is `word`, `flags`, `stream`; where it ends, 0 if it has not."""
        kind, length = word & 0xFF, word >> 8
        options = self.options
        if not self._introduced and (kind != SETTINGS or flags & ACK):
            raise _fault("the first frame is not SETTINGS")
        if self._block is not None and kind != CONTINUATION:
            raise _fault(f"a frame of type {kind} inside a header block")
        if length > options.max_frame_bytes:
            reason = f"a frame of {length} bytes; {options.max_frame_bytes} are allowed"
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, reason)
        if kind in _OF_STREAMS and not stream:
            raise _fault(f"a frame of type {kind} on stream 0")
        if kind in _OF_CONNECTION and stream:
            raise _fault(f"a frame of type {kind} on stream {stream}")
        if kind == DATA:
            return self._read_data(flags, stream, data, (start, length), events)
        stop = start + length
        if kind in (HEADERS, CONTINUATION):
            if length > options.max_header_block_bytes + _PADDING_BYTES:
                reason = f"a header block of {length} bytes or more"
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, reason)
        elif stop <= len(data) and kind != RST_STREAM:
            self._spend(f"frames of type {kind}")
        if stop > len(data):
            return 0
        try:
            self._on_frame(kind, flags, stream, data[start:stop], events)
        except StreamFault as fault:
            self._reset_faulty(fault, events)
        return stop

    def _on_frame(
        self, kind: int, flags: int, stream: int, payload: bytes, events: list[Event]
    ) -> None:
        if kind in _LENGTHS and len(payload) != _LENGTHS[kind]:
            reason = f"a frame of type {kind} with {len(payload)} bytes"
            if kind == PRIORITY and self._past.fate(stream) is not Fate.IDLE:
                raise StreamFault(stream, ErrorCode.FRAME_SIZE_ERROR, reason)
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, reason)
        if kind == WINDOW_UPDATE:
            self._on_window_update(stream, int.from_bytes(payload, "big") & MAX_WINDOW)
        elif kind == HEADERS:
            self._on_headers(flags, stream, payload, events)
        elif kind == CONTINUATION:
            self._on_continuation(flags, stream, payload, events)
        elif kind == RST_STREAM:
            self._on_reset(stream, int.from_bytes(payload, "big"), events)
        elif kind == PING:
            if flags & ACK:
                events.append(PingAcknowledged(payload))
            else:
                self._reply(frame(PING, ACK, 0, payload))
        elif kind == SETTINGS:
            self._on_settings(flags, payload)
        elif kind == GOAWAY:
            if len(payload) < 8:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY of less than 8 bytes")
            code = int.from_bytes(payload[4:8], "big")
            events.append(PeerLeaving(code, payload[8 : 8 + _DEBUG_BYTES]))
        elif kind == PUSH_PROMISE:
            raise _fault("PUSH_PROMISE from a client")

    # --- DATA ----------------------------------------------------------------------------------

    def _read_data(
        self, flags: int, stream: int, data: bytes, where: tuple[int, int], events: list[Event]
    ) -> int:
        """A DATA frame's payload, (start, length) in `data`; where it ends, 0 if all of it has to
        wait. A large one without padding is not waited for: it is handed on as it comes."""
        start, length = where
        stop = min(start + length, len(data))
        whole = stop == start + length
        if not whole and (flags & PADDED or stop - start < _VIEWED_BYTES):
            return 0
        self._data_left = start + length - stop
        self._data_stream = stream
        self._data_ends = bool(flags & END_STREAM)
        try:
            state = self._admit_data(stream, length)
            end = stop
            if flags & PADDED:
                if not length:
                    raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "padded DATA without length")
                padding = data[start]
                if padding >= length:
                    raise _fault("padding longer than its frame")
                start, end = start + 1, stop - padding
            if state is not None:
                piece = _piece(data, start, end)
                events.append(self._on_data(stream, state, piece, self._data_ends and whole))
        except StreamFault as fault:
            self._reset_faulty(fault, events)
        if self._window < self._half_window:
            self._credit_connection()
        return stop

    def _read_on(self, data: bytes, events: list[Event]) -> int:
        """More of the DATA frame that has begun; where it ends."""
        stop = min(self._data_left, len(data))
        self._data_left -= stop
        stream = self._data_stream
        state = self._streams.get(stream)
        if state is not None and stop:
            ends = self._data_ends and not self._data_left
            try:
                events.append(self._on_data(stream, state, _piece(data, 0, stop), ends))
            except StreamFault as fault:
                self._reset_faulty(fault, events)
        return stop

    # --- frames about streams and the connection -----------------------------------------------

    def _on_window_update(self, stream: int, increment: int) -> None:
        if not stream:
            if not increment:
                raise _fault("WINDOW_UPDATE by 0")
            self._widen(increment)
            return
        state = self._streams.get(stream)
        if state is None:
            if self._past.fate(stream) is Fate.IDLE:
                raise _fault(f"WINDOW_UPDATE on stream {stream}, which was never opened")
        elif not increment:
            raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
        elif not self._widen_stream(stream, state, increment):
            reason = "WINDOW_UPDATE raises the stream's window beyond 2**31 - 1"
            raise StreamFault(stream, ErrorCode.FLOW_CONTROL_ERROR, reason)

    def _on_reset(self, stream: int, code: int, events: list[Event]) -> None:
        state = self._streams.get(stream)
        if state is None:
            if self._past.fate(stream) is Fate.IDLE:
                raise _fault(f"RST_STREAM on stream {stream}, which was never opened")
            self._spend("RST_STREAM frames")
            return
        self._close(stream, state)
        self._past.reset(stream, Fate.RESET_BY_PEER)
        events.append(StreamReset(stream, code, True))
        self._charge_reset("resets")

    def _on_settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS ACK with a payload")
            self.settings_acknowledged = True
            self._decoder.max_table_bytes = self.options.header_table_bytes
            return
        if len(payload) % 6:
            reason = f"SETTINGS of {len(payload)} bytes"
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, reason)
        # The last value of each counts; but a table that was small in between must be emptied.
        settings: dict[int, int] = {}
        for setting, value in struct.iter_unpack(">HI", payload):
            if setting in _KNOWN_SETTINGS:
                _check_setting(setting, value)
                settings[setting] = value
                if setting == Setting.HEADER_TABLE_SIZE:
                    self._set_table_bytes(value)
        self._frame_bytes = settings.get(Setting.MAX_FRAME_SIZE, self._frame_bytes)
        if Setting.INITIAL_WINDOW_SIZE in settings:
            self._set_initial_window(settings[Setting.INITIAL_WINDOW_SIZE])
        self._reply(frame(SETTINGS, ACK, 0))
        if not self._introduced:
            self._introduced = True
            if self._refuse_above is None:
                self._most_streams = self.options.max_streams


_OF_STREAMS: Final = frozenset((DATA, HEADERS, PRIORITY, RST_STREAM, PUSH_PROMISE, CONTINUATION))
_OF_CONNECTION: Final = frozenset((SETTINGS, PING, GOAWAY))
_LENGTHS: Final = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
_PADDING_BYTES: Final = 1 + 255 + 5  # what HEADERS may have beside their block


def _fault(reason: str) -> ConnectionFault:
    return ConnectionFault(ErrorCode.PROTOCOL_ERROR, reason)


def _piece(data: bytes, start: int, stop: int) -> Data:
    """Part of what was read: a view if it is large and most of the read, which it keeps alive."""
    size = stop - start
    if size >= _VIEWED_BYTES and size * 4 >= len(data):
        return memoryview(data)[start:stop]
    return data[start:stop]


def _check_setting(setting: int, value: int) -> None:
    """Section 6.5.2. Raises ConnectionFault."""
    if setting == Setting.ENABLE_PUSH and value > 1:
        raise _fault(f"ENABLE_PUSH is {value}")
    if setting == Setting.INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
        reason = f"INITIAL_WINDOW_SIZE is {value}"
        raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, reason)
    if setting == Setting.MAX_FRAME_SIZE and not LEAST_FRAME_BYTES <= value <= MOST_FRAME_BYTES:
        raise _fault(f"MAX_FRAME_SIZE is {value}")
