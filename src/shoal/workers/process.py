"""One worker's process as its supervisor sees it: started, heard, ended. Decides nothing."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from shoal.observability.processes import ending, resident_bytes
from shoal.workers.plan import Before, Plan, Report

_READ_BYTES: Final = 64 * 1024

# Without the folder it is started in, where anything may lie that is called like a module.
COMMAND: Final = (sys.executable, "-P", "-m", "shoal.cli.worker")


@dataclass(frozen=True, slots=True)
class Start:
    """number: from 1, of the place among the workers. row: of the table of shares, its own.
    before: who had the place. command: what to run; it gets the rest as arguments."""

    plan: Plan
    plan_fd: int
    number: int
    row: int
    instance_id: str
    before: Before
    command: tuple[str, ...] = COMMAND


class WorkerProcess:
    """Runs from its making on. started_at: by the loop's clock. ready_bytes: the memory it had when
    it was ready. failure: why it could not start, in its own words. hangs: it was found not to do
    its work, and is being ended.

    on_report: called with each report.
    """

    def __init__(self, start: Start, on_report: Callable[[WorkerProcess, Report], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_report = on_report
        self._unread = b""
        self.number: Final = start.number
        self.row: Final = start.row
        self.started_at = self._loop.time()
        self.is_ready = False
        self.ready_bytes = 0
        self.failure: str | None = None
        self.hangs = False
        self._silent_s: float | None = None  # None: it has not begun to say that it is alive
        self.settled: Final = asyncio.Event()
        """It is ready, or it has ended."""
        self.ended: Final = asyncio.Event()
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._channel.send(msgspec.json.encode(start.before) + b"\n")
            self._process = subprocess.Popen(
                [
                    *start.command, str(start.plan_fd), str(theirs.fileno()), str(start.number),
                    str(start.row), start.instance_id,
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=(start.plan_fd, theirs.fileno(), *start.plan.descriptors),
                process_group=0,  # what a terminal sends is for the supervisor to pass on
            )
        self._channel.setblocking(False)
        self._loop.add_reader(self._channel.fileno(), self._hear)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int:
        """As `subprocess` counts it: what it exited with, or minus the signal that killed it."""
        assert self._process.returncode is not None, "it runs"
        return self._process.returncode

    @property
    def how(self) -> str:
        """How it ended."""
        return "hung and was ended" if self.hangs else in_words(self.status)

    @property
    def age_s(self) -> float:
        return self._loop.time() - self.started_at

    @property
    def grown_bytes(self) -> int:
        """By how much it holds more memory than when it was ready; 0 before."""
        if not self.is_ready:
            return 0
        return resident_bytes(self.pid) - self.ready_bytes

    def count_silence(self, seconds: float) -> float:
        """Nothing was heard of it for `seconds` more, unless it was; for how long in all. Silence
        begins with the first sign of life, and anew when somebody had stopped it."""
        if self._silent_s is not None:
            self._silent_s = 0.0 if is_stopped(self.pid) else self._silent_s + seconds
        return self._silent_s or 0.0

    def reap(self) -> bool:
        """Has it ended, and was that not known yet?"""
        if self.ended.is_set() or self._process.poll() is None:
            return False
        self._hear()
        self._loop.remove_reader(self._channel.fileno())
        self._channel.close()
        self.ended.set()
        self.settled.set()
        return True

    def send(self, number: signal.Signals) -> None:
        if not self.ended.is_set():
            self._process.send_signal(number)

    def _hear(self) -> None:
        try:
            while data := self._channel.recv(_READ_BYTES):
                self._unread += data
        except BlockingIOError:
            pass
        except OSError:  # its end is closed; that it ended is told by the system
            self._loop.remove_reader(self._channel.fileno())
        else:
            self._loop.remove_reader(self._channel.fileno())
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            self._take(msgspec.json.decode(line, type=Report))

    def _take(self, report: Report) -> None:
        if report.state == "alive":
            self._silent_s = 0.0
        elif report.state == "ready":
            self.is_ready = True
            self.ready_bytes = resident_bytes(self.pid)
            self.settled.set()
        elif report.state == "failed":
            self.failure = report.message
        self._on_report(self, report)


def is_stopped(pid: int) -> bool:
    """By a signal or a debugger."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in (b"T", b"t")
    except OSError:
        return False


def in_words(status: int) -> str:
    """How a process ended. status: as `WorkerProcess.status`."""
    said = ending(status)
    return f"{said}: probably for want of memory" if -status == signal.SIGKILL else said
