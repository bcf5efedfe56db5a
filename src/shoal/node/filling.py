"""Offers registered models to the core while there is free memory, the most recently used first.

Must not know what is free elsewhere: the core takes of what is offered those whose home it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, Literal

from shoal.core.copies import CopyState, Urgency
from shoal.core.node import Core
from shoal.domain import events as on
from shoal.node.replica import Replica

QUEUE: Final = 32  # loads queued at once to fill free memory
BATCHES: Final = 8  # looked at in one go when nothing of them fits


class Filling:
    """what: as the setting `cache.fill`. send: takes the events."""

    def __init__(
        self, what: Literal["none", "recent", "all"], core: Core, replica: Replica,
        send: Callable[[on.Event], None],
    ) -> None:
        self._what = what
        self._core = core
        self._replica = replica
        self._send = send
        self._anew = False  # `_names` is to be put together when there is room for any of them
        self._names: deque[str] = deque()
        self._never_used: Iterator[str] = iter(())  # to fill with when `_names` is empty

    def begin(self) -> None:
        """Everything that is registered, from now on; also anew when there is room elsewhere."""
        if self._what != "none":
            self._anew = True
            self.offer()

    def _begin_anew(self) -> None:
        self._anew = False
        used = self._replica.by_last_use()
        self._names = deque(used)
        if self._what == "all":
            before = set(used)
            names = self._replica.names_after(None)
            self._never_used = (name for name in names if name not in before)

    def declared(self, name: str) -> None:
        if self._what == "all":
            self._names.append(name)
            self.offer()

    def offer(self) -> None:
        """Let the core queue loads for free memory, a few at a time, in their order.

        What does not fit is offered again once the loads under way are done: they teach how large
        a format's models are. What does not fit then is left to requests.
        """
        core, cache = self._core, self._core.cache
        under_way = cache.queue.count(Urgency.FILL) + cache.ledger.count[CopyState.LOADING]
        if under_way > QUEUE // 2:
            return
        for _ in range(BATCHES):
            if not core.may_fill:
                break
            if self._anew:
                self._begin_anew()
            if not (names := self._next()):
                break
            offered = [name for name in names if self._is_fillable(name)]
            self._send(on.FillOffered(tuple(offered)))
            left = [name for name in offered
                    if core.decides_about(name) and name not in core.models]
            if under_way or len(left) < len(offered):
                self._names.extendleft(reversed(left))
                break

    def _is_fillable(self, name: str) -> bool:
        """Files that nobody has read may not be there: who asks for the model finds out."""
        record = self._replica.get(name)
        if record is None or not record.revisions:
            return False
        return record.revisions[-1].files_bytes != 0 or name in self._replica.usage

    def _next(self) -> list[str]:
        names = [self._names.popleft() for _ in range(min(QUEUE, len(self._names)))]
        return names or list(islice(self._never_used, QUEUE))
