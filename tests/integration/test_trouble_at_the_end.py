"""SIGTERM while things go on: what has begun is finished, and nothing keeps the process alive."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from tests.served import Served, until
from tests.trouble import (
    ANSWER,
    HELD,
    HELD_LOAD,
    REQUEST,
    Asked,
    Gate,
    answer,
    put,
    refusal,
    said,
    source,
    waiting,
)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.open()


def connects(server: Served) -> bool:
    host, port = server.url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_running_and_waiting_requests_are_finished(
    serve: Callable[..., Served], tmp_path: Path, gate: Gate
) -> None:
    put(tmp_path / "models", "runs", source(HELD, gate=gate))
    slow = Gate(tmp_path / "slow")
    put(tmp_path / "models", "loads", source(HELD_LOAD, gate=slow))
    server = serve(tmp_path / "models", "--cache-fill", "none")
    running, queued = Asked(server, "runs"), Asked(server, "runs")
    gate.wait_for(1)
    waits = Asked(server, "loads")
    until(lambda: waiting(server) == 1, "a request waits for a load")
    server.process.send_signal(signal.SIGTERM)
    until(lambda: not connects(server), "no new connection is taken")
    assert not running.done
    assert not waits.done
    assert server.process.poll() is None
    gate.open()
    slow.open()
    assert [running.status, queued.status, waits.status] == [200, 200, 200]
    assert server.stop() == 0
    assert server.find("ended") is not None
    assert not server.other_lines


def test_what_hangs_is_left_behind_in_time(
    serve: Callable[..., Served], tmp_path: Path, gate: Gate
) -> None:
    put(tmp_path / "models", "runs", source(HELD, gate=gate))
    slow = Gate(tmp_path / "slow")
    put(tmp_path / "models", "loads", source(HELD_LOAD, gate=slow))
    server = serve(tmp_path / "models", "--cache-fill", "none", "--shutdown-timeout-s", "0.5")
    running = Asked(server, "runs")
    gate.wait_for(1)
    waits = Asked(server, "loads")
    slow.wait_for(1)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=10) == 0, "though the gate is never opened"
    assert waits.status == 503
    assert "is shutting down" in waits.response.json()["error"]
    with pytest.raises(httpx2.HTTPError):
        running.response  # noqa: B018 - raises what the client saw
    server.stop()
    left = server.find("some threads do not end and are left behind")
    assert left is not None
    assert "shoal-load" in str(left["threads"])
    assert "shoal-predict" in str(left["threads"])


def test_a_load_that_hangs_is_given_up_and_others_load(
    serve: Callable[..., Served], tmp_path: Path, gate: Gate
) -> None:
    put(tmp_path / "models", "hangs", source(HELD_LOAD, gate=gate))
    put(tmp_path / "models", "fine", source())
    server = serve(tmp_path / "models", "--cache-fill", "none", "--load-concurrency", "1",
                   "--load-timeout-s", "2.5", "--load-retry-base-s", "0.1")
    waits = Asked(server, "hangs", timeout_ms=10_000)
    gate.wait_for(1)
    assert answer(server, "fine") == [2.0, 4.0], "though the only loader was taken"
    assert waits.status in (503, 504)
    until(lambda: said(server, "hangs", "load_failed"), "it is given up")
    assert "load.timeout_s" in said(server, "hangs", "load_failed")[0]
    until(lambda: "still hangs" in refusal(server, "hangs")[1], "it is not begun again")
    assert gate.came == 1
    assert answer(server, "fine") == [2.0, 4.0]
    gate.open()
    until(lambda: said(server, "hangs", "runtime_note"), "its late end is told")
    until(lambda: refusal(server, "hangs")[0] == 200, "it is loaded anew")


def test_sigterm_while_starting_ends_it(tmp_path: Path) -> None:
    """The first look waits for files that are still being written."""
    put(tmp_path / "models", "young", source())
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("shoal")), "serve", str(tmp_path / "models"),
         "--folder-settle-s", "300", "--http-port", "0", "--grpc-port", "0",
         "--management-port", "0", "--data-dir", str(tmp_path / "data"), "--log-format", "json"],
        stderr=subprocess.PIPE, text=True,
    )
    until((tmp_path / "data" / "registry.sqlite3").exists, "it is starting")
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 0, said
    assert "shutting down while starting" in said
    assert "Traceback" not in said


def test_requests_of_a_kept_connection_are_answered_before_it_is_closed(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    put(tmp_path / "models", "quick", source(ANSWER))
    server = serve(tmp_path / "models")
    with httpx2.Client(base_url=server.url) as client:
        assert client.post("/v2/models/quick/infer", json=REQUEST).status_code == 200
        assert server.stop() == 0
        with pytest.raises(httpx2.ConnectError):
            client.post("/v2/models/quick/infer", json=REQUEST)
