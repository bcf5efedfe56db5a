"""One HTTP request and its response, as the connection hands them to a handler and back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import msgspec


class Head:
    """What a request's head says, and how long the body behind it is. Requests with equal heads may
    share one, so nothing in it changes, except that the handler keeps in `prepared` what it derives
    from the head alone."""

    __slots__ = ("headers", "length", "method", "prepared", "query", "target")

    def __init__(
        self, method: str, target: str, query: str, headers: dict[bytes, bytes], length: int
    ) -> None:
        self.method = method
        self.target = target
        self.query = query
        self.headers = headers
        self.length = length
        self.prepared: object = None


class Request(msgspec.Struct):
    """method: upper case. target: the raw path, percent-encoding intact, without the query.
    headers: names lower case, the last of equal names wins, except that repeated list headers are
    joined with ", "; not to be changed. body: a view of memory of its own where it came in parts.
    received_at: `loop.time()` when the first byte of the request arrived. head: of a request whose
    head came before.
    """

    method: str
    target: str
    query: str
    headers: dict[bytes, bytes]
    body: bytes | memoryview
    received_at: float
    head: Head | None = None


class Response(msgspec.Struct):
    """`body` parts are written as they are, without joining; Content-Length is their sum. Headers
    hold neither Content-Length, Connection nor Date."""

    status: int
    body: list[bytes | memoryview] = []
    headers: list[tuple[bytes, bytes]] = []


# A handler answers at once, which costs no task, or gives an awaitable that will.
Handler: TypeAlias = Callable[[Request], "Response | Awaitable[Response]"]
