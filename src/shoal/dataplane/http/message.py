"""One HTTP request and its response, as the connection hands them to a handler and back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import msgspec


class Request(msgspec.Struct):
    """method: upper case. target: the raw path, percent-encoding intact, without the query.
    headers: names lower case, the last of equal names wins, except that repeated list headers are
    joined with ", ". received_at: `loop.time()` when the first byte of the request arrived.
    """

    method: str
    target: str
    query: str
    headers: dict[bytes, bytes]
    body: bytes
    received_at: float


class Response(msgspec.Struct):
    """`body` parts are written as they are, without joining; Content-Length is their sum. Headers
    hold neither Content-Length, Connection nor Date."""

    status: int
    body: list[bytes | memoryview] = []
    headers: list[tuple[bytes, bytes]] = []


# A handler answers at once, which costs no task, or gives an awaitable that will.
Handler: TypeAlias = Callable[[Request], "Response | Awaitable[Response]"]
