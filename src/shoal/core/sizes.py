"""How many bytes a copy will take: what its artifact took before, else what its format is like.

Never what somebody typed, unless they asked for it (`memory_bytes` of a registration).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from shoal.domain.model import Revision

MAX_KNOWN: Final = 1_000_000
BASE_BYTES: Final = 32 * 1024  # the objects around even the smallest model
FIRST_RATIO: Final = 2.0  # memory to files, before a format was measured
RATIO_LIMITS: Final = (0.25, 50.0)
LEARNING: Final = 0.2  # weight of the newest measurement
GROWING: Final = 0.5  # … when copies turn out larger than booked: memory must not run out
CORRECTION_LIMITS: Final = (0.5, 2.0)
CORRECTION_FROM_BYTES: Final = 64 * 1024**2  # below, allocators' noise is larger than the models


@dataclass(frozen=True, slots=True)
class Prediction:
    """`known`: measured or declared, rather than guessed from the format."""

    size_bytes: int
    known: bool


class Sizes:
    def __init__(self) -> None:
        self._by_digest: OrderedDict[str, int] = OrderedDict()
        self._ratio: dict[str, float] = {}
        self.correction = 1.0

    def predict(self, revision: Revision) -> Prediction:
        if revision.memory_bytes is not None:
            return Prediction(revision.memory_bytes, known=True)
        measured = self._by_digest.get(revision.artifact_digest)
        if measured is not None:
            return Prediction(measured, known=True)
        ratio = self._ratio.get(revision.format, FIRST_RATIO)
        return Prediction(BASE_BYTES + round(revision.files_bytes * ratio), known=False)

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

    def correct(self, booked_bytes: int, grown_bytes: int) -> None:
        """Follow what the process really grew by, so that the sum over copies is true."""
        if booked_bytes < CORRECTION_FROM_BYTES:
            return
        target = grown_bytes / booked_bytes
        target = min(max(target, CORRECTION_LIMITS[0]), CORRECTION_LIMITS[1])
        weight = GROWING if target > self.correction else LEARNING
        self.correction += weight * (target - self.correction)
