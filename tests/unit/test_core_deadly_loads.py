"""Homes bound what a revision that ends instances can do; by the messages that a core hears."""

from __future__ import annotations

import pytest
from tests.unit.test_core_in_a_mesh import DRAINING, READY, One, members, one

from shoal.domain import commands as do
from shoal.domain import events as on
from shoal.domain import mesh
from shoal.domain.reasons import Reason


def home_of_many() -> One:
    """The home `a` of a model, which loads nothing itself: whoever asks has ruled it out."""
    home = one(abcd="a", acd="a", ad="a", a="a")
    home.members(1, a=READY, b=READY, c=READY, d=READY)
    return home


def locate(home: One, *without: str, by_hand: bool = False) -> list[do.Command]:
    return home.told("d", mesh.Locate(
        home.name, None, 1, revision=home.revision.id, without=("a", *without), by_hand=by_hand))


def granted(commands: list[do.Command]) -> list[str]:
    return [each.instance for each in commands
            if isinstance(each, do.Tell) and isinstance(each.message, mesh.Grant)]


def refused(commands: list[do.Command]) -> list[mesh.NotLocated]:
    return [each.message for each in commands
            if isinstance(each, do.Tell) and isinstance(each.message, mesh.NotLocated)]


def two_die_of_it(home: One, *, loading: bool = True) -> None:
    for view, (dead, others) in enumerate((("b", "acd"), ("c", "ad")), 2):
        [to] = granted(locate(home, *{"b", "c", "d"} - {dead}))
        assert to == dead
        if loading:
            home.told(dead, mesh.Loading(home.revision.id))
        home.members(view, **dict.fromkeys(others, READY))


def test_what_two_instances_did_not_survive_is_not_granted_to_a_third() -> None:
    home = home_of_many()
    two_die_of_it(home)
    commands = locate(home)
    assert granted(commands) == []
    [said] = refused(commands)
    assert said.code == "LOAD_FAILED"
    assert said.message.startswith(
        f"model {home.name!r}: 2 instances ended while they loaded it (b, c)")
    assert said.retry_after_s == 3600.0


def test_after_long_it_is_tried_again_and_one_more_death_is_enough() -> None:
    home = home_of_many()
    two_die_of_it(home)
    home.now += 3601.0
    assert granted(locate(home)) == ["d"]
    home.told("d", mesh.Loading(home.revision.id))
    home.members(4, a=READY)
    home.members(5, a=READY, d=READY)
    assert granted(locate(home)) == []


def test_what_only_waited_there_is_not_blamed() -> None:
    home = home_of_many()
    two_die_of_it(home, loading=False)
    assert granted(locate(home)) == ["d"]


def test_who_held_or_loads_it_well_ends_the_count() -> None:
    home = home_of_many()
    [_] = granted(locate(home, "c", "d"))
    home.told("b", mesh.Loading(home.revision.id))
    home.members(2, a=READY, c=READY, d=READY)
    [_] = granted(locate(home, "d"))
    home.told("c", mesh.Loading(home.revision.id))
    home.told("c", mesh.Held(home.revision, size_bytes=10))
    home.members(3, a=READY, d=READY)
    assert granted(locate(home)) == ["d"]


def test_by_hand_it_is_tried_at_once() -> None:
    home = home_of_many()
    two_die_of_it(home)
    assert granted(locate(home, by_hand=True)) == ["d"]


def test_a_load_that_is_known_to_be_deadly_is_tried_nowhere_else() -> None:
    home = home_of_many()
    [to] = granted(locate(home, "c", "d"))
    commands = home.told(to, mesh.Failed(
        home.revision.id, "LOAD_FAILED", "it kills", deadly=True))
    assert granted(commands) == []
    [said] = refused(locate(home))
    assert (said.message, said.retry_after_s) == ("it kills", 3600.0)


def test_the_next_home_knows_of_deaths() -> None:
    home = one(abc="a", ac="a", acd="d")
    home.members(1, a=READY, b=READY, c=READY)
    [_] = granted(locate(home, "c"))
    home.told("b", mesh.Loading(home.revision.id))
    home.members(2, a=READY, c=READY)
    commands = home.hear(on.MembersChanged(members(a=READY, c=READY, d=READY), 3))
    [told] = [each.message for each in commands
              if isinstance(each, do.Tell) and isinstance(each.message, mesh.HandOver)]
    assert [state.deaths for state in told.models] == [{home.revision.id: ("b",)}]

    other = One(home.name)
    other.members(1, a=READY, c=READY)
    other.told("c", told)
    assert other.core.failures.deaths(home.revision.id) == ("b",)


@pytest.mark.parametrize("state", [READY, DRAINING], ids=["elsewhere", "here"])
def test_a_home_elsewhere_is_told_when_a_load_begins(state: mesh.MemberState) -> None:
    made = one(ab="b")
    made.members(1, a=READY, b=state)
    commands = made.told("b", mesh.Grant(made.revision, 0, Reason.REQUESTED))
    said = [each.message for each in commands if isinstance(each, do.Tell)]
    home = made.core.view.home(made.name)
    assert said == ([mesh.Loading(made.revision.id)] if home == "b" else [])
    assert [type(each) for each in commands][-1] is do.LoadCopy
