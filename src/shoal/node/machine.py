"""What this process may use of the machine, and what it uses: memory and processors.

Limits of control groups count: in a container the machine's figures mean nothing. Linux only; where
a file of the kernel is missing, the next wider limit holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

_CGROUP: Final = Path("/sys/fs/cgroup")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

_M_MMAP_THRESHOLD: Final = -3  # numbers of malloc.h
_M_ARENA_MAX: Final = -8
_MAPPED_FROM_BYTES: Final = 128 * 1024  # glibc's own first value; setting it keeps it there
_ARENAS: Final = 2

# struct sched_attr and its call; glibc has no function for it before 2.41.
_SCHED_ATTR: Final = struct.Struct("<IIQiIQQQII")
_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274, "riscv64": 274}
_RESET_ON_FORK: Final = 1


def usable_memory_bytes(cgroup: Path = _CGROUP, own: Path = Path("/proc/self/cgroup")) -> int:
    """The smallest of the machine's memory and the limits of this process's control groups."""
    limits: list[int] = [psutil.virtual_memory().total]
    limits += _limits(cgroup, own, "memory.max")  # version 2
    limits += _limits(cgroup / "memory", own, "memory.limit_in_bytes")  # version 1
    return min(limits)


def usable_cpus(cgroup: Path = _CGROUP, own: Path = Path("/proc/self/cgroup")) -> int:
    """Processors this process may run on, the control group's quota included; at least one."""
    cpus = len(os.sched_getaffinity(0))
    for folder in _folders(cgroup, own):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (folder / "cpu.max").read_text().split()
            cpus = min(cpus, max(math.floor(int(quota) / int(period)), 1))
    return cpus


class ProcessorShare:
    """How much of the processors that it may use this process used, since the last time."""

    def __init__(self) -> None:
        self._at, self._used_s = time.monotonic(), time.process_time()

    def since_last(self) -> float:
        at, used_s = time.monotonic(), time.process_time()
        span_s, busy_s = at - self._at, used_s - self._used_s
        self._at, self._used_s = at, used_s
        return busy_s / span_s / usable_cpus() if span_s > 0 else 0.0


def resident_bytes() -> int:
    """Memory of this process that lies in RAM."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES


def reset_peak() -> bool:
    """From now on `peak_bytes` is the most that this process holds (proc(5): clear_refs). Did the
    kernel agree?"""
    try:
        with open("/proc/self/clear_refs", "wb", buffering=0) as file:
            file.write(b"5")
    except OSError:
        return False
    return True


def peak_bytes() -> int:
    """The most memory that this process held in RAM, ever or since `reset_peak`."""
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    return resident_bytes()


class _Mallinfo(ctypes.Structure):
    """glibc's `struct mallinfo2` (mallinfo(3)); the sums are over all arenas."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks",
                     "uordblks", "fordblks", "keepcost")
    )


def _find_mallinfo() -> Callable[[], _Mallinfo] | None:
    try:
        function = ctypes.CDLL("libc.so.6").mallinfo2
    except (OSError, AttributeError):  # another C library, or glibc before 2.33
        return None
    function.restype = _Mallinfo
    found: Callable[[], _Mallinfo] = function
    return found


_mallinfo = _find_mallinfo()
_BLOCK_BYTES: Final = 64  # a usual Python object; they have memory of their own beside malloc's


def allocated_bytes() -> int:
    """Memory that is in use inside this process, as its allocators count it: unlike
    `resident_bytes` it grows when freed memory is used again. Without glibc's word, the latter."""
    if _mallinfo is None:
        return resident_bytes()
    info = _mallinfo()
    return int(info.uordblks + info.hblkhd) + sys.getallocatedblocks() * _BLOCK_BYTES


def tune_allocator() -> None:
    """Make glibc give memory back when models leave: to be called before the first is loaded.

    By default the limit above which an allocation is mapped alone, and so returned when it is
    freed, grows with what was freed (mallopt(3), M_MMAP_THRESHOLD), and each thread fragments an
    arena of its own. With other C libraries nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES)
        mallopt(_M_ARENA_MAX, _ARENAS)


def run_soon_after_waking(slice_s: float) -> bool:
    """Ask the kernel to run this thread in slices of `slice_s` seconds, so that it soon has its
    turn beside threads that compute; threads that it starts are as usual. Did the kernel agree? It
    knows this since Linux 6.12 (sched_setattr(2): `sched_runtime` of SCHED_OTHER).
    """
    number = _SCHED_SETATTR.get(platform.machine())
    policy = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
    if number is None or policy != os.SCHED_OTHER:
        return False
    slice_ns = round(slice_s * 1e9)
    attributes = _SCHED_ATTR.pack(
        _SCHED_ATTR.size, os.SCHED_OTHER, _RESET_ON_FORK, os.nice(0), 0, slice_ns, 0, 0, 0, 0
    )
    with contextlib.suppress(OSError, AttributeError):
        return bool(ctypes.CDLL(None).syscall(number, 0, attributes, 0) == 0)
    return False


def be_nice(niceness: int) -> None:
    """Leave this thread so much less of the processors than others of this process have (nice(2),
    which counts by threads on Linux)."""
    with contextlib.suppress(OSError):
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + niceness)


def trim_heap() -> None:
    """Ask the C library to give freed memory back to the system; elsewhere than on glibc nothing
    happens."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _limits(root: Path, own: Path, name: str) -> list[int]:
    found = []
    for folder in _folders(root, own):
        # "max" and absent files mean: no limit here.
        with contextlib.suppress(OSError, ValueError):
            found.append(int((folder / name).read_text()))
    return [limit for limit in found if limit > 0]


def _folders(root: Path, own: Path) -> list[Path]:
    """This process's control group and those above it, in every hierarchy."""
    folders = [root]
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            parts = Path(line.split(":", 2)[-1].lstrip("/")).parts
            folders += [root.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    return folders
