"""Leaving the mesh and coming back, as operators ask for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from tests.storage_fakes import HeldClock

from shoal.domain.errors import Conflict, InvalidRequest
from shoal.node.asking import Links
from shoal.node.draining import Draining
from shoal.node.questions import Leave


@dataclass
class FakeView:
    me: str = "a"
    ready: list[str] = field(default_factory=lambda: ["a", "b"])


@dataclass
class FakeCore:
    view: FakeView = field(default_factory=FakeView)
    hot: int = 0


@dataclass
class FakeInstance:
    """What `Draining` needs of an instance."""

    clock: HeldClock = field(default_factory=HeldClock)
    core: FakeCore = field(default_factory=FakeCore)
    leaving: bool = False
    draining: bool = False


class FakeMembership:
    """Leaves once `done` is set. said: what it was told to do."""

    links: Links
    problems: list[str]

    def __init__(self) -> None:
        self.said: list[object] = []
        self.begun, self.done = asyncio.Event(), asyncio.Event()

    async def leave(self, timeout_s: float) -> None:
        self.said.append(timeout_s)
        self.begun.set()
        await self.done.wait()

    def undo_leaving(self) -> None:
        self.said.append("undo")


class Way:
    def __init__(self) -> None:
        self.instance = FakeInstance()
        self.membership = FakeMembership()
        self.ended = asyncio.Event()
        self.draining = Draining(self.instance, self.ended.set)  # type: ignore[arg-type]
        self.draining.membership = self.membership


async def test_it_answers_when_the_others_have_taken_over() -> None:
    way = Way()
    asked = asyncio.create_task(way.draining.leave(Leave(7.0)))
    await way.membership.begun.wait()
    assert way.instance.leaving
    way.instance.core.hot = 2
    way.membership.done.set()
    drained = await asked
    assert (drained.id, drained.state, drained.left, drained.ending) == ("a", "draining", 2, False)
    assert way.membership.said == [7.0]
    assert not way.ended.is_set()


async def test_asked_twice_it_leaves_once() -> None:
    way = Way()
    asked = [asyncio.create_task(way.draining.leave(Leave(7.0))) for _ in range(2)]
    await way.membership.begun.wait()
    way.membership.done.set()
    assert {each.state for each in await asyncio.gather(*asked)} == {"draining"}
    assert way.membership.said == [7.0]


async def test_it_comes_back_while_it_leaves() -> None:
    way = Way()
    asked = asyncio.create_task(way.draining.leave(Leave(7.0)))
    await way.membership.begun.wait()
    back = await way.draining.leave(Leave(7.0, undo=True))
    assert (back.state, way.instance.leaving) == ("ready", False)
    with pytest.raises(Conflict, match="told to stay"):
        await asked
    assert way.membership.said == [7.0, "undo"]


async def test_coming_back_without_having_left_changes_nothing() -> None:
    way = Way()
    assert (await way.draining.leave(Leave(1.0, undo=True))).state == "ready"
    assert way.membership.said == []


async def test_who_shuts_down_does_not_come_back() -> None:
    way = Way()
    way.instance.leaving = way.instance.draining = True
    with pytest.raises(Conflict, match="shutting down already"):
        await way.draining.leave(Leave(1.0, undo=True))


async def test_the_last_one_does_not_leave_unless_it_ends() -> None:
    way = Way()
    way.instance.core.view.ready = ["a"]
    with pytest.raises(Conflict, match="no other instance is ready"):
        await way.draining.leave(Leave(1.0))
    way.membership.done.set()
    assert (await way.draining.leave(Leave(1.0, stop=True))).ending
    await way.ended.wait()


async def test_an_instance_in_no_mesh_can_be_ended() -> None:
    way = Way()
    way.draining.membership = None
    assert (await way.draining.leave(Leave(0.0, stop=True))).ending
    await way.ended.wait()


@pytest.mark.parametrize("timeout_s", [-1.0, 1e9])
async def test_a_time_out_of_bounds_is_refused(timeout_s: float) -> None:
    with pytest.raises(InvalidRequest, match="from 0 to 3600"):
        await Way().draining.leave(Leave(timeout_s))
