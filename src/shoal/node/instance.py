"""The shell around the core: turns what happens into events, and carries out its commands.

Owns the hot path's tables, the loops, the threads and the waiting requests. Decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final

from shoal.core.copies import CopyState, Urgency
from shoal.core.node import Core
from shoal.core.options import Options
from shoal.domain import commands as do
from shoal.domain import events as on
from shoal.domain.errors import LoadFailed, ModelNotFound, ShoalError, Unavailable, VersionNotFound
from shoal.domain.events import served
from shoal.domain.model import ModelRecord, Revision
from shoal.domain.reasons import Reason
from shoal.node.activity import Activity
from shoal.node.contents import Contents
from shoal.node.journal import Journal
from shoal.node.live import LiveCopy, Running
from shoal.node.loader import Loaded, Loader
from shoal.node.machine import resident_bytes, trim_heap
from shoal.node.optimizing import Optimizer
from shoal.node.replica import Replica
from shoal.node.resident import Resident
from shoal.node.threads import nicely, run_apart
from shoal.node.tickets import Tickets
from shoal.node.turns import Turns
from shoal.node.usage import Usage
from shoal.observability.logs import get_logger
from shoal.observability.metrics import Metrics
from shoal.ports import Clock, KVStore
from shoal.settings import Settings

TICK_S: Final = 1.0
FILL_QUEUE: Final = 32  # loads queued at once to fill free memory
_REPORTED: Final = 128  # copies whose uses are looked at in one go
FILL_BATCHES: Final = 8  # looked at in one go when nothing of them fits

log = get_logger("shoal.node")


@dataclass(frozen=True, slots=True)
class Parts:
    """What `app` composes an instance of. contents: of the store; None: not read yet."""

    store: KVStore
    loader: Loader
    running: Running
    metrics: Metrics
    clock: Clock
    budget_bytes: int
    contents: Contents | None = None


@dataclass(frozen=True, slots=True)
class _Load:
    revision: Revision
    future: Future[Loaded]
    since: float


class Instance:
    """`default` and `versioned` are the hot path's tables: a ready copy by name, and by name and
    version. What is not in them is got by `acquire`."""

    def __init__(self, settings: Settings, parts: Parts) -> None:
        self.settings = settings
        self.clock = parts.clock
        self.metrics = parts.metrics
        self.loader = parts.loader
        self.core = Core(_options(settings, parts.budget_bytes))
        self.journal = Journal(parts.clock)
        self.activity = Activity()
        self.optimizer = Optimizer(settings.load.optimize, self.journal, self._from_thread)
        self.replica = Replica(
            parts.store, self._on_declaration,
            lambda message: self.journal.note("registry_problem", message),
        )
        self.default: dict[str, LiveCopy] = {}
        self.versioned: dict[tuple[str, int], LiveCopy] = {}
        self.live: dict[str, LiveCopy] = {}  # by revision
        self.on_removed: Callable[[str], None] | None = None  # called soon after, with the name
        self.starting = True  # not all folders are read yet, so names may be unknown
        self.draining = False
        self.registry_problem: str | None = None
        self.invalid: set[str] = set()  # models of which nothing can be served
        self._parts = parts
        self._loads: dict[str, _Load] = {}  # under way, by revision
        self._hanging: dict[str, _Load] = {}  # given up, but their threads have not ended
        self._loop = asyncio.get_running_loop()
        self.tickets = Tickets(lambda ticket: self.send(on.TicketAbandoned(ticket)))
        self._to_fill: deque[str] = deque()
        self._never_used: Iterator[str] = iter(())  # to fill with when `_to_fill` is empty
        self._baseline_bytes = resident_bytes()
        self._trim_wanted = False
        self._resident = Resident()
        self._load_nicely = nicely(self.settings.request.thread_niceness, parts.loader.load)
        self._tasks: list[asyncio.Task[None]] = []

    # --- life -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the registry and begin to fill the cache. Raises StoreUnavailable."""
        pinned = await self.replica.start(self._parts.contents)
        turns = Turns()
        for name, usage in self.replica.usage.items():
            if usage.size_bytes and name in self.replica:
                self.send(on.SizeRemembered(usage.artifact_digest, usage.size_bytes))
            if turns.is_over():
                await turns.rest()
        for name in pinned:
            if (record := self.replica.get(name)) is not None:
                self.send(on.ModelDeclared(record))
        self._tasks = [
            asyncio.create_task(self._tick_for_ever()),
            asyncio.create_task(self._save_usage_for_ever()),
        ]

    def fill(self) -> None:
        """Offer what is registered to the core, the most recently used first."""
        if self.settings.cache.fill == "none":
            return
        used = self.replica.by_last_use()
        self._to_fill = deque(used)
        if self.settings.cache.fill == "all":
            before = set(used)
            names = self.replica.names_after(None)
            self._never_used = (name for name in names if name not in before)
        self._offer_fill()

    def drain(self) -> None:
        """Take no more requests that would have to wait; what has begun goes on."""
        self.draining = True
        self.tickets.drain()

    async def stop(self) -> None:
        """Stop the loops and threads, save what was used. Requests must have ended."""
        self.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._report_uses(self.live.values())
        await self.replica.stop()
        self.tickets.close()
        self._resident.give_back()
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

    def find(self, name: str, version: int | None) -> LiveCopy | None:
        """The ready copy that answers requests for `name` now; None: `acquire` one."""
        if version is None:
            return self.default.get(name)
        return self.versioned.get((name, version))

    async def acquire(self, name: str, version: int | None, timeout_s: float) -> LiveCopy:
        """A ready copy, loaded if need be; the caller must `release` it.

        Raises ModelNotFound, VersionNotFound, Unavailable and its kinds, DeadlineExceeded.
        """
        record = self.record(name)
        if served(record, version) is None:
            raise _not_served(record, version)
        ticket = self.tickets.issue()
        self.send(on.CopyRequested(ticket, record, version))
        copy = await self.tickets.wait(ticket, timeout_s, f"model {name!r}")
        assert copy is not None
        return copy

    async def ask(self, event: type[on.LoadAsked | on.UnloadAsked], name: str,
                  version: int | None, timeout_s: float | None) -> None:
        """Load or unload by hand. timeout_s: how long to wait for the outcome; None: not at all."""
        record = self.record(name)
        if served(record, version) is None and (version is not None or event is on.LoadAsked):
            raise _not_served(record, version)
        ticket = self.tickets.issue()
        self.send(event(ticket, record, version))
        if timeout_s is None:
            self.tickets.forget(ticket)
            return
        copy = await self.tickets.wait(ticket, timeout_s, f"model {name!r}")
        if copy is not None:
            copy.release()

    # --- declarations ---------------------------------------------------------------------------

    def _on_declaration(self, name: str, record: ModelRecord | None) -> None:
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
        self.send(on.ModelDeclared(record))
        if self.settings.cache.fill == "all" and not self.starting and not record.spec.pin:
            self._to_fill.append(name)
            self._offer_fill()

    def note_registry_problem(self, message: str) -> None:
        """Something that operators should know of the registry until the next start."""
        self.registry_problem = message
        self.journal.note("registry_problem", message)

    # --- events in, commands out ----------------------------------------------------------------

    def send(self, event: on.Event) -> None:
        """Let the core decide, and do what it says."""
        for command in self.core.handle(event, self.clock.monotonic()):
            self._obey(command)

    def _obey(self, command: do.Command) -> None:
        match command:
            case do.Route(name, None, revision):
                self.default[name] = self.live[revision]
            case do.Route(name, version, revision):
                assert version is not None
                self.versioned[name, version] = self.live[revision]
            case do.Unroute(name, None):
                del self.default[name]
            case do.Unroute(name, version):
                assert version is not None
                del self.versioned[name, version]
            case do.LoadCopy():
                self._load(command)
            case do.UnloadCopy():
                self._unload(command)
            case do.Answer(ticket, revision):
                self.tickets.answer(ticket, self.live[revision] if revision else None)
            case do.Refuse():
                self.tickets.refuse(command)
            case do.Note(kind, model, revision, reason, message):
                self.journal.note(kind, message, model=model, revision=revision, reason=reason)

    # --- loads and unloads ----------------------------------------------------------------------

    def _load(self, command: do.LoadCopy) -> None:
        revision = command.revision
        self.journal.note("load_started", f"model {revision.model!r} version {revision.version} is "
                          "being loaded", model=revision.model, revision=revision.id,
                          reason=command.reason)
        if revision.id in self._hanging:
            self._loop.call_soon(
                self._load_failed, revision,
                LoadFailed("an earlier load of it still hangs; repair what it waits for"))
            return
        load = run_apart("shoal-load", self._load_nicely, revision)
        self._loads[revision.id] = _Load(revision, load, self.clock.monotonic())
        load.add_done_callback(
            lambda done: self._from_thread(self._load_ended, revision, done)
        )

    def _load_ended(self, revision: Revision, load: Future[Loaded]) -> None:
        hanging = self._hanging.get(revision.id)
        if hanging is not None and hanging.future is load:
            self._load_ended_late(self._hanging.pop(revision.id))
            return
        del self._loads[revision.id]
        error = load.exception()
        if error is not None:
            self._load_failed(revision, error)
        else:
            self._loaded(revision, load.result())
        self._offer_fill()

    def _load_failed(self, revision: Revision, error: BaseException) -> None:
        message = error.message if isinstance(error, ShoalError) else repr(error)
        message = message.removeprefix(f"model {revision.model!r}: ")
        code = error.code if isinstance(error, ShoalError) else "INTERNAL"
        self.metrics.load_failed(code)
        self.send(on.CopyLoadFailed(
            revision.id, code, f"model {revision.model!r} version {revision.version} could not "
            f"be loaded: {message}"))

    def _loaded(self, revision: Revision, loaded: Loaded) -> None:
        copy = LiveCopy(revision, loaded.model, self._parts.running)
        copy.size_bytes = loaded.size_bytes
        copy.tell = partial(
            self.journal.note, "batching_stopped", model=revision.model, revision=revision.id
        )
        self.live[revision.id] = copy
        self._resident.came()
        self._baseline_bytes += loaded.framework_bytes
        self.metrics.loaded(loaded.load_s, loaded.size_bytes)
        for note in loaded.notes:
            self.journal.note("runtime_note", note, model=revision.model, revision=revision.id)
        self.journal.note(
            "loaded", f"model {revision.model!r} version {revision.version} was loaded in "
            f"{loaded.load_s:.3f} s and takes {loaded.size_bytes:,} bytes",
            model=revision.model, revision=revision.id)
        self.send(on.CopyLoaded(revision.id, loaded.size_bytes, loaded.load_s))

    def _give_up_hanging_loads(self) -> None:
        """A load that does not end must not keep its place from others."""
        most_s = self.settings.load.timeout_s
        due = self.clock.monotonic() - most_s
        for load in [load for load in self._loads.values() if load.since <= due]:
            revision = load.revision
            self._hanging[revision.id] = self._loads.pop(revision.id)
            self._load_failed(revision, LoadFailed(
                f"it has not ended after {most_s:g} s (load.timeout_s), and goes on without "
                "anybody waiting for it; raise load.timeout_s if it only needs longer"))

    def _load_ended_late(self, load: _Load) -> None:
        revision = load.revision
        took_s = self.clock.monotonic() - load.since
        self.journal.note(
            "runtime_note", f"the load of model {revision.model!r} version {revision.version} that "
            f"was given up ended after {took_s:.0f} s; its outcome is not used",
            model=revision.model, revision=revision.id)
        if load.future.exception() is None:
            run_apart("shoal-close", self._parts.loader.close, load.future.result().model)

    def _unload(self, command: do.UnloadCopy) -> None:
        copy = self.live.pop(command.revision)
        self._resident.leaves(self.clock.monotonic())
        self.optimizer.forget(copy)
        revision = copy.revision
        if command.reason is Reason.ROOM:
            self.metrics.evicted(command.reason)
        else:
            self.metrics.unloaded(command.reason)
        self.journal.note(
            "evicted" if command.reason is Reason.ROOM else "unloaded",
            f"model {revision.model!r} version {revision.version} leaves memory",
            model=revision.model, revision=revision.id, reason=command.reason)
        self._report_use(copy, self.clock.monotonic(), 0.0)
        copy.when_idle(lambda: self._close(copy))

    def _close(self, copy: LiveCopy) -> None:
        """Nothing runs in it any more: give its memory back."""
        copy.when_idle(_nothing)
        # Even a small one on a thread: closing may run people's code.
        close = run_apart("shoal-close", self._parts.loader.close, copy.model)
        close.add_done_callback(lambda done: self._from_thread(self._closed, copy, done))

    def _closed(self, copy: LiveCopy, close: Future[None]) -> None:
        if (error := close.exception()) is not None:
            self.journal.note("runtime_note", f"model {copy.revision.model!r} could not be closed "
                              f"cleanly: {error!r}", model=copy.revision.model)
        self._trim_wanted = True
        revision = copy.revision.id
        if revision not in {each.id for each in self._revisions(copy.revision.model)}:
            self._parts.loader.forget(revision)
        self.send(on.CopyUnloaded(revision))

    def _revisions(self, name: str) -> tuple[Revision, ...]:
        record = self.replica.get(name)
        return record.revisions if record is not None else ()

    def _from_thread(self, act: object, *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, nobody is interested
            self._loop.call_soon_threadsafe(act, *arguments)  # type: ignore[arg-type]

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
            self._report_uses(some, span_s)
            if turns.is_over():
                await turns.rest()
        self._give_up_hanging_loads()
        grown = max(resident_bytes() - self._baseline_bytes, 0)
        self.send(on.MemoryMeasured(grown))
        self.send(on.Ticked())
        self._offer_fill()
        self._resident.tick(self.clock.monotonic())
        if self._trim_wanted:
            self._trim_wanted = False
            run_apart("shoal-trim", trim_heap)

    def _report_uses(self, copies: Iterable[LiveCopy], span_s: float = TICK_S) -> None:
        now = self.clock.monotonic()
        uses = [use for copy in copies if (use := self._report_use(copy, now, span_s))]
        if uses:
            self.send(on.UsesReported(tuple(uses)))

    def _report_use(self, copy: LiveCopy, now: float, span_s: float) -> on.Use | None:
        """What a copy did since the last report; remembers its last use for the next start."""
        count = copy.uses - copy.reported_uses
        if count == 0:
            return None
        busy_s = copy.busy_s - copy.reported_s
        copy.reported_uses, copy.reported_s = copy.uses, copy.busy_s
        self.optimizer.consider(copy)
        name = copy.revision.model
        self.activity.tick(name, count, busy_s, span_s or TICK_S, now)
        used_at = self.clock.wall() - (now - copy.last_used)
        self.replica.used(
            name, Usage(round(used_at, 3), copy.revision.artifact_digest, copy.size_bytes)
        )
        return on.Use(copy.revision.id, count, copy.last_used)

    def _offer_fill(self) -> None:
        """Let the core queue loads for free memory, a few at a time, in their order.

        What does not fit is offered again once the loads under way are done: they teach how large
        a format's models are. What does not fit then is left to requests.
        """
        cache = self.core.cache
        under_way = cache.queue.count(Urgency.FILL) + cache.ledger.count[CopyState.LOADING]
        if self.draining or self.starting or under_way > FILL_QUEUE // 2:
            return
        for _ in range(FILL_BATCHES):
            if cache.room_to_fill_bytes <= 0 or not (names := self._next_to_fill()):
                break
            records = [record for name in names if (record := self._fillable(name)) is not None]
            self.send(on.FillOffered(tuple(records)))
            left = [each.name for each in records if each.name not in self.core.models]
            if under_way or len(left) < len(records):
                self._to_fill.extendleft(reversed(left))
                break

    def _fillable(self, name: str) -> ModelRecord | None:
        """Files that nobody has read may not be there: who asks for the model finds out."""
        record = self.replica.get(name)
        if record is None or not record.revisions:
            return None
        unread = record.revisions[-1].files_bytes == 0 and name not in self.replica.usage
        return None if unread else record

    def _next_to_fill(self) -> list[str]:
        names = [self._to_fill.popleft() for _ in range(min(FILL_QUEUE, len(self._to_fill)))]
        return names or list(islice(self._never_used, FILL_QUEUE))

    async def _save_usage_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.settings.registry.usage_interval_s)
            await self.replica.save_usage()


def _options(settings: Settings, budget_bytes: int) -> Options:
    cache, load = settings.cache, settings.load
    return Options(
        budget_bytes=budget_bytes, eviction=cache.eviction,
        cold_start_cost_s=cache.cold_start_cost_s, fill_share=cache.fill_share,
        idle_ttl_s=cache.idle_ttl_s, load_concurrency=load.concurrency,
        max_waiting=load.max_waiting, max_waiting_per_model=load.max_waiting_per_model,
        retry_base_s=load.retry_base_s, retry_max_s=load.retry_max_s, max_wait_s=load.max_wait_s,
    )


def _nothing() -> None:
    return None


def _not_served(record: ModelRecord, version: int | None) -> ShoalError:
    if not record.revisions:
        why = record.problem or "nothing that can be served was found"
        return LoadFailed(f"model {record.name!r} cannot be served: {why}", 5.0)
    known = ", ".join(str(revision.version) for revision in record.revisions)
    return VersionNotFound(f"model {record.name!r} has no version {version}; it serves {known}")

