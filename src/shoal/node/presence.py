"""Keeps this instance's own record in the registry: on a lease, true, put again when it is lost.

Must not know the other instances.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from shoal.domain.errors import Conflict, StoreUnavailable
from shoal.domain.mesh import Member
from shoal.node.claiming import Answers, claim
from shoal.node.member_records import MemberRecord, decode, described, encode, key_of
from shoal.node.retrying import retry_s
from shoal.observability.logs import get_logger
from shoal.ports import Clock, KVStore, LeaseLost

_FAREWELL_S: Final = 5.0  # for the store to hear that this instance leaves
_KEEP_ALIVES: Final = 3  # in a lease time, so that two may fail

log = get_logger("shoal.node")


@dataclass(frozen=True, slots=True)
class Rhythm:
    """lease_s: how long the record outlives this process. refresh_s: how old its figures get."""

    lease_s: float = 10.0
    refresh_s: float = 10.0

    def sign_s(self) -> float:
        """Between two signs of life."""
        return min(self.lease_s / _KEEP_ALIVES, self.refresh_s)

    def retry_s(self, failures: int) -> float:
        """Until the next try after so many in a row. Never longer than between two signs of life: a
        store that comes back gives each lease its whole time anew, and hears of each before it
        ends."""
        return retry_s(failures, self.sign_s())


@dataclass(frozen=True, slots=True)
class Stored:
    """The record as it lies in the store, at its revision."""

    revision: int
    record: MemberRecord


class _Replaced(Exception):
    """Another run has put its record under this instance's id."""


class Presence:
    """on_trouble: why the registry does not hear of this instance; None: it does again. on_lapse:
    the lease had ended, so that others may have taken this instance for gone.

    record: what this instance says of itself now. stored: what it last wrote, None when that is not
    there any more.
    """

    def __init__(
        self, store: KVStore, clock: Clock, me: Member, rhythm: Rhythm,
        on_trouble: Callable[[str | None], None], on_lapse: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._rhythm = rhythm
        self._on_trouble = on_trouble
        self._on_lapse = on_lapse
        self.record = MemberRecord(member=me)
        self.stored: Stored | None = None
        self._lease: int | None = None
        self._refreshed_at = 0.0
        self._wake = asyncio.Event()
        self._published = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    async def start(self, answers: Answers) -> None:
        """Raises as `claiming.claim`."""
        record = self.record
        self._lease, revision = await claim(self._store, record, self._rhythm.lease_s, answers)
        self.stored = Stored(revision, record)
        self._refreshed_at = self._clock.monotonic()
        if record is self.record:
            self._published.set()
        self._keeping = asyncio.create_task(self._keep())

    def say(self, member: Member) -> bool:
        """Figures at the next refresh, all else at once; was there more than figures?"""
        me = self.record.member
        if msgspec.structs.replace(me, figures=member.figures) == member:
            self.record = msgspec.structs.replace(self.record, member=member)
            return False
        self.record = MemberRecord(turn=self.record.turn, member=member)
        self.say_again()
        return True

    def say_again(self) -> None:
        """Put the record again, so that others take notice, though it says nothing else."""
        self.record = msgspec.structs.replace(self.record, turn=self.record.turn + 1)
        self._published.clear()
        self._wake.set()

    def overwritten(self, revision: int) -> None:
        """Somebody deleted or changed the record, as of this revision of the store."""
        if self.stored is not None and revision > self.stored.revision:
            self.stored = None
            self._published.clear()
            self._wake.set()
        elif self.stored is None:
            self._wake.set()

    async def published(self) -> None:
        """Wait until the store has what was said last, figures excepted."""
        await self._published.wait()

    async def stop(self) -> None:
        """Take the record away; with its lease it goes where the store cannot be told."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        lease, self._lease = self._lease, None
        if lease is None:
            return
        try:
            async with asyncio.timeout(_FAREWELL_S):
                await self._store.revoke(lease)
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("the registry was not told that this instance leaves: its record stays for "
                        "as long as its lease", error=str(error), lease_s=self._rhythm.lease_s)

    # --- keeping it -----------------------------------------------------------------------------

    async def _keep(self) -> None:
        """For ever."""
        rhythm, failures = self._rhythm, 0
        wait_s = rhythm.sign_s()
        while True:
            await self._rest(wait_s)
            try:
                async with asyncio.timeout(rhythm.lease_s):
                    await self._publish()
            except LeaseLost:
                self._lease = self.stored = None
                self._published.clear()
                self._on_lapse()
                log.warning("the lease of this instance's record ended; it is put again")
                wait_s = rhythm.retry_s(failures) if failures else 0.0
            except (StoreUnavailable, TimeoutError) as error:
                cause = getattr(error, "message", f"no answer in {rhythm.lease_s:g} s")
                self._on_trouble("the registry does not hear of this instance, and others may take "
                                 f"it for gone: {cause}")
                wait_s = rhythm.retry_s(failures)
            except _Replaced as error:
                self._on_trouble(str(error))
                wait_s = rhythm.retry_s(failures)
            except Exception as error:  # a defect of ours; belonging to the mesh is worth a try
                log.exception("keeping this instance's record failed")
                self._on_trouble(f"this instance's record cannot be kept: {error!r}; report this "
                                 "defect")
                wait_s = rhythm.sign_s()
            else:
                self._on_trouble(None)
                wait_s, failures = rhythm.sign_s(), 0
                continue
            failures += 1

    async def _rest(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _publish(self) -> None:
        """Raises StoreUnavailable, LeaseLost, _Replaced."""
        if self._lease is None:
            self._lease = await self._store.grant(self._rhythm.lease_s)
        else:
            await self._store.keep_alive(self._lease)
        while (said := self._to_say()) is not None:
            await self._put(said, self._lease)
        self._published.set()

    def _to_say(self) -> MemberRecord | None:
        if self.stored is None or self.stored.record.turn != self.record.turn:
            return self.record
        if self._clock.monotonic() - self._refreshed_at < self._rhythm.refresh_s:
            return None
        self._refreshed_at = self._clock.monotonic()
        return None if self.stored.record == self.record else self.record

    async def _put(self, record: MemberRecord, lease: int) -> None:
        key, value = key_of(record.member.id), encode(record)
        expect = 0 if self.stored is None else self.stored.revision
        while True:
            try:
                revision = await self._store.put(key, value, expect=expect, lease=lease)
                break
            except Conflict:
                expect = await self._found(key)
        self.stored = Stored(revision, record)

    async def _found(self, key: str) -> int:
        """The revision of the record, which is not as this instance left it: somebody deleted it, a
        write went through whose answer was lost, or another run has the id."""
        entry = await self._store.get(key)
        if entry is None:
            return 0
        try:
            holder = decode(key, entry.value).member
        except ValueError:
            return entry.revision  # of nobody who could be named
        me = self.record.member
        if holder.incarnation != me.incarnation:
            self.stored = None
            raise _Replaced(
                f"{described(holder)} has taken the place of this instance, {described(me)}, under "
                "the same instance_id: this one goes on serving what it is asked for, but does not "
                "belong to the mesh; end one of them, or give each its own id"
            )
        return entry.revision
