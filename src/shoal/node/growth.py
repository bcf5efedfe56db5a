"""By how much the process grows while something is done: at its end, and at most meanwhile.

Counts what all threads do. Knows no models.
"""

from __future__ import annotations

from dataclasses import dataclass

from shoal.node.machine import allocated_bytes, peak_bytes, reset_peak, resident_bytes


@dataclass(frozen=True, slots=True)
class Growth:
    """allocated_bytes: in use by the process's own count; resident_bytes: lying in RAM; peak_bytes:
    the most that lay there, None where the kernel does not tell. Nothing below 0."""

    allocated_bytes: int
    resident_bytes: int
    peak_bytes: int | None


class Growing:
    """From now on."""

    def __init__(self) -> None:
        self._peak_is_ours = reset_peak()
        self._allocated, self._resident = allocated_bytes(), resident_bytes()

    def until_now(self) -> Growth:
        return Growth(
            max(allocated_bytes() - self._allocated, 0),
            max(resident_bytes() - self._resident, 0),
            max(peak_bytes() - self._resident, 0) if self._peak_is_ours else None,
        )
