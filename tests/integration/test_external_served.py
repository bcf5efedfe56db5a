"""A server outside as users see it: declared, started with the first request, ended with Shoal."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
from tests.external import EXAMPLE, PATHS, alive
from tests.served import Served, until
from typer.testing import CliRunner

from shoal.cli.main import app

X = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 1, 2, 0]}
REQUEST = {"inputs": [X]}


def shoal(server: Served, *arguments: str, stdin: str | None = None) -> None:
    target = ["--server", server.url, "--management", server.management]
    ended = CliRunner().invoke(app, [*target, *arguments], input=stdin)
    assert ended.exit_code == 0, ended.output


def examples(server: Served) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [each for each in children if str(EXAMPLE) in each.cmdline()]


def test_a_model_in_a_server_of_ones_own_is_declared_asked_and_survives_its_server(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    server = serve("--trust-locations", str(tmp_path))
    shoal(server, "runtimes", "apply", "-", stdin=json.dumps({
        "name": "example", "formats": [{"name": "linear"}], "interface": "model-runtime",
        "command": [sys.executable, str(EXAMPLE), "127.0.0.1:{grpc_port}"],
        "environment": PATHS}))
    (tmp_path / "m.linear").write_text('{"weights": [2, 3]}')
    shoal(server, "register", "m", str(tmp_path / "m.linear"), "--format", "linear")
    assert not examples(server)

    def answer() -> object:
        return server.http.post("/v2/models/m/infer", json=REQUEST).json().get("outputs")

    assert answer() == [{"name": "y", "datatype": "FP32", "shape": [2], "data": [5.0, 4.0]}]
    wrong = {"inputs": [{**X, "shape": [1, 3], "data": [1, 2, 3]}]}
    refused = server.http.post("/v2/models/m/infer", json=wrong)
    assert refused.status_code == 400
    assert "rows must have 2 columns" in refused.json()["error"]
    started = examples(server)
    assert len(started) == 2  # it, and who watches over it
    os.killpg(os.getpgid(started[0].pid), signal.SIGKILL)
    until(answer, "an answer of its next life")
    again = examples(server)
    server.stop()
    until(lambda: not any(alive(each) for each in started + again), "the end of both")
