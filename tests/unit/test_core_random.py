"""The core under random events: its invariants hold after each, and everybody gets an answer."""

from __future__ import annotations

import random

import pytest

from shoal.core.copies import CopyState
from shoal.core.node import Core
from shoal.core.options import Options
from shoal.domain import commands as do
from shoal.domain import events as on
from shoal.domain.model import ModelRecord, ModelSpec, VersionPolicy, make_revision


class World:
    """Does what the core commands, in random order, with random success."""

    def __init__(self, seed: int, eviction: str) -> None:
        self.random = random.Random(seed)
        self.core = Core(Options(budget_bytes=1_000_000, eviction=eviction, idle_ttl_s=50,
                                 load_concurrency=2, max_waiting=60, max_waiting_per_model=20,
                                 max_wait_s=5), lambda name: self.records.get(name))
        self.now = 0.0
        self.loading: dict[str, do.LoadCopy] = {}
        self.unloading: dict[str, None] = {}
        self.routes: dict[tuple[str, int | None], str] = {}
        self.ready: set[str] = set()
        self.records: dict[str, ModelRecord] = {}
        self.open: dict[int, str] = {}  # ticket to the model's name
        self.tickets = 0
        self.answered = self.refused = 0
        self.transcript: list[str] = []

    def send(self, event: on.Event) -> None:
        for command in self.core.handle(event, self.now):
            self.obey(command)
        self.core.check_invariants()

    def obey(self, command: do.Command) -> None:
        self.transcript.append(repr(command))
        match command:
            case do.LoadCopy(revision):
                assert revision.id not in self.loading, "one load at a time"
                assert revision.id not in self.ready
                self.loading[revision.id] = command
            case do.UnloadCopy(revision_id):
                self.ready.remove(revision_id)
                assert revision_id not in self.routes.values(), "unrouted first"
                self.unloading[revision_id] = None
            case do.Route(name, version, revision_id):
                assert revision_id in self.ready
                self.routes[name, version] = revision_id
            case do.Unroute(name, version):
                del self.routes[name, version]
            case do.Answer(ticket, revision_id):
                del self.open[ticket]
                assert not revision_id or revision_id in self.ready
                self.answered += 1
            case do.Refuse(ticket):
                del self.open[ticket]
                self.refused += 1

    def record(self, name: str) -> ModelRecord:
        versions = sorted(self.random.sample(range(1, 4), self.random.randint(1, 3)))
        spec = ModelSpec(name=name, uri=f"/{name}", version_policy=VersionPolicy(),
                         pin=self.random.random() < 0.03, priority=self.random.randint(0, 1))
        return ModelRecord(name=name, spec=spec, revisions=tuple(
            make_revision(spec, version=v, uri=f"/{name}/{v}", format="onnx",
                          artifact_digest=f"{name}-{v}-{self.random.randint(0, 2)}",
                          files_bytes=self.random.randint(1_000, 200_000)) for v in versions))

    def ticket(self, name: str) -> int:
        self.tickets += 1
        self.open[self.tickets] = name
        return self.tickets

    def finish_load(self) -> None:
        if self.loading:
            key = self.random.choice(list(self.loading))
            command = self.loading.pop(key)
            if self.random.random() < 0.2:
                self.send(on.CopyLoadFailed(key, "INVALID_ARTIFACT", "it is broken"))
            else:
                self.ready.add(key)
                size = round(command.reserved_bytes * self.random.uniform(0.3, 1.5))
                self.send(on.CopyLoaded(key, max(size, 1), self.random.uniform(0.001, 3)))

    def finish_unload(self) -> None:
        if self.unloading:
            key = self.random.choice(list(self.unloading))
            del self.unloading[key]
            self.send(on.CopyUnloaded(key))

    def step(self) -> None:
        self.now += self.random.expovariate(2.0)
        name = f"m{min(int(self.random.paretovariate(0.7)), 30)}"
        known = self.records.get(name)
        version = self.random.choice([None, None, None, 1, 2, 3])
        match self.random.choice("rrrrrrrrllllllccuuuuudxaLUftmp"):
            case "r" if known:
                self.send(on.CopyRequested(self.ticket(name), name, version))
            case "L" if known:
                self.send(on.LoadAsked(self.ticket(name), name, version))
            case "U" if known:
                self.send(on.UnloadAsked(self.ticket(name), name, version))
            case "l":
                self.finish_load()
            case "c" if self.loading:
                key = self.random.choice(list(self.loading))
                self.send(self.random.choice((on.FilesComing, on.FilesCame))(key))
            case "u":
                self.finish_unload()
            case "d" | "p":
                self.records[name] = self.record(name)
                self.send(on.ModelDeclared(self.records[name]))
            case "x" if known and self.random.random() < 0.3:
                del self.records[name]
                self.send(on.ModelRemoved(name))
            case "a" if self.open:
                ticket = self.random.choice(list(self.open))
                if ticket in self.core.entry.waiting:
                    del self.open[ticket]
                    self.send(on.TicketAbandoned(ticket))
            case "f":
                self.send(on.FillOffered(tuple(self.records)))
            case "t":
                self.send(on.Ticked())
            case "m":
                used = self.random.sample(sorted(self.ready), min(3, len(self.ready)))
                self.send(on.UsesReported(tuple(on.Use(key, 3, self.now) for key in used)))
                self.send(on.MemoryMeasured(self.random.randint(100_000, 2_000_000)))

    def settle(self) -> None:
        for _ in range(10_000):
            if not self.loading and not self.unloading:
                break
            self.finish_unload()
            self.finish_load()


@pytest.mark.parametrize("eviction", ["gdsf", "lru"])
@pytest.mark.parametrize("seed", range(30))
def test_invariants_hold_and_every_ticket_is_answered(seed: int, eviction: str) -> None:
    world = World(seed, eviction)
    for _ in range(600):
        world.step()
    world.settle()
    assert not world.open
    assert world.answered > 40
    assert not any(copy.state is CopyState.LOADING for copy in world.core.cache.copies.values())
    for name in list(world.records):
        world.send(on.ModelRemoved(name))
    world.settle()
    assert not world.core.models, "nothing is remembered of what was unregistered"
    assert world.core.cache.ledger.booked_bytes == 0


def test_the_same_events_give_the_same_commands() -> None:
    def transcript() -> list[str]:
        world = World(7, "gdsf")
        for _ in range(300):
            world.step()
        return world.transcript

    first = transcript()
    assert len(first) > 50
    assert transcript() == first
