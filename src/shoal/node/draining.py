"""Lets this instance leave its mesh while it goes on answering, and come back.

The one place where operators steer an instance rather than its models. Must not know how they ask.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Final, Protocol

from shoal.domain.errors import Conflict, InvalidRequest
from shoal.domain.views import Drained
from shoal.node.asking import Links
from shoal.node.instance import Instance
from shoal.node.questions import Leave

LONGEST_S: Final = 3600.0
_END_AFTER_S: Final = 0.2  # for the answer to be written


class Membership(Protocol):
    """This instance's place in its mesh; see `dataplane.peer.mesh.Mesh`."""

    @property
    def links(self) -> Links:
        """To the others."""

    @property
    def problems(self) -> list[str]:
        """What is wrong now, in sentences."""

    async def leave(self, timeout_s: float) -> None:
        """Let the others take over what was used lately; answers go on meanwhile."""

    def undo_leaving(self) -> None: ...


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Draining:
    """membership: None as long as this instance is in no mesh. end: ends the process in order."""

    def __init__(self, instance: Instance, end: Callable[[], None] = _end) -> None:
        self.membership: Membership | None = None
        self._instance = instance
        self._end = end
        self._leaving: asyncio.Task[None] | None = None

    async def leave(self, wish: Leave) -> Drained:
        """Answers when others have taken over, or after `timeout_s`. Raises Conflict, and
        InvalidRequest for a time that is none."""
        if not 0 <= wish.timeout_s <= LONGEST_S:
            raise InvalidRequest(f"timeout_s is {wish.timeout_s:g}; it must be from 0 to "
                                 f"{LONGEST_S:g}")
        started = self._instance.clock.monotonic()
        if wish.undo:
            self._undo()
        else:
            self._check(wish)
            await self._hand_over(wish.timeout_s)
        if wish.stop and not wish.undo:
            asyncio.get_running_loop().call_later(_END_AFTER_S, self._end)
        return Drained(
            id=self._instance.core.view.me,
            state="ready" if wish.undo else "draining",
            left=self._instance.core.hot,
            took_s=round(self._instance.clock.monotonic() - started, 3),
            ending=wish.stop and not wish.undo,
        )

    def _check(self, wish: Leave) -> None:
        """Leaving is refused where it would leave nobody; ending is everybody's right."""
        view = self._instance.core.view
        others = [each for each in view.ready if each != view.me]
        if not others and not wish.stop:
            raise Conflict(
                f"instance {view.me!r} cannot be drained: no other instance is ready to take over "
                "its models; start one, or end this one with 'stop'")

    async def _hand_over(self, timeout_s: float) -> None:
        if self.membership is None:
            return
        self._instance.leaving = True
        if self._leaving is None or self._leaving.done():
            self._leaving = asyncio.create_task(self.membership.leave(timeout_s))
        leaving = self._leaving
        await asyncio.wait({leaving})
        if leaving.cancelled():
            raise Conflict(
                f"instance {self._instance.core.view.me!r} was told to stay while it drained")
        leaving.result()

    def _undo(self) -> None:
        if self._instance.draining:
            raise Conflict(f"instance {self._instance.core.view.me!r} is shutting down already")
        if self.membership is None or not self._instance.leaving:
            return
        if self._leaving is not None:
            self._leaving.cancel()
        self.membership.undo_leaving()
        self._instance.leaving = False
