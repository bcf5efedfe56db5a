"""What the machine lets this process use: the tightest limit of any control group counts."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from shoal.node import machine
from shoal.node.machine import (
    be_nice,
    run_soon_after_waking,
    usable_cpus,
    usable_memory_bytes,
)
from shoal.node.threads import nicely, run_apart

T = TypeVar("T")

MIB = 1024 * 1024
ALL_BYTES = psutil.virtual_memory().total
ALL_CPUS = len(os.sched_getaffinity(0))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """As /proc/self/cgroup of a process three groups deep."""
    path = tmp_path / "own"
    path.write_text("0::/kubepods/pod7/box\n")
    return path


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    root = tmp_path / "cgroup"
    (root / "kubepods" / "pod7" / "box").mkdir(parents=True)
    return root


def test_without_limits_the_machine_counts(cgroup: Path, own: Path) -> None:
    assert usable_memory_bytes(cgroup, own) == ALL_BYTES
    assert usable_cpus(cgroup, own) == ALL_CPUS


def test_without_control_groups_the_machine_counts(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert usable_memory_bytes(nowhere, nowhere / "own") == ALL_BYTES
    assert usable_cpus(nowhere, nowhere / "own") == ALL_CPUS


@pytest.mark.parametrize("at", ["", "kubepods", "kubepods/pod7", "kubepods/pod7/box"])
def test_a_limit_of_any_group_above_counts(cgroup: Path, own: Path, at: str) -> None:
    (cgroup / at / "memory.max").write_text(f"{100 * MIB}\n")
    assert usable_memory_bytes(cgroup, own) == 100 * MIB


def test_the_smallest_limit_counts(cgroup: Path, own: Path) -> None:
    (cgroup / "kubepods" / "memory.max").write_text(f"{100 * MIB}\n")
    (cgroup / "kubepods" / "pod7" / "memory.max").write_text(f"{50 * MIB}\n")
    (cgroup / "kubepods" / "pod7" / "box" / "memory.max").write_text("max\n")
    assert usable_memory_bytes(cgroup, own) == 50 * MIB


def test_a_limit_beyond_the_machine_is_none(cgroup: Path, own: Path) -> None:
    (cgroup / "memory.max").write_text(f"{2 * ALL_BYTES}\n")
    assert usable_memory_bytes(cgroup, own) == ALL_BYTES


@pytest.mark.parametrize("content", ["max", "", "many", "0", "-1"])
def test_what_is_no_limit_is_ignored(cgroup: Path, own: Path, content: str) -> None:
    (cgroup / "memory.max").write_text(content)
    assert usable_memory_bytes(cgroup, own) == ALL_BYTES


def test_groups_of_the_first_version_count(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("5:cpu,cpuacct:/box\n4:memory:/box\n0::/\n")
    box = tmp_path / "cgroup" / "memory" / "box"
    box.mkdir(parents=True)
    (box / "memory.limit_in_bytes").write_text(f"{70 * MIB}\n")
    assert usable_memory_bytes(tmp_path / "cgroup", own) == 70 * MIB
    # The first version says 2^63 less a page for no limit.
    (box / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert usable_memory_bytes(tmp_path / "cgroup", own) == ALL_BYTES


@pytest.mark.parametrize(
    ("content", "cpus"),
    [("100000 100000", 1), ("50000 100000", 1), ("150000 100000", 1), ("max 100000", ALL_CPUS),
     ("10000000 100000", ALL_CPUS), ("", ALL_CPUS), ("1", ALL_CPUS), ("what ever", ALL_CPUS)],
)
def test_a_quota_of_processor_time_counts_in_whole_cpus(
    cgroup: Path, own: Path, content: str, cpus: int
) -> None:
    (cgroup / "kubepods" / "cpu.max").write_text(content)
    assert usable_cpus(cgroup, own) == cpus


def test_a_quota_without_a_period_is_ignored(cgroup: Path, own: Path) -> None:
    (cgroup / "cpu.max").write_text("100000 0")
    assert usable_cpus(cgroup, own) == ALL_CPUS


def test_what_the_process_takes_grows_with_what_it_holds() -> None:
    resident, allocated = machine.resident_bytes(), machine.allocated_bytes()
    ballast = b"\1" * (64 * MIB)
    assert machine.resident_bytes() - resident > 48 * MIB
    assert machine.allocated_bytes() - allocated > 48 * MIB
    del ballast
    machine.trim_heap()
    assert machine.allocated_bytes() - allocated < 16 * MIB


def on_a_thread(act: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(act).result()


def test_a_thread_can_be_nicer_than_the_others() -> None:
    def niceness() -> int:
        be_nice(3)
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert on_a_thread(niceness) == min(before + 3, 19)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_work_can_be_done_nicely() -> None:
    def niceness(added: int) -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) + added

    before = niceness(0)
    assert run_apart("nice", nicely(2, niceness), 100).result(10) == min(before + 2, 19) + 100
    assert niceness(0) == before


def test_asking_for_short_slices_leaves_priorities_as_they_are() -> None:
    def ask() -> tuple[int, int]:
        run_soon_after_waking(1e-4)  # whether the kernel can or not
        policy = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), policy

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert on_a_thread(ask) == (before, os.SCHED_OTHER)
