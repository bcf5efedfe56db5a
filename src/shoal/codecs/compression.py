"""Content codings of HTTP bodies: gzip, deflate, identity. Knows bytes, not what they mean.

Sources: RFC 9110, 8.4 (Content-Encoding) and 12.5.3 (Accept-Encoding); RFC 1952 (gzip), RFC 1950
(what HTTP calls deflate) and RFC 1951 (what some clients send under that name).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

from shoal.domain.errors import BodyTooLarge, InvalidRequest

Encoding: TypeAlias = Literal["gzip", "deflate"]

# Below this many bytes a body and its headers fill one packet anyway.
THRESHOLD_BYTES: Final = 1024
# Numbers shrink little more at higher levels, which cost many times the processor time.
LEVEL: Final = 1
# Parts of a gzip body. Each costs a copy of all that follows it, so their number must be small.
MAX_MEMBERS: Final = 16

_GZIP: Final = 16 + zlib.MAX_WBITS
_ZLIB: Final = zlib.MAX_WBITS
_RAW: Final = -zlib.MAX_WBITS


def decompress(
    body: bytes | memoryview, content_encoding: bytes, max_bytes: int
) -> bytes | memoryview:
    """`body` as it was before the codings that the header Content-Encoding names.

    Raises BodyTooLarge as soon as the result passes `max_bytes`, without making more of it, and
    InvalidRequest for codings that are unknown or several, and for damaged data.
    """
    names = [name.strip().lower() for name in content_encoding.decode("latin-1").split(",")]
    named = [name for name in names if name not in ("", "identity")]
    if not named:
        return body
    if len(named) > 1:
        raise InvalidRequest(
            f"the body is encoded several times ({', '.join(named)}); send it with one "
            "Content-Encoding"
        )
    encoding = named[0]
    if encoding in ("gzip", "x-gzip"):
        return _inflate(body, _GZIP, max_bytes, "gzip")
    if encoding == "deflate":
        return _inflate(body, _ZLIB if _has_zlib_head(body) else _RAW, max_bytes, "deflate")
    raise InvalidRequest(
        f"Content-Encoding {encoding!r} is not supported; send gzip, deflate or no encoding"
    )


def _has_zlib_head(body: bytes | memoryview) -> bool:
    """The two bytes of RFC 1950: method 8, and a checksum that divides by 31."""
    return len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0


def _inflate(body: bytes | memoryview, window: int, max_bytes: int, encoding: str) -> bytes:
    parts: list[bytes] = []
    room = max_bytes
    rest = body
    for _ in range(MAX_MEMBERS):
        stream = zlib.decompressobj(window)
        try:
            # One byte over the limit tells a body that fits exactly from one that does not.
            part = stream.decompress(rest, room + 1)
        except zlib.error as error:
            raise InvalidRequest(
                f"the body is not valid {encoding}, which its Content-Encoding says: {error}"
            ) from None
        room -= len(part)
        if room < 0:
            raise BodyTooLarge(
                f"the body has more than {max_bytes} bytes when decompressed, the most that is "
                "taken (setting http.max_body_bytes); send less at once"
            )
        parts.append(part)
        if not stream.eof:
            raise InvalidRequest(
                f"the body is not valid {encoding}, which its Content-Encoding says: it ends too "
                "early"
            )
        rest = stream.unused_data
        if not rest:
            return parts[0] if len(parts) == 1 else b"".join(parts)
        if window != _GZIP:  # a gzip body may have several members, one after the other
            raise InvalidRequest(f"the body goes on after the end of its {encoding} data")
    raise InvalidRequest(
        f"the body has more than {MAX_MEMBERS} gzip members; compress it in one piece"
    )


def negotiate(accept_encoding: bytes, size_bytes: int) -> Encoding | None:
    """How to encode a response of `size_bytes`, given the request's Accept-Encoding (empty: none
    came). None: not at all, as for small ones unless the client refuses `identity`."""
    weights = _weights(accept_encoding.decode("latin-1"))
    others = weights.get("*", 0.0)
    gzip = weights.get("gzip", weights.get("x-gzip", others))
    deflate = weights.get("deflate", others)
    # Without a weight of its own identity is acceptable, but anything that is named is preferred.
    identity = weights.get("identity", 0.0 if weights.get("*") == 0 else None)
    best = max(gzip, deflate)
    if best <= 0 or (identity is not None and identity > best):
        return None
    if size_bytes < THRESHOLD_BYTES and identity != 0:
        return None
    return "gzip" if gzip >= deflate else "deflate"


def _weights(header: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for item in header.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        if name:
            weights[name] = _quality(parameters)
    return weights


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                return 0.0  # what cannot be read is not wanted
            return quality if 0 <= quality <= 1 else 0.0
    return 1.0


def compress(parts: Iterable[bytes | memoryview], encoding: Encoding) -> list[bytes]:
    """A body's parts, encoded as one stream."""
    stream = zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP if encoding == "gzip" else _ZLIB)
    encoded = [stream.compress(part) for part in parts]
    encoded.append(stream.flush())
    return [part for part in encoded if part]
