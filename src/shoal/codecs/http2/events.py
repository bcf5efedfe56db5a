"""What a connection tells the layer above, in the order in which it happened.

Compare with `type(event) is …`. Knows no frames.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from shoal.codecs.http2.headers import Field, Headers

Data: TypeAlias = bytes | memoryview


class RequestReceived(msgspec.Struct, frozen=True):
    """A request has begun, and often is complete.

    `data`: what of the body came with it (b"" if nothing yet); `ended`: nothing more follows. A
    small request that arrives in one read is this event alone.
    """

    stream: int
    headers: Headers
    data: Data = b""
    ended: bool = False


class DataReceived(msgspec.Struct, frozen=True):
    """More of a body: all or part of a DATA frame. May be empty when `ended`.

    A memoryview refers to what was read from the socket (a quarter of it at least), so that large
    bodies are not copied; small pieces are bytes. Whoever collects very many small pieces should
    join them.
    """

    stream: int
    data: Data
    ended: bool = False


class TrailersReceived(msgspec.Struct, frozen=True):
    """The request ended with these fields (no pseudo-headers)."""

    stream: int
    fields: tuple[Field, ...]


class StreamReset(msgspec.Struct, frozen=True):
    """A request is over before its time: forget it, what is sent for it is dropped.

    By the peer (`by_peer`), or by this connection because of what the peer did; `code` as on the
    wire, not necessarily a known `ErrorCode`.
    """

    stream: int
    code: int
    by_peer: bool
    reason: str = ""


class PingAcknowledged(msgspec.Struct, frozen=True):
    payload: bytes


class PeerLeaving(msgspec.Struct, frozen=True):
    """GOAWAY came. Requests in progress go on; `debug` is at most 1 KiB of what the peer said."""

    code: int
    debug: bytes


class ConnectionEnded(msgspec.Struct, frozen=True):
    """The peer broke the protocol or a limit; GOAWAY with `code` is queued. The last event.

    All requests are over, without an event each. Send what `take` gives, then close.
    """

    code: int
    reason: str


Event: TypeAlias = (
    RequestReceived
    | DataReceived
    | TrailersReceived
    | StreamReset
    | PingAcknowledged
    | PeerLeaving
    | ConnectionEnded
)
