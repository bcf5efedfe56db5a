"""One gRPC connection: bytes of a socket through the sans-IO HTTP/2 of `codecs`, and its time.

Calls are `dispatch`'s. Here is when to read, to write, to look whether the client still does its
part, and how a connection ends.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import Final, cast

from shoal.codecs.http2 import (
    ConnectionEnded,
    DataReceived,
    ErrorCode,
    PingAcknowledged,
    RequestReceived,
    ServerConnection,
    StreamReset,
    TrailersReceived,
)
from shoal.dataplane.grpc.dispatch import Dispatcher
from shoal.dataplane.grpc.shared import Shared

_WRITE_BYTES: Final = 64 * 1024  # joined into one write
_SECOND_GOAWAY_S: Final = 1.0  # how long the answer to the ping between the two is waited for
_DRAIN: Final = b"draining"
_ALIVE: Final = b"alive? \0"


class Connection(asyncio.Protocol):
    """`look_at`: the loop's time at which `look` is due."""

    __slots__ = (
        "_closing", "_dispatcher", "_flushing", "_heard_at", "_http2", "_last_goaway_at",
        "_made_at", "_moved_at", "_paused", "_pinged_at", "_shared", "_time", "_transport",
        "_unsent", "look_at",
    )

    _transport: asyncio.Transport

    def __init__(self, shared: Shared) -> None:
        self.look_at = 0.0
        self._shared = shared
        self._time = shared.loop.time
        self._http2 = ServerConnection(shared.options)
        self._dispatcher = Dispatcher(shared, self._http2, self._flush_soon)
        self._paused = False  # the socket takes nothing
        self._flushing = False  # a flush is scheduled
        self._closing = False
        self._made_at = self._heard_at = self._moved_at = self._time()
        self._pinged_at = inf  # no answer is awaited
        self._last_goaway_at = inf
        self._unsent = 0

    # --- called by the transport ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # Pause as soon as the kernel does not take everything, so that streams share what it does.
        # Not 0: asyncio's TLS transport would pause at 0 bytes and never resume.
        self._transport.set_write_buffer_limits(high=1)
        full = self._shared.full
        self._shared.add(self)
        if self._shared.draining:
            self._transport.abort()
        elif full:
            most = self._shared.settings.max_connections
            self._http2.fail(
                ErrorCode.ENHANCE_YOUR_CALM,
                f"all connections that grpc.max_connections allows ({most}) are in use",
            )
            self._close()
        else:
            self._flush()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        now = self._heard_at = self._time()
        self.look_at = 0.0
        dispatcher = self._dispatcher
        for event in self._http2.receive(data, now):
            if type(event) is RequestReceived:
                dispatcher.begin(event, now)
            elif type(event) is DataReceived:
                dispatcher.go_on(event.stream, event.data, event.ended, now)
            elif type(event) is TrailersReceived:
                dispatcher.go_on(event.stream, b"", True, now)
            elif type(event) is StreamReset:
                dispatcher.forget(event.stream)
            elif type(event) is PingAcknowledged:
                if event.payload == _DRAIN and self._last_goaway_at < inf:
                    self._say_last()
            elif type(event) is ConnectionEnded:
                self._shared.stats.ended += 1
                self._close()
                return
        self._flush()

    def eof_received(self) -> None:
        self._dispatcher.abandon()

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        self._dispatcher.abandon()
        self._shared.discard(self)

    def pause_writing(self) -> None:
        self._paused = True
        self._unsent = self._transport.get_write_buffer_size()
        self._moved_at = self._time()
        self.look_at = 0.0

    def resume_writing(self) -> None:
        self._paused = False
        self._moved_at = self._time()
        if not self._closing:
            self._flush()

    # --- called by the server and its timer -----------------------------------------------------

    def look(self, now: float) -> None:
        """Is anything late? Due at `look_at`."""
        settings = self._shared.settings
        self.look_at = now
        if now >= self._last_goaway_at:
            self._say_last()
        if self._closing or self._paused or self._http2.pending_bytes:
            self._look_at_writing(now)
        elif self._http2.open_streams:
            self._dispatcher.look(now)
            self._look_for_life(now)
        elif self._last_goaway_at < inf:
            pass
        elif self._dispatcher.calls == 0 and now < self._made_at + settings.read_timeout_s:
            self.look_at = self._made_at + settings.read_timeout_s
        elif self._dispatcher.calls == 0:
            self._shared.stats.timeouts += 1
            self.drain()
        elif settings.idle_timeout_s and now >= self._heard_at + settings.idle_timeout_s:
            self.drain()
        else:
            self.look_at = self._heard_at + (settings.idle_timeout_s or inf)

    def retire(self) -> None:
        """As `drain`: HTTP/2 can tell an idle client that it shall go elsewhere."""
        self.drain()

    def drain(self) -> None:
        """Tell the client to make no new calls here, finish what has begun, then close.

        In two steps, a round trip apart, so that calls which the client made before it knew are
        answered too (RFC 9113, 6.8).
        """
        if self._dispatcher.draining or self._closing:
            return
        self._http2.goaway()
        self._http2.ping(_DRAIN)
        self._last_goaway_at = self._time() + _SECOND_GOAWAY_S
        self.look_at = 0.0
        self._dispatcher.drain()
        self._flush()

    def cut(self) -> bool:
        """Close without ado; was something unfinished?"""
        busy = bool(self._http2.open_streams or self._http2.pending_bytes)
        busy = busy or self._transport.get_write_buffer_size() > 0
        self._transport.abort()
        return busy

    # --- lateness -------------------------------------------------------------------------------

    def _look_at_writing(self, now: float) -> None:
        """Does the client take what there is for it?"""
        unsent = self._transport.get_write_buffer_size()
        if unsent < self._unsent:
            self._moved_at = now
        self._unsent = unsent
        if now > self._moved_at + self._shared.settings.write_timeout_s:
            self._shared.stats.timeouts += 1
            self._transport.abort()

    def _look_for_life(self, now: float) -> None:
        """Is the client of calls in progress still there?"""
        settings = self._shared.settings
        if self._heard_at >= self._pinged_at:
            self._pinged_at = inf
        if self._pinged_at < inf:
            if now > self._pinged_at + settings.keepalive_timeout_s:
                self._shared.stats.timeouts += 1
                self._transport.abort()
        elif settings.keepalive_s and now > self._heard_at + settings.keepalive_s:
            self._pinged_at = now
            self._http2.ping(_ALIVE)
            self._flush()

    # --- writing --------------------------------------------------------------------------------

    def _flush_soon(self) -> None:
        """Once for all answers of this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self._shared.loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write as long as the socket takes something."""
        self._flushing = False
        http2, transport = self._http2, self._transport
        wrote = False
        while not self._paused:
            parts = http2.take()
            if not parts:
                break
            wrote = True
            if len(parts) == 1:
                transport.write(parts[0])
            elif sum([len(part) for part in parts]) <= _WRITE_BYTES:
                transport.write(b"".join(parts))
            else:
                transport.writelines(parts)
        if wrote and not self._closing:
            self._moved_at = self._time()
            self._dispatcher.sent()
        if (
            self._dispatcher.draining and self._last_goaway_at == inf and not self._closing
            and not (http2.open_streams or http2.pending_bytes)
        ):
            self._close()

    # --- the end --------------------------------------------------------------------------------

    def _say_last(self) -> None:
        """The second GOAWAY: calls that come from now on are not looked at."""
        self._last_goaway_at = inf
        self._http2.goaway()
        self._flush()

    def _close(self) -> None:
        """Write what is queued and close."""
        self._dispatcher.abandon()
        self._closing = True
        self._unsent = 0
        self._moved_at = self._time()
        self._flush()
        self._transport.close()
