"""A connection of a process that another takes the place of: one more request, then the end."""

from __future__ import annotations

import asyncio

import pytest
from tests.fake_transport import Bench, get, only, post

from shoal.dataplane.http.message import Request, Response


@pytest.fixture
def bench() -> Bench:
    return Bench()


def says_close(answer: bytes) -> bool:
    return b"connection: close" in answer.lower()


def test_an_idle_connection_stays_open_for_one_more_request(bench: Bench) -> None:
    bench.send(get())
    bench.connection.retire()
    assert not bench.transport.closed
    answer = bench.send(get())
    assert only(answer)[0] == 200
    assert says_close(answer)
    assert bench.transport.closed


def test_a_head_that_is_known_is_answered_as_the_last_too(bench: Bench) -> None:
    for _ in range(3):
        assert not says_close(bench.send(get()))
    bench.connection.retire()
    assert says_close(bench.send(get()))
    assert bench.transport.closed


def test_a_request_that_has_begun_is_the_last(bench: Bench) -> None:
    whole = post(b"abc")
    bench.send(whole[:-1])
    bench.connection.retire()
    assert says_close(bench.send(whole[-1:]))
    assert bench.transport.closed


async def test_a_request_in_progress_is_answered_and_another_one_after_it() -> None:
    wanted: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    asked: list[Request] = []

    def handle(request: Request) -> Response | asyncio.Future[Response]:
        asked.append(request)
        return Response(200, [b"next"]) if len(asked) > 1 else wanted

    bench = Bench(handle)
    bench.send(get())
    bench.connection.retire()
    wanted.set_result(Response(200, [b"first"]))
    await asyncio.sleep(0)
    assert not bench.transport.closed
    assert says_close(bench.send(get()))
    assert bench.transport.closed


def test_who_says_nothing_more_is_closed_by_draining(bench: Bench) -> None:
    bench.send(get())
    bench.connection.retire()
    bench.connection.drain()
    assert bench.transport.closed
