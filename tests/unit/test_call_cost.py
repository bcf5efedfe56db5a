"""What is learnt of a model's cost from measured calls."""

from __future__ import annotations

import random

import pytest

from shoal.node.call_cost import CallCost


def learnt(fixed_s: float, row_s: float, rows: list[int], noise: float = 0.0) -> CallCost:
    cost = CallCost()
    chance = random.Random(1)
    for count in rows:
        cost.add(count, (fixed_s + count * row_s) * (1 + noise * chance.uniform(-1, 1)))
    return cost


@pytest.mark.parametrize(("fixed_s", "row_s"), [(90e-6, 1e-6), (1e-3, 1e-3), (0.0, 0.05)], ids=str)
def test_both_parts_are_told_apart(fixed_s: float, row_s: float) -> None:
    cost = learnt(fixed_s, row_s, [1, 2, 8, 1, 16, 4])
    assert cost.fixed_s == pytest.approx(fixed_s, abs=1e-9)
    assert cost.row_s == pytest.approx(row_s, abs=1e-9)
    assert cost.expected_s(10) == pytest.approx(fixed_s + 10 * row_s)


def test_calls_of_one_size_say_nothing_of_the_parts_so_two_rows_are_tried() -> None:
    cost = learnt(0.0, 0.05, [1] * 50)
    assert cost.expected_s(1) == pytest.approx(0.05)
    assert cost.worthwhile_rows() == 2


def test_larger_calls_are_tried_in_steps_of_two() -> None:
    cost = learnt(100e-6, 1e-6, [1])
    reached = []
    for _ in range(5):
        rows = cost.worthwhile_rows()
        reached.append(rows)
        cost.add(rows, 100e-6 + rows * 1e-6)
    assert reached == [2, 4, 8, 16, 32]


def test_rows_that_cost_all_are_not_joined() -> None:
    assert learnt(0.0, 0.05, [1, 2, 1, 1]).worthwhile_rows() == 1


def test_joining_ends_where_little_is_shared() -> None:
    assert learnt(10e-3, 10e-3, [1, 2, 4, 8, 16, 32]).worthwhile_rows() in (9, 10)


def test_noise_does_not_hide_what_pays() -> None:
    cost = learnt(1e-3, 10e-6, [1, 8, 16, 32, 1, 2] * 10, noise=0.5)
    assert cost.worthwhile_rows() >= 32


def test_a_pause_of_somebody_else_is_cut() -> None:
    cost = learnt(100e-6, 1e-6, [1, 8] * 10)
    cost.add(8, 5.0)
    assert cost.expected_s(1) < 500e-6


def test_what_changed_is_learnt_anew() -> None:
    cost = learnt(1e-3, 1e-6, [1, 8, 32] * 10)
    for rows in [1, 8, 32] * 50:
        cost.add(rows, rows * 1e-4)
    assert cost.worthwhile_rows() == 1


def test_neither_part_is_negative() -> None:
    cost = CallCost()
    for rows, seconds in [(1, 2e-3), (8, 1e-3), (1, 2e-3), (8, 1e-3)]:
        cost.add(rows, seconds)
    assert cost.row_s == 0.0
    assert cost.fixed_s > 0.0
