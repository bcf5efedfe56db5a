"""Where requests are answered, by name: the hot path's tables.

Kept by the core's commands; read by the data plane for every request.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from shoal.node.live import LiveCopy

Name: TypeAlias = tuple[str, int | None]


class Elsewhere:
    """Other instances that answer for a name. ready: they have the copy; else it is being loaded.
    forwards: requests that were sent to them on the word of this; reported: those of them that the
    core knows of."""

    __slots__ = ("forwards", "holders", "ready", "reported", "revision")

    def __init__(
        self, revision: str, holders: tuple[str, ...], *, ready: bool = True
    ) -> None:
        self.revision: Final = revision
        self.holders: Final = holders
        self.ready: Final = ready
        self.forwards = 0
        self.reported = 0


class Tables:
    """default, versioned: a ready copy of this instance by name, and by name and version.
    elsewhere: who else answers, for names that have none here."""

    def __init__(self) -> None:
        self.default: dict[str, LiveCopy] = {}
        self.versioned: dict[tuple[str, int], LiveCopy] = {}
        self.elsewhere: dict[Name, Elsewhere] = {}

    def find(self, name: str, version: int | None) -> LiveCopy | None:
        if version is None:
            return self.default.get(name)
        return self.versioned.get((name, version))

    def route(self, name: str, version: int | None, copy: LiveCopy) -> None:
        self.elsewhere.pop((name, version), None)
        if version is None:
            self.default[name] = copy
        else:
            self.versioned[name, version] = copy

    def route_elsewhere(self, name: str, version: int | None, there: Elsewhere) -> None:
        self.unroute(name, version)
        self.elsewhere[name, version] = there

    def unroute(self, name: str, version: int | None) -> None:
        self.elsewhere.pop((name, version), None)
        if version is None:
            self.default.pop(name, None)
        else:
            self.versioned.pop((name, version), None)

    def forwarded(self) -> tuple[tuple[Name, ...], int]:
        """Names for which requests were forwarded since this was asked last, and how many."""
        found, count = [], 0
        for name, there in self.elsewhere.items():
            if there.forwards != there.reported:
                count += there.forwards - there.reported
                there.reported = there.forwards
                found.append(name)
        return tuple(found), count
