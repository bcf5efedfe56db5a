"""Turns a revision into a model in memory: checks the files and the trust, loads, measures.

Runs on threads. Must not know the core, nor who wanted the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

from shoal.domain.errors import ArtifactChanged, InvalidArtifact, InvalidSpecification, ShoalError
from shoal.domain.model import Revision
from shoal.node.gate import Gate
from shoal.node.machine import allocated_bytes, resident_bytes
from shoal.observability.logs import get_logger
from shoal.ports import Artifact, LoadedModel, Noted, Runtime
from shoal.runtimes.registry import RuntimeRegistry
from shoal.storage.digest import check_content, parts_of
from shoal.storage.files import stamp
from shoal.storage.trust import check_trusted

COPY_BYTES: Final = 16 * 1024  # Shoal's own objects around a copy
# How far the growth of the process is believed beyond a framework's own word: requests that run
# meanwhile make it grow too.
BELIEVED: Final = 4
BELIEVED_BYTES: Final = 256 * 1024

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
        self._tells: dict[str, bool] = {}  # formats loaded before: do they know their sizes?
        self._gate = Gate()

    def load(self, revision: Revision) -> Loaded:
        """Blocking. Raises ArtifactError, and InvalidArtifact for whatever a framework raises."""
        started = perf_counter()
        path = Path(revision.uri)
        runtime = self._runtimes.get(revision.format)
        self.check(revision)
        self._verify(revision, path)
        artifact = Artifact(
            model=revision.model, version=revision.version, path=path, format=revision.format,
            inputs=revision.inputs, outputs=revision.outputs, options=revision.options,
            threads=self._framework_threads, trusted_types=self._trusted_types,
        )
        # What only the growth of the process can tell the size of is loaded alone.
        with self._gate.pass_through(alone=not self._tells.get(revision.format)) as was_alone:
            model, grown, resident = self._load(runtime, artifact)
            alone = was_alone()
        if stamp(*parts_of(path)) != self._verified.get(revision.id):
            model.close()
            raise ArtifactChanged(f"{path} changed while it was loaded")
        size_bytes, framework_bytes = self._measure(
            revision, model, grown if alone else None, resident
        )
        notes = model.notes if isinstance(model, Noted) else ()
        return Loaded(model, size_bytes, framework_bytes, perf_counter() - started, notes)

    def _load(self, runtime: Runtime, artifact: Artifact) -> tuple[LoadedModel, int, int]:
        """The model; what was allocated meanwhile; what the process grew by."""
        allocated, resident = allocated_bytes(), resident_bytes()
        try:
            model = runtime.load(artifact)
        except ShoalError:
            raise
        except BaseException as error:  # people's code runs here: its SystemExit is a failure, too
            log.debug("load failed", model=artifact.model, exc_info=True)
            raise InvalidArtifact(
                f"{artifact.path}: its framework ({artifact.format}) cannot load it: "
                f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            ) from error
        grown = max(allocated_bytes() - allocated, 0)
        return model, grown, max(resident_bytes() - resident, 0)

    def check(self, revision: Revision) -> None:
        """Raise what would refuse the revision whatever its files hold: NotTrusted when loading it
        can run code and it lies where none is trusted, InvalidSpecification for unknown options."""
        path = Path(revision.uri)
        runtime = self._runtimes.get(revision.format)
        check_trusted(path, revision.format, runtime.runs_code(path), self._trusted)
        self.check_options(revision)

    def check_options(self, revision: Revision) -> None:
        """Raise InvalidSpecification for options that the format does not take."""
        runtime = self._runtimes.get(revision.format)
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
        with self._gate.pass_through(alone=False):
            model.close()

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
        self, revision: Revision, model: LoadedModel, grown: int | None, resident: int
    ) -> tuple[int, int]:
        """Bytes of the model and of its framework's code, which comes with the first of a format.

        Frameworks tell the size of their weights; what is allocated beside them counts as well.
        """
        told = model.size_bytes()
        first = revision.format not in self._tells
        self._tells[revision.format] = told is not None
        if first:
            size = max(told if told is not None else revision.files_bytes, 0) + COPY_BYTES
            return size, max(resident - size, 0)
        if told is None:
            return (revision.files_bytes if grown is None else grown) + COPY_BYTES, 0
        believed = min(grown or 0, told * BELIEVED + BELIEVED_BYTES)
        return max(told, believed) + COPY_BYTES, 0
