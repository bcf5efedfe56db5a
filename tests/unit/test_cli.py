"""The command line: help, failures and the commands about models."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import typer
from tests.canned_server import Canned, CannedServer, json_of
from tests.canned_views import API, STATUS, Shoal, view
from typer.testing import CliRunner

from shoal import __version__
from shoal.cli.exit_codes import exit_code
from shoal.cli.main import app
from shoal.cli.target import complete_instance, complete_model
from shoal.domain import errors
from shoal.domain.views import Outcome, State

# --- help -----------------------------------------------------------------------------------------


def test_every_command_and_every_parameter_has_help() -> None:
    root = typer.main.get_command(app)
    commands = root.commands  # type: ignore[attr-defined]
    assert set(commands) == {
        "serve", "models", "register", "unregister", "load", "unload", "infer", "explain",
        "status", "top", "drain", "events", "instances", "settings", "simulate", "credentials",
        "runtimes",
    }  # fmt: skip
    inner, servers = commands["credentials"].commands, commands["runtimes"].commands
    assert set(inner) == {"set", "list", "delete"}
    assert set(servers) == {"list", "show", "apply", "remove", "enable", "disable"}
    for command in (root, *commands.values(), *inner.values(), *servers.values()):
        assert command.help
        for parameter in command.params:
            assert parameter.help, f"{command.name} {parameter.name}"


@pytest.mark.parametrize("command", ["serve", "models", "register", "infer", "top"])
def test_help_can_be_shown(command: str, shoal: Shoal) -> None:
    result = shoal(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_the_help_documents_the_exit_codes(shoal: Shoal) -> None:
    assert "Exit codes: 0 done, 1 failed" in " ".join(shoal("--help").stdout.split())


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"shoal {__version__}\n"


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ModelNotFound("x"), 3),
        (errors.VersionNotFound("x"), 3),
        (errors.NoRoom("x"), 4),
        (errors.DeadlineExceeded("x"), 4),
        (errors.InvalidInput("x"), 5),
        (errors.InvalidSpecification("x"), 5),
        (errors.Conflict("x"), 1),
        (errors.ModelFailed("x"), 1),
        (errors.ShoalError("x"), 1),
    ],
)
def test_the_exit_code_tells_the_kind_of_failure(error: errors.ShoalError, code: int) -> None:
    assert exit_code(error) == code


def test_a_failure_is_one_line_on_standard_error(server: CannedServer, shoal: Shoal) -> None:
    server.answers(
        f"GET {API}/models/x/explain",
        json_of({"error": "there is no\nmodel 'x'", "code": "MODEL_NOT_FOUND"}, 404),
    )
    result = shoal("explain", "x")
    assert result.exit_code == 3
    assert result.stderr == "error: there is no model 'x'\n"
    assert result.stdout == ""


def test_no_server_is_told_with_its_address() -> None:
    result = CliRunner().invoke(app, ["--management", "http://127.0.0.1:9", "status"])
    assert result.exit_code == 4
    assert "cannot connect to http://127.0.0.1:9" in result.stderr


def test_wrong_usage_ends_with_two(shoal: Shoal) -> None:
    for wrong in (["load"], ["nonsense"], ["models", "--state", "lost"], ["register", "m"]):
        assert shoal(*wrong).exit_code == 2


def test_the_addresses_may_come_from_the_environment(server: CannedServer) -> None:
    server.answers(f"GET {API}/instances", json_of([]))
    result = CliRunner().invoke(app, ["instances"], env={"SHOAL_MANAGEMENT": server.url})
    assert result.exit_code == 0


# --- models ---------------------------------------------------------------------------------------


def test_models_are_listed_over_all_pages(server: CannedServer, shoal: Shoal) -> None:
    server.answers(
        f"GET {API}/models",
        json_of({"models": [view("a")], "total": 2, "next": "a"}),
        json_of({"models": [view("b", State.FAILED, "file is torn")], "total": 2, "next": None}),
    )
    result = shoal("models", "--state", "ready", "--contains", "x", "--label", "k=v")
    lines = result.stdout.splitlines()
    assert lines[0].split() == [
        "NAME", "STATE", "VERSION", "FORMAT", "MEMORY", "REQUESTS", "LAST", "USED", "NOTE",
    ]  # fmt: skip
    assert "3.5 MiB" in lines[1]
    assert "1,234" in lines[1]
    assert lines[2].split()[:2] == ["b", "failed"]
    assert lines[2].endswith("file is torn")
    first, second = (asked.query for asked in server.asked)
    assert first == {"limit": "100", "state": "ready", "contains": "x", "label": "k=v"}
    assert second == {**first, "after": "a"}


def test_models_as_json_are_one_array_of_what_the_api_said(
    server: CannedServer, shoal: Shoal
) -> None:
    first, second = ({**msgspec.to_builtins(view(name)), "of_next_year": 1} for name in "ab")
    server.answers(
        f"GET {API}/models",
        json_of({"models": [first], "total": 2, "next": "a"}),
        json_of({"models": [second], "total": 2, "next": None}),
    )
    assert json.loads(shoal("models", "--json").stdout) == [first, second]


def test_a_limit_cuts_the_list_and_says_so(server: CannedServer, shoal: Shoal) -> None:
    page = {"models": [view("a"), view("b")], "total": 9, "next": "b"}
    server.answers(f"GET {API}/models", json_of(page))
    result = shoal("models", "--limit", "1")
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr == "1 of 9 models; --limit cut the rest\n"


def test_no_models_is_said(server: CannedServer, shoal: Shoal) -> None:
    server.answers(f"GET {API}/models", json_of({"models": [], "total": 0, "next": None}))
    assert shoal("models").stdout == "no models yet\n"
    assert shoal("models", "--format", "onnx").stdout == "no models match\n"
    assert shoal("models", "--json").stdout == "[]\n"


def test_register_sends_what_the_flags_say(
    server: CannedServer, shoal: Shoal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server.answers(f"PUT {API}/models/churn", json_of(view("churn", State.COLD, "1 is broken")))
    result = shoal(
        "register", "churn", "models/churn", "--format", "onnx", "--version-policy", "latest:2",
        "--pin", "--priority", "4", "--idle-ttl", "60", "--label", "team=a", "--label", "x=y=z",
        "--option", "threads=2", "--option", "mode=fast",
    )  # fmt: skip
    assert result.exit_code == 0
    assert result.stdout == "registered churn, version 3: cold\n"
    assert result.stderr == "problem: 1 is broken\n"
    assert server.asked[0].json == {
        "name": "churn", "uri": str(tmp_path / "models/churn"), "format": "onnx",
        "version_policy": {"latest": 2}, "pin": True, "priority": 4, "idle_ttl_s": 60.0,
        "labels": {"team": "a", "x": "y=z"}, "options": {"threads": 2, "mode": "fast"},
    }  # fmt: skip


def test_register_leaves_uris_as_they_are(server: CannedServer, shoal: Shoal) -> None:
    server.answers(f"PUT {API}/models/m", json_of(view("m")))
    shoal("register", "m", "s3://bucket/m", "--version-policy", "specific:1,3")
    assert server.asked[0].json == {
        "name": "m", "uri": "s3://bucket/m", "version_policy": {"specific": [1, 3]}
    }  # fmt: skip


def test_register_takes_a_file_that_flags_override(
    server: CannedServer, shoal: Shoal, tmp_path: Path
) -> None:
    file = tmp_path / "model.yaml"
    file.write_text("name: churn\nformat: onnx\npriority: 1\n")
    server.answers(f"PUT {API}/models/churn", json_of(view("churn")))
    assert shoal("register", "--file", str(file), "--priority", "2").exit_code == 0
    assert server.asked[0].json == {
        "name": "churn", "uri": str(tmp_path), "format": "onnx", "priority": 2
    }  # fmt: skip


def test_register_refuses_a_taken_name_with_create(server: CannedServer, shoal: Shoal) -> None:
    server.answers(
        f"POST {API}/models", json_of({"error": "model 'm' exists", "code": "CONFLICT"}, 409)
    )
    result = shoal("register", "m", "/m", "--create")
    assert (result.exit_code, result.stderr) == (1, "error: model 'm' exists\n")
    assert server.asked[0].query == {"create": "true"}


def test_register_with_wait_loads_the_model(server: CannedServer, shoal: Shoal) -> None:
    server.answers(f"PUT {API}/models/m", json_of(view("m", State.COLD)))
    server.answers(f"POST {API}/models/m/load", json_of(Outcome("m", State.READY, 3, 0.5)))
    server.answers(f"GET {API}/models/m", json_of(view("m")))
    assert shoal("register", "m", "/m", "--wait").stdout == "registered m, version 3: ready\n"
    assert json.loads(shoal("register", "m", "/m", "--json").stdout)["state"] == "cold"


@pytest.mark.parametrize(
    "flags",
    [
        ["--version-policy", "newest"],
        ["--version-policy", "latest:two"],
        ["--label", "team"],
        ["--option", "=1"],
        ["--file", "/nowhere/model.yaml"],
    ],
)
def test_register_refuses_what_it_cannot_read(
    flags: list[str], server: CannedServer, shoal: Shoal
) -> None:
    result = shoal("register", "m", "/m", *flags)
    assert result.exit_code == 5
    assert result.stderr.startswith("error: ")
    assert server.asked == []


@pytest.mark.parametrize("content", ["- 1", "a: [", "format: 7", "colour: red"])
def test_register_refuses_a_file_that_is_no_specification(
    content: str, shoal: Shoal, tmp_path: Path
) -> None:
    file = tmp_path / "model.yaml"
    file.write_text(content)
    assert shoal("register", "m", "--file", str(file)).exit_code == 5


def test_load_and_unload_tell_the_outcome(server: CannedServer, shoal: Shoal) -> None:
    server.answers(f"POST {API}/models/m/load", json_of(Outcome("m", State.READY, 3, 1.25)))
    server.answers(f"POST {API}/models/m/unload", json_of(Outcome("m", State.UNLOADED, None, 0)))
    assert shoal("load", "m", "--version", "3").stdout == "m, version 3: ready, after 1.25 s\n"
    assert shoal("unload", "m", "--no-wait").stdout == "m: unloaded, after 0 ms\n"
    assert json.loads(shoal("load", "m", "--json").stdout)["took_s"] == 1.25
    assert [asked.query for asked in server.asked[:2]] == [
        {"version": "3", "wait": "true"}, {"wait": "false"}
    ]  # fmt: skip


def test_a_load_that_failed_is_told_at_once(server: CannedServer, shoal: Shoal) -> None:
    body = {"error": "model 'm': the file is cut off", "code": "LOAD_FAILED"}
    server.answers(f"POST {API}/models/m/load", json_of(body, 503, retry_after="1"))
    result = shoal("load", "m")
    assert (result.exit_code, result.stderr) == (4, "error: model 'm': the file is cut off\n")
    assert len(server.asked) == 1


def test_unregister_says_what_it_did(server: CannedServer, shoal: Shoal) -> None:
    server.answers(f"DELETE {API}/models/m", Canned(204))
    assert shoal("unregister", "m").stdout == "unregistered m\n"
    assert json.loads(shoal("unregister", "m", "--json").stdout) == {"name": "m"}


def test_model_names_complete_from_the_server(server: CannedServer) -> None:
    page = {"models": [view("churn"), view("xchurn")], "total": 2, "next": None}
    server.answers(f"GET {API}/models", json_of(page))
    assert complete_model(_context(server.url), "chu") == ["churn"]
    assert server.asked[0].query["contains"] == "chu"


def test_several_addresses_have_commas_between(server: CannedServer) -> None:
    page = {"models": [view("churn")], "total": 1, "next": None}
    server.answers(f"GET {API}/models", json_of(page))
    assert complete_model(_context(f"http://127.0.0.1:9, {server.url}"), "chu") == ["churn"]


def test_instance_names_complete_from_any_of_several_servers(server: CannedServer) -> None:
    server.answers(f"GET {API}/instances", json_of(STATUS.instances))
    context = _context(f"http://127.0.0.1:9, {server.url}")
    assert complete_instance(context, "box") == ["box-1"]


def test_completion_is_silent_without_a_server() -> None:
    assert complete_model(_context("http://127.0.0.1:9"), "chu") == []


def _context(url: str) -> typer.Context:
    context = typer.main.get_command(app).make_context("shoal", [], resilient_parsing=True)
    context.params = {"server": url, "management": url}
    return context  # type: ignore[return-value]
