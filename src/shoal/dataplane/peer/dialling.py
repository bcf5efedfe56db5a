"""Reaches for one member again and again, with growing waits. Must not know what a link is for."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable

from shoal.dataplane.peer.addresses import Address
from shoal.dataplane.peer.link import PeerLink
from shoal.dataplane.peer.options import LinkOptions


class Dialling:
    """Goes on until it is stopped; a link that is up then stays so.

    dial: gives a link that is up, or raises OSError. on_failure: gets why, once for equal reasons.
    ended: done when nothing is attempted any more.
    """

    def __init__(
        self, address: Address, dial: Callable[[], Awaitable[PeerLink]],
        on_failure: Callable[[str], None], options: LinkOptions,
    ) -> None:
        self.address = address
        self._dial = dial
        self._on_failure = on_failure
        self._options = options
        self.ended: asyncio.Task[None] = asyncio.create_task(self._run(), name=f"dial {address}")

    def stop(self) -> None:
        self.ended.cancel()

    async def _run(self) -> None:
        options, told = self._options, ""
        wait_s = options.redial_least_s
        loop = asyncio.get_running_loop()
        while True:
            try:
                link = await self._dial()
            except OSError as error:
                why = self._reason(error)
                if why != told:
                    told = why
                    self._on_failure(why)
            else:
                told, up_at = "", loop.time()
                await asyncio.wait((link.closed,))  # not itself: stopping would cancel it
                if loop.time() - up_at >= options.redial_most_s:
                    wait_s = options.redial_least_s
            # Spread: many instances lose the same one at the same moment.
            await asyncio.sleep(wait_s * random.uniform(0.75, 1.25))
            wait_s = min(options.redial_most_s, wait_s * 2)

    def _reason(self, error: OSError) -> str:
        if isinstance(error, ssl.SSLError):
            cause = getattr(error, "reason", None) or error.strerror or error  # not always set
            return f"{self.address} and this instance do not agree on TLS: {cause}"
        if isinstance(error, TimeoutError):
            return f"{self.address} does not answer"
        return f"{self.address}: {error.strerror or error}"
