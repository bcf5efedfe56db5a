"""What NVIDIA's driver tells of its devices, by the numbers that frameworks give them.

Asks the driver's own library, so that no framework is imported to know what there is; it leaves out
what CUDA_VISIBLE_DEVICES hides. Where there is no driver nothing is opened. Knows no framework.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

KIND: Final = "cuda"
# Of the driver on Linux, in its containers and on Windows' subsystem for Linux.
_SIGNS: Final = (Path("/dev/nvidiactl"), Path("/proc/driver/nvidia/version"), Path("/dev/dxg"))
_LIBRARY: Final = "libcuda.so.1"


@dataclass(frozen=True, slots=True)
class Device:
    """name: as frameworks call it, `cuda:0`. total_bytes: of its memory."""

    name: str
    total_bytes: int


def devices(signs: Sequence[Path] = _SIGNS) -> tuple[Device, ...]:
    """Those that this process may use; none where there is no driver, or it does not work."""
    if not any(sign.exists() for sign in signs):
        return ()
    driver = _driver()
    count = ctypes.c_int()
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    found = []
    for number in range(count.value):
        handle, total = ctypes.c_int(), ctypes.c_size_t()
        if driver.cuDeviceGet(ctypes.byref(handle), number):
            continue
        if not driver.cuDeviceTotalMem_v2(ctypes.byref(total), handle):
            found.append(Device(f"{KIND}:{number}", total.value))
    return tuple(found)


def used_bytes(device: str) -> int | None:
    """What is taken of its memory, by whomever; None: the driver does not tell. Only for a device
    that a framework uses already: asking takes what every process takes that uses it."""
    driver = _driver()
    handle, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    if driver is None or driver.cuDeviceGet(ctypes.byref(handle), number_of(device)):
        return None
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle):
        return None
    try:
        if driver.cuCtxPushCurrent_v2(context):
            return None
        failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(handle)
    return None if failed else total.value - free.value


def number_of(device: str) -> int:
    """Of `cuda:1` it is 1."""
    return int(device.rpartition(":")[2])


@cache
def _driver() -> ctypes.CDLL | None:
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    return None if driver.cuInit(0) else driver
