"""Counts of one version of a model, as Triton's statistics extension tells them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Count:
    """Requests of one kind, and the seconds that they took together."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True)
class Statistics:
    """What the statistics extension tells of a version; survives unloads of its copy."""

    success: Count = field(default_factory=Count)
    fail: Count = field(default_factory=Count)
    queue: Count = field(default_factory=Count)
    decode: Count = field(default_factory=Count)
    compute: Count = field(default_factory=Count)
    encode: Count = field(default_factory=Count)
    last_at: float = 0.0  # perf_counter
    reported_at: float = float("-inf")  # the last failure in the journal
