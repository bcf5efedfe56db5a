"""Isolated models of a real server: side by side, killed under load, ended with it."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import httpx2
import psutil
import pytest
from examples.make_models import make_further
from tests.isolated import make_wheel, model_folder
from tests.served import Served, until
from tests.trouble import REQUEST

from shoal.domain.errors import NotTrusted

DOUBLING = """
    inputs = [{"name": "x", "datatype": "FP64", "shape": [-1]}]
    outputs = [{"name": "y", "datatype": "FP64", "shape": [-1]}]
    max_concurrency = 4

    def predict(self, inputs, parameters):
        time.sleep(0.002)
        return {"y": inputs["x"] * 2}
"""
VERSION = """
    def predict(self, inputs, parameters):
        return {"version": [pebbles.VERSION]}
"""

Serve = Callable[..., Served]


def hosts(server: Served) -> list[int]:
    """The processes of models."""
    found = []
    for process in psutil.Process(server.process.pid).children():
        try:
            if "shoal.isolation.host" in process.cmdline():
                found.append(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def doubled(response: httpx2.Response) -> bool:
    return response.status_code == 200 and response.json()["outputs"][0]["data"] == [2.0, 4.0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "doubling", DOUBLING)


def test_two_models_need_two_versions_of_one_package(serve: Serve, tmp_path: Path) -> None:
    wheels, models = tmp_path / "wheels", tmp_path / "models"
    for version in ("1.0", "2.0"):
        make_wheel(wheels, "pebbles", version)
        model_folder(models / f"v{version[0]}", VERSION, head="import pebbles",
                     requirements=f"pebbles=={version}\n")
    server = serve(models, environ={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)})
    answers = [
        server.infer(name, {"inputs": []}).json()["outputs"][0]["data"] for name in ("v1", "v2")
    ]
    assert answers == [["1.0"], ["2.0"]]
    assert len(hosts(server)) == 2
    assert len(list((tmp_path / "data" / "environments").glob("*/complete"))) == 2


def test_isolation_lets_code_run_wherever_it_lies(serve: Serve, folder: Path) -> None:
    server = serve()
    with pytest.raises(NotTrusted, match="trust: isolated"):
        server.client.register("m", str(folder))
    server.client.register("m", str(folder), trust="isolated")
    assert doubled(server.infer("m", REQUEST))
    view = server.client.model("m")
    assert len(hosts(server)) == 1
    assert (view.where[0].size_bytes or 0) > 10_000_000


def test_unregistering_ends_the_process(serve: Serve, folder: Path) -> None:
    server = serve()
    server.client.register("m", str(folder), trust="isolated")
    assert doubled(server.infer("m", REQUEST))
    pid = hosts(server)[0]
    server.client.unregister("m")
    until(lambda: not psutil.pid_exists(pid), "the end of the process")


def test_a_model_killed_under_load_fails_no_more_than_was_in_flight(
    serve: Serve, folder: Path
) -> None:
    server = serve()
    server.client.register("m", str(folder), trust="isolated")
    assert doubled(server.infer("m", REQUEST))
    clients, kills = 6, 3
    answers: list[httpx2.Response] = []
    enough = threading.Event()

    def ask() -> None:
        with httpx2.Client(base_url=server.url, timeout=60) as http:
            while not enough.is_set():
                answers.append(http.post("/v2/models/m/infer", json=REQUEST))

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for _ in range(kills):
        before = len(answers)
        until(lambda seen=before: len(answers) > seen + 50, "answers")  # type: ignore[misc]
        until(lambda: hosts(server), "a process")
        os.kill(hosts(server)[0], signal.SIGKILL)
    before = len(answers)
    until(lambda: sum(map(doubled, answers[before:])) > 50, "right answers after the last")
    enough.set()
    for thread in threads:
        thread.join()
    failed = [each for each in answers if each.status_code == 500]
    waited = [each for each in answers if each.status_code == 503]
    assert len(failed) <= kills * 4  # calls at once
    assert all("killed by SIGKILL" in each.text for each in failed)
    assert [each.text for each in waited if "started again" not in each.text] == []
    assert all(doubled(each) for each in answers if each.status_code == 200)
    assert len(failed) + len(waited) < len(answers)


def test_a_server_that_is_killed_takes_its_models_along(serve: Serve, folder: Path) -> None:
    server = serve()
    for name in ("a", "b"):
        server.client.register(name, str(folder), trust="isolated")
        assert doubled(server.infer(name, REQUEST))
    pids = hosts(server)
    assert len(pids) == 2
    server.process.kill()
    until(lambda: not any(map(psutil.pid_exists, pids)), "the end of the processes")


def test_a_server_that_ends_takes_its_models_along(serve: Serve, folder: Path) -> None:
    server = serve()
    server.client.register("m", str(folder), trust="isolated")
    assert doubled(server.infer("m", REQUEST))
    pids = hosts(server)
    assert server.stop() == 0
    until(lambda: not any(map(psutil.pid_exists, pids)), "the end of the process")


def test_a_stopped_process_does_not_hold_up_others(serve: Serve, folder: Path) -> None:
    server = serve("--isolation-call-timeout-s", "2", "--cache-fill", "none")
    for name in ("stuck", "free"):
        server.client.register(name, str(folder), trust="isolated")
    assert doubled(server.infer("free", REQUEST))
    free = set(hosts(server))
    for _ in range(20):  # so often that it would run on the event loop, if it could
        assert doubled(server.infer("stuck", REQUEST))
    stuck = (set(hosts(server)) - free).pop()
    os.kill(stuck, signal.SIGSTOP)
    outcome: list[httpx2.Response] = []
    asking = threading.Thread(target=lambda: outcome.append(
        httpx2.post(f"{server.url}/v2/models/stuck/infer", json=REQUEST, timeout=60)))
    asking.start()
    assert doubled(server.infer("free", REQUEST))
    asking.join()
    assert outcome[0].status_code == 500
    assert "isolation.call_timeout_s" in outcome[0].text
    assert doubled(server.infer("stuck", REQUEST))


def test_memory_has_a_bound(serve: Serve, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "hungry", """
    def predict(self, inputs, parameters):
        return {"size": [np.ones(parameters["bytes"], np.uint8).size]}
""")
    server = serve("--isolation-memory-factor", "2")
    server.client.register("m", str(folder), trust="isolated", memory_bytes=100_000_000)
    refused = server.infer("m", {"inputs": [], "parameters": {"bytes": 3_000_000_000}})
    assert refused.status_code == 500
    assert "MemoryError" in refused.text
    assert "isolation.memory_factor" in refused.text
    assert server.infer("m", {"inputs": [], "parameters": {"bytes": 1000}}).status_code == 200


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java 11 or newer")
def test_a_format_that_is_to_run_apart_does(serve: Serve, tmp_path: Path) -> None:
    pytest.importorskip("jpmml_evaluator")
    [case] = make_further(tmp_path / "models", "pmml")
    with serve(tmp_path / "models") as server:
        answer = server.infer("loans", case.request)
        assert answer.status_code == 200, answer.text
        told = {each["name"]: each["data"] for each in answer.json()["outputs"]}
        assert told["paid"] == case.expect["outputs"][0]["data"]
        assert len(hosts(server)) == 1
