"""Processes whose models leak memory: replaced under load, or ended in order."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx2
from tests.served import Served, until
from tests.trouble import REQUEST, answer, put, source

LEAKS = """
    kept = []
    def predict(self, inputs, parameters):
        self.kept.append(b"x" * (4 << 20))
        return {"y": inputs["x"] * FACTOR}
"""
LEAKING = 24  # requests, until it is more than the 64 MiB that count as noise
FLAGS = ("--memory", "64MiB", "--recycle-leak-s", "0.5", "--cache-fill", "none",
         "--no-folder-watch")


def leak(server: Served) -> None:
    for _ in range(LEAKING):
        assert answer(server, "leaks") == [2.0, 4.0]


def models_in(base: Path) -> Path:
    put(base / "models", "double", source())
    put(base / "models", "leaks", source(LEAKS))
    return base / "models"


class Load:
    """Clients that ask for a model again and again. failed: what was not answered."""

    def __init__(self, server: Served, clients: int = 3) -> None:
        self.failed: list[object] = []
        self.answered = 0
        self._url = server.url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self) -> None:
        with httpx2.Client(base_url=self._url, timeout=60) as http:
            while not self._stop.wait(0.01):
                try:
                    response = http.post("/v2/models/double/infer", json=REQUEST)
                except httpx2.HTTPError as error:
                    self.failed.append(error)
                    continue
                if response.status_code == 200:
                    self.answered += 1
                else:
                    self.failed.append(response.text)


def test_a_process_that_leaks_is_replaced_without_a_failed_request(tmp_path: Path) -> None:
    with Served(
        models_in(tmp_path), *FLAGS, "--recycle-supervise", data_dir=tmp_path / "data"
    ) as server:
        with Load(server) as load:
            until(lambda: load.answered, "answers")
            leak(server)
            until(lambda: server.find("replaced worker ended"), "it is replaced", 120)
            before = load.answered
            until(lambda: load.answered > before + 10, "its successor answers")
        assert load.failed == []

        [replacing] = [line for line in server.logs if line["event"] == "replacing a worker"]
        assert replacing["reason"] == "leak"
        assert "beyond what its models are booked for" in str(replacing["why"])
        [leaking] = [line for line in server.logs if line.get("kind") == "leaking"]
        assert str(leaking["event"]).endswith("; a fresh one takes its place")
        [replaced] = [line for line in server.logs if line.get("kind") == "worker_replaced"]
        assert f"process {replacing['pid']}, which was worker 1, is replaced: it has held " in (
            str(replaced["event"]))
        loads = [line["reason"] for line in server.logs
                 if line.get("kind") == "load_started" and line["model"] == "double"]
        # By the second process for the first one, unless a request was earlier.
        assert loads in (["requested", "handover"], ["requested", "requested"])
        page = httpx2.get(server.management + "/metrics").text
        assert 'shoal_worker_restarts_total{worker="1",reason="leak"} 1.0' in page
        assert 'shoal_unbooked_bytes{worker="1"} ' in page
        assert not [each for each in server.client.status().problems if "beyond what" in each]


def test_a_process_that_leaks_says_so_and_ends_where_it_may(tmp_path: Path) -> None:
    with Served(
        models_in(tmp_path), *FLAGS, "--recycle-exit", data_dir=tmp_path / "data"
    ) as server:
        leak(server)
        assert server.process.wait(60) == 75
    kinds = [line["kind"] for line in server.logs if line.get("kind") in ("leaking", "recycled")]
    assert kinds == ["leaking", "recycled"]
