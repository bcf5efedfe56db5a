"""A model that runs in a process of its own, as a `LoadedModel`: starts that process again when it
has died.

A request that its process died under fails, as nobody knows what became of it; the next one waits
for a new process. Must not know the core, nor how processes are spoken to.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shoal.domain.errors import (
    ArtifactChanged,
    ArtifactError,
    InvalidArtifact,
    LoadFailed,
    ModelFailed,
    Unavailable,
)
from shoal.domain.model import JsonValue, Revision
from shoal.isolation.environment import FILE, Environments, Lease
from shoal.isolation.messages import Load, Loaded
from shoal.isolation.process import Process, ProcessFailed, Start
from shoal.isolation.restarts import Restarts
from shoal.observability.logs import get_logger
from shoal.ports import Artifact, Runtime
from shoal.storage.digest import parts_of
from shoal.storage.files import stamp

if TYPE_CHECKING:
    from shoal.ports import Arrays

ISOLATED: Final = "isolated"
_PYTHON: Final = "python"
_HOST: Final = ("-P", "-m", "shoal.isolation.host")

log = get_logger("shoal.isolation")


@dataclass(frozen=True, slots=True)
class IsolationOptions:
    """environments: the folder for them. memory_factor: a process may grow to so many times its
    model's size; 0: without bound. loading_bytes: what a load may take when nobody told the size.
    niceness: how much less of the processors than this process has."""

    environments: Path
    most_environments: int
    memory_factor: float
    loading_bytes: int
    start_timeout_s: float
    call_timeout_s: float
    niceness: int


class Isolation:
    """Which models run apart, and how. Safe for threads."""

    def __init__(self, options: IsolationOptions) -> None:
        self._options = options
        self._environments = Environments(options.environments, options.most_environments)

    def load(self, runtime: Runtime, artifact: Artifact, revision: Revision) -> IsolatedModel:
        """Blocking. Raises what the runtime raises, and InvalidArtifact when its process dies, or
        its environment cannot be built."""
        requirements = requirements_of(artifact.format, artifact.path)
        lease = None
        if requirements is not None:
            lease = self._environments.lease(requirements, artifact.model)
        try:
            return IsolatedModel(runtime, artifact, revision, self._options, lease)
        except BaseException:
            if lease is not None:
                lease.end()
            raise


def requirements_of(form: str, path: Path) -> Path | None:
    """The requirements that a model's files say; None: it runs with what is installed."""
    if form != _PYTHON:
        return None
    file = (path if path.is_dir() else path.parent) / FILE
    return file if file.is_file() else None


class IsolatedModel:
    """See `LoadedModel`. A model of more rows than one has `max_batch_rows`, too."""

    max_batch_rows: int

    def __init__(self, runtime: Runtime, artifact: Artifact, revision: Revision,
                 options: IsolationOptions, lease: Lease | None) -> None:
        self._name = artifact.model
        self._path = artifact.path
        self._format = artifact.format
        self._options = options
        self._lease = lease
        self._told_bytes = revision.memory_bytes
        self._concurrency = revision.max_concurrency
        self._load = self._as_message(runtime, artifact)
        self._stamp = stamp(*parts_of(artifact.path))
        self._restarts = Restarts()
        self._turn = threading.Lock()
        try:
            self._process, loaded = self._start()
        except ProcessFailed as failed:
            raise InvalidArtifact(
                f"model {self._name!r}: its process {failed.how}, while it loaded "
                f"{self._path.name}"
            ) from failed
        self.signature = loaded.signature
        self.platform = f"{loaded.platform} (isolated)"
        self.max_concurrency = loaded.max_concurrency
        self.may_wait = True
        self.apart = True
        self.notes = loaded.notes
        if loaded.max_batch_rows is not None:
            self.max_batch_rows = loaded.max_batch_rows

    def predict(self, inputs: Arrays, parameters: Mapping[str, JsonValue],
                outputs: tuple[str, ...] = ()) -> Arrays:
        """See `LoadedModel.predict`. Raises ModelFailed when its process dies, Unavailable while
        that happens too often, LoadFailed when it cannot be loaded again."""
        process = self._process
        if process.has_ended:
            process = self._again(process)
        try:
            return process.predict(inputs, parameters, outputs)
        except ProcessFailed as failed:
            raise ModelFailed(f"model {self._name!r}: its process {failed.how}") from failed

    def size_bytes(self) -> int | None:
        """What its process has in RAM."""
        return self._process.resident_bytes()

    @property
    def pid(self) -> int:
        """Of its process, which may have ended."""
        return self._process.pid

    def close(self) -> None:
        """The process ends."""
        with self._turn:
            self._process.close()
            if self._lease is not None:
                self._lease.end()
                self._lease = None

    # --- its processes --------------------------------------------------------------------------

    def _as_message(self, runtime: Runtime, artifact: Artifact) -> Load:
        kind, options = type(runtime), self._options
        memory_bytes = 0
        if options.memory_factor:
            memory_bytes = options.loading_bytes if self._told_bytes is None else round(
                self._told_bytes * options.memory_factor)
        return Load(
            runtime=f"{kind.__module__}:{kind.__qualname__}", model=artifact.model,
            version=artifact.version, path=str(artifact.path.absolute()), format=artifact.format,
            inputs=artifact.inputs, outputs=artifact.outputs, options=dict(artifact.options),
            threads=artifact.threads, trusted_types=artifact.trusted_types,
            memory_bytes=memory_bytes,
        )

    def _start(self) -> tuple[Process, Loaded]:
        options = self._options
        python = str(self._lease.python) if self._lease else sys.executable
        process = Process(
            Start(
                model=self._name, command=(python, *_HOST), foreign=self._lease is not None,
                threads=self._load.threads,
                niceness=os.getpriority(os.PRIO_PROCESS, os.getpid()) + options.niceness,
                start_timeout_s=options.start_timeout_s, call_timeout_s=options.call_timeout_s,
            ),
            on_line=self._log_line,
        )
        try:
            loaded = process.load(self._load, self._concurrency)
        except BaseException:
            process.close()
            raise
        if options.memory_factor and self._told_bytes is None:
            process.bound_memory(round(process.resident_bytes() * (options.memory_factor - 1.0)))
        return process, loaded

    def _again(self, dead: Process) -> Process:
        """The process that runs instead of a dead one; started by the first who asks."""
        with self._turn:
            if self._process is not dead and not self._process.has_ended:
                return self._process
            dead = self._process
            now = time.monotonic()
            if dead.is_news:
                dead.is_news = False
                self._restarts.died(
                    dead.ended_at - dead.started_at, now, killed=dead.was_killed)
                dead.close()
            wait_s = self._restarts.wait_s(now)
            if wait_s > 0.0:
                raise Unavailable(self._why_not(dead.how, wait_s), retry_after_s=wait_s)
            log.warning("the process of a model is started again", model=self._name, last=dead.how)
            self._process = self._started_again()
            return self._process

    def _why_not(self, how: str, wait_s: float) -> str:
        name, restarts = self._name, self._restarts
        if not restarts.is_given_up:
            return (
                f"model {name!r}: its process died {restarts.early} times in a row soon after it "
                f"was started; the last one {how}. It is started again in {wait_s:.1f} s")
        return (
            f"model {name!r}: its process was killed {restarts.kills} times in a row; the last one "
            f"{how}. It is not started again for {wait_s / 60:.0f} minutes: give the machine or "
            "the container more memory, or bound the model's by isolation.memory_factor and its "
            f"'memory_bytes'; then try again at once with 'shoal unload {name}' and 'shoal load "
            f"{name}'")

    def _started_again(self) -> Process:
        if stamp(*parts_of(self._path)) != self._stamp:
            raise ArtifactChanged(
                f"model {self._name!r}: its process died, and {self._path.name} is not any more "
                "what was loaded; register it anew")
        started = time.monotonic()
        try:
            return self._start()[0]
        except (ProcessFailed, ArtifactError) as error:
            now = time.monotonic()
            killed = isinstance(error, ProcessFailed) and error.killed
            self._restarts.died(now - started, now, killed=killed)
            said = (f"its process {error.how}" if isinstance(error, ProcessFailed)
                    else error.message)
            wait_s = self._restarts.wait_s(now)
            raise LoadFailed(
                f"model {self._name!r}: its process died and could not be started again: {said}",
                retry_after_s=max(wait_s, 1.0)) from error

    def _log_line(self, line: str) -> None:
        log.info("a model says", model=self._name, line=line)
