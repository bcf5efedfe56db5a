"""What the HTTP server answers over real sockets, on uvloop and on asyncio's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fake_transport import chunked, get, only, post, split
from tests.running_server import (
    LOOPS,
    PATIENCE_S,
    Running,
    Serve,
    message_of,
    read_all,
    read_one,
    serving,
    talk,
)

from shoal.dataplane.http.message import Response
from shoal.dataplane.http.server import Server
from shoal.dataplane.listening import Listen
from shoal.domain.errors import InvalidSpecification
from shoal.settings import HttpSettings


@pytest.fixture(params=LOOPS)
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    with serving(request.param) as start:
        yield start


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


# --- listening and ending -----------------------------------------------------------------------


def test_a_name_is_served_on_all_its_addresses(serve: Serve) -> None:
    running = serve(Listen(host="localhost"))
    addresses = socket.getaddrinfo("localhost", running.port, type=socket.SOCK_STREAM)
    for family, *_, address in addresses:
        with socket.socket(family) as client:
            client.connect(address)
            client.sendall(get("/now", "Connection: close"))
            assert client.recv(1000).startswith(b"HTTP/1.1 200")


async def test_a_taken_port_is_refused_with_the_setting_to_change() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = Server(
            lambda request: Response(200),
            HttpSettings(),
            listen=Listen(port=port),
            on_error=lambda error, request: None,
        )
        with pytest.raises(InvalidSpecification, match=rf":{port}: .*--http-port"):
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


async def test_where_others_take_its_place_an_idle_client_may_ask_once_more() -> None:
    """Its request may be on its way when the server begins to end."""
    server = Server(
        lambda request: Response(200), HttpSettings(), listen=Listen(port=0),
        on_error=lambda error, request: None)
    await server.start()
    (read, write), (silent, other) = [
        await asyncio.open_connection(*server.address) for _ in range(2)]
    for reading, writing in ((read, write), (silent, other)):
        writing.write(get())
        await reading.readuntil(b"\r\n\r\n")
    ending = asyncio.create_task(server.shutdown(PATIENCE_S, linger=True))
    await asyncio.sleep(0)
    write.write(get())
    assert b"connection: close" in (await read.read()).lower()
    assert await silent.read() == b""
    assert await ending == 0
    for each in (write, other):
        each.close()
        await each.wait_closed()


def test_what_comes_while_the_process_has_no_time_is_answered_before_it_ends(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for clients is over when the loop comes to read what they sent meanwhile."""
    waits_s = 0.05
    monkeypatch.setattr("shoal.dataplane.listening._LINGER_S", waits_s)
    running = serve()
    loop = running.loop
    wakes, woken = socket.socketpair()
    with running.connect() as client, wakes, woken:
        client.sendall(get())
        read_one(client)
        wakes.send(b"!")

        def block() -> None:
            loop.remove_reader(woken)
            client.sendall(get())
            time.sleep(2 * waits_s)  # while the loop reads from others

        async def end() -> int:
            ending = asyncio.create_task(running.server.shutdown(PATIENCE_S, linger=True))
            loop.call_soon(loop.add_reader, woken, block)  # when it has begun
            return await ending

        ended = running.begin(end())
        _, headers, _ = only(read_all(client))
        assert headers[b"connection"] == b"close"
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
