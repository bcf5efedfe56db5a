"""HTTP/2 for servers, without sockets (RFC 9113, RFC 7541).

`connection` is the whole; `events` what it says, `options` what it allows.
"""

from shoal.codecs.http2.connection import ServerConnection
from shoal.codecs.http2.events import (
    ConnectionEnded,
    Data,
    DataReceived,
    Event,
    PeerLeaving,
    PingAcknowledged,
    RequestReceived,
    StreamReset,
    TrailersReceived,
)
from shoal.codecs.http2.field_blocks import encode_headers
from shoal.codecs.http2.frames import ErrorCode
from shoal.codecs.http2.headers import Field, Headers
from shoal.codecs.http2.options import Options

__all__ = [
    "ConnectionEnded", "Data", "DataReceived", "ErrorCode", "Event", "Field", "Headers", "Options",
    "PeerLeaving", "PingAcknowledged", "RequestReceived", "ServerConnection", "StreamReset",
    "TrailersReceived", "encode_headers",
]  # fmt: skip
