"""What a connection allows its peer: every limit, with the reason for its default.

Sizes are bytes, times seconds. Knows no settings of the program; whoever opens connections fills
this in.
"""

from __future__ import annotations

from dataclasses import dataclass

from shoal.codecs.http2.frames import (
    FIRST_WINDOW,
    LEAST_FRAME_BYTES,
    MAX_WINDOW,
    MOST_FRAME_BYTES,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Limits of one connection. Raises ValueError for what the protocol does not allow."""

    max_streams: int = 1_000
    """Requests in progress at once; a further one is reset with REFUSED_STREAM, which tells the
    client that it may be sent again. Announced. Above the 100 that are usual for browsers, since a
    gRPC client has one connection for all its threads."""

    max_header_list_bytes: int = 32 * 1024
    """Of one decoded header list, each field reckoned with 32 bytes more (RFC 9113, 6.5.2); a
    larger one is answered 431 and the connection goes on. Announced."""

    max_header_fields: int = 256
    """Fields in one header list; more is answered 431. Far above what clients send; it bounds what
    a block of one-byte references makes work."""

    max_header_block_bytes: int = 64 * 1024
    """Of one header block as sent, over all its frames; more ends the connection, since what has
    not been read cannot be skipped: compression would lose its state."""

    max_continuations: int = 16
    """CONTINUATION frames after one HEADERS; more ends the connection. The largest block takes
    four frames of the common size (CVE-2024-27316 and its kin)."""

    max_frame_bytes: int = 256 * 1024
    """Of one frame's payload; a larger one ends the connection. Announced. A DATA frame is handed
    on as it arrives, so a large one costs no memory; 256 KiB is what one read brings at most."""

    header_table_bytes: int = 4096
    """Of the table that a client's header compression may fill; the protocol's own default.
    Announced."""

    stream_window: int = 1024 * 1024
    """What a client may send on a stream before it is allowed more. Announced. At 1 ms of round
    trip it lets 1 GB/s through."""

    connection_window: int = 8 * 1024 * 1024
    """The same over all streams. Room for eight large uploads to proceed at full speed."""

    max_body_bytes: int = 257 * 1024**2
    """Of a request's body, unless its stream is held (`ServerConnection.hold`); a longer one is
    reset with ENHANCE_YOUR_CALM. Each DATA frame counts as 256 bytes at least, since a byte in a
    frame of its own costs as much memory. A backstop: the layer above, which can explain, should
    refuse earlier."""

    max_send_frame_bytes: int = 64 * 1024
    """Of a DATA frame's payload that is sent, if the client allows that much. Larger bodies share
    the connection frame by frame, so that a small answer does not wait for a large one."""

    max_header_caches: int = 128
    """Header blocks remembered by their bytes; when full, forgotten all at once. Clients repeat a
    handful; values that differ in each request would fill any number."""

    reset_burst: int = 1_000
    """Streams ended before their answer was (by the client, or for its errors) at once, before the
    connection ends (rapid reset, CVE-2023-44487; made-you-reset, CVE-2025-8671). Room for all
    streams of a client to be cancelled together."""

    reset_rate: float = 200.0
    """… and each second in the long run."""

    chatter_burst: int = 2_000
    """Frames that bring nothing (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA, of unknown
    types) at once, before the connection ends. Requests, answers and bodies earn four more each, so
    that no busy client comes near."""

    chatter_rate: float = 500.0
    """… and each second in the long run: one such frame costs about a microsecond."""

    max_control_bytes: int = 256 * 1024
    """Of answers to control frames, and of refusals, that have not been taken for sending, before
    the connection ends: a client that asks and does not read (CVE-2019-9512, CVE-2019-9515). More
    than what comes in one read can ask for."""

    def __post_init__(self) -> None:
        self._within("stream_window", FIRST_WINDOW, MAX_WINDOW)
        self._within("connection_window", FIRST_WINDOW, MAX_WINDOW)
        self._within("max_frame_bytes", LEAST_FRAME_BYTES, MOST_FRAME_BYTES)
        self._within("max_send_frame_bytes", LEAST_FRAME_BYTES, MOST_FRAME_BYTES)
        self._within("header_table_bytes", 0, 2**32 - 1)
        self._within("max_header_list_bytes", 0, 2**32 - 1)
        self._within("max_streams", 0, 2**32 - 1)

    def _within(self, name: str, least: int, most: int) -> None:
        value = getattr(self, name)
        if not least <= value <= most:
            raise ValueError(f"{name} is {value}; HTTP/2 allows {least} to {most}")
