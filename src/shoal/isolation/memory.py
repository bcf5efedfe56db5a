"""Measures and bounds the memory of a process. Linux only.

What is bounded is what a process can write alone (RLIMIT_DATA, setrlimit(2)): unlike the whole
address space it leaves out mapped files and what is shared.
"""

from __future__ import annotations

import os
import resource
from typing import Final

LEAST_ROOM_BYTES: Final = 512 * 1024**2
"""What a process may at least grow by: threads' stacks and buffers come in large pieces, of which
most is never touched."""

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def bound_memory(pid: int, room_bytes: int) -> int:
    """Let the process grow by so much, or `LEAST_ROOM_BYTES`, and no more; what it may have in all.
    Beyond, allocations fail in it. Raises OSError when it is gone."""
    most = _data_bytes(pid) + max(room_bytes, LEAST_ROOM_BYTES)
    resource.prlimit(pid, resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))
    return most


def _data_bytes(pid: int) -> int:
    """statm(5): `data` is data and stack, in pages."""
    with open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split()[5]) * _PAGE_BYTES
