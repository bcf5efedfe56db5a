"""The copies in memory as the core's commands make them: loads and unloads them on threads.

Decides nothing: what is loaded and what leaves is said by commands, and how that ends becomes an
event.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TypeVarTuple

from shoal.domain import commands as do
from shoal.domain import events as on
from shoal.domain.errors import AcceleratorFull, LoadFailed, PlaceUnavailable, ShoalError
from shoal.domain.model import Revision
from shoal.domain.reasons import Reason
from shoal.node.activity import Activity
from shoal.node.doors import Door, Doors, LoadTurn
from shoal.node.journal import Journal
from shoal.node.live import LiveCopy, Running
from shoal.node.loader import Loaded, Loader
from shoal.node.machine import resident_bytes, trim_heap
from shoal.node.optimizing import Optimizer
from shoal.node.replica import Replica
from shoal.node.resident import Resident
from shoal.node.threads import nicely, run_apart
from shoal.node.usage import Usage
from shoal.observability.metrics import Metrics
from shoal.ports import Clock
from shoal.settings import Settings

Ts = TypeVarTuple("Ts")


@dataclass(frozen=True, slots=True)
class Around:
    """What copies are loaded with, and who is told. send: takes the events."""

    settings: Settings
    loader: Loader
    running: Running
    metrics: Metrics
    clock: Clock
    journal: Journal
    activity: Activity
    replica: Replica
    send: Callable[[on.Event], None]


@dataclass(frozen=True, slots=True)
class _Load:
    revision: Revision
    future: Future[Loaded]
    since: float
    turn: LoadTurn


class Copies:
    """`live`: those that are ready, by revision. load_ended: called after each load."""

    def __init__(self, around: Around, load_ended: Callable[[], None]) -> None:
        self.live: dict[str, LiveCopy] = {}
        self.optimizer = Optimizer(
            around.settings.load.optimize, around.journal, self._from_thread)
        self._around = around
        self._after_load = load_ended
        self._loop = asyncio.get_running_loop()
        self._loads: dict[str, _Load] = {}  # under way, by revision
        self._hanging: dict[str, _Load] = {}  # given up, but their threads have not ended
        self._baseline_bytes = resident_bytes()
        self._trim_wanted = False
        self._resident = Resident()
        settings = around.settings
        self._doors = Doors(Door(settings.storage.downloads), Door(settings.load.concurrency))
        self._load_nicely = nicely(
            around.settings.request.thread_niceness, around.loader.load)

    # --- loads ----------------------------------------------------------------------------------

    def load(self, command: do.LoadCopy) -> None:
        revision = command.revision
        self._around.journal.note(
            "load_started",
            f"model {revision.model!r} version {revision.version} is being loaded",
            model=revision.model, revision=revision.id, reason=command.reason)
        if revision.id in self._hanging:
            self._loop.call_soon(
                self._load_failed, revision,
                LoadFailed("an earlier load of it still hangs; repair what it waits for"))
            return
        if (deadly := self._is_deadly(command)) is not None:
            self._loop.call_soon(partial(self._load_failed, revision, deadly, deadly=True))
            return
        now = self._around.clock.monotonic
        turn = LoadTurn(
            self._doors, int(command.reason is Reason.FILL), now,
            lambda begun: self._from_thread(self._tell_download, revision.id, begun))
        load = run_apart("shoal-load", self._load_nicely, revision, turn, command.device)
        self._loads[revision.id] = _Load(revision, load, now(), turn)
        load.add_done_callback(
            lambda done: self._from_thread(self._load_ended, revision, done)
        )

    def _is_deadly(self, command: do.LoadCopy) -> ShoalError | None:
        """Why it is not even tried: processes have died of it. Who asks by hand knows."""
        suspects = self._around.loader.suspects
        if suspects is None:
            return None
        if command.reason is Reason.ASKED:
            suspects.forgive(command.revision.id)
        return suspects.refusal(command.revision)

    def _tell_download(self, revision: str, begun: bool) -> None:
        if revision in self._loads:
            self._around.send(on.FilesComing(revision) if begun else on.FilesCame(revision))

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
        self._after_load()

    def _load_failed(
        self, revision: Revision, error: BaseException, *, deadly: bool = False
    ) -> None:
        message = error.message if isinstance(error, ShoalError) else repr(error)
        message = message.removeprefix(f"model {revision.model!r}: ")
        code = error.code if isinstance(error, ShoalError) else "INTERNAL"
        self._around.metrics.load_failed(code)
        self._around.send(on.CopyLoadFailed(
            revision.id, code, f"model {revision.model!r} version {revision.version} could not "
            f"be loaded: {message}",
            error.retry_after_s if isinstance(error, PlaceUnavailable) else None, deadly,
            error.needed_bytes if isinstance(error, AcceleratorFull) else 0))

    def _loaded(self, revision: Revision, loaded: Loaded) -> None:
        around = self._around
        copy = LiveCopy(revision, loaded.model, around.running)
        copy.size_bytes, copy.accelerator_bytes = loaded.size_bytes, loaded.accelerator_bytes
        copy.tell = partial(
            around.journal.note, "batching_stopped", model=revision.model, revision=revision.id
        )
        self.live[revision.id] = copy
        self._resident.came()
        self._baseline_bytes += loaded.framework_bytes
        around.metrics.loaded(loaded.load_s, loaded.size_bytes)
        for note in loaded.notes:
            around.journal.note("runtime_note", note, model=revision.model, revision=revision.id)
        around.journal.note(
            "loaded", f"model {revision.model!r} version {revision.version} was loaded in "
            f"{loaded.load_s:.3f} s and takes {loaded.size_bytes:,} bytes{_there(loaded)}",
            model=revision.model, revision=revision.id)
        around.replica.measured(revision.model, revision.artifact_digest, loaded.size_bytes,
                                loaded.accelerator_bytes)
        around.send(on.CopyLoaded(
            revision.id, loaded.size_bytes, loaded.load_s, loaded.peak_bytes,
            loaded.accelerator_bytes))

    def _give_up_hanging_loads(self) -> None:
        """A load that does not end must not keep its place from others."""
        most_s = self._around.settings.load.timeout_s
        due = self._around.clock.monotonic() - most_s
        for load in [load for load in self._loads.values() if self._moved_at(load) <= due]:
            revision = load.revision
            self._hanging[revision.id] = self._loads.pop(revision.id)
            load.turn.give_up()
            self._load_failed(revision, LoadFailed(
                f"it has not ended after {most_s:g} s (load.timeout_s), and goes on without "
                "anybody waiting for it; raise load.timeout_s if it only needs longer"))

    def _moved_at(self, load: _Load) -> float:
        """When it got its turn, or when its files came on: a download ends by itself when it
        hangs."""
        since, coming = load.turn.since, self._around.loader.coming(load.revision.id)
        if since is None:
            return self._around.clock.monotonic()
        return since if coming is None else max(since, coming.at)

    def _load_ended_late(self, load: _Load) -> None:
        revision = load.revision
        took_s = self._around.clock.monotonic() - load.since
        self._around.journal.note(
            "runtime_note", f"the load of model {revision.model!r} version {revision.version} that "
            f"was given up ended after {took_s:.0f} s; its outcome is not used",
            model=revision.model, revision=revision.id)
        if load.future.exception() is None:
            run_apart("shoal-close", self._around.loader.close, load.future.result().model)

    # --- unloads --------------------------------------------------------------------------------

    def unload(self, command: do.UnloadCopy) -> None:
        copy = self.live.pop(command.revision)
        around, revision = self._around, copy.revision
        self._resident.leaves(around.clock.monotonic())
        self.optimizer.forget(copy)
        if command.reason is Reason.ROOM:
            around.metrics.evicted(command.reason)
        else:
            around.metrics.unloaded(command.reason)
        around.journal.note(
            "evicted" if command.reason is Reason.ROOM else "unloaded",
            f"model {revision.model!r} version {revision.version} leaves memory",
            model=revision.model, revision=revision.id, reason=command.reason)
        self._report_use(copy, around.clock.monotonic(), 0.0)
        copy.when_idle(lambda: self._close(copy))

    def _close(self, copy: LiveCopy) -> None:
        """Nothing runs in it any more: give its memory back."""
        copy.when_idle(_nothing)
        # Even a small one on a thread: closing may run people's code.
        close = run_apart("shoal-close", self._around.loader.close, copy.model)
        close.add_done_callback(lambda done: self._from_thread(self._closed, copy, done))

    def _closed(self, copy: LiveCopy, close: Future[None]) -> None:
        if (error := close.exception()) is not None:
            self._around.journal.note(
                "runtime_note",
                f"model {copy.revision.model!r} could not be closed cleanly: {error!r}",
                model=copy.revision.model)
        self._trim_wanted = True
        revision = copy.revision.id
        record = self._around.replica.get(copy.revision.model)
        if record is None or revision not in {each.id for each in record.revisions}:
            self._around.loader.forget(revision)
        self._around.send(on.CopyUnloaded(revision))

    def _from_thread(self, act: Callable[[*Ts], object], *arguments: *Ts) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, nobody is interested
            self._loop.call_soon_threadsafe(act, *arguments)

    # --- time and use ---------------------------------------------------------------------------

    def begin(self) -> None:
        """What the process holds now is not for models: none was loaded yet."""
        self._baseline_bytes = resident_bytes()

    @property
    def grown_bytes(self) -> int:
        """What the process grew by for its models."""
        own = max(resident_bytes() - self._baseline_bytes, 0)
        return own + self._around.loader.apart_bytes()

    def tick(self) -> None:
        """Once a second."""
        self._give_up_hanging_loads()
        self._resident.tick(self._around.clock.monotonic())
        if self._trim_wanted:
            self._trim_wanted = False
            run_apart("shoal-trim", trim_heap)

    def report_uses(self, copies: Iterable[LiveCopy], span_s: float) -> None:
        """Tell the core what these did since the last report, `span_s` seconds ago."""
        now = self._around.clock.monotonic()
        uses = [use for copy in copies if (use := self._report_use(copy, now, span_s))]
        if uses:
            self._around.send(on.UsesReported(tuple(uses)))

    def _report_use(self, copy: LiveCopy, now: float, span_s: float) -> on.Use | None:
        """What a copy did since the last report; remembers its last use for the next start."""
        count = copy.uses - copy.reported_uses
        if count == 0:
            return None
        busy_s = copy.busy_s - copy.reported_s
        copy.reported_uses, copy.reported_s = copy.uses, copy.busy_s
        self.optimizer.consider(copy)
        name = copy.revision.model
        self._around.activity.tick(name, count, busy_s, span_s or 1.0, now)
        used_at = self._around.clock.wall() - (now - copy.last_used)
        self._around.replica.used(
            name, Usage(round(used_at, 3), copy.revision.artifact_digest, copy.size_bytes,
                        copy.accelerator_bytes)
        )
        return on.Use(copy.revision.id, count, copy.last_used, busy_s, copy.queued)

    def stop(self) -> None:
        self._resident.give_back()


def _there(loaded: Loaded) -> str:
    there = loaded.accelerator_bytes
    return f", and {there:,} on its accelerator" if there else ""


def _nothing() -> None:
    return None
