"""Restarts, a full disk, a damaged file: what was declared is kept, what can serve serves."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from tests.served import Served, until
from tests.trouble import answer, declared, put, said, source

from shoal.domain.errors import ModelNotFound

MIB = 1024 * 1024
QUICK = ("--folder-settle-s", "0.15", "--folder-poll-s", "1")


@pytest.fixture
def trusted(tmp_path: Path) -> Path:
    folder = tmp_path / "trusted"
    folder.mkdir()
    return folder


def test_a_restart_keeps_registrations_and_loads_what_was_used_last_first(
    serve: Callable[..., Served], trusted: Path, tmp_path: Path
) -> None:
    flags = ("--trust-locations", trusted, "--memory", "20MiB", "--load-concurrency", "1")
    names = [f"model-{letter}" for letter in "abcdefgh"]
    first = serve(*flags, "--cache-fill", "none")
    for number, name in enumerate(names):
        path = put(trusted, name, source(factor=number))
        first.client.register(name, str(path.parent), memory_bytes=4 * MIB)
    for name in names:
        answer(first, name)
    for name in ("model-e", "model-b", "model-g"):
        for _ in range(10):  # times are kept to the millisecond
            answer(first, name)
    first.client.unregister("model-h")
    assert first.stop() == 0

    second = serve(*flags)  # has room for four, after keeping a fifth of the budget free
    until(lambda: second.client.instances()[0].copies == 4, "memory is filled")
    begun = [event.model for event in second.client.events(limit=1000).events
             if event.kind == "load_started"]
    assert begun == ["model-g", "model-b", "model-e", "model-f"]
    assert [model.name for model in second.client.models()] == names[:-1]
    assert answer(second, "model-a") == [0.0, 0.0]
    with pytest.raises(ModelNotFound):
        second.client.model("model-h")
    assert second.stop() == 0


def test_a_damaged_registry_is_put_aside_and_what_can_be_read_of_it_is_kept(
    serve: Callable[..., Served], trusted: Path, tmp_path: Path
) -> None:
    models, data = tmp_path / "models", tmp_path / "data"
    put(models, "beside", source(factor=9))
    first = serve("--trust-locations", trusted, data_dir=data)
    path = put(trusted, "one", source(factor=3))
    names = [f"registered-{number:03}" for number in range(60)]
    for name in names:
        first.client.register(name, str(path.parent), labels={"padding": "x" * 300})
    assert first.stop() == 0
    registry = data / "registry.sqlite3"
    pages = bytearray(registry.read_bytes())
    middle = len(pages) // 2 // 4096 * 4096
    pages[middle : middle + 4096] = b"\xa5" * 4096
    registry.write_bytes(pages)

    second = serve(models, "--trust-locations", trusted, *QUICK, data_dir=data)
    assert answer(second, "beside") == [9.0, 18.0]
    kept = [model.name for model in second.client.models() if model.origin == "api"]
    assert 0 < len(kept) <= len(names)
    assert answer(second, kept[0]) == [3.0, 6.0]
    problem = next(p for p in second.client.status().problems if "damaged" in p)
    aside = next(data.glob("registry.sqlite3.corrupt-*"))
    assert str(aside) in problem
    assert f"{len(kept)} models" in problem
    assert said(second, None, "registry_problem") == [problem]
    assert any(entry.get("event") == problem and entry.get("level") == "warning"
               for entry in second.logs)
    # It is a registry like any other from now on.
    second.client.register("registered-new", str(path.parent))
    assert second.stop() == 0
    third = serve("--trust-locations", trusted, data_dir=data)
    assert {model.name for model in third.client.models()} == {*kept, "registered-new"}
    assert third.client.status().problems == []


def test_a_file_that_is_no_database_is_put_aside(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "registry.sqlite3").write_bytes(b"no database at all\n" * 500)
    put(tmp_path / "models", "beside", source())
    server = serve(tmp_path / "models", data_dir=data)
    assert answer(server, "beside") == [2.0, 4.0]
    (problem,) = server.client.status().problems
    assert "0 models" in problem
    (aside,) = data.glob("registry.sqlite3.corrupt-*")
    assert aside.read_bytes().startswith(b"no database at all")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("this system lets nobody mount a file system here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * 1024)
            except OSError:
                return filler


def register(server: Served, path: Path, padding: str = "") -> httpx2.Response:
    """Once, while the client would try again."""
    spec = {"uri": str(path.parent), "labels": {"padding": padding}}
    return server.http.put(f"{server.management}/api/v1/models/during", json=spec)


def test_a_full_disk_stops_changes_but_no_inference(
    serve: Callable[..., Served], trusted: Path, tmp_path: Path, tiny_disk: Path
) -> None:
    models = tmp_path / "models"
    put(models, "watched", source())
    server = serve(models, "--trust-locations", trusted, *QUICK,
                   "--registry-usage-interval-s", "0.2", data_dir=tiny_disk)
    path = put(trusted, "one", source(factor=3))
    server.client.register("before", str(path.parent))
    assert answer(server, "before") == [3.0, 6.0]
    filler = fill(tiny_disk)

    # The log of the database has some room left, which the first changes take.
    until(lambda: register(server, path, "x" * 50_000).status_code == 503, "the disk is full")
    refused = register(server, path, "x" * 50_000)
    assert refused.status_code == 503
    assert refused.json()["code"] == "STORE_UNAVAILABLE"
    assert "disk is full: free space in" in refused.json()["error"]
    assert refused.headers["retry-after"]
    assert answer(server, "before") == [3.0, 6.0]
    assert answer(server, "watched") == [2.0, 4.0]
    put(models, "newcomer", source(factor=5))
    declared(server, "newcomer")
    assert answer(server, "newcomer") == [5.0, 10.0]
    until(lambda: any("disk is full" in each for each in said(server, None, "registry_problem")),
          "usage cannot be saved, and it is said")

    filler.unlink()
    server.client.register("later", str(path.parent))
    assert answer(server, "later") == [3.0, 6.0]
    until(lambda: server.client.status().problems == [], "no problem is left")
    assert server.stop() == 0


def test_a_registry_that_is_taken_away_stops_changes_but_no_inference(
    serve: Callable[..., Served], trusted: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    server = serve("--trust-locations", trusted, data_dir=data)
    path = put(trusted, "one", source())
    server.client.register("one", str(path.parent))
    (data / "registry.sqlite3").rename(data / "elsewhere")
    until(lambda: any("was moved" in problem for problem in server.client.status().problems),
          "it is noticed")
    refused = register(server, path)
    assert refused.status_code == 503
    assert "restart this instance" in refused.json()["error"]
    assert answer(server, "one") == [2.0, 4.0]
    (data / "elsewhere").rename(data / "registry.sqlite3")
    until(lambda: server.client.status().problems == [], "it is back")
    server.client.register("two", str(path.parent))
    assert answer(server, "two") == [2.0, 4.0]


def test_a_model_hidden_by_a_registration_is_served_when_that_is_gone(
    serve: Callable[..., Served], trusted: Path, tmp_path: Path
) -> None:
    first = serve("--trust-locations", trusted)
    path = put(trusted, "one", source(factor=3))
    first.client.register("twice", str(path.parent))
    first.stop()
    put(tmp_path / "models", "twice", source(factor=4))
    second = serve(tmp_path / "models", "--trust-locations", trusted)
    assert answer(second, "twice") == [3.0, 6.0]
    assert "rename one of them" in said(second, None, "folder_problem")[0]
    second.client.unregister("twice")
    until(lambda: second.client.model("twice").origin.startswith("folder:"), "it is declared")
    assert answer(second, "twice") == [4.0, 8.0]
