"""The queue of loads: by urgency, then first come first served; a queued load can be promoted."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from shoal.core.copies import Urgency


@dataclass(frozen=True, slots=True)
class _Place:
    urgency: Urgency
    number: int
    size_bytes: int


class LoadQueue:
    def __init__(self) -> None:
        self._heap: list[tuple[int, int, str]] = []
        self._places: dict[str, _Place] = {}
        self._numbers = 0
        self._counts = dict.fromkeys(Urgency, 0)
        self.bytes = 0  # predicted, of what is queued
        self.fill_bytes = 0  # of it, to fill free memory

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, revision: str) -> bool:
        return revision in self._places

    def count(self, urgency: Urgency) -> int:
        return self._counts[urgency]

    def bytes_of(self, revision: str) -> int:
        return self._places[revision].size_bytes

    def push(self, revision: str, urgency: Urgency, size_bytes: int) -> None:
        """Queue it, or promote it when it waits with less urgency."""
        known = self._places.get(revision)
        if known is not None:
            if known.urgency <= urgency:
                return
            self._count(known, -1)
        self._numbers += 1
        place = _Place(urgency, self._numbers, size_bytes)
        self._places[revision] = place
        self._count(place, 1)
        heapq.heappush(self._heap, (urgency, place.number, revision))

    def remove(self, revision: str) -> None:
        place = self._places.pop(revision, None)
        if place is not None:
            self._count(place, -1)

    def head(self) -> str | None:
        """The next one; it stays queued."""
        while self._heap:
            _, number, revision = self._heap[0]
            place = self._places.get(revision)
            if place is not None and place.number == number:
                return revision
            heapq.heappop(self._heap)
        return None

    def _count(self, place: _Place, sign: int) -> None:
        self._counts[place.urgency] += sign
        self.bytes += sign * place.size_bytes
        if place.urgency is Urgency.FILL:
            self.fill_bytes += sign * place.size_bytes
