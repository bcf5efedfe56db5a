"""Models that are broken, change or go: Shoal says what is wrong and serves everything else."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.served import Served, until
from tests.trouble import (
    HELD,
    HELD_LOAD,
    REQUEST,
    Asked,
    Gate,
    answer,
    copy_whole,
    declared,
    put,
    refusal,
    said,
    source,
)

from shoal.domain.errors import ArtifactError, Conflict, LoadFailed, ModelNotFound, NotTrusted

if TYPE_CHECKING:
    from examples.cases import Case

SETTLE_S = 0.2
QUICK = ("--folder-settle-s", str(SETTLE_S), "--folder-poll-s", "1",
         "--load-retry-base-s", "0.1", "--load-retry-max-s", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, example_cases: tuple[Path, list[Case]]
           ) -> Path:
    folder = tmp_path_factory.mktemp("trouble") / "models"
    folder.mkdir()
    examples = example_cases[0]
    for name in ("iris", "diabetes.json", "iris-net", "grapes.txt", "digits-net"):
        copy_whole(examples / name, folder / name)
    put(folder, "double", source())
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    trusted = folder.parent / "trusted"
    trusted.mkdir()
    data = tmp_path_factory.mktemp("data")
    with Served(folder, *QUICK, "--trust-locations", trusted, data_dir=data) as served:
        yield served


@pytest.fixture
def trusted(server: Served, folder: Path) -> Path:
    """A folder that is not watched, from which code may be loaded."""
    return folder.parent / "trusted"


@pytest.fixture
def iris(example_cases: tuple[Path, list[Case]]) -> Case:
    return next(case for case in example_cases[1] if case.model == "iris")


class Stream:
    """Requests without a pause, from two threads, until the block ends: all must be answered."""

    def __init__(self, server: Served, model: str) -> None:
        self.answers: list[float] = []
        self.failures: list[str] = []
        self._server, self._model = server, model
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]

    def _run(self) -> None:
        while not self._end.is_set():
            response = self._server.infer(self._model, REQUEST)
            if response.status_code == 200:
                self.answers.append(response.json()["outputs"][0]["data"][0])
            else:
                self.failures.append(response.text)

    def __enter__(self) -> Stream:
        for thread in self._threads:
            thread.start()
        until(lambda: self.answers or self.failures, "a first answer")
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
        assert self.failures == []


# --- broken from the start ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def broken(server: Served, folder: Path, example_cases: tuple[Path, list[Case]]) -> set[str]:
    """Puts one model of every kind of brokenness into the folder."""
    examples = example_cases[0]
    whole = (examples / "iris" / "model.joblib").read_bytes()
    digits = (examples / "digits.pkl").read_bytes()
    forest = (examples / "diabetes.json").read_bytes()
    net = (examples / "iris-net" / "model.onnx").read_bytes()
    script = (examples / "digits-net" / "1" / "model.pt").read_bytes()
    noise = os.urandom(4096)
    files = {
        "cut-joblib/model.joblib": whole[: len(whole) // 2], "cut-pickle.pkl": digits[:1000],
        "cut-trees.json": forest[: len(forest) // 2], "cut-net.onnx": net[: len(net) // 2],
        "cut-script/model.pt": script[: len(script) // 2],
        "empty.joblib": b"", "empty-net.onnx": b"", "empty-trees.json": b"",
        "noise.onnx": noise, "noise.pkl": noise, "noise-script.pt": noise, "noise.skops": noise,
        "strange/model.xyz": b"what is this", "two/a.joblib": whole, "two/b.joblib": whole,
        "nothing/README.md": b"# Nothing", "syntax/model.py": b"class Model(:\n",
        "no-class/model.py": b"x = 1\n", "no-module/model.py": b"import no_such_module_1\n",
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    names = {name.split("/")[0].split(".")[0] for name in files}
    declared(server, *names)
    return names


def test_what_is_broken_is_refused_with_its_cause(server: Served, broken: set[str]) -> None:
    for name in sorted(broken):
        response = server.infer(name, REQUEST)
        assert response.status_code == 503, (name, response.text)
        cause = response.json()["error"]
        assert name in cause, cause
        assert "\n" not in cause
        assert "Traceback" not in cause
        assert int(response.headers["retry-after"]) >= 0
        ready = server.http.get(f"/v2/models/{name}/ready")
        assert ready.status_code == 503, (name, ready.text)
        assert len(ready.json()["error"]) > 20, name
        story = server.client.explain(name)
        assert story.model.state in ("failed", "invalid"), name
        told = " ".join(story.summary)
        assert story.model.problem or story.failures, name
        assert (story.model.problem or story.failures[0].message) in told
        assert {event.kind for event in story.events} & {"model_problem", "load_failed"}, name
        with pytest.raises(LoadFailed) as error:
            server.client.load(name, timeout_s=10)
        assert name in str(error.value)


def test_each_cause_says_what_to_do(server: Served, broken: set[str]) -> None:
    for name, words in {
        "empty": "is empty; copy it again", "strange": "strange", "two": "b.joblib",
        "no-module": "no_such_module_1", "syntax": "model.py line 1", "no-class": "class Model",
        "cut-net": "cut-net.onnx", "nothing": "nothing",
    }.items():
        assert words in refusal(server, name)[1]


def test_the_others_serve_beside_them(server: Served, broken: set[str], iris: Case) -> None:
    assert server.infer("iris", iris.request).status_code == 200
    assert answer(server, "double") == [2.0, 4.0]


def test_status_names_what_is_broken(server: Served, broken: set[str]) -> None:
    status = server.client.status()
    assert status.ready
    said_of = "\n".join(status.problems)
    for name in ("strange", "two", "nothing"):
        assert f"'{name}'" in said_of
    assert status.by_state["invalid"] >= 3


# --- arriving -----------------------------------------------------------------------------------


def test_a_half_copied_model_is_not_declared_until_it_is_still(
    server: Served, folder: Path, example_cases: tuple[Path, list[Case]], iris: Case
) -> None:
    whole = (example_cases[0] / "iris" / "model.joblib").read_bytes()
    for attempt in range(10):
        name = f"slow-{attempt}"
        path = folder / name / "model.joblib"
        path.parent.mkdir()
        longest_s = 0.0
        with path.open("wb", buffering=0) as file:
            for start in range(0, len(whole), 50):
                written_at = time.monotonic()
                file.write(whole[start : start + 50])
                known = server.http.get("/v2/models").json()["models"]
                longest_s = max(longest_s, time.monotonic() - written_at)
                assert name not in known or longest_s > SETTLE_S
        if longest_s < SETTLE_S / 2:
            break  # else this machine paused, and the half file was still for long enough
    declared(server, name)
    assert server.infer(name, iris.request).status_code == 200
    assert not said(server, name, "load_failed")
    assert not said(server, name, "model_problem")


@pytest.mark.parametrize("how", ["renamed over it", "written in place"])
def test_new_content_takes_over_while_requests_run(
    server: Served, folder: Path, how: str
) -> None:
    name = how.split()[0]
    path = put(folder, name, source(factor=2))
    declared(server, name)
    with Stream(server, name) as stream:
        assert set(stream.answers) == {2.0}
        if how == "renamed over it":
            put(folder, name, source(factor=3))
        else:
            path.write_text(source(factor=3))
        until(lambda: stream.answers[-1] == 3.0, "the new content answers")
    assert stream.answers == sorted(stream.answers), "never back to the old one"
    assert said(server, name, "revision_switched")


def test_broken_new_content_leaves_the_old_one_serving_until_it_is_healed(
    server: Served, folder: Path
) -> None:
    put(folder, "heals", source(factor=2))
    declared(server, "heals")
    with Stream(server, "heals") as stream:
        put(folder, "heals", "class Model(:\n")
        until(lambda: said(server, "heals", "load_failed"), "the failed load is told")
        story = server.client.explain("heals")
        assert story.model.state == "ready"
        assert "model.py line 1" in " ".join(story.summary)
        assert story.model.pending is not None
        assert any("heals" in problem for problem in server.client.status().problems)
        put(folder, "heals", source(factor=3))
        until(lambda: stream.answers[-1] == 3.0, "the healed content answers")
    assert set(stream.answers) == {2.0, 3.0}
    assert not any("heals" in problem for problem in server.client.status().problems)


def test_new_content_that_is_no_model_leaves_the_old_one_serving(
    server: Served, folder: Path, example_cases: tuple[Path, list[Case]], iris: Case
) -> None:
    path = folder / "turned" / "model.joblib"
    path.parent.mkdir()
    shutil.copyfile(example_cases[0] / "iris" / "model.joblib", path)
    declared(server, "turned")
    assert server.infer("turned", iris.request).status_code == 200
    path.rename(path.with_suffix(".xyz"))
    until(lambda: said(server, "turned", "model_problem"), "the problem is told")
    assert server.infer("turned", iris.request).status_code == 200
    story = server.client.explain("turned")
    assert story.model.problem is not None
    assert story.model.problem in " ".join(story.summary)
    path.with_suffix(".xyz").rename(path)
    until(lambda: server.client.model("turned").problem is None, "the problem is gone")
    assert server.infer("turned", iris.request).status_code == 200


# --- versions -----------------------------------------------------------------------------------


def test_versions_come_break_and_go(server: Served, folder: Path) -> None:
    def put_version(number: int, text: str) -> None:
        beside = folder.parent / f".v{number}"
        beside.mkdir()
        (beside / "model.py").write_text(text)
        os.replace(beside, folder / "versions" / str(number))

    (folder / "versions").mkdir()
    put_version(1, source(factor=1))
    declared(server, "versions")
    with Stream(server, "versions") as stream:
        put_version(2, source(factor=2))
        until(lambda: stream.answers[-1] == 2.0, "version 2 takes over")
        assert answer(server, "versions", version=1) == [1.0, 2.0]
        put_version(3, "class Model(:\n")
        until(lambda: said(server, "versions", "load_failed"), "version 3 cannot be loaded")
        assert answer(server, "versions") == [2.0, 4.0]
        refused = server.infer("versions", REQUEST, 3)
        assert refused.status_code == 503
        assert "model.py line 1" in refused.json()["error"]
        shutil.rmtree(folder / "versions" / "3")
        until(lambda: len(server.client.model("versions").versions) == 2, "version 3 is gone")
        assert server.infer("versions", REQUEST, 3).status_code == 404
        shutil.rmtree(folder / "versions" / "2")
        until(lambda: stream.answers[-1] == 1.0, "the default falls back")
    assert set(stream.answers) == {1.0, 2.0}
    assert server.infer("versions", REQUEST, 2).status_code == 404
    assert "has no version 2" in server.infer("versions", REQUEST, 2).json()["error"]


def test_a_version_that_stands_in_is_ready_though_it_is_not_in_memory(
    server: Served, folder: Path
) -> None:
    made = folder.parent / ".stands-in"
    for number, text in ((1, source(factor=1)), (2, "class Model(:\n")):
        (made / str(number)).mkdir(parents=True)
        (made / str(number) / "model.py").write_text(text)
    (made / "model.yaml").write_text("idle_ttl_s: 0.1\n")
    os.replace(made, folder / "stands-in")
    declared(server, "stands-in")
    assert answer(server, "stands-in") == [1.0, 2.0]
    until(lambda: said(server, "stands-in", "unloaded"), "it was idle")
    until(lambda: server.client.model("stands-in").state == "cold", "it is not in memory")
    assert server.http.get("/v2/models/stands-in/ready").status_code == 200
    assert server.http.get("/v2/models/stands-in/versions/2/ready").status_code == 503
    assert answer(server, "stands-in") == [1.0, 2.0]


FAILS_THEN_HANGS = """
    def load(self, folder):
        first = not Path(GATE, "tried").exists()
        Path(GATE, "tried").touch()
        if first:
            raise ValueError("the first load fails")
""" + HELD_LOAD.partition("folder):")[2]


def test_what_failed_is_not_ready_while_it_is_tried_again(
    server: Served, folder: Path, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    put(folder, "second-try", source(FAILS_THEN_HANGS, gate=gate))
    declared(server, "second-try")
    until(lambda: (Asked(server, "second-try", timeout_ms=50), gate.came)[1], "it is tried again")
    refused = server.http.get("/v2/models/second-try/ready")
    assert refused.status_code == 503
    assert "the first load fails" in refused.json()["error"]
    gate.open()
    until(lambda: server.http.get("/v2/models/second-try/ready").status_code == 200, "it heals")


# --- going --------------------------------------------------------------------------------------


def test_a_model_deleted_in_use_finishes_its_requests(
    server: Served, folder: Path, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    put(folder, "leaving", source(HELD, gate=gate))
    declared(server, "leaving")
    answers: list[int] = []
    asking = threading.Thread(
        target=lambda: answers.append(server.infer("leaving", REQUEST).status_code)
    )
    asking.start()
    gate.wait_for(1)
    shutil.rmtree(folder / "leaving")
    until(lambda: server.http.get("/v2/models/leaving/ready").status_code == 404, "it is gone")
    assert "'leaving' is not registered" in refusal(server, "leaving")[1]
    gate.open()
    asking.join()
    assert answers == [200]


def test_a_loaded_model_whose_files_are_deleted_is_served_from_memory(
    server: Served, trusted: Path
) -> None:
    path = put(trusted, "kept", source(factor=5))
    server.client.register("kept", str(path.parent))
    assert answer(server, "kept") == [5.0, 10.0]
    path.unlink()
    assert answer(server, "kept") == [5.0, 10.0]
    server.client.unload("kept")
    with pytest.raises(LoadFailed, match=r"kept.*(does not exist|there is no model\.py)"):
        server.client.load("kept")
    status, cause = refusal(server, "kept")
    assert status == 503
    assert str(path.parent) in cause
    put(trusted, "kept", source(factor=5))
    server.client.load("kept")
    assert answer(server, "kept") == [5.0, 10.0]


# --- registered ---------------------------------------------------------------------------------


def test_changed_files_of_a_registered_model_are_refused_until_it_is_registered_again(
    server: Served, trusted: Path
) -> None:
    path = put(trusted, "changed", source(factor=2))
    server.client.register("changed", str(path.parent))
    assert answer(server, "changed") == [2.0, 4.0]
    put(trusted, "changed", source(factor=3))
    assert answer(server, "changed") == [2.0, 4.0], "what is in memory was declared"
    server.client.unload("changed")
    with pytest.raises(LoadFailed, match=r"not what was declared.*register the model again"):
        server.client.load("changed")
    server.client.register("changed", str(path.parent))
    assert answer(server, "changed") == [3.0, 6.0]


def test_registering_files_that_are_not_there_is_refused(server: Served, trusted: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nobody-home.*does not exist"):
        server.client.register("ghost", str(trusted / "nobody-home"))
    with pytest.raises(ModelNotFound):
        server.client.model("ghost")


def test_code_from_untrusted_folders_is_not_run(server: Served, folder: Path) -> None:
    mark = folder.parent / "it-ran"
    text = source() + f"\nPath({str(mark)!r}).touch()\n"
    path = put(folder.parent / "elsewhere", "foreign", text)
    with pytest.raises(NotTrusted, match=r"outside the trusted locations.*--trust-locations"):
        server.client.register("foreign", str(path.parent))
    assert refusal(server, "foreign")[0] == 404
    assert not mark.exists()


def test_a_link_does_not_lead_out_of_the_trusted_folders(server: Served, trusted: Path) -> None:
    path = put(trusted.parent / "elsewhere", "linked", source())
    (trusted / "linked").symlink_to(path.parent)
    with pytest.raises(NotTrusted, match="outside the trusted locations"):
        server.client.register("linked", str(trusted / "linked"))


def test_a_folder_that_becomes_a_link_to_elsewhere_is_not_loaded(
    server: Served, trusted: Path
) -> None:
    path = put(trusted, "moved", source())
    server.client.register("moved", str(path.parent))
    server.client.unload("moved")
    path.parent.rename(trusted.parent / "elsewhere" / "moved")
    path.parent.symlink_to(trusted.parent / "elsewhere" / "moved")
    with pytest.raises(LoadFailed, match=r"outside the trusted locations.*--trust-locations"):
        server.client.load("moved")


def test_a_registration_may_not_take_a_folders_name(server: Served, folder: Path) -> None:
    with pytest.raises(Conflict, match="watched folder"):
        server.client.register("double", str(folder / "double"))
    with pytest.raises(Conflict, match="watched folder"):
        server.client.unregister("double")
    with pytest.raises(ModelNotFound):
        server.client.unregister("nobody")
    assert answer(server, "double") == [2.0, 4.0]
