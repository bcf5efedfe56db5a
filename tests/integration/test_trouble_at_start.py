"""What keeps a server from starting: one clear line, an exit status, and no traceback."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shoal.app import App
from shoal.domain.errors import InvalidSpecification, ShoalError, StoreUnavailable
from shoal.settings import read_settings

WRONG = 5  # a setting or a folder is wrong
UNAVAILABLE = 4  # the registry cannot be used
USAGE = 2
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24


@dataclass
class Start:
    """words: all must be in what it says. unprivileged: without root's right to read everything."""

    arguments: list[str | Path]
    status: int
    words: tuple[str, ...]
    environ: dict[str, str] = field(default_factory=dict)
    unprivileged: bool = False


def obey_permissions() -> None:
    """Run by the child: root, too, is refused what the permission bits forbid."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def file(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def folder(path: Path, mode: int = 0o755) -> Path:
    path.mkdir(parents=True)
    path.chmod(mode)
    return path


def foreign_database(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE songs (title TEXT)")
    database.close()
    return path


def locked_database(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True)
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("BEGIN EXCLUSIVE")
    return database


Case = Callable[[Path, str], Start]
IN_A_PROCESS: dict[str, Case] = {
    "http port in use": lambda tmp, taken: Start(
        ["--http-port", taken], WRONG, (taken, "in use", "--http-port")),
    "grpc port in use": lambda tmp, taken: Start(
        ["--grpc-port", taken], WRONG, (taken, "in use", "--grpc-port")),
    "unknown variable": lambda tmp, taken: Start(
        [], WRONG, ("SHOAL_HTP_PORT", "SHOAL_HTTP_PORT"), {"SHOAL_HTP_PORT": "1"}),
    "wrong value": lambda tmp, taken: Start(
        ["--memory", "lots"], WRONG, ("--memory", "'lots'", "512MiB")),
    "missing folder": lambda tmp, taken: Start([tmp / "gone"], WRONG, ("gone", "does not exist")),
    "a file for a folder": lambda tmp, taken: Start(
        [file(tmp / "a-file")], WRONG, ("a-file", "is a file")),
    "unreadable folder": lambda tmp, taken: Start(
        [folder(tmp / "secret", 0)], WRONG, ("secret", "permission denied"), unprivileged=True),
    "data folder not writable": lambda tmp, taken: Start(
        ["--data-dir", folder(tmp / "read-only", 0o555)], UNAVAILABLE,
        ("read-only", "write access"), unprivileged=True),
    "registry locked": lambda tmp, taken: Start(
        ["--data-dir", tmp / "locked"], UNAVAILABLE, ("locked by another process", "fuser")),
}
UNKNOWN_FLAG = Start(["--htp-port", "1"], USAGE, ("--htp-port", "--http-port"))


Ended = Callable[[str], tuple[Start, int, str]]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """How the start of a name ended: its status and standard error. All run side by side."""
    tmp = tmp_path_factory.mktemp("starts")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken = str(listening.getsockname()[1])
        starts = {name: make(tmp, taken) for name, make in IN_A_PROCESS.items()}
        starts["unknown flag"] = UNKNOWN_FLAG
        lock = locked_database(tmp / "locked" / "registry.sqlite3")
        running = {name: begin(case, tmp / "data" / name.replace(" ", "-"))
                   for name, case in starts.items()}
        said = {name: process.communicate(timeout=60)[1] for name, process in running.items()}
        lock.close()
    (tmp / "secret").chmod(0o755)
    return lambda name: (starts[name], running[name].returncode, said[name])


def begin(case: Start, data_dir: Path) -> subprocess.Popen[str]:
    given = [str(each) for each in case.arguments]
    defaults = {
        "--http-port": "0", "--grpc-port": "0", "--management-port": "0",
        "--data-dir": str(data_dir),
    }
    for flag, value in defaults.items():
        if flag not in given:
            given += [flag, value]
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("shoal")), "serve", *given],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env={**os.environ, **case.environ},
        preexec_fn=obey_permissions if case.unprivileged else None,
    )


@pytest.mark.parametrize("name", IN_A_PROCESS)
def test_it_says_in_one_line_why_it_does_not_start(ended: Ended, name: str) -> None:
    case, status, said = ended(name)
    assert status == case.status, said
    assert said.startswith("error: ")
    assert said.count("\n") == 1, said
    for word in case.words:
        assert word in said


def test_an_unknown_flag_is_wrong_usage(ended: Ended) -> None:
    case, status, said = ended("unknown flag")
    assert status == case.status
    assert "Traceback" not in said
    for word in case.words:
        assert word in said


# --- in this process, which is quicker -----------------------------------------------------------

WITHIN: dict[str, tuple[type[ShoalError], Callable[[Path, str], dict[str, str]], str]] = {
    "management port in use": (
        InvalidSpecification, lambda tmp, taken: {"management.port": taken}, "--management-port"),
    "no such host": (
        InvalidSpecification, lambda tmp, taken: {"host": "203.0.113.7"}, "203.0.113.7"),
    "data folder is a file": (
        InvalidSpecification, lambda tmp, taken: {"data_dir": str(file(tmp / "a-file"))},
        "a-file.*--data-dir"),
    "unknown registry": (
        InvalidSpecification, lambda tmp, taken: {"registry.url": "etcd"}, "registry.url.*etcd"),
    "registry is a folder": (
        StoreUnavailable,
        lambda tmp, taken: {"data_dir": str(folder(tmp / "registry.sqlite3").parent)},
        "is a folder: set registry.url"),
    "registry of another program": (
        StoreUnavailable,
        lambda tmp, taken: {
            "data_dir": str(foreign_database(tmp / "foreign" / "registry.sqlite3").parent)},
        "another program"),
    "no certificate for other instances": (
        InvalidSpecification,
        lambda tmp, taken: {"mesh.join": "on", **{
            f"mesh.{each}_file": str(tmp / f"{each}.pem") for each in ("cert", "key", "ca")}},
        "cert.pem .* cannot be used: No such file"),
    "peer port in use": (
        InvalidSpecification,
        lambda tmp, taken: {"mesh.listen": f"127.0.0.1:{taken}"},
        "in use.*--mesh-listen"),
}


@pytest.mark.parametrize("name", WITHIN)
async def test_what_cannot_start_leaves_nothing_running(name: str, tmp_path: Path) -> None:
    error, make, words = WITHIN[name]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        given = make(tmp_path, str(listening.getsockname()[1]))
        flags = {"http.port": "0", "management.port": "0", "data_dir": str(tmp_path / "data")}
        tasks = asyncio.all_tasks()
        with pytest.raises(error, match=words):
            await App(read_settings({**flags, **given}, {})).start()
        assert asyncio.all_tasks() == tasks
