"""How busy the instance is: totals, latencies of the last minutes, the busiest models."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from shoal.domain.views import Latency
from shoal.observability.window import Counts, RollingWindow

LATENCY_SPAN_S: Final = 300.0
RATE_SPAN_S: Final = 60.0
FORGET_PER_S: Final = 0.01  # a model with fewer requests a second is no longer listed


@dataclass(slots=True)
class _Rate:
    per_s: float
    mean_s: float
    at: float


@dataclass(slots=True)
class Activity:
    """Written by the data plane. hits: requests that found their copy ready; cold: that waited."""

    requests: int = 0
    failed: int = 0
    hits: int = 0
    cold: int = 0
    latency: RollingWindow = field(default_factory=lambda: RollingWindow(LATENCY_SPAN_S))
    cold_latency: RollingWindow = field(default_factory=lambda: RollingWindow(LATENCY_SPAN_S))
    _rates: dict[str, _Rate] = field(default_factory=dict)

    def tick(self, name: str, count: int, busy_s: float, span_s: float, now: float) -> None:
        """`count` requests of a model in the last `span_s` seconds took `busy_s` in it."""
        rate = self._rates.setdefault(name, _Rate(0.0, 0.0, now))
        faded = rate.per_s * math.exp(-(now - rate.at) / RATE_SPAN_S)
        rate.per_s = faded + count / max(span_s, 1e-3) * (1 - math.exp(-span_s / RATE_SPAN_S))
        rate.mean_s = busy_s / count
        rate.at = now

    def rate(self, name: str, now: float) -> float:
        """Requests a second to a model over the last minute."""
        rate = self._rates.get(name)
        return 0.0 if rate is None else rate.per_s * math.exp(-(now - rate.at) / RATE_SPAN_S)

    def busiest(self, limit: int, now: float) -> list[tuple[str, float, float]]:
        """Name, requests a second over the last minute, mean seconds in the model."""
        rates = {
            name: rate.per_s * math.exp(-(now - rate.at) / RATE_SPAN_S)
            for name, rate in self._rates.items()
        }
        for name in [name for name, rate in rates.items() if rate < FORGET_PER_S]:
            del self._rates[name], rates[name]
        first = sorted(rates, key=lambda name: (-rates[name], name))[:limit]
        return [(name, rates[name], self._rates[name].mean_s) for name in first]


def latency_view(counts: Counts) -> Latency:
    return Latency(
        p50=counts.quantile(0.5), p90=counts.quantile(0.9), p99=counts.quantile(0.99),
        max=counts.max(),
    )
