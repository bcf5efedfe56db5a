"""How long loads take, how large copies turn out, and which loads fail.

Must not know who loads, beyond its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final, TypeAlias

from shoal.domain.model import Revision

FULL_SHARE: Final = 0.5  # of the failing loads onto accelerators, that find no memory there


@dataclass(frozen=True, slots=True)
class Loading:
    """How a load will end: after seconds, with a copy of so many bytes (and so many on its
    accelerator), or for a reason."""

    seconds: float
    size_bytes: int = 0
    accelerator_bytes: int = 0
    problem: str = ""
    code: str = "LOAD_FAILED"


# Seconds, bytes of the host, bytes of the accelerator; told whether it lies on one.
LoadTimes: TypeAlias = Callable[[Revision, bool], tuple[float, int, int]]


@dataclass(slots=True)
class Loader:
    """ideal: what a load takes when all is well. broken: revisions that never load. failing: share
    of the loads that fail for now, by instance; `""` stands for all."""

    chance: Random
    ideal: LoadTimes
    broken: dict[str, None] = field(default_factory=dict)
    failing: dict[str, float] = field(default_factory=dict)

    def load(self, instance: str, revision: Revision, device: str | None = None) -> Loading:
        seconds, size_bytes, accelerator_bytes = self.ideal(revision, device is not None)
        if revision.id in self.broken:
            return Loading(seconds, problem="the file is damaged")
        share = max(self.failing.get(instance, 0.0), self.failing.get("", 0.0))
        if share and self.chance.random() < share:
            if device is not None and self.chance.random() < FULL_SHARE:
                return Loading(seconds * self.chance.random(), problem=f"{device} has no memory",
                               code="ACCELERATOR_FULL", accelerator_bytes=accelerator_bytes)
            return Loading(seconds * self.chance.random(), problem="storage does not answer")
        return Loading(seconds, size_bytes, accelerator_bytes)
