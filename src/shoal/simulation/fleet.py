"""A trace of requests through the real decisions: many cores, and no more of a shell than needed.

Messages arrive at once and in order; nothing fails but what the core refuses. A hit does not pass
through the core, as in a real instance: it is a look into a table and a count. Must not know how a
trace was made.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np

from shoal.core.copies import CopyState
from shoal.core.node import Core
from shoal.core.options import Options
from shoal.domain import commands as do
from shoal.domain import events as on
from shoal.domain.events import Miss
from shoal.domain.mesh import Member, MemberState
from shoal.simulation.results import Counts, Result
from shoal.simulation.traces import Catalogue, Trace

PATIENCE_S: Final = 60.0  # of a client
TICKS: Final = 2_000  # at most so many, however long a trace is; one a second at most


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """memory_bytes: of each instance. warm_up: share of the trace that is not counted. service_s:
    of a request that has its copy."""

    instances: int
    memory_bytes: int
    eviction: str = "gdsf"
    warm_up: float = 0.5
    service_s: float = 0.01
    processors: float = 4.0
    load_concurrency: int = 2
    seed: int = 1


@dataclass(slots=True)
class _Waiting:
    """A request. forwards: how often it was forwarded. caller: it waits at a holder for this
    entry's sake."""

    name: str
    at: float
    entry: _Instance
    forwards: int = 0
    revision: str = ""


class _Instance:
    """here, elsewhere: as in a real instance, for default versions. uses: of copies, since the last
    tick."""

    __slots__ = ("busy", "core", "elsewhere", "forwarded", "here", "id", "last", "live", "uses")

    def __init__(self, name: str, core: Core) -> None:
        self.id = name
        self.core = core
        self.here: dict[str, str] = {}
        self.elsewhere: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.live: dict[str, None] = {}
        self.uses: dict[str, int] = {}
        self.last: dict[str, float] = {}
        self.forwarded: dict[str, int] = {}
        self.busy = 0


class Fleet:
    """instances: by id."""

    def __init__(self, catalogue: Catalogue, options: FleetOptions) -> None:
        self.options = options
        self.now = 0.0
        self.instances: dict[str, _Instance] = {}
        self._catalogue = catalogue
        self._queue: deque[tuple[_Instance, on.Event]] = deque()
        self._loads: list[tuple[float, int, _Instance, str, int, float]] = []
        self._waiting: dict[int, tuple[_Waiting, _Instance]] = {}
        self._numbers = 0
        self._counts = Counts(0.0)
        for number in range(options.instances):
            self._join(f"i{number}")
        members = tuple(self._member(each) for each in self.instances)
        for each in self.instances.values():
            self._send(each, on.MembersChanged(members, 1))
        self._drain()

    def _join(self, name: str) -> None:
        options = self.options
        core = Core(Options(
            budget_bytes=options.memory_bytes, eviction=options.eviction, me=name,
            load_concurrency=options.load_concurrency), self._catalogue.record)
        self.instances[name] = _Instance(name, core)

    def _member(self, name: str) -> Member:
        return Member(id=name, incarnation=name, state=MemberState.READY,
                      processors=self.options.processors, budget_bytes=self.options.memory_bytes)

    # --- a trace --------------------------------------------------------------------------------

    def play(self, trace: Trace, policy: str) -> Result:
        """All of it, from empty caches on."""
        options = self.options
        self._counts = Counts(options.warm_up * trace.span_s)
        tick_s = max(1.0, trace.span_s / TICKS)
        entries = np.random.default_rng(options.seed).integers(
            0, options.instances, len(trace.at)).tolist()
        instances, name_of = list(self.instances.values()), self._catalogue.name
        next_tick = tick_s
        for at, model, entry in zip(
                trace.at.tolist(), trace.models.tolist(), entries, strict=True):
            while next_tick <= at:
                self._run_loads(next_tick)
                self.now = next_tick
                self._tick(tick_s)
                next_tick += tick_s
            if self._loads and self._loads[0][0] <= at:
                self._run_loads(at)
            self.now = at
            self._request(instances[entry], name_of(model))
        self._run_loads(trace.span_s + PATIENCE_S)
        copies = sum(len(each.live) for each in instances)
        return self._counts.result(policy, options.instances, options.memory_bytes, copies)

    def _request(self, entry: _Instance, name: str) -> None:
        revision = entry.here.get(name)
        if revision is not None:
            uses = entry.uses
            uses[revision] = uses.get(revision, 0) + 1
            entry.last[revision] = self.now
            if self.now >= self._counts.since:
                self._counts.hits += 1
            return
        known = entry.elsewhere.get(name)
        if known is not None:
            revision, holders = known
            holder = self._better(holders)
            if revision in holder.live:
                entry.forwarded[name] = entry.forwarded.get(name, 0) + 1
                self._use(holder, revision)
                if self.now >= self._counts.since:
                    self._counts.hits += 1
                return
        waiting = _Waiting(name, self.now, entry)
        if known is not None:
            self._forward(waiting, *known)
        else:
            self._ask(waiting, None)
        self._drain()

    def _use(self, holder: _Instance, revision: str) -> None:
        holder.uses[revision] = holder.uses.get(revision, 0) + 1
        holder.last[revision] = self.now
        holder.busy += 1

    def _better(self, holders: tuple[str, ...]) -> _Instance:
        """Who has answered less lately, for want of requests in flight."""
        if len(holders) == 1:
            return self.instances[holders[0]]
        return min((self.instances[each] for each in holders[:2]), key=lambda each: each.busy)

    # --- what waits -----------------------------------------------------------------------------

    def _ticket(self, waiting: _Waiting, where: _Instance) -> int:
        self._numbers += 1
        self._waiting[self._numbers] = (waiting, where)
        return self._numbers

    def _ask(self, waiting: _Waiting, miss: Miss | None) -> None:
        ticket = self._ticket(waiting, waiting.entry)
        self._send(waiting.entry, on.CopyRequested(
            ticket, waiting.name, None, waiting.forwards, miss))

    def _forward(self, waiting: _Waiting, revision: str, holders: tuple[str, ...]) -> None:
        holder = self._better(holders)
        waiting.forwards += 1
        waiting.revision = revision
        if revision in holder.live:
            self._answered(waiting, holder, revision)
        else:
            self._send(holder, on.ForwardReceived(self._ticket(waiting, holder), revision))

    def _answered(self, waiting: _Waiting, holder: _Instance, revision: str) -> None:
        self._use(holder, revision)
        if self.now > waiting.at:
            self._counts.answered(waiting.at, self.now)
        elif self.now >= self._counts.since:
            self._counts.hits += 1

    # --- events and commands --------------------------------------------------------------------

    def _send(self, instance: _Instance, event: on.Event) -> None:
        self._queue.append((instance, event))

    def _drain(self) -> None:
        queue = self._queue
        while queue:
            instance, event = queue.popleft()
            for command in instance.core.handle(event, self.now):
                if type(command) is do.Tell:  # two of three
                    told = on.Told(instance.id, command.message)
                    queue.append((self.instances[command.instance], told))
                else:
                    self._obey(instance, command)

    def _obey(self, instance: _Instance, command: do.Command) -> None:
        match command:
            case do.LoadCopy(revision):
                seconds = float(self._catalogue.load_s[self._catalogue.number(revision.model)])
                self._numbers += 1
                heapq.heappush(self._loads, (
                    self.now + seconds, self._numbers, instance, revision.id,
                    revision.files_bytes, seconds))
            case do.Route(name, None, key):
                instance.elsewhere.pop(name, None)
                instance.here[name] = key
            case do.RouteElsewhere(name, None, key, holders):
                instance.here.pop(name, None)
                instance.elsewhere[name] = (key, holders)
            case do.Unroute(name, None):
                instance.here.pop(name, None)
                instance.elsewhere.pop(name, None)
            case do.UnloadCopy(key):
                del instance.live[key]
                self._counts.evicted(self.now)
                self._send(instance, on.CopyUnloaded(key))
            case do.Answer(ticket, key):
                waiting, where = self._waiting.pop(ticket)
                self._answered(waiting, where, key)
            case do.AnswerElsewhere(ticket, key, holders):
                waiting, _ = self._waiting.pop(ticket)
                self._forward(waiting, key, holders)
            case do.Refuse():
                self._refused(instance, command)

    def _refused(self, instance: _Instance, command: do.Refuse) -> None:
        waiting, where = self._waiting.pop(command.ticket)
        if waiting.forwards and where is not waiting.entry:
            self._ask(waiting, Miss(instance.id, waiting.revision, command.code, command.message,
                                    command.retry_after_s))
        else:
            self._counts.refuse(waiting.at)

    # --- time -----------------------------------------------------------------------------------

    def _run_loads(self, until: float) -> None:
        """End the loads that are due."""
        loads = self._loads
        while loads and loads[0][0] <= until:
            self.now, _, instance, key, size_bytes, seconds = heapq.heappop(loads)
            instance.live[key] = None
            self._counts.loaded(size_bytes, self.now)
            self._send(instance, on.CopyLoaded(key, size_bytes, seconds))
            self._drain()

    def _tick(self, tick_s: float) -> None:
        service_s = self.options.service_s
        for instance in self.instances.values():
            if instance.uses:
                last = instance.last
                self._send(instance, on.UsesReported(tuple([
                    on.Use(key, count, last[key], count * service_s)
                    for key, count in instance.uses.items()])))
                busy_s = service_s * sum(instance.uses.values())
                instance.uses.clear()
                last.clear()
            else:
                busy_s = 0.0
            instance.busy = 0
            if instance.forwarded:
                self._send(instance, on.ForwardsReported(
                    tuple([(name, None) for name in instance.forwarded]),
                    sum(instance.forwarded.values())))
                instance.forwarded.clear()
            load = busy_s / tick_s / self.options.processors
            self._send(instance, on.FiguresMeasured(load, 0))
            self._send(instance, on.Ticked())
            self._drain()
        self._lose_patience()

    def _lose_patience(self) -> None:
        """Clients leave; the oldest requests come first."""
        late = []
        for ticket, (waiting, where) in islice(self._waiting.items(), 1000):
            if self.now - waiting.at <= PATIENCE_S:
                break
            late.append((ticket, waiting, where))
        for ticket, waiting, where in late:
            del self._waiting[ticket]
            self._counts.refuse(waiting.at)
            self._send(where, on.TicketAbandoned(ticket))
        self._drain()

    # --- afterwards -----------------------------------------------------------------------------

    def pressures(self) -> list[float]:
        """Turnovers an hour, by instance."""
        return [each.core.cache.ledger.pressure_per_h(self.options.memory_bytes, self.now)
                for each in self.instances.values()]

    def is_consistent(self) -> bool:
        """Does every core know what is in memory?"""
        return all(
            {copy.revision.id for copy in each.core.cache.copies.values()
             if copy.state is CopyState.READY} == set(each.live)
            for each in self.instances.values())
