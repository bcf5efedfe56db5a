"""One HTTP/1.1 connection: reads requests, has them handled, writes the answers in their order.

What is a request is `reader`'s to say, what a response looks like `writer`'s. Here is the flow
between them: order, back-pressure in both directions, deadlines, and how a connection ends. Must
not know what is served.

An awaitable that the handler returns belongs to the connection, which cancels it when the client
is gone. The end of the client's stream counts as that, as it does for nginx, Envoy and Go: a client
that only closed its sending side cannot be told from one that left.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from math import inf
from types import CoroutineType
from typing import Final, cast

from shoal.dataplane.http.message import Request, Response
from shoal.dataplane.http.reader import BODY, RequestReader
from shoal.dataplane.http.shared import Shared
from shoal.dataplane.http.writer import CLOSE, CONTINUE, STAY, STAY_1_0, Parts, error_response
from shoal.dataplane.shared import MIN_RATE

# How long and how much is read and dropped after a refusal, so that a client that is still sending
# finds the answer and not a reset connection (RFC 9112, 9.6).
LINGER_S: Final = 5.0
LINGER_BYTES: Final = 512 * 1024**2

_WRITE_BYTES: Final = 64 * 1024  # joined into one write; also when pipelined answers are written

_INTERNAL: Final = "internal error; the server's log says more"


class Exchange:
    """A request whose answer waits: to be made, or for its turn to be written."""

    __slots__ = ("_connection", "_future", "request", "response")

    def __init__(self, request: Request, response: Response | None = None) -> None:
        self.request = request
        self.response = response
        self._connection: Connection | None = None
        self._future: asyncio.Future[Response] | None = None

    def begin(self, connection: Connection, awaitable: Awaitable[Response]) -> None:
        loop = connection.shared.loop
        if type(awaitable) is CoroutineType:
            self._future = loop.create_task(awaitable)
        elif isinstance(awaitable, asyncio.Future):
            self._future = awaitable
        else:
            self._future = asyncio.ensure_future(awaitable, loop=loop)
        self._connection = connection
        self._future.add_done_callback(self._finish)

    def abandon(self) -> None:
        """The client is gone."""
        if self.response is None and self._future is not None:
            self._future.cancel()

    def _finish(self, future: asyncio.Future[Response]) -> None:
        connection = cast("Connection", self._connection)
        self._connection = self._future = None
        gone = future.cancelled()
        error = asyncio.CancelledError() if gone else future.exception()
        answer: object = None if error else future.result()
        if isinstance(answer, Response):
            self.response = answer
        else:
            if not (gone and connection.lost):
                error = error or TypeError(f"the handler's awaitable gave {answer!r}, no Response")
                connection.shared.report(error, self.request)
            self.response = error_response(500, _INTERNAL)
        connection.proceed()


class Connection(asyncio.Protocol):
    """`deadline`: the loop's time at which `expire` is due. `lost`: the client is gone."""

    __slots__ = (
        "_continuing", "_ended", "_handler", "_idle_timeout_s", "_max_pipelined", "_queue",
        "_read_paused", "_reader", "_received", "_refused", "_since", "_stats", "_time",
        "_transport", "_turned_away", "_unfed", "_unsent", "_write_paused", "_writer", "deadline",
        "lost", "shared",
    )  # fmt: skip

    _transport: asyncio.Transport

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.deadline = inf
        self.lost = False
        self._time = shared.loop.time
        self._handler = shared.handler
        self._writer = shared.writer
        self._stats = shared.stats
        self._max_pipelined = shared.settings.max_pipelined
        self._idle_timeout_s = shared.settings.idle_timeout_s
        self._reader = RequestReader(shared.settings, shared.known_heads)
        self._queue: deque[Exchange] = deque()
        self._unfed: bytes | memoryview = b""  # received, but not to be read yet
        self._since = 0.0  # when the client's rate began to count
        self._received = 0  # bytes since then
        self._unsent = 0  # bytes in the transport when `deadline` was set
        self._write_paused = False
        self._read_paused = False
        self._continuing = False  # a turn is scheduled
        self._refused = False
        self._turned_away = False
        self._ended = False  # nothing more will be answered

    # --- called by the transport ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # Pause as soon as the kernel does not take everything, so that the write timeout begins.
        # Not 0: asyncio's TLS transport would pause at 0 bytes and never resume.
        self._transport.set_write_buffer_limits(high=1)
        shared = self.shared
        full = shared.full
        shared.add(self)
        self.deadline = self._time() + shared.settings.idle_timeout_s
        if shared.draining or (full and shared.overrun):
            self._transport.abort()
        elif full:
            self._turned_away = True
            shared.turned_away += 1
            most = shared.settings.max_connections
            self._reader.refuse(
                503,
                f"all connections that http.max_connections allows ({most}) are in use; "
                "try again later, or raise http.max_connections",
            )
            self.proceed()

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if self._ended or reader.finished:
            self._discard(len(data))
            return
        if self._unfed:  # reading is paused, but TLS had some decrypted
            self._unfed = memoryview(bytes(self._unfed) + data)
            return
        now = self._time()
        if len(data) <= reader.slice_bytes:
            reader.feed(data, now)
        else:
            self._unfed = memoryview(data)
            self._feed(now)
        self._answer(now)
        if reader.stage and not self._ended:
            self._await_rest(len(data), now)

    def eof_received(self) -> None:
        self._abandon()
        self._end(self._time())

    def connection_lost(self, error: Exception | None) -> None:
        self._ended = True
        self._abandon()
        self._unfed = b""
        self._reader.release()
        if self._turned_away:
            self.shared.turned_away -= 1
        self.shared.discard(self)

    def pause_writing(self) -> None:
        self._write_paused = True
        self._unsent = self._transport.get_write_buffer_size()
        self.deadline = self._time() + self.shared.settings.write_timeout_s

    def resume_writing(self) -> None:
        self._write_paused = False
        if not self._ended:
            self.deadline = inf
            self._continue_soon()

    # --- called by the server and its timer ---------------------------------------------------

    def expire(self, now: float) -> None:
        """`deadline` has passed."""
        shared = self.shared
        if self._write_paused or self._ended:
            unsent = self._transport.get_write_buffer_size()
            if unsent < self._unsent:
                self._unsent = unsent
                self.deadline = now + shared.settings.write_timeout_s
                return
            shared.stats.timeouts += unsent > 0
            self._transport.abort()
        elif self._reader.stage:
            shared.stats.timeouts += 1
            limit = shared.settings.read_timeout_s
            self._reader.refuse(
                408,
                f"the request did not arrive within http.read_timeout_s ({limit:g} s); send it "
                "faster, or raise http.read_timeout_s",
            )
            self.proceed()
        else:
            self._close(now)

    def retire(self) -> None:
        """Answer the next request as the last one; wait for it if there is none yet."""
        if not self._ended:
            self._reader.make_next_the_last()

    def drain(self) -> None:
        """Finish what has begun, then close; close at once if nothing has."""
        if self._ended:
            self._transport.close()
            return
        self._reader.finish()
        if self._reader.finished:
            self._unfed = b""
        self.proceed()

    def cut(self) -> bool:
        """Close without ado; was something unfinished?"""
        busy = bool(self._queue or self._reader.requests or self._reader.stage)
        busy = busy or self._transport.get_write_buffer_size() > 0
        self._transport.abort()
        return busy

    def proceed(self) -> None:
        """Do what can be done now; after an answer is ready, or a wait has ended."""
        self._continuing = False
        if self._ended:
            return
        now = self._time()
        if self._unfed:
            self._feed(now)
        self._answer(now)
        if self._reader.stage and not self._ended:
            self._await_rest(0, now)

    # --- the flow -----------------------------------------------------------------------------

    def _feed(self, now: float) -> None:
        """Read on in what has been received, until a request is complete."""
        reader = self._reader
        while self._unfed and not reader.requests and not reader.finished:
            size = max(reader.slice_bytes, reader.body_left)
            piece, self._unfed = self._unfed[:size], self._unfed[size:]
            reader.feed(piece, now)

    def _answer(self, now: float) -> None:
        """Have requests handled, write what is ready, decide what to wait for."""
        reader, queue = self._reader, self._queue
        requests = reader.requests
        out: Parts = []
        size = self._take_ready(out) if queue else 0
        turn = self._max_pipelined  # then others get theirs
        while requests and turn and not self._write_paused and len(queue) < self._max_pipelined:
            turn -= 1
            request = requests.popleft()
            self._stats.requests += 1
            response: Response | None
            try:
                answer = self._handler(request)
                if isinstance(answer, Response):
                    response = answer
                else:
                    response = None
                    self._begin(request, answer)
            except Exception as error:  # noqa: BLE001 - whatever escapes is reported, not shown
                response = self._failed(error, request)
            if response is None:
                continue
            if queue:
                queue.append(Exchange(request, response))
                continue
            size += self._render(out, response, request)
            if size > _WRITE_BYTES:
                self._write(out, size)
                out = []
                size = 0
        if out:
            self._write(out, size)
        if reader.finished and not requests:
            self._wind_up(now)
        elif requests or self._unfed or self._write_paused or len(queue) >= self._max_pipelined:
            self._hold(now)
        else:
            if self._read_paused:
                self._resume_reading(now)
            if queue:
                self.deadline = inf
            elif turn < self._max_pipelined or self.deadline == inf:  # not for a mere line break
                self.deadline = now + self._idle_timeout_s

    def _begin(self, request: Request, awaitable: Awaitable[Response]) -> None:
        """Give a coming answer its place in the line. Raises TypeError when it cannot come."""
        exchange = Exchange(request)
        exchange.begin(self, awaitable)
        self._queue.append(exchange)

    def _failed(self, error: Exception, request: Request) -> Response:
        self.shared.report(error, request)
        return error_response(500, _INTERNAL)

    def _take_ready(self, out: Parts) -> int:
        """Render the answers that are ready and next in line."""
        queue = self._queue
        size = 0
        while queue and not self._write_paused:
            response = queue[0].response
            if response is None:
                break
            size += self._render(out, response, queue.popleft().request)
            if size > _WRITE_BYTES:
                self._write(out, size)
                out.clear()
                size = 0
        return size

    def _render(self, out: Parts, response: Response, request: Request) -> int:
        reader = self._reader
        end = STAY_1_0 if reader.says_keep_alive else STAY
        if reader.finished and not (reader.requests or self._queue or reader.refusal):
            end = CLOSE
        mark = len(out)
        head_only = request.method == "HEAD"
        try:
            return self._writer.render(out, response, end, head_only)
        except Exception as error:  # noqa: BLE001 - what is no response came from the handler
            del out[mark:]
            return self._writer.render(out, self._failed(error, request), end, head_only)

    def _write(self, out: Parts, size: int) -> None:
        if size > _WRITE_BYTES:
            self._transport.writelines(out)
        else:
            self._transport.write(b"".join(out))

    def _hold(self, now: float) -> None:
        """Read no more before what was read is handled and what was answered is taken."""
        if not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()
        if not self._write_paused:
            self.deadline = inf
            if len(self._queue) < self._max_pipelined:
                self._continue_soon()

    def _resume_reading(self, now: float) -> None:
        self._read_paused = False
        self._since = now
        self._received = 0
        self._transport.resume_reading()

    def _continue_soon(self) -> None:
        if not self._continuing:
            self._continuing = True
            self.shared.loop.call_soon(self.proceed)

    def _await_rest(self, size: int, now: float) -> None:
        """A request is incomplete, `size` bytes came: until when must more have come?"""
        reader = self._reader
        if self._read_paused:
            return
        if reader.received_at > self._since:
            self._since = reader.received_at
            self._received = 0
        self._received += size
        if reader.expects_continue and reader.stage == BODY and not self._queue:
            reader.expects_continue = False
            self._transport.write(CONTINUE)
            self._since = now
        allowed_at = min(now, self._since + self._received / MIN_RATE)
        self.deadline = allowed_at + self.shared.settings.read_timeout_s

    # --- the end ------------------------------------------------------------------------------

    def _wind_up(self, now: float) -> None:
        """No request comes any more: end when all are answered."""
        refusal = self._reader.refusal
        if refusal is not None and not self._write_paused:
            self._reader.refusal = None
            self._refused = True
            self.shared.stats.refused += 1
            again = ((b"retry-after", b"1"),) if refusal.status == 503 else ()
            response = error_response(refusal.status, refusal.message, *again)
            self._queue.append(Exchange(_NO_REQUEST, response))
            out: Parts = []
            size = self._take_ready(out)
            if out:
                self._write(out, size)
        if self._write_paused:
            return
        if self._queue or self._reader.refusal:
            self.deadline = inf
        elif self._refused:
            self._linger(now)
        else:
            self._close(now)

    def _linger(self, now: float) -> None:
        self._end(now)
        self.deadline = now + LINGER_S
        self._received = 0
        if self._transport.can_write_eof():
            self._transport.write_eof()
        if self._read_paused:
            self._resume_reading(now)

    def _close(self, now: float) -> None:
        self._end(now)
        self._transport.close()

    def _end(self, now: float) -> None:
        self._ended = True
        self._unsent = self._transport.get_write_buffer_size()
        self.deadline = now + self.shared.settings.write_timeout_s

    def _abandon(self) -> None:
        self.lost = True
        self._reader.requests.clear()
        while self._queue:
            self._queue.popleft().abandon()

    def _discard(self, size: int) -> None:
        self._received += size
        if self._received > LINGER_BYTES:
            self._transport.abort()


_NO_REQUEST: Final = Request("", "", "", {}, b"", 0.0)
