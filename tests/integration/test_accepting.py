"""Several event loops that accept from one socket, each on a thread of its own."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import cast

import pytest
import uvloop
from tests.served import until

from shoal.dataplane import accepting
from shoal.dataplane.accepting import Accepted, Acceptor
from shoal.dataplane.shares import Shares

LOOPS = 4


class Echo(asyncio.Protocol):
    def __init__(self, opened: set[asyncio.Transport], empty: asyncio.Event) -> None:
        self._opened = opened
        self._empty = empty

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._opened.add(self._transport)
        self._empty.clear()

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._opened.discard(self._transport)
        if not self._opened:
            self._empty.set()


class Loop:
    """One that accepts, as a worker does."""

    def __init__(self, listener: socket.socket, table: int, row: int) -> None:
        self.opened: set[asyncio.Transport] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.acceptor = self._do(
            lambda: Acceptor(
                [listener.dup()],
                Accepted(lambda: Echo(self.opened, self._empty), lambda: len(self.opened)),
                Shares(table, LOOPS).share("http", row),
            )
        )

    def _do(self, make: Callable[[], Acceptor]) -> Acceptor:
        async def do() -> Acceptor:
            return make()

        return asyncio.run_coroutine_threadsafe(do(), self.loop).result(10)

    def pause(self) -> threading.Event:
        """Let it hang until the event is set."""
        going_on, paused = threading.Event(), threading.Event()

        def hang() -> None:
            paused.set()
            going_on.wait(10)

        self.loop.call_soon_threadsafe(hang)
        assert paused.wait(10)
        return going_on

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.acceptor.close)

    def end(self) -> None:
        async def end() -> None:
            self.acceptor.close()
            await self.acceptor.wait_closed()
            for transport in list(self.opened):
                transport.abort()
            await self._empty.wait()

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        listening.setblocking(False)
        yield listening


@pytest.fixture
def loops(listener: socket.socket) -> Iterator[list[Loop]]:
    table = Shares.create(LOOPS)
    started = [Loop(listener, table, row) for row in range(LOOPS)]
    yield started
    for each in started:
        each.end()
    os.close(table)


@pytest.fixture
def connect(listener: socket.socket) -> Iterator[Callable[[], socket.socket]]:
    made: list[socket.socket] = []

    def connect() -> socket.socket:
        made.append(socket.create_connection(listener.getsockname(), timeout=10))
        return made[-1]

    yield connect
    for each in made:
        each.close()


def answers(connection: socket.socket) -> bool:
    connection.sendall(b"a")
    return connection.recv(1) == b"a"


def test_connections_are_shared_out(
    loops: list[Loop], connect: Callable[[], socket.socket]
) -> None:
    connections = [connect() for _ in range(64)]
    assert all(answers(each) for each in connections)
    shares = [len(each.opened) for each in loops]
    assert sum(shares) == 64
    assert max(shares) <= 32, shares


def test_who_has_lost_clients_gets_the_next_ones(
    loops: list[Loop], connect: Callable[[], socket.socket]
) -> None:
    assert all(answers(connect()) for _ in range(16))
    emptied = loops[0]
    left = len(emptied.opened)

    def leave() -> None:
        for transport in list(emptied.opened):
            transport.abort()
        emptied.loop.call_soon(emptied.acceptor.tell)

    emptied.loop.call_soon_threadsafe(leave)
    until(lambda: not emptied.opened, "it has no clients")
    assert all(answers(connect()) for _ in range(left))
    assert emptied.opened


def test_loops_that_hang_keep_no_client_waiting(
    loops: list[Loop], connect: Callable[[], socket.socket]
) -> None:
    hanging = [each.pause() for each in loops[1:]]
    assert all(answers(connect()) for _ in range(20))
    assert len(loops[0].opened) == 20
    for event in hanging:
        event.set()


def test_who_closes_leaves_the_others_listening(
    loops: list[Loop], connect: Callable[[], socket.socket]
) -> None:
    kept = [connect() for _ in range(8)]
    assert all(answers(each) for each in kept)
    for each in loops[1:]:
        each.close()
    assert all(answers(connect()) for _ in range(8))
    assert all(answers(each) for each in kept)


def test_small_answers_leave_at_once(
    loops: list[Loop], connect: Callable[[], socket.socket]
) -> None:
    assert answers(connect())
    accepted = [each for loop in loops for each in loop.opened]
    used = [each.get_extra_info("socket") for each in accepted]
    assert [each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in used] == [1]


class Short(socket.socket):
    """A listening socket of a process that has no descriptor left, `times` times."""

    times = 2

    def accept(self) -> tuple[socket.socket, object]:
        if self.times:
            self.times -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


async def test_a_client_waits_while_descriptors_are_short(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "_FULL_WAIT_S", 0.01)
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    opened: set[asyncio.Transport] = set()
    empty = asyncio.Event()
    table = Shares.create(LOOPS)
    acceptor = Acceptor(
        [Short(fileno=os.dup(listener.fileno()))],
        Accepted(lambda: Echo(opened, empty), lambda: len(opened)),
        Shares(table, LOOPS).share("http", 0),
    )
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    assert [each["message"] for each in told] == ["cannot accept a connection"] * 2
    acceptor.close()
    writer.close()
    await writer.wait_closed()
    await empty.wait()
    os.close(table)
