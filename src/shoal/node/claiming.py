"""Whether an instance may have the id it wants: two under one id would answer for one another.

A run that ended without a farewell leaves its record behind until its lease ends. The next run
under its id need not wait for that where it is plain that the older one is gone: it listens itself
on the address of the older one, or nobody listens there any more (a process that crashed, a pod
that is started anew). Where that cannot be told, the lease decides. Must not know what members do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from shoal.domain.errors import Conflict, InvalidSpecification
from shoal.domain.mesh import Member
from shoal.node.member_records import MemberRecord, decode, described, encode, key_of
from shoal.observability.logs import get_logger
from shoal.ports import Compacted, Entry, KVStore

KNOCK_S: Final = 1.0

Answers: TypeAlias = Callable[[Member], Awaitable[bool | None]]
"""Does this very run still answer at its address? None: it cannot be told."""

log = get_logger("shoal.node")


async def knock(member: Member) -> bool | None:
    """As `Answers`, by opening a connection: where one is refused, nobody is left; who accepts one
    may be somebody else."""
    kind, _, where = member.address.partition(":")
    try:
        async with asyncio.timeout(KNOCK_S):
            if kind == "unix":
                _, writer = await asyncio.open_unix_connection(where)
            elif kind == "tcp":
                host, _, port = where.rpartition(":")
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            else:
                return None
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except (OSError, ValueError):  # TimeoutError is an OSError
        return None
    writer.close()
    return None


async def claim(
    store: KVStore, record: MemberRecord, lease_s: float, answers: Answers
) -> tuple[int, int]:
    """Put the record under its id; the lease it hangs on, and the revision.

    Waits up to one and a half lease times for that of an older run. Raises InvalidSpecification
    when another instance runs under this id, naming both, and StoreUnavailable.
    """
    me = record.member
    key = key_of(me.id)
    while True:
        listing = await store.list(key, limit=1)
        held = next((each for each in listing.entries if each.key == key), None)
        if held is not None and not await _is_free(held, me, answers):
            await _outlive(store, held, listing.revision, me, 1.5 * lease_s)
            continue
        lease = await store.grant(lease_s)
        try:
            expect = 0 if held is None else held.revision
            return lease, await store.put(key, encode(record), expect=expect, lease=lease)
        except Conflict:  # somebody was quicker
            await store.revoke(lease)


async def _is_free(held: Entry, me: Member, answers: Answers) -> bool:
    """Is it plain that whoever wrote the record is gone?"""
    older = _member(held)
    if older is None or older.incarnation == me.incarnation:
        return True
    if older.address and older.address == me.address:
        return True  # an address has one listener, and that is this instance
    there = await answers(older)
    if there:
        raise _taken(me, older)
    return there is False


async def _outlive(
    store: KVStore, held: Entry, revision: int, me: Member, patience_s: float
) -> None:
    """Wait until the record changes hands or goes. Raises InvalidSpecification if it is alive."""
    older = _member(held)
    assert older is not None
    log.info("waiting for the lease of an earlier run under this id to end", instance=me.id,
             earlier=described(older))
    try:
        async with asyncio.timeout(patience_s):
            async for change in store.watch(held.key, revision):
                if change.key != held.key:
                    continue
                if change.value is None:
                    return
                written = _member(Entry(change.key, change.value, change.revision))
                if written is None or written.incarnation != older.incarnation:
                    return
                raise _taken(me, older)  # it still writes
    except Compacted:
        return
    except TimeoutError:
        raise _taken(me, older) from None


def _member(entry: Entry) -> Member | None:
    try:
        return decode(entry.key, entry.value).member
    except ValueError:
        return None


def _taken(me: Member, older: Member) -> InvalidSpecification:
    return InvalidSpecification(
        f"instance_id: {described(older)} is running under the id that this instance, "
        f"{described(me)}, was to have: give each its own, or leave it empty for one that is made "
        "up; if the other one has ended, its id is free when its lease has ended too"
    )
