"""Requests that wait for the core's word: numbered futures.

A copy that comes as an answer is retained until the waiting request has it, so that it cannot be
unloaded in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeAlias

from shoal.domain import commands as do
from shoal.domain.errors import DeadlineExceeded, ShoalError, ShuttingDown, Unavailable, family
from shoal.node.elsewhere import Elsewhere
from shoal.node.live import LiveCopy

_Answer: TypeAlias = LiveCopy | Elsewhere | None
_Waiting: TypeAlias = asyncio.Future[_Answer]

_BY_CODE: Final = {kind.code: kind for kind in family(ShoalError)}


class Tickets:
    """`on_abandoned` is called with the number of a ticket for which nobody waits any more."""

    def __init__(self, on_abandoned: Callable[[int], None]) -> None:
        self._on_abandoned = on_abandoned
        self._futures: dict[int, _Waiting] = {}
        self._last = 0
        self._draining = False

    def __len__(self) -> int:
        return len(self._futures)

    def issue(self) -> int:
        """A new number; `wait` for it, or `forget` it. Raises ShuttingDown when draining."""
        if self._draining:
            raise ShuttingDown("this instance is shutting down; ask another one", 1.0)
        self._last += 1
        self._futures[self._last] = asyncio.get_running_loop().create_future()
        return self._last

    async def wait(self, ticket: int, timeout_s: float, what: str) -> _Answer:
        """The answer; a copy is retained, and the caller must release it. Raises what the core
        refuses with, DeadlineExceeded after `timeout_s`."""
        future = self._futures[ticket]
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(future)
        except TimeoutError:
            self.forget(ticket)
            raise DeadlineExceeded(
                f"{what} was not ready within {timeout_s:g} s; it goes on loading, try again later"
            ) from None
        except asyncio.CancelledError:
            self.forget(ticket)
            raise
        finally:
            self._futures.pop(ticket, None)

    def forget(self, ticket: int) -> None:
        """Nobody waits for it any more."""
        future = self._futures.pop(ticket, None)
        if future is None:
            return
        if not future.done():
            future.cancel()
            self._on_abandoned(ticket)
        elif future.exception() is None and isinstance(copy := future.result(), LiveCopy):
            copy.release()

    def answer(self, ticket: int, found: _Answer) -> None:
        future = self._futures.get(ticket)
        if future is not None and not future.done():
            if isinstance(found, LiveCopy):
                found.retain()
            future.set_result(found)

    def refuse(self, refusal: do.Refuse) -> None:
        future = self._futures.get(refusal.ticket)
        if future is not None and not future.done():
            future.set_exception(_error(refusal))
            future.exception()  # whoever waits may be gone; asyncio need not complain

    def drain(self) -> None:
        """Issue no more."""
        self._draining = True

    def close(self) -> None:
        """Refuse all that still wait, and issue no more."""
        self._draining = True
        for future in self._futures.values():
            if not future.done():
                future.set_exception(ShuttingDown("this instance is shutting down", 1.0))
                future.exception()


def _error(refusal: do.Refuse) -> ShoalError:
    kind = _BY_CODE[refusal.code]
    if issubclass(kind, Unavailable):
        return kind(refusal.message, refusal.retry_after_s or 1.0)
    return kind(refusal.message)
