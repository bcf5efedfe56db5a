"""The command line as processes: signals, pipes and terminals."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest
from tests.canned_server import CannedServer, canned_server, json_of
from tests.canned_views import API, EVENTS, STATUS, view

from shoal.cli.side_by_side import WORTH
from shoal.simulation.planning import Plan, simulate
from shoal.simulation.traces import made_up, zipf


@pytest.fixture
def server() -> Iterator[CannedServer]:
    with canned_server() as server:
        yield server


def test_an_interrupt_ends_with_130_and_a_defect_without_a_traceback() -> None:
    for raised, code in (("KeyboardInterrupt()", 130), ("ZeroDivisionError('oh')", 1)):
        program = (
            "import shoal.cli.target as t, shoal.cli.main as m, sys\n"
            f"def fail(self, *a, **k): raise {raised}\n"
            "t.Target.client = fail\n"
            "sys.argv = ['shoal', 'status']\n"
            "m.run()"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        assert done.returncode == code
        assert "Traceback" not in done.stderr
        assert ("ZeroDivisionError: oh; this is a defect" in done.stderr) == (code == 1)


def test_plans_that_are_played_in_several_processes_give_the_same_figures() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shoal.cli.main", "simulate", "--memory", "400MB", "--json",
         "--zipf", "20,1.0,50,0.09"], capture_output=True, text=True, check=True,
    )
    told = json.loads(done.stdout)
    trace, catalogue = zipf(20, 1.0, 50.0, 324.0, seed=1), made_up(20, seed=1)
    assert len(trace.at) * (1 + len(told["alternatives"])) > WORTH
    for each in (told["result"], told["alternatives"][-1]):
        alone = simulate(trace, catalogue, Plan(1, 400_000_000, each["policy"]))
        assert each == msgspec.to_builtins(alone)


def test_a_reader_that_leaves_early_is_no_error(server: CannedServer) -> None:
    server.answers(
        f"GET {API}/models",
        json_of({"models": [view(f"m{n}") for n in range(20_000)], "total": 20_000, "next": None}),
    )
    with subprocess.Popen(
        [sys.executable, "-m", "shoal.cli.main", "--management", server.url, "models"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"NAME")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(10) == 1


def test_top_ends_quietly_by_an_interrupt(server: CannedServer) -> None:
    server.answers(f"GET {API}/status", json_of(STATUS))
    primary, secondary = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "shoal.cli.main", "--management", server.url, "top",
         "--interval", "0.1"],
        stdout=secondary, stderr=subprocess.PIPE, stdin=secondary,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"}, preexec_fn=_can_be_interrupted,
    ) as process:  # fmt: skip
        os.close(secondary)
        shown = b""
        while shown.count(b"churn") < 2:
            shown += os.read(primary, 65536)
        process.send_signal(signal.SIGINT)
        _drain(primary)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    os.close(primary)


def _can_be_interrupted() -> None:
    """Also where these tests run in the background, whose shell lets interrupts be ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _drain(terminal: int) -> None:
    """Read until the other side is closed, which Linux reports as an error."""
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        pass


def test_events_go_on_with_follow(server: CannedServer) -> None:
    server.answers(
        f"GET {API}/events",
        json_of({"events": EVENTS[:1], "next": 1}),
        json_of({"events": [], "next": 1}),
        json_of({"events": EVENTS[1:2], "next": 2}),
        json_of({"events": [], "next": 2}),
    )
    with subprocess.Popen(
        [sys.executable, "-m", "shoal.cli.main", "--management", server.url, "events",
         "--follow", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_can_be_interrupted,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert [json.loads(process.stdout.readline())["seq"] for _ in range(2)] == [1, 2]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
