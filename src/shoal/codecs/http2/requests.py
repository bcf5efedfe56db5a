"""What makes a request's fields well-formed (RFC 9113, sections 8.1 to 8.3).

Knows neither streams nor compression.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from shoal.codecs.http2.headers import Field, Headers

# RFC 9110's token, for names without upper case.
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_METHOD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
_LF, _CR = b"\n\r"  # as numbers: looked for in a third of the time
_COMMON_METHODS: Final = frozenset((b"POST", b"GET"))
_CONNECTION_SPECIFIC: Final = frozenset((
    b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade",
))  # fmt: skip
_RULED: Final = _CONNECTION_SPECIFIC | {b"te", b"content-length", b"host"}
_CONNECT_PARTS: Final = {b":method", b":authority"}


class Malformed(Exception):
    """The reason is for the peer's eyes."""


def read_request(fields: Iterable[Field]) -> Headers:
    """Raises Malformed."""
    pseudo: dict[bytes, bytes] = {}
    regular: list[Field] = []
    length: int | None = None
    host: bytes | None = None
    for field in fields:
        name, value = field
        if _LF in value or _CR in value or 0 in value or value != value.strip(b" \t"):
            raise Malformed(f"the value of {name!r} has a control character or outer space")
        if _is_ordinary(name):
            regular.append(field)
        elif name[:1] == b":":
            if regular:
                raise Malformed(f"{name!r} comes after regular fields")
            if name not in _PSEUDO or name in pseudo:
                raise Malformed(f"{name!r} is unknown or there twice")
            pseudo[name] = value
        else:
            _check_regular(name, value)
            if name == b"content-length":
                length = _length(value, length)
            elif name == b"host":
                host = value
            regular.append(field)
    _check_pseudo(pseudo)
    if host is not None and pseudo.setdefault(b":authority", host) != host:
        raise Malformed("host differs from :authority")
    headers = Headers(pseudo, tuple(regular))
    headers.content_length = length
    return headers


def read_trailers(fields: tuple[Field, ...]) -> tuple[Field, ...]:
    """Raises Malformed."""
    for name, value in fields:
        if _LF in value or _CR in value or 0 in value or value != value.strip(b" \t"):
            raise Malformed(f"the value of {name!r} has a control character or outer space")
        if name[:1] == b":":
            raise Malformed(f"{name!r} among trailers")
        _check_regular(name, value)
    return fields


@lru_cache(maxsize=256)
def _is_ordinary(name: bytes) -> bool:
    """A regular field's name to which no rule applies: nearly all, and always the same few."""
    return _NAME.fullmatch(name) is not None and name not in _RULED


def _check_regular(name: bytes, value: bytes) -> None:
    if name not in _RULED and not _NAME.fullmatch(name):
        raise Malformed(f"{name!r} is no name of a field")
    if name in _CONNECTION_SPECIFIC or (name == b"te" and value.lower() != b"trailers"):
        raise Malformed(f"{name!r} is about one connection of HTTP/1.1")


def _check_pseudo(pseudo: dict[bytes, bytes]) -> None:
    method = pseudo.get(b":method", b"")
    if method not in _COMMON_METHODS and not _METHOD.fullmatch(method):
        raise Malformed(":method is missing or no method")
    if method == b"CONNECT":
        if pseudo.keys() != _CONNECT_PARTS:
            raise Malformed("CONNECT has :method and :authority alone")
        return
    path = pseudo.get(b":path", b"")
    if not pseudo.get(b":scheme"):
        raise Malformed(":scheme is missing")
    if path[:1] != b"/" and not (path == b"*" and method == b"OPTIONS"):
        raise Malformed(":path is missing or does not begin with /")


def _length(value: bytes, before: int | None) -> int:
    # int() takes signs and underscores, and its time is not linear.
    if not value.isdigit() or len(value) > 19 or (before is not None and before != int(value)):
        raise Malformed("content-length is no number, or there twice")
    return int(value)
