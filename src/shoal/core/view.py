"""The mesh as this instance sees it: who takes part, who is reachable, who ranks first for a model.

Ranking is rendezvous hashing (Thaler and Ravishankar 1998), weighted: each member's score for a
model is `-weight / ln(u)`, where u in (0, 1) is a hash of both, and the highest score ranks first:
each does for a share of the models that is its share of all weights. When a member joins or leaves,
only its own share changes home. Must not know what anybody holds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Final

from shoal.core.options import Options
from shoal.domain.accelerators import PoolFigures
from shoal.domain.mesh import Figures, Member, MemberState
from shoal.domain.model import Placement

FILL_SHARE: Final = 0.8  # what newcomers are taken to be willing to fill

_MASK: Final = 2**64 - 1
MAX_KNOWN: Final = 20_000  # homes that are remembered
_NOTHING: Final = Figures()


class View:
    """me: this instance's id. number: of the latest change of members; changed_at: when it came
    here. lost_at: when a member could not be reached any more. unpublished: this instance's own
    state is another than in that change, since the registry is still to have it. Without any ready
    member that can be reached, this instance decides for itself."""

    def __init__(self, options: Options) -> None:
        """options: of this instance."""
        me = options.me
        self.me: Final = me
        self.number = 0
        self.unpublished = False
        self.changed_at = -math.inf
        self.lost_at = -math.inf
        self.members: dict[str, Member] = {
            me: Member(id=me, incarnation="", state=MemberState.READY,
                       budget_bytes=options.budget_bytes, pools=options.pools,
                       accelerators=options.accelerators)
        }
        self.figures: dict[str, Figures] = {}
        self._down: dict[str, None] = {}
        self._homes: dict[str, tuple[int, float]] = {}  # ready and reachable: seed, weight
        self._known: dict[str, tuple[str, float]] = {}  # homes that were looked up, and scores
        self._joined: tuple[str, ...] = ()  # by the last change
        self._left: tuple[str, ...] = ()
        self._renew()

    # --- who takes part -------------------------------------------------------------------------

    def change(
        self, members: Sequence[Member], number: int, now: float, unlinked: Iterable[str] = ()
    ) -> None:
        before = self.members[self.me].state
        self.members = {member.id: member for member in members}
        changed_alone = number == self.number and self.members[self.me].state is not before
        self.unpublished = changed_alone or (self.unpublished and number == self.number)
        self.number, self.changed_at = number, now
        for member in members:
            self.figures.setdefault(member.id, member.figures)
        for gone in [each for each in self.figures if each not in self.members]:
            del self.figures[gone]
        for gone in [each for each in self._down if each not in self.members]:
            del self._down[gone]
        self._down |= dict.fromkeys(each for each in unlinked if each != self.me)
        self._renew()

    def up(self, instance: str) -> None:
        self._down.pop(instance, None)
        self._renew()

    def down(self, instance: str, now: float) -> None:
        if instance in self.members and instance not in self._down:
            self._down[instance] = None
            self.lost_at = now
        self._renew()

    def _renew(self) -> None:
        before = self._homes
        self._homes = {
            each.id: (_seed(each.id), float(max(each.budget_bytes, 1)))
            for each in self.members.values()
            if each.state is MemberState.READY and each.id not in self._down
        }
        self._known.clear()
        self._joined = tuple(
            each for each, what in self._homes.items() if before.get(each) != what
        )
        self._left = tuple(each for each in before if each not in self._homes)

    @property
    def alone(self) -> bool:
        return len(self.members) <= 1

    @property
    def others(self) -> list[str]:
        """Members beside this one that can be reached, as far as it is known."""
        return [each for each in self.members if each != self.me and each not in self._down]

    @property
    def unreachable(self) -> list[str]:
        return list(self._down)

    @property
    def telling(self) -> list[str]:
        """Others that may hold copies, and can be reached."""
        return [each for each in self.others
                if self.members[each].state is not MemberState.STARTING]

    def is_gathering(self, now: float, within_s: float) -> bool:
        """Are others about to take part, as they said not longer ago than that?"""
        return now - self.changed_at < within_s and any(
            each.state is MemberState.STARTING for each in self.members.values())

    @property
    def ready(self) -> list[str]:
        """Members that take loads, and can be reached."""
        return list(self._homes)

    def is_reachable(self, instance: str) -> bool:
        return instance == self.me or (instance in self.members and instance not in self._down)

    def is_leaving(self, instance: str) -> bool:
        member = self.members.get(instance)
        return member is not None and member.state is MemberState.DRAINING

    def figures_of(self, instance: str) -> Figures:
        known = self.figures.get(instance, _NOTHING)
        member = self.members.get(instance)
        if known != _NOTHING or member is None:
            return known
        free = member.budget_bytes  # it has said nothing yet, so it has just begun
        return Figures(
            free_bytes=free, fill_bytes=round(free * FILL_SHARE),
            pools=tuple([
                PoolFigures(pool.name, pool.budget_bytes, round(pool.budget_bytes * FILL_SHARE))
                for pool in member.pools
            ]))

    # --- who ranks first ------------------------------------------------------------------------

    def home(self, model: str) -> str:
        return self.home_and_score(model)[0]

    def home_and_score(self, model: str) -> tuple[str, float]:
        if len(self._homes) <= 1:
            return next(iter(self._homes), self.me), math.inf
        known = self._known.get(model)
        if known is None:
            key = _seed(model)
            score, home = max(
                [(_score(key, *what), each) for each, what in self._homes.items()])
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            known = self._known[model] = home, score
        return known

    def rehome(self, model: str, home: str, score: float) -> tuple[str, float]:
        """Home and score after the last change, where they were `home` and `score` before it."""
        anew = home in self._left or home in self._joined
        if anew or len(self._homes) <= 2 or math.isinf(score):  # infinite: it was alone
            return self.home_and_score(model)
        key = _seed(model)
        for each in self._joined:
            mine = _score(key, *self._homes[each])
            if (mine, each) > (score, home):
                home, score = each, mine
        return home, score

    def ranking(self, model: str, among: Iterable[str], *, ready: bool = True) -> list[str]:
        """These members, the first-ranked first; ready: only those that take loads."""
        key = _seed(model)
        homes = self._homes if ready else {
            each: (_seed(each), 1.0) for each in self.members if self.is_reachable(each)
        }
        return sorted(
            (each for each in among if each in homes),
            key=lambda each: (_score(key, *homes[each]), each), reverse=True,
        )

    def eligible(self, needs: str, placement: Placement | None) -> list[str]:
        """Ready members that may hold such a model. needs: what they must offer."""
        return [each for each in self._homes if _may_hold(self.members[each], needs, placement)]

    def preference(self, instance: str, placement: Placement | None) -> int:
        """How many of the preferred labels it has."""
        if placement is None:
            return 0
        labels = self.members[instance].labels
        return sum(labels.get(key) == value for key, value in placement.preferred.items())


def _may_hold(member: Member, needs: str, placement: Placement | None) -> bool:
    if member.formats and needs not in member.formats:
        return False
    if placement is None:
        return True
    if placement.accelerator is not None and placement.accelerator not in member.accelerators:
        return False
    return all(member.labels.get(key) == value for key, value in placement.required.items())


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _score(key: int, seed: int, weight: float) -> float:
    """Mixed as in splitmix64 (Steele, Lea and Flood 2014)."""
    mixed = ((key ^ seed) + 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    mixed ^= mixed >> 31
    return -weight / math.log((mixed + 0.5) / 2.0**64)
