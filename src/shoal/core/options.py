"""The constants of the decisions; each is a setting and documented there."""

from __future__ import annotations

import msgspec


class Options(msgspec.Struct, frozen=True, kw_only=True):
    budget_bytes: int
    eviction: str = "gdsf"
    cold_start_cost_s: float = 0.25
    fill_share: float = 0.8
    idle_ttl_s: float = 0.0
    load_concurrency: int = 2
    max_waiting: int = 10_000
    max_waiting_per_model: int = 2_000
    retry_base_s: float = 2.0
    retry_max_s: float = 300.0
    max_wait_s: float = 30.0
