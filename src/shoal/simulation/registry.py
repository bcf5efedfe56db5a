"""A registry in made-up time: declarations, and members on leases, with a revision for each change.

It can be down for all or out of reach of one instance, tell of changes late, and have forgotten
them when somebody comes back, who then lists what there is. Must not know what declarations mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Protocol

from shoal.domain.mesh import Member
from shoal.domain.model import ModelRecord
from shoal.simulation.agenda import Agenda

EXPIRY_LOOKS_S = 0.25


@dataclass(frozen=True, slots=True)
class News:
    """records: what changed; None: removed; all there are, where they are `whole`. members: all of
    them, where some changed, as of `view`."""

    records: dict[str, ModelRecord | None]
    members: dict[str, Member] | None
    view: int
    whole: bool = False


class Follower(Protocol):
    """Who is told of changes, in order."""

    def heard(self, news: News) -> None: ...


@dataclass(slots=True)
class Watch:
    """What a follower knows. place: changes it has heard of. lag_s: how late it hears of the next
    ones, at most. cut: it and the registry do not reach each other."""

    follower: Follower
    place: int
    lag_s: float
    cut: bool = False
    compacted: bool = False
    due_at: float = 0.0
    ended: bool = False


@dataclass(slots=True)
class _Lease:
    incarnation: str
    until: float


class Registry:
    """records, members: as they are now. view: the number of the latest change of members."""

    def __init__(self, agenda: Agenda, chance: Random, lease_s: float) -> None:
        self.records: dict[str, ModelRecord] = {}
        self.members: dict[str, Member] = {}
        self.view = 0
        self.down = False
        self.lease_s = lease_s
        self._agenda = agenda
        self._chance = chance
        self._log: list[str | None] = []  # the name of each change; None: of members
        self._leases: dict[str, _Lease] = {}
        self._watches: dict[Follower, Watch] = {}
        self._expire()

    # --- declarations ---------------------------------------------------------------------------

    def declare(self, record: ModelRecord) -> bool:
        """False: the registry is down, and nothing was stored."""
        if self.down:
            return False
        self.records[record.name] = record
        self._changed(record.name)
        return True

    def remove(self, name: str) -> bool:
        if self.down or name not in self.records:
            return False
        del self.records[name]
        self._changed(name)
        return True

    # --- members --------------------------------------------------------------------------------

    def put(self, follower: Follower, member: Member) -> bool:
        """Write an instance's record, on its lease, or renew the lease."""
        if not self.reaches(follower):
            return False
        self._leases[member.id] = _Lease(member.incarnation, self._agenda.now + self.lease_s)
        if self.members.get(member.id) != member:
            self.members[member.id] = member
            self._changed(None)
        return True

    def leave(self, follower: Follower, member: Member) -> None:
        lease = self._leases.get(member.id)
        if self.reaches(follower) and lease is not None \
                and lease.incarnation == member.incarnation:
            self._forget(member.id)

    def _expire(self) -> None:
        if not self.down:
            now = self._agenda.now
            for each in [each for each, lease in self._leases.items() if lease.until < now]:
                self._forget(each)
        self._agenda.after(EXPIRY_LOOKS_S, self._expire)

    def _forget(self, instance: str) -> None:
        del self._leases[instance], self.members[instance]
        self._changed(None)

    # --- who watches ----------------------------------------------------------------------------

    def reaches(self, follower: Follower) -> bool:
        watch = self._watches.get(follower)
        return not self.down and (watch is None or not watch.cut)

    def follow(self, follower: Follower, lag_s: float) -> bool:
        """List what there is, now, and tell of changes from then on."""
        if self.down:
            return False
        self._watches[follower] = Watch(follower, len(self._log), lag_s)
        follower.heard(self._everything())
        return True

    def unfollow(self, follower: Follower) -> None:
        watch = self._watches.pop(follower, None)
        if watch is not None:
            watch.ended = True

    def watch_of(self, follower: Follower) -> Watch | None:
        return self._watches.get(follower)

    def set_down(self, down: bool) -> None:
        """Leases begin anew when it is back, as in a cluster that has a new leader."""
        self.down = down
        if not down:
            for lease in self._leases.values():
                lease.until = self._agenda.now + self.lease_s
            self.reconnect()

    def reconnect(self) -> None:
        """Tell everybody what they have missed."""
        for watch in self._watches.values():
            self._tell_later(watch)

    def _changed(self, name: str | None) -> None:
        self._log.append(name)
        if name is None:
            self.view = len(self._log)
        for watch in self._watches.values():
            self._tell_later(watch)

    def _tell_later(self, watch: Watch) -> None:
        due = self._agenda.now + self._chance.uniform(0.001, watch.lag_s)
        watch.due_at = max(due, watch.due_at)
        self._agenda.at(watch.due_at, self._tell, watch, len(self._log))

    def _tell(self, watch: Watch, upto: int) -> None:
        if watch.ended or watch.cut or self.down or upto <= watch.place:
            return
        if watch.compacted:
            watch.compacted, watch.place = False, len(self._log)
            watch.follower.heard(self._everything())
            return
        news, watch.place = self._log[watch.place:upto], upto
        names = [each for each in news if each is not None]
        records = {each: self.records.get(each) for each in names}
        members = dict(self.members) if None in news else None
        watch.follower.heard(News(records, members, self.view))

    def _everything(self) -> News:
        return News(dict(self.records), dict(self.members), self.view, whole=True)
