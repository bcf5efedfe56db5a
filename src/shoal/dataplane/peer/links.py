"""Keeps a link to every other member, as far as it can be reached.

Must not know how members are found, nor what they are asked.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from shoal.codecs.peer import Hello, Requesting
from shoal.dataplane.peer.addresses import Address, UnixAddress, read_address
from shoal.dataplane.peer.dialling import Dialling
from shoal.dataplane.peer.link import PeerLink
from shoal.dataplane.peer.options import LinkOptions
from shoal.domain.errors import InvalidSpecification

_CLOSE_S: Final = 1.0  # what transports may take to say that they were cut
_GONE: Final = "the instance is no member of the mesh any more, or has another address"
_ENDING: Final = "this instance is shutting down"


def _nothing(*_: str) -> None:
    pass


def _unhandled(error: BaseException) -> None:
    asyncio.get_running_loop().call_exception_handler(
        {"message": "a peer's reply could not be handled", "exception": error}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkEvents:
    """Called on the loop; must not raise.

    on_up(instance): it can be asked. on_down(instance, why): it could, and cannot any more.
    on_unreachable(instance, why): an attempt to reach it failed, told once for equal reasons.
    on_error: gets what escapes from the callback of a reply, or goes wrong here.
    """

    on_up: Callable[[str], None] = _nothing
    on_down: Callable[[str, str], None] = _nothing
    on_unreachable: Callable[[str, str], None] = _nothing
    on_error: Callable[[BaseException], None] = _unhandled


class PeerLinks:
    """The links of this instance, on the running loop; implements `ports.Peers`.

    hello: who we are. tls: for TCP addresses; None: plain. Unix sockets are always plain.
    """

    def __init__(
        self, hello: Hello, events: LinkEvents | None = None, options: LinkOptions | None = None,
        *, tls: ssl.SSLContext | None = None,
    ) -> None:
        self._hello = hello
        self._events = events or LinkEvents()
        self._options = options or LinkOptions()
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._up: dict[str, PeerLink] = {}
        self._dialling: dict[str, Dialling] = {}
        self._links: set[PeerLink] = set()  # connected or about to be, retired ones too
        self._timer: asyncio.TimerHandle | None = None

    # --- for those who have something to ask ----------------------------------------------------

    def link(self, instance: str) -> PeerLink | None:
        """The link to a member that takes requests now."""
        link = self._up.get(instance)
        return None if link is None or link.leaving else link

    @property
    def up(self) -> list[str]:
        """The members that can be reached now."""
        return list(self._up)

    def tell(self, instance: str, message: bytes) -> bool:
        """See `ports.Peers`."""
        link = self._up.get(instance)
        return link is not None and link.send_message(message)

    # --- for those who know the members ---------------------------------------------------------

    def set_members(self, members: Mapping[str, str]) -> dict[str, str]:
        """Reach for these: addresses by instance id. Our own is ignored. Links to others close once
        their requests are answered. Returns why some cannot be reached, by id: their addresses are
        none."""
        wrong = {}
        for instance in [known for known in self._dialling if known not in members]:
            self._let_go(instance)
        for instance, text in members.items():
            if instance == self._hello.instance:
                continue
            try:
                self._reach(instance, read_address(text))
            except InvalidSpecification as error:
                wrong[instance] = f"instance {instance!r} cannot be reached: {error.message}"
        return wrong

    async def close(self) -> None:
        """Cut all links; what waits for a reply is told Lost."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        dialling, self._dialling = list(self._dialling.values()), {}
        for each in dialling:
            each.stop()
        self._up.clear()
        links = [link for link in self._links if link.connected]
        for link in links:
            link.cut(_ENDING)
        ends: list[asyncio.Future[None] | asyncio.Future[str]] = [
            *(each.ended for each in dialling), *(link.closed for link in links),
        ]  # fmt: skip
        if ends:
            await asyncio.wait(ends, timeout=_CLOSE_S)

    def _reach(self, instance: str, address: Address) -> None:
        dialling = self._dialling.get(instance)
        if dialling is not None:
            if dialling.address == address:
                return
            self._let_go(instance)

        async def dial() -> PeerLink:
            return await self._dial(instance, address)

        dialling = self._dialling[instance] = Dialling(
            address, dial, lambda why: self._events.on_unreachable(instance, why), self._options
        )
        dialling.ended.add_done_callback(self._given_up)
        if self._timer is None:
            self._look_later()

    def _given_up(self, ended: asyncio.Task[None]) -> None:
        """Only a mistake ends dialling by itself."""
        error = None if ended.cancelled() else ended.exception()
        if error is not None:
            self._events.on_error(error)

    def _let_go(self, instance: str) -> None:
        self._dialling.pop(instance).stop()
        link = self._up.pop(instance, None)
        if link is not None:
            link.retire(_GONE)
            self._events.on_down(instance, _GONE)

    # --- links ----------------------------------------------------------------------------------

    async def _dial(self, instance: str, address: Address) -> PeerLink:
        """A link that is up. Raises OSError (TimeoutError, ConnectionError, SSLError)."""
        loop = self._loop
        greeted: asyncio.Future[None] = loop.create_future()

        def on_up(link: PeerLink) -> None:
            self._up[instance] = link
            greeted.set_result(None)
            self._events.on_up(instance)

        wire = Requesting(self._hello, instance, self._options.limits, self._events.on_error)
        link = PeerLink(wire, on_up, loop)
        self._links.add(link)
        link.closed.add_done_callback(lambda closed: self._lost(instance, link, closed.result()))
        try:
            async with asyncio.timeout(self._options.greet_s):
                await self._connect(link, address)
                await asyncio.wait((greeted, link.closed), return_when=asyncio.FIRST_COMPLETED)
        except BaseException:  # it may be up by now, but nobody will look after it
            link.cut("the other side did not introduce itself in time")
            # uvloop does not tell this of a connection whose making is cancelled at its very end.
            link.connection_lost(None)
            raise
        if not greeted.done():
            raise ConnectionError(link.closed.result())
        return link

    async def _connect(self, link: PeerLink, address: Address) -> None:
        if isinstance(address, UnixAddress):
            await self._loop.create_unix_connection(lambda: link, address.path)
            return
        await self._loop.create_connection(
            lambda: link, address.host, address.port, ssl=self._tls,
            ssl_handshake_timeout=self._options.greet_s if self._tls else None,
        )

    def _lost(self, instance: str, link: PeerLink, why: str) -> None:
        self._links.discard(link)
        if self._up.get(instance) is link:
            del self._up[instance]
            self._events.on_down(instance, why)

    # --- silence --------------------------------------------------------------------------------

    def _look_later(self) -> None:
        self._timer = self._loop.call_later(self._options.ping_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._links or self._dialling:
            self._look_later()
        options = self._options
        for link in list(self._links):
            if not link.up:
                continue  # `_dial` has its own limit
            if not (link.heard and link.said):
                link.ping()
            link.silent = 0 if link.heard else link.silent + 1
            link.heard = link.said = False
            if link.silent >= options.silent_looks:
                link.cut(f"nothing came for {options.silence_s:g} s")
