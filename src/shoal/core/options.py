"""The constants of the decisions. Most are settings and documented there."""

from __future__ import annotations

import msgspec

from shoal.domain.accelerators import PoolBudget


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Beyond the settings: steady_s: for which a model must be in play before a second copy of it
    is loaded. max_tried: instances on which a load is tried before it waits. hint_ttl_s: after
    which an entry that still uses what it was told says so. ask_timeout_s: after which a home that
    does not answer is asked again. barrier_s: that a new home waits for others to tell it their
    copies, less than `ask_timeout_s`; lost_barrier_s: the same after a member could not be reached
    any more. announce_s: between complete announcements. balance_margin: of load above the mean
    from which copies are moved away.

    budget_bytes: of the host's memory. pools: of its accelerators. accelerators: kinds that this
    instance says it has. accelerated_formats: by kind, the formats that can run there.
    """

    budget_bytes: int
    pools: tuple[PoolBudget, ...] = ()
    accelerators: tuple[str, ...] = ()
    accelerated_formats: dict[str, tuple[str, ...]] = {}
    eviction: str = "gdsf"
    cold_start_cost_s: float = 0.25
    fill_share: float = 0.8
    idle_ttl_s: float = 0.0
    load_concurrency: int = 2
    downloads: int = 8
    max_waiting: int = 10_000
    max_waiting_per_model: int = 2_000
    retry_base_s: float = 2.0
    retry_max_s: float = 300.0
    max_wait_s: float = 30.0
    retry_deadly_s: float = 3600.0
    me: str = "here"
    target_share: float = 0.05
    steady_rate: float = 1 / 60
    steady_s: float = 20.0
    hot_s: float = 60.0
    surplus_s: float = 60.0
    max_attempts: int = 4
    max_tried: int = 3
    hint_ttl_s: float = 30.0
    ask_timeout_s: float = 2.0
    barrier_s: float = 1.5
    lost_barrier_s: float = 0.2
    announce_s: float = 30.0
    balance_margin: float = 0.15
    retry_share: float = 0.2
