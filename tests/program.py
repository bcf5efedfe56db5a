"""Servers that are not ours, each in a process of its own, from their start to their end."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.served import until

END_S = 30.0


@contextmanager
def running(command: Sequence[str], folder: Path, says: re.Pattern[str], within_s: float,
            environ: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address that it prints, the first group of `says`. folder: where it runs, and its output
    is written. environ: beside this process's own."""
    log = folder / "log"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, cwd=folder, env={**os.environ, **(environ or {})})
    try:
        until(lambda: says.search(log.read_text()) or process.poll() is not None,
              f"{command[0]} says where it listens", within_s)
        found = says.search(log.read_text())
        assert found is not None, f"{command[0]} did not start: {log.read_text()}"
        yield found[1]
    finally:
        process.terminate()
        process.wait(END_S)
