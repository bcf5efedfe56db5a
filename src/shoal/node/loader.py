"""Turns a revision into a model in memory: checks the files and the trust, loads, measures.

Runs on threads. Must not know the core, nor who wanted the model.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

from shoal.domain.errors import ArtifactChanged, InvalidArtifact, ShoalError
from shoal.domain.model import Revision
from shoal.node.machine import resident_bytes
from shoal.observability.logs import get_logger
from shoal.ports import Artifact, LoadedModel, Noted
from shoal.runtimes.registry import RuntimeRegistry
from shoal.storage.digest import check_content, parts_of
from shoal.storage.files import stamp
from shoal.storage.trust import check_trusted

COPY_BYTES: Final = 16 * 1024  # Shoal's own objects around a copy

log = get_logger("shoal.node")


@dataclass(frozen=True, slots=True)
class Loaded:
    """size_bytes: measured. framework_bytes: what the process grew by beyond that when its format
    was loaded for the first time, which is the framework's code. notes: what the framework said."""

    model: LoadedModel
    size_bytes: int
    framework_bytes: int
    load_s: float
    notes: tuple[str, ...]


class Loader:
    """trusted: folders from which code may be loaded. Safe for threads."""

    def __init__(
        self, runtimes: RuntimeRegistry, trusted: tuple[Path, ...],
        trusted_types: tuple[str, ...], framework_threads: int,
    ) -> None:
        self._runtimes = runtimes
        self._trusted = trusted
        self._trusted_types = trusted_types
        self._framework_threads = framework_threads
        self._verified: dict[str, object] = {}  # stamps of files whose digest was checked
        self._known_formats: set[str] = set()
        self._lock = threading.Lock()
        self._running = 0

    def load(self, revision: Revision) -> Loaded:
        """Blocking. Raises ArtifactError, and InvalidArtifact for whatever a framework raises."""
        started = perf_counter()
        path = Path(revision.uri)
        runtime = self._runtimes.get(revision.format)
        check_trusted(path, revision.format, runtime.runs_code(path), self._trusted)
        self._verify(revision, path)
        artifact = Artifact(
            model=revision.model, version=revision.version, path=path, format=revision.format,
            inputs=revision.inputs, outputs=revision.outputs, options=revision.options,
            threads=self._framework_threads, trusted_types=self._trusted_types,
        )
        with self._lock:
            self._running += 1
            alone = self._running == 1
        before = resident_bytes()
        try:
            model = runtime.load(artifact)
        except ShoalError:
            raise
        except Exception as error:
            log.debug("load failed", model=revision.model, exc_info=True)
            raise InvalidArtifact(
                f"{path}: its framework ({revision.format}) cannot load it: "
                f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            ) from error
        finally:
            with self._lock:
                alone = alone and self._running == 1
                self._running -= 1
        grown = max(resident_bytes() - before, 0)
        if stamp(*parts_of(path)) != self._verified.get(revision.id):
            model.close()
            raise ArtifactChanged(f"{path} changed while it was loaded")
        size_bytes, framework_bytes = self._measure(revision, model, grown if alone else None)
        notes = model.notes if isinstance(model, Noted) else ()
        return Loaded(model, size_bytes, framework_bytes, perf_counter() - started, notes)

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
        self, revision: Revision, model: LoadedModel, grown: int | None
    ) -> tuple[int, int]:
        """Bytes of the model and of its framework. The framework's own word goes first: growth of
        the process is blurred by everything else that it does."""
        told = model.size_bytes()
        first = revision.format not in self._known_formats
        self._known_formats.add(revision.format)
        if told is not None:
            size = max(told, 0) + COPY_BYTES
            return size, max((grown or 0) - size, 0) if first else 0
        if grown is None or first:
            return revision.files_bytes + COPY_BYTES, 0
        return max(grown, revision.files_bytes) + COPY_BYTES, 0
