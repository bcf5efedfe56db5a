"""Who belongs to the mesh: this instance's record in the registry, and those of the others.

The registry says who is there. While it is silent nobody is taken for gone: the members known stay,
and this instance joins again by itself. Nor is somebody whose lease ended in such a time, as all
may then have: they have a lease time to come back. Must not know what members hold, nor how they
are reached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict, Unpack

import msgspec

from shoal.domain.errors import StoreUnavailable
from shoal.domain.mesh import Figures, Member, MemberState
from shoal.node.claiming import Answers, knock
from shoal.node.member_records import INSTANCES, MemberRecord, decode, is_news, key_of
from shoal.node.presence import Presence, Rhythm
from shoal.observability.logs import get_logger
from shoal.ports import Clock, Compacted, KVStore

log = get_logger("shoal.node")


class Changes(TypedDict, total=False):
    """What an instance may say anew of itself."""

    state: MemberState
    address: str
    http_address: str
    grpc_address: str
    management_address: str
    budget_bytes: int
    formats: tuple[str, ...]
    folders_read: tuple[str, ...]
    figures: Figures


@dataclass(frozen=True, slots=True)
class Listeners:
    """on_change: all members by id, this instance among them, and the registry's revision that made
    it so, the same for all who know the same; called when somebody came, left, or said more than
    new figures. on_problem: what an operator should know, in a sentence."""

    on_change: Callable[[tuple[Member, ...], int], None]
    on_problem: Callable[[str], None]


class Members:
    """`trouble`: why this instance and the registry do not hear of each other, for operators."""

    def __init__(
        self, store: KVStore, clock: Clock, me: Member, listeners: Listeners,
        rhythm: Rhythm | None = None, answers: Answers = knock,
    ) -> None:
        """me: with an incarnation that no other run has. Once `start` is called it must listen on
        its address, so that no other run can be there. answers: see `claiming`."""
        rhythm = rhythm or Rhythm()
        self._store = store
        self._clock = clock
        self._listeners = listeners
        self._rhythm = rhythm
        self._answers = answers
        self._presence = Presence(
            store, clock, me, rhythm,
            on_trouble=lambda trouble: self._note("own", trouble), on_lapse=self._forgive,
        )
        self._others: dict[str, MemberRecord] = {}
        self._leaving: dict[str, asyncio.TimerHandle] = {}  # gone, unless they come back
        self._forgiving_until = -1.0
        self._revision = 0  # of the store, up to which changes are known
        self._view = 0
        self._own_turn = -1  # as the others have seen it
        self._known = asyncio.Event()
        self._unreadable: dict[str, str] = {}
        self._troubles: dict[str, str] = {}
        self._following: asyncio.Task[None] | None = None

    # --- what others read -----------------------------------------------------------------------

    @property
    def me(self) -> Member:
        return self._presence.record.member

    @property
    def members(self) -> tuple[Member, ...]:
        """By id, with figures as they were last heard of."""
        known = (self.me, *(record.member for record in self._others.values()))
        return tuple(sorted(known, key=lambda member: member.id))

    @property
    def trouble(self) -> str | None:
        return next(iter(self._troubles.values()), None)

    @property
    def problems(self) -> list[str]:
        """What is wrong now, in sentences: `trouble`, and records that cannot be read."""
        return [*self._troubles.values(), *self._unreadable.values()]

    # --- life -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take the id and know everybody; `on_change` has been called when this returns.

        Raises InvalidSpecification when another instance runs under the id (see `claiming`), and
        StoreUnavailable.
        """
        await self._list()
        await self._presence.start(self._answers)
        self._following = asyncio.create_task(self._follow())
        try:
            await self._known.wait()
        except asyncio.CancelledError:
            await self.stop()
            raise

    def update(self, **changes: Unpack[Changes]) -> None:
        """Say something anew: figures at the next refresh, all else at once."""
        if self._presence.say(msgspec.structs.replace(self.me, **changes)):
            self._tell(self._view)

    async def published(self) -> None:
        """Wait until the registry has what was said last, figures excepted; for ever, if need be.
        """
        await self._presence.published()

    async def stop(self) -> None:
        """Leave the mesh; the record is gone afterwards."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        for timer in self._leaving.values():
            timer.cancel()
        await self._presence.stop()

    # --- following ------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """For ever; a store that is gone for a while is asked again, less and less often."""
        failures, missed = 0, False
        while True:
            try:
                if missed and await self._list():
                    self._tell(self._revision)
                    # The others need not have seen a change at this revision. With one more, by
                    # this instance, all come to the same again.
                    self._presence.say_again()
                missed = False
                self._note("others", None)
                async for change in self._store.watch(INSTANCES, self._revision):
                    self._revision = change.revision
                    if self._take(change.key, change.value, change.revision):
                        self._tell(change.revision)
                    failures = 0
            except Compacted:
                missed = True
                continue
            except StoreUnavailable as error:
                self._note("others", "the registry does not tell of other instances, the members "
                                     f"known stay: {error.message}")
            except Exception as error:  # a defect of ours; requests are answered all the same
                log.exception("following the members of the mesh failed")
                self._note("others", f"the members of the mesh cannot be followed: {error!r}; "
                                     "report this defect")
            missed = True
            await asyncio.sleep(self._rhythm.retry_s(failures))
            failures += 1

    async def _list(self) -> bool:
        """Find out by comparison what changes there were; were there any?"""
        listing = await self._store.list(INSTANCES)
        self._revision = listing.revision
        found = {entry.key: entry.value for entry in listing.entries}
        gone = [key_of(each) for each in (*self._others, self.me.id) if key_of(each) not in found]
        changed = [self._take(key, None, listing.revision) for key in gone]
        changed += [self._take(key, value, listing.revision) for key, value in found.items()]
        return any(changed)

    def _take(self, key: str, value: bytes | None, revision: int) -> bool:
        """What the registry says of one instance; is it news?"""
        name = key.removeprefix(INSTANCES)
        if value is None:
            self._unreadable.pop(name, None)
            return self._gone(name, revision)
        try:
            record = decode(key, value)
        except ValueError as error:
            if self._unreadable.get(name) != str(error):
                self._unreadable[name] = str(error)
                self._listeners.on_problem(str(error))
            if name == self.me.id:
                self._presence.overwritten(revision)
            return False
        self._unreadable.pop(name, None)
        if name == self.me.id:
            return self._is_own_news(record, revision)
        if (timer := self._leaving.pop(name, None)) is not None:
            timer.cancel()
        older, self._others[name] = self._others.get(name), record
        return is_news(older, record)

    def _is_own_news(self, record: MemberRecord, revision: int) -> bool:
        if record.member.incarnation != self.me.incarnation:
            self._presence.overwritten(revision)
            return False
        self._known.set()
        turn, self._own_turn = self._own_turn, record.turn
        return turn != record.turn

    def _gone(self, name: str, revision: int) -> bool:
        if name == self.me.id:
            self._presence.overwritten(revision)
            return False
        record = self._others.get(name)
        if record is None or name in self._leaving:
            return False
        if self._is_forgiving() and record.member.state is not MemberState.DRAINING:
            self._leaving[name] = asyncio.get_running_loop().call_later(
                self._rhythm.lease_s, self._drop, name, revision
            )
            return False
        del self._others[name]
        return True

    def _drop(self, name: str, revision: int) -> None:
        """It has not come back."""
        del self._leaving[name], self._others[name]
        self._tell(max(revision, self._view))

    def _tell(self, view: int) -> None:
        if self._known.is_set():
            self._view = view
            self._listeners.on_change(self.members, view)

    # --- silence --------------------------------------------------------------------------------

    def _note(self, what: str, trouble: str | None) -> None:
        before = self._troubles.get(what)
        if trouble is None:
            if self._troubles.pop(what, None) is not None:
                self._forgive()
                log.info("in touch with the registry again", about=what)
            return
        self._troubles[what] = trouble
        if trouble != before:
            self._listeners.on_problem(trouble)

    def _forgive(self) -> None:
        """Leases could not be kept alive lately; who is missing may be as alive as this instance.
        """
        self._forgiving_until = self._clock.monotonic() + self._rhythm.lease_s

    def _is_forgiving(self) -> bool:
        return bool(self._troubles) or self._clock.monotonic() < self._forgiving_until
