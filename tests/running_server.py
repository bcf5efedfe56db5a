"""The HTTP server in a thread of its own, for tests that are its clients over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import TypeVar

import orjson
import uvloop

from shoal.dataplane.http.message import Request, Response
from shoal.dataplane.http.server import Server
from shoal.dataplane.listening import Listen
from shoal.settings import HttpSettings

T = TypeVar("T")

PATIENCE_S = 20.0
TEXT = [(b"content-type", b"text/plain")]


class Running:
    """A server in a thread of its own, with handlers whose progress a test can follow.

    /now answers at once, /later from a task, /wait when `release` is set, /big with `big` bytes,
    /fail and /fail-later raise. Every answer of the others is the request's path and body.
    """

    def __init__(self, make_loop: Callable[[], asyncio.AbstractEventLoop], listen: Listen,
                 limits: dict[str, float]) -> None:  # fmt: skip
        self._make_loop = make_loop
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self.complaints: list[dict[str, object]] = []
        self.errors: list[str] = []
        self.started = threading.Semaphore(0)
        self.cancelled = threading.Semaphore(0)
        self.big = 0
        self._listen = listen
        self._limits = HttpSettings.model_validate(limits)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._make_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(lambda loop, context: self.complaints.append(context))
        self.release = asyncio.Event()
        self.server = Server(
            self._handle, self._limits, listen=self._listen,
            on_error=lambda error, request: self.errors.append(f"{request.target}: {error}"),
        )
        await self.server.start()
        self._ready.set()
        await self._stop.wait()
        await self.server.shutdown(0)

    def _handle(self, request: Request) -> Response | Awaitable[Response]:
        answer = Response(200, [request.target.encode(), request.body], TEXT)
        match request.target:
            case "/later":
                return self._later(answer)
            case "/wait":
                return self._wait(answer)
            case "/big":
                self.started.release()
                return Response(200, [bytes(self.big)], TEXT)
            case "/fail":
                raise RuntimeError("a secret")
            case "/fail-later":
                return self._fail()
        return answer

    async def _later(self, answer: Response) -> Response:
        await asyncio.sleep(0)
        return answer

    async def _wait(self, answer: Response) -> Response:
        self.started.release()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.release()
            raise
        return answer

    async def _fail(self) -> Response:
        await asyncio.sleep(0)
        raise RuntimeError("a secret")

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        self.host, self.port = self.server.address

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def let_go(self) -> None:
        self.loop.call_soon_threadsafe(self.release.set)

    def begin(self, work: Coroutine[object, object, T]) -> Callable[[], T]:
        """Start `work` on the server's loop; what is returned waits for its result."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        return lambda: future.result(PATIENCE_S)

    def connect(self) -> socket.socket:
        sock = socket.create_connection((self.host, self.port), PATIENCE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline
            threading.Event().wait(0.005)


Serve = Callable[..., Running]

LOOPS = ["uvloop", "asyncio"]


@contextlib.contextmanager
def serving(loop: str) -> Iterator[Serve]:
    """Gives a function that starts servers on loops of that kind; they must not complain."""
    make_loop = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    servers: list[Running] = []

    def start(listen: Listen | None = None, **limits: float) -> Running:
        running = Running(make_loop, listen or Listen(), limits)
        running.start()
        servers.append(running)
        return running

    yield start
    for running in servers:
        running.stop()
        assert running.complaints == []


def read_all(sock: socket.socket) -> bytes:
    """Everything until the server closes."""
    received = b""
    while data := sock.recv(1 << 20):
        received += data
    return received


def read_one(sock: socket.socket) -> tuple[int, bytes]:
    """Status and body of one response."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = sock.recv(65536)
        assert data, received
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += sock.recv(65536)
    return int(head.split()[1]), body


def talk(running: Running, stream: bytes) -> bytes:
    with running.connect() as sock:
        sock.sendall(stream)
        return read_all(sock)


def message_of(body: bytes) -> str:
    error = orjson.loads(body)["error"]
    assert isinstance(error, str)
    return error
