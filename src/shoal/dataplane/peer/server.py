"""Waits for other instances, and answers what they ask. Must not know what that is."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shoal.codecs.peer import Hello
from shoal.dataplane.peer.addresses import UnixAddress, read_address
from shoal.dataplane.peer.listening import bound_address, listen_on, remove_socket
from shoal.dataplane.peer.options import LinkOptions
from shoal.dataplane.peer.served import Handler, ServedLink

_CUT_S: Final = 1.0  # what transports may take to say that they were cut


def _unheard(_peer: str, _message: bytes) -> None:
    pass


def _unnoticed(_why: str) -> None:
    pass


def _unhandled(error: BaseException) -> None:
    asyncio.get_running_loop().call_exception_handler(
        {"message": "a peer's request could not be handled", "exception": error}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEvents:
    """Called on the loop.

    on_message(instance, message): in the order in which they were sent. on_error: gets what escapes
    from the handler or from on_message. on_fault(why): a link was ended because the other side
    breaks the protocol, is silent, or belongs to another mesh.
    """

    on_message: Callable[[str, bytes], None] = _unheard
    on_error: Callable[[BaseException], None] = _unhandled
    on_fault: Callable[[str], None] = _unnoticed


class PeerServer:
    """On the running loop; `listen` once or more, then `shutdown`.

    handler: see `served.Handler`. Its awaitables are cancelled when their caller leaves or cancels.
    hello: who we are.
    """

    def __init__(
        self, handler: Handler, hello: Hello, events: ServerEvents | None = None,
        options: LinkOptions | None = None,
    ) -> None:
        self.handler = handler
        self.hello = hello
        self.options = options or LinkOptions()
        self.loop = asyncio.get_running_loop()
        self._events = events or ServerEvents()
        self._servers: list[asyncio.Server] = []
        self._files: list[tuple[str, int]] = []  # of Unix sockets: path, inode
        self._links: set[ServedLink] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._draining = False
        self._timer: asyncio.TimerHandle | None = None

    async def listen(self, address: str, tls: ssl.SSLContext | None = None) -> str:
        """The address that others can dial: the one given, with the port that it got.

        tls: for TCP; Unix sockets are for this user's processes alone, and plain. Raises
        InvalidSpecification when the address cannot be listened on.
        """
        wanted = read_address(address)
        sock = listen_on(wanted)
        got = bound_address(wanted, sock)
        if isinstance(got, UnixAddress):
            self._files.append((got.path, os.stat(got.path).st_ino))
            server = await self.loop.create_unix_server(lambda: ServedLink(self), sock=sock)
        else:
            server = await self.loop.create_server(
                lambda: ServedLink(self), sock=sock, ssl=tls,
                ssl_handshake_timeout=self.options.greet_s if tls else None,
            )
        self._servers.append(server)
        if self._timer is None:
            self._look_later()
        return str(got)

    @property
    def links(self) -> int:
        """Open now."""
        return len(self._links)

    async def shutdown(self, timeout_s: float) -> int:
        """Accept no links and refuse new requests, answer what was asked, cut what remains after
        `timeout_s` seconds; returns how many links were cut in the midst of something."""
        self._draining = True
        for server in self._servers:
            server.close()
        for path, inode in self._files:
            remove_socket(path, inode)
        for link in list(self._links):
            link.drain()
        cut = 0
        if not await self._emptied(timeout_s):
            cut = sum([link.cut() for link in list(self._links)])
            await self._emptied(_CUT_S)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for server in self._servers:
            await server.wait_closed()
        return cut

    async def _emptied(self, within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    # --- for links: `served.Host` ---------------------------------------------------------------

    def add(self, link: ServedLink) -> None:
        self._links.add(link)
        self._empty.clear()
        if self._draining:
            link.cut()

    def discard(self, link: ServedLink) -> None:
        self._links.discard(link)
        if not self._links:
            self._empty.set()

    def message(self, peer: str, payload: bytes) -> None:
        self._events.on_message(peer, payload)

    def report(self, error: BaseException) -> None:
        self._events.on_error(error)

    def fault(self, why: str) -> None:
        self._events.on_fault(why)

    # --- silence --------------------------------------------------------------------------------

    def _look_later(self) -> None:
        self._timer = self.loop.call_later(self.options.ping_s, self._look)

    def _look(self) -> None:
        self._look_later()
        options = self.options
        for link in list(self._links):
            link.looks += 1
            link.silent = 0 if link.heard else link.silent + 1
            link.heard = False
            if link.silent >= options.silent_looks:
                link.end(f"nothing came for {options.silence_s:g} s")
            elif not link.greeted and link.looks * options.ping_s > options.greet_s:
                link.end("it did not introduce itself")
