"""The supervisor's own process, over workers that do as their folder says and cost nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.served import until

from shoal.dataplane.shares import Shares
from shoal.workers.plan import Plan, write_plan

WORKER = """
import faulthandler, json, os, signal, sys, time
folder, _, channel, number, row, instance = sys.argv[1:7]
def there(name):
    return os.path.exists(os.path.join(folder, name))
def tell(**report):
    os.write(int(channel), json.dumps(report).encode() + b"\\n")
def end(*_):
    tell(state="draining")
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if there("deaf") else end)
with open(os.path.join(folder, instance), "wb") as file:
    file.write(os.read(int(channel), 65536))
os.rename(file.name, os.path.join(folder, "whole", instance))
if there("wrong"):
    tell(state="failed", message="setting x: wrong")
    sys.exit(5)
if there("dies"):
    sys.exit(3)
if there("large"):
    held = bytearray(8 << 20)
if there("hangs"):
    faulthandler.enable()
    tell(state="alive")
tell(state="ready", models=2, formats="onnx")
if there("leaks"):
    os.unlink(os.path.join(folder, "leaks"))
    tell(state="leaking", message="it leaks a lot")
while True:
    time.sleep(60)
"""
RUN = """
import sys
from shoal.workers.plan import read_plan
from shoal.workers.supervisor import supervise
fd = int(sys.argv[1])
sys.exit(supervise(read_plan(fd), fd, tuple(sys.argv[2:])))
"""


class Supervised:
    """folder: files there tell workers that start what to do. heard: what each of them was told."""

    def __init__(self, base: Path, workers: int, **changed: object) -> None:
        self.folder, self.run_dir = base / "do", base / "run"
        self.run_dir.mkdir()
        self.heard = self.folder / "whole"
        self.heard.mkdir(parents=True)
        self._log = base / "log"
        given: dict[str, object] = {
            "workers": workers, "name": "test", "folders": [], "given": {}, "sources": {},
            "budget_bytes": 10, "http": [], "grpc": [], "management": [],
            "http_address": "h:1", "grpc_address": "h:2", "management_address": "h:3",
            "shares": Shares.create(2 * workers), "run_dir": str(self.run_dir),
            "log_level": "debug", "log_format": "json", "shutdown_timeout_s": 30.0,
            "max_age_s": 0.0, "max_growth": 0, "hang_timeout_s": 0.0,
        }
        plan = Plan(**{**given, **changed})  # type: ignore[arg-type]
        self._plan, self._descriptors = plan, [write_plan(plan), plan.shares]

    def start(self) -> None:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RUN, str(self._descriptors[0]),
                 sys.executable, "-I", "-S", "-c", WORKER, str(self.folder)],
                pass_fds=self._descriptors, stderr=log,
            )
        for fd in self._descriptors:
            os.close(fd)

    def do(self, what: str) -> None:
        (self.folder / what).touch()

    def lines(self) -> list[dict[str, object]]:
        lines = self._log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def told(self, event: str) -> list[dict[str, object]]:
        return [line for line in self.lines() if line["event"] == event]

    def wait_for(self, event: str, times: int = 1) -> None:
        until(lambda: len(self.told(event)) >= times, event)

    @property
    def started(self) -> int:
        return len(list(self.heard.iterdir()))

    def told_before(self) -> list[dict[str, Any]]:
        """What workers heard of those who had their places, the latest first."""
        files = sorted(self.heard.iterdir(), key=lambda each: -each.stat().st_mtime_ns)
        return [json.loads(each.read_bytes()) for each in files]

    def pids(self) -> list[int]:
        return sorted(each.pid for each in psutil.Process(self.process.pid).children())

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    made: list[Supervised] = []

    def make(workers: int = 2, *do: str, **changed: object) -> Supervised:
        each = Supervised(tmp_path, workers, **changed)
        made.append(each)
        for what in do:
            each.do(what)
        each.start()
        return each

    yield make
    for each in made:
        if each.process.poll() is None:
            for pid in each.pids():
                os.kill(pid, signal.SIGKILL)
            each.process.kill()
            each.process.wait(30)


def test_it_serves_once_every_worker_is_ready(supervise: Callable[..., Supervised]) -> None:
    running = supervise(3)
    running.wait_for("serving")
    [line] = running.told("serving")
    assert (line["workers"], line["models"], line["formats"]) == (3, 2, "onnx")
    assert (line["http"], line["grpc"], line["management"]) == ("http://h:1", "h:2", "http://h:3")
    assert line["budget_bytes"] == 30
    names = {each.name for each in running.heard.iterdir()}
    assert {name.rpartition("-")[2] for name in names} == {"w1", "w2", "w3"}


def test_it_ends_with_all_workers(supervise: Callable[..., Supervised]) -> None:
    running = supervise()
    running.wait_for("serving")
    pids = running.pids()
    assert running.end() == 0
    assert not any(map(psutil.pid_exists, pids))
    assert not running.run_dir.exists()


def test_a_dead_worker_is_started_again_at_once_and_then_later(
    supervise: Callable[..., Supervised]
) -> None:
    running = supervise()
    running.wait_for("serving")
    dead = "worker ended and is started again"
    for times in (1, 2):
        os.kill(running.pids()[-1], signal.SIGKILL)
        running.wait_for(dead, times)
        until(lambda times=times: running.started == 2 + times, "another start")  # type: ignore[misc]
    first, second = running.told(dead)
    assert first["in_s"] == 0
    assert first["how"] == "was killed by SIGKILL: probably for want of memory"
    assert second["in_s"] == (0.5 if second["worker"] == first["worker"] else 0)
    assert len(running.told("serving")) == 1


def test_what_is_wrong_is_said_once_and_ends_it(supervise: Callable[..., Supervised]) -> None:
    running = supervise(3, "wrong")
    assert running.process.wait(30) == 5
    assert running._log.read_text().count("setting x: wrong") == 1
    assert "error: setting x: wrong\n" in running._log.read_text()


def test_later_the_same_fault_does_not_end_it(supervise: Callable[..., Supervised]) -> None:
    running = supervise()
    running.wait_for("serving")
    running.do("wrong")
    os.kill(running.pids()[0], signal.SIGKILL)
    running.wait_for("worker ended and is started again", 2)
    assert running.told("worker ended and is started again")[1]["error"] == "setting x: wrong"
    (running.folder / "wrong").unlink()
    until(lambda: len(running.pids()) == 2, "both run again")
    assert running.process.poll() is None


def test_hangup_replaces_all_one_after_another(supervise: Callable[..., Supervised]) -> None:
    running = supervise()
    running.wait_for("serving")
    before = running.pids()
    running.process.send_signal(signal.SIGHUP)
    running.wait_for("all workers are replaced")
    until(lambda: len(running.told("replaced worker ended")) == 2, "the old ones ended")
    assert not set(before) & set(running.pids())
    assert running.started == 4


def test_a_successor_that_cannot_start_changes_nothing(
    supervise: Callable[..., Supervised]
) -> None:
    running = supervise()
    running.wait_for("serving")
    before = running.pids()
    running.do("dies")
    running.process.send_signal(signal.SIGHUP)
    running.wait_for("the successor of a worker could not start")
    assert running.pids() == before
    assert running.started == 3


def test_workers_are_replaced_when_they_are_old(supervise: Callable[..., Supervised]) -> None:
    running = supervise(1, max_age_s=0.5)
    running.wait_for("serving")
    before = running.pids()
    running.wait_for("replaced worker ended")
    until(lambda: not set(before) & set(running.pids()), "all are others")


def test_who_does_not_end_is_killed(supervise: Callable[..., Supervised]) -> None:
    running = supervise(2, "deaf", shutdown_timeout_s=-4.9)
    running.wait_for("serving")
    assert running.end() == 1
    assert len(running.told("worker does not end and is killed")) == 2


HANGS = "worker hangs and is ended; the stacks of its threads follow, if it can write them"


def test_who_hangs_tells_where_and_is_started_again(supervise: Callable[..., Supervised]) -> None:
    running = supervise(1, "hangs", hang_timeout_s=0.4)
    running.wait_for("worker ended and is started again")
    (running.folder / "hangs").unlink()
    assert "Fatal Python error: Aborted" in running._log.read_text()
    assert "most recent call first" in running._log.read_text()
    hung, ended = running.told(HANGS)[0], running.told("worker ended and is started again")[0]
    assert (ended["pid"], ended["how"]) == (hung["pid"], "hung and was ended")
    until(lambda: running.started > 1, "another one")


def test_who_is_stopped_does_not_count_as_hanging(supervise: Callable[..., Supervised]) -> None:
    running = supervise(2, "hangs", hang_timeout_s=3)
    running.wait_for("serving")
    stopped, other = running.pids()
    os.kill(stopped, signal.SIGSTOP)
    running.wait_for("worker ended and is started again")
    [ended] = running.told("worker ended and is started again")
    assert ended["pid"] == other
    assert stopped in running.pids()
    os.kill(stopped, signal.SIGCONT)


def test_a_worker_for_which_there_is_no_process_is_started_later(
    supervise: Callable[..., Supervised]
) -> None:
    running = supervise()
    running.wait_for("serving")
    limits = psutil.Process(running.process.pid).rlimit(psutil.RLIMIT_NOFILE)
    psutil.Process(running.process.pid).rlimit(psutil.RLIMIT_NOFILE, (3, limits[1]))
    os.kill(running.pids()[0], signal.SIGKILL)
    running.wait_for("worker cannot be started")
    psutil.Process(running.process.pid).rlimit(psutil.RLIMIT_NOFILE, limits)
    until(lambda: len(running.pids()) == 2, "both run again")
    assert running.process.poll() is None


def test_a_kill_long_ago_does_not_make_the_end_a_failure(
    supervise: Callable[..., Supervised]
) -> None:
    running = supervise(1, "deaf", shutdown_timeout_s=-4.0)
    running.wait_for("serving")
    (running.folder / "deaf").unlink()
    running.process.send_signal(signal.SIGHUP)
    running.wait_for("all workers are replaced")
    assert len(running.told("worker does not end and is killed")) == 1
    assert running.end() == 0


def test_a_worker_that_leaks_is_replaced_and_its_successor_is_told(
    supervise: Callable[..., Supervised]
) -> None:
    running = supervise(1, "leaks")
    running.wait_for("replaced worker ended")
    [line] = running.told("replacing a worker")
    assert (line["reason"], line["why"]) == ("leak", "it leaks a lot")
    leaking = line["pid"]
    told, first = running.told_before()
    assert first == {}
    assert told == {
        "why": f"process {leaking}, which was worker 1, is replaced: it leaks a lot",
        "starts": {"leak": 1},
    }
    assert leaking not in running.pids()
    assert len(running.told("replacing a worker")) == 1


def test_successors_are_told_how_workers_died(supervise: Callable[..., Supervised]) -> None:
    running = supervise(1)
    running.wait_for("serving")
    pids = []
    for times in (1, 2):
        pids += running.pids()
        os.kill(pids[-1], signal.SIGKILL)
        until(lambda times=times: running.started == 1 + times, "another start")  # type: ignore[misc]
    until(lambda: len(running.told_before()) == 3 and running.told_before()[0], "it was told")
    how = "was killed by SIGKILL: probably for want of memory"
    told = running.told_before()[0]
    assert told["starts"] == {"died": 2}
    assert told["ends"] == {str(pid): how for pid in pids}
    assert told["why"] == f"process {pids[1]}, which was worker 1, {how}"
