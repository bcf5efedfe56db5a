"""The last things that happened, in order: what `shoal explain` and the events of the API read."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import islice
from typing import Final

from shoal.domain.views import EventPage, EventView
from shoal.observability.logs import get_logger
from shoal.ports import Clock

LENGTH: Final = 10_000  # about 5 MiB
_WARNINGS: Final = frozenset(
    ("load_failed", "load_refused", "fell_back", "model_problem", "model_raised",
     "registry_problem", "folder_problem", "scan_warning", "leaking", "deadly_load")
)
# What happens for every model or under every load: kept here, logged only when asked for.
_ROUTINE: Final = frozenset(("declared", "load_started", "loaded", "evicted", "unloaded"))

log = get_logger("shoal.node")


class Journal:
    """Events of this instance since its start, the oldest forgotten first.

    Their numbers are times, so that those of several instances make one list, and whoever follows
    them may ask another instance, or this one after a restart.
    """

    def __init__(self, clock: Clock, length: int = LENGTH) -> None:
        self._clock = clock
        self._events: deque[EventView] = deque(maxlen=length)
        self._seq = 0

    def note(
        self, kind: str, message: str, *, model: str | None = None, revision: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Keep it, and log it: as a warning if people should look, as debug if it is routine."""
        now = self._clock.wall()
        self._seq = max(self._seq + 1, int(now * 1e6))
        self._events.append(EventView(self._seq, now, kind, message, model, revision, reason))
        said = {"model": model, "revision": revision, "reason": reason}
        given = {key: value for key, value in said.items() if value is not None}
        write = log.warning if kind in _WARNINGS else log.debug if kind in _ROUTINE else log.info
        write(message, kind=kind, **given)

    def page(self, after: int, limit: int, model: str | None) -> EventPage:
        """Up to `limit` events with a seq greater than `after`; of one model, if it is named."""
        first = bisect_right(self._events, after, key=lambda event: event.seq)
        behind = islice(self._events, first, None)
        events = list(
            islice((each for each in behind if model is None or each.model == model), limit)
        )
        return EventPage(events, events[-1].seq if len(events) == limit else self._seq)

    def last_of(self, model: str, limit: int) -> list[EventView]:
        """The latest events of a model, oldest first."""
        found = islice((each for each in reversed(self._events) if each.model == model), limit)
        return list(found)[::-1]
