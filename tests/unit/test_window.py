"""Latencies over a sliding span."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.observability.window import Counts, RollingWindow


def exact(values: list[float], q: float) -> float:
    return sorted(values)[max(1, math.ceil(q * len(values))) - 1]


def test_an_empty_window_has_no_quantile_and_no_rate() -> None:
    window = RollingWindow(60)
    assert window.quantile(0.5, 0.0) is None
    assert window.max(0.0) is None
    assert window.count(0.0) == 0
    assert window.rate(0.0) == 0


@pytest.mark.parametrize("q", [0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0])
def test_quantiles_are_within_five_per_cent(q: float) -> None:
    chance = random.Random(7)
    values = [chance.lognormvariate(-6, 2) for _ in range(2000)]
    window = RollingWindow(60)
    for value in values:
        window.observe(value, 0.0)
    found = window.quantile(q, 0.0)
    assert found == pytest.approx(exact(values, q), rel=0.05)


@given(st.floats(2e-6, 9e3))
def test_a_single_value_is_found_within_five_per_cent(value: float) -> None:
    window = RollingWindow(60)
    window.observe(value, 0.0)
    assert window.quantile(0.5, 0.0) == pytest.approx(value, rel=0.05)
    assert window.max(0.0) == value


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-9, 1e6])
def test_values_beyond_the_range_count_as_its_ends(value: float) -> None:
    window = RollingWindow(60)
    window.observe(value, 0.0)
    assert window.count(0.0) == 1
    assert window.quantile(0.5, 0.0) is not None


def test_no_quantile_is_above_the_greatest_value() -> None:
    window = RollingWindow(60)
    for _ in range(10):
        window.observe(0.001, 0.0)
    assert window.quantile(1.0, 0.0) == 0.001


def test_values_leave_when_the_span_has_passed() -> None:
    window = RollingWindow(60, slots=6)
    window.observe(5.0, 0.0)
    window.observe(0.1, 30.0)
    assert window.count(49.9) == 2
    assert window.max(49.9) == 5.0
    assert window.count(60.0) == 1
    assert window.max(60.0) == 0.1
    assert window.count(90.0) == 0
    assert window.quantile(0.5, 90.0) is None


def test_a_long_silence_empties_everything() -> None:
    window = RollingWindow(60, slots=6)
    for second in range(60):
        window.observe(0.1, float(second))
    assert window.count(1e6) == 0
    window.observe(0.2, 1e6)
    assert window.count(1e6) == 1


def test_the_count_is_of_the_span_at_any_time() -> None:
    window = RollingWindow(60, slots=6)
    for tenth in range(3000):
        now = tenth / 10
        window.observe(0.01, now)
        if now > 70:
            assert 500 <= window.count(now) <= 600


def test_the_rate_is_right_soon_after_the_start_and_later() -> None:
    window = RollingWindow(60, slots=6)
    for tenth in range(3000):
        now = tenth / 10
        window.observe(0.01, now)
        if now > 15:
            assert window.rate(now) == pytest.approx(10, rel=0.02)


def test_the_rate_falls_when_nothing_happens() -> None:
    window = RollingWindow(60, slots=6)
    for _ in range(600):
        window.observe(0.01, 0.0)
    rates = [window.rate(now) for now in (10.0, 30.0, 50.0, 61.0)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 0


@pytest.mark.parametrize(("span_s", "slots"), [(0, 5), (-1, 5), (60, 1), (float("nan"), 5)])
def test_a_window_needs_a_span_and_slots(span_s: float, slots: int) -> None:
    with pytest.raises(ValueError, match="rolling window"):
        RollingWindow(span_s, slots)


def test_what_several_windows_cover_is_as_one() -> None:
    chance = random.Random(7)
    values = [chance.lognormvariate(-6, 2) for _ in range(600)]
    whole, parts = RollingWindow(60), [RollingWindow(60) for _ in range(3)]
    for number, value in enumerate(values):
        whole.observe(value, 0.0)
        parts[number % 3].observe(value, 0.0)
    together = sum((part.counts(0.0) for part in parts), Counts())
    assert together == whole.counts(0.0)
    for q in (0.0, 0.5, 0.99, 1.0):
        assert together.quantile(q) == whole.quantile(q, 0.0)
    assert together.max() == max(values)


def test_nothing_covered_has_no_quantile() -> None:
    assert RollingWindow(60).counts(0.0) == Counts()
    assert Counts().quantile(0.5) is None
    assert Counts().max() is None
