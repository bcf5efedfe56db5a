"""The command line: commands that show the system, and `serve`, whose flags are the settings."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import pytest
import typer
from tests.canned_server import CannedServer, json_of
from tests.canned_views import API, EVENTS, STATUS, Shoal, view

from shoal.cli.main import app
from shoal.domain.views import FailureView, SettingView, State, Story
from shoal.settings import Configuration, setting_fields

# --- the system -----------------------------------------------------------------------------------


def test_status_is_an_overview(server: CannedServer, shoal: Shoal) -> None:
    server.answers(f"GET {API}/status", json_of(STATUS))
    text = shoal("status").stdout
    for part in (
        "ready, 1 instance", "Models    2: 1 ready, 1 cold", "1,500: 2 failed", "3 evictions",
        "median 1.2 ms", "no requests in the last five minutes", "1.5 GiB of 4.0 GiB in 1 copy",
        "Problem   the disk is nearly full",
    ):  # fmt: skip
        assert part in text
    assert json.loads(shoal("status", "--json").stdout) == msgspec.to_builtins(STATUS)


def test_top_prints_once_where_there_is_no_terminal(server: CannedServer, shoal: Shoal) -> None:
    server.answers(f"GET {API}/status", json_of(STATUS))
    lines = shoal("top").stdout.splitlines()
    assert lines[1].split() == ["churn", "ready", "12.5", "0.5", "ms", "3.0", "MiB"]
    assert json.loads(shoal("top", "--json").stdout)["models"] == 2


def test_events_are_the_last_ones(server: CannedServer, shoal: Shoal) -> None:
    pages = [{"events": EVENTS[:2], "next": 2}, {"events": EVENTS[2:], "next": 3},
             {"events": [], "next": 3}]  # fmt: skip
    server.answers(f"GET {API}/events", *(json_of(page) for page in pages))
    lines = shoal("events", "--limit", "2").stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("evicted  churn: left for room (room_needed)")
    assert lines[1].endswith("draining  stops taking requests")
    assert [asked.query["after"] for asked in server.asked] == ["0", "2", "3"]


def test_events_as_json_are_one_array(server: CannedServer, shoal: Shoal) -> None:
    server.answers(
        f"GET {API}/events",
        json_of({"events": EVENTS, "next": 3}),
        json_of({"events": [], "next": 3}),
    )
    got = json.loads(shoal("events", "--json", "--model", "churn").stdout)
    assert got == msgspec.to_builtins(EVENTS)
    assert server.asked[0].query["model"] == "churn"


def test_instances_are_listed(server: CannedServer, shoal: Shoal) -> None:
    server.answers(f"GET {API}/instances", json_of(STATUS.instances))
    assert "box-1" in shoal("instances").stdout.splitlines()[1]
    assert json.loads(shoal("instances", "--json").stdout)[0]["id"] == "box-1"


def test_settings_are_listed_with_their_source(server: CannedServer, shoal: Shoal) -> None:
    settings = [
        SettingView("http.port", 0, 8080, "flag", "--http-port", "SHOAL_HTTP_PORT", "Port."),
        SettingView("log.level", "info", "info", "default", "--log-level", "X", "Level."),
    ]
    server.answers(f"GET {API}/settings", json_of(settings))
    lines = shoal("settings").stdout.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["http.port", "0", "flag", "--http-port"], ["log.level", "info", "default", "--log-level"]
    ]  # fmt: skip
    assert len(shoal("settings", "--changed").stdout.splitlines()) == 2
    changed = json.loads(shoal("settings", "--changed", "--json").stdout)
    assert [setting["name"] for setting in changed] == ["http.port"]


def test_explain_tells_the_story(server: CannedServer, shoal: Shoal) -> None:
    failure = FailureView("churn@3-0", "LOAD_FAILED", "file is torn", 2, 1.0, 2.0, None)
    story = Story(view("churn", State.FAILED), ["The file is torn."], [failure], EVENTS[:2])
    server.answers(f"GET {API}/models/churn/explain", json_of(story))
    text = shoal("explain", "churn").stdout
    assert text.startswith("churn is failed, registered ")
    for part in ("  The file is torn.", "VERSION", "(room_needed)"):
        assert part in text
    assert json.loads(shoal("explain", "churn", "--json").stdout) == msgspec.to_builtins(story)


# --- serve ----------------------------------------------------------------------------------------


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Configuration, list[str]]]:
    """What `shoal.app.serve` is called with, in its stead."""
    calls: list[tuple[Configuration, list[str]]] = []

    def serve(configuration: Configuration, folders: list[str]) -> int:
        calls.append((configuration, folders))
        return 0

    app_module = ModuleType("shoal.app")
    vars(app_module)["serve"] = serve
    monkeypatch.setitem(sys.modules, "shoal.app", app_module)
    return calls


Served = list[tuple[Configuration, list[str]]]


def test_serve_takes_folders_flags_variables_and_a_file(
    served: Served, shoal: Shoal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "shoal.yaml").write_text("http: {port: 1}\nlog: {level: debug}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOAL_GRPC_PORT", "0")
    result = shoal(
        "serve", "models", "--config", "shoal.yaml", "--http-port", "0", "--memory", "2GiB",
        "--no-folder-watch", "--log-requests",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    [(configuration, folders)] = served
    assert folders == [str(tmp_path / "models")]
    settings, sources = configuration.settings, configuration.sources
    assert (settings.http.port, sources["http.port"]) == (0, "flag")
    assert (settings.grpc.port, sources["grpc.port"]) == (0, "environment")
    assert (settings.log.level, sources["log.level"]) == ("debug", "file")
    assert settings.memory == 2 * 1024**3
    assert (settings.folder.watch, settings.log.requests) == (False, True)
    assert sources["host"] == "default"


def test_serve_has_a_flag_for_every_setting(shoal: Shoal) -> None:
    serve = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    flags = {flag for parameter in serve.params for flag in parameter.opts}
    assert {field.flag for field in setting_fields()} <= flags
    names = list(inspect.signature(serve.callback).parameters)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--http-port", "eighty"], "--http-port"),
        (["--memory", "much"], "--memory"),
        (["--log-level", "loud"], "--log-level"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml"),
        (["/nowhere"], "folder /nowhere does not exist"),
        ([__file__], "is a file"),
    ],
)
def test_serve_refuses_wrong_settings_by_name(
    arguments: list[str], complaint: str, served: Served, shoal: Shoal
) -> None:
    result = shoal("serve", *arguments)
    assert result.exit_code == 5
    assert complaint in result.stderr
    assert served == []
