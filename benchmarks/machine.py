"""Says which machine and which versions figures were taken with, and shares out its processors.

Knows no benchmark.
"""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import psutil

_PACKAGES = ("shoal", "numpy", "onnxruntime", "uvloop", "grpcio")
_PROCESSORS = sorted(os.sched_getaffinity(0))  # before any are given up


def describe() -> str:
    """Processors, memory, kernel, Python, packages, and how busy the machine is with others."""
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), platform.machine(),
    )
    memory_gib = psutil.virtual_memory().total / 2**30
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    return (
        f"{processors()} x {model}, {memory_gib:.0f} GiB, Linux {platform.release()}, "
        f"load {os.getloadavg()[0]:.1f}\n"
        f"{platform.python_implementation()} {platform.python_version()}, {versions}"
    )


def processors() -> int:
    """Those that this process may use."""
    return len(_PROCESSORS)


def server_processors(count: int = 1) -> set[int]:
    """The first ones: the load generator is on the last."""
    return set(_PROCESSORS[:count])


def pin_client() -> None:
    """The load generator on the last processor, servers on the first (see `processes`)."""
    os.sched_setaffinity(0, _PROCESSORS[-1:])


def waited_s() -> float:
    """Seconds that this process could have run and others had its processor."""
    return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "-"
