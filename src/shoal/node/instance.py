"""The shell around the core: turns what happens into events, and carries out its commands.

Owns the hot path's tables, the loops, the threads and the waiting requests. Decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import msgspec

from shoal.codecs import foreign
from shoal.core.node import Core
from shoal.core.options import Options
from shoal.domain import commands as do
from shoal.domain import events as on
from shoal.domain.accelerators import PoolBudget
from shoal.domain.errors import LoadFailed, ModelNotFound, ShoalError, Unavailable, VersionNotFound
from shoal.domain.events import Miss, served
from shoal.domain.mesh import Member, Message
from shoal.domain.model import ModelRecord
from shoal.node.activity import Activity
from shoal.node.contents import Contents
from shoal.node.copies import Around, Copies
from shoal.node.elsewhere import Elsewhere, Tables
from shoal.node.filling import Filling
from shoal.node.journal import Journal
from shoal.node.leaking import LeakWatch
from shoal.node.live import LiveCopy, Running
from shoal.node.loader import Loader
from shoal.node.machine import ProcessorShare
from shoal.node.records import FOLDER
from shoal.node.replica import Replica
from shoal.node.tickets import Tickets
from shoal.node.turns import Turns
from shoal.observability.logs import get_logger
from shoal.observability.metrics import Metrics
from shoal.ports import Clock, KVStore, Peers
from shoal.settings import Settings

TICK_S: Final = 1.0
_REPORTED: Final = 128  # copies whose uses are looked at in one go

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Message)

log = get_logger("shoal.node")


@dataclass(frozen=True, slots=True)
class Parts:
    """What `app` composes an instance of. id: its name in the mesh. contents: of the store; None:
    not read yet. pools, accelerators, accelerated_formats: as in `core.options`."""

    store: KVStore
    loader: Loader
    running: Running
    metrics: Metrics
    clock: Clock
    budget_bytes: int
    id: str = "here"
    contents: Contents | None = None
    pools: tuple[PoolBudget, ...] = ()
    accelerators: tuple[str, ...] = ()
    accelerated_formats: dict[str, tuple[str, ...]] = field(default_factory=dict)


class Instance:
    """`tables` are the hot path's: who answers for a name. What is not in them is got by
    `acquire`. `peers`: how other instances are reached; None: this one is alone."""

    def __init__(self, settings: Settings, parts: Parts) -> None:
        self.settings = settings
        self.clock = parts.clock
        self.metrics = parts.metrics
        self.loader = parts.loader
        self.journal = Journal(parts.clock)
        self.activity = Activity()
        self.replica = Replica(
            parts.store, self._on_declaration,
            lambda message: self.journal.note("registry_problem", message),
        )
        self.core = Core(_options(settings, parts), self.replica.get)
        self.copies = Copies(
            Around(
                settings=settings, loader=parts.loader, running=parts.running,
                metrics=parts.metrics, clock=parts.clock, journal=self.journal,
                activity=self.activity, replica=self.replica, send=self.send,
            ),
            self._offer_fill,
        )
        self.filling = Filling(settings.cache.fill, self.core, self.replica, self.send)
        self.tables = Tables()
        self.find: Final = self.tables.find
        self.peers: Peers | None = None
        self.unreached: dict[str, tuple[float, str]] = {}  # instances: since when (epoch), and why
        self.on_removed: Callable[[str], None] | None = None  # called soon after, with the name
        # Called by any thread with what was read here to be declared.
        self.on_declared: Callable[[ModelRecord], None] | None = None
        self.starting = True  # not all folders are read yet, so names may be unknown
        self.draining = False
        self.leaving = False  # others take over, so it should get no new clients
        self.registry_problem: str | None = None
        self.leak: str | None = None  # memory that no model is booked for, in a sentence
        # Called once a second with what leaks, in words that follow "the process".
        self.on_look: Callable[[str | None], None] | None = None
        self.invalid: set[str] = set()  # models of which nothing can be served
        self._parts = parts
        self._loop = asyncio.get_running_loop()
        self.tickets = Tickets(lambda ticket: self.send(on.TicketAbandoned(ticket)))
        self._load = ProcessorShare()
        recycle = settings.recycle
        self._leaks = LeakWatch(recycle.max_leak_share, recycle.leak_s, parts.budget_bytes)
        self._handed_over: asyncio.Event | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def live(self) -> dict[str, LiveCopy]:
        """Ready copies of this instance, by revision."""
        return self.copies.live

    @property
    def unbooked_bytes(self) -> int:
        """What the process grew by beyond what its copies are booked for."""
        return max(self.copies.grown_bytes - self.core.cache.ledger.booked_bytes, 0)

    # --- life -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the registry and begin to fill the cache. Raises StoreUnavailable."""
        pinned = await self.replica.start(self._parts.contents)
        self.copies.begin()
        turns = Turns()
        for usage in self.replica.usage.values():  # also of folders, which are read later
            if usage.size_bytes:
                self.send(on.SizeRemembered(
                    usage.artifact_digest, usage.size_bytes, usage.accelerator_bytes))
            if turns.is_over():
                await turns.rest()
        for name in pinned:
            if (record := self.replica.get(name)) is not None:
                self.send(on.ModelDeclared(record))
        self._tasks = [
            asyncio.create_task(self._tick_for_ever()),
            asyncio.create_task(self._save_usage_for_ever()),
        ]

    def drain(self) -> None:
        """Take no more requests that would have to wait; what has begun goes on."""
        self.draining = True
        if self.peers is None:  # else others may answer
            self.tickets.drain()

    async def stop(self) -> None:
        """Stop the loops and threads, save what was used. Requests must have ended."""
        self.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.copies.report_uses(self.live.values(), TICK_S)
        await self.replica.stop()
        self.tickets.close()
        self.copies.stop()
        self._parts.running.pool.shutdown(wait=False, cancel_futures=True)

    # --- requests -------------------------------------------------------------------------------

    def record(self, name: str) -> ModelRecord:
        """The declaration of `name`. Raises ModelNotFound, Unavailable while starting."""
        record = self.replica.get(name)
        if record is None and self.starting:
            raise Unavailable(
                f"model {name!r} is not known yet: this instance is starting and still reads its "
                "folders", 1.0)
        if record is None:
            raise ModelNotFound(f"model {name!r} is not registered")
        return record

    def elsewhere(self, name: str, version: int | None) -> Elsewhere | None:
        """The other instances that answer for `name`, as far as it is known here."""
        return self.tables.elsewhere.get((name, version))

    async def acquire(
        self, name: str, version: int | None, timeout_s: float, *, attempt: int = 0,
        miss: Miss | None = None,
    ) -> LiveCopy | Elsewhere:
        """A ready copy, loaded if need be, which the caller must `release`; or the instances that
        have one or load it now.

        attempt: how often the request was forwarded; miss: how that ended. Raises ModelNotFound,
        VersionNotFound, Unavailable and its kinds, DeadlineExceeded.
        """
        record = self.record(name)
        if served(record, version) is None:
            raise _not_served(record, version)
        ticket = self.tickets.issue()
        self.send(on.CopyRequested(ticket, name, version, attempt, miss))
        found = await self.tickets.wait(ticket, timeout_s, f"model {name!r}")
        assert found is not None
        return found

    async def acquire_here(self, revision: str, timeout_s: float) -> LiveCopy:
        """The copy of a revision for which another instance forwarded a request; the caller must
        `release` it. Raises CopyGone, and as `acquire`."""
        ticket = self.tickets.issue()
        self.send(on.ForwardReceived(ticket, revision))
        found = await self.tickets.wait(ticket, timeout_s, f"revision {revision!r}")
        assert isinstance(found, LiveCopy)
        return found

    async def ask(self, event: type[on.LoadAsked | on.UnloadAsked], name: str,
                  version: int | None, timeout_s: float | None, as_of: int) -> Elsewhere | None:
        """Load or unload by hand. timeout_s: how long to wait for the outcome; None: not at all.
        as_of: as of ModelDeclared. Where others have the copy, or load it now, it says who."""
        record = self.record(name)
        if served(record, version) is None and (version is not None or event is on.LoadAsked):
            raise _not_served(record, version)
        ticket = self.tickets.issue()
        self.send(event(ticket, name, version, as_of))
        if timeout_s is None:
            self.tickets.forget(ticket)
            return None
        found = await self.tickets.wait(ticket, timeout_s, f"model {name!r}")
        if isinstance(found, LiveCopy):
            found.release()
            return None
        return found

    # --- declarations ---------------------------------------------------------------------------

    def _on_declaration(self, name: str, record: ModelRecord | None, as_of: int) -> None:
        self.invalid.discard(name)
        alone = not self.replica.in_bulk  # else whoever asked for it tells of all together
        if record is None:
            if alone:
                self.journal.note("removed", f"model {name!r} is no longer registered", model=name)
            self.send(on.ModelRemoved(name))
            self.metrics.forget(name)
            if self.on_removed is not None:
                self._loop.call_soon(self.on_removed, name)
            return
        versions = ", ".join(str(revision.version) for revision in record.revisions)
        what = f"versions {versions}" if len(record.revisions) > 1 else f"version {versions}"
        if record.problem is not None:
            self.journal.note("model_problem", record.problem, model=name)
        if not record.revisions:
            self.invalid.add(name)
        elif alone:
            self.journal.note("declared", f"model {name!r} is registered with {what}", model=name)
        self.send(on.ModelDeclared(record, as_of))
        if not self.starting and not record.spec.pin:
            self.filling.declared(name)

    def note_registry_problem(self, message: str) -> None:
        """Something that operators should know of the registry until the next start."""
        self.registry_problem = message
        self.journal.note("registry_problem", message)

    def note_serving_problem(self, message: str) -> None:
        self.journal.note("runtime_problem", message)

    def note_mesh_problem(self, message: str) -> None:
        self.journal.note("mesh_problem", message)

    # --- events in, commands out ----------------------------------------------------------------

    def send(self, event: on.Event) -> None:
        """Let the core decide, and do what it says."""
        for command in self.core.handle(event, self.clock.monotonic()):
            self._obey(command)

    def _obey(self, command: do.Command) -> None:
        match command:
            case do.Tell(instance, message):
                if self.peers is not None:
                    self.peers.tell(instance, _ENCODER.encode(message))
            case do.Route(name, version, revision):
                self.tables.route(name, version, self.live[revision])
            case do.RouteElsewhere(name, version, revision, holders):
                self.tables.route_elsewhere(name, version, Elsewhere(revision, holders))
            case do.Unroute(name, version):
                self.tables.unroute(name, version)
            case do.LoadCopy():
                self.copies.load(command)
            case do.UnloadCopy():
                self.copies.unload(command)
                self._look_if_handed_over()
            case do.Answer(ticket, revision):
                self.tickets.answer(ticket, self.live[revision] if revision else None)
            case do.AnswerElsewhere(ticket, revision, holders, ready):
                self.tickets.answer(ticket, Elsewhere(revision, holders, ready=ready))
            case do.Refuse():
                self.tickets.refuse(command)
            case do.Note(kind, model, revision, reason, message):
                self.journal.note(kind, message, model=model, revision=revision, reason=reason)
            case do.Wake(after_s):
                self._loop.call_later(after_s, self.send, on.Ticked())

    # --- the mesh -------------------------------------------------------------------------------

    def told(self, sender: str, message: bytes) -> None:
        """Another instance said something. What a later release says and this one does not know is
        ignored."""
        try:
            decoded = foreign.read(_DECODER, message)
        except msgspec.DecodeError as error:
            log.debug("a message is not understood", sender=sender, problem=str(error))
            return
        self.send(on.Told(sender, decoded))

    def members_changed(
        self, members: tuple[Member, ...], view: int, unlinked: tuple[str, ...]
    ) -> None:
        known = {each.id for each in members}
        for gone in self.unreached.keys() - known:
            del self.unreached[gone]
        self.send(on.MembersChanged(members, view, unlinked))
        if not self.starting:
            self.filling.begin()

    def is_of_folder(self, record: ModelRecord) -> bool:
        """Is it declared by a folder that this instance, or another one, watches now?"""
        if not record.origin.startswith(FOLDER):
            return False
        return self.replica.is_local(record.name) or any(
            record.origin in each.folders for each in self.core.view.members.values())

    def peer_up(self, instance: str) -> None:
        self.unreached.pop(instance, None)
        self.send(on.PeerUp(instance))

    def peer_down(self, instance: str, why: str) -> None:
        since, _ = self.unreached.get(instance, (self.clock.wall(), ""))
        self.unreached[instance] = since, why
        self.journal.note("peer_lost", f"instance {instance!r} cannot be reached: {why}")
        self.send(on.PeerDown(instance))

    async def hand_over(self, timeout_s: float) -> int:
        """Wait until what was used lately is loaded on other instances, which know that this one
        is about to leave; how many copies were left after `timeout_s` seconds."""
        self._handed_over = asyncio.Event()
        self.copies.report_uses(self.live.values(), TICK_S)  # what was used just now is hot too
        self._look_if_handed_over()
        try:
            async with asyncio.timeout(timeout_s):
                await self._handed_over.wait()
        except TimeoutError:
            pass
        return self.core.hot

    def _look_if_handed_over(self) -> None:
        if self._handed_over is not None and not self.core.hot:
            self._handed_over.set()

    # --- loops ----------------------------------------------------------------------------------

    async def _tick_for_ever(self) -> None:
        last = self.clock.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now = self.clock.monotonic()
            try:
                await self.tick(now - last)
            except Exception:  # a defect of ours; the next tick must come all the same
                log.exception("a tick failed")
            last = now

    async def tick(self, span_s: float) -> None:
        """What is done once a second, in turns with requests; `span_s`: since the last time."""
        turns = Turns()
        copies = iter(list(self.live.values()))
        while some := list(islice(copies, _REPORTED)):
            self.copies.report_uses(some, span_s)
            if turns.is_over():
                await turns.rest()
        self.send(on.MemoryMeasured(self.copies.grown_bytes, self._held_on_accelerators()))
        if self.on_look is not None:
            self.on_look(self._leaks.look(self.unbooked_bytes, self.clock.monotonic()))
        if self.peers is not None:
            self._measure()
        self.send(on.Ticked())
        self.copies.tick()
        self._look_if_handed_over()
        self._offer_fill()

    def _held_on_accelerators(self) -> tuple[tuple[str, int], ...]:
        """By frameworks, as far as they tell."""
        return tuple([
            (pool.name, held) for pool in self._parts.pools
            if (held := self.loader.held_on(pool.name)) is not None
        ])

    def _measure(self) -> None:
        """What other instances want to know of this one."""
        self.send(on.FiguresMeasured(self._load.since_last(), len(self.tickets)))
        names, count = self.tables.forwarded()
        if names:
            self.send(on.ForwardsReported(names, count))

    def _offer_fill(self) -> None:
        if not self.draining and not self.starting:
            self.filling.offer()

    async def _save_usage_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.settings.registry.usage_interval_s)
            await self.replica.save_usage()


def _options(settings: Settings, parts: Parts) -> Options:
    cache, load, mesh = settings.cache, settings.load, settings.mesh
    return Options(
        me=parts.id, budget_bytes=parts.budget_bytes, eviction=cache.eviction,
        cold_start_cost_s=cache.cold_start_cost_s, fill_share=cache.fill_share,
        idle_ttl_s=cache.idle_ttl_s, load_concurrency=load.concurrency,
        retry_deadly_s=load.retry_deadly_s,
        downloads=settings.storage.downloads,
        max_waiting=load.max_waiting, max_waiting_per_model=load.max_waiting_per_model,
        target_share=mesh.target_share, steady_rate=mesh.steady_per_min / 60, hot_s=mesh.hot_s,
        surplus_s=mesh.surplus_s, max_attempts=mesh.max_attempts, retry_share=mesh.retry_share,
        retry_base_s=load.retry_base_s, retry_max_s=load.retry_max_s, max_wait_s=load.max_wait_s,
        pools=parts.pools, accelerators=parts.accelerators,
        accelerated_formats=parts.accelerated_formats,
    )


def _not_served(record: ModelRecord, version: int | None) -> ShoalError:
    if not record.revisions:
        why = record.problem or "nothing that can be served was found"
        return LoadFailed(f"model {record.name!r} cannot be served: {why}", 5.0)
    known = ", ".join(str(revision.version) for revision in record.revisions)
    return VersionNotFound(f"model {record.name!r} has no version {version}; it serves {known}")
