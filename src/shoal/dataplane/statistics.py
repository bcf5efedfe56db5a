"""Counts of one version of a model, as Triton's statistics extension tells them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Joined:
    """Requests that ran as one call of the model. calls: of the model. answered: requests. Seconds
    are sums: `calls_s` over the calls, `requests_s` over the requests, each of which counts the
    whole call that it was part of."""

    calls: int = 0
    answered: int = 0
    calls_s: float = 0.0
    requests_s: float = 0.0


@dataclass(slots=True)
class Statistics:
    """Survives unloads of the version's copy. Seconds are sums: `success_s` and `fail_s` of whole
    requests; the others of the parts of successful ones, `queue_s` with waiting for loads.
    joined: by how many requests ran as one."""

    successes: int = 0
    success_s: float = 0.0
    queue_s: float = 0.0
    decode_s: float = 0.0
    compute_s: float = 0.0
    fails: int = 0
    fail_s: float = 0.0
    last_at: float = 0.0  # perf_counter
    reported_at: float = float("-inf")  # the last failure in the journal
    joined: dict[int, Joined] = field(default_factory=dict)

    @property
    def encode_s(self) -> float:
        """What is left of the whole: making the answers."""
        return max(self.success_s - self.queue_s - self.decode_s - self.compute_s, 0.0)

    def count_joined(self, calls: int, answered: int, seconds: float) -> None:
        """So many requests ran as one, in `seconds`; `answered` of them were still waited for."""
        entry = self.joined.setdefault(calls, Joined())
        entry.calls += 1
        entry.answered += answered
        entry.calls_s += seconds
        entry.requests_s += answered * seconds

    def single(self) -> tuple[int, float]:
        """Requests that ran alone, and the seconds that they took in the model."""
        joined = self.joined.values()
        count = self.successes - sum(entry.answered for entry in joined)
        seconds = self.compute_s - sum(entry.requests_s for entry in joined)
        return (count, max(seconds, 0.0)) if count > 0 else (0, 0.0)
