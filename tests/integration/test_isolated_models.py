"""Models in processes of their own: what they answer, how they die, how they come back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.isolated import ECHO, OPTIONS, isolated, model_folder, python_model
from tests.served import until

from shoal.domain.errors import (
    ArtifactChanged,
    InvalidArtifact,
    InvalidInput,
    LoadFailed,
    ModelFailed,
    Unavailable,
)
from shoal.isolation.model import IsolatedModel
from shoal.ports import Artifact

X = {"x": np.array([1.0, 2.0])}

# Does what the parameters say.
OBEDIENT = """
    max_concurrency = 3

    def predict(self, inputs, parameters):
        if "exit" in parameters:
            print("going down", file=sys.stderr)
            os._exit(parameters["exit"])
        if "allocate" in parameters:
            return {"x": np.ones(parameters["allocate"], np.uint8)}
        if "refuse" in parameters:
            from shoal.domain.errors import InvalidInput
            raise InvalidInput("x is not nice")
        if "hang" in parameters:
            open(parameters["hang"], "x").close()
            time.sleep(60)
        if "raise" in parameters:
            raise SystemExit("enough")
        if "variable" in parameters:
            return {"v": [os.environ.get(parameters["variable"], "")]}
        return {"x": inputs["x"] * 2, "pid": np.array([os.getpid()])}
"""

Start = Callable[..., IsolatedModel]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[IsolatedModel] = []

    def run(body: str = OBEDIENT, **told: object) -> IsolatedModel:
        model = python_model(model_folder(tmp_path / "model", body), **told)  # type: ignore[arg-type]
        started.append(model)
        return model

    yield run
    for model in started:
        model.close()


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


def test_it_answers_from_another_process(start: Start) -> None:
    model = start()
    answer = model.predict(X, {})
    assert answer["x"].tolist() == [2.0, 4.0]
    assert answer["pid"].tolist() == [model.pid]
    assert model.pid != os.getpid()
    assert model.platform == "python (isolated)"


def test_its_size_is_what_its_process_has(start: Start) -> None:
    model = start()
    size = model.size_bytes()
    assert size is not None
    assert 10e6 < size < 300e6


def test_closing_calls_the_models_close_and_ends_the_process(start: Start, tmp_path: Path) -> None:
    model = start(f"""
    def close(self):
        open({str(tmp_path / "closed")!r}, "x").close()
""" + ECHO)
    pid = model.pid
    model.close()
    assert (tmp_path / "closed").exists()
    assert gone(pid)


def test_what_it_started_ends_with_it(start: Start) -> None:
    model = start("""
    def load(self, folder):
        import subprocess
        self.child = subprocess.Popen(["sleep", "60"])

    def predict(self, inputs, parameters):
        return {"pid": [self.child.pid]}
""")
    child = int(model.predict({}, {})["pid"][0])
    model.close()
    until(lambda: gone(child), "the end of the child")


def test_errors_are_the_same_as_in_process(start: Start) -> None:
    model = start()
    with pytest.raises(InvalidInput, match="x is not nice"):
        model.predict(X, {"refuse": 1})
    with pytest.raises(ModelFailed, match="model 'm' failed: SystemExit: enough"):
        model.predict(X, {"raise": 1})
    assert model.predict(X, {})["x"].tolist() == [2.0, 4.0]


def test_a_model_that_cannot_be_loaded_says_why(start: Start) -> None:
    with pytest.raises(InvalidArtifact, match="no luck"):
        start('    def load(self, folder): raise ValueError("no luck")\n' + ECHO)


def test_a_process_that_dies_while_loading_says_how(start: Start) -> None:
    with pytest.raises(InvalidArtifact, match=r"exited with status 4; the last it said was: bye"):
        start('    def load(self, folder): print("bye"); os._exit(4)\n' + ECHO)


def test_calls_run_at_once_as_many_as_the_model_takes(start: Start) -> None:
    model = start("""
    max_concurrency = 3

    def load(self, folder):
        import threading
        self.meeting = threading.Barrier(3)

    def predict(self, inputs, parameters):
        self.meeting.wait(20)
        return dict(inputs)
""")
    answers: list[float] = []

    def call(value: float) -> None:
        answers.append(float(model.predict({"x": np.array([value])}, {})["x"][0]))

    threads = [threading.Thread(target=call, args=(value,)) for value in (1.0, 2.0, 3.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [1.0, 2.0, 3.0]


def test_a_death_fails_the_call_and_the_next_one_is_answered(start: Start) -> None:
    model = start()
    before = model.pid
    with pytest.raises(ModelFailed, match="exited with status 3; the last it said was: going down"):
        model.predict(X, {"exit": 3})
    assert model.predict(X, {})["x"].tolist() == [2.0, 4.0]
    assert model.pid != before


def test_a_death_between_calls_is_not_noticed(start: Start) -> None:
    model = start()
    model.predict(X, {})
    os.kill(model.pid, signal.SIGKILL)
    until(lambda: model._process.has_ended, "its end")
    assert model.predict(X, {})["x"].tolist() == [2.0, 4.0]


def test_deaths_in_a_row_make_it_wait_and_say_so(start: Start) -> None:
    model = start()
    model._restarts.early = 3  # as if: it would be asked in time, were the wait a shorter one
    with pytest.raises(ModelFailed):
        model.predict(X, {"exit": 1})
    with pytest.raises(Unavailable, match=r"died 4 times in a row .* exited with status 1"
                                          r".* started again in [12]\.\d s") as raised:
        model.predict(X, {})
    assert 0 < raised.value.retry_after_s <= 2
    until(lambda: answers(model), "an answer after the wait")


def test_one_that_is_killed_again_and_again_is_given_up_for_long(start: Start) -> None:
    model = start()
    model._restarts.kills = 3  # as if: it would be waited for longer and longer
    for _ in range(2):
        until(lambda: answers(model), "an answer")
        os.kill(model.pid, signal.SIGKILL)
        until(lambda: model._process.has_ended, "its end")
    with pytest.raises(Unavailable, match=r"was killed 5 times in a row; .* by SIGKILL: .*"
                                          r"not started again for 60 minutes: .*shoal load m"):
        model.predict(X, {})


def answers(model: IsolatedModel) -> bool:
    try:
        return bool(model.predict(X, {})["x"].tolist() == [2.0, 4.0])
    except Unavailable:
        return False


def test_a_model_that_cannot_be_loaded_again_says_so(start: Start, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    model = start(f"""
    def load(self, folder):
        if os.path.exists({str(flag)!r}): raise ValueError("not twice")
        open({str(flag)!r}, "x").close()
""" + OBEDIENT)
    with pytest.raises(ModelFailed):
        model.predict(X, {"exit": 1})
    with pytest.raises(LoadFailed, match=r"could not be started again: .*not twice"):
        model.predict(X, {})


def test_files_that_changed_are_not_loaded_again(start: Start, tmp_path: Path) -> None:
    model = start()
    with pytest.raises(ModelFailed):
        model.predict(X, {"exit": 1})
    model_folder(tmp_path / "model", ECHO)
    with pytest.raises(ArtifactChanged, match="register it anew"):
        model.predict(X, {})


def test_a_call_that_is_not_answered_ends_the_process(start: Start, tmp_path: Path) -> None:
    model = start(options=replace(OPTIONS, call_timeout_s=1))
    with pytest.raises(ModelFailed, match=r"within 1 s \(isolation.call_timeout_s\)"):
        model.predict(X, {"hang": str(tmp_path / "hangs")})
    assert model.predict(X, {})["x"].tolist() == [2.0, 4.0]


def test_a_load_that_does_not_end_is_ended(start: Start) -> None:
    with pytest.raises(InvalidArtifact, match=r"within 0.5 s \(isolation.start_timeout_s\)"):
        start("    def load(self, folder): time.sleep(60)\n" + ECHO,
              options=replace(OPTIONS, start_timeout_s=0.5))


def test_memory_beyond_its_bound_fails_the_call_alone(start: Start) -> None:
    model = start(memory_bytes=50_000_000)
    with pytest.raises(ModelFailed, match=r"MemoryError: .*isolation.memory_factor"):
        model.predict(X, {"allocate": 2_000_000_000})
    assert model.predict(X, {"allocate": 10_000_000})["x"].size == 10_000_000


def test_memory_is_bound_by_the_measured_size_when_none_is_declared(start: Start) -> None:
    model = start()
    with pytest.raises(ModelFailed, match="MemoryError"):
        model.predict(X, {"allocate": 2_000_000_000})


def test_the_servers_secrets_are_not_there(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("MODEL_COLOUR", "blue")
    model = start()
    seen = [model.predict({}, {"variable": name})["v"].tolist()
            for name in ("AWS_SECRET_ACCESS_KEY", "MODEL_COLOUR")]
    assert seen == [[b""], [b"blue"]]


def test_it_has_no_descriptors_but_its_own(start: Start) -> None:
    with open(__file__) as held:
        os.set_inheritable(held.fileno(), True)
        model = start("""
    def predict(self, inputs, parameters):
        found = []
        for number in os.listdir("/proc/self/fd"):
            try:
                found.append(os.readlink("/proc/self/fd/" + number))
            except OSError:
                pass
        return {"open": found}
""")
        found = [name.decode() for name in model.predict({}, {})["open"]]
    assert not any(name.endswith(".py") for name in found)
    assert sum(name.startswith("socket:") for name in found) == 2


def test_what_it_prints_is_logged_with_its_name(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    start('    def load(self, folder): print("here we go")\n' + ECHO).close()
    assert "here we go" in "".join(capfd.readouterr())


def test_a_class_that_is_missing_is_missed_here_too(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "model.py").touch()
    with pytest.raises(InvalidArtifact, match=r"Model of model\.py does not exist"):
        isolated(Artifact("m", 1, folder, "python"))
