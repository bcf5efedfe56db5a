"""Decides which entry of a folder serves a name when several ask for it: the first, sorted.

Pure bookkeeping; what the entries hold is unknown here.
"""

from __future__ import annotations

from bisect import insort


class Claims:
    """Names by entry, and the entries that claim each name."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._shared: dict[str, list[str]] = {}  # sorted; only names with several claimants
        self._holders: dict[str, str] = {}

    def name_of(self, entry: str) -> str | None:
        return self._names.get(entry)

    def claim(self, entry: str, name: str) -> set[str]:
        """The entry's name is `name` from now on. Returns the names whose claimants changed."""
        before = self._names.get(entry)
        if before == name:
            return set()
        touched = self.release(entry) | {name}
        self._names[entry] = name
        holder = self._holders.get(name)
        if holder is not None:
            insort(self._shared.setdefault(name, [holder]), entry)
        self._holders[name] = min(entry, holder or entry)
        return touched

    def release(self, entry: str) -> set[str]:
        """The entry claims nothing any more. Returns the names whose claimants changed."""
        name = self._names.pop(entry, None)
        if name is None:
            return set()
        others = self._shared.pop(name, [entry])
        others.remove(entry)
        if not others:
            del self._holders[name]
        else:
            self._holders[name] = others[0]
            if len(others) > 1:
                self._shared[name] = others
        return {name}

    def claimants(self, name: str) -> list[str]:
        """Sorted; the first one serves the name."""
        holder = self._holders.get(name)
        return list(self._shared.get(name, [] if holder is None else [holder]))
