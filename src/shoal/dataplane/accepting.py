"""Accepts connections from sockets on which other processes accept too, so that each gets its part.

The kernel wakes every process for a new connection, and the first takes it. An event loop's own
server then takes all that wait, so that one process ends with most of the clients, and clients keep
their connections for hours. Here one is taken a wake, and a process that has clearly more than
another lets the others go first. Must not know what the connections speak.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from shoal.dataplane.shares import Share

# What others have to take a connection: enough to be woken on a busy machine. Who has too many
# takes it then all the same, since the others may hang.
_GIVE_WAY_S: Final = 0.002
_AFTER_GIVING_WAY: Final = 8  # connections taken then at once: thousands a second, in any case
_FULL_WAIT_S: Final = 0.5  # when the process or the machine has no descriptor or memory to spare


@dataclass(frozen=True, slots=True)
class Accepted:
    """How a connection begins. connections: open ones, without those this module is starting.
    handshake_s: for TLS; None: asyncio's own limit."""

    make_protocol: Callable[[], asyncio.BaseProtocol]
    connections: Callable[[], int]
    tls: ssl.SSLContext | None = None
    handshake_s: float | None = None


class Acceptor:
    """Accepts from the listening `sockets`, on the running loop, from its making until `close`.

    It owns the sockets: closing them leaves those of the other processes open.
    """

    def __init__(self, sockets: Sequence[socket.socket], accepted: Accepted, share: Share) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = tuple(sockets)
        self._accepted = accepted
        self._share = share
        self._starting: set[asyncio.Task[None]] = set()
        self._paused: dict[socket.socket, asyncio.TimerHandle] = {}
        self._closed = False
        self.tell()
        for listener in self._sockets:
            listener.setblocking(False)
            self._listen_again(listener)

    def tell(self) -> None:
        """The number of connections has changed."""
        if not self._closed:
            self._share.tell(self._accepted.connections() + len(self._starting))

    def close(self) -> None:
        """Accept no more; what was accepted goes on."""
        if self._closed:
            return
        self._share.leave()
        self._closed = True
        for timer in self._paused.values():
            timer.cancel()
        for listener in self._sockets:
            self._loop.remove_reader(listener.fileno())
            listener.close()

    async def wait_closed(self) -> None:
        """Until every connection that was accepted has begun."""
        if self._starting:
            await asyncio.wait(self._starting)

    # --- accepting ------------------------------------------------------------------------------

    def _readable(self, listener: socket.socket) -> None:
        self.tell()
        if self._share.is_fair():
            self._take(listener)
        else:
            self._pause(listener, _GIVE_WAY_S)

    def _pause(self, listener: socket.socket, wait_s: float) -> None:
        self._loop.remove_reader(listener.fileno())
        self._paused[listener] = self._loop.call_later(wait_s, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        del self._paused[listener]
        for _ in range(_AFTER_GIVING_WAY):
            if not self._take(listener):
                break
        if listener not in self._paused:
            self._listen_again(listener)

    def _listen_again(self, listener: socket.socket) -> None:
        self._loop.add_reader(listener.fileno(), self._readable, listener)

    def _take(self, listener: socket.socket) -> bool:
        """Accept one; was there one?"""
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # another process took it, or its client left
        except OSError as error:
            # Others may have room. Meanwhile the client waits in the kernel.
            self._loop.call_exception_handler(
                {"message": "cannot accept a connection", "exception": error}
            )
            self._pause(listener, _FULL_WAIT_S)
            return False
        connection.setblocking(False)
        task = self._loop.create_task(self._begin(connection))
        self._starting.add(task)
        task.add_done_callback(self._begun)
        self.tell()
        return True

    async def _begin(self, connection: socket.socket) -> None:
        accepted = self._accepted
        try:
            await self._loop.connect_accepted_socket(
                accepted.make_protocol, connection, ssl=accepted.tls,
                ssl_handshake_timeout=accepted.handshake_s if accepted.tls else None,
            )
        except (OSError, EOFError):  # TLS failures are among the first: the client's own affair
            with contextlib.suppress(OSError):
                connection.close()

    def _begun(self, task: asyncio.Task[None]) -> None:
        self._starting.discard(task)
        self.tell()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler(
                {"message": "a connection could not be started", "exception": error}
            )
