"""What a call's request headers mean, and the answers that need no more than them.

Source: gRPC over HTTP/2, "Requests" and "Responses".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from shoal.codecs.http2 import Headers, encode_headers
from shoal.dataplane.grpc import statuses
from shoal.dataplane.grpc.framing import ENCODINGS
from shoal.dataplane.grpc.message import Code, Head, Metadata, Method, Reply

CONTENT_TYPE: Final = b"application/grpc"

_LONGEST_SHOWN: Final = 100  # characters of a path in messages

_OTHER_TYPES: Final = (CONTENT_TYPE + b"+proto", CONTENT_TYPE + b";")
_START: Final[Metadata] = [(b":status", b"200"), (b"content-type", CONTENT_TYPE)]
_ACCEPTED: Final = (b"grpc-accept-encoding", b",".join(ENCODINGS))

BEGIN: Final = encode_headers(_START)
"""Headers of an answer that is not packed."""

BEGINNINGS: Final = {
    encoding: encode_headers([*_START, (b"grpc-encoding", encoding), _ACCEPTED])
    for encoding in ENCODINGS
} | {b"identity": BEGIN}
"""Headers of an answer, by the encoding of its messages."""

END: Final = encode_headers(statuses.trailers(Reply()))
"""Trailers of a call that succeeded."""


def read(headers: Headers, methods: Mapping[str, Method]) -> Head | bytes:
    """What is called, or the header block that refuses it and is all of the answer."""
    fields = dict(headers.fields)
    if headers.method != b"POST":
        return encode_headers([(b":status", b"405"), (b"allow", b"POST")])
    kind = fields.get(b"content-type", b"")
    if kind != CONTENT_TYPE and not kind.startswith(_OTHER_TYPES):
        return encode_headers([
            (b":status", b"415"), (b"content-type", b"text/plain"), (b"accept", CONTENT_TYPE),
        ])
    path = headers.path.decode("latin-1")
    method = methods.get(path)
    if method is None:
        shown = path if len(path) <= _LONGEST_SHOWN else f"{path[:_LONGEST_SHOWN]}…"
        return refusal(Reply(
            (), Code.UNIMPLEMENTED,
            f"there is no method {shown!r}; inference is at "
            "/inference.GRPCInferenceService/ModelInfer",
        ))
    head = Head(path, fields, method)
    if head.encoding not in ENCODINGS:
        return refusal(Reply(
            (), Code.UNIMPLEMENTED,
            f"grpc-encoding {head.encoding[:_LONGEST_SHOWN].decode('latin-1')!r} is not supported; "
            "send gzip, deflate or identity", [_ACCEPTED],
        ))
    return head


def trailers(reply: Reply) -> bytes:
    """A header block that ends an answer."""
    return encode_headers(statuses.trailers(reply))


def refusal(reply: Reply) -> bytes:
    """A header block that is all of the answer."""
    return encode_headers(_START + statuses.trailers(reply))
