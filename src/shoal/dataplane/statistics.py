"""Counts of one version of a model, as Triton's statistics extension tells them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Statistics:
    """Survives unloads of the version's copy. Seconds are sums: `success_s` and `fail_s` of whole
    requests; the others of the parts of successful ones, `queue_s` with waiting for loads."""

    successes: int = 0
    success_s: float = 0.0
    queue_s: float = 0.0
    decode_s: float = 0.0
    compute_s: float = 0.0
    encode_s: float = 0.0
    fails: int = 0
    fail_s: float = 0.0
    last_at: float = 0.0  # perf_counter
    reported_at: float = float("-inf")  # the last failure in the journal
