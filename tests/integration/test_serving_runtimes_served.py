"""Serving runtimes as users see them: declared through one server, chosen for models, followed by
all. No server of theirs is ever started here: what is asked for is never loaded there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.served import Served, until
from typer.testing import CliRunner, Result

from shoal.cli.main import app
from shoal.domain.errors import (
    Conflict,
    NoSupportingRuntime,
    NotFound,
    RuntimeDisabled,
    RuntimeNotRecognized,
)

if TYPE_CHECKING:
    from examples.cases import Case

Serve = Callable[..., Served]

ENGINES = """
name: engines
formats:
  - {name: tensorrt, version: "8"}
  - {name: onnx, priority: 2}
command: [/none/at/all/server, "--port={grpc_port}"]
"""
FAST = "--folder-settle-s", "0.05", "--cache-fill", "none"


@pytest.fixture(scope="module")
def models(
    tmp_path_factory: pytest.TempPathFactory, example_cases: tuple[Path, list[Case]]
) -> Path:
    """A folder with an engine that only a server can load; beside it, not in it, an ONNX model."""
    base = tmp_path_factory.mktemp("serving")
    (base / "models/engine").mkdir(parents=True)
    (base / "models/engine/model.plan").write_bytes(b"engine")
    (base / "models/engine/model.yaml").write_text("format: tensorrt\nformat_version: '8'\n")
    shutil.copytree(example_cases[0] / "iris-net", base / "net")
    return base


@pytest.fixture
def case(example_cases: tuple[Path, list[Case]]) -> Case:
    return next(each for each in example_cases[1] if each.model == "iris-net")


@pytest.fixture
def alone(models: Path, tmp_path: Path) -> Iterator[Served]:
    with Served(models / "models", *FAST, data_dir=tmp_path / "data") as server:
        yield server


def shoal(server: Served, *arguments: str, stdin: str | None = None) -> Result:
    target = ["--server", server.url, "--management", server.management]
    return CliRunner().invoke(app, [*target, *arguments], input=stdin)


def apply(server: Served, text: str = ENGINES) -> None:
    ended = shoal(server, "runtimes", "apply", "-", stdin=text)
    assert ended.exit_code == 0, ended.output


def runtime_of(server: Served, model: str) -> str | None:
    """Of its version; None: it has none."""
    versions = server.client.model(model).versions
    return versions[-1].runtime if versions else None


def code_of(server: Served, model: str) -> str | None:
    return server.client.model(model).problem_code


def test_models_find_a_runtime_when_one_is_declared_and_another_when_it_goes(
    alone: Served, models: Path, case: Case
) -> None:
    client = alone.client
    assert code_of(alone, "engine") == "UNKNOWN_FORMAT"
    with pytest.raises(RuntimeNotRecognized, match="no serving runtime 'engines'; declared are no"):
        client.register("net", str(models / "net"), runtime="engines")
    apply(alone)
    until(lambda: runtime_of(alone, "engine") == "engines", "the folder's model to be declared")
    assert client.model("engine").problem is None
    assert "It is loaded by the serving runtime engines." in client.explain("engine").summary

    client.register("net", str(models / "net"))  # onnx, of a higher priority there
    assert runtime_of(alone, "net") == "engines"
    client.register("own", str(models / "net"), runtime="shoal")
    assert runtime_of(alone, "own") == "shoal"
    assert alone.infer("own", case.request).status_code == 200
    with pytest.raises(NoSupportingRuntime, match="engines loads tensorrt, but of version 8"):
        client.register("x", str(models / "models/engine"), format_version="9")
    ended = shoal(alone, "register", "x", str(models / "models/engine"), "--protocol", "v1")
    assert ended.exit_code == 1
    assert "engines loads it, but does not speak v1" in ended.output

    with pytest.raises(Conflict, match="is used by 2 models: engine, net"):
        client.delete_runtime("engines")
    client.disable_runtime("engines")
    until(lambda: code_of(alone, "engine") == "NO_SUPPORTING_RUNTIME", "the engine's problem")
    assert "is disabled" in (client.model("engine").problem or "")
    until(lambda: runtime_of(alone, "net") == "shoal", "the net to be loaded by the server itself")
    assert alone.infer("net", case.request).status_code == 200
    with pytest.raises(RuntimeDisabled, match="'shoal runtimes enable engines' lets it"):
        client.register("x", str(models / "net"), runtime="engines")
    client.enable_runtime("engines")
    until(lambda: code_of(alone, "engine") is None, "the engine's health")
    assert runtime_of(alone, "net") == "shoal"  # a good choice stays


def test_what_was_declared_and_chosen_outlives_a_restart(
    alone: Served, models: Path, tmp_path: Path
) -> None:
    apply(alone)
    alone.client.register("named", str(models / "net"), runtime="engines")
    before = alone.client.get_runtime("engines")
    alone.stop()
    with Served(*FAST, data_dir=tmp_path / "data") as again:
        assert again.client.get_runtime("engines") == before
        assert runtime_of(again, "named") == "engines"
        assert again.client.delete_runtime("engines", force=True).first == ["named"]
        with pytest.raises(NotFound):
            again.client.get_runtime("engines")
        until(lambda: code_of(again, "named") == "RUNTIME_NOT_RECOGNIZED", "the model's problem")
        refused = again.infer("named", {"inputs": []})
        assert refused.status_code == 503
        assert "there is no serving runtime 'engines'" in refused.text
        apply(again)
        until(lambda: code_of(again, "named") is None, "the model to be declared anew")
        assert runtime_of(again, "named") == "engines"


def test_instances_of_a_mesh_know_the_same_runtimes_and_one_mends_what_they_change(
    serve: Serve, models: Path, tmp_path: Path, case: Case
) -> None:
    flags = (*FAST, "--registry-url", f"sqlite://{tmp_path}/registry", "--mesh-join", "on")
    first = serve(*flags, models / "models", data_dir=tmp_path / "first")
    second = serve(*flags, models / "models", data_dir=tmp_path / "second")

    def names(server: Served) -> list[str]:
        return [each.name for each in server.client.list_runtimes()]

    apply(second)
    until(lambda: names(first) == ["shoal", "engines"], "the other hears of it")
    for server in (first, second):
        until(lambda server=server: runtime_of(server, "engine") == "engines",  # type: ignore[misc]
              "the folder's model")
    first.client.register("net", str(models / "net"))
    assert runtime_of(first, "net") == "engines"
    until(lambda: "net" in [each.name for each in second.client.models()], "the model to be known")
    tried = second.infer("net", case.request)  # an instance may try, and there is no such program
    assert tried.status_code == 503
    assert "may hold" not in tried.text

    second.client.disable_runtime("engines")
    until(lambda: first.client.get_runtime("engines").disabled, "the other hears of that")
    for server in (first, second):
        until(lambda server=server: runtime_of(server, "net") == "shoal",  # type: ignore[misc]
              "the net to be loaded by the instances")
        assert server.infer("net", case.request).status_code == 200
        until(lambda server=server: code_of(server, "engine") == "NO_SUPPORTING_RUNTIME",  # type: ignore[misc]
              "the engine's problem")
        refused = server.infer("engine", {"inputs": []})
        assert refused.status_code == 503
        assert "disabled" in refused.text
    first.client.enable_runtime("engines")
    for server in (first, second):
        until(lambda server=server: code_of(server, "engine") is None,  # type: ignore[misc]
              "the engine's health")
