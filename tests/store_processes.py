"""One SQLite registry, and other processes that use it, for tests of what happens between them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import shoal
from shoal.stores.sqlite import SqliteStore

DEADLINE_S = 30.0
SOURCES = Path(shoal.__file__).parents[1]


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


@asynccontextmanager
async def opened(path: Path, busy_timeout_s: float = 5.0) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, SystemClock(), busy_timeout_s=busy_timeout_s)
    try:
        yield store
    finally:
        await store.close()


PRELUDE = """
import asyncio, os, sys, time
from pathlib import Path
from shoal.domain.errors import Conflict, StoreUnavailable
from shoal.ports import Put
from shoal.stores.sqlite import SqliteStore

class Clock:
    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

path = Path(sys.argv[1])
"""


@contextmanager
def process(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs `script`, killed at the end."""
    started = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
    )
    try:
        with started:
            try:
                yield started
            finally:
                started.kill()
    finally:
        started.wait(DEADLINE_S)


def output(script: str, *arguments: object) -> str:
    with process(script, *arguments) as running:
        out, err = running.communicate(timeout=DEADLINE_S)
        assert running.returncode == 0, err
    return out
