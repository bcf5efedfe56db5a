"""What this instance alone can tell of itself: what it holds, decides, counts and has lived.

Asks nobody; how others see it is put together in `operations`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import shoal
from shoal.core.copies import CopyState
from shoal.domain.views import (
    BusyModel,
    EventPage,
    InstanceView,
    ModelView,
    PoolView,
    State,
    Totals,
)
from shoal.node import story
from shoal.node.catalogue import Catalogue
from shoal.node.draining import Draining
from shoal.node.instance import Instance
from shoal.node.machine import resident_bytes
from shoal.node.questions import Facts, Report
from shoal.node.suspects import story as end_of_process
from shoal.node.turns import Turns
from shoal.runtimes.registry import RuntimeRegistry

BUSIEST: Final = 100  # told, of which the busiest of all instances are shown
MOST_PROBLEMS: Final = 100


@dataclass(slots=True)
class Identity:
    """Who this instance is, for those who look from outside. Addresses (`host:port`) are known once
    it listens."""

    id: str
    started_at: float
    http_address: str = ""
    grpc_address: str = ""
    management_address: str = ""


class Own:
    """Runs on the event loop, in turns with requests where it takes long."""

    def __init__(
        self, instance: Instance, runtimes: RuntimeRegistry, identity: Identity, draining: Draining
    ) -> None:
        self.catalogue = Catalogue(instance)
        self._instance = instance
        self._runtimes = runtimes
        self._identity = identity
        self._draining = draining

    # --- the instance ---------------------------------------------------------------------------

    def view(self) -> InstanceView:
        instance, identity = self._instance, self._identity
        cache, now = instance.core.cache, instance.clock.monotonic()
        count, size = cache.ledger.count, cache.ledger.bytes
        member = instance.core.view.members[instance.core.view.me]
        return InstanceView(
            id=identity.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=shoal.__version__,
            state=self._state(),
            started_at=identity.started_at,
            http_address=identity.http_address,
            management_address=identity.management_address,
            budget_bytes=cache.options.budget_bytes,
            used_bytes=size[CopyState.READY] + size[CopyState.UNLOADING],
            reserved_bytes=size[CopyState.LOADING],
            process_bytes=resident_bytes(),
            copies=count[CopyState.READY],
            loading=count[CopyState.LOADING],
            queued=count[CopyState.QUEUED],
            waiting_requests=len(instance.tickets),
            pressure=cache.ledger.pressure_per_h(cache.capacity_bytes, now),
            cache_age_s=cache.ledger.cache_age_s,
            thrashing=cache.is_thrashing(now),
            grpc_address=identity.grpc_address,
            zone=member.zone,
            labels=member.labels,
            load=instance.core.view.figures_of(member.id).load,
            homes=instance.core.homes,
            peer_address=member.address,
            problem=next(iter(self._mesh_problems()), None),
            pools=self.pools(),
        )

    def pools(self) -> list[PoolView]:
        """Its accelerators."""
        cache = self._instance.core.cache
        copies = dict.fromkeys(cache.pools, 0)
        for copy in cache.copies.values() if copies else ():
            if copy.device is not None and copy.state is CopyState.READY:
                copies[copy.device] += 1
        return [
            PoolView(
                name, pool.budget_bytes,
                pool.bytes[CopyState.READY] + pool.bytes[CopyState.UNLOADING],
                pool.bytes[CopyState.LOADING], pool.besides_bytes, copies[name])
            for name, pool in cache.pools.items()
        ]

    def _state(self) -> str:
        if self._instance.draining or self._instance.leaving:
            return "draining"
        return "starting" if self._instance.starting else "ready"

    async def report(self) -> Report:
        instance = self._instance
        activity, ledger = instance.activity, instance.core.cache.ledger
        now = instance.clock.monotonic()
        return Report(
            instance=self.view(),
            ready=not self.problems_of_readiness(),
            totals=Totals(
                requests=activity.requests, failed=activity.failed, hits=activity.hits,
                cold=activity.cold, loads=ledger.loads, load_failures=ledger.load_failures,
                evictions=ledger.evictions, unloads=ledger.unloads,
            ),
            latency=activity.latency.counts(now),
            cold_latency=activity.cold_latency.counts(now),
            in_play=await self.catalogue.in_play(),
            busiest=list(self._busiest(now)),
            problems=await self._problems(),
        )

    def _busiest(self, now: float) -> Iterator[BusyModel]:
        for name, rate, mean_s in self._instance.activity.busiest(BUSIEST, now):
            record = self._instance.replica.get(name)
            if record is not None:
                model = story.view(self._instance, record)
                ready = [copy for copy in model.where
                         if copy.state is State.READY and not copy.leaving]
                here = [copy.size_bytes or 0 for copy in ready
                        if copy.instance == self._identity.id]
                yield BusyModel(
                    name, model.state, round(rate, 3), mean_s, sum(here) or None,
                    list(dict.fromkeys(copy.instance for copy in ready)))

    def problems_of_readiness(self) -> list[str]:
        """Why it should get no requests now; empty: it should."""
        if self._instance.draining:
            return ["this instance is shutting down"]
        if self._instance.leaving:
            return ["this instance is drained: others take over what it holds"]
        if self._instance.starting:
            return ["this instance is starting: it still reads its folders"]
        return []

    def _mesh_problems(self) -> list[str]:
        membership = self._draining.membership
        return [] if membership is None else membership.problems

    async def _problems(self) -> list[str]:
        instance = self._instance
        turns = Turns()
        problems = list(self._runtimes.problems.values())
        if instance.registry_problem is not None:
            problems.append(instance.registry_problem)
        problems += instance.replica.problems
        if instance.leak is not None:
            problems.append(instance.leak)
        if (suspects := instance.loader.suspects) is not None:
            problems += [
                f"model {revision.rpartition('@')[0]!r}: {end_of_process(each)}; it is not loaded "
                "again unless by hand" for revision, each in suspects.refused().items()]
        problems += self._mesh_problems()
        for name in islice(sorted(instance.invalid), MOST_PROBLEMS):
            record = instance.replica.get(name)
            problem = record.problem if record is not None and record.problem else "not servable"
            problems.append(f"model {name!r}: {problem.removeprefix(f'model {name!r}: ')}")
        for name, play in list(instance.core.models.items()):
            if turns.is_over():
                await turns.rest()
            problems += [
                failure.message for slot in play.slots.values()
                for revision in (slot.active, slot.target) if revision is not None
                if (failure := instance.core.failures.of(revision.id)) is not None
                and (slot.version is None or name not in instance.invalid)
            ]
        if instance.core.cache.is_thrashing(instance.clock.monotonic()):
            problems.append("the cache is thrashing: models are evicted and loaded again faster "
                            "than clients can wait; give this instance more memory")
        return list(dict.fromkeys(problems))[:MOST_PROBLEMS]

    def events(self, after: int, limit: int, model: str | None) -> EventPage:
        return self._instance.journal.page(after, limit, model)

    # --- models ---------------------------------------------------------------------------------

    async def models(self, names: Iterable[str]) -> list[ModelView]:
        """Of those of which anything is loaded or decided here."""
        found = []
        turns = Turns()
        for name in names:
            record = self._instance.replica.get(name)
            if record is not None and story.is_known(self._instance, name):
                found.append(story.view(self._instance, record))
            if turns.is_over():
                await turns.rest()
        return found

    async def states(self, state: str) -> dict[str, State]:
        """Of models that this instance decides about: those in `state`, or, for `cold`, in any
        other."""
        found = {}
        turns = Turns()
        for name in list(self._instance.core.models):
            play = self._instance.core.models.get(name)
            if play is None:
                continue
            known = story.state_of_model(self._instance, play.record)
            if known == state or (state == State.COLD != known):
                found[name] = known
            if turns.is_over():
                await turns.rest()
        return found

    def loaded(self) -> list[str]:
        """Models with a ready copy here."""
        return list({copy.revision.model: None for copy in self._instance.live.values()})

    def facts(self, name: str) -> Facts:
        """Raises ModelNotFound."""
        return story.facts(self._instance, self._instance.record(name))

    async def await_copy(self, revision: str, timeout_s: float) -> None:
        """Return when the copy is ready. Raises as `Instance.acquire_here`."""
        copy = self._instance.live.get(revision)
        if copy is None:
            copy = await self._instance.acquire_here(revision, timeout_s)
            copy.release()
