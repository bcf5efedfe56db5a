"""How calls end: errors of the tree as gRPC statuses, with the same words as over HTTP.

Sources: gRPC over HTTP/2 ("Responses", "Status-Message"); gRFC A6 for `grpc-retry-pushback-ms`.
"""

from __future__ import annotations

from typing import Final

from shoal.codecs.errors import grpc_code, retry_after
from shoal.dataplane import request_ids
from shoal.dataplane.grpc.message import Code, Metadata, Reply
from shoal.domain.errors import ShoalError

ERROR_CODE: Final = b"shoal-error-code"

# Clients refuse metadata beyond 8 KiB in all, and a byte takes up to three.
MOST_MESSAGE_BYTES: Final = 2000

# Clients that retry by themselves wait so long without telling anybody why. For more than this they
# are told to leave it, so that the message is seen before their deadline passes.
LONGEST_PUSHBACK_S: Final = 2

_PLAIN: Final = bytes(byte for byte in range(0x20, 0x7F) if byte != ord("%"))


def of_error(error: ShoalError, request_id: str) -> Reply:
    """The status of a failed call: its code, `shoal-error-code`, the request's id, and when to come
    back, if that is known."""
    metadata: Metadata = [
        (ERROR_CODE, error.code.encode()), (request_ids.HEADER, request_id.encode()),
    ]
    wait_s = retry_after(error)
    if wait_s is not None:
        metadata.append((b"retry-after", b"%d" % wait_s))
        pushback_ms = wait_s * 1000 if wait_s <= LONGEST_PUSHBACK_S else -1
        metadata.append((b"grpc-retry-pushback-ms", b"%d" % pushback_ms))
    return Reply((), Code[grpc_code(error)], error.message, metadata)


def trailers(reply: Reply) -> Metadata:
    """The trailing headers of a call."""
    headers: Metadata = [(b"grpc-status", b"%d" % reply.code)]
    if reply.message:
        headers.append((b"grpc-message", encoded_message(reply.message)))
    return headers + reply.metadata


def encoded_message(message: str) -> bytes:
    """Percent-encoded, as the header `grpc-message` takes it; cut where it is too long."""
    raw = message.encode("utf-8", "replace")
    if len(raw) > MOST_MESSAGE_BYTES:
        raw = raw[:MOST_MESSAGE_BYTES].decode("utf-8", "ignore").encode() + "…".encode()
    if not raw.translate(None, _PLAIN):
        return raw
    return b"".join(b"%c" % byte if byte in _PLAIN else b"%%%02X" % byte for byte in raw)


def internal(request_id: str) -> Reply:
    """A defect of ours, of which the log says more."""
    return Reply(
        (), Code.INTERNAL, "internal error; the server's log says more",
        [(request_ids.HEADER, request_id.encode())],
    )


def shutting_down() -> Reply:
    """The end of a stream that would go on, were its connection not ending."""
    return Reply((), Code.UNAVAILABLE, "the server ends this connection; call again")
