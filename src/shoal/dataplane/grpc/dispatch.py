"""Brings the calls of one connection to their methods, and the replies back.

A call that is complete in one event and answered at once is answered in the same step; all others
wait for their messages, for a task, or for their client. Must not know sockets, nor what is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Final

from shoal.codecs.http2 import RequestReceived, ServerConnection
from shoal.dataplane import request_ids
from shoal.dataplane.grpc import heads, packing, statuses
from shoal.dataplane.grpc.calls import request_id
from shoal.dataplane.grpc.framing import PREFIX, BadMessage
from shoal.dataplane.grpc.incoming import Collected, StreamCall
from shoal.dataplane.grpc.message import Code, Data, Head, Reply, Request, Streaming
from shoal.dataplane.grpc.shared import Shared
from shoal.domain.errors import DeadlineExceeded, Overloaded, ShoalError

UNSENT_BYTES: Final = 1024**2
"""Of a stream's answers that its client has not taken; no more are made beyond."""

UNTAKEN_BYTES: Final = 64 * 1024**2
"""Of all answers on a connection that wait for its client; further calls are refused."""


class Dispatcher:
    """One per connection. flush_soon: asks the connection to send what is queued. `draining`: the
    server ends."""

    def __init__(
        self, shared: Shared, http2: ServerConnection, flush_soon: Callable[[], None]
    ) -> None:
        self.loop: Final = shared.loop
        self.draining = False
        self.calls = 0
        self._shared = shared
        self._http2 = http2
        self._flush_soon = flush_soon
        self._max_bytes = shared.settings.max_message_bytes
        self._collected: dict[int, Collected] = {}
        self._streams: dict[int, StreamCall] = {}
        self._tasks: dict[int, asyncio.Future[Reply]] = {}
        self._crowded: set[StreamCall] = set()  # wait until their clients take more

    # --- requests -------------------------------------------------------------------------------

    def begin(self, event: RequestReceived, now: float) -> None:
        """A call, perhaps complete."""
        self.calls += 1
        headers = event.headers
        head = headers.memo
        if type(head) is not Head:
            if head is None:
                head = headers.memo = heads.read(headers, self._shared.methods)
            if type(head) is not Head:
                assert isinstance(head, bytes)
                self._http2.send_headers(event.stream, head, end=True)
                return
        number = event.stream
        if self._http2.pending_bytes > UNTAKEN_BYTES:
            self._end(number, head, _too_much_untaken())
        elif head.unary is None:
            self._begin_stream(event, head, now)
        elif event.ended:
            started = perf_counter()
            data = event.data
            size = len(data) - PREFIX.size
            if 0 <= size <= self._max_bytes and PREFIX.unpack_from(data) == (0, size):
                self._handle(number, Request(head, data[PREFIX.size :], started))
            else:
                self._collect(event, head, now)
        else:
            self._collect(event, head, now)

    def go_on(self, number: int, data: Data, ended: bool, now: float) -> None:
        """More of a call, or its end."""
        stream = self._streams.get(number)
        if stream is not None:
            stream.feed(data, ended=ended, now=now)
            return
        collected = self._collected.get(number)
        if collected is not None:
            self._feed(number, collected, data, ended=ended)

    def forget(self, number: int) -> None:
        """The client cancelled a call, or broke it."""
        self._collected.pop(number, None)
        stream = self._streams.pop(number, None)
        if stream is not None:
            self._crowded.discard(stream)
            if stream.task is not None:
                stream.task.cancel()
        task = self._tasks.pop(number, None)
        if task is not None:
            task.cancel()

    def abandon(self) -> None:
        """The client is gone."""
        for number in [*self._streams, *self._tasks, *self._collected]:
            self.forget(number)

    def drain(self) -> None:
        """Streams end when they have answered what came."""
        self.draining = True
        for stream in list(self._streams.values()):
            stream.wake()

    def look(self, now: float) -> None:
        """End the calls whose messages take too long."""
        limit_s = self._shared.settings.read_timeout_s
        error = DeadlineExceeded(
            f"the message did not arrive within grpc.read_timeout_s ({limit_s:g} s); send it "
            "faster, or raise grpc.read_timeout_s"
        )
        for number, call in list(self._collected.items()):
            if call.is_late(now, limit_s):
                self._shared.stats.timeouts += 1
                del self._collected[number]
                self._end(number, call.head, error)
                self._flush_soon()
        for stream in list(self._streams.values()):
            if stream.is_late(now, limit_s):
                self._shared.stats.timeouts += 1
                stream.fail(BadMessage(error))

    # --- unary calls ----------------------------------------------------------------------------

    def _collect(self, event: RequestReceived, head: Head, now: float) -> None:
        collected = Collected(head, self._max_bytes, now)
        self._collected[event.stream] = collected
        self._feed(event.stream, collected, event.data, ended=event.ended)

    def _feed(self, number: int, collected: Collected, data: Data, *, ended: bool) -> None:
        try:
            collected.feed(data)
            if not ended:
                return
            request = collected.request()
        except BadMessage as bad:
            del self._collected[number]
            self._end(number, collected.head, bad.error, bad.code)
            return
        del self._collected[number]
        self._handle(number, request)

    def _handle(self, number: int, request: Request) -> None:
        head = request.head
        assert head.unary is not None
        try:
            answer = head.unary(request)
        except Exception as error:  # noqa: BLE001 - whatever escapes is reported, not shown
            self._shared.report(error, head.path)
            answer = statuses.internal(request_id(request))
        if type(answer) is not Reply:
            self._await(number, request, answer)  # type: ignore[arg-type]
        else:
            self._reply(number, request, answer)

    def _await(self, number: int, request: Request, answer: Awaitable[Reply]) -> None:
        if isinstance(answer, asyncio.Future):
            task = answer
        else:
            task = asyncio.ensure_future(answer, loop=self.loop)
        self._tasks[number] = task
        task.add_done_callback(lambda done: self._answered(number, request, done))

    def _answered(self, number: int, request: Request, task: asyncio.Future[Reply]) -> None:
        known = self._tasks.get(number) is task
        if known:
            del self._tasks[number]
        if task.cancelled():
            reply = Reply((), Code.CANCELLED, "the call was cancelled")
        elif (error := task.exception()) is not None:
            self._shared.report(error, request.head.path)
            reply = statuses.internal(request_id(request))
        else:
            reply = task.result()
        if known:
            self._reply(number, request, reply)
            self._flush_soon()

    def _reply(self, number: int, request: Request, reply: Reply) -> None:
        """Answer in whatever form the head and the reply call for."""
        head = request.head
        if reply.code is not Code.OK:
            self._http2.send_headers(number, heads.refusal(reply), end=True)
            return
        if head.plain and not (reply.metadata or reply.packed):
            parts = reply.parts
            prefix = PREFIX.pack(0, sum([len(part) for part in parts]))
            self._http2.respond(number, heads.BEGIN, [prefix, *parts], heads.END)
            return
        answer = packing.pack(reply, head.answers)
        if isinstance(answer, Awaitable):
            self._await(number, request, answer)
            return
        if request_ids.HEADER in head.headers:
            answer.metadata.append((request_ids.HEADER, request_id(request).encode()))
        self._http2.respond(
            number, heads.BEGINNINGS[head.answers], answer.parts,
            heads.END if not answer.metadata else heads.trailers(answer),
        )

    # --- streams --------------------------------------------------------------------------------

    def _begin_stream(self, event: RequestReceived, head: Head, now: float) -> None:
        self._http2.hold(event.stream)
        stream = StreamCall(self, event.stream, head, self._max_bytes)
        self._streams[event.stream] = stream
        if event.data or event.ended:
            stream.feed(event.data, ended=event.ended, now=now)
        stream.task = self.loop.create_task(self._run(stream))

    async def _run(self, stream: StreamCall) -> None:
        head = stream.head
        request = Request(head, b"", stream.started)
        assert type(head.method) is Streaming
        try:
            reply = await head.method.handle(stream)
        except ShoalError as error:
            reply = statuses.of_error(error, request_id(request))
        except BadMessage as bad:
            reply = statuses.of_error(bad.error, request_id(request))
            reply.code = reply.code if bad.code is None else bad.code
        except TimeoutError:
            reply = statuses.of_error(
                DeadlineExceeded(f"{head.path} did not end within its grpc-timeout; allow it more"),
                request_id(request),
            )
        except Exception as error:  # noqa: BLE001 - whatever escapes is reported, not shown
            self._shared.report(error, head.path)
            reply = statuses.internal(request_id(request))
        if self._streams.pop(stream.number, None) is None:
            return
        if stream.begun:
            self._http2.send_trailers(stream.number, heads.trailers(reply))
        elif reply.code is Code.OK:
            self._http2.send_headers(stream.number, heads.BEGIN)
            self._http2.send_trailers(stream.number, heads.END)
        else:
            self._http2.send_headers(stream.number, heads.refusal(reply), end=True)
        self._flush_soon()

    async def send_message(self, stream: StreamCall, parts: Sequence[Data]) -> None:
        """Returns when the client takes more; raises CancelledError when it is gone."""
        http2, number = self._http2, stream.number
        answers = stream.head.answers
        if not stream.begun:
            stream.begun = True
            http2.send_headers(number, heads.BEGINNINGS[answers])
        http2.send_data(number, await packing.message(parts, answers))
        self._flush_soon()
        while http2.blocked(number) > UNSENT_BYTES:
            self._crowded.add(stream)
            stream.room = stream.room or self.loop.create_future()
            await asyncio.shield(stream.room)

    def acknowledge(self, number: int, size: int) -> None:
        """Let the client of a stream send so many bytes more."""
        self._http2.acknowledge(number, size)
        self._flush_soon()

    def sent(self) -> None:
        """Something was sent: those who waited for room may have it."""
        for stream in [each for each in self._crowded
                       if self._http2.blocked(each.number) <= UNSENT_BYTES]:
            self._crowded.discard(stream)
            if stream.room is not None:
                stream.room.set_result(None)
                stream.room = None

    # --- ends -----------------------------------------------------------------------------------

    def _end(
        self, number: int, head: Head, error: ShoalError, code: Code | None = None
    ) -> None:
        """Answer with `error` what its method never saw."""
        reply = statuses.of_error(error, request_id(Request(head, b"", 0.0)))
        if code is not None:
            reply.code = code
        self._http2.send_headers(number, heads.refusal(reply), end=True)


def _too_much_untaken() -> Overloaded:
    return Overloaded(
        f"{UNTAKEN_BYTES} bytes of answers on this connection wait for their client; take them "
        "first, or use more connections"
    )
