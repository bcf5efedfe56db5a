"""Turns the bytes of one connection into requests, or into the reason why they are none.

Pure: bytes and the time go in, `Request`s and at most one `Refusal` come out. Must not know
transports, timers or handlers, nor how a refusal is written.

llhttp, under httptools, does the grammar: it refuses bare line feeds, folded headers, bad
characters, and what request smuggling lives on: Content-Length together with Transfer-Encoding,
or repeated, or not a number (RFC 9112, 6.3). Here is what llhttp leaves to its user.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, NoReturn

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from shoal.dataplane.http.message import Head, Request
from shoal.dataplane.http.spool import Spool
from shoal.settings import HttpSettings

IDLE: Final = 0  # between requests
HEAD: Final = 1  # in a request's line or headers
BODY: Final = 2

MAX_HEADERS: Final = 200  # a browser sends 20; each costs a callback and a dictionary entry

_LARGEST_SLICE: Final = 32 * 1024

_TENSORS_AT: Final = b"inference-header-content-length"  # in a body; numpy wants them aligned

_METHODS: Final = {
    name.encode(): name
    for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
}

# Headers that RFC 9110 defines as lists: repeating one means the same as commas (5.3).
_LISTS: Final = frozenset(
    (
        b"accept", b"accept-charset", b"accept-encoding", b"accept-language", b"allow",
        b"baggage", b"cache-control", b"connection", b"content-encoding", b"content-language",
        b"expect", b"forwarded", b"if-match", b"if-none-match", b"pragma", b"te", b"tracestate",
        b"trailer", b"transfer-encoding", b"upgrade", b"via", b"x-forwarded-for",
    )
)  # fmt: skip

# With one of these there is more to a request than its own head and bytes.
_UNCOMMON: Final = frozenset((b"expect", b"transfer-encoding", b"upgrade"))


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the connection cannot go on: the status and the message of its last answer."""

    status: int
    message: str


class KnownHeads(dict[bytes, Head]):
    """Heads that were read before, by their bytes; one for all connections of a server.

    A client sends the same head again and again while it asks the same model for things of the
    same size, and the parser, at the start of a request, would say the same again. Taking that
    from here costs a third. A head is kept when it comes the second time, so that traffic that
    never repeats does not pay for keeping.
    """

    MOST: Final = 4096  # about 6 MB when all are used
    LARGEST: Final = 1024

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[int] = set()

    def offer(self, head: bytes, request: Request) -> None:
        """`request` consisted of `head` and its body; keep the head if that is worth it."""
        mark = hash(head)
        if mark not in self._seen:
            if len(self._seen) >= self.MOST:
                self._seen.clear()
            self._seen.add(mark)
            return
        headers = request.headers
        stays = headers.get(b"connection", b"keep-alive").lower() == b"keep-alive"
        if stays and len(head) <= self.LARGEST and _UNCOMMON.isdisjoint(headers):
            if len(self) >= self.MOST:
                self.clear()
            self[head] = Head(
                request.method, request.target, request.query, headers, len(request.body)
            )


class _Stop(Exception):
    """Makes llhttp stop, from within a callback; `finished` and `refusal` say why."""


_NONE_KNOWN: Final = KnownHeads()  # nothing is learnt from a connection's last request


class RequestReader:
    """Reads one connection.

    requests: what is complete and was not taken yet, oldest first.
    finished: no request comes after `requests`; bytes are ignored from now on.
    refusal: the answer due after those to `requests`, when finishing was not the client's wish.
    stage: IDLE, HEAD or BODY: where in a request the bytes ended.
    received_at: when the first byte came of the request in which they ended.
    expects_continue: the client may be waiting for "100 Continue" before it sends the body.
    says_keep_alive: the client speaks HTTP/1.0 and wants to be told that the connection stays.
    """

    __slots__ = (
        "_body", "_draining", "_fields", "_headers", "_keep", "_known", "_max_body", "_max_head",
        "_method", "_now", "_parser", "_query", "_quiet", "_repeats", "_spool",
        "_target", "_upgrading", "_url", "expects_continue", "finished", "received_at", "refusal",
        "requests", "says_keep_alive", "slice_bytes", "stage",
    )  # fmt: skip

    def __init__(self, settings: HttpSettings, known: KnownHeads) -> None:
        self._known = known
        self._max_head = settings.max_header_bytes
        self._max_body = settings.max_body_bytes
        # A head within one slice cannot exceed the limit, so only one that spans two is measured.
        self.slice_bytes: Final = max(1, min(_LARGEST_SLICE, settings.max_header_bytes))
        self.requests: deque[Request] = deque()
        self.finished = False
        self.refusal: Refusal | None = None
        self.stage = IDLE
        self.received_at = 0.0
        self.expects_continue = False
        self.says_keep_alive = False
        self._now = 0.0
        self._draining = False
        self._upgrading = False
        self._keep = True
        self._method = self._target = self._query = ""
        self._url = b""
        self._fields: dict[bytes, bytes] = {}  # headers as they come, then trailers
        self._headers: dict[bytes, bytes] = {}  # those of the request, complete
        self._repeats = 0
        self._body = b""
        self._spool: Spool | None = None
        # Bytes since the head began or the body grew, not counting the slice in which that was;
        # -1: it was in this slice. Bounds heads, chunk extensions and trailers while they come.
        self._quiet = -1
        self._parser = HttpRequestParser(self)

    def feed(self, data: bytes | memoryview, now: float) -> None:
        """Read at most `slice_bytes`, or `body_left` when that is more. `now`: seconds."""
        if self.finished:
            return
        if self.stage or not isinstance(data, bytes):
            left = self.body_left if self._spool is not None else 0
            if left:
                self._take(data, left, now)
            else:
                self._parse(data, now)
            return
        head = data[: data.find(b"\r\n\r\n") + 4]
        known = self._known.get(head)
        if known is not None and len(data) == len(head) + known.length:
            self.requests.append(Request(
                known.method, known.target, known.query, known.headers, data[len(head) :], now,
                known,
            ))
            return
        before = len(self.requests)
        self._parse(data, now)
        if len(self.requests) == before + 1:
            self._learn(head, data)

    @property
    def body_left(self) -> int:
        """Bytes of a body with Content-Length that have not come; 0 for others."""
        if self.stage != BODY:
            return 0
        length = self._headers.get(b"content-length")
        if length is None:
            return 0
        came = len(self._body) if self._spool is None else self._spool.size
        return int(length) - came

    def refuse(self, status: int, message: str) -> None:
        """Read no further; `message` is the answer to what was being read."""
        self.refusal = Refusal(status, message)
        self.finished = True
        self.stage = IDLE

    def finish(self) -> None:
        """Read no further than the end of the request that has begun, if one has."""
        if self.stage:
            self.make_next_the_last()
        else:
            self.finished = True

    def make_next_the_last(self) -> None:
        """Read no further than the end of the request that has begun, or else of the next one."""
        self._draining = True
        self._known = _NONE_KNOWN  # only the parser sees where a request ends

    def release(self) -> None:
        """Free the parser at once: it and this object refer to each other."""
        self.finished = True
        self.stage = IDLE
        self.requests.clear()
        self._spool = None
        del self._parser

    def _parse(self, data: bytes | memoryview, now: float) -> None:
        self._now = now
        while True:
            try:
                self._parser.feed_data(data)
            except HttpParserUpgrade as upgrade:
                data = memoryview(data)[upgrade.args[0] :]
                self._restart()
                continue
            except HttpParserError as error:
                self._explain(error)
            break
        if self.stage:
            self._quiet = self._quiet + len(data) if self._quiet >= 0 else 0
            if self._quiet > self._max_head:
                self.refuse(*self._head_too_large())

    def _take(self, data: bytes | memoryview, left: int, now: float) -> None:
        """`data` continues a body of which `left` bytes have not come: no need to parse that."""
        assert self._spool is not None
        self._now = now
        self._spool.add(data[:left])
        if len(data) < left:
            return
        self._parser = HttpRequestParser(self)  # the other one still waits for the body
        try:
            self.on_message_complete()
        except _Stop:
            return
        if len(data) > left:
            self._parse(data[left:], now)

    def _learn(self, head: bytes, data: bytes) -> None:
        """The last request came out of `data`: if it alone did, its head may be worth keeping."""
        request = self.requests[-1]
        if self.stage or self.finished or self.says_keep_alive:
            return
        if len(data) == len(head) + len(request.body):
            self._known.offer(head, request)

    # --- called by the parser ---------------------------------------------------------------

    def on_message_begin(self) -> None:
        self.stage = HEAD
        self.received_at = self._now
        self.expects_continue = False
        self._url = b""
        self._fields = {}
        self._body = b""
        self._quiet = -1

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in self._fields:
            self._repeat(name, value)
        else:
            self._fields[name] = value.strip()

    def on_headers_complete(self) -> None:
        headers = self._headers = self._fields
        if self._quiet >= 0 or self._repeats:
            self._check_head_size()
        if len(headers) > MAX_HEADERS:
            self._stop(431, f"the request has more than {MAX_HEADERS} headers; send fewer")
        parser = self._parser
        method = parser.get_method()
        self._method = _METHODS.get(method) or self._unknown_method(method)
        self._keep = parser.should_keep_alive()
        if not self._keep or b"connection" in headers or b"host" not in headers:
            self._check_version()
        url = self._url.decode("latin-1")
        if url[:1] != "/" or "#" in url:
            url = self._unusual_target(url)
        self._target, _, self._query = url.partition("?")
        length = headers.get(b"content-length")
        if length is not None:
            if int(length) > self._max_body:
                self._body_too_large()
        elif b"transfer-encoding" in headers:
            self._begin_chunks(headers[b"transfer-encoding"])
        if b"expect" in headers:
            self._check_expect(headers[b"expect"])
        if b"upgrade" in headers and parser.should_upgrade():
            self._upgrading = int(length or 0) > 0 or b"transfer-encoding" in headers
        self.stage = BODY
        self._quiet = -1

    def on_body(self, part: bytes) -> None:
        self._quiet = -1
        if self._spool is None:
            if not self._body:
                self._body = part
                return
            self._begin_spool()
        assert self._spool is not None
        self._spool.add(part)
        if self._spool.size > self._max_body:
            self._body_too_large()

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        body: bytes | memoryview = self._body
        if self._spool is not None:
            body = self._spool.whole()
            self._spool = None
            self._repeats = 0  # of trailers
        self._body = b""
        self.requests.append(
            Request(
                self._method, self._target, self._query, self._headers, body, self.received_at
            )
        )
        self.stage = IDLE
        if not self._keep or self._draining:
            self.finished = True
            raise _Stop

    # --- the unusual ------------------------------------------------------------------------

    def _repeat(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._stop(400, "the request has two Host headers; send one")
        self._repeats += 1
        if self._repeats > MAX_HEADERS:
            self._stop(431, f"the request has more than {MAX_HEADERS} headers; send fewer")
        value = value.strip()
        if name in _LISTS:
            value = self._fields[name] + b", " + value
        self._fields[name] = value

    def _check_head_size(self) -> None:
        """Of a head that may be too large: it came in several slices, or repeats headers."""
        headers = self._headers
        size = len(b"GET  HTTP/1.1\r\n\r\n") + len(self._url) + 4 * len(headers)
        size += sum(map(len, headers)) + sum(map(len, headers.values()))
        if self._quiet >= 0 and size > self._max_head:
            self._stop(*self._head_too_large())
        if len(headers) + self._repeats > MAX_HEADERS:
            self._stop(431, f"the request has more than {MAX_HEADERS} headers; send fewer")
        self._repeats = 0

    def _head_too_large(self) -> tuple[int, str]:
        where = "trailers or chunk extensions" if self.stage == BODY else "line and headers"
        return 431, (
            f"the request's {where} are larger than http.max_header_bytes allows "
            f"({self._max_head} bytes); send less, or raise http.max_header_bytes"
        )

    def _check_version(self) -> None:
        version = self._parser.get_http_version()
        if version == "1.1":
            self.says_keep_alive = False
            if b"host" not in self._headers:
                self._stop(400, "the request has no Host header, which HTTP/1.1 requires")
        elif version == "1.0":
            self.says_keep_alive = self._keep
            if b"transfer-encoding" in self._headers:  # RFC 9112, 6.1
                self._stop(400, "HTTP/1.0 has no Transfer-Encoding; send Content-Length")
        else:
            self._stop(505, f"HTTP/{version} is not spoken here; use HTTP/1.1")

    def _unknown_method(self, method: bytes) -> NoReturn:
        self._stop(501, f"the method {method.decode('latin-1')} is not implemented")

    def _unusual_target(self, url: str) -> str:
        """The path of a target in absolute form (RFC 9112, 3.2.2), or `*` for OPTIONS."""
        if url == "*" and self._method == "OPTIONS":
            return url
        scheme, found, rest = url.partition("://")
        if not found or scheme.lower() not in ("http", "https") or "#" in url:
            self._stop(400, "the request's target is neither a path nor an http URL")
        start = min((rest.find(c) for c in "/?" if c in rest), default=len(rest))
        path = rest[start:]
        return path if path.startswith("/") else "/" + path

    def _begin_spool(self) -> None:
        aligned = self._headers.get(_TENSORS_AT, b"0")
        self._spool = Spool(
            expected=int(self._headers.get(b"content-length", 0)),
            aligned=int(aligned) if aligned.isdigit() and len(aligned) < 16 else 0,
        )
        self._spool.add(self._body)

    def _begin_chunks(self, encoding: bytes) -> None:
        if encoding.lower() != b"chunked":
            self._stop(501, "of transfer encodings only `chunked` is implemented")
        self._begin_spool()
        self._fields = {}  # trailers are forgotten: a proxy in front has not checked them

    def _check_expect(self, expectation: bytes) -> None:
        if expectation.lower() != b"100-continue":
            self._stop(417, "of expectations only `100-continue` can be met")
        self.expects_continue = self._parser.get_http_version() == "1.1"

    def _body_too_large(self) -> NoReturn:
        self._stop(
            413,
            f"the request's body is larger than http.max_body_bytes allows ({self._max_body} "
            "bytes); send less at once, or raise http.max_body_bytes",
        )

    def _restart(self) -> None:
        """Go on behind a head that asked for an upgrade, which is ignored (RFC 9110, 7.8).

        llhttp takes what follows such a head for another protocol, and skips the body. Java's
        client sends `Upgrade: h2c` with every first request, so a fresh parser gets a head that
        announces the same body.
        """
        self._parser = HttpRequestParser(self)
        if not self._upgrading:
            return
        self._upgrading = False
        seen = (self.received_at, self.expects_continue, self._url, self._headers, self._keep)
        wanted = (self._method, self._target, self._query, self._spool)
        length = self._headers.get(b"content-length")
        framing = b"content-length: %b" % length if length else b"transfer-encoding: chunked"
        self._parser.feed_data(b"POST / HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n" % framing)
        self.received_at, self.expects_continue, self._url, self._headers, self._keep = seen
        self._method, self._target, self._query, self._spool = wanted

    def _explain(self, error: HttpParserError) -> None:
        """The refusal for what made the parser stop, unless a callback has made it already."""
        cause = error.__context__
        if isinstance(cause, _Stop):
            return
        if cause is not None:
            raise cause
        self.refuse(400, f"the request is not HTTP/1.1: {error}")
        if self._parser.get_method() == b"PRI":
            self.refuse(505, "HTTP/2 is not spoken on this port; use HTTP/1.1")

    def _stop(self, status: int, message: str) -> NoReturn:
        self.refuse(status, message)
        raise _Stop
