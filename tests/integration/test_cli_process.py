"""The command line as processes: signals, pipes and terminals."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.canned_server import CannedServer, canned_server, json_of
from tests.canned_views import API, EVENTS, STATUS, view


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
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
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
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert [json.loads(process.stdout.readline())["seq"] for _ in range(2)] == [1, 2]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
