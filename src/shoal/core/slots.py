"""What a public name stands for on this instance: for each model in play, its slots.

A slot is a name with a version, or without one (the default). Its active revision answers; a target
is a newer one that takes over once it is loaded. Models of which nothing is loaded, wanted or
remembered are not in play and cost nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shoal.domain.events import served
from shoal.domain.model import ModelRecord, Revision


@dataclass(slots=True)
class Slot:
    """proven: the active revision was loaded at least once. fallbacks: what answers instead while
    an unproven active revision cannot be loaded, best first. routed: the hot path knows it."""

    name: str
    version: int | None
    active: Revision
    target: Revision | None = None
    fallbacks: tuple[Revision, ...] = ()
    proven: bool = False
    routed: bool = False

    def refers_to(self, revision: str) -> bool:
        return self.active.id == revision or (
            self.target is not None and self.target.id == revision
        )


def fallbacks(
    record: ModelRecord, version: int | None, *known: Revision
) -> tuple[Revision, ...]:
    """What may answer for `version` (None: the default) while the revision that should cannot be
    loaded, best first: older versions, then of `known` ones those whose files were not replaced."""
    older = tuple(reversed(record.revisions[:-1])) if version is None else ()
    places = {each.uri for each in record.revisions}
    return (*older, *(each for each in known if each.uri not in places))


@dataclass(slots=True)
class ModelInPlay:
    """out_of_service: versions an operator unloaded; None stands for the whole model.
    copies: ids of its revisions that are queued, loading, ready or leaving (an ordered set).
    removed: it was unregistered; its copies are on their way out."""

    record: ModelRecord
    slots: dict[int | None, Slot] = field(default_factory=dict)
    out_of_service: set[int | None] = field(default_factory=set)
    copies: dict[str, None] = field(default_factory=dict)
    removed: bool = False

    def slot(self, version: int | None) -> Slot | None:
        """The slot of `version`, made when the record serves it; None when it does not."""
        known = self.slots.get(version)
        if known is not None:
            return known
        revision = served(self.record, version)
        if revision is None:
            return None
        slot = Slot(self.record.name, version, revision, fallbacks=fallbacks(self.record, version))
        self.slots[version] = slot
        return slot

    def is_out_of_service(self, revision: Revision) -> bool:
        return None in self.out_of_service or revision.version in self.out_of_service

    def back_in_service(self, version: int | None) -> None:
        """`version` alone, when the whole model was out of service; None: all of it."""
        if version is None:
            self.out_of_service.clear()
        elif None in self.out_of_service:
            others = (each.version for each in self.record.revisions)
            self.out_of_service = {each for each in others if each != version}
        else:
            self.out_of_service.discard(version)

    def must_keep(self, revision: Revision) -> bool:
        """Pinned copies stay, and so does the last good copy of files that were overwritten by ones
        that are not loaded (yet)."""
        return revision.pin or any(
            slot.active.id == revision.id
            and slot.target is not None
            and slot.target.uri == revision.uri
            for slot in self.slots.values()
        )

    def refers_to(self, revision: str) -> bool:
        return any(slot.refers_to(revision) for slot in self.slots.values())
