"""When a load that failed is tried again."""

from __future__ import annotations

from shoal.core.failures import Failures


def test_the_wait_doubles_up_to_a_limit() -> None:
    failures = Failures(base_s=2.0, max_s=5.0, deadly_s=0.0)
    assert [failures.record("r", "C", "", 10.0).retry_at for _ in range(3)] == [12.0, 14.0, 15.0]


def test_a_place_that_wants_to_be_left_alone_is_not_asked_earlier() -> None:
    failures = Failures(base_s=2.0, max_s=300.0, deadly_s=0.0)
    assert failures.record("r", "C", "", 10.0, least_s=60.0).retry_at == 70.0
    assert not failures.may_try("r", 69.0)
    assert failures.record("r", "C", "", 70.0).retry_at == 74.0
    assert failures.record("r", "C", "", 80.0, least_s=9_999.0).retry_at == 380.0
