"""A connection with a transport that only remembers and a clock that a test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import orjson

from shoal.dataplane.http.connection import Connection
from shoal.dataplane.http.message import Request, Response
from shoal.dataplane.http.shared import Shared
from shoal.settings import HttpSettings

LOOP_TIME = 1000.0


class Loop:
    """A clock that a test moves, and calls that it runs."""

    def __init__(self) -> None:
        self.now = LOOP_TIME
        self.soon: list[Callable[[], object]] = []
        self.complaints: list[dict[str, object]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[[], object]) -> Loop:
        return self

    def cancel(self) -> None:
        pass

    def call_soon(self, call: Callable[..., object], *arguments: object, **_: object) -> None:
        self.soon.append(lambda: call(*arguments))

    def call_exception_handler(self, context: dict[str, object]) -> None:
        self.complaints.append(context)

    def get_debug(self) -> bool:
        return False

    def run(self) -> None:
        while self.soon:
            self.soon.pop(0)()


class Transport(asyncio.Transport):
    """`takes`: how many bytes more the client takes; then the connection is told to pause."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.writes = 0
        self.takes: float = float("inf")
        self.kept = b""
        self.closed = self.aborted = self.ended = self.reading_paused = False
        self.protocol: Connection | None = None

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 1

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        assert not self.ended
        self.writes += 1
        data = bytes(data)
        count = int(min(len(data), self.takes)) if not self.kept else 0
        self.written += data[:count]
        self.takes -= count
        self.kept += data[count:]
        if self.kept:
            assert self.protocol is not None
            self.protocol.pause_writing()

    def writelines(self, parts: object) -> None:
        self.write(b"".join(parts))  # type: ignore[arg-type]

    def take(self, count: int) -> None:
        assert self.protocol is not None
        self.written += self.kept[:count]
        self.kept = self.kept[count:]
        if not self.kept:
            self.takes = float("inf")
            self.protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        return len(self.kept)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def pause_reading(self) -> None:
        assert not self.reading_paused
        self.reading_paused = True

    def resume_reading(self) -> None:
        assert self.reading_paused
        self.reading_paused = False

    def reads(self) -> bool:
        return not self.reading_paused

    @property
    def over(self) -> bool:
        return self.closed or self.ended


def echo(request: Request) -> Response:
    text = f"{request.method} {request.target}?{request.query} {len(request.body)}"
    return Response(200, [text.encode()], [(b"content-type", b"text/plain")])


@dataclass
class Bench:
    """A connection with everything around it."""

    handler: Callable[[Request], Response | Awaitable[Response]] = echo
    limits: HttpSettings = field(default_factory=HttpSettings)
    loop: Loop = field(default_factory=Loop)

    def __post_init__(self) -> None:
        self.requests: list[Request] = []
        self.errors: list[BaseException] = []
        self.shared = Shared(
            self._handle,
            self.limits,
            lambda error, request: self.errors.append(error),
            self.loop,  # type: ignore[arg-type]
        )
        self.connect()

    def connect(self) -> None:
        self.transport = Transport()
        self.connection = Connection(self.shared)
        self.transport.protocol = self.connection
        self.connection.connection_made(self.transport)

    def _handle(self, request: Request) -> Response | Awaitable[Response]:
        self.requests.append(request)
        return self.handler(request)

    def send(self, *pieces: bytes) -> bytes:
        """What the connection answers to these pieces."""
        before = len(self.transport.written)
        for piece in pieces:
            self.connection.data_received(piece)
            self.loop.run()
        return self.transport.written[before:]

    def later(self, seconds: float) -> None:
        """Let time pass and the timer look."""
        self.loop.now += seconds
        if self.connection.deadline <= self.loop.now:
            self.connection.expire(self.loop.now)
        self.loop.run()

    def lose(self) -> None:
        self.connection.connection_lost(None)


def get(target: str = "/", *headers: str) -> bytes:
    lines = [f"GET {target} HTTP/1.1", "Host: x", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def post(body: bytes, *headers: str) -> bytes:
    lines = ["POST /p HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(*chunks: bytes, trailers: bytes = b"", headers: bytes = b"") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    head = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + headers + b"\r\n"
    return head + body + b"0\r\n" + trailers + b"\r\n"


def split(stream: bytes) -> Iterator[tuple[int, dict[bytes, bytes], bytes]]:
    """Status, headers and body of every response in a stream."""
    while stream:
        head, _, stream = stream.partition(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        headers = dict(entry.split(b": ", 1) for entry in lines)
        length = int(headers.get(b"content-length", 0))
        yield int(line.split()[1]), headers, stream[:length]
        stream = stream[length:]


def only(stream: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    [response] = split(stream)
    return response


def refused(bench: Bench, stream: bytes) -> tuple[int, str]:
    """Status and message of the one answer, which must have ended the connection."""
    status, headers, body = only(stream)
    assert headers[b"connection"] == b"close"
    assert headers[b"content-type"] == b"application/json"
    assert bench.transport.ended
    assert bench.shared.stats.refused == 1
    assert bench.requests == []
    return status, orjson.loads(body)["error"]


def limited(**limits: float) -> Bench:
    return Bench(limits=HttpSettings.model_validate(limits))
