"""What stays is set aside for the garbage collector, until something leaves."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from shoal.node.resident import CALM_S, Resident


@pytest.fixture
def resident() -> Iterator[Resident]:
    gc.unfreeze()
    yield Resident()
    gc.unfreeze()


def test_copies_that_came_are_set_aside_at_the_next_tick(resident: Resident) -> None:
    resident.came()
    assert gc.get_freeze_count() == 0
    resident.tick(now=1.0)
    assert gc.get_freeze_count() > 0


def test_without_news_nothing_is_done(resident: Resident) -> None:
    resident.tick(now=1.0)
    assert gc.get_freeze_count() == 0


def test_when_one_leaves_all_is_given_back(resident: Resident) -> None:
    resident.came()
    resident.tick(now=1.0)
    resident.leaves(now=2.0)
    assert gc.get_freeze_count() == 0


def test_it_is_set_aside_again_when_nothing_has_left_for_a_while(resident: Resident) -> None:
    resident.leaves(now=2.0)
    resident.tick(now=1.0 + CALM_S)
    assert gc.get_freeze_count() == 0
    resident.tick(now=2.0 + CALM_S)
    assert gc.get_freeze_count() > 0
