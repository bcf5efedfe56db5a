"""Turns a revision into a model in memory: checks the files and the trust, loads, measures.

Runs on threads. Must not know the core, nor who wanted the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter
from typing import Final

from shoal.domain.errors import (
    ArtifactChanged,
    InvalidArtifact,
    InvalidSpecification,
    ShoalError,
)
from shoal.domain.model import Revision
from shoal.domain.serving_runtime import ServingRuntime
from shoal.external.model import ExternalModel
from shoal.external.servers import ExternalServers, brings_its_runtime
from shoal.isolation.model import ISOLATED, IsolatedModel, Isolation, requirements_of
from shoal.node.accelerating import check_accelerator, device_for, form_of, load_on
from shoal.node.doors import LoadTurn
from shoal.node.gate import Gate
from shoal.node.growth import Growing, Growth
from shoal.node.suspects import Suspects
from shoal.observability.logs import get_logger
from shoal.ports import Accelerated, Apart, Artifact, Isolated, LoadedModel, Noted, Runtime
from shoal.runtimes.registry import RuntimeRegistry
from shoal.storage.digest import check_content, parts_of
from shoal.storage.disk_cache import Held
from shoal.storage.fetching import Fetching
from shoal.storage.files import stamp
from shoal.storage.signing import Signatures, signature_at
from shoal.storage.trust import check_trusted
from shoal.storage.uri import is_remote

COPY_BYTES: Final = 16 * 1024  # Shoal's own objects around a copy
# How far the growth of the process is believed beyond a framework's own word: requests that run
# meanwhile make it grow too.
BELIEVED: Final = 4
BELIEVED_BYTES: Final = 256 * 1024

log = get_logger("shoal.node")


@dataclass(frozen=True, slots=True)
class Loaded:
    """size_bytes: measured. framework_bytes: what the process grew by beyond that when its format
    was loaded for the first time, which is the framework's code. notes: what the framework said.
    peak_bytes: by how much the process rose at most; None: that was not the model's alone.
    accelerator_bytes: on the device that it was to lie on; 0: it runs on the processor."""

    model: LoadedModel
    size_bytes: int
    framework_bytes: int
    load_s: float
    notes: tuple[str, ...]
    peak_bytes: int | None = None
    accelerator_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Coming:
    """A download: bytes that are here, those of all (None: nobody says), and when the last came, in
    seconds of `time.monotonic`."""

    done_bytes: int
    all_bytes: int | None
    at: float


class Loader:
    """trusted: folders and URIs from which code may be loaded. fetching: None: only what lies on
    this machine. isolation: None: no model runs apart. Safe for threads."""

    def __init__(
        self, runtimes: RuntimeRegistry, trusted: tuple[str, ...],
        trusted_types: tuple[str, ...], framework_threads: int, fetching: Fetching | None = None,
        isolation: Isolation | None = None,
    ) -> None:
        self._runtimes = runtimes
        self._trusted = trusted
        self._trusted_types = trusted_types
        self._framework_threads = framework_threads
        self.fetching = fetching
        self.signatures: Signatures | None = None  # None: nothing needs to be signed
        self.suspects: Suspects | None = None  # None: nobody remembers what ends processes
        # What frameworks hold on an accelerator, as far as they tell.
        self.held_on: Callable[[str], int | None] = lambda device: None
        self._isolation = isolation
        self.external: ExternalServers | None = None  # None: no model runs in other servers
        self.serving: Callable[[str], ServingRuntime] | None = None  # by name, raises ShoalError
        self._apart: dict[int, IsolatedModel] = {}  # by their ids
        self._coming: dict[str, Coming] = {}  # downloads, by revision
        self._held: dict[int, Held] = {}  # files from elsewhere, by the id of the model of them
        self._verified: dict[str, object] = {}  # stamps of files whose digest was checked
        self._tells: dict[str, bool] = {}  # forms loaded before: do they know their sizes?
        self._gate = Gate()

    def load(
        self, revision: Revision, turn: LoadTurn | None = None, device: str | None = None
    ) -> Loaded:
        """Blocking. turn: waits for its turn to download what lies elsewhere, and then to load.
        device: the accelerator that it is to lie on.

        Raises ArtifactError, InvalidArtifact for whatever a framework raises, AcceleratorFull."""
        held, took_s = self._brought(revision, turn)
        try:
            path = held.path if held else Path(revision.uri)
            with turn.loading() if turn is not None else nullcontext():
                loaded = self._load_from(path, revision, held, perf_counter() - took_s, device)
        except BaseException:
            if held is not None:
                held.release()
            raise
        if held is not None:
            self._held[id(loaded.model)] = held
        return loaded

    def _brought(self, revision: Revision, turn: LoadTurn | None) -> tuple[Held | None, float]:
        """As `_hold`, and how long it took, without the wait for its turn."""
        started = perf_counter()
        if turn is None or self.fetching is None or not is_remote(revision.uri):
            return self._hold(revision), perf_counter() - started
        if (held := self.fetching.here(revision)) is not None:
            return held, perf_counter() - started
        with turn.downloading():
            started = perf_counter()
            return self._hold(revision), perf_counter() - started

    def _hold(self, revision: Revision) -> Held | None:
        """What lies elsewhere, here; None for what lies here anyway."""
        if self.fetching is None or not is_remote(revision.uri):
            return None

        def progress(done_bytes: int, all_bytes: int | None) -> None:
            self._coming[revision.id] = Coming(done_bytes, all_bytes, monotonic())

        try:
            return self.fetching.open(revision, progress)
        finally:
            self._coming.pop(revision.id, None)

    def coming(self, revision: str) -> Coming | None:
        """How far the download of its files is, while there is one."""
        return self._coming.get(revision)

    def _load_from(
        self, path: Path, revision: Revision, held: Held | None, started: float,
        device: str | None,
    ) -> Loaded:
        """started: when the load began, in seconds of `perf_counter`."""
        self._check(path, revision)
        apart = revision.runtime is None and self._runs_apart(revision, path)
        if revision.runtime is None:
            device = device_for(revision, device, apart=apart)
        if held is None:
            self._verify(revision, path)
        artifact = Artifact(
            model=revision.model, version=revision.version, path=path, format=revision.format,
            inputs=revision.inputs, outputs=revision.outputs, options=revision.options,
            threads=self._framework_threads, trusted_types=self._trusted_types, device=device,
        )
        if revision.runtime is not None:
            return self._load_outside(artifact, revision, held, started)
        if apart:
            return self._load_apart(artifact, revision, held, started)
        return self._load_here(artifact, revision, held, started)

    def _load_here(
        self, artifact: Artifact, revision: Revision, held: Held | None, started: float
    ) -> Loaded:
        """In this process. What only the growth of the process can tell the size of is loaded
        alone."""
        device = artifact.device
        form = form_of(revision, device)
        alone_please = not self._tells.get(form)
        with self._turn_of(revision), self._gate.pass_through(alone=alone_please) as was_alone:
            model, grown, notes = self._load(
                self._runtimes.get(revision.format), artifact, revision)
            alone = was_alone()
        self._check_unchanged(model, artifact.path, revision, held)
        there = model.accelerator_bytes() if device and isinstance(model, Accelerated) else 0
        form = form_of(revision, device if there else None)
        peak_bytes = grown.peak_bytes if alone and form in self._tells else None
        size_bytes, framework_bytes = self._measure(revision, form, model, grown, alone=alone)
        notes = (*notes, *(model.notes if isinstance(model, Noted) else ()))
        return Loaded(model, size_bytes, framework_bytes, perf_counter() - started, notes,
                      peak_bytes, there)

    def _runs_apart(self, revision: Revision, path: Path) -> bool:
        runtime = self._runtimes.get(revision.format)
        return (
            revision.trust == ISOLATED or requirements_of(revision.format, path) is not None
            or (self._isolation is not None and isinstance(runtime, Isolated) and runtime.isolated)
        )

    def _load_apart(
        self, artifact: Artifact, revision: Revision, held: Held | None, started: float
    ) -> Loaded:
        """In a process of its own, of which the size is what it takes."""
        if self._isolation is None:
            raise InvalidSpecification(
                f"model {revision.model!r}: no models run in processes of their own here")
        model = self._isolation.load(self._runtimes.get(revision.format), artifact, revision)
        loaded = self._loaded_apart(model, artifact, revision, held, started)
        self._apart[id(model)] = model
        return loaded

    def _load_outside(
        self, artifact: Artifact, revision: Revision, held: Held | None, started: float
    ) -> Loaded:
        """In the server that the revision names, which says what it takes there."""
        model = self._external().load(self._serving(revision), artifact, revision)
        return self._loaded_apart(model, artifact, revision, held, started)

    def _loaded_apart(
        self, model: IsolatedModel | ExternalModel, artifact: Artifact, revision: Revision,
        held: Held | None, started: float,
    ) -> Loaded:
        self._check_unchanged(model, artifact.path, revision, held)
        size_bytes = (model.size_bytes() or revision.files_bytes) + COPY_BYTES
        return Loaded(model, size_bytes, 0, perf_counter() - started, model.notes)

    def _external(self) -> ExternalServers:
        if self.external is None:
            raise InvalidSpecification("no models run in other servers here")
        return self.external

    def _serving(self, revision: Revision) -> ServingRuntime:
        assert revision.runtime is not None
        if self.serving is None:
            raise InvalidSpecification(
                f"model {revision.model!r}: the runtime {revision.runtime!r} is not known here")
        return self.serving(revision.runtime)

    def _check_unchanged(
        self, model: LoadedModel, path: Path, revision: Revision, held: Held | None
    ) -> None:
        if held is None and stamp(*parts_of(path)) != self._verified.get(revision.id):
            model.close()
            raise ArtifactChanged(f"{path} changed while it was loaded")

    def apart_bytes(self) -> int:
        """What models in processes of their own take, and servers started for others."""
        isolated = sum(model.size_bytes() or 0 for model in tuple(self._apart.values()))
        return isolated + (self.external.bytes() if self.external is not None else 0)

    def _turn_of(self, revision: Revision) -> AbstractContextManager[None]:
        return nullcontext() if self.suspects is None else self.suspects.turn(revision.id)

    def _under_way(self, revision: Revision) -> AbstractContextManager[None]:
        return nullcontext() if self.suspects is None else self.suspects.loading(revision.id)

    def _load(
        self, runtime: Runtime, artifact: Artifact, revision: Revision
    ) -> tuple[LoadedModel, Growth, tuple[str, ...]]:
        """The model, what the process grew by meanwhile, and notes."""
        growing = Growing()
        try:
            with self._under_way(revision):
                model, notes = load_on(runtime, artifact, revision)
        except ShoalError:
            raise
        except BaseException as error:  # people's code runs here: its SystemExit is a failure, too
            log.debug("load failed", model=artifact.model, exc_info=True)
            raise InvalidArtifact(
                f"{artifact.path}: its framework ({artifact.format}) cannot load it: "
                f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            ) from error
        return model, growing.until_now(), notes

    def check(self, revision: Revision) -> None:
        """Raise what would refuse the revision whatever its files hold: NotTrusted when loading it
        can run code and it lies where none is trusted, InvalidSpecification for unknown options."""
        with self.files(revision) as path:
            self._check(path, revision)

    @contextmanager
    def files(self, revision: Revision) -> Iterator[Path]:
        """Its artifact, only to be looked at; brought here if it lies elsewhere."""
        held = self._hold(revision)
        try:
            yield held.path if held else Path(revision.uri)
        finally:
            if held is not None:
                held.release()

    def _check(self, path: Path, revision: Revision) -> None:
        self._check_signed(path, revision)
        if self._can_run_code(path, revision):
            check_trusted(revision.uri, path, revision.format, self._trusted, revision.trust)
        self.check_options(revision)

    def _can_run_code(self, path: Path, revision: Revision) -> bool:
        """Another server runs it as well: of formats that Shoal does not know, anything is
        believed."""
        if revision.runtime is None:
            return self._runtimes.get(revision.format).runs_code(path)
        return (
            revision.format not in self._runtimes.formats()
            or brings_its_runtime(path, revision.options)
            or self._runtimes.get(revision.format).runs_code(path)
        )

    def _check_signed(self, path: Path, revision: Revision) -> None:
        """That somebody known signed the content which is declared; that the files are this content
        is for others to check."""
        if self.signatures is None or not self.signatures.wanted(revision.uri):
            return
        if self.fetching is not None and is_remote(revision.uri):
            signature = self.fetching.signature(revision, is_folder=path.is_dir())
        else:
            signature = signature_at(path)
        self.signatures.check(revision, path, signature)

    def check_options(self, revision: Revision) -> None:
        """Raise InvalidSpecification for options that the format does not take. Those of another
        server are for it to check."""
        if revision.runtime is not None:
            return
        runtime = self._runtimes.get(revision.format)
        check_accelerator(runtime, revision)
        unknown = set(revision.options) - set(runtime.options or ())
        if unknown and runtime.options is not None:
            known = ", ".join(runtime.options) or "none"
            raise InvalidSpecification(
                f"model {revision.model!r}: unknown options {', '.join(sorted(unknown))}; the "
                f"format {revision.format} takes {known}"
            )

    def close(self, model: LoadedModel) -> None:
        """Blocking. Not while a load is measured by what the process grows by: it would seem to
        need so much less."""
        held = self._held.pop(id(model), None)
        self._apart.pop(id(model), None)
        try:
            if isinstance(model, Apart):
                model.close()
                return
            with self._gate.pass_through(alone=False):
                model.close()
        finally:
            if held is not None:
                held.release()

    def stop(self) -> None:
        """End the servers that it started for models. Blocking; nothing is loaded any more."""
        if self.external is not None:
            self.external.stop()

    def forget(self, revision: str) -> None:
        self._verified.pop(revision, None)

    def _verify(self, revision: Revision, path: Path) -> None:
        """The files are the ones that were declared: by their digest, and cheaply by size and times
        when their digest was checked before."""
        found = stamp(*parts_of(path))
        if found is not None and found == self._verified.get(revision.id):
            return
        check_content(path, revision.artifact_digest)
        self._verified[revision.id] = found

    def _measure(
        self, revision: Revision, form: str, model: LoadedModel, growth: Growth, *, alone: bool
    ) -> tuple[int, int]:
        """Bytes of the model and of its framework's code, which comes with the first of a format,
        and once more with the first of it on an accelerator: `form` is both.

        Frameworks tell the size of their weights; what is allocated beside them counts as well.
        """
        told, grown = model.size_bytes(), growth.allocated_bytes if alone else None
        first = form not in self._tells
        self._tells[form] = told is not None
        if first:
            size = max(told if told is not None else revision.files_bytes, 0) + COPY_BYTES
            return size, max(growth.resident_bytes - size, 0)
        if told is None:
            return (revision.files_bytes if grown is None else grown) + COPY_BYTES, 0
        believed = min(grown or 0, told * BELIEVED + BELIEVED_BYTES)
        return max(told, believed) + COPY_BYTES, 0
