"""Who has told its copies since members changed last. Until all have, or had time enough, a home
does not know who may answer for what it became the home of, and questions about that wait here.
Must not know models."""

from __future__ import annotations

import math

from shoal.core.desk import Desk
from shoal.domain import commands as do
from shoal.domain import mesh


class RollCall:
    """parked: questions that wait, and who asked."""

    def __init__(self, desk: Desk) -> None:
        self.parked: list[tuple[str, mesh.Locate]] = []
        self._desk = desk
        self._told: dict[str, int] = {}  # by instance, the view in which it told its copies
        self._newest = 0  # view in which anybody told
        self._newest_at = -math.inf

    def tell(self, instance: str, view: int) -> None:
        """It told its copies in this view; -1: there is more to tell."""
        self._told[instance] = max(view, self._told.get(instance, 0))
        if view > max(self._newest, self._desk.view.number):
            self._newest, self._newest_at = view, self._desk.now
            self._desk.out.append(do.Wake(self._desk.options.barrier_s))

    def has(self, instance: str) -> bool:
        """Did it tell its copies in the view of this instance, or in a later one?"""
        return self._told.get(instance, -1) >= self._desk.view.number

    @property
    def is_behind(self) -> bool:
        """Has somebody heard of a change of members that this instance is still to hear of?"""
        return self._desk.view.number < self._newest

    @property
    def is_ahead(self) -> bool:
        """Is this instance the home of other models now than the others can know?"""
        view, within_s = self._desk.view, self._desk.options.barrier_s
        return view.unpublished and not view.alone and self._desk.now - view.changed_at < within_s

    @property
    def is_complete(self) -> bool:
        view, options, now = self._desk.view, self._desk.options, self._desk.now
        if now - view.lost_at < options.lost_barrier_s:
            return False
        if self.is_ahead or (self.is_behind and now - self._newest_at < options.barrier_s):
            return False
        return now - view.changed_at >= options.barrier_s or all(map(self.has, view.telling))

    def park(self, sender: str, question: mesh.Locate) -> None:
        self.parked.append((sender, question))

    def take_parked(self) -> list[tuple[str, mesh.Locate]]:
        parked, self.parked = self.parked, []
        return parked

    def forget_gone(self) -> None:
        for gone in [each for each in self._told if each not in self._desk.view.members]:
            del self._told[gone]
