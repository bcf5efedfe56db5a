"""Environments of models with requirements: pip's own doing, from packages made here."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.isolated import make_wheel, model_folder, python_model, with_environments
from tests.served import until

from shoal.domain.errors import InvalidArtifact, LoadFailed
from shoal.isolation import environment
from shoal.isolation.environment import FILE, RETRY_AFTER_S, Environments, Lease
from shoal.isolation.environment import installer_environment as variables_of_pip

Get = Callable[[str], Lease]


@pytest.fixture(autouse=True)
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that pip finds: `pebbles` 1.0 and 2.0."""
    folder = tmp_path / "wheels"
    for version in ("1.0", "2.0"):
        make_wheel(folder, "pebbles", version)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def environments(tmp_path: Path) -> Environments:
    return Environments(tmp_path / "environments", most=2)


@pytest.fixture
def lease(environments: Environments, tmp_path: Path) -> Iterator[Get]:
    leases: list[Lease] = []

    def get(text: str) -> Lease:
        file = tmp_path / FILE
        file.write_text(text)
        leases.append(environments.lease(file, "m"))
        return leases[-1]

    yield get
    for each in leases:
        with contextlib.suppress(OSError):  # the test has ended it
            each.end()


def built(tmp_path: Path) -> set[str]:
    return {path.parent.name for path in (tmp_path / "environments").glob("*/complete")}


def test_a_model_runs_with_its_requirements(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", """
    def predict(self, inputs, parameters):
        return {"version": [pebbles.VERSION], "python": [sys.executable]}
""", head="import pebbles", requirements="pebbles==1.0\n")
    model = python_model(folder, with_environments(tmp_path / "environments"))
    answer = model.predict({}, {})
    model.close()
    assert answer["version"].tolist() == [b"1.0"]
    assert answer["python"][0] != sys.executable.encode()


def test_an_environment_that_vanished_is_told(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", requirements="pebbles==1.0\n")
    model = python_model(folder, with_environments(tmp_path / "environments"))
    shutil.rmtree(tmp_path / "environments")
    os.kill(model.pid, signal.SIGKILL)
    until(lambda: model._process.has_ended, "its end")
    with pytest.raises(LoadFailed, match=r"could not be started: .*bin/python"):
        model.predict({}, {})
    model.close()


def test_what_the_server_has_is_not_there(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", """
    def predict(self, inputs, parameters):
        import importlib.util
        return {"there": [importlib.util.find_spec(n) is not None for n in ("pytest", "pydantic")]}
""", requirements="pebbles\n")
    model = python_model(folder, with_environments(tmp_path / "environments"))
    answer = model.predict({}, {})
    model.close()
    assert answer["there"].tolist() == [False, False]


def test_equal_requirements_share_an_environment(lease: Get, tmp_path: Path) -> None:
    first = lease("pebbles==1.0\n")
    second = lease("# the same\n\npebbles==1.0  # for ponds\n")
    assert first.python == second.python
    assert len(built(tmp_path)) == 1


def test_other_requirements_have_another(lease: Get, tmp_path: Path) -> None:
    assert lease("pebbles==1.0").python != lease("pebbles==2.0").python
    assert len(built(tmp_path)) == 2


def test_no_requirements_are_an_environment_too(lease: Get) -> None:
    assert lease("# none\n").python.exists()


def test_several_that_want_the_same_build_it_once(
    environments: Environments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / FILE).write_text("pebbles==1.0")
    leases: list[Lease] = []
    threads = [
        threading.Thread(
            target=lambda: leases.append(environments.lease(tmp_path / FILE, "m")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in leases:
        each.end()
    assert len({each.python for each in leases}) == 1
    assert "".join(capfd.readouterr()).count("Successfully installed") == 1


def test_who_was_about_to_build_what_others_use_by_now_shares_it(
    environments: Environments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked before there was one, and comes to build it when another has built it and uses
    it."""
    (tmp_path / FILE).write_text("pebbles==1.0")
    lock = environment._lock
    leases: list[Lease] = []

    def overtaken(path: Path, kind: int) -> int:
        if kind & fcntl.LOCK_EX:
            monkeypatch.setattr(environment, "_lock", lock)
            leases.append(environments.lease(tmp_path / FILE, "faster"))
        return lock(path, kind)

    monkeypatch.setattr(environment, "_lock", overtaken)
    slower = threading.Thread(
        target=lambda: leases.append(environments.lease(tmp_path / FILE, "slower")))
    slower.start()
    slower.join(60)
    waits = slower.is_alive()
    for each in leases:
        each.end()
    slower.join()
    assert not waits
    assert len({each.python for each in leases}) == 1
    assert len(leases) == 2


def test_what_pip_says_is_told(lease: Get) -> None:
    with pytest.raises(InvalidArtifact, match=r"model 'm': .*No matching distribution found for "
                                              r"pebbles==9\.0"):
        lease("pebbles==9.0")


def test_a_failure_is_remembered_for_a_while(
    lease: Get, tmp_path: Path, packages: Path
) -> None:
    with pytest.raises(InvalidArtifact):
        lease("pebbles==9.0")
    make_wheel(packages, "pebbles", "9.0")
    with pytest.raises(InvalidArtifact, match=r"No matching .*so it was before; .* is removed"):
        lease("pebbles==9.0")
    failed = next((tmp_path / "environments").glob("*.failed"))
    past = failed.stat().st_mtime - RETRY_AFTER_S - 1
    os.utime(failed, (past, past))
    assert lease("pebbles==9.0").python.exists()
    assert not failed.exists()


def test_a_half_built_environment_is_built_anew(lease: Get, tmp_path: Path) -> None:
    first = lease("pebbles==1.0")
    first.end()
    home = first.python.parent.parent
    (home / "complete").unlink()
    first.python.unlink()
    assert lease("pebbles==1.0").python.exists()


def test_the_one_used_longest_ago_leaves(lease: Get, tmp_path: Path) -> None:
    first, second = lease("pebbles==1.0"), lease("pebbles==2.0")
    first.end()
    second.end()
    os.utime(first.python.parent.parent / "complete", (1, 1))
    lease("pebbles")
    assert not first.python.exists()
    assert second.python.exists()
    assert len(built(tmp_path)) == 2


def test_one_that_is_used_stays(lease: Get, tmp_path: Path) -> None:
    leases = [lease("pebbles==1.0"), lease("pebbles==2.0"), lease("pebbles")]
    assert all(each.python.exists() for each in leases)


def test_who_builds_elsewhere_is_waited_for(
    environments: Environments, lease: Get, tmp_path: Path
) -> None:
    first = lease("pebbles==1.0")
    first.end()
    lock = first.python.parent.parent.with_suffix(".lock")
    descriptor = os.open(lock, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    came: list[Lease] = []
    waiting = threading.Thread(target=lambda: came.append(environments.lease(tmp_path / FILE, "m")))
    waiting.start()
    waiting.join(0.05)
    assert not came
    os.close(descriptor)
    until(lambda: came, "the lease")
    waiting.join()
    came[0].end()


@pytest.mark.parametrize("line", [
    "-r base.txt", "-c limits.txt", "-e .", "./wheel.whl", "/srv/wheel.whl", "file:///srv/x.whl",
    "pebbles @ file:///srv/x.whl", "--requirement=base.txt",
])
def test_requirements_that_lead_to_other_files_are_refused(lease: Get, line: str) -> None:
    with pytest.raises(InvalidArtifact, match="leads to other files"):
        lease(line)


def test_requirements_that_are_no_text_are_refused(environments: Environments, tmp_path: Path
                                                   ) -> None:
    (tmp_path / FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidArtifact, match="cannot be read"):
        environments.lease(tmp_path / FILE, "m")


def test_pip_gets_its_own_settings_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:pw@index/simple")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    given = variables_of_pip()
    assert given["PIP_INDEX_URL"] == "https://me:pw@index/simple"
    assert "AWS_SECRET_ACCESS_KEY" not in given
