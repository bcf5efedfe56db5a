"""How long a dead worker is waited for, and how its death is told."""

from __future__ import annotations

import pytest

from shoal.workers.process import in_words
from shoal.workers.restarts import Restarts


def test_the_first_restart_is_at_once() -> None:
    assert Restarts().wait_s(lived_s=0.1) == 0


def test_the_waits_grow_to_half_a_minute_while_it_dies_early() -> None:
    restarts = Restarts()
    waits = [restarts.wait_s(lived_s=1.0) for _ in range(10)]
    assert waits == [0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_many_early_deaths_do_no_harm() -> None:
    restarts = Restarts()
    assert [restarts.wait_s(lived_s=0.0) for _ in range(5_000)][-1] == 30


def test_who_lived_a_minute_is_restarted_at_once_again() -> None:
    restarts = Restarts()
    for _ in range(5):
        restarts.wait_s(lived_s=1.0)
    assert restarts.wait_s(lived_s=60.0) == 0
    assert restarts.wait_s(lived_s=1.0) == 0.5


@pytest.mark.parametrize(("status", "words"), [
    (0, "exited with status 0"),
    (3, "exited with status 3"),
    (-9, "was killed by SIGKILL: probably for want of memory"),
    (-11, "was killed by SIGSEGV"),
    (-63, "was killed by signal 63"),
])
def test_a_death_is_told_in_words(status: int, words: str) -> None:
    assert in_words(status) == words
