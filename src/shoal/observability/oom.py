"""How often the kernel killed a process of this control group for want of memory.

Knows nothing of who was killed: the kernel only counts (cgroup-v2: `memory.events`; cgroup-v1:
`memory.oom_control`, since Linux 4.13).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_CGROUP: Final = Path("/sys/fs/cgroup")
_OWN: Final = Path("/proc/self/cgroup")


def oom_kills(cgroup: Path = _CGROUP, own: Path = _OWN) -> int | None:
    """Since the control group was made, those in groups below it included; None: nobody tells."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            files = [cgroup / path.lstrip("/") / "memory.events", cgroup / "memory.events"]
        elif "memory" in controllers.split(","):
            root = cgroup / "memory"
            files = [root / path.lstrip("/") / "memory.oom_control", root / "memory.oom_control"]
        else:
            continue
        for file in files:  # in a container its own group may be mounted as the root
            if (count := _count(file)) is not None:
                return count
    return None


def killed_since(before: int | None) -> bool:
    """Did the kernel kill any since `oom_kills` was `before`?"""
    now = oom_kills()
    return now is not None and before is not None and now > before


def _count(file: Path) -> int | None:
    try:
        for line in file.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    except (OSError, ValueError):
        pass
    return None
