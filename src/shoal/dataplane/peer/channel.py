"""What both sides of a link have in common: a socket that is written once a loop turn.

Must not know requests and replies. Not an `asyncio.BufferedProtocol`: with frames of 300 bytes by
the dozen, and of 60 KB, the two cost the same on uvloop.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Final, cast

from shoal.codecs.peer import Outbox, PeerFault, goaway_frame

# A link pauses as soon as the kernel does not take everything, so that what waits can still be put
# in order. Not 0: asyncio's TLS transport would pause at 0 bytes and never resume.
_HIGH_WATER_BYTES: Final = 1

# Of large bodies: a write, and a loop turn. Others get their turn in between.
_WRITE_BYTES: Final = 128 * 1024
_TURN_BYTES: Final = 1024**2


class Channel(asyncio.Protocol, ABC):
    """out: what the conversation has to send.

    connected: between the transport's first call and its last. heard, said: something came, or was
    written, since somebody last set it to False; silent: theirs to count in.
    """

    _transport: asyncio.Transport

    def __init__(self, out: Outbox, loop: asyncio.AbstractEventLoop) -> None:
        self.connected = False
        self.heard = self.said = True
        self.silent = 0
        self._out = out
        self._loop = loop
        self._paused = False  # the socket takes nothing
        self._flushing = False  # a flush is scheduled

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        self.connected = True

    def data_received(self, data: bytes) -> None:
        self.heard = True
        try:
            self._receive(data)
        except PeerFault as fault:
            self._fail(fault.reason)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()

    @abstractmethod
    def _receive(self, data: bytes) -> None:
        """Raises PeerFault, which ends the link."""

    def _take(self) -> bytes:
        """The small frames to be written now."""
        return self._out.take()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._paused or not self.connected:
            return
        small = self._take()
        if small:
            self.said = True
            self._transport.write(small)
        out, written = self._out, 0
        while out.flow.due and not self._paused:
            if written >= _TURN_BYTES:
                self._flush_soon()
                return
            self.said = True
            self._transport.writelines(out.flow.take(_WRITE_BYTES))
            written += _WRITE_BYTES

    def _fail(self, reason: str) -> None:
        """Say why to the other side, and end."""
        if self.connected:
            self._transport.write(self._out.take() + goaway_frame(reason))
            self._transport.close()

    def _abort(self) -> None:
        if self.connected:
            self._transport.abort()
