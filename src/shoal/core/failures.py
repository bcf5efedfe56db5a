"""Loads that failed: why, how often, and when to try again.

The wait doubles with every failure, from `base_s` to `max_s`: a storage outage heals by itself, and
a broken file costs one load in a while.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Failure:
    code: str
    message: str
    count: int
    first_at: float
    last_at: float
    retry_at: float


class Failures:
    def __init__(self, base_s: float, max_s: float) -> None:
        self._base_s = base_s
        self._max_s = max_s
        self._by_revision: dict[str, Failure] = {}

    def record(self, revision: str, code: str, message: str, now: float) -> Failure:
        failure = self._by_revision.get(revision)
        if failure is None:
            failure = Failure(code, message, 0, now, now, now)
            self._by_revision[revision] = failure
        failure.code, failure.message = code, message
        failure.count += 1
        failure.last_at = now
        failure.retry_at = now + min(self._base_s * 2.0 ** min(failure.count - 1, 30), self._max_s)
        return failure

    def of(self, revision: str) -> Failure | None:
        return self._by_revision.get(revision)

    def may_try(self, revision: str, now: float) -> bool:
        failure = self._by_revision.get(revision)
        return failure is None or now >= failure.retry_at

    def forget(self, revision: str) -> None:
        self._by_revision.pop(revision, None)
