"""A link that this instance dialled: its requests and messages go out here.

Must not know what they contain, nor which members there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from shoal.codecs.peer import Hello, OnReply, PeerCall, Requesting
from shoal.dataplane.peer.channel import Channel


class PeerLink(Channel):
    """wire: the conversation, not begun. on_up: the other side has introduced itself.

    closed: becomes why the link ended; never an exception. up: the other side is known to be who
    was called.
    """

    def __init__(
        self, wire: Requesting, on_up: Callable[[PeerLink], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(wire.out, loop)
        self.closed: Final[asyncio.Future[str]] = loop.create_future()
        self.up = False
        self._wire = wire
        self._on_up = on_up
        self._why = ""
        self._retiring = False

    # --- for those who have something to ask ----------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Requests without a reply."""
        return self._wire.in_flight

    @property
    def peer(self) -> Hello | None:
        """Who is at the other end, once known."""
        return self._wire.peer

    @property
    def leaving(self) -> str:
        """Why no request is taken any more; "" while they are."""
        return self._wire.leaving

    def request(self, call: PeerCall, on_reply: OnReply) -> int | None:
        """Send `call`; `on_reply` gets the reply, or Lost, on the loop and never from within.

        Returns what `cancel` takes, or None when the call is not taken: the other side leaves, or
        too much waits already. Then nothing was sent and `on_reply` will not be called. Raises
        ValueError for a call that can never be sent.
        """
        stream = self._wire.request(call, on_reply)
        if stream is not None and not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        return stream

    def cancel(self, stream: int) -> None:
        """Nobody waits for the reply any more; does nothing once it came."""
        self._wire.cancel(stream)
        self._flush_soon()
        self._close_when_done()

    def send_message(self, message: bytes) -> bool:
        """False: it is not taken, and will not arrive. True: it may still be lost with the link.
        Raises ValueError beyond `MAX_MESSAGE_BYTES`."""
        taken = self._wire.message(message)
        self._flush_soon()
        return taken

    # --- for those who look after links ---------------------------------------------------------

    def ping(self) -> None:
        self._wire.ping()
        self._flush_soon()

    def retire(self, why: str) -> None:
        """Take no more requests; close when the last one is answered."""
        self._retiring = True
        self._wire.leaving = self._wire.leaving or why
        self._close_when_done()

    def cut(self, why: str) -> None:
        """Close without ado; what waits for a reply is told Lost."""
        self._why = self._why or why
        self._abort()

    # --- called by the transport ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._why:
            self._abort()
        else:
            self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        self.connected = False
        why = (
            self._why or self._wire.leaving
            or (f"the link was lost: {error}" if error else "the other side closed the link")
        )  # fmt: skip
        if not self.closed.done():
            self.closed.set_result(why)
        self._wire.lose(why)

    def _receive(self, data: bytes) -> None:
        self._wire.receive(data)
        if not self.up and self._wire.peer is not None:
            self.up = True
            self._on_up(self)
        if self._out:
            self._flush_soon()
        if self._retiring:
            self._close_when_done()

    def _take(self) -> bytes:
        return self._wire.take()

    def _fail(self, reason: str) -> None:
        self._why = self._wire.leaving = reason
        super()._fail(reason)

    def _close_when_done(self) -> None:
        if self._retiring and self.connected and not self._wire.in_flight and not self._out:
            self._transport.close()
