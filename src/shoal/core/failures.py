"""Loads that failed: why, how often, and when to try again.

The wait doubles with every failure, from `base_s` to `max_s`: a storage outage heals by itself, and
a broken file costs one load in a while. A revision that ended `MOST_DEATHS` instances while they
loaded it waits `deadly_s`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MOST_DEATHS: Final = 2  # of instances by one revision: the first may be chance


@dataclass(slots=True)
class Failure:
    code: str
    message: str
    count: int
    first_at: float
    last_at: float
    retry_at: float


class Failures:
    def __init__(self, base_s: float, max_s: float, deadly_s: float) -> None:
        self._base_s = base_s
        self._max_s = max_s
        self._deadly_s = deadly_s
        self._by_revision: dict[str, Failure] = {}
        self._deaths: dict[str, dict[str, None]] = {}  # instances, by revision

    def record(
        self, revision: str, code: str, message: str, now: float, least_s: float = 0.0, *,
        deadly: bool = False,
    ) -> Failure:
        """least_s: before which trying again is of no use. deadly: processes ended of it."""
        failure = self._by_revision.get(revision)
        if failure is None:
            failure = Failure(code, message, 0, now, now, now)
            self._by_revision[revision] = failure
        failure.code, failure.message = code, message
        failure.count += 1
        failure.last_at = now
        wait_s = max(self._base_s * 2.0 ** min(failure.count - 1, 30), least_s)
        wait_s = min(wait_s, self._max_s)
        failure.retry_at = now + (max(wait_s, self._deadly_s) if deadly else wait_s)
        return failure

    def died(self, revision: str, *instances: str) -> None:
        """They ended while they loaded it."""
        if instances:
            self._deaths.setdefault(revision, {}).update(dict.fromkeys(instances))

    def deaths(self, revision: str) -> tuple[str, ...]:
        """Instances that ended while they loaded it, since it was loaded last."""
        return tuple(self._deaths.get(revision, ()))

    def is_known(self, revision: str) -> bool:
        """Is there anything to remember of it?"""
        return revision in self._by_revision or revision in self._deaths

    def learn(self, revision: str, failure: Failure) -> None:
        """What another instance knows of it."""
        self._by_revision.setdefault(revision, failure)

    def of(self, revision: str) -> Failure | None:
        return self._by_revision.get(revision)

    def may_try(self, revision: str, now: float) -> bool:
        failure = self._by_revision.get(revision)
        return failure is None or now >= failure.retry_at

    def forget(self, revision: str) -> None:
        self._by_revision.pop(revision, None)
        self._deaths.pop(revision, None)
