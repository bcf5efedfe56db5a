"""How long those wait who have lost the registry, until they try to reach it again."""

from __future__ import annotations

import random

FIRST_S = 0.2
MOST_S = 10.0


def retry_s(failures: int, most_s: float | None = None) -> float:
    """Until the next try after so many in a row, at random: instances that lost the registry
    together must not come back together. most_s: the longest, if not MOST_S."""
    longest = MOST_S if most_s is None else most_s
    return min(FIRST_S * 2.0 ** min(failures, 20), longest) * random.uniform(0.5, 1.0)
