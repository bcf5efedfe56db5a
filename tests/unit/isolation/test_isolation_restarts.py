"""When a model's process is started again, with which variables, and how its end is told."""

from __future__ import annotations

import pytest

from shoal.isolation.process import in_words
from shoal.isolation.restarts import Restarts
from shoal.isolation.variables import variables


def test_the_first_restart_is_at_once() -> None:
    restarts = Restarts()
    restarts.died(1.0, now=10.0)
    assert restarts.wait_s(10.0) == 0


def test_the_waits_grow_to_a_minute_while_it_dies_early() -> None:
    restarts = Restarts()
    waits = []
    for _ in range(10):
        restarts.died(1.0, now=0.0)
        waits.append(restarts.wait_s(0.0))
    assert waits == [0, 0.5, 1, 2, 4, 8, 16, 32, 60, 60]


def test_a_wait_passes() -> None:
    restarts = Restarts()
    for _ in range(3):
        restarts.died(1.0, now=5.0)
    assert restarts.wait_s(5.25) == 0.75
    assert restarts.wait_s(9.0) == 0


def test_a_process_that_lasted_is_started_again_at_once() -> None:
    restarts = Restarts()
    for _ in range(5):
        restarts.died(1.0, now=0.0)
    restarts.died(61.0, now=100.0)
    assert restarts.wait_s(100.0) == 0


def test_one_that_is_killed_again_and_again_waits_for_an_hour() -> None:
    restarts = Restarts()
    for _ in range(5):
        assert not restarts.is_given_up
        restarts.died(120.0, now=0.0, killed=True)  # memory fills up slowly
    assert restarts.wait_s(0.0) == 3600.0
    restarts.died(601.0, now=4000.0, killed=True)
    assert restarts.wait_s(4000.0) == 0


def test_other_deaths_are_no_kills() -> None:
    restarts = Restarts()
    for killed in (True, True, True, True, False, True):
        restarts.died(1.0, now=0.0, killed=killed)
    assert not restarts.is_given_up


def test_the_kernels_word_counts() -> None:
    said = in_words(-9, for_memory=True)
    assert said == "was killed by SIGKILL: the kernel found no memory left"


@pytest.mark.parametrize(("status", "words"), [
    (0, "exited with status 0"), (-11, "was killed by SIGSEGV"),
    (-9, "was killed by SIGKILL: by somebody, or for want of memory"),
    (-60, "was killed by signal 60"), (None, "hung up"),
])
def test_an_end_is_told_in_words(status: int | None, words: str) -> None:
    assert in_words(status) == words


@pytest.mark.parametrize("name", [
    "SHOAL_REGISTRY_PASSWORD", "SHOAL_HOST", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE",
    "AZURE_STORAGE_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "HF_TOKEN", "MY_DB_PASSWORD",
    "OPENAI_API_KEY", "NETRC", "PIP_INDEX_URL", "GITHUB_TOKEN", "some_secret",
])
def test_secrets_stay_with_the_server(name: str) -> None:
    assert name not in variables({name: "s3cret"}, foreign=False)


def test_an_address_with_a_password_stays_with_the_server() -> None:
    kept = variables({"https_proxy": "http://me:pw@proxy:8080", "http_proxy": "http://proxy:8080"},
                     foreign=False)
    assert "https_proxy" not in kept
    assert kept["http_proxy"] == "http://proxy:8080"


def test_everything_else_goes_along() -> None:
    environ = {"PATH": "/bin", "LD_LIBRARY_PATH": "/x", "PYTHONPATH": "/src", "TZ": "UTC"}
    assert variables(environ, foreign=False).items() >= environ.items()


def test_another_python_gets_none_of_this_ones_paths() -> None:
    kept = variables({"PYTHONPATH": "/src", "PYTHONHOME": "/py", "TZ": "UTC"}, foreign=True)
    assert "PYTHONPATH" not in kept
    assert "PYTHONHOME" not in kept


def test_frameworks_get_so_many_threads_unless_somebody_said_otherwise() -> None:
    kept = variables({"MKL_NUM_THREADS": "7"}, foreign=False, threads=2)
    assert kept["OMP_NUM_THREADS"] == "2"
    assert kept["MKL_NUM_THREADS"] == "7"
