"""When memory that no model is booked for is a leak, and what a process does then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from shoal.app.recycling import Recycling
from shoal.domain.mesh import Member, MemberState
from shoal.node.instance import Instance
from shoal.node.leaking import FROM_BYTES, LeakWatch

GIB = 1024**3


def test_much_for_long_is_a_leak() -> None:
    watch = LeakWatch(0.5, 600.0, 2 * GIB)
    assert watch.look(2 * GIB, 0.0) is None
    assert watch.look(2 * GIB, 599.0) is None
    told = watch.look(2 * GIB, 600.0)
    assert told is not None
    assert told.startswith(
        "has held more than 1,073,741,824 bytes beyond what its models are booked for, "
        "2,147,483,648 now, for 600 s")
    assert watch.look(2 * GIB, 601.0) is not None


def test_what_goes_away_meanwhile_is_none() -> None:
    watch = LeakWatch(0.5, 600.0, 2 * GIB)
    watch.look(2 * GIB, 0.0)
    watch.look(GIB, 300.0)
    assert watch.look(2 * GIB, 600.0) is None
    assert watch.look(2 * GIB, 1200.0) is not None


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_noise_is_none(share: float) -> None:
    watch = LeakWatch(share, 0.0, 1024)
    assert watch.look(FROM_BYTES if share else GIB, 0.0) is None


class Journal:
    def __init__(self) -> None:
        self.kinds: list[str] = []

    def note(self, kind: str, message: str) -> None:
        self.kinds.append(kind)


class Node:
    """As much of an instance as is looked at: `others` are the states of other members."""

    def __init__(self, **others: MemberState) -> None:
        self.leak: str | None = None
        self.journal = Journal()
        members = {each: Member(id=each, incarnation=each, state=state)
                   for each, state in {"me": MemberState.READY, **others}.items()}
        self.core = SimpleNamespace(view=SimpleNamespace(me="me", members=members))


def looked_at(node: Node, ended: list[str], *, exits: bool) -> Recycling:
    return Recycling(cast(Instance, node), None, exits, lambda: ended.append("ended"))


def test_without_a_supervisor_it_is_only_said() -> None:
    node, ended = Node(), list[str]()
    recycling = looked_at(node, ended, exits=False)
    for _ in range(2):
        recycling.look("leaks")
    assert node.leak is not None
    assert node.leak.startswith("this process leaks; restart it, or have that done")
    assert (node.journal.kinds, ended, recycling.exit_status) == (["leaking"], [], 0)
    recycling.look(None)
    assert node.leak is None


def test_it_ends_once_and_says_that_it_did_not_just_stop() -> None:
    node, ended = Node(b=MemberState.READY), list[str]()
    recycling = looked_at(node, ended, exits=True)
    for _ in range(2):
        recycling.look("leaks")
    assert (node.journal.kinds, ended) == (["leaking", "recycled"], ["ended"])
    assert recycling.exit_status == 75


@pytest.mark.parametrize("state", [MemberState.DRAINING, MemberState.STARTING])
def test_one_goes_after_the_other(state: MemberState) -> None:
    node, ended = Node(b=state), list[str]()
    recycling = looked_at(node, ended, exits=True)
    recycling.look("leaks")
    assert ended == []
    assert recycling.exit_status == 0
