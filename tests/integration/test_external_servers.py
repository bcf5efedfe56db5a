"""Models in servers outside, which are real processes: started by Shoal, or running already."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from tests.conftest import ROOT
from tests.external import (
    EXAMPLE,
    INPUTS,
    OUTPUTS,
    PATHS,
    TRICKS,
    alive,
    external,
    linear,
    load,
    revision_of,
    tricks,
)
from tests.served import until

from shoal.domain.errors import (
    InvalidArtifact,
    InvalidInput,
    InvalidSpecification,
    LoadFailed,
    NotTrusted,
    Unavailable,
)
from shoal.domain.model import Revision
from shoal.domain.serving_runtime import ServingRuntime, SupportedFormat
from shoal.external.model import ExternalModel
from shoal.external.servers import ExternalServers
from shoal.node.loader import Loader
from shoal.ports import Apart
from shoal.runtimes.registry import RuntimeRegistry

X = np.array([[1, 1], [2, 0]], "f4")


def answer(model: ExternalModel) -> list[float]:
    found: list[float] = model.predict({"x": X}, {})["y"].tolist()
    return found


class Started:
    """A server that Shoal started, for tests that leave it usable."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes = folder / "notes"
        self.serving = tricks("tricks", self.notes)
        self.servers = external(folder)

    def load(self, name: str, **said: object) -> ExternalModel:
        return load(self.servers, self.serving, linear(self.folder, name, **said))

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    server = Started(tmp_path_factory.mktemp("started"))
    yield server
    server.servers.stop()
    children = psutil.Process().children()
    assert not [each for each in children if each.is_running() and str(TRICKS) in each.cmdline()]


# --- started by Shoal -----------------------------------------------------------------------------


def test_a_model_is_loaded_into_a_server_that_is_started_for_it(started: Started) -> None:
    model = started.load("plain")
    assert answer(model) == [5.0, 4.0]
    assert model.max_concurrency == 8  # as it reports
    assert isinstance(model, Apart)
    assert model.apart
    assert started.noted().count("status") == 1
    until(lambda: started.servers.bytes() > 10_000_000, "its memory is known")
    model.close()
    assert started.noted()[-1].startswith("unload plain__1-")


def test_it_tells_the_size_with_the_load_or_when_it_is_asked(started: Started) -> None:
    assert started.load("sized", size=12345).size_bytes() == 12345
    assert started.load("asked", asked_size=777).size_bytes() == 777


def test_it_is_told_what_modelmesh_tells(started: Started) -> None:
    revision = msgspec.structs.replace(
        linear(started.folder, "told", key=True), inputs=INPUTS, outputs=OUTPUTS)
    model = load(started.servers, started.serving, revision)
    key = json.loads(started.noted()[-1])
    assert key["model_type"] == {"name": "linear", "version": "1"}
    assert key["disk_size_bytes"] == revision.files_bytes
    schema = json.loads(Path(key["schema_path"]).read_text())
    assert schema["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert model.signature.inputs == INPUTS
    assert not model.notes


def test_what_it_refuses_is_refused_with_its_words(started: Started) -> None:
    with pytest.raises(InvalidArtifact, match=r"'tricks' refuses sunday\.linear: not on a Sunday"):
        started.load("sunday", refuse=True)
    with pytest.raises(InvalidArtifact, match=r"cannot load heavy\.linear: .* too heavy"):
        started.load("heavy", fail=True)
    assert started.noted()[-1].startswith("unload heavy__")


def test_a_request_that_it_finds_wrong_is_the_callers_fault(started: Started) -> None:
    model = started.load("narrow")
    with pytest.raises(InvalidInput, match="rows must have 2 columns"):
        model.predict({"x": np.ones((1, 3), "f4")}, {})


def test_a_death_fails_the_request_with_its_last_words_and_no_other(started: Started) -> None:
    once = started.folder / "once"
    once.touch()
    other, model = started.load("beside"), started.load("deadly", die=str(once))
    with pytest.raises(Unavailable, match=r"exited with status 7; the last .* out of luck"):
        answer(model)
    assert answer(other) == answer(model) == [5.0, 4.0]


def test_one_that_hangs_is_ended_and_started_again(tmp_path: Path) -> None:
    once = tmp_path / "once"
    servers = external(tmp_path, hang_s=2.0)
    model = load(servers, tricks("tricks", tmp_path / "notes"), linear(tmp_path, hang=str(once)))
    once.touch()
    with pytest.raises(Unavailable, match="did not answer for 2 s and was given up"):
        answer(model)
    until(lambda: can(model), "an answer")
    servers.stop()


def can(model: ExternalModel) -> bool:
    """It may wait a while until it is started again."""
    try:
        return answer(model) == [5.0, 4.0]
    except Unavailable:
        return False


def test_one_that_does_not_start_says_what_it_said_last(tmp_path: Path) -> None:
    servers = external(tmp_path)
    for command, how in (
        (("no-such-server", "{grpc_port}"), r"exited with status 127, before .*|no-such-server"),
        (("sh", "-c", "echo not a good day; exit 3"), "status 3; the last it said was: not a good"),
    ):
        serving = ServingRuntime(
            name=command[0], formats=(), interface="model-runtime", command=command)
        with pytest.raises(LoadFailed, match=how):
            load(servers, serving, linear(tmp_path))
    servers.stop()


def test_it_ends_with_shoal_however_that_ends(tmp_path: Path) -> None:
    serving = tmp_path / "serving"
    serving.write_bytes(msgspec.json.encode(tricks("tricks", tmp_path / "notes")))
    shoal = subprocess.Popen(
        [sys.executable, "-c", LOADS, str(serving), str(tmp_path)], cwd=ROOT,
        env={**os.environ, **PATHS}, stdout=subprocess.PIPE, text=True)
    assert shoal.stdout is not None
    for line in shoal.stdout:
        if line.strip() == "loaded":
            break
    servers = psutil.Process(shoal.pid).children(recursive=True)
    assert len(servers) == 2  # it, and who watches over it
    shoal.send_signal(signal.SIGKILL)
    shoal.wait()
    shoal.stdout.close()
    until(lambda: not any(alive(each) for each in servers), "the server's end")


LOADS = """
import sys, threading
from pathlib import Path
import msgspec
from shoal.domain.serving_runtime import ServingRuntime
from tests.external import external, linear, load
serving = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ServingRuntime)
folder = Path(sys.argv[2])
load(external(folder), serving, linear(folder))
print("loaded", flush=True)
threading.Event().wait()
"""


# --- running already ------------------------------------------------------------------------------


class Runs:
    """A server that somebody else started, at a Unix socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes = folder / "notes"
        self.serving = ServingRuntime(
            name="runs", formats=(SupportedFormat("linear"),), interface="model-runtime",
            address=f"unix:{folder}/socket")
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(TRICKS), f"unix:{self.folder}/socket"],
            env={**os.environ, **PATHS, "NOTES": str(self.notes)}, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    server = Runs(tmp_path)
    yield server
    server.stop()


def test_a_server_that_runs_already_is_one_instances_and_may_be_started_anew(runs: Runs) -> None:
    servers, others = external(runs.folder), external(runs.folder)
    revision = linear(runs.folder)
    model = load(servers, runs.serving, revision)
    assert answer(model) == [5.0, 4.0]
    assert servers.bytes() == 0  # its memory is not this instance's
    with pytest.raises(LoadFailed, match=r"is used by the instance of .* declare a 'command'"):
        load(others, runs.serving, revision)
    others.stop()
    runs.stop()
    runs.start()
    until(lambda: can(model), "an answer")
    servers.stop()
    assert runs.process.poll() is None  # it is left running
    again = external(runs.folder)
    assert answer(load(again, runs.serving, revision)) == [5.0, 4.0]
    again.stop()


def test_a_load_under_way_is_taken_back_when_shoal_ends(runs: Runs) -> None:
    servers = external(runs.folder)
    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(
            load, servers, runs.serving, linear(runs.folder, "slow", hang_loading=True))
        until(lambda: runs.notes.exists() and "load slow" in runs.notes.read_text(), "the load")
        servers.stop()
        with pytest.raises(LoadFailed, match="was cancelled, as Shoal ends"):
            loading.result()
    assert runs.notes.read_text().splitlines()[-1].startswith("unload slow__")


# --- declarations and trust -----------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "problem"), [
    ({}, "must have either a 'command'.* or an 'address'"),
    ({"command": ("x",), "address": "127.0.0.1:1"}, "must have either a 'command'"),
    ({"address": "127.0.0.1:1", "serves": "triton"}, "say with 'models_dir' which folder"),
])
def test_a_declaration_that_lacks_something_says_what(
    tmp_path: Path, changes: dict[str, object], problem: str
) -> None:
    serving = ServingRuntime(name="r", formats=(), **changes)  # type: ignore[arg-type]
    with pytest.raises(InvalidSpecification, match=problem):
        load(external(tmp_path), serving, linear(tmp_path))


def test_nothing_is_loaded_into_one_that_is_disabled(tmp_path: Path) -> None:
    serving = ServingRuntime(name="r", formats=(), command=("x",), disabled=True)
    with pytest.raises(LoadFailed, match="'r' is disabled"):
        load(external(tmp_path), serving, linear(tmp_path))


def loader(servers: ExternalServers, serving: ServingRuntime, *trusted: str) -> Loader:
    made = Loader(RuntimeRegistry.installed(), trusted, (), 1)
    made.external, made.serving = servers, {serving.name: serving}.__getitem__
    return made


def outside(revision: Revision) -> Revision:
    return msgspec.structs.replace(revision, runtime="example")


def test_the_example_serves_what_the_loader_loads(tmp_path: Path) -> None:
    serving = ServingRuntime(
        name="example", formats=(SupportedFormat("linear"),), interface="model-runtime",
        command=(sys.executable, str(EXAMPLE), "127.0.0.1:{grpc_port}"), environment=PATHS)
    servers = external(tmp_path)
    loads = loader(servers, serving, str(tmp_path))
    loaded = loads.load(outside(linear(tmp_path)))
    assert isinstance(loaded.model, ExternalModel)
    assert answer(loaded.model) == [5.0, 4.0]
    assert loaded.size_bytes >= 8
    until(lambda: loads.apart_bytes() > 10_000_000, "its memory in the instance's books")
    loads.close(loaded.model)
    loads.stop()
    assert loads.apart_bytes() == 0


def test_formats_that_shoal_does_not_know_are_believed_to_run_code(tmp_path: Path) -> None:
    serving = ServingRuntime(name="example", formats=(), command=("never-started",))
    revision = outside(linear(tmp_path))
    with pytest.raises(NotTrusted, match="loading the format 'linear' from it can run code"):
        loader(external(tmp_path), serving).check(revision)
    loader(external(tmp_path), serving).check(msgspec.structs.replace(revision, trust="code"))
    loader(external(tmp_path), serving, str(tmp_path)).check(revision)


def test_formats_that_run_no_code_need_no_trust_unless_something_names_code(
    tmp_path: Path,
) -> None:
    serving = ServingRuntime(name="example", formats=(), command=("never-started",))
    loads = loader(external(tmp_path), serving)
    file = tmp_path / "iris.onnx"
    file.write_bytes(b"x")
    loads.check(outside(revision_of(file, "onnx")))
    with pytest.raises(NotTrusted):
        loads.check(outside(revision_of(file, "onnx", options={"config": 'backend: "python"'})))
    folder = tmp_path / "folder"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text("import this")
    with pytest.raises(NotTrusted):
        loads.check(outside(revision_of(folder, "onnx")))


def test_a_runtime_of_which_nobody_knows_is_named(tmp_path: Path) -> None:
    loads = Loader(RuntimeRegistry.installed(), (str(tmp_path),), (), 1)
    with pytest.raises(InvalidSpecification, match="no models run in other servers here"):
        loads.load(outside(linear(tmp_path)))
    loads.external = external(tmp_path)
    with pytest.raises(InvalidSpecification, match="the runtime 'example' is not known here"):
        loads.load(outside(linear(tmp_path)))


def test_threads_that_ask_together_are_answered(started: Started) -> None:
    model = started.load("together")
    go = threading.Barrier(8)

    def ask(_: int) -> list[float]:
        go.wait(10)
        return answer(model)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(8))) == [[5.0, 4.0]] * 8
