"""How many loads and downloads go on at once, and whose turn it is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.served import until

from shoal.node.doors import Door, Doors, LoadTurn


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


class Watched(Door):
    def wait_for_waiting(self, count: int) -> None:
        """Until so many wait."""
        until(lambda: len(self._waiting) == count, f"{count} to wait", 10)


def enter(door: Watched, pool: ThreadPoolExecutor, ranks: list[int], order: list[int]) -> None:
    """One after the other, each waiting when the next comes."""
    def pass_through(rank: int) -> None:
        number = door.enter(rank)
        order.append(number)
        door.leave(number)

    for count, rank in enumerate(ranks, 1):
        pool.submit(pass_through, rank)
        door.wait_for_waiting(count)


def test_those_that_wait_go_by_rank_and_then_as_they_came(pool: ThreadPoolExecutor) -> None:
    door, order = Watched(1), list[int]()
    inside = door.enter(0)
    enter(door, pool, [1, 0, 1, 0], order)
    door.leave(inside)
    pool.shutdown()
    assert order == [inside + 2, inside + 4, inside + 1, inside + 3]


def test_who_is_given_up_makes_room_once(pool: ThreadPoolExecutor) -> None:
    door = Watched(1)
    hanging = door.enter(0)
    door.leave(hanging)
    door.leave(hanging)
    door.enter(0)
    waits = pool.submit(door.enter, 0)
    door.wait_for_waiting(1)
    assert not waits.done()
    door.leave(hanging + 1)
    assert waits.result(10) == hanging + 2


def test_a_turn_tells_its_download_and_counts_from_when_it_came() -> None:
    told, now = list[bool](), [0.0]
    doors = Doors(Door(1), Door(1))
    turn = LoadTurn(doors, 0, lambda: now[0], told.append)
    with turn.downloading():
        assert told == [True]
        now[0] = 5.0
    assert told == [True, False]
    with turn.loading():
        assert turn.since == 5.0


def test_a_turn_that_waits_has_not_begun(pool: ThreadPoolExecutor) -> None:
    door, done = Watched(1), threading.Event()
    number = door.enter(0)
    turn = LoadTurn(Doors(Door(1), door), 0, lambda: 0.0, lambda _: None)

    def load() -> None:
        with turn.loading():
            done.wait(10)

    loads = pool.submit(load)
    door.wait_for_waiting(1)
    assert turn.since is None
    door.leave(number)
    after = pool.submit(door.enter, 0)
    door.wait_for_waiting(1)
    turn.give_up()
    assert after.result(10)
    done.set()
    loads.result(10)
