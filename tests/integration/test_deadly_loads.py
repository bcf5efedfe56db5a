"""A model whose load kills its process, as the kernel does when memory runs out."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import httpx2
from tests.served import Served, until
from tests.trouble import ANSWER, Gate, answer, put, refusal, source

KILLS = """
    def load(self, folder):
        import os, signal
        if not Path(GATE, "open").exists():
            with open(Path(GATE, "deaths"), "a") as file:
                file.write(f"{os.getpid()}\\n")
            os.kill(os.getpid(), signal.SIGKILL)
""" + ANSWER
PATIENCE_S = 120.0  # for processes to start several times
ENDED = "worker ended and is started again"
FLAGS = ("--memory", "64MiB", "--cache-fill", "none", "--no-folder-watch")


def deaths(gate: Gate) -> list[str]:
    """The numbers of the processes that it killed."""
    file = gate.path / "deaths"
    return file.read_text().split() if file.exists() else []


def noted(server: Served, kind: str) -> list[str]:
    """Events of a kind, as they are logged: those of processes that are gone, too."""
    return [str(line["event"]) for line in list(server.logs) if line.get("kind") == kind]


def try_it(server: Served) -> str:
    """What is said of it; empty where the answer was cut off."""
    try:
        status, said_of_it = refusal(server, "deadly")
    except httpx2.TransportError:
        return ""
    assert status == 503
    return said_of_it


def models_in(base: Path) -> tuple[Path, Gate]:
    """With one that kills its process until its gate is opened."""
    models, gate = base / "models", Gate(base / "gate")
    put(models, "double", source())
    put(models, "deadly", source(KILLS, gate=gate))
    return models, gate


def test_workers_come_back_without_the_model_that_killed_them(tmp_path: Path) -> None:
    models, gate = models_in(tmp_path)
    with Served(models, *FLAGS, "--workers", "2", data_dir=tmp_path / "data") as server:
        until(lambda: "while it loaded this model" in try_it(server)
              or "ended while they loaded it" in try_it(server), "it is refused", PATIENCE_S)
        killed = len(deaths(gate))
        assert killed <= 3  # the second one may have begun before the first was known
        for _ in range(20):
            assert answer(server, "double") == [2.0, 4.0]
            assert try_it(server)
        assert len(deaths(gate)) == killed
        ends = [line for line in server.logs if line["event"] == ENDED]
        assert {line["how"] for line in ends} == {
            "was killed by SIGKILL: probably for want of memory"}


def test_a_process_under_a_supervisor_says_what_killed_the_one_before(tmp_path: Path) -> None:
    models, gate = models_in(tmp_path)
    with Served(models, *FLAGS, "--recycle-supervise", data_dir=tmp_path / "data") as server:
        assert answer(server, "double") == [2.0, 4.0]
        until(lambda: "2 times in a row" in try_it(server), "it is refused", PATIENCE_S)
        story = try_it(server)
        assert story.startswith(
            "model 'deadly' version 1 could not be loaded: the process was killed by SIGKILL: "
            "probably for want of memory while it loaded this model, 2 times in a row, last at ")
        assert story.endswith("then load it by hand ('shoal load deadly')")
        assert len(deaths(gate)) == 2
        assert answer(server, "double") == [2.0, 4.0]

        once, twice = noted(server, "deadly_load")
        assert "while it loaded this model, last" in once
        assert "while it loaded this model, 2 times" in twice
        assert noted(server, "worker_replaced") == [
            f"process {pid}, which was worker 1, was killed by SIGKILL: probably for want of memory"
            for pid in deaths(gate)]
        problems = server.client.status().problems
        assert any("model 'deadly'" in each and "unless by hand" in each for each in problems)
        page = httpx2.get(server.management + "/metrics").text
        assert 'shoal_worker_restarts_total{worker="1",reason="died"} 2.0' in page

        gate.open()
        assert try_it(server) == story  # nobody said that it may be tried
        server.client.load("deadly")
        assert answer(server, "deadly") == [2.0, 4.0]
    assert json.loads((tmp_path / "data" / "loads" / "suspects.json").read_text()) == {}
    assert not list((tmp_path / "data" / "loads").glob("*.loads"))


def test_an_end_in_order_blames_nobody(tmp_path: Path) -> None:
    put(tmp_path / "models", "double", source())
    with Served(tmp_path / "models", data_dir=tmp_path / "data") as server:
        assert answer(server, "double") == [2.0, 4.0]
        assert list((tmp_path / "data" / "loads").glob("*.loads"))
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.stop() == 0
    assert not list((tmp_path / "data" / "loads").glob("*.loads"))
