"""An HTTP server on 127.0.0.1 that passes requests on to another, and fails when told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from tests.http_server import Handler, HttpServer

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"}
_CHUNK_BYTES = 16 * 1024


@dataclass(frozen=True)
class Fault:
    """What is done to one answer. Several fields may be set.

    status: answered instead of asking the target. headers: sent beside, or instead of, those that
    the answer has. cut_after: bytes of the body after which the connection is ended. trickle_after:
    bytes after which one comes every `trickle_s` seconds. longer_by: the Content-Length is larger
    by so much than the body (less than 0: smaller, and the body ends there). flip_at: the byte of
    the body that is another one. silent: nothing is answered, and the connection stays.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    trickle_after: int | None = None
    trickle_s: float = 0.2
    longer_by: int = 0
    flip_at: int | None = None
    silent: bool = False


@dataclass(frozen=True)
class Seen:
    """A request as it came. path: with its query."""

    method: str
    path: str
    headers: dict[str, str]


class FaultyProxy(HttpServer):
    """Passes on to `target` (`http://host:port`). `fail(Fault(status=500), times=2)` is for the
    next two requests whose path contains `where`; `times=None`: for all of them, until `heal`.
    tls: a certificate and its key, with which https is spoken to clients."""

    def __init__(self, target: str, tls: tuple[Path, Path] | None = None) -> None:
        self._target = urlsplit(target)
        self._plans: list[_Plan] = []
        self._lock = threading.Lock()
        self.seen: list[Seen] = []
        self.ended = threading.Event()
        super().__init__(_Handler, tls, of=self)

    def __exit__(self, *exception: object) -> None:
        self.ended.set()
        super().__exit__(*exception)

    def fail(self, fault: Fault, times: int | None = 1, where: str = "",
             method: str | None = None, before: Callable[[], None] | None = None) -> None:
        """before: called, once for each of those requests, before it is answered."""
        with self._lock:
            self._plans.append(_Plan(fault, times, where, method, before))

    def heal(self) -> None:
        with self._lock:
            self._plans.clear()

    def count(self, method: str | None = None, where: str = "") -> int:
        """Requests so far."""
        with self._lock:
            return sum(1 for each in self.seen
                       if method in (None, each.method) and where in each.path)

    def connect(self) -> HTTPConnection:
        return HTTPConnection(self._target.hostname or "", self._target.port, timeout=30)

    def note(self, seen: Seen) -> Fault:
        with self._lock:
            self.seen.append(seen)
            plan = next((each for each in self._plans if each.fits(seen)), None)
            if plan is None:
                return Fault()
            if plan.times is not None:
                plan.times -= 1
                if not plan.times:
                    self._plans.remove(plan)
        if plan.before is not None:
            plan.before()
        return plan.fault


@dataclass
class _Plan:
    fault: Fault
    times: int | None
    where: str
    method: str | None
    before: Callable[[], None] | None

    def fits(self, seen: Seen) -> bool:
        return self.where in seen.path and self.method in (None, seen.method)


class _Handler(Handler):
    of: FaultyProxy

    def _pass(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        seen = Seen(self.command, self.path, dict(self.headers.items()))
        fault = self.of.note(seen)
        if fault.silent:
            self.of.ended.wait()
            self._cut()
        elif fault.status is not None:
            self.send_head(fault.status, 0, fault.headers)
        else:
            self._forward(seen, body, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815

    def _forward(self, seen: Seen, body: bytes | None, fault: Fault) -> None:
        connection = self.of.connect()
        try:
            headers = {name: value for name, value in seen.headers.items()
                       if name.lower() not in _HOP_BY_HOP}
            connection.request(seen.method, seen.path, body, headers)
            answer = connection.getresponse()
            self._relay(answer, fault)
        finally:
            connection.close()

    def _relay(self, answer: HTTPResponse, fault: Fault) -> None:
        headers = {name: value for name, value in answer.getheaders()
                   if name.lower() not in _HOP_BY_HOP} | fault.headers
        given = {name.lower(): value for name, value in headers.items()}.get("content-length")
        headers = {name: value for name, value in headers.items()
                   if name.lower() != "content-length"}
        if given is None:
            body = answer.read()
            self.send_head(answer.status, len(body) + fault.longer_by, headers)
            self._send(iter([body]), fault, len(body))
            return
        length = int(given)
        self.send_head(answer.status, length + fault.longer_by, headers)
        if self.command != "HEAD":
            self._send(_pieces(answer), fault, length)

    def _send(self, pieces: Iterator[bytes], fault: Fault, length: int) -> None:
        at = 0
        end = length + min(fault.longer_by, 0)
        for piece in pieces:
            if fault.flip_at is not None and at <= fault.flip_at < at + len(piece):
                where = fault.flip_at - at
                piece = piece[:where] + bytes([piece[where] ^ 1]) + piece[where + 1:]
            piece = piece[: end - at]
            if fault.cut_after is not None and at + len(piece) >= fault.cut_after:
                self.wfile.write(piece[: fault.cut_after - at])
                self._cut()
                return
            if fault.trickle_after is not None and at + len(piece) > fault.trickle_after:
                self._trickle(piece, max(0, fault.trickle_after - at), fault.trickle_s)
                return
            self.wfile.write(piece)
            at += len(piece)
        if fault.longer_by > 0:
            self._cut()

    def _trickle(self, piece: bytes, begin: int, every_s: float) -> None:
        self.wfile.write(piece[:begin])
        for byte in piece[begin:]:
            if self.of.ended.wait(every_s):
                break
            self.wfile.write(bytes([byte]))
        self._cut()

    def _cut(self) -> None:
        self.wfile.flush()
        self.close_connection = True


def _pieces(answer: HTTPResponse) -> Iterator[bytes]:
    while piece := answer.read(_CHUNK_BYTES):
        yield piece
