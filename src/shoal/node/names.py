"""Names in order, however many, changed one at a time: what pages of models are read from.

Lists of some hundred names each, so that a change moves a few of them and not a million. Knows
nothing of what has the names.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from itertools import chain
from typing import Final

_MOST: Final = 1_000  # names in a list; a fuller one becomes two


class SortedNames:
    """A set of names that is iterated in order. Adding or removing costs about a microsecond."""

    __slots__ = ("_firsts", "_lists", "_version")

    def __init__(self) -> None:
        self._lists: list[list[str]] = []  # none of them empty
        self._firsts: list[str] = []  # of each list
        self._version = 0

    def add(self, name: str) -> None:
        """It must not be there yet."""
        self._version += 1
        if not self._lists:
            self._lists.append([name])
            self._firsts.append(name)
            return
        place = max(bisect_right(self._firsts, name) - 1, 0)
        names = self._lists[place]
        if name > names[-1]:  # in order already, as at the start
            names.append(name)
        else:
            insort(names, name)
            self._firsts[place] = names[0]
        if len(names) > _MOST:
            self._split(place)

    def remove(self, name: str) -> None:
        """It must be there."""
        self._version += 1
        place = bisect_right(self._firsts, name) - 1
        names = self._lists[place]
        at = bisect_left(names, name)
        assert names[at] == name, name
        del names[at]
        if names:
            self._firsts[place] = names[0]
        else:
            del self._lists[place], self._firsts[place]

    def all(self) -> list[str]:
        """Every name, in order; a million take some 10 ms."""
        return list(chain.from_iterable(self._lists))

    def after(self, name: str | None) -> Iterator[str]:
        """From the first one behind `name`; None: from the first of all. What is added or removed
        behind the present one meanwhile is seen to be so."""
        last = name
        while True:
            version = self._version
            for found in self._from(last):
                last = found
                yield found
                if self._version != version:
                    break
            else:
                return

    def _from(self, name: str | None) -> Iterator[str]:
        place = 0 if name is None else max(bisect_right(self._firsts, name) - 1, 0)
        start = 0
        if name is not None and place < len(self._lists):
            start = bisect_right(self._lists[place], name)
        while place < len(self._lists):
            names = self._lists[place]
            for at in range(start, len(names)):
                yield names[at]
            place, start = place + 1, 0

    def _split(self, place: int) -> None:
        """Where the last list overflows, names come in order: it stays nearly full."""
        names = self._lists[place]
        at = len(names) // 2 if place + 1 < len(self._lists) else _MOST
        self._lists[place : place + 1] = [names[:at], names[at:]]
        self._firsts.insert(place + 1, names[at])
