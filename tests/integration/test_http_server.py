"""The HTTP server over real sockets, on uvloop and on asyncio's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import TypeVar

import httpx2
import orjson
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fake_transport import chunked, get, only, post, split

from shoal.dataplane.http.message import Request, Response
from shoal.dataplane.http.server import Listen, Server
from shoal.domain.errors import InvalidSpecification
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
        self.server = Server(
            self._handle,
            HttpSettings.model_validate(limits),
            listen=listen,
            on_error=lambda error, request: self.errors.append(f"{request.target}: {error}"),
        )
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._make_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(lambda loop, context: self.complaints.append(context))
        self.release = asyncio.Event()
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


@pytest.fixture(params=["uvloop", "asyncio"])
def serve(request: pytest.FixtureRequest) -> Iterator[Callable[..., Running]]:
    make_loop = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
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


Serve = Callable[..., Running]


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


# --- requests -----------------------------------------------------------------------------------


def test_requests_and_bodies_of_every_kind_are_answered(serve: Serve) -> None:
    running = serve()
    with running.connect() as sock:
        for path in ("/now", "/later"):
            sock.sendall(get(path))
            assert read_one(sock) == (200, path.encode())
        sock.sendall(post(b"body"))
        assert read_one(sock) == (200, b"/pbody")
        sock.sendall(chunked(b"chu", b"nks"))
        assert read_one(sock) == (200, b"/cchunks")
        sock.sendall(post(b"java", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"))
        assert read_one(sock) == (200, b"/pjava")
        sock.sendall(get("/end", "Connection: close"))
        assert only(read_all(sock))[1][b"connection"] == b"close"
    assert running.server.stats.requests == 6


def test_a_thousand_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    running = serve()
    paths = [("/later" if i % 7 == 0 else f"/{i}") for i in range(1000)]
    stream = b"".join(get(path) for path in paths[:-1]) + get("/last", "Connection: close")
    answers = list(split(talk(running, stream)))
    assert [body.decode() for _, _, body in answers] == [*paths[:-1], "/last"]


def test_a_body_of_many_megabytes_arrives_whole(serve: Serve) -> None:
    running = serve()
    body = os.urandom(1 << 16) * 300
    with running.connect() as sock:
        sock.sendall(post(body))
        status, answer = read_one(sock)
    assert status == 200
    assert answer == b"/p" + body


def test_http_client_is_served(serve: Serve) -> None:
    running = serve()
    client = http.client.HTTPConnection(running.host, running.port, timeout=PATIENCE_S)
    for method, path, body, expected in (
        ("GET", "/a", None, b"/a"),
        ("POST", "/later", b"abc", b"/laterabc"),
        ("POST", "/c", iter([b"a", b"bc"]), b"/cabc"),
        ("HEAD", "/a", None, b""),
        ("GET", "/b", None, b"/b"),
    ):
        client.request(method, path, body, encode_chunked=True)
        response = client.getresponse()
        assert response.status == 200
        assert response.read() == expected
    client.close()
    assert running.server.stats.connections == 1


def test_httpx_is_served(serve: Serve) -> None:
    running = serve()
    with httpx2.Client(base_url=f"http://{running.host}:{running.port}") as client:
        for _ in range(3):
            assert client.get("/now").text == "/now"
            assert client.post("/later", content=b"abc").text == "/laterabc"
            assert client.post("/c", content=iter([b"a", b"b"])).text == "/cab"
    assert running.server.stats.connections == 1


def test_what_escapes_from_a_handler_is_reported_and_not_shown(serve: Serve) -> None:
    running = serve()
    with running.connect() as sock:
        for path in ("/fail", "/fail-later"):
            sock.sendall(get(path))
            status, body = read_one(sock)
            assert status == 500
            assert "secret" not in message_of(body)
        sock.sendall(get("/now"))
        assert read_one(sock)[0] == 200
    assert running.errors == ["/fail: a secret", "/fail-later: a secret"]


def test_tls_is_spoken_when_given_a_context(serve: Serve, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out",
         certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    running = serve(Listen(ssl_context=context), max_body_bytes=1 << 20)
    running.big = 3 << 20
    url = f"https://{running.host}:{running.port}"
    trusting = ssl.create_default_context(cafile=str(certificate))
    with httpx2.Client(base_url=url, verify=trusting) as client:
        assert client.get("/now").text == "/now"
        assert len(client.get("/big").content) == 3 << 20
        assert client.post("/p", content=b"y" * (1 << 20)).status_code == 200
        assert client.post("/p", content=b"y" * ((1 << 20) + 1)).status_code == 413


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "status"),
    [
        (b"\x00\xff garbage \x01\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (get()[:-2] + b"".join(b"h%d:\r\n" % i for i in range(10_000)) + b"\r\n", 431),
        (get()[:-2] + b"a:\r\n" * 10_000 + b"\r\n", 431),
        (get("/" + "x" * 40_000), 431),
        (post(b"a", "Transfer-Encoding: chunked"), 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ],
)
def test_what_is_no_request_is_refused_and_ends_the_connection(
    serve: Serve, stream: bytes, status: int
) -> None:
    running = serve()
    with running.connect() as sock:
        sock.sendall(stream)
        got, headers, body = only(read_all(sock))
        assert got == status
        assert headers[b"connection"] == b"close"
        assert message_of(body)
    assert running.server.stats.refused == 1


def test_a_client_that_sends_too_much_still_reads_why(serve: Serve) -> None:
    running = serve(max_body_bytes=1000)
    with running.connect() as sock:
        sock.sendall(post(bytes(20 << 20)))
        status, _, body = only(read_all(sock))
    assert status == 413
    assert "http.max_body_bytes" in message_of(body)


def test_a_client_that_asks_first_is_told_to_go_on_or_not(serve: Serve) -> None:
    running = serve(max_body_bytes=1000)
    head = "POST /p HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n"
    with running.connect() as sock:
        sock.sendall(head.format(3).encode())
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc")
        assert read_one(sock) == (200, b"/pabc")
        sock.sendall(head.format(1001).encode())
        assert only(read_all(sock))[0] == 413


def test_one_connection_too_many_is_told_so(serve: Serve) -> None:
    running = serve(max_connections=1)
    with running.connect() as first:
        first.sendall(get())
        read_one(first)
        status, headers, body = only(talk(running, get()))
        assert status == 503
        assert headers[b"retry-after"] == b"1"
        assert "http.max_connections" in message_of(body)
        assert running.server.connections == 1
        first.sendall(get())
        assert read_one(first)[0] == 200
    running.until(lambda: running.server.connections == 0)
    with running.connect() as second:
        second.sendall(get())
        assert read_one(second)[0] == 200


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(noise=st.binary(min_size=1, max_size=200))
def test_any_bytes_end_in_an_answer_or_a_close(serve: Serve, noise: bytes) -> None:
    running = _noisy.get(serve) or _noisy.setdefault(serve, serve(read_timeout_s=0.2))
    with running.connect() as sock:
        sock.sendall(noise)
        sock.shutdown(socket.SHUT_WR)
        for status, _, _ in split(read_all(sock)):
            assert 400 <= status < 500 or status in (501, 505)


_noisy: dict[Serve, Running] = {}  # a server for all examples


# --- time ---------------------------------------------------------------------------------------


def test_an_idle_connection_is_closed_silently(serve: Serve) -> None:
    running = serve(idle_timeout_s=0.2)
    with running.connect() as sock:
        sock.sendall(get())
        assert read_one(sock)[0] == 200
        assert read_all(sock) == b""
    with running.connect() as sock:
        assert read_all(sock) == b""


def test_a_request_that_stops_coming_is_answered_408(serve: Serve) -> None:
    running = serve(read_timeout_s=0.2)
    for part in (get()[:-2], post(b"abc")[:-1]):
        status, _, body = only(talk(running, part))
        assert status == 408
        assert "http.read_timeout_s" in message_of(body)
    assert running.server.stats.timeouts == 2


def test_a_trickle_does_not_keep_a_request_alive(serve: Serve) -> None:
    running = serve(read_timeout_s=0.3)
    with running.connect() as sock:
        sock.settimeout(0.05)
        sock.sendall(get()[:-2] + b"X: ")
        received = b""
        deadline = time.monotonic() + PATIENCE_S
        while not received:
            assert time.monotonic() < deadline
            sock.sendall(b"y")
            with contextlib.suppress(TimeoutError):
                received = sock.recv(1000)
    assert received.startswith(b"HTTP/1.1 408 ")


def test_a_client_that_takes_nothing_is_cut(serve: Serve) -> None:
    running = serve(write_timeout_s=0.2)
    running.big = 50 << 20
    with running.connect() as sock:
        sock.sendall(get("/big"))
        assert running.started.acquire(timeout=PATIENCE_S)
        running.until(lambda: running.server.connections == 0)
        assert running.server.stats.timeouts == 1


def test_pipelined_requests_wait_until_their_client_reads(serve: Serve) -> None:
    running = serve()
    running.big = 20 << 20
    with running.connect() as sock:
        sock.sendall(get("/big") * 4 + get("/end", "Connection: close"))
        assert running.started.acquire(timeout=PATIENCE_S)
        sock.sendall(b"")
        assert not running.started.acquire(timeout=0.1)
        received = 0
        while data := sock.recv(1 << 20):
            received += len(data)
    assert received > 4 * running.big
    assert running.server.stats.requests == 5


def test_an_upload_waits_for_a_slow_handler(serve: Serve) -> None:
    running = serve(max_pipelined=1)
    with running.connect() as sock:
        sock.settimeout(0.2)
        sock.sendall(get("/wait"))
        assert running.started.acquire(timeout=PATIENCE_S)
        upload = post(bytes(30 << 20), "Connection: close")
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < len(upload):
                sent += sock.send(upload[sent : sent + (1 << 20)])
        assert sent < len(upload), "the server read on although it could not handle more"
        sock.settimeout(PATIENCE_S)
        running.let_go()
        assert read_one(sock) == (200, b"/wait")
        sock.sendall(upload[sent:])
        assert len(only(read_all(sock))[2]) == 2 + (30 << 20)


# --- clients that leave -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_what_is_in_progress_is_cancelled_when_its_client_leaves(serve: Serve, how: str) -> None:
    running = serve()
    with running.connect() as sock:
        sock.sendall(get("/wait") * 3)
        for _ in range(3):
            assert running.started.acquire(timeout=PATIENCE_S)
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how == "half":
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == b""
        else:
            sock.close()
        for _ in range(3):
            assert running.cancelled.acquire(timeout=PATIENCE_S)
    running.until(lambda: running.server.connections == 0)
    assert running.errors == []


def test_a_half_closed_client_gets_what_was_answered_at_once(serve: Serve) -> None:
    running = serve()
    with running.connect() as sock:
        sock.sendall(get("/1") + get("/2"))
        sock.shutdown(socket.SHUT_WR)
        assert [body for _, _, body in split(read_all(sock))] == [b"/1", b"/2"]


def test_a_client_that_leaves_in_the_middle_of_a_request_is_forgotten(serve: Serve) -> None:
    running = serve()
    for part in (b"G", get()[:-3], post(b"abc")[:-1]):
        running.connect().close()
        with running.connect() as sock:
            sock.sendall(part)
    running.until(lambda: running.server.stats.connections == 6)
    running.until(lambda: running.server.connections == 0)
    assert running.server.stats.requests == 0


def test_a_client_that_leaves_while_it_is_answered_is_forgotten(serve: Serve) -> None:
    running = serve()
    running.big = 20 << 20
    with running.connect() as sock:
        sock.sendall(get("/big") * 3)
        sock.recv(1000)
    running.until(lambda: running.server.connections == 0)


# --- listening and ending -----------------------------------------------------------------------


def test_a_given_socket_is_listened_on(serve: Serve) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    running = serve(Listen(sock=sock))
    assert running.port == sock.getsockname()[1]
    assert only(talk(running, get("/now", "Connection: close")))[0] == 200


def test_two_servers_share_a_port_when_asked_to(serve: Serve) -> None:
    first = serve(Listen(reuse_port=True))
    second = serve(Listen(port=first.port, reuse_port=True))
    assert second.port == first.port
    for _ in range(8):
        talk(first, get("/now", "Connection: close"))
    assert first.server.stats.requests + second.server.stats.requests == 8


async def test_a_taken_port_is_refused_with_the_setting_to_change() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = Server(
            lambda request: Response(200),
            HttpSettings(),
            listen=Listen(port=port),
            on_error=lambda error, request: None,
        )
        with pytest.raises(InvalidSpecification, match=rf"port {port}: .*http\.port"):
            await server.start()
        assert await server.shutdown(1.0) == 0
        assert server.connections == server.stats.connections == 0


def test_shutting_down_finishes_what_has_begun(serve: Serve) -> None:
    running = serve()
    with running.connect() as idle, running.connect() as busy, running.connect() as half:
        idle.sendall(get())
        read_one(idle)
        busy.sendall(get("/wait"))
        assert running.started.acquire(timeout=PATIENCE_S)
        request = post(b"abc")
        half.sendall(get() + request[:20])
        read_one(half)
        ended = running.begin(running.server.shutdown(PATIENCE_S))
        assert read_all(idle) == b""
        with pytest.raises(ConnectionRefusedError):
            running.connect()
        half.sendall(request[20:])
        _, headers, body = only(read_all(half))
        assert (headers[b"connection"], body) == (b"close", b"/pabc")
        running.let_go()
        _, headers, body = only(read_all(busy))
        assert (headers[b"connection"], body) == (b"close", b"/wait")
        assert ended() == 0


def test_shutting_down_cuts_what_remains_at_the_deadline(serve: Serve) -> None:
    running = serve()
    with running.connect() as first, running.connect() as second:
        for sock in (first, second):
            sock.sendall(get("/wait"))
            assert running.started.acquire(timeout=PATIENCE_S)
        assert running.begin(running.server.shutdown(0.1))() == 2
        for _ in range(2):
            assert running.cancelled.acquire(timeout=PATIENCE_S)
        for sock in (first, second):
            with contextlib.suppress(ConnectionResetError):
                assert read_all(sock) == b""
    assert running.server.connections == 0


def test_shutting_down_twice_is_no_error(serve: Serve) -> None:
    running = serve()
    assert running.begin(running.server.shutdown(1.0))() == 0
    assert running.begin(running.server.shutdown(1.0))() == 0
