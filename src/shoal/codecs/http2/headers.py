"""A request's headers as one immutable object.

What makes them well-formed is `requests`' to say.
"""

from __future__ import annotations

from typing import TypeAlias

Field: TypeAlias = tuple[bytes, bytes]


class Headers:
    """Well-formed request headers (RFC 9113, section 8.3), names in lower case.

    Immutable, and compared by identity: a connection gives the same object for every request whose
    header block it has seen before, so that what is derived from headers can be kept in `memo`,
    which is the layer above's to fill (None at first) and goes with the object.

    `fields`: the regular fields in their order, without the pseudo-headers. `authority`: of
    `:authority`, else of `host`, else empty. `path` is never empty but for CONNECT.
    """

    __slots__ = ("authority", "content_length", "fields", "memo", "method", "path", "scheme")

    def __init__(self, pseudo: dict[bytes, bytes], fields: tuple[Field, ...]) -> None:
        self.method = pseudo[b":method"]
        self.scheme = pseudo.get(b":scheme", b"")
        self.path = pseudo.get(b":path", b"")
        self.authority = pseudo.get(b":authority", b"")
        self.fields = fields
        self.content_length: int | None = None
        self.memo: object = None

    def get(self, name: bytes) -> bytes | None:
        """The first field of this name (lower case), or None."""
        for known, value in self.fields:
            if known == name:
                return value
        return None

    def __repr__(self) -> str:
        return f"Headers({self.method!r}, {self.path!r}, {self.fields!r})"
