"""Follows changes in etcd over lost connections, members that hang, and compaction.

Nothing is lost and nothing told twice: a watch goes on behind the last revision that was told
whole, and etcd never splits a revision over answers unless asked to. Must not know what is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from shoal.domain.errors import StoreUnavailable
from shoal.observability.logs import get_logger
from shoal.ports import Compacted
from shoal.stores.etcd_answers import Fate, Refused, Unanswered
from shoal.stores.etcd_endpoint import Stream
from shoal.stores.etcd_link import Link
from shoal.stores.etcd_messages import (
    SIGN_OF_LIFE_REQUEST,
    WATCH,
    Event,
    Span,
    WatchAnswer,
    watch_request,
)

_WAIT_S: Final = (0.05, 1.0)  # between tries to go on: first, most

log = get_logger("shoal.stores")


@dataclass(frozen=True, slots=True)
class Patience:
    """pulse_s: a silent member is asked for a sign of life after so many seconds, and left after as
    many more. resume_s: how long a broken watch tries to go on before it says so."""

    pulse_s: float
    resume_s: float


async def follow(
    link: Link, span: Span, from_revision: int, patience: Patience,
    current_revision: Callable[[], Awaitable[int]],
) -> AsyncGenerator[Sequence[Event], None]:
    """The events of each answer, in order, with revision > `from_revision`.

    current_revision: of the store, as all members together know it. Raises Compacted and
    StoreUnavailable.
    """
    loop = asyncio.get_running_loop()
    watch = _Watch(link, span, from_revision, patience, current_revision)
    wait_s, broken_at = _WAIT_S[0], None
    while True:
        try:
            await watch.begin()
            wait_s, broken_at = _WAIT_S[0], None
            while True:
                events = await watch.next()
                if events:
                    yield events
        except _Broken as broken:
            link.check_open()
            log.debug("a watch of the registry broke off", why=str(broken.error))
            broken_at = loop.time() if broken_at is None else broken_at
            if loop.time() - broken_at > patience.resume_s:
                raise broken.error from None
        finally:
            watch.end()
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, _WAIT_S[1])


class _Broken(Exception):
    """The stream ended, for a reason that may pass. error: in words, if it does not."""

    def __init__(self, error: StoreUnavailable) -> None:
        super().__init__(error.message)
        self.error = error


class _Watch:
    """One watch, on one stream after the other."""

    def __init__(
        self, link: Link, span: Span, from_revision: int, patience: Patience,
        current_revision: Callable[[], Awaitable[int]],
    ) -> None:
        self._link = link
        self._span = span
        self._told = from_revision  # all changes up to here were told
        self._patience = patience
        self._current_revision = current_revision
        self._cluster: int | None = None
        self._stream: Stream[WatchAnswer] | None = None
        self._id = 0

    async def begin(self) -> None:
        """Watch from behind what was told. Raises _Broken, Compacted, StoreUnavailable."""
        try:
            answer = await self._create()
            if answer.canceled and _is_denied(answer) and self._link.sign_in_again():
                self.end()  # etcd before 3.5.9 calls an expired token a lack of permission
                answer = await self._create()
        except StoreUnavailable as error:
            self._link.check_open()
            raise _Broken(error) from None
        self._check(answer)
        cluster = answer.header.cluster_id
        if self._cluster not in (None, cluster):
            raise Compacted(answer.header.revision + 1)  # another cluster: its revisions are others
        self._cluster, self._id = cluster, answer.watch_id
        if answer.header.revision < self._told:
            # The member lags behind, or the store was replaced by a younger one.
            try:
                current = await self._current_revision()
            except StoreUnavailable as error:
                raise _Broken(error) from None
            if current < self._told:
                raise Compacted(current + 1)

    async def next(self) -> Sequence[Event]:
        """Of the next answer; may be none. Raises as `begin`."""
        answer = await self._read()
        self._check(answer)
        if not answer.events:
            if answer.watch_id == self._id:  # in order with events, as what was asked for is not
                self._told = max(self._told, answer.header.revision)
            return ()
        told, events = self._told, answer.events
        self._told = max(told, events[-1].kv.mod_revision)
        if events[0].kv.mod_revision > told:
            return events
        return [event for event in events if event.kv.mod_revision > told]

    def end(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cancel()

    async def _create(self) -> WatchAnswer:
        self._stream = await self._link.stream(WATCH)
        # From the last revision told, not behind it: what etcd has dropped is refused only below
        # the revision of compaction, yet the deletions of that very revision are gone as well.
        await self._write(watch_request(self._span, max(self._told, 1)))
        return await self._read(ask=False)

    def _check(self, answer: WatchAnswer) -> None:
        if answer.compact_revision:
            raise Compacted(answer.compact_revision + 1)
        if answer.canceled:
            raise self._link.in_words(Refused(answer.cancel_reason.removeprefix("etcdserver: ")))

    async def _write(self, request: bytes) -> None:
        stream = self._stream
        assert stream is not None
        try:
            async with asyncio.timeout(self._patience.pulse_s):
                await stream.write(request)
        except TimeoutError:
            raise self._broken(stream, Unanswered(Fate.UNKNOWN, "it takes nothing")) from None
        except (Unanswered, Refused) as error:
            raise self._broken(stream, error) from None

    async def _read(self, *, ask: bool = True) -> WatchAnswer:
        """The next answer. ask: for a sign of life, when there was none for long."""
        stream, pulse_s = self._stream, self._patience.pulse_s
        assert stream is not None
        reading = asyncio.ensure_future(stream.read())
        try:
            await asyncio.wait({reading}, timeout=pulse_s)
            if not reading.done() and ask:
                await self._write(SIGN_OF_LIFE_REQUEST)
                await asyncio.wait({reading}, timeout=pulse_s)
            if not reading.done():
                silent = Unanswered(Fate.UNKNOWN, "it gives no sign of life")
                raise self._broken(stream, silent)
            return await reading
        except (Unanswered, Refused) as error:
            raise self._broken(stream, error) from None
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _broken(self, stream: Stream[WatchAnswer], error: Unanswered | Refused) -> Exception:
        if isinstance(error, Refused):
            return self._link.in_words(error)
        if error.fate is Fate.TOKEN:
            self._link.sign_in_again()
        self._link.demote(stream.endpoint)
        return _Broken(self._link.unreachable({stream.endpoint.address: error.reason}))


def _is_denied(answer: WatchAnswer) -> bool:
    return any(word in answer.cancel_reason for word in ("permission denied", "auth", "user name"))
