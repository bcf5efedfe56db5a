"""Models that make trouble on purpose: Python classes that wait at a gate, raise, or never end."""

from __future__ import annotations

import os
import shutil
import textwrap
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx2
from tests.served import Served, until

ANSWER = """
    def predict(self, inputs, parameters):
        return {"y": inputs["x"] * FACTOR}
"""
# A gate is a file: who comes tells so with a file `came-…`, and passes when `open` is there.
HELD = """
    def predict(self, inputs, parameters):
        Path(GATE, f"came-{time.monotonic_ns()}").touch()
        while not Path(GATE, "open").exists():
            time.sleep(0.002)
        return {"y": inputs["x"] * FACTOR}
"""
HELD_LOAD = """
    def load(self, folder):
        Path(GATE, f"came-{time.monotonic_ns()}").touch()
        while not Path(GATE, "open").exists():
            time.sleep(0.002)
""" + ANSWER

REQUEST: dict[str, Any] = {
    "inputs": [{"name": "x", "datatype": "FP64", "shape": [2], "data": [1.0, 2.0]}]
}


class Gate:
    """Where models wait until it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)

    @property
    def came(self) -> int:
        return len(list(self.path.glob("came-*")))

    def wait_for(self, count: int) -> None:
        until(lambda: self.came >= count, f"{count} calls at {self.path.name}")

    def open(self) -> None:
        (self.path / "open").touch()


def source(body: str = ANSWER, *, factor: float = 2.0, gate: Gate | None = None,
           ballast_bytes: int = 0) -> str:
    """A model.py. `ballast_bytes`: so many more are in the file."""
    lines = [
        "import sys, time", "from pathlib import Path",
        f"FACTOR = {factor!r}", f"GATE = {str(gate.path) if gate else None!r}",
        "class Model:",
        '    inputs = [{"name": "x", "datatype": "FP64", "shape": [-1]}]',
        '    outputs = [{"name": "y", "datatype": "FP64", "shape": [-1]}]',
        textwrap.indent(textwrap.dedent(body), "    "),
    ]
    return "\n".join(lines) + "\n#" + "=" * ballast_bytes + "\n"


def put(folder: Path, name: str, text: str) -> Path:
    """The model `name` in `folder`, all at once, over an earlier one; the path of its file."""
    path = folder / name / "model.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.parent / f".{name}.py"
    beside.write_text(text)
    os.replace(beside, path)
    return path


def copy_whole(source_path: Path, to: Path) -> None:
    """Copy a file or folder so that it appears at once."""
    beside = to.parent.parent / f".{to.name}.copy"
    if source_path.is_dir():
        shutil.copytree(source_path, beside)
    else:
        shutil.copyfile(source_path, beside)
    os.replace(beside, to)


def answer(server: Served, model: str, version: int | None = None) -> list[float]:
    """What the model makes of [1, 2]."""
    response = server.infer(model, REQUEST, version)
    assert response.status_code == 200, response.text
    data: list[float] = response.json()["outputs"][0]["data"]
    return data


def refusal(server: Served, model: str) -> tuple[int, str]:
    response = server.infer(model, REQUEST)
    return response.status_code, str(response.json().get("error", ""))


def declared(server: Served, *names: str) -> None:
    """Wait until the server knows all of `names`."""
    until(lambda: set(names) <= set(server.http.get("/v2/models").json()["models"]),
          f"{', '.join(names)} known")


def said(server: Served, model: str | None, kind: str) -> list[str]:
    """Messages of the events of a kind."""
    return [event.message for event in server.client.events(limit=1000, model=model).events
            if event.kind == kind]


class Asked:
    """A request on a thread of its own."""

    def __init__(self, server: Served, model: str, *, timeout_ms: int | None = None) -> None:
        self._done: Future[httpx2.Response] = Future()
        headers = {} if timeout_ms is None else {"shoal-timeout-ms": str(timeout_ms)}

        def ask() -> None:
            try:
                self._done.set_result(server.http.post(
                    f"/v2/models/{model}/infer", json=REQUEST, headers=headers))
            except httpx2.HTTPError as error:
                self._done.set_exception(error)

        threading.Thread(target=ask, daemon=True).start()

    @property
    def done(self) -> bool:
        return self._done.done()

    @property
    def response(self) -> httpx2.Response:
        return self._done.result(timeout=30)

    @property
    def status(self) -> int:
        return self.response.status_code


def waiting(server: Served) -> int:
    """Requests that wait for a load."""
    return server.client.instances()[0].waiting_requests
