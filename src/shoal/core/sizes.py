"""How many bytes a copy will take: what its artifact took before, else what its format is like.

And how many while it is loaded, which with some formats is several times as much. Never what
somebody typed, unless they asked for it (`memory_bytes` of a registration).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from shoal.core.accelerated_sizes import AcceleratedSizes
from shoal.domain.model import Revision

MAX_KNOWN: Final = 1_000_000
BASE_BYTES: Final = 32 * 1024  # the objects around even the smallest model
FIRST_RATIO: Final = 2.0  # memory to files, before a format was measured
RATIO_LIMITS: Final = (0.25, 50.0)
LEARNING: Final = 0.2  # weight of the newest measurement
GROWING: Final = 0.5  # … when copies turn out larger than booked: memory must not run out
PEAK_FROM_BYTES: Final = 1024**2  # of a copy; below, what else the process does is as large
MAX_PEAK_RATIO: Final = 8.0
CORRECTION_LIMITS: Final = (0.5, 2.0)
CORRECTION_FROM_BYTES: Final = 64 * 1024**2  # below, allocators' noise is larger than the models


@dataclass(frozen=True, slots=True)
class Prediction:
    """known: measured or declared, rather than guessed from the format. least_bytes: what it takes
    for certain; of a guess, as much as the files."""

    size_bytes: int
    known: bool
    least_bytes: int


class Sizes:
    """Of copies that run on the processor; `accelerated`: of those that lie on an accelerator."""

    def __init__(self) -> None:
        self._by_digest: OrderedDict[str, int] = OrderedDict()
        self._ratio: dict[str, float] = {}
        self._peak_ratio: dict[str, float] = {}  # while loading, to the copy
        self.correction = 1.0
        self.accelerated = AcceleratedSizes()

    def predict(self, revision: Revision) -> Prediction:
        if revision.memory_bytes is not None:
            return _known(revision.memory_bytes)
        measured = self._by_digest.get(revision.artifact_digest)
        if measured is not None:
            return _known(measured)
        ratio = self._ratio.get(revision.format, FIRST_RATIO)
        size_bytes = BASE_BYTES + round(revision.files_bytes * ratio)
        return Prediction(size_bytes, known=False, least_bytes=revision.files_bytes)

    def peak(self, revision: Revision) -> int:
        """What loading it takes for a while, the copy included. A declared size is taken at its
        word."""
        size_bytes = self.predict(revision).size_bytes
        if revision.memory_bytes is not None:
            return size_bytes
        return round(size_bytes * self._peak_ratio.get(revision.format, 1.0))

    def peaked(self, revision: Revision, size_bytes: int, peak_bytes: int) -> None:
        """Learn from a finished load by how much the process rose meanwhile."""
        if size_bytes < PEAK_FROM_BYTES:
            return
        ratio = min(max(peak_bytes / size_bytes, 1.0), MAX_PEAK_RATIO)
        known = self._peak_ratio.get(revision.format, 1.0)
        weight = GROWING if ratio > known else LEARNING
        self._peak_ratio[revision.format] = known + weight * (ratio - known)

    def too_large(self, revision: Revision, budget_bytes: int) -> str | None:
        """Why such a budget cannot hold it; None when it can, or nobody knows yet."""
        need = self.predict(revision).least_bytes
        if need <= budget_bytes:
            return None
        return (
            f"model {revision.model!r} needs {need:,} bytes of memory and the whole budget is "
            f"{budget_bytes:,} bytes; raise --memory"
        )

    def measured(self, revision: Revision, size_bytes: int) -> int:
        """Learn from a finished load; the size to book for the copy."""
        if revision.memory_bytes is not None:
            return revision.memory_bytes
        self.remember(revision.artifact_digest, size_bytes)
        if revision.files_bytes > 0:
            ratio = max(size_bytes - BASE_BYTES, 0) / revision.files_bytes
            ratio = min(max(ratio, RATIO_LIMITS[0]), RATIO_LIMITS[1])
            known = self._ratio.get(revision.format, ratio)
            self._ratio[revision.format] = known + LEARNING * (ratio - known)
        return size_bytes

    def remember(self, artifact_digest: str, size_bytes: int) -> None:
        self._by_digest[artifact_digest] = size_bytes
        self._by_digest.move_to_end(artifact_digest)
        if len(self._by_digest) > MAX_KNOWN:
            self._by_digest.popitem(last=False)

    def told(self, revision: Revision, size_bytes: int, accelerator_bytes: int) -> None:
        """What a copy took on another instance; 0: nobody knows. What was measured here counts
        more."""
        if accelerator_bytes:
            if not self.accelerated.predict(revision).known:
                self.accelerated.remember(
                    revision.artifact_digest, size_bytes, accelerator_bytes)
        elif size_bytes and not self.predict(revision).known:
            self.remember(revision.artifact_digest, size_bytes)

    def remember_split(
        self, artifact_digest: str, size_bytes: int, accelerator_bytes: int
    ) -> None:
        """What it took, on the processor or, with bytes there, on an accelerator."""
        if accelerator_bytes:
            self.accelerated.remember(artifact_digest, size_bytes, accelerator_bytes)
        else:
            self.remember(artifact_digest, size_bytes)

    def correct(self, booked_bytes: int, grown_bytes: int) -> None:
        """Follow what the process really grew by, so that the sum over copies is true."""
        if booked_bytes < CORRECTION_FROM_BYTES:
            return
        target = grown_bytes / booked_bytes
        target = min(max(target, CORRECTION_LIMITS[0]), CORRECTION_LIMITS[1])
        weight = GROWING if target > self.correction else LEARNING
        self.correction += weight * (target - self.correction)


def _known(size_bytes: int) -> Prediction:
    return Prediction(size_bytes, known=True, least_bytes=size_bytes)
