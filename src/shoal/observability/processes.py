"""What the system says of another process: the memory that it takes, and how it ended.

Knows nothing of what the process is for.
"""

from __future__ import annotations

import os
import signal
from typing import Final

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int) -> int:
    """Memory of a process that lies in RAM; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def tree_bytes(pid: int) -> int:
    """As `resident_bytes`, of a process and all that it started and that still runs. What several
    of them share counts once for each."""
    found, waiting = 0, [pid]
    while waiting:
        each = waiting.pop()
        found += resident_bytes(each)
        waiting += _children(each)
    return found


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                children += map(int, file.read().split())
    except OSError:  # it, or a thread of it, has ended meanwhile
        pass
    return children


def ending(status: int) -> str:
    """How a process ended, in words. status: as `subprocess` counts it: a signal is below 0."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}"
