"""Requests over HTTP and their answers as they pass between instances: bodies as they are, and what
else there is in a head, a msgpack map in which fields that are unknown are ignored.

A client sends equal heads again and again, and a model answers with equal ones: those that are
short are read and written once. Must not know what is asked.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec

from shoal.codecs.peer import Outcome, PeerReply
from shoal.dataplane.http.message import Head, Request, Response

TIMEOUT: Final = b"shoal-timeout-ms"
"""The request header that says how long the whole may take, in milliseconds."""

_LONGEST_KEPT: Final = 1024  # bytes of a head

# What is between a client and the instance that it is connected to: RFC 9110, 7.6.1. The time that
# is left is told in the frame.
_OWN: Final = frozenset((
    b"connection", b"content-length", b"expect", b"keep-alive", b"proxy-authenticate",
    b"proxy-authorization", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
    b"upgrade", TIMEOUT,
))  # fmt: skip

_Headers = tuple[tuple[bytes, bytes], ...]


class _RequestHead(msgspec.Struct, omit_defaults=True):
    method: str
    target: str
    query: str = ""
    headers: dict[bytes, bytes] = {}


class _AnswerHead(msgspec.Struct):
    status: int
    headers: _Headers = ()


_ENCODER: Final = msgspec.msgpack.Encoder()
_REQUESTS: Final = msgspec.msgpack.Decoder(_RequestHead)
_ANSWERS: Final = msgspec.msgpack.Decoder(_AnswerHead)


def pack_head(request: Request) -> bytes:
    """All but the body."""
    headers = {name: value for name, value in request.headers.items() if name not in _OWN}
    return _ENCODER.encode(
        _RequestHead(request.method, request.target, request.query, headers)
    )


def unpack_request(head: bytes, body: bytes | memoryview, timeout_ms: int) -> Request:
    """timeout_ms: what is left; 0: the client has not said. Raises msgspec.DecodeError."""
    found = _kept_head(head) if len(head) <= _LONGEST_KEPT else _read_head(head)
    if not timeout_ms:
        return Request(found.method, found.target, found.query, found.headers, body, 0.0, found)
    headers = {**found.headers, TIMEOUT: b"%d" % timeout_ms}
    return Request(found.method, found.target, found.query, headers, body, 0.0)


def pack_answer(answer: Response) -> PeerReply:
    headers = tuple(answer.headers)
    return PeerReply(Outcome.ANSWERED, _pack_answer_head(answer.status, headers), answer.body)


def unpack_answer(reply: PeerReply) -> tuple[Response, int]:
    """With its status. Raises msgspec.DecodeError."""
    raw = reply.head
    head = _kept_answer(raw) if len(raw) <= _LONGEST_KEPT else _ANSWERS.decode(raw)
    return Response(head.status, reply.body, list(head.headers)), head.status


def _read_head(raw: bytes) -> Head:
    found = _REQUESTS.decode(raw)
    return Head(found.method, found.target, found.query, found.headers, 0)


_kept_head = lru_cache(maxsize=4096)(_read_head)
_kept_answer = lru_cache(maxsize=1024)(_ANSWERS.decode)


@lru_cache(maxsize=1024)
def _pack_answer_head(status: int, headers: _Headers) -> bytes:
    return _ENCODER.encode(_AnswerHead(status, headers))
