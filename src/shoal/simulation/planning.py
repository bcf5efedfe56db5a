"""What a trace of requests would see: with so many instances, so much memory, this or that policy.

Must not know where the trace came from, nor how the figures are shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from shoal.domain.errors import InvalidSpecification
from shoal.simulation.fleet import Fleet, FleetOptions
from shoal.simulation.modelmesh import ModelMesh
from shoal.simulation.results import Result
from shoal.simulation.traces import Catalogue, Trace

SHOAL: Final = "shoal"
POLICIES: Final = (SHOAL, "shoal-lru", "modelmesh", "modelmesh-fixed")
MEMORIES: Final = (0.5, 2.0, 4.0)  # that are compared with what was asked for


@dataclass(frozen=True, slots=True)
class Plan:
    """memory_bytes: of each instance. warm_up: share of the trace that fills the caches and is not
    counted."""

    instances: int
    memory_bytes: int
    policy: str = SHOAL
    warm_up: float = 0.5
    service_s: float = 0.01
    load_concurrency: int = 2
    seed: int = 1


def simulate(trace: Trace, catalogue: Catalogue, plan: Plan) -> Result:
    """Raises InvalidSpecification for an unknown policy."""
    if plan.policy not in POLICIES:
        raise InvalidSpecification(
            f"there is no policy {plan.policy!r}; there are {', '.join(POLICIES)}")
    if plan.policy.startswith("modelmesh"):
        other = ModelMesh(
            catalogue, plan.instances, plan.memory_bytes, fixed=plan.policy.endswith("fixed"),
            loaders=plan.load_concurrency, seed=plan.seed)
        return other.play(trace, plan.policy, plan.warm_up)
    fleet = Fleet(catalogue, FleetOptions(
        instances=plan.instances, memory_bytes=plan.memory_bytes,
        eviction="lru" if plan.policy == "shoal-lru" else "gdsf", warm_up=plan.warm_up,
        service_s=plan.service_s, load_concurrency=plan.load_concurrency, seed=plan.seed))
    return fleet.play(trace, plan.policy)


def alternatives(plan: Plan, policies: tuple[str, ...] = POLICIES) -> Iterator[Plan]:
    """The same with less and more memory, and by other policies."""
    for factor in MEMORIES:
        yield replace(plan, memory_bytes=max(round(plan.memory_bytes * factor), 1))
    for policy in policies:
        if policy != plan.policy:
            yield replace(plan, policy=policy)
