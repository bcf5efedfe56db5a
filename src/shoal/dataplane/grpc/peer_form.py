"""Calls over gRPC and their replies as they pass between instances: messages as they are, without
prefix and compression, and what else there is in a head, a msgpack map in which fields that are
unknown are ignored.

What ends a call well and says no more has an empty head. Must not know what is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import msgspec

from shoal.codecs.errors import http_status
from shoal.codecs.peer import Outcome, PeerReply
from shoal.dataplane.grpc import statuses
from shoal.dataplane.grpc.message import Code, Data, Head, Metadata, Method, Reply, Request
from shoal.domain.errors import ShoalError, family

_LONGEST_KEPT: Final = 1024  # bytes of a head

# What says how messages pass between a client and the instance that it is connected to. The time
# that is left is told in the frame.
_OWN: Final = frozenset((
    b"content-type", b"grpc-accept-encoding", b"grpc-encoding", b"grpc-timeout", b"te",
))  # fmt: skip

_CODES: Final = {int(code): code for code in Code}
_ERRORS: Final = {kind.code: kind for kind in family(ShoalError)}


class _CallHead(msgspec.Struct, omit_defaults=True):
    """request_id: that the call got here, where its client gave none."""

    path: str
    metadata: dict[bytes, bytes] = {}
    request_id: str | None = None


class _ReplyHead(msgspec.Struct, omit_defaults=True):
    code: int = 0
    message: str = ""
    metadata: Metadata = []


_ENCODER: Final = msgspec.msgpack.Encoder()
_CALLS: Final = msgspec.msgpack.Decoder(_CallHead)
_REPLIES: Final = msgspec.msgpack.Decoder(_ReplyHead)


def pack_head(head: Head, path: str, request_id: str | None) -> bytes:
    """All but the message. path: of the method that another instance shall call."""
    if request_id is None and head.packed is not None:
        return head.packed
    metadata = {name: value for name, value in head.headers.items() if name not in _OWN}
    packed = _ENCODER.encode(_CallHead(path, metadata, request_id))
    if request_id is None:
        head.packed = packed
    return packed


class CallReader:
    """Reads the calls of other instances. methods: those that are served, by path."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods
        self._kept = lru_cache(maxsize=4096)(self._read)

    def read(self, raw: bytes, message: Data, timeout_ms: int, started: float) -> Request:
        """timeout_ms: what is left; 0: the client has not said. Raises msgspec.DecodeError, and
        KeyError for a method that is not served."""
        head, request_id = self._kept(raw) if len(raw) <= _LONGEST_KEPT else self._read(raw)
        if timeout_ms:
            timed = Head(head.path, head.headers, head.method)
            timed.timeout = b"%dm" % timeout_ms
            head = timed
        return Request(head, message, started, request_id)

    def _read(self, raw: bytes) -> tuple[Head, str | None]:
        found = _CALLS.decode(raw)
        return Head(found.path, found.metadata, self._methods[found.path]), found.request_id


def pack_reply(reply: Reply) -> PeerReply:
    """Of a call that ends with its message, or without one."""
    head = b""
    if reply.code is not Code.OK or reply.metadata:
        head = _ENCODER.encode(_ReplyHead(reply.code, reply.message, reply.metadata))
    return PeerReply(Outcome.ANSWERED, head, list(reply.parts))


def unpack_reply(reply: PeerReply) -> tuple[Reply, int]:
    """With its status as HTTP has it. Raises msgspec.DecodeError."""
    if not reply.head:
        return Reply(reply.body), 200
    head = _REPLIES.decode(reply.head)
    code = _CODES.get(head.code, Code.UNKNOWN)
    if code is Code.OK:
        return Reply(reply.body, metadata=head.metadata), 200
    error = dict(head.metadata).get(statuses.ERROR_CODE, b"").decode("latin-1")
    status = http_status(_ERRORS.get(error, ShoalError))
    return Reply((), code, head.message, head.metadata), status
