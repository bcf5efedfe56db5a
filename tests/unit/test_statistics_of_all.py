"""Statistics of several instances together."""

from __future__ import annotations

from time import perf_counter

import pytest

from shoal.dataplane.statistics import Statistics, summed, told


def counted(successes: int, *, joined: int = 0) -> Statistics:
    made = Statistics(successes=successes, success_s=0.5, compute_s=0.25, fails=1, fail_s=0.1)
    if joined:
        made.count_joined(joined, joined, 0.01)
    return made


def test_counts_are_added_up_and_the_own_ones_stay() -> None:
    mine = {("m", 1): counted(2, joined=2)}
    others = [told("m", 1, counted(3, joined=2)), told("m", 2, counted(1))]
    found = summed(mine, others)
    assert sorted(found) == [("m", 1), ("m", 2)]
    both = found["m", 1]
    assert (both.successes, both.success_s, both.fails) == (5, 1.0, 2)
    assert (both.joined[2].calls, both.joined[2].answered) == (2, 4)
    assert mine["m", 1].successes == 2
    assert mine["m", 1].joined[2].calls == 1
    assert found["m", 2].successes == 1


def test_the_last_request_is_the_latest_on_any_instance() -> None:
    mine, other = counted(1), counted(1)
    mine.last_at, other.last_at = perf_counter() - 5.0, perf_counter() - 1.0
    found = summed({("m", 1): mine}, [told("m", 1, other)])
    assert found["m", 1].last_at == pytest.approx(other.last_at, abs=0.1)
    assert summed({}, [told("m", 1, counted(1))])["m", 1].last_at == 0.0


def test_alone_the_counts_are_the_own_ones() -> None:
    mine = {("m", 1): counted(2)}
    assert summed(mine, [])["m", 1] is mine["m", 1]
