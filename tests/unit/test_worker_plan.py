"""What a supervisor hands to its workers arrives as it was."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.app.running import threads_each
from shoal.dataplane.shares import Shares
from shoal.observability.processes import resident_bytes
from shoal.settings import read_settings, restore_settings
from shoal.workers.inherited import inherit
from shoal.workers.plan import Plan, read_plan, write_plan


def plan(tmp_path: Path, **changed: object) -> Plan:
    fields: dict[str, object] = {
        "workers": 2, "name": "here", "folders": ("/models",), "given": {}, "sources": {},
        "budget_bytes": 10, "http": (), "grpc": (), "management": (), "http_address": "",
        "grpc_address": "", "management_address": "", "shares": 0, "run_dir": str(tmp_path),
        "log_level": "info", "log_format": "json", "shutdown_timeout_s": 1.0, "max_age_s": 0.0,
        "max_growth": 0, "hang_timeout_s": 60.0,
    }
    return Plan(**(fields | changed))  # type: ignore[arg-type]


@pytest.fixture
def written(tmp_path: Path) -> Iterator[int]:
    file = tmp_path / "shoal.yaml"
    file.write_text("trust: {locations: [/a, /b]}\nlog: {level: debug}\ncache: {fill_share: 0.5}\n")
    configuration = read_settings(
        {"workers": "2", "folder.watch": False}, {"SHOAL_MEMORY": "2GiB"}, file
    )
    fd = write_plan(plan(
        tmp_path, given=dict(configuration.given), sources=dict(configuration.sources)
    ))
    yield fd
    os.close(fd)


def test_settings_are_restored_with_where_they_came_from(written: int) -> None:
    handed = read_plan(written)
    restored = restore_settings(handed.given, handed.sources)
    assert restored.settings.memory == 2 * 1024**3
    assert restored.settings.trust.locations == ("/a", "/b")
    assert restored.settings.cache.fill_share == 0.5
    assert not restored.settings.folder.watch
    assert [restored.sources[path] for path in ("workers", "memory", "log.level", "host")] == [
        "flag", "environment", "file", "default",
    ]


def test_a_plan_can_be_read_by_every_worker(written: int) -> None:
    assert read_plan(written) == read_plan(written)


def test_processes_that_models_start_inherit_nothing(tmp_path: Path) -> None:
    shares = Shares.create(4)
    ours, other = socket.socketpair()
    theirs = other.detach()
    for fd in (shares, theirs):
        os.set_inheritable(fd, True)
    inherited = inherit(plan(tmp_path, shares=shares), theirs, 1, 0, "here-1-w1")
    assert not os.get_inheritable(shares)
    assert not os.get_inheritable(theirs)
    assert inherited.private_address == tmp_path / "worker-1.sock"
    os.close(shares)
    ours.close()
    inherited.channel.close()


def test_a_process_that_is_gone_takes_no_memory() -> None:
    assert resident_bytes(os.getpid()) > 1_000_000
    assert resident_bytes(2**22 + 1) == 0


@pytest.mark.parametrize(("wanted", "workers", "cpus", "each"), [
    (8, 1, 4, 8), (8, 4, 4, 2), (3, 2, 4, 2), (1, 4, 4, 1),
    (0, 1, 2, 16), (0, 1, 8, 32), (0, 2, 16, 32), (0, 8, 8, 16),
])  # fmt: skip
def test_each_worker_has_its_part_of_the_threads(
    wanted: int, workers: int, cpus: int, each: int
) -> None:
    assert threads_each(wanted, workers, cpus) == each
