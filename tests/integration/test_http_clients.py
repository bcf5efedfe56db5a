"""Clients that are slow, greedy, or leave: what the HTTP server does, on both loops."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from tests.fake_transport import get, only, post, split
from tests.running_server import (
    LOOPS,
    PATIENCE_S,
    Serve,
    message_of,
    read_all,
    read_one,
    serving,
    talk,
)


@pytest.fixture(params=LOOPS)
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    with serving(request.param) as start:
        yield start


# --- time ---------------------------------------------------------------------------------------


def test_an_idle_connection_is_closed_silently(serve: Serve) -> None:
    running = serve(idle_timeout_s=0.5)
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
