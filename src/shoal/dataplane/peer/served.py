"""A link that another instance dialled: its requests are answered here.

Must not know what they contain, nor who else is linked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeAlias

from shoal.codecs.peer import Answering, Hello, Outcome, PeerCall, PeerReply
from shoal.dataplane.peer.channel import Channel
from shoal.dataplane.peer.options import LinkOptions

# A handler answers at once, which costs no task, or gives an awaitable that will; that one is
# cancelled when the other side does not wait any more.
Handler: TypeAlias = Callable[[PeerCall], "PeerReply | Awaitable[PeerReply]"]

_FAILED: Final = b"the instance failed to handle the request; its log says why"
_LEAVING: Final = "the instance is shutting down"

# What may wait for a socket that takes nothing before no more requests are read: who does not
# read replies gets no new ones made.
_UNREAD_BYTES: Final = 1024**2


class Host(Protocol):
    """Who listens."""

    handler: Handler
    hello: Hello
    options: LinkOptions
    loop: asyncio.AbstractEventLoop

    def add(self, link: ServedLink) -> None: ...

    def discard(self, link: ServedLink) -> None: ...

    def message(self, peer: str, payload: bytes) -> None: ...

    def report(self, error: BaseException) -> None:
        """What escaped from a handler."""

    def fault(self, why: str) -> None:
        """A link was ended because of what the other side did."""


class ServedLink(Channel):
    """looks: how often somebody looked whether it is silent; theirs to count in."""

    def __init__(self, host: Host) -> None:
        self._wire = Answering(host.hello, host.options.limits, self)
        super().__init__(self._wire.out, host.loop)
        self.looks = 0
        self._host = host
        self._handler = host.handler
        self._tasks: dict[int, asyncio.Future[None]] = {}
        self._receiving = False
        self._draining = False
        self._unread = False  # reading is paused

    @property
    def greeted(self) -> bool:
        """Is it known who asks?"""
        return self._wire.peer is not None

    # --- what is asked: `codecs.peer.Asked` -----------------------------------------------------

    def on_call(self, stream: int, call: PeerCall) -> None:
        try:
            answer = self._handler(call)
        except Exception as error:  # noqa: BLE001 - one call's fault must not cost the others
            self._failed(stream, error)
            return
        if isinstance(answer, PeerReply):
            self._reply(stream, answer)
            return
        task = self._tasks[stream] = asyncio.ensure_future(self._wait(stream, answer))
        task.add_done_callback(lambda _: self._over(stream, task))

    def on_cancel(self, stream: int) -> None:
        task = self._tasks.pop(stream, None)
        if task is not None:
            task.cancel()

    def on_message(self, peer: str, payload: bytes) -> None:
        try:
            self._host.message(peer, payload)
        except Exception as error:  # noqa: BLE001 - one message's fault must not cost the link
            self._host.report(error)

    async def _wait(self, stream: int, answer: Awaitable[PeerReply]) -> None:
        try:
            self._reply(stream, await answer)
        except Exception as error:  # noqa: BLE001 - as in `on_call`
            self._failed(stream, error)

    def _over(self, stream: int, task: asyncio.Future[None]) -> None:
        if self._tasks.get(stream) is not task:
            return
        del self._tasks[stream]
        if task.cancelled():  # by the handler itself: the other side still waits
            self._reply(stream, PeerReply(Outcome.FAILED, b"", [_FAILED]))

    def _failed(self, stream: int, error: BaseException) -> None:
        self._host.report(error)
        self._reply(stream, PeerReply(Outcome.FAILED, b"", [_FAILED]))

    def _reply(self, stream: int, reply: PeerReply) -> None:
        try:
            self._wire.reply(stream, reply)
        except ValueError as error:
            self._host.report(error)
            self._wire.reply(stream, PeerReply(Outcome.FAILED, b"", [str(error).encode()]))
        if not self._receiving:
            self._flush_soon()

    # --- for the server -------------------------------------------------------------------------

    def drain(self) -> None:
        """Refuse new requests, close when the last one is answered."""
        self._draining = True
        self._wire.leave(_LEAVING)
        self._flush()

    def cut(self) -> bool:
        """Close without ado; was something unfinished?"""
        busy = self._wire.busy
        self._abort()
        return busy

    def end(self, why: str) -> None:
        """Because of what the other side did, or did not."""
        self._blame(why)
        self._abort()

    # --- called by the transport ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._host.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.connected = False
        tasks, self._tasks = self._tasks, {}
        for task in tasks.values():
            task.cancel()
        self._host.discard(self)

    def resume_writing(self) -> None:
        # The other side lives, though nothing was read of what it says.
        self.heard = True
        super().resume_writing()

    def _receive(self, data: bytes) -> None:
        self._receiving = True
        try:
            self._wire.receive(data)
        finally:
            self._receiving = False
        self._flush()

    def _flush(self) -> None:
        super()._flush()
        if not self.connected:
            return
        unread = self._paused and self._out.frame_bytes > _UNREAD_BYTES
        if unread != self._unread:
            self._unread = unread
            if unread:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()
        if self._draining and not self._wire.busy:
            self._transport.close()

    def _fail(self, reason: str) -> None:
        self._blame(reason)
        super()._fail(reason)

    def _blame(self, why: str) -> None:
        peer = self._wire.peer
        who = "somebody" if peer is None else f"instance {peer.instance}"
        self._host.fault(f"the link from {who} was cut: {why}")
