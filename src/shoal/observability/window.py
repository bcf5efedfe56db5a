"""Latencies of the last minutes: quantiles, count and rate over a sliding span.

Counts in logarithmic buckets, in slots that are emptied one after the other as time passes. Knows
no clock: `now` is an argument, seconds that only grow.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

import msgspec

_GROWTH: Final = 1.09
"""A bucket's upper over its lower end. Its geometric middle is then at most 4.5 % off whatever fell
into it."""

_LEAST_S: Final = 1e-6
_MOST_S: Final = 1e4
_PER_LOG: Final = 1 / math.log(_GROWTH)
_OFFSET: Final = -math.log(_LEAST_S) * _PER_LOG
_BUCKETS: Final = math.ceil(math.log(_MOST_S / _LEAST_S) * _PER_LOG)


class Counts(msgspec.Struct, frozen=True):
    """What a window covers at a time, to be added to what others cover. buckets: values by bucket.
    largest_s: of them."""

    buckets: dict[int, int] = {}
    largest_s: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        buckets = dict(Counter(self.buckets) + Counter(other.buckets))
        return Counts(buckets, max(self.largest_s, other.largest_s))

    def quantile(self, q: float) -> float | None:
        """As `RollingWindow.quantile`."""
        count = sum(self.buckets.values())
        rank = max(1, math.ceil(q * count))
        seen = 0
        for bucket, number in sorted(self.buckets.items()):
            seen += number
            if seen >= rank:
                return min(_middle_s(bucket), self.largest_s)
        return None

    def max(self) -> float | None:
        return self.largest_s if self.buckets else None


class RollingWindow:
    """A histogram over the last `span_s` seconds, in `slots` steps: what it covers is between
    `span_s` and one step less.

    Values are seconds between 1 µs and 10,000 s; beyond, they count as the nearest of these.
    Memory: about 2.2 KiB a slot. Not safe for threads.
    """

    __slots__ = (
        "_current", "_maxima", "_maximum", "_slot", "_slot_ends_at", "_slot_s", "_slots",
        "_started_at", "_total",
    )

    def __init__(self, span_s: float, slots: int = 30) -> None:
        if not span_s > 0 or slots < 2:
            raise ValueError("a rolling window needs a span above 0 seconds and two slots or more")
        self._slot_s = span_s / slots
        self._slots = [[0] * _BUCKETS for _ in range(slots)]
        self._maxima = [0.0] * slots
        self._total = [0] * _BUCKETS
        self._slot = 0
        self._current = self._slots[0]
        self._maximum = 0.0
        self._slot_ends_at = -math.inf
        self._started_at = -math.inf

    def observe(self, value_s: float, now: float) -> None:
        if now >= self._slot_ends_at:
            self._advance(now)
        if value_s > self._maximum:
            self._maximum = value_s
        if value_s <= _LEAST_S:
            bucket = 0
        else:
            bucket = int(math.log(value_s) * _PER_LOG + _OFFSET)
            if bucket >= _BUCKETS:
                bucket = _BUCKETS - 1
        self._current[bucket] += 1
        self._total[bucket] += 1

    def quantile(self, q: float, now: float) -> float | None:
        """Seconds, within 5 %; None when nothing was observed. `q`: between 0 and 1."""
        count = self.count(now)
        if count == 0:
            return None
        rank = max(1, math.ceil(q * count))
        seen = 0
        for bucket, number in enumerate(self._total):
            seen += number
            if seen >= rank:
                return min(_middle_s(bucket), self._largest())
        raise AssertionError("the total counts fewer values than it says")

    def max(self, now: float) -> float | None:
        """Seconds, exactly; None when nothing was observed."""
        return self._largest() if self.count(now) else None

    def count(self, now: float) -> int:
        if now >= self._slot_ends_at:
            self._advance(now)
        return sum(self._total)

    def counts(self, now: float) -> Counts:
        """What it covers now."""
        if not self.count(now):
            return Counts()
        found = {bucket: number for bucket, number in enumerate(self._total) if number}
        return Counts(found, self._largest())

    def rate(self, now: float) -> float:
        """Observations a second, over the part of the span since the first call."""
        count = self.count(now)
        behind = (len(self._slots) - 1) * self._slot_s
        covered = min(behind + now - (self._slot_ends_at - self._slot_s), now - self._started_at)
        return count / max(covered, self._slot_s)

    def _largest(self) -> float:
        return max(self._maximum, *self._maxima)

    def _advance(self, now: float) -> None:
        """Empty the slots whose time has come, and make the last of them the current one."""
        if self._started_at == -math.inf:
            self._started_at = now
            self._slot_ends_at = now + self._slot_s
            return
        steps = int((now - self._slot_ends_at) // self._slot_s) + 1
        self._maxima[self._slot] = self._maximum
        self._maximum = 0.0
        for _ in range(min(steps, len(self._slots))):
            self._slot = (self._slot + 1) % len(self._slots)
            self._empty(self._slot)
        self._current = self._slots[self._slot]
        self._slot_ends_at += steps * self._slot_s

    def _empty(self, slot: int) -> None:
        self._maxima[slot] = 0.0
        counts = self._slots[slot]
        if any(counts):
            self._total = [all_ - gone for all_, gone in zip(self._total, counts, strict=True)]
            self._slots[slot] = [0] * _BUCKETS


def _middle_s(bucket: int) -> float:
    return _LEAST_S * math.pow(_GROWTH, bucket + 0.5)
