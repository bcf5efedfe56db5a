"""Joining and leaving a mesh, with a registry that is there, is gone, or forgets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
from tests.members_mesh import DEADLINE_S, LEASE_S, OFTEN, Instance, Mesh
from tests.ports import HeldPort

from shoal.domain.errors import InvalidSpecification, StoreUnavailable
from shoal.domain.mesh import Figures, Member, MemberState
from shoal.node import claiming, retrying
from shoal.node.claiming import knock
from shoal.node.member_records import MemberRecord, encode
from shoal.node.presence import Rhythm
from shoal.ports import LeaseLost
from shoal.stores.memory import MemoryStore


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():  # noqa: ASYNC110 - of what nobody tells
            await asyncio.sleep(0.001)


def _knows(instance: Instance, ids: list[str]) -> bool:
    return instance.ids == ids


def _is_well(instance: Instance) -> bool:
    return instance.members.trouble is None


def _has_problems(instance: Instance, count: int) -> bool:
    return len(instance.problems) == count


@pytest.fixture
async def mesh(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mesh]:
    monkeypatch.setattr(retrying, "FIRST_S", 0.002)
    monkeypatch.setattr(claiming, "KNOCK_S", 0.5)
    made = Mesh()
    yield made
    for instance in made.instances:
        instance.line.hangs = False
        instance.line.mend()
        await instance.members.stop()


# --- coming and going


async def test_who_is_alone_knows_itself(mesh: Mesh) -> None:
    alone = await mesh.join("a")
    assert alone.told == [((alone.members.me,), 1)]
    assert await mesh.stored() == {"a": alone.members.me}


async def test_instances_see_each_other_and_name_the_same_view(mesh: Mesh) -> None:
    first, second = await mesh.join("b"), await mesh.join("a")
    await first.until(lambda: first.ids == ["a", "b"])
    assert second.ids == ["a", "b"]
    assert first.view == second.view


async def test_a_new_state_is_told_at_once(mesh: Mesh) -> None:
    seldom = Rhythm(lease_s=600, refresh_s=600)
    first, second = await mesh.join("a", rhythm=seldom), await mesh.join("b", rhythm=seldom)
    second.members.update(state=MemberState.READY, address="tcp:10.0.0.2:8083")
    assert second.state_of("b") is MemberState.READY
    await first.until(lambda: first.state_of("b") is MemberState.READY)
    await second.until(lambda: second.view == first.view)
    assert first.members.members[1].address == "tcp:10.0.0.2:8083"


async def test_published_waits_until_the_registry_has_it(mesh: Mesh) -> None:
    one = await mesh.join("a")
    one.members.update(state=MemberState.DRAINING)
    await one.members.published()
    assert (await mesh.stored())["a"].state is MemberState.DRAINING


async def test_figures_are_refreshed_and_no_news(mesh: Mesh) -> None:
    first, second = await mesh.join("a"), await mesh.join("b")
    await first.until(lambda: first.ids == ["a", "b"])
    told = len(first.told)
    second.members.update(figures=Figures(load=0.5, copies=3))
    mesh.clock.now += 2 * OFTEN.refresh_s
    await mesh.until_stored(lambda found: found["b"].figures.copies == 3)
    await until(lambda: first.members.members[1].figures.copies == 3)
    assert len(first.told) == told


async def test_who_leaves_is_gone_at_once(mesh: Mesh) -> None:
    staying, leaving = await mesh.join("a"), await mesh.join("b")
    await leaving.members.stop()
    await staying.until(lambda: staying.ids == ["a"])
    assert list(await mesh.stored()) == ["a"]


async def test_who_crashed_is_gone_with_its_lease(mesh: Mesh) -> None:
    staying, crashing = await mesh.join("a"), await mesh.join("b")
    await staying.until(lambda: staying.ids == ["a", "b"])
    crashing.line.cut()
    kept_alive_at = mesh.clock.now
    async with asyncio.timeout(DEADLINE_S):
        while staying.ids == ["a", "b"]:
            mesh.clock.now += LEASE_S / 100
            await asyncio.sleep(0.002)
    assert staying.ids == ["a"]
    assert mesh.clock.now >= kept_alive_at + LEASE_S


# --- records of others


async def test_unknown_fields_of_a_record_are_ignored(mesh: Mesh) -> None:
    one = await mesh.join("a")
    await mesh.store.put("instances/z", b'{"format": 1, "turn": 3, "colour": "red", "member": '
                                        b'{"id": "z", "incarnation": "i", "shoe_size": 43}}')
    await one.until(lambda: one.ids == ["a", "z"])
    assert one.members.problems == []


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"\xff{", "cannot be read"),
        (b'{"format": 1, "member": {"id": "z"}}', "missing required field `incarnation`"),
        (b'{"format": 2, "member": {"id": "z", "incarnation": "i"}}', "format 2, this Shoal knows"),
        (b'{"format": 1, "member": {"id": "y", "incarnation": "i"}}', "speaks of 'y'"),
    ],
    ids=["garbage", "incomplete", "newer", "misplaced"],
)
async def test_a_record_that_cannot_be_read_is_told_and_ignored(
    mesh: Mesh, value: bytes, why: str
) -> None:
    one = await mesh.join("a")
    await mesh.store.put("instances/z", value)
    await one.until(lambda: one.problems)
    assert one.ids == ["a"]
    assert why in one.problems[0]
    assert "'z'" in one.problems[0]
    assert one.members.problems == one.problems
    await mesh.store.delete("instances/z")
    other = await mesh.join("b")
    await one.until(lambda: one.ids == ["a", "b"])
    assert one.members.problems == other.members.problems == []


# --- a registry that is gone


async def test_who_loses_the_registry_keeps_the_members_and_says_so(mesh: Mesh) -> None:
    one, other = await mesh.join("a"), await mesh.join("b")
    await one.until(lambda: one.ids == ["a", "b"])
    told = len(one.told)
    one.line.cut()
    await one.until(lambda: len(one.problems) == 2)
    assert all("the line to the registry is cut" in problem for problem in one.problems)
    assert one.members.trouble in one.problems
    assert (one.ids, len(one.told)) == (["a", "b"], told)
    assert other.members.trouble is None


async def test_who_comes_back_joins_by_itself(mesh: Mesh) -> None:
    one, other = await mesh.join("a"), await mesh.join("b")
    one.line.cut()
    await one.until(lambda: len(one.problems) == 2)
    mesh.clock.now += 0.6 * LEASE_S
    third = await mesh.join("c")
    async with asyncio.timeout(DEADLINE_S):
        while "a" in other.ids:  # its lease ends
            mesh.clock.now += LEASE_S / 100
            await asyncio.sleep(0.002)
    one.line.mend()
    for each in (one, other, third):
        await each.until(partial(_knows, each, ["a", "b", "c"]))
        await until(partial(_is_well, each))


async def test_all_views_are_the_same_after_an_outage(mesh: Mesh) -> None:
    one, other = await mesh.join("a"), await mesh.join("b")
    await one.until(lambda: one.ids == ["a", "b"])
    one.line.cut()
    await one.until(lambda: len(one.problems) == 2)
    await mesh.join("c")
    await mesh.instances[-1].members.stop()
    other.members.update(figures=Figures(copies=1))  # raises the revision, and is no news
    mesh.clock.now += 2 * OFTEN.refresh_s
    await mesh.until_stored(lambda found: found["b"].figures.copies == 1)
    await mesh.join("d")
    one.line.mend()
    await one.until(lambda: one.ids == ["a", "b", "d"])
    await until(lambda: one.view == other.view == mesh.instances[-1].view)


async def test_nobody_is_taken_for_gone_when_all_lost_the_registry(mesh: Mesh) -> None:
    long = Rhythm(lease_s=60, refresh_s=0.01)
    one, other = await mesh.join("a", rhythm=long), await mesh.join("b", rhythm=long)
    await one.until(lambda: one.ids == ["a", "b"])
    told = len(one.told)
    for each in (one, other):
        each.line.cut()
    for each in (one, other):
        await each.until(partial(_has_problems, each, 2))
    mesh.clock.now += 61
    await mesh.end_leases()
    assert await mesh.stored() == {}
    one.line.mend()
    await mesh.until_stored(lambda found: "a" in found)
    await until(lambda: one.members.trouble is None)
    other.line.mend()
    await mesh.until_stored(lambda found: "b" in found)
    await until(lambda: other.members.trouble is None)
    assert all(len(members) == 2 for members, _ in one.told[told:])


async def test_who_does_not_come_back_after_an_outage_is_gone_a_lease_time_later(
    mesh: Mesh
) -> None:
    one, other = await mesh.join("a"), await mesh.join("b")
    await one.until(lambda: one.ids == ["a", "b"])
    for each in (one, other):
        each.line.cut()
        await each.until(partial(_has_problems, each, 2))
    await mesh.end_leases()
    one.line.mend()
    await one.until(lambda: one.ids == ["a"])


async def test_a_registry_that_does_not_answer_is_told(mesh: Mesh) -> None:
    one = await mesh.join("a", rhythm=Rhythm(lease_s=0.02, refresh_s=10))
    one.line.hangs = True
    await one.until(lambda: one.problems)
    assert "no answer in 0.02 s" in one.problems[0]
    one.line.hangs = False
    await mesh.until_stored(lambda _: one.members.trouble is None)


# --- a record that is lost


async def test_a_record_that_somebody_deleted_is_put_again(mesh: Mesh) -> None:
    one = await mesh.join("a", rhythm=Rhythm(lease_s=600, refresh_s=600))
    await mesh.store.delete("instances/a")
    await mesh.until_stored(lambda found: found == {"a": one.members.me})


async def test_a_record_that_somebody_spoilt_is_put_again(mesh: Mesh) -> None:
    one = await mesh.join("a", rhythm=Rhythm(lease_s=600, refresh_s=600))
    await mesh.store.put("instances/a", b"spoilt")
    await one.until(lambda: one.problems)
    await until(lambda: not one.members.problems)
    assert await mesh.stored() == {"a": one.members.me}


async def test_a_lease_that_ended_is_replaced(mesh: Mesh) -> None:
    one = await mesh.join("a")
    await mesh.store.revoke(1)
    await mesh.until_stored(lambda found: found == {"a": one.members.me})
    with pytest.raises(LeaseLost):
        await mesh.store.keep_alive(1)
    await mesh.store.keep_alive(2)


async def test_a_write_whose_answer_was_lost_is_no_quarrel(mesh: Mesh) -> None:
    one, other = await mesh.join("a"), await mesh.join("b")
    one.line.forgets_answer = True
    one.members.update(state=MemberState.READY)
    await one.members.published()
    await other.until(lambda: other.state_of("a") is MemberState.READY)
    await until(lambda: one.members.trouble is None)
    assert "the answer was lost" in one.problems[0]


async def test_a_compacted_history_is_made_up_for_by_a_list(mesh: Mesh) -> None:
    mesh.store = MemoryStore(mesh.clock, history_limit=2)
    one = await mesh.join("a")
    for n in range(20):  # in one turn of the loop, so that the watch falls behind
        await mesh.store.put(f"models/{n}", b"")
    await mesh.store.put("instances/z", encode(MemberRecord(member=Member(id="z", incarnation=""))))
    for n in range(20):
        await mesh.store.put(f"models/{n}", b"")
    await one.until(lambda: one.ids == ["a", "z"])
    assert one.problems == []


# --- two under one id


async def there(_: Member) -> bool | None:
    return True


async def gone(_: Member) -> bool | None:
    return False


async def unknown(_: Member) -> bool | None:
    return None


async def test_an_id_that_is_in_use_is_refused_and_both_are_named(mesh: Mesh) -> None:
    first = await mesh.join("a")
    second = mesh.instance("a", run="2", address="tcp:10.0.0.9:1", answers=there)
    with pytest.raises(InvalidSpecification) as refused:
        await second.members.start()
    assert refused.value.message.startswith("instance_id: a (host here, process 7) is running")
    assert "address tcp:10.0.0.9:1" in refused.value.message
    assert (await mesh.stored())["a"] == first.members.me


async def test_the_id_of_a_run_that_is_gone_is_taken_at_once(mesh: Mesh) -> None:
    watching, first = await mesh.join("w"), await mesh.join("a")
    first.line.cut()
    second = mesh.instance("a", run="2", answers=gone)
    await second.members.start()
    assert (await mesh.stored())["a"] == second.members.me
    await watching.until(lambda: watching.members.members[0].incarnation == "a/2")


async def test_the_id_of_a_run_at_the_same_address_is_taken_at_once(mesh: Mesh) -> None:
    first = mesh.instance("a", address="tcp:10.0.0.1:1")
    await first.members.start()
    first.line.cut()
    second = mesh.instance("a", run="2", address="tcp:10.0.0.1:1", answers=there)
    await second.members.start()
    assert (await mesh.stored())["a"] == second.members.me


async def test_where_nothing_is_known_of_an_earlier_run_its_lease_is_waited_for(mesh: Mesh) -> None:
    long = Rhythm(lease_s=60, refresh_s=60)
    first = await mesh.join("a", rhythm=long)
    first.line.cut()
    second = mesh.instance("a", run="2", rhythm=long, answers=unknown)
    starting = asyncio.ensure_future(second.members.start())
    await asyncio.sleep(0.01)
    assert not starting.done()
    mesh.clock.now += 61
    async with asyncio.timeout(DEADLINE_S):
        await starting
    assert (await mesh.stored())["a"] == second.members.me


async def test_an_earlier_run_whose_lease_does_not_end_has_the_id(mesh: Mesh) -> None:
    await mesh.join("a", rhythm=Rhythm(lease_s=60, refresh_s=60))
    second = mesh.instance("a", run="2", rhythm=Rhythm(lease_s=0.01), answers=unknown)
    with pytest.raises(InvalidSpecification, match="is running under the id"):
        await second.members.start()


async def test_an_earlier_run_that_still_writes_has_the_id(mesh: Mesh) -> None:
    first = await mesh.join("a")
    second = mesh.instance("a", run="2", rhythm=Rhythm(lease_s=60), answers=unknown)
    starting = asyncio.ensure_future(second.members.start())
    await asyncio.sleep(0.01)
    first.members.update(state=MemberState.READY)
    with pytest.raises(InvalidSpecification, match="is running under the id"):
        async with asyncio.timeout(DEADLINE_S):
            await starting


async def test_who_was_replaced_says_so_and_does_not_quarrel(mesh: Mesh) -> None:
    first = await mesh.join("a")
    first.line.cut()
    second = mesh.instance("a", run="2", answers=gone)
    await second.members.start()
    first.line.mend()
    await first.until(lambda: any("has taken the place" in said for said in first.problems))
    assert (await mesh.stored())["a"] == second.members.me
    await second.members.stop()
    await mesh.until_stored(lambda found: found == {"a": first.members.me})
    await until(lambda: first.members.trouble is None)


async def test_a_start_that_is_given_up_leaves_nothing(mesh: Mesh) -> None:
    one = mesh.instance("a")
    starting = asyncio.ensure_future(one.members.start())
    await mesh.until_stored(lambda found: found)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    if starting.cancelled():
        assert await mesh.stored() == {}


async def test_a_start_without_the_registry_is_refused(mesh: Mesh) -> None:
    one = mesh.instance("a")
    one.line.cut()
    with pytest.raises(StoreUnavailable):
        await one.members.start()


# --- is anybody there?


def at(address: str) -> Member:
    return Member(id="a", incarnation="", address=address)


def test_a_store_that_is_gone_is_tried_as_often_as_it_would_be_told() -> None:
    """What comes back counts leases anew: all are heard of before one ends."""
    rhythm = Rhythm(lease_s=9.0)
    assert 0.1 <= rhythm.retry_s(0) <= 0.2
    assert all(1.5 <= rhythm.retry_s(failures) <= 3.0 for failures in (4, 5, 1000))


async def test_nobody_is_where_connections_are_refused(tmp_path: Path) -> None:
    with HeldPort() as free:
        assert await knock(at(f"tcp:127.0.0.1:{free}")) is False
    assert await knock(at(f"unix:{tmp_path}/none.sock")) is False


async def test_who_accepts_a_connection_may_be_anybody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert await knock(at(f"tcp:127.0.0.1:{listening.getsockname()[1]}")) is None


@pytest.mark.parametrize("address", ["", "tcp:", "tcp:127.0.0.1:x", "pigeon:home"])
async def test_an_address_that_is_none_tells_nothing(address: str) -> None:
    assert await knock(at(address)) is None
