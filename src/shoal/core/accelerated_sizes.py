"""How many bytes a copy takes that lies on an accelerator: there, and beside it in host memory.

As in `sizes`: what the same artifact took before, else how its format relates to its files. A
declared `memory_bytes` is taken for the host's part, `accelerator_bytes` for the other.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from shoal.domain.accelerators import PoolBudget
from shoal.domain.model import Revision

MAX_KNOWN: Final = 100_000  # artifacts; accelerators hold few
BASE_BYTES: Final = 256 * 1024  # of the host, around even the smallest model
# To the files, before a format was measured: weights are as large as their file, and something is
# held beside them; of the host, a load passes its files through once.
FIRST_RATIO: Final = 1.1
FIRST_BESIDE_RATIO: Final = 0.25
FIRST_PASSING_RATIO: Final = 1.0
RATIO_LIMITS: Final = (0.0, 50.0)
LEARNING: Final = 0.2  # weight of the newest measurement
GROWING: Final = 0.5  # … when it is more than foreseen: memory must not run out


@dataclass(frozen=True, slots=True)
class Split:
    """size_bytes: in host memory. known: measured or declared, rather than guessed. least_bytes:
    what it takes on the accelerator for certain: measured or declared, else as much as its files.
    """

    size_bytes: int
    accelerator_bytes: int
    known: bool
    least_bytes: int


class AcceleratedSizes:
    def __init__(self) -> None:
        self._by_digest: OrderedDict[str, tuple[int, int]] = OrderedDict()  # host, accelerator
        self._ratio = _Ratios(FIRST_RATIO)
        self._beside = _Ratios(FIRST_BESIDE_RATIO)
        self._passing = _Ratios(FIRST_PASSING_RATIO)

    def predict(self, revision: Revision) -> Split:
        files, form = revision.files_bytes, revision.format
        measured = self._by_digest.get(revision.artifact_digest)
        if measured is not None:
            host, there = measured
            least = there
        else:
            host = BASE_BYTES + round(files * self._beside.of(form))
            there, least = round(files * self._ratio.of(form)), files
        if revision.memory_bytes is not None:
            host = revision.memory_bytes
        if revision.accelerator_bytes is not None:
            there = least = revision.accelerator_bytes
        declared = revision.memory_bytes is not None and revision.accelerator_bytes is not None
        return Split(host, there, known=declared or measured is not None, least_bytes=least)

    def peak(self, revision: Revision) -> int:
        """Host memory that loading it takes for a while, the copy's own included."""
        if revision.memory_bytes is not None:
            return revision.memory_bytes
        passing = round(revision.files_bytes * self._passing.of(revision.format))
        return max(self.predict(revision).size_bytes, passing)

    def peaked(self, revision: Revision, peak_bytes: int) -> None:
        """Learn from a finished load by how much the process rose meanwhile."""
        self._passing.learn(revision, peak_bytes)

    def takes_none(self, revision: Revision) -> bool:
        """Did it turn out to run on the processor all the same?"""
        return self._by_digest.get(revision.artifact_digest, (0, 1))[1] == 0

    def too_large(self, revision: Revision, pool: PoolBudget) -> str | None:
        """Why such a pool cannot hold it; None when it can, or nobody knows yet."""
        need = self.predict(revision).least_bytes
        if need <= pool.budget_bytes:
            return None
        return (
            f"model {revision.model!r} needs {need:,} bytes of the accelerator {pool.name} and its "
            f"whole budget is {pool.budget_bytes:,} bytes; raise --accelerator-memory or "
            "--accelerator-share"
        )

    def too_large_beside(self, revision: Revision, budget_bytes: int) -> str | None:
        """As `too_large`, of the host's memory."""
        split = self.predict(revision)
        if not split.known or split.size_bytes <= budget_bytes:
            return None
        return (
            f"model {revision.model!r} needs {split.size_bytes:,} bytes of memory beside its "
            f"accelerator and the whole budget is {budget_bytes:,} bytes; raise --memory"
        )

    def measured(
        self, revision: Revision, size_bytes: int, accelerator_bytes: int
    ) -> tuple[int, int]:
        """Learn from a finished load; the sizes to book for the copy, the host's first."""
        self.remember(revision.artifact_digest, size_bytes, accelerator_bytes)
        self._beside.learn(revision, max(size_bytes - BASE_BYTES, 0))
        self._ratio.learn(revision, accelerator_bytes)
        booked = self.predict(revision)
        return booked.size_bytes, booked.accelerator_bytes

    def remember(self, artifact_digest: str, size_bytes: int, accelerator_bytes: int) -> None:
        self._by_digest[artifact_digest] = size_bytes, accelerator_bytes
        self._by_digest.move_to_end(artifact_digest)
        if len(self._by_digest) > MAX_KNOWN:
            self._by_digest.popitem(last=False)

    def lacked(self, revision: Revision, accelerator_bytes: int) -> None:
        """A load found too little room there, and would have taken at least so much."""
        foreseen = self.predict(revision)
        if accelerator_bytes > foreseen.accelerator_bytes:
            self.remember(revision.artifact_digest, foreseen.size_bytes, accelerator_bytes)


class _Ratios:
    """Bytes to those of the files, by format."""

    def __init__(self, first: float) -> None:
        self._first = first
        self._known: dict[str, float] = {}

    def of(self, form: str) -> float:
        return self._known.get(form, self._first)

    def learn(self, revision: Revision, size_bytes: int) -> None:
        if revision.files_bytes <= 0:
            return
        least, most = RATIO_LIMITS
        ratio = min(max(size_bytes / revision.files_bytes, least), most)
        known = self._known.get(revision.format, ratio)
        weight = GROWING if ratio > known else LEARNING
        self._known[revision.format] = known + weight * (ratio - known)
