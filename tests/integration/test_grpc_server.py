"""The gRPC server itself over real sockets: limits, time, clients that misbehave, its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

from shoal.dataplane.grpc.message import Code, Reply, Request, Stream, Streaming, Unary
from shoal.dataplane.grpc.server import GrpcServer
from shoal.dataplane.listening import Listen
from shoal.domain.errors import InvalidRequest
from shoal.settings import GrpcSettings

PATIENCE_S = 20.0
MESSAGE = b"\0\0\0\0\2hi"


class Methods:
    """Methods whose progress a test can follow. Waiting ones go on when `release` is set."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.started = asyncio.Semaphore(0)
        self.cancelled = asyncio.Semaphore(0)
        self.errors: list[str] = []
        self.by_path = {each.path: each for each in (
            Unary("/t/Now", self.now), Unary("/t/Wait", self.wait), Unary("/t/Fail", self.fail),
            Unary("/t/FailLater", self.fail_later), Unary("/t/Big", self.big),
            Streaming("/t/Echo", self.echo), Streaming("/t/Break", self.break_),
        )}

    def now(self, request: Request) -> Reply:
        return Reply([bytes(request.message)])

    async def wait(self, request: Request) -> Reply:
        self.started.release()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.release()
            raise
        return Reply([bytes(request.message)])

    def fail(self, request: Request) -> Reply:
        raise RuntimeError("a defect")

    async def fail_later(self, request: Request) -> Reply:
        raise RuntimeError("a later defect")

    def big(self, request: Request) -> Reply:
        return Reply([bytes(8 * 1024**2)])

    async def echo(self, stream: Stream) -> Reply:
        while (message := await stream.receive()) is not None:
            await stream.send([message])
        return Reply((), Code.UNAVAILABLE, "ending") if stream.draining else Reply()

    async def break_(self, stream: Stream) -> Reply:
        await stream.receive()
        raise RuntimeError("a stream's defect")


Serving = tuple[GrpcServer, Methods]


@asynccontextmanager
async def serving(**limits: float) -> AsyncIterator[Serving]:
    methods = Methods()
    server = GrpcServer(
        methods.by_path, GrpcSettings.model_validate(limits), listen=Listen(),
        on_error=lambda error, path: methods.errors.append(f"{path}: {error}"),
    )
    await server.start()
    try:
        yield server, methods
    finally:
        methods.release.set()
        await server.shutdown(0.0)


class Client:
    """A client of single frames, on python-hyper's h2."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.h2 = H2Connection(H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.events: list[Event] = []
        self._received = b""
        self.closed = False

    def begin(self, path: str = "/t/Now", body: bytes = MESSAGE, *, end: bool = True,
              **more: str) -> int:  # fmt: skip
        number: int = self.h2.get_next_available_stream_id()
        fields = {
            ":method": "POST", ":scheme": "http", ":path": path, ":authority": "x",
            "content-type": "application/grpc", "te": "trailers",
        } | {key.replace("_", "-"): value for key, value in more.items()}
        self.h2.send_headers(number, list(fields.items()))
        self.h2.send_data(number, body, end_stream=end)
        self.flush()
        return number

    def flush(self) -> None:
        self._writer.write(self.h2.data_to_send())

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def until(self, true: Callable[[], Any]) -> Any:
        """Read until `true()` is; what it is."""
        async with asyncio.timeout(PATIENCE_S):
            while not (found := true()):
                assert not self.closed, f"closed too soon: {self.events}"
                await self._read()
            return found

    async def until_closed(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not self.closed:
                await self._read()

    async def _read(self) -> None:
        try:
            data = await self._reader.read(65536)
        except ConnectionError:
            data = b""
        if not data:
            self.closed = True
            return
        self._received += data
        while len(self._received) >= 9:
            size = 9 + int.from_bytes(self._received[:3], "big")
            if len(self._received) < size:
                break
            frame, self._received = self._received[:size], self._received[size:]
            self._take(frame)
        self.flush()

    def _take(self, frame: bytes) -> None:
        for event in self.h2.receive_data(frame):
            self.events.append(event)
            if isinstance(event, DataReceived) and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if isinstance(event, ConnectionTerminated):  # which h2 takes for the very end
                self.h2.state_machine.state = ConnectionState.CLIENT_OPEN

    def of(self, number: int, *kinds: type[Event]) -> list[Any]:
        return [event for event in self.events
                if isinstance(event, kinds) and getattr(event, "stream_id", None) == number]

    async def answer(self, number: int) -> tuple[bytes, dict[str, str]]:
        """The body, and headers with trailers."""
        await self.until(lambda: self.of(number, StreamEnded, StreamReset))
        fields: dict[str, str] = {}
        for event in self.of(number, ResponseReceived, TrailersReceived):
            fields |= dict(event.headers)
        return b"".join(event.data for event in self.of(number, DataReceived)), fields

    def goaway(self) -> ConnectionTerminated | None:
        return next((e for e in self.events if isinstance(e, ConnectionTerminated)), None)


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)


@asynccontextmanager
async def connected(server: GrpcServer) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(*server.address)
    client = Client(reader, writer)
    client.flush()
    try:
        yield client
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass


# --- calls --------------------------------------------------------------------------------------


async def test_a_call_is_answered_with_trailers() -> None:
    async with serving() as (server, _), connected(server) as client:
        body, fields = await client.answer(client.begin())
        assert body == MESSAGE
        assert fields[":status"] == "200"
        assert fields["content-type"] == "application/grpc"
        assert fields["grpc-status"] == "0"
        assert server.connections == 1


async def test_a_message_may_come_in_pieces_and_end_with_an_empty_frame() -> None:
    async with serving() as (server, _), connected(server) as client:
        number = client.begin(body=b"\0\0\0", end=False)
        for piece in (b"\0\2", b"h", b"i"):
            client.h2.send_data(number, piece)
            client.flush()
        client.h2.end_stream(number)
        client.flush()
        assert (await client.answer(number))[0] == MESSAGE


async def test_a_defect_is_reported_and_not_shown() -> None:
    async with serving() as (server, methods), connected(server) as client:
        for path in ("/t/Fail", "/t/FailLater", "/t/Break"):
            _, fields = await client.answer(client.begin(path))
            assert fields["grpc-status"] == "13"
            assert "defect" not in fields["grpc-message"]
        assert methods.errors == [
            "/t/Fail: a defect", "/t/FailLater: a later defect", "/t/Break: a stream's defect",
        ]


@pytest.mark.parametrize(("body", "code", "words"), [
    (b"", "12", "exactly one message, none came"), (MESSAGE * 2, "12", "more than one came"),
    (MESSAGE[:-1], "13", "ended within its message"), (b"\1" + MESSAGE[1:], "13", "compressed"),
    (b"\0\x7f\xff\xff\xff", "8", "grpc.max_message_bytes"),
], ids=["none", "two", "cut", "compressed", "large"])
async def test_calls_without_one_whole_message_are_refused(
    body: bytes, code: str, words: str
) -> None:
    async with serving() as (server, _), connected(server) as client:
        _, fields = await client.answer(client.begin(body=body))
        assert fields["grpc-status"] == code
        assert words in fields["grpc-message"]
        assert (await client.answer(client.begin()))[1]["grpc-status"] == "0"


async def test_what_is_no_grpc_gets_an_http_status() -> None:
    async with serving() as (server, _), connected(server) as client:
        _, fields = await client.answer(client.begin(content_type="application/json"))
        assert fields[":status"] == "415"


async def test_a_refusal_does_not_wait_for_the_message() -> None:
    async with serving() as (server, _), connected(server) as client:
        _, fields = await client.answer(client.begin("/t/Nope", b"\0\0\0", end=False))
        assert fields["grpc-status"] == "12"
        assert (await client.answer(client.begin()))[1]["grpc-status"] == "0"


async def test_a_cancelled_call_is_cancelled() -> None:
    async with serving() as (server, methods), connected(server) as client:
        number = client.begin("/t/Wait")
        await methods.started.acquire()
        client.h2.reset_stream(number, 8)
        client.flush()
        async with asyncio.timeout(PATIENCE_S):
            await methods.cancelled.acquire()


async def test_a_client_that_leaves_cancels_its_calls() -> None:
    async with serving() as (server, methods):
        async with connected(server) as client:
            client.begin("/t/Wait")
            client.begin("/t/Echo", end=False)
            await methods.started.acquire()
        async with asyncio.timeout(PATIENCE_S):
            await methods.cancelled.acquire()


async def test_a_stream_is_echoed_while_it_goes_on() -> None:
    async with serving() as (server, _), connected(server) as client:
        number = client.begin("/t/Echo", end=False)
        await client.until(lambda: client.of(number, DataReceived))
        client.h2.send_data(number, MESSAGE, end_stream=True)
        client.flush()
        body, fields = await client.answer(number)
        assert (body, fields["grpc-status"]) == (MESSAGE * 2, "0")


async def test_a_bad_message_ends_its_stream_alone() -> None:
    async with serving() as (server, _), connected(server) as client:
        number = client.begin("/t/Echo", MESSAGE + b"\7\0\0\0\0", end=False)
        body, fields = await client.answer(number)
        assert (body, fields["grpc-status"]) == (MESSAGE, "13")
        assert (await client.answer(client.begin()))[1]["grpc-status"] == "0"


# --- limits and time ----------------------------------------------------------------------------


async def test_too_many_connections_are_told_so() -> None:
    async with serving(max_connections=1) as (server, _), connected(server) as first:
        assert (await first.answer(first.begin()))[0] == MESSAGE
        async with connected(server) as second:
            await second.until_closed()
            goaway = second.goaway()
            assert goaway is not None
            assert b"grpc.max_connections" in (goaway.additional_data or b"")
        assert (await first.answer(first.begin()))[0] == MESSAGE


async def test_pings_are_answered_and_too_many_end_the_connection() -> None:
    async with serving() as (server, _), connected(server) as client:
        client.h2.ping(b"12345678")
        client.flush()
        await client.until(lambda: any(type(e).__name__ == "PingAckReceived"
                                       for e in client.events))
        client.write(b"\0\0\x08\x06\0\0\0\0\0abcdefgh" * 20_000)
        await client.until_closed()
        goaway = client.goaway()
        assert goaway is None or goaway.error_code == 11  # ENHANCE_YOUR_CALM
        assert server.stats.ended == 1


async def test_a_connection_without_calls_is_closed_in_time() -> None:
    async with (
        serving(idle_timeout_s=0.5) as (server, _), connected(server) as client,
    ):
        assert (await client.answer(client.begin()))[0] == MESSAGE
        await client.until_closed()
        goaway = client.goaway()
        assert goaway is not None
        assert goaway.error_code == 0


async def test_a_connection_that_never_calls_is_closed_in_time() -> None:
    async with serving(read_timeout_s=0.05) as (server, _), connected(server) as client:
        await client.until_closed()
        assert server.stats.timeouts == 1


async def test_a_message_that_does_not_come_is_not_waited_for() -> None:
    async with serving(read_timeout_s=0.05) as (server, _), connected(server) as client:
        for path in ("/t/Now", "/t/Echo"):
            _, fields = await client.answer(client.begin(path, MESSAGE[:-1], end=False))
            assert fields["grpc-status"] == "4"
            assert "grpc.read_timeout_s" in fields["grpc-message"]
        assert server.stats.timeouts == 2


async def test_a_client_that_vanished_is_noticed_by_a_ping() -> None:
    limits = {"keepalive_s": 0.05, "keepalive_timeout_s": 0.5}
    async with serving(**limits) as (server, methods), connected(server) as client:
        number = client.begin("/t/Wait")
        await methods.started.acquire()
        await client.until(lambda: any(isinstance(e, PingReceived) for e in client.events))
        assert server.connections == 1  # it has answered
        async with asyncio.timeout(PATIENCE_S):
            await methods.cancelled.acquire()  # now that nobody reads, it does not answer
        assert server.stats.timeouts == 1
        assert client.of(number, ResponseReceived) == []


async def test_a_client_that_takes_nothing_is_cut() -> None:
    async with serving(write_timeout_s=0.1) as (server, _), connected(server) as client:
        client.begin("/t/Big")
        await client.until(lambda: client.of(1, ResponseReceived))
        await eventually(lambda: server.stats.timeouts == 1)


async def test_large_answers_pass_the_clients_windows() -> None:
    async with serving() as (server, _), connected(server) as client:
        body, fields = await client.answer(client.begin("/t/Big"))
        assert (len(body), fields["grpc-status"]) == (8 * 1024**2 + 5, "0")


# --- the end ------------------------------------------------------------------------------------


async def test_calls_in_progress_are_answered_before_the_end() -> None:
    async with serving() as (server, methods), connected(server) as client:
        waiting = client.begin("/t/Wait")
        echo = client.begin("/t/Echo", end=False)
        await methods.started.acquire()
        ending = asyncio.create_task(server.shutdown(PATIENCE_S))
        await client.until(client.goaway)
        methods.release.set()
        assert (await client.answer(waiting))[0] == MESSAGE
        assert (await client.answer(echo))[1]["grpc-message"] == "ending"
        await client.until_closed()
        assert await ending == 0


async def test_what_does_not_end_is_cut() -> None:
    async with serving() as (server, methods), connected(server) as client:
        client.begin("/t/Wait")
        await methods.started.acquire()
        assert await server.shutdown(0.05) == 1
        await client.until_closed()


async def test_no_call_is_lost_when_the_server_ends() -> None:
    """Clients that keep calling: each call is answered, or was never begun and says so."""
    async with serving() as (server, _):
        address = ":".join(map(str, server.address))
        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.unary_unary("/t/Now")
            answered = 0
            unanswered: list[str | None] = []
            stop = asyncio.Event()

            async def ask() -> None:
                nonlocal answered
                while not stop.is_set():
                    try:
                        assert await call(b"hi") == b"hi"
                    except grpc.aio.AioRpcError as error:
                        unanswered.append(error.details())
                        return
                    answered += 1

            asking: list[Awaitable[None]] = [asyncio.create_task(ask()) for _ in range(8)]
            await eventually(lambda: answered >= 100)
            assert await server.shutdown(PATIENCE_S) == 0
            stop.set()
            await asyncio.gather(*asking)
            assert all(why and "refused" in why.lower() for why in unanswered), unanswered


async def test_nothing_is_answered_for_a_stream_that_is_refused_by_its_method() -> None:
    async def refuse(stream: Stream) -> Reply:
        raise InvalidRequest("not so")

    server = GrpcServer(
        {"/t/Refuse": Streaming("/t/Refuse", refuse)}, GrpcSettings(), listen=Listen(),
        on_error=lambda error, path: None,
    )
    await server.start()
    async with connected(server) as client:
        _, fields = await client.answer(client.begin("/t/Refuse", end=False))
        assert (fields["grpc-status"], fields["grpc-message"]) == ("3", "not so")
    await server.shutdown(0.0)
