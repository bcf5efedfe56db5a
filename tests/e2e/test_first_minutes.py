"""What a newcomer does first, with the real commands against a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.served import Served

if TYPE_CHECKING:
    from examples.cases import Case

SHOAL = Path(sys.executable).with_name("shoal")


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, example_cases: tuple[Path, list[Case]]
) -> Iterator[Served]:
    data_dir = tmp_path_factory.mktemp("data")
    with Served(example_cases[0], "--memory", "256MiB", data_dir=data_dir) as running:
        yield running


class Ran:
    """A finished command."""

    def __init__(self, server: Served, *words: str | Path, given: str | None = None) -> None:
        done = subprocess.run(
            [SHOAL, "--server", server.url, "--management", server.management, *words],
            input=given, capture_output=True, text=True, timeout=60,
            env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}, check=False,
        )
        self.status, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def test_models_lists_what_the_folder_holds(server: Served) -> None:
    listed = Ran(server, "models")
    assert listed.status == 0, listed.err
    assert "iris-net" in listed.out
    assert {model["name"] for model in Ran(server, "models", "--json").json} >= {"iris", "mood"}


def test_infer_takes_data_a_file_and_standard_input(
    server: Served, tmp_path: Path, example_cases: tuple[Path, list[Case]]
) -> None:
    case = next(case for case in example_cases[1] if case.model == "iris")
    expected = case.expect["outputs"][0]["data"]
    body = json.dumps(case.request)
    file = tmp_path / "request.json"
    file.write_text(body)
    rows = [case.request["inputs"][0]["data"][start : start + 4] for start in (0, 4, 8)]
    answers = [
        Ran(server, "infer", "iris", file, "--json"),
        Ran(server, "infer", "iris", "-", "--json", given=body),
        Ran(server, "infer", "iris", "--data", body, "--json"),
        Ran(server, "infer", "iris", "--data", json.dumps(rows), "--json"),
    ]
    for answer in answers:
        assert answer.status == 0, answer.err
        assert answer.json["outputs"][0]["data"] == expected


def test_a_registered_model_is_served_explained_and_unregistered(
    server: Served, example_cases: tuple[Path, list[Case]]
) -> None:
    artifact = example_cases[0] / "iris-net" / "model.onnx"
    registered = Ran(server, "register", "flowers", artifact, "--label", "team=garden", "--wait")
    assert registered.status == 0, registered.err
    explained = Ran(server, "explain", "flowers")
    assert "flowers is loaded" in " ".join(explained.out.split())
    assert Ran(server, "unload", "flowers").status == 0
    refused = Ran(server, "infer", "flowers", "--data", "[[1.0, 2.0, 3.0, 4.0]]")
    assert refused.status == 4
    assert "taken out of service" in refused.err
    assert Ran(server, "load", "flowers").status == 0
    answered = Ran(server, "infer", "flowers", "--data", "[[1.0, 2.0, 3.0, 4.0]]", "--json")
    assert answered.json["outputs"][0]["name"] == "label"
    assert Ran(server, "unregister", "flowers").status == 0
    gone = Ran(server, "explain", "flowers")
    assert gone.status == 3
    assert "flowers" in gone.err


def test_status_top_events_and_settings_show_the_server(server: Served) -> None:
    assert Ran(server, "infer", "mood", "--data", '["lovely"]').status == 0
    status = Ran(server, "status", "--json").json
    assert status["ready"] is True
    assert status["totals"]["requests"] > 0
    assert "ready" in Ran(server, "status").out
    top = Ran(server, "top", "--once")
    assert top.status == 0, top.err
    assert "loaded" in {event["kind"] for event in Ran(server, "events", "--json").json}
    settings = {each["name"]: each for each in Ran(server, "settings", "--json").json}
    assert settings["memory"]["value"] == 256 * 1024**2
    assert settings["memory"]["source"] == "flag"


def test_a_wrong_request_says_what_is_wrong(server: Served) -> None:
    wrong = Ran(server, "infer", "iris-net", "--data", "[[1.0, 2.0]]")
    assert wrong.status == 5
    assert "[1, 2]" in wrong.err
    assert "Traceback" not in wrong.err


def test_nobody_there_is_said_in_a_line(server: Served) -> None:
    done = subprocess.run(
        [SHOAL, "--management", "http://127.0.0.1:9", "--timeout", "2", "models"],
        capture_output=True, text=True, timeout=60, check=False,
    )
    assert done.returncode == 4
    assert len(done.stderr.strip().splitlines()) <= 2
    assert "127.0.0.1:9" in done.stderr
