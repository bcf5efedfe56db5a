"""Everything an operator may ask of an instance: `Control`, on top of the shell."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import shoal
from shoal.core.copies import CopyState
from shoal.domain import events as on
from shoal.domain.errors import Conflict, ModelNotFound
from shoal.domain.events import served
from shoal.domain.model import ModelRecord, ModelSpec
from shoal.domain.views import (
    BusyModel,
    EventPage,
    InstanceView,
    ModelPage,
    ModelView,
    Outcome,
    Registered,
    SettingView,
    Status,
    Story,
    Totals,
)
from shoal.node import story
from shoal.node.activity import latency_view
from shoal.node.bulk import Bulk
from shoal.node.catalogue import Catalogue
from shoal.node.control import ModelFilter
from shoal.node.instance import Instance
from shoal.node.machine import resident_bytes
from shoal.node.turns import Turns
from shoal.runtimes.registry import RuntimeRegistry
from shoal.settings import Configuration, setting_fields, value_of
from shoal.storage.declare import declare, declare_unread

BUSIEST: Final = 20
_MOST_PROBLEMS: Final = 100


@dataclass(slots=True)
class Identity:
    """Who this instance is, for those who look from outside. Addresses (`host:port`) are known once
    it listens."""

    id: str
    started_at: float
    http_address: str = ""
    grpc_address: str = ""
    management_address: str = ""


class Operations:
    """`node.control.Control`. Runs on the event loop; reads files on threads."""

    def __init__(self, instance: Instance, runtimes: RuntimeRegistry,
                 configuration: Configuration, identity: Identity) -> None:
        self._instance = instance
        self._runtimes = runtimes
        self._configuration = configuration
        self._identity = identity
        self._catalogue = Catalogue(instance)
        self._bulk = Bulk(instance, self._refusal)

    # --- models ---------------------------------------------------------------------------------

    async def list_models(self, wanted: ModelFilter) -> ModelPage:
        return await self._catalogue.page(wanted)

    def model(self, name: str) -> ModelView:
        return story.view(self._instance, self._instance.record(name))

    def explain(self, name: str) -> Story:
        return story.tell(self._instance, self._instance.record(name))

    async def register(
        self, spec: ModelSpec, *, create: bool = False, read: bool = True
    ) -> ModelView:
        known = self._instance.replica.get(spec.name)
        self._check_owner(known)
        if create and known is not None:
            raise Conflict(f"model {spec.name!r} is registered already; register it without "
                           "'create' to replace it")
        record = await asyncio.to_thread(self._declare if read else self._declare_unread, spec)
        await self._instance.replica.put(record)
        return story.view(self._instance, record)

    def _declare(self, spec: ModelSpec) -> ModelRecord:
        """Blocking. What could never be loaded is refused now rather than at the first request."""
        record = declare(spec, self._runtimes, registered_at=self._instance.clock.wall())
        for revision in record.revisions:
            self._instance.loader.check(revision)
        return record

    def _declare_unread(self, spec: ModelSpec) -> ModelRecord:
        """Whether its code may run is asked when it is loaded: its place may not exist yet."""
        record = declare_unread(
            spec, self._runtimes, registered_at=self._instance.clock.wall())
        for revision in record.revisions:
            self._instance.loader.check_options(revision)
        return record

    async def register_all(
        self, specs: Sequence[ModelSpec], *, read: bool = True
    ) -> list[Registered]:
        declare = self._declare if read else self._declare_unread
        return await self._bulk.register(specs, declare)

    async def unregister(self, name: str) -> None:
        self._check_owner(self._instance.record(name))
        await self._instance.replica.delete(name)

    async def unregister_all(self, names: Sequence[str]) -> list[Registered]:
        return await self._bulk.unregister(names)

    async def load(self, name: str, version: int | None = None, *, wait: bool = True) -> Outcome:
        return await self._ask(on.LoadAsked, name, version, wait=wait)

    async def unload(self, name: str, version: int | None = None, *, wait: bool = True) -> Outcome:
        return await self._ask(on.UnloadAsked, name, version, wait=wait)

    async def _ask(self, event: type[on.LoadAsked | on.UnloadAsked], name: str,
                   version: int | None, *, wait: bool) -> Outcome:
        clock = self._instance.clock
        started = clock.monotonic()
        timeout_s = self._instance.settings.load.timeout_s if wait else None
        await self._instance.ask(event, name, version, timeout_s)
        record = self._instance.replica.get(name)
        if record is None:
            raise ModelNotFound(f"model {name!r} was unregistered meanwhile")
        model = story.view(self._instance, record)
        revision = served(record, version)
        state = model.state
        if version is not None and revision is not None:
            state = story.state_of(self._instance, revision)
        return Outcome(name, state, version if version is not None else model.default_version,
                       round(clock.monotonic() - started, 6))

    def _check_owner(self, record: ModelRecord | None) -> None:
        if record is not None and (refusal := self._refusal(record.name)) is not None:
            raise refusal

    def _refusal(self, name: str) -> Conflict | None:
        """Why what is declared under `name` must not be changed from here."""
        if not self._instance.replica.is_local(name):
            return None
        record = self._instance.replica.get(name)
        folder = record.origin.removeprefix("folder:") if record is not None else "?"
        return Conflict(f"model {name!r} is declared by the watched folder {folder}; change it "
                        "there")

    # --- the instance ---------------------------------------------------------------------------

    def events(self, after: int = 0, limit: int = 100, model: str | None = None) -> EventPage:
        return self._instance.journal.page(after, limit, model)

    def instances(self) -> list[InstanceView]:
        instance, identity = self._instance, self._identity
        cache, now = instance.core.cache, instance.clock.monotonic()
        count, size = cache.ledger.count, cache.ledger.bytes
        return [InstanceView(
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
        )]

    async def status(self) -> Status:
        instance = self._instance
        by_state = await self._catalogue.by_state()
        problems = await self._problems()
        activity, ledger = instance.activity, instance.core.cache.ledger
        now = instance.clock.monotonic()
        return Status(
            ready=not self.problems_of_readiness(),
            models=len(instance.replica),
            by_state=by_state,
            totals=Totals(
                requests=activity.requests, failed=activity.failed, hits=activity.hits,
                cold=activity.cold, loads=ledger.loads, load_failures=ledger.load_failures,
                evictions=ledger.evictions, unloads=ledger.unloads,
            ),
            latency=latency_view(activity.latency, now),
            cold_latency=latency_view(activity.cold_latency, now),
            instances=self.instances(),
            busiest=list(self._busiest(now)),
            problems=problems,
        )

    def _busiest(self, now: float) -> Iterator[BusyModel]:
        for name, rate, mean_s in self._instance.activity.busiest(BUSIEST, now):
            record = self._instance.replica.get(name)
            if record is not None:
                model = story.view(self._instance, record)
                sizes = [each.size_bytes for each in model.versions if each.size_bytes is not None]
                yield BusyModel(name, model.state, round(rate, 3), mean_s, sum(sizes) or None)

    async def _problems(self) -> list[str]:
        instance = self._instance
        turns = Turns()
        problems = list(self._runtimes.problems.values())
        if instance.registry_problem is not None:
            problems.append(instance.registry_problem)
        problems += instance.replica.problems
        for name in islice(sorted(instance.invalid), _MOST_PROBLEMS):
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
        return list(dict.fromkeys(problems))[:_MOST_PROBLEMS]

    def settings_in_force(self) -> list[SettingView]:
        settings, sources = self._configuration.settings, self._configuration.sources
        return [
            SettingView(
                name=field.path, value=value_of(settings, field.path), default=field.default,
                source=sources[field.path], flag=field.flag, variable=field.variable,
                doc=field.doc,
            )
            for field in setting_fields()
        ]

    def problems_of_readiness(self) -> list[str]:
        if self._instance.draining:
            return ["this instance is shutting down"]
        if self._instance.starting:
            return ["this instance is starting: it still reads its folders"]
        return []

    def _state(self) -> str:
        if self._instance.draining:
            return "draining"
        return "starting" if self._instance.starting else "ready"
