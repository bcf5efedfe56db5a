"""Servers in processes of their own, on the first processor: started, found, ended.

Knows no protocol and no load.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.machine import server_processors

START_S = 60.0
END_S = 20.0


class Running(NamedTuple):
    """A `shoal serve` and where it listens."""

    pid: int
    http_port: int
    grpc_port: int
    management_port: int


@contextmanager
def servers(module: str, kinds: Sequence[str]) -> Iterator[dict[str, tuple[int, int]]]:
    """Processes `python -m <module> --serve KIND` that `announce` their port; yields process id and
    port by kind."""
    found = {}
    children = []
    try:
        for kind in kinds:
            child = subprocess.Popen(
                [sys.executable, "-m", module, "--serve", kind], stdout=subprocess.PIPE,
                preexec_fn=_pinning(server_processors()),
            )
            children.append(child)
            assert child.stdout is not None
            line = child.stdout.readline()
            if not line:
                raise RuntimeError(f"{module} --serve {kind} does not start")
            found[kind] = (child.pid, int(line))
        yield found
    finally:
        for child in children:
            end(child)


def announce(port: int) -> None:
    """Tell the parent where this server listens."""
    print(port, flush=True)


@contextmanager
def shoal(
    *folders: Path, flags: Sequence[str] = (), processors: Collection[int] | None = None
) -> Iterator[Running]:
    """`shoal serve` as users start it, on free ports, with a registry that is forgotten."""
    with tempfile.TemporaryDirectory() as data_dir:
        command = [
            str(Path(sys.executable).with_name("shoal")), "serve", *map(str, folders),
            "--http-port", "0", "--grpc-port", "0", "--management-port", "0",
            "--data-dir", data_dir, "--registry-url", "memory", "--folder-settle-s", "0",
            "--log-format", "json", *flags,
        ]
        log = Path(data_dir) / "log"
        with running(command, log, processors=processors) as child:
            serving: dict[str, str] = {}

            def is_serving() -> bool:
                for line in log.read_text().splitlines():
                    if '"serving"' in line:
                        serving.update(json.loads(line))
                return bool(serving)

            wait(is_serving, child, log)
            ports = (int(serving[name].rpartition(":")[2]) if serving.get(name) else 0
                     for name in ("http", "grpc", "management"))
            yield Running(child.pid, *ports)


@contextmanager
def running(
    command: Sequence[str], log: Path, *, processors: Collection[int] | None = None,
    folder: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """`command` with all that it prints in `log`; it and its children are ended at the end.

    processors: None for the server's.
    """
    with log.open("wb") as out:
        child = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, cwd=folder,
            preexec_fn=_pinning(server_processors() if processors is None else processors),
        )
    try:
        yield child
    finally:
        end(child)


def wait(
    true: Callable[[], bool], child: subprocess.Popen[bytes], log: Path, within_s: float = START_S
) -> None:
    """Until `true()`. Raises RuntimeError with the log's end when `child` ends or time runs out."""
    deadline = time.monotonic() + within_s
    while not true():
        if child.poll() is not None or time.monotonic() > deadline:
            end_of_log = " | ".join(log.read_text(errors="replace").splitlines()[-5:])[-500:]
            what = f"not within {within_s:g} s" if child.poll() is None else "it ended instead"
            raise RuntimeError(f"does not start, {what}: {end_of_log}")
        time.sleep(0.05)


def end(child: subprocess.Popen[bytes]) -> None:
    """End it and what it started, kindly at first."""
    family = _descendants(child.pid)
    child.terminate()
    try:
        child.wait(END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    if child.stdout is not None:
        child.stdout.close()
    for process in family:
        with suppress(psutil.NoSuchProcess):  # which also knows when its number is another's
            process.kill()


def processor_s(pid: int) -> float:
    """Seconds of processor time that a process and its descendants used."""
    total = 0.0
    for each in (pid, *(process.pid for process in _descendants(pid))):
        with suppress(OSError):  # it has ended
            # clock_getcpuclockid(3), which Python has for threads only; /proc counts in 10 ms.
            total += time.clock_gettime(~each << 3 | 2)
    return total


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found


def _pinning(processors: Collection[int]) -> Callable[[], None]:
    return lambda: os.sched_setaffinity(0, processors)
