"""The flow of a connection: order, time, back-pressure, faults of the handler, draining."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import orjson
import pytest
from tests.fake_transport import Bench, chunked, get, limited, only, post, refused, split

from shoal.dataplane.http.message import Request, Response
from shoal.dataplane.http.writer import ResponseWriter
from shoal.settings import HttpSettings


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- 100-continue -------------------------------------------------------------------------------

EXPECTING = b"POST /e HTTP/1.1\r\nhost: x\r\nexpect: 100-Continue\r\ncontent-length: 3\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def test_a_client_that_asks_is_told_to_continue(bench: Bench) -> None:
    assert bench.send(EXPECTING) == CONTINUE
    assert bench.send(b"a") == b""
    assert only(bench.send(b"bc"))[2] == b"POST /e? 3"


def test_a_client_that_did_not_wait_is_not_told(bench: Bench) -> None:
    assert only(bench.send(EXPECTING + b"abc"))[0] == 200


def test_a_client_whose_body_would_be_too_large_is_refused_instead() -> None:
    bench = limited(max_body_bytes=2)
    assert refused(bench, bench.send(EXPECTING))[0] == 413


def test_http_1_0_is_not_told_to_continue(bench: Bench) -> None:
    assert bench.send(EXPECTING.replace(b"1.1", b"1.0")) == b""
    assert only(bench.send(b"abc"))[0] == 200


# --- time ---------------------------------------------------------------------------------------


def test_an_idle_connection_closes_silently(bench: Bench) -> None:
    bench.send(get())
    bench.later(74.0)
    assert not bench.transport.closed
    before = bench.transport.written
    bench.later(2.0)
    assert bench.transport.written == before
    assert bench.shared.stats.timeouts == 0
    assert bench.transport.closed


def test_the_idle_time_begins_anew_with_every_answer() -> None:
    for size in (1, 1_000_000):
        bench = Bench(lambda request, size=size: Response(200, [bytes(size)]))  # type: ignore[misc]
        for _ in range(4):
            bench.send(get())
            bench.later(60.0)
            assert not bench.transport.closed


def test_line_breaks_do_not_keep_a_connection_open(bench: Bench) -> None:
    for _ in range(8):
        bench.send(b"\r\n")
        bench.later(10.0)
    assert bench.transport.closed


@pytest.mark.parametrize("part", [b"G", get()[:-3], post(b"abc")[:-1], chunked(b"abc")[:-4]])
def test_a_request_that_stops_coming_is_answered_408(bench: Bench, part: bytes) -> None:
    bench.send(part)
    bench.later(29.0)
    assert not bench.transport.ended
    bench.later(2.0)
    status, message = refused(bench, bench.transport.written)
    assert status == 408
    assert "http.read_timeout_s (30 s)" in message
    assert bench.shared.stats.timeouts == 1


@pytest.mark.parametrize("start", [b"", get()[:-2] + b"X: ", post(b"y" * 100_000)[:-100_000]])
def test_a_trickle_does_not_keep_a_request_alive(bench: Bench, start: bytes) -> None:
    if start:
        bench.send(start)
    else:
        bench.send(b"GET /")
    for _ in range(3):
        bench.later(20.0)
        if not bench.transport.ended:
            bench.send(b"y")
    assert refused(bench, bench.transport.written)[0] == 408


def test_a_slow_but_steady_body_is_waited_for(bench: Bench) -> None:
    body = b"y" * 200_000
    stream = post(body)
    for i in range(0, len(stream), 10_000):
        bench.send(stream[i : i + 10_000])
        bench.later(10.0)
    assert bench.requests[0].body == body


def test_time_that_a_handler_takes_is_not_the_clients() -> None:
    with asyncio.Runner() as runner:
        future = runner.get_loop().create_future()
        bench = Bench(lambda request: future)
        bench.send(get())
        bench.later(1000.0)
        assert not bench.transport.over
        bench.lose()


# --- back-pressure ------------------------------------------------------------------------------


def test_a_client_that_takes_nothing_is_cut() -> None:
    bench = Bench()
    bench.transport.takes = 10
    bench.send(get())
    bench.later(31.0)
    assert bench.transport.aborted
    assert bench.shared.stats.timeouts == 1


def test_a_client_that_takes_a_little_is_not_cut() -> None:
    bench = Bench()
    bench.transport.takes = 10
    bench.send(get())
    for _ in range(5):
        bench.transport.take(5)
        bench.later(31.0)
        assert not bench.transport.aborted
    bench.transport.take(1000)
    assert only(bench.transport.written)[0] == 200


def test_requests_wait_while_the_client_takes_no_answers() -> None:
    bench = Bench(lambda request: Response(200, [b"y" * 100_000]))
    bench.transport.takes = 1000
    bench.send(get() * 10)
    assert len(bench.requests) == 1
    assert not bench.transport.reads()
    bench.transport.take(10**6)
    bench.loop.run()
    assert len(bench.requests) == 10
    assert bench.transport.reads()
    assert len(list(split(bench.transport.written))) == 10


def test_a_connection_that_closes_waits_until_its_answer_is_taken() -> None:
    bench = Bench()
    bench.transport.takes = 10
    bench.send(get("/", "Connection: close"))
    assert not bench.transport.closed
    bench.transport.take(1000)
    bench.loop.run()
    assert bench.transport.closed


def test_many_requests_in_one_read_are_handled_in_turns() -> None:
    bench = limited(max_pipelined=4)
    bench.connection.data_received(get() * 10)
    assert len(bench.requests) == 4
    bench.loop.run()
    assert len(bench.requests) == 10
    assert bench.transport.reads()


class Waiting:
    """A handler whose answers a test gives."""

    def __init__(self) -> None:
        self.futures: dict[str, asyncio.Future[Response]] = {}

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        if request.target.startswith("/now"):
            return Response(200, [request.target.encode()])
        future = asyncio.get_running_loop().create_future()
        self.futures[request.target] = future
        return future

    async def give(self, target: str) -> None:
        self.futures[target].set_result(Response(200, [target.encode()]))
        await asyncio.sleep(0)


async def waiting(**limits: float) -> tuple[Bench, Waiting]:
    handler = Waiting()
    bench = Bench(handler, HttpSettings.model_validate(limits))
    return bench, handler


def bodies(bench: Bench) -> list[bytes]:
    return [body for _, _, body in split(bench.transport.written)]


async def test_answers_keep_the_order_of_their_requests() -> None:
    bench, handler = await waiting()
    bench.send(get("/a") + get("/now") + get("/b"))
    await handler.give("/b")
    assert bodies(bench) == []
    await handler.give("/a")
    assert bodies(bench) == [b"/a", b"/now", b"/b"]
    assert bench.transport.writes == 1


async def test_no_more_than_max_pipelined_are_in_progress() -> None:
    bench, handler = await waiting(max_pipelined=2)
    bench.send(b"".join(get(f"/{i}") for i in range(5)))
    assert set(handler.futures) == {"/0", "/1"}
    assert not bench.transport.reads()
    for i in range(5):
        await handler.give(f"/{i}")
        bench.loop.run()
    assert bodies(bench) == [b"/%d" % i for i in range(5)]
    assert bench.transport.reads()


async def test_closing_waits_for_the_answers_before() -> None:
    bench, handler = await waiting()
    bench.send(get("/a") + get("/now", "Connection: close"), get("/ignored"))
    assert not bench.transport.over
    await handler.give("/a")
    assert bodies(bench) == [b"/a", b"/now"]
    assert [b"connection" in headers for _, headers, _ in split(bench.transport.written)] == [
        False,
        True,
    ]
    assert bench.transport.closed


async def test_a_refusal_waits_for_the_answers_before() -> None:
    bench, handler = await waiting()
    bench.send(get("/a") + b"garbage\r\n")
    assert bench.transport.written == b""
    await handler.give("/a")
    assert [status for status, _, _ in split(bench.transport.written)] == [200, 400]
    assert bench.transport.ended


async def test_continue_waits_for_the_answers_before() -> None:
    bench, handler = await waiting()
    bench.send(get("/a"), EXPECTING)
    assert bench.transport.written == b""
    await handler.give("/a")
    assert bench.transport.written.endswith(b"/a" + CONTINUE)


@pytest.mark.parametrize("way", ["eof_received", "lose"])
async def test_what_is_in_progress_is_cancelled_when_the_client_leaves(way: str) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def slow() -> Response:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    bench = Bench(lambda request: slow())
    bench.shared.loop = asyncio.get_running_loop()  # type: ignore[misc]
    bench.connection.data_received(get())
    await started.wait()
    if way == "lose":
        bench.lose()
    else:
        bench.connection.eof_received()
    await cancelled.wait()
    assert bench.errors == []
    assert bench.transport.written == b""


async def test_an_error_after_the_client_left_is_reported_all_the_same() -> None:
    async def slow() -> Response:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RuntimeError("cleaning up failed") from None
        raise AssertionError

    bench = Bench(lambda request: slow())
    bench.shared.loop = asyncio.get_running_loop()  # type: ignore[misc]
    bench.connection.data_received(get())
    await asyncio.sleep(0)
    bench.lose()
    for _ in range(3):
        await asyncio.sleep(0)
    assert [str(error) for error in bench.errors] == ["cleaning up failed"]


# --- errors of the handler ----------------------------------------------------------------------


def failing(request: Request) -> Response:
    raise RuntimeError("a secret")


@pytest.mark.parametrize(
    "handler",
    [
        failing,
        lambda request: None,
        lambda request: Response("200"),  # type: ignore[arg-type]
        lambda request: Response(200, ["text"]),  # type: ignore[list-item]
        lambda request: Response(200, [memoryview(b"abcd")[::2]]),
        lambda request: Response(100),
        lambda request: Response(204, [b"body"]),
        lambda request: Response(200, [], [(b"x", b"a\r\nb: c")]),
        lambda request: Response(200, [], [(b"Content-Length", b"3")]),
        lambda request: Response(200, [], [("x", "y")]),  # type: ignore[list-item]
    ],
)
def test_what_a_handler_does_wrong_is_reported_and_not_shown(
    handler: Callable[[Request], Response],
) -> None:
    bench = Bench(handler)
    status, _, body = only(bench.send(get()))
    assert status == 500
    assert orjson.loads(body)["error"].startswith("internal error")
    assert b"secret" not in body
    assert len(bench.errors) == 1
    assert not bench.transport.over


@pytest.mark.parametrize("outcome", [RuntimeError("a secret"), None, "cancel"])
async def test_what_an_awaitable_does_wrong_is_reported_and_not_shown(outcome: object) -> None:
    future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    bench = Bench(lambda request: future)
    bench.send(get())
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    elif outcome == "cancel":
        future.cancel()
    else:
        future.set_result(None)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    assert only(bench.transport.written)[0] == 500
    assert len(bench.errors) == 1


def test_a_failing_report_does_not_cost_the_connection() -> None:
    bench = Bench(failing)
    bench.shared._on_error = lambda error, request: failing(request)  # type: ignore[assignment]
    assert only(bench.send(get()))[0] == 500
    assert len(bench.loop.complaints) == 1


# --- responses ----------------------------------------------------------------------------------


def test_a_body_is_written_as_it_is_and_counted_in_bytes() -> None:
    numbers = memoryview(bytearray(80_000)).cast("i")
    bench = Bench(lambda request: Response(200, [b"ab", numbers]))
    assert only(bench.send(get()))[2] == b"ab" + bytes(80_000)


def test_the_date_follows_the_clock() -> None:
    writer = ResponseWriter()
    for wall_s, date in ((0, b"01 Jan 1970 00:00:00"), (1.9, b"01 Jan 1970 00:00:01")):
        writer.set_date(wall_s)
        out: list[bytes | memoryview] = []
        writer.render(out, Response(299), b"\r\n", False)
        assert b"HTTP/1.1 299 \r\ndate: Thu, " + date in b"".join(out)


def test_kept_header_lines_are_bounded() -> None:
    writer = ResponseWriter()
    for i in range(3000):
        writer.render([], Response(200, [], [(b"x", b"%d" % i)]), b"\r\n", False)
    assert len(writer._lines) <= 1024


# --- draining -----------------------------------------------------------------------------------


def test_an_idle_connection_closes_when_draining(bench: Bench) -> None:
    bench.send(get())
    bench.connection.drain()
    assert bench.transport.closed


def test_a_request_that_has_begun_is_finished_when_draining(bench: Bench) -> None:
    request = post(b"abc")
    bench.send(request[:20])
    bench.connection.drain()
    assert not bench.transport.closed
    _, headers, body = only(bench.send(request[20:] + get("/next")))
    assert headers[b"connection"] == b"close"
    assert body == b"POST /p? 3"
    assert bench.transport.closed


async def test_a_request_in_progress_is_finished_when_draining() -> None:
    bench, handler = await waiting()
    bench.send(get("/a") + get("/now"))
    bench.connection.drain()
    bench.send(get("/next"))
    assert not bench.transport.closed
    await handler.give("/a")
    assert bodies(bench) == [b"/a", b"/now"]
    assert list(split(bench.transport.written))[1][1][b"connection"] == b"close"
    assert bench.transport.closed


def test_a_connection_made_while_draining_is_cut(bench: Bench) -> None:
    bench.shared.draining = True
    bench.connect()
    assert bench.transport.aborted
