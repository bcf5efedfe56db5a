"""Runs one benchmark by name."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from pathlib import Path

NAMES = sorted(
    path.stem for path in Path(__file__).parent.glob("*.py")
    if not path.stem.startswith("_") and path.stem != "closed_loop"
)


def machine() -> str:
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), platform.machine(),
    )
    return (f"{model}, {len(os.sched_getaffinity(0))} processors, Linux {platform.release()}, "
            f"Python {platform.python_version()}")


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        sys.exit(f"usage: python -m benchmarks NAME [options]; NAME is one of {', '.join(NAMES)}")
    name = sys.argv.pop(1)
    print(f"{name}: {machine()}")
    importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
