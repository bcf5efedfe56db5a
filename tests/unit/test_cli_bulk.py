"""`register --from` and `unregister --from`: what they send, what they tell, how they end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console
from tests.managed import Managed, managed
from typer.testing import CliRunner, Result

from shoal.cli import bulk, render
from shoal.cli.main import app
from shoal.domain.errors import StoreUnavailable

Run = Callable[..., Result]


@pytest.fixture
def server() -> Iterator[Managed]:
    with managed() as server:
        yield server


@pytest.fixture
def shoal(server: Managed) -> Run:
    def run(*arguments: object, given: str | None = None) -> Result:
        return CliRunner().invoke(
            app, ["--management", server.address, *map(str, arguments)], input=given
        )

    return run


def listed(folder: Path, content: str, name: str = "models.jsonl") -> Path:
    file = folder / name
    file.write_text(content)
    return file


THREE = '{"name": "a", "uri": "a.onnx"}\n\n{"name": "b", "uri": "/b", "pin": true}\n{"name": ' \
        '"c", "uri": "file:///c"}\n'


def test_every_line_is_a_model(server: Managed, shoal: Run, tmp_path: Path) -> None:
    result = shoal("register", "--from", listed(tmp_path, THREE))
    assert result.exit_code == 0, result.output
    assert result.stdout == "registered 3; 0 already registered just so; 0 failed\n"
    specs = server.control.specs
    assert {name: spec.uri for name, spec in specs.items()} == {
        "a": str(tmp_path / "a.onnx"), "b": "/b", "c": "file:///c"
    }
    assert specs["b"].pin


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.json", '[{"name": "a", "uri": "/a"},\n {"name": "b", "uri": "/b"}]'),
        ("list.yaml", "- name: a\n  uri: /a\n- name: b\n  uri: /b\n"),
        ("list.txt", '{"name": "a", "uri": "/a"}\n{"name": "b", "uri": "/b"}'),
        ("empty-lines.jsonl", '\n\n{"name": "a", "uri": "/a"}\r\n{"name": "b", "uri": "/b"}\n\n'),
    ],
    ids=["json", "yaml", "lines", "empty-lines"],
)
def test_lists_may_be_json_or_yaml_too(
    server: Managed, shoal: Run, tmp_path: Path, name: str, content: str
) -> None:
    result = shoal("register", "--from", listed(tmp_path, content, name))
    assert result.exit_code == 0, result.output
    assert set(server.control.specs) == {"a", "b"}


def test_standard_input_is_read(server: Managed, shoal: Run) -> None:
    assert shoal("register", "--from", "-", given=THREE).exit_code == 0
    assert server.control.specs["a"].uri == str(Path.cwd() / "a.onnx")


def test_the_same_file_again_changes_nothing(shoal: Run, tmp_path: Path) -> None:
    file = listed(tmp_path, THREE)
    shoal("register", "--from", file)
    result = shoal("register", "--from", file, "--json")
    assert json.loads(result.stdout) == {
        "registered": 0, "unchanged": 3, "failed": 0, "failures": []
    }


WRONG = """{"name": "good", "uri": "/good"}
nonsense
{"name": "b b", "uri": "/x"}
{"name": "typo", "uri": "/x", "frmat": "onnx"}
[1]
{"name": "good", "uri": "/again"}
"""
WHAT = [
    (2, "it is not JSON"),
    (3, "model name 'b b' is not valid"),
    (4, "unknown field `frmat`"),
    (5, "it is no object with the fields of a model"),
    (6, "the name stands in line 1 already; keep one of them"),
]


def test_a_file_that_is_wrong_is_told_line_by_line_and_nothing_is_sent(
    server: Managed, shoal: Run, tmp_path: Path
) -> None:
    file = listed(tmp_path, WRONG)
    result = shoal("register", "--from", file)
    assert result.exit_code == 5
    told = result.stderr.splitlines()
    for line, (number, what) in zip(told, WHAT, strict=False):
        assert line.startswith(f"{file}:{number}: ")
        assert what in line
    assert told[-1].startswith(f"error: {file}: 5 failed, and nothing was sent behind them; ")
    assert "--keep-going" in told[-1]
    assert server.control.calls == []


def test_what_is_right_is_registered_when_failures_are_passed_over(
    server: Managed, shoal: Run, tmp_path: Path
) -> None:
    result = shoal("register", "--from", listed(tmp_path, WRONG), "--keep-going")
    assert result.exit_code == 5
    assert result.stdout == "registered 1; 0 already registered just so; 5 failed\n"
    assert server.control.specs["good"].uri == "/good"


def many(count: int, broken: int) -> str:
    uris = [f"/{'missing' if number == broken else number}" for number in range(count)]
    return "".join(
        json.dumps({"name": f"m{number}", "uri": uri}) + "\n" for number, uri in enumerate(uris)
    )


@pytest.mark.parametrize(("flags", "registered"), [((), 9), (("--keep-going",), 24)],
                         ids=["stop", "keep-going"])
def test_what_the_server_refuses_is_told_with_its_line(
    server: Managed, shoal: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...], registered: int,
) -> None:
    monkeypatch.setattr(bulk, "PAGE", 10)
    file = listed(tmp_path, many(25, broken=3))
    result = shoal("register", "--from", file, *flags)
    assert result.exit_code == 1
    assert result.stdout.startswith(f"registered {registered};")
    assert f"{file}:4: model 'm3': there is nothing at /missing" in result.stderr
    assert len(server.control.specs) == registered


def test_of_many_failures_the_first_are_told_and_the_others_counted(
    shoal: Run, tmp_path: Path
) -> None:
    result = shoal("register", "--from", listed(tmp_path, "nonsense\n" * 50))
    assert result.stderr.count("it is not JSON") == 20
    assert "and 30 more" in result.stderr


def test_a_server_that_fails_ends_it(server: Managed, shoal: Run, tmp_path: Path) -> None:
    server.control.failures["register_all"] = StoreUnavailable("the disk is full; free space")
    result = shoal("register", "--from", listed(tmp_path, THREE))
    assert result.exit_code == 4
    assert "the disk is full" in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.json", "[{]", "not valid JSON"), ("a.yaml", "a: 1", "holds no list"),
        ("a.yaml", "- [", "not valid YAML"), ("a.yaml", "- \x00", "not valid YAML"),
        ("a.yaml", "- 2026-99-99", "not valid YAML"),
    ],
    ids=["json", "no-list", "yaml", "yaml-bytes", "yaml-date"],
)
def test_a_list_that_cannot_be_read_is_named(
    shoal: Run, tmp_path: Path, name: str, content: str, what: str
) -> None:
    file = listed(tmp_path, content, name)
    result = shoal("register", "--from", file)
    assert result.exit_code == 5
    assert f"{file}: {what}" in result.stderr


def test_lines_of_lists_are_counted(shoal: Run, tmp_path: Path) -> None:
    as_json = listed(tmp_path, '[\n  {"name": "a",\n "uri": "/a"},\n\n  {"name": "b"}]', "a.json")
    assert f"{as_json}:5: model 'b'" in shoal("register", "--from", as_json).stderr
    as_yaml = listed(tmp_path, "# models\n- name: a\n  uri: /a\n\n- name: b\n", "a.yaml")
    assert f"{as_yaml}:5: model 'b'" in shoal("register", "--from", as_yaml).stderr


def test_a_file_that_is_not_there_is_named(shoal: Run, tmp_path: Path) -> None:
    result = shoal("register", "--from", tmp_path / "none")
    assert result.exit_code == 5
    assert f"{tmp_path / 'none'}: cannot be read" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [("a", "/a", "--from", "x"), ("--from", "x", "--pin"), ("a", "/a", "--keep-going"),
     ("--from", "x", "--wait")], ids=["name", "pin", "keep-going", "wait"],
)
def test_flags_that_do_not_go_together_are_refused(shoal: Run, arguments: tuple[str, ...]) -> None:
    assert shoal("register", *arguments).exit_code == 2


def test_files_are_not_read_when_asked_not_to(server: Managed, shoal: Run, tmp_path: Path) -> None:
    shoal("register", "--from", listed(tmp_path, THREE), "--no-read")
    (call, *_) = server.control.calls
    assert (call[0], call[2]) == ("register_all", False)


@pytest.mark.parametrize(
    "content", [THREE, "a\nb\nc\n", '["a", "b", "c"]', '"a"\n{"name": "b"}\nc'],
    ids=["models", "names", "list", "mixed"],
)
def test_models_are_unregistered_by_the_same_file_or_by_names(
    server: Managed, shoal: Run, tmp_path: Path, content: str
) -> None:
    shoal("register", "--from", listed(tmp_path, THREE))
    result = shoal("unregister", "--from", listed(tmp_path, content, "gone"))
    assert result.stdout == "unregistered 3; 0 not registered; 0 failed\n"
    assert server.control.specs == {}


def test_unregister_wants_a_name_or_a_file(shoal: Run) -> None:
    assert shoal("unregister").exit_code == 2
    assert shoal("unregister", "a", "--from", "x").exit_code == 2


def test_a_terminal_sees_a_bar(shoal: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(
        file=(tmp_path / "screen").open("w"), force_terminal=True, width=100, record=True
    )
    monkeypatch.setattr(render, "err", lambda: console)
    assert shoal("register", "--from", listed(tmp_path, THREE)).exit_code == 0
    console.file.close()
    screen = (tmp_path / "screen").read_text()
    assert "registering" in screen
    assert "3/3" in screen


def test_a_pipe_sees_a_line_now_and_then(
    shoal: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "PAGE", 10)
    monkeypatch.setattr(bulk, "_QUIET_STEP", 20)
    result = shoal("register", "--from", listed(tmp_path, many(45, broken=-1)))
    assert result.stderr.splitlines() == ["registering: 20 of 45", "registering: 40 of 45"]
