"""A mesh in made-up time: instances, models and clients, as one seed shapes them.

Knows how to let instances join, end and drain, how to declare models and to send requests; not
when, which is said by `faults` and `trial`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Final

import msgspec

from shoal.core.options import Options
from shoal.domain.accelerators import PoolBudget
from shoal.domain.mesh import Member, MemberState
from shoal.domain.model import (
    ModelRecord,
    ModelSpec,
    Placement,
    Revision,
    VersionPolicy,
    make_revision,
)
from shoal.simulation.agenda import Agenda
from shoal.simulation.around import Around, Clock
from shoal.simulation.checks import Safety
from shoal.simulation.host import Host
from shoal.simulation.loading import Loader
from shoal.simulation.network import Conditions, Network
from shoal.simulation.registry import Registry
from shoal.simulation.requests import ByHand, Name, Request

MIB: Final = 1024**2
FORMAT: Final = "onnx"
KIND: Final = "cuda"
BESIDE: Final = 4  # of host memory, that a copy on an accelerator takes: this part of its size
MOST_RATE: Final = 1e-3  # by which a clock is fast or slow
MOST_WANTED: Final = 0.1  # of a budget, that a copy takes that may not leave
MOST_KEPT: Final = 3  # models that may not leave


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """models: how many. room: budgets of all instances together over the bytes of all models.
    skewed: how unlike instances' budgets are. exact: sizes are as declared. pools: accelerators of
    each instance that has any, which is every `pooled_every`th; pool_room: their budgets, as
    `room`."""

    instances: int = 3
    models: int = 20
    room: float = 1.0
    skewed: float = 0.0
    exact: bool = True
    pools: int = 0
    pooled_every: int = 1
    pool_room: float = 0.5
    zones: int = 1
    duplicates: float = 0.0
    lag_s: float = 0.1
    lease_s: float = 4.0
    load_s: tuple[float, float] = (0.02, 1.0)
    service_s: tuple[float, float] = (0.001, 0.03)
    options: dict[str, float | int | str] = field(default_factory=dict)
    check_every: int = 1
    traced: bool = False

    @classmethod
    def drawn(cls, seed: int, *, traced: bool = False) -> Shape:
        """A small world, unlike others in as many ways as there are."""
        chance, others = Random(f"shape {seed}"), Random(f"pools {seed}")
        instances, models = chance.randint(2, 7), chance.choice((5, 5, 10, 20, 40, 60))
        return cls(
            instances=instances, models=models,
            room=chance.choice((0.3, 0.6, 1.0, 2.0, 6.0)), skewed=chance.choice((0.0, 0.0, 0.6)),
            pools=others.choice((0, 0, 1, 2)), pooled_every=others.choice((1, 2, 3)),
            pool_room=others.choice((0.1, 0.3, 1.0)),
            exact=chance.random() < 0.7, zones=chance.choice((1, 1, 2, 3)),
            duplicates=chance.choice((0.0, 0.0, 0.02)), lag_s=chance.choice((0.01, 0.1, 1.0)),
            load_s=chance.choice(((0.01, 0.1), (0.02, 1.0), (0.2, 2.0))),
            options={
                "retry_base_s": 0.5, "retry_max_s": 4.0, "retry_deadly_s": 4.0,
                "hint_ttl_s": chance.choice((3.0, 30.0)),
                "announce_s": chance.choice((3.0, 10.0)), "ask_timeout_s": 1.0,
                "barrier_s": chance.choice((0.3, 1.0)), "steady_s": 5.0, "hot_s": 10.0,
                "surplus_s": 5.0, "load_concurrency": chance.choice((1, 2, 4)),
                "eviction": chance.choice(("gdsf", "gdsf", "lru")),
                "fill_share": chance.choice((0.0, 0.5, 0.8)),
                "idle_ttl_s": chance.choice((0.0, 0.0, 6.0)),
            },
            check_every=1 if instances * models <= 20 else 23, traced=traced,
        )


class World:
    """hosts: those whose process runs, by id. records: what was declared last, by name. unloaded:
    models that somebody took out of service at some time: whether they are still, only their home
    knows, if it did not end since."""

    def __init__(self, seed: int, shape: Shape) -> None:
        self.seed = seed
        self.shape = shape
        self.chance = Random(f"world {seed}")
        self._on_accelerators = Random(f"accelerators {seed}")
        self.agenda = Agenda()
        self.safety = Safety(
            every=shape.check_every, strict=shape.exact, traced=shape.traced)
        self.loader = Loader(Random(f"loads {seed}"), self._ideal)
        self.registry = Registry(self.agenda, Random(f"registry {seed}"), shape.lease_s)
        self.network = Network(
            self.agenda, Random(f"network {seed}"), Conditions(duplicates=shape.duplicates))
        self.around = Around(
            agenda=self.agenda, chance=Random(f"hosts {seed}"), registry=self.registry,
            network=self.network, loader=self.loader, witness=self.safety, lag_s=shape.lag_s,
            service_s=shape.service_s,
        )
        self.hosts: dict[str, Host] = {}
        self.records: dict[str, ModelRecord] = {}
        self.unloaded: dict[str, None] = {}
        self.requests = 0
        self._truth: dict[str, tuple[float, int]] = {}  # by digest: seconds, bytes
        self._sizes: dict[str, int] = {}
        self._contents = self._kept = 0
        self._runs: dict[str, int] = {}
        self._budgets: dict[str, int] = {}
        self._invent_models()

    # --- models ---------------------------------------------------------------------------------

    def _invent_models(self) -> None:
        for number in range(self.shape.models):
            size_mib = min(max(self.chance.lognormvariate(2.0, 1.0), 0.5), 60.0)
            self._sizes[f"m{number}"] = round(size_mib * MIB)
        for name in self._sizes:
            self.declare(self.new_record(name))

    @property
    def total_bytes(self) -> int:
        return sum(self._sizes.values())

    def new_record(self, name: str, *, broken: bool = False) -> ModelRecord:
        """A declaration with new content, on a whim with several versions and wishes."""
        chance, before = self.chance, self.records.get(name)
        wishes = self._wishes(name) if before is None else before.spec
        versions = [1] if chance.random() < 0.8 else [1, 2]
        if before is not None:
            kept = list(before.revisions[:-1]) if chance.random() < 0.5 else []
            newest = before.revisions[-1].version if before.revisions else 0
            version = newest + (1 if kept or chance.random() < 0.5 else 0)
            made = self._revision(wishes, max(version, 1))
            revisions = (*(each for each in kept if each.version < made.version), made)
        else:
            revisions = tuple(self._revision(wishes, each) for each in versions)
        if broken:
            self.loader.broken[revisions[-1].id] = None
        return ModelRecord(name=name, spec=wishes, revisions=revisions)

    def _wishes(self, name: str) -> ModelSpec:
        chance, many = self.chance, self.shape.instances
        special = chance.random()
        if special < 0.1:  # what may not leave must leave room for the rest
            self._kept += 1
            share = self.total_bytes * self.shape.room / many * (1 - self.shape.skewed)
            if self._kept > MOST_KEPT or self._sizes[name] > MOST_WANTED * share:
                special = 1.0
        placement = Placement(preferred={"disk": "fast"}) if 0.15 <= special < 0.2 else None
        if self.shape.pools and special >= 0.1:  # what may not leave may lie where it wants
            placement = self._on_accelerators.choice((
                placement, Placement(accelerator=KIND), Placement(preferred_accelerator=KIND)))
        return ModelSpec(
            name=name, uri=f"/{name}", version_policy=VersionPolicy(),
            pin=special < 0.03, min_copies=min(2, many) if 0.03 <= special < 0.1 else 0,
            max_copies=1 if 0.1 <= special < 0.15 else None,
            priority=chance.choice((0, 0, 0, 1)), repeatable=chance.random() < 0.8,
            memory_bytes=self._sizes[name] if self.shape.exact else None,
            accelerator_bytes=self._sizes[name] if self.shape.exact and placement else None,
            placement=placement,
        )

    def _revision(self, spec: ModelSpec, version: int) -> Revision:
        self._contents += 1
        size, digest = self._sizes[spec.name], f"content {self._contents}"
        if not self.shape.exact:
            size = round(size * self.chance.uniform(0.6, 1.4))
        self._truth[digest] = (self.chance.uniform(*self.shape.load_s), size)
        return make_revision(
            spec, version=version, uri=f"/{spec.name}/{version}", format=FORMAT,
            artifact_digest=digest, files_bytes=self._sizes[spec.name] // 2)

    def _ideal(self, revision: Revision, accelerated: bool) -> tuple[float, int, int]:
        seconds, size_bytes = self._truth[revision.artifact_digest]
        if not accelerated:
            return seconds, size_bytes, 0
        beside_bytes = size_bytes if self.shape.exact else size_bytes // BESIDE
        return seconds, beside_bytes, size_bytes

    def size_of(self, revision: Revision) -> int:
        return self._truth[revision.artifact_digest][1]

    def declare(self, record: ModelRecord) -> bool:
        self.safety.declared(record)
        if not self.registry.declare(record):
            return False
        self.records[record.name] = record
        return True

    def remove(self, name: str) -> bool:
        if not self.registry.remove(name):
            return False
        del self.records[name]
        return True

    def may_load(self, name: str) -> bool:
        """Is there a revision in its declaration that can be loaded?"""
        return any(each.id not in self.loader.broken for each in self.records[name].revisions)

    # --- instances ------------------------------------------------------------------------------

    def join(self, instance: str) -> Host:
        """A process starts under this id, for the first time or anew."""
        assert instance not in self.hosts
        run = self._runs[instance] = self._runs.get(instance, 0) + 1
        number = int(instance[1:])
        member = Member(
            id=instance, incarnation=f"{instance}-{run}", state=MemberState.STARTING,
            zone=f"z{number % self.shape.zones}", processors=2.0,
            labels={"disk": "fast" if number % 2 else "slow"},
            budget_bytes=self._budget(instance),
        )
        options = msgspec.convert(
            {"budget_bytes": member.budget_bytes, "me": instance, **self.shape.options}, Options)
        if self.shape.pools:
            pools = self._pools(number)
            kinds = (KIND,) if pools else ()
            member = msgspec.structs.replace(member, pools=pools, accelerators=kinds)
            options = msgspec.structs.replace(
                options, pools=pools, accelerators=kinds, accelerated_formats={KIND: (FORMAT,)})
        clock = Clock(self.chance.uniform(0, 1000), self.chance.uniform(-MOST_RATE, MOST_RATE))
        host = self.hosts[instance] = Host(self.around, member, options, clock)
        host.start()
        return host

    def _budget(self, instance: str) -> int:
        known = self._budgets.get(instance)
        if known is None:
            share = self.total_bytes * self.shape.room / self.shape.instances
            share *= 1.0 + self.shape.skewed * self.chance.uniform(-1, 1)
            known = self._budgets[instance] = round(max(share, 8 * MIB))
        return known

    def _pools(self, number: int) -> tuple[PoolBudget, ...]:
        """Of the instance of that number; the first has some in any case."""
        shape = self.shape
        if number % shape.pooled_every:
            return ()
        share = self.total_bytes * shape.pool_room / shape.instances / shape.pools
        return tuple(
            PoolBudget(f"{KIND}:{each}", round(max(share, 8 * MIB) / (1 + each)))
            for each in range(shape.pools)
        )

    def end(self, instance: str, *, silently: bool = False) -> None:
        host = self.hosts.pop(instance, None)
        if host is not None:
            host.crash(silently=silently)

    def bury(self) -> None:
        """Forget the hosts that ended by themselves, having drained."""
        for each in [each for each, host in self.hosts.items() if not host.alive]:
            del self.hosts[each]

    @property
    def accepting(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.accepting]

    # --- clients --------------------------------------------------------------------------------

    def ask(self, host: Host, name: Name, patience_s: float = 15.0) -> Request:
        """A client sends a request to this instance."""
        self.requests += 1
        now = self.agenda.now
        record = self.records.get(name[0])
        request = Request(self.requests, name, host.id, now, now + patience_s,
                          record is None or record.spec.repeatable)
        self.safety.open[request] = None
        host.request(request)
        return request

    def order(self, host: Host, name: Name, *, load: bool) -> ByHand:
        """An operator loads, or unloads, a model by hand."""
        if not load:
            self.unloaded[name[0]] = None
        order = ByHand(name, host.id, load)
        host.by_hand(order)
        return order
