"""The command line: serving runtimes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from tests.canned_server import CannedServer, json_of
from tests.canned_views import API, Shoal, view

from shoal.cli.target import complete_runtime
from shoal.domain.serving_runtime import ServingRuntime, SupportedFormat
from shoal.domain.views import RuntimeDeleted, RuntimeList, RuntimeView

SERVING = ServingRuntime(
    name="triton", command=("tritonserver", "--model-repository={models}"), serves="triton",
    formats=(SupportedFormat("tensorrt", "8"), SupportedFormat("onnx", auto_select=False)),
    environment={"A": "1"},
)
VIEW = RuntimeView("triton", list(SERVING.formats), ["v2", "grpc-v2"], created_at=1.0,
                   declaration=SERVING)
OWN = RuntimeView("shoal", [SupportedFormat("sklearn")], ["v1", "v2", "grpc-v2"], own=True)
YAML = """
name: triton
formats: [{name: tensorrt, version: "8"}]
command: [tritonserver]
"""
PATH = f"{API}/runtimes/triton"


def test_they_are_listed(server: CannedServer, shoal: Shoal) -> None:
    server.answers(f"GET {API}/runtimes", json_of(RuntimeList([OWN, VIEW], ["x is odd"])))
    result = shoal("runtimes", "list")
    heading, own, triton = result.stdout.splitlines()
    assert heading.split() == ["NAME", "STATE", "FORMATS", "PROTOCOLS", "HOW"]
    assert own.split() == ["shoal", "enabled", "sklearn", "v1,", "v2,", "grpc-v2", "in", "the",
                           "instances"]
    assert "tensorrt:8, onnx (by name)" in triton
    assert triton.endswith("started: tritonserver")
    assert "problem: x is odd" in result.stderr
    assert len(json.loads(shoal("runtimes", "list", "--json").stdout)["runtimes"]) == 2


def test_one_is_shown_with_its_declaration(server: CannedServer, shoal: Shoal) -> None:
    server.answers(f"GET {PATH}", json_of(VIEW))
    said = shoal("runtimes", "show", "triton").stdout
    assert said.startswith("triton is enabled, declared ")
    assert "--model-repository={models}" in said
    assert "A=1" in said
    server.answers(f"GET {API}/runtimes/shoal", json_of(OWN))
    assert "sklearn" in shoal("runtimes", "show", "shoal").stdout
    assert json.loads(shoal("runtimes", "show", "triton", "--json").stdout)["name"] == "triton"


def test_a_file_is_applied(server: CannedServer, shoal: Shoal, tmp_path: Path) -> None:
    server.answers(f"PUT {PATH}", json_of(VIEW))
    (tmp_path / "r.yaml").write_text(YAML)
    result = shoal("runtimes", "apply", str(tmp_path / "r.yaml"))
    assert result.stdout == "declared triton: loads tensorrt:8, onnx (by name)\n"
    assert server.asked[-1].json == {
        "name": "triton", "formats": [{"name": "tensorrt", "version": "8"}],
        "command": ["tritonserver"]}
    result = shoal("runtimes", "apply", "-", "--json", stdin=YAML)
    assert [each["name"] for each in json.loads(result.stdout)] == ["triton"]


def test_how_a_manifest_was_read_is_said(server: CannedServer, shoal: Shoal) -> None:
    server.answers(f"PUT {PATH}", json_of(VIEW))
    manifest = {
        "apiVersion": "serving.kserve.io/v1alpha1", "kind": "ServingRuntime",
        "metadata": {"name": "triton"}, "spec": {
            "supportedModelFormats": [{"name": "onnx", "autoSelect": True}],
            "builtInAdapter": {"serverType": "triton"}}}
    result = shoal("runtimes", "apply", "-", stdin=json.dumps(manifest))
    assert result.stdout.startswith("declared triton")
    assert "triton: image, command and args of its container are left out" in result.stderr


@pytest.mark.parametrize(("text", "story"), [
    (f"{YAML}---\nname: x", "standard input, document 2: object missing required field `formats`"),
    (f"{YAML}colour: blue", "unknown field 'colour'"),
    ("\0", "correct the YAML"),
    ("# " + "x" * 1024 * 1024, "larger than 1 MiB"),
], ids=range(4))
def test_nothing_is_declared_when_anything_is_wrong(
    server: CannedServer, shoal: Shoal, text: str, story: str
) -> None:
    result = shoal("runtimes", "apply", "-", stdin=text)
    assert result.exit_code == 5
    assert story in result.stderr
    assert server.asked == []


def test_a_file_that_is_no_text_or_not_there_is_told(shoal: Shoal, tmp_path: Path) -> None:
    assert "cannot be read" in shoal("runtimes", "apply", "/none/at/all").stderr
    (tmp_path / "r").write_bytes(b"\xff")
    assert "not UTF-8 at byte 0" in shoal("runtimes", "apply", str(tmp_path / "r")).stderr


@pytest.mark.parametrize("verb", ["enable", "disable"])
def test_it_is_switched(server: CannedServer, shoal: Shoal, verb: str) -> None:
    answer = RuntimeView("triton", [], [], disabled=verb == "disable")
    server.answers(f"POST {PATH}/{verb}", json_of(answer))
    assert shoal("runtimes", verb, "triton").stdout == f"triton is {verb}d\n"
    assert json.loads(shoal("runtimes", verb, "triton", "--json").stdout)["name"] == "triton"


def test_removing_names_the_models_that_used_it(server: CannedServer, shoal: Shoal) -> None:
    server.answers(f"DELETE {PATH}", json_of(
        {"error": "the serving runtime 'triton' is used by 1 model: a", "code": "CONFLICT"}, 409))
    refused = shoal("runtimes", "remove", "triton")
    assert refused.exit_code == 1
    assert "is used by 1 model: a" in refused.stderr
    assert server.asked[-1].query == {}
    server.answers(f"DELETE {PATH}", json_of(RuntimeDeleted("triton", 11, ["a", "b"])))
    result = shoal("runtimes", "remove", "triton", "--force")
    assert server.asked[-1].query == {"force": "true"}
    assert result.stdout == "removed triton\n"
    assert "11 models used it: a, b, …; another runtime" in result.stderr


def test_registering_says_the_runtime(server: CannedServer, shoal: Shoal) -> None:
    server.answers(f"PUT {API}/models/m", json_of(view("m")))
    result = shoal("register", "m", "s3://b/m", "--runtime", "triton", "--format-version", "8",
                   "--protocol", "grpc-v2")
    assert result.exit_code == 0, result.output
    assert server.asked[0].json == {"name": "m", "uri": "s3://b/m", "runtime": "triton",
                                    "format_version": "8", "protocol": "grpc-v2"}
    assert shoal("register", "m", "s3://b/m", "--protocol", "v3").exit_code == 2


def test_names_are_completed(server: CannedServer) -> None:
    server.answers(f"GET {API}/runtimes", json_of(RuntimeList([OWN, VIEW])))
    context = typer.Context(typer.main.get_command(typer.Typer(callback=lambda: None)))
    context.params = {"server": server.url, "management": server.url}
    assert complete_runtime(context, "tr") == ["triton"]
    context.params = {"server": "http://127.0.0.1:9", "management": "http://127.0.0.1:9"}
    assert complete_runtime(context, "") == []
