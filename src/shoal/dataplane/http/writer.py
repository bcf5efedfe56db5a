"""Turns responses into bytes: status lines, dates, framing. Knows neither connections nor clocks.

Status lines and header lines are kept once made, since a server sends few different ones.
"""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from typing import Final, TypeAlias

import orjson

from shoal.dataplane.http.message import Response

Parts: TypeAlias = "list[bytes | memoryview]"

# What ends a head: an empty line, after what becomes of the connection if that is not the default.
STAY: Final = b"\r\n"
STAY_1_0: Final = b"connection: keep-alive\r\n\r\n"
CLOSE: Final = b"connection: close\r\n\r\n"

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_JSON: Final = (b"content-type", b"application/json")
_BODILESS: Final = (204, 304)
_KEPT_LINES: Final = 1024
_OURS: Final = (b"content-length", b"connection", b"date", b"transfer-encoding")


def error_response(status: int, message: str, *headers: tuple[bytes, bytes]) -> Response:
    """`{"error": message}`, as the connection itself answers."""
    return Response(status, [orjson.dumps({"error": message})], [_JSON, *headers])


class ResponseWriter:
    """Renders the responses of one server.

    `set_date` is due once a second."""

    def __init__(self) -> None:
        self._heads = _Heads()
        self._lines = _Lines()

    def set_date(self, wall_s: float) -> None:
        """`wall_s`: seconds since the epoch."""
        date = formatdate(int(wall_s), usegmt=True).encode()
        if date != self._heads.date:
            self._heads.date = date
            self._heads.clear()

    def render(self, out: Parts, response: Response, end: bytes, head_only: bool) -> int:
        """Append the response to `out`; returns the bytes of its body.

        end: STAY, STAY_1_0 or CLOSE. head_only: the answer to HEAD, which says the length of the
        body that GET would get. Raises for what is no response, after appending some of
        it.
        """
        size = 0
        for part in response.body:
            size += len(part) if type(part) is bytes else _view_size(part)
        if size == 0 and response.status in _BODILESS:  # RFC 9110, 8.6: no Content-Length
            out.append(self._heads.line(response.status))
        else:
            out.append(self._heads[response.status])
            out.append(b"%d\r\n" % size)
        lines = self._lines
        for header in response.headers:
            out.append(lines[header])
        out.append(end)
        if head_only:
            return 0
        out += response.body
        return size


def _view_size(part: object) -> int:
    if not isinstance(part, memoryview) or not part.c_contiguous:
        raise TypeError("a response's body consists of bytes and contiguous memoryviews")
    return part.nbytes


class _Heads(dict[int, bytes]):
    """Status -> status line, date, and the beginning of Content-Length."""

    date = b""

    def __missing__(self, status: int) -> bytes:
        if status in _BODILESS:
            raise ValueError(f"a response of status {status} has no body")
        head = self[status] = self.line(status) + b"content-length: "
        return head

    def line(self, status: int) -> bytes:
        if not 200 <= status <= 599:
            raise ValueError(f"{status} is not the status of a final response")
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = ""
        return b"HTTP/1.1 %d %b\r\ndate: %b\r\n" % (status, phrase.encode(), self.date)


class _Lines(dict[tuple[bytes, bytes], bytes]):
    """Header -> its line, checked: a line break in a value would let a client write headers."""

    def __missing__(self, header: tuple[bytes, bytes]) -> bytes:
        name, value = header
        line = b"%b: %b\r\n" % header
        if name.lower() in _OURS or not name or any(c in b"\r\n\0" for c in name + value):
            raise ValueError(f"{name!r}: {value!r} is no header that a response may have")
        if len(self) >= _KEPT_LINES:
            self.clear()
        self[header] = line
        return line
