"""What keeps a server from starting: one clear line, an exit status, and no traceback."""

from __future__ import annotations

import ctypes
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

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


def starts(tmp: Path, port: int) -> dict[str, Start]:
    taken = str(port)
    return {
        "http port in use": Start(["--http-port", taken], WRONG, (taken, "in use", "http")),
        "management port in use": Start(
            ["--management-port", taken], WRONG, (taken, "in use", "--management-port")),
        "no such host": Start(["--host", "203.0.113.7"], WRONG, ("203.0.113.7",)),
        "unknown flag": Start(["--htp-port", "1"], USAGE, ("--htp-port",)),
        "unknown variable": Start(
            [], WRONG, ("SHOAL_HTP_PORT", "SHOAL_HTTP_PORT"), {"SHOAL_HTP_PORT": "1"}),
        "wrong value": Start(["--memory", "lots"], WRONG, ("--memory", "'lots'", "512MiB")),
        "wrong value in a variable": Start(
            [], WRONG, ("SHOAL_CACHE_SHARE", "'7'"), {"SHOAL_CACHE_SHARE": "7"}),
        "unknown key in the file": Start(
            ["--config", file(tmp / "unknown.yaml", "cache: {shrae: 0.5}")], WRONG,
            ("unknown.yaml", "cache.shrae", "cache.share")),
        "no file": Start(["--config", tmp / "none.yaml"], WRONG, ("none.yaml", "No such file")),
        "no YAML": Start(["--config", file(tmp / "no.yaml", "a: [")], WRONG, ("not valid YAML",)),
        "missing folder": Start([tmp / "gone"], WRONG, ("gone", "does not exist")),
        "a file for a folder": Start([file(tmp / "a-file")], WRONG, ("a-file", "is a file")),
        "unreadable folder": Start(
            [folder(tmp / "secret", 0)], WRONG, ("secret", "ermission denied"), unprivileged=True),
        "data folder is a file": Start(
            ["--data-dir", file(tmp / "data-file")], WRONG, ("data-file", "--data-dir")),
        "data folder not writable": Start(
            ["--data-dir", folder(tmp / "read-only", 0o555)], UNAVAILABLE,
            ("read-only", "write access"), unprivileged=True),
        "unknown registry": Start(["--registry-url", "etcd"], WRONG, ("registry.url", "etcd")),
        "registry is a folder": Start(
            ["--data-dir", folder(tmp / "odd" / "registry.sqlite3").parent], UNAVAILABLE,
            ("registry.sqlite3", "is a folder")),
        "registry of another program": Start(
            ["--data-dir", foreign_database(tmp / "foreign" / "registry.sqlite3").parent],
            UNAVAILABLE, ("another program",)),
        "registry locked": Start(
            ["--data-dir", tmp / "locked"], UNAVAILABLE, ("locked by another process", "fuser")),
    }


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory
         ) -> Iterator[Callable[[str], tuple[Start, int, str]]]:
    """How each start ended: status and standard error. They run side by side."""
    tmp = tmp_path_factory.mktemp("starts")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        cases = starts(tmp, listening.getsockname()[1])
        lock = locked_database(tmp / "locked" / "registry.sqlite3")
        running = {name: start(case, tmp / "data" / name.replace(" ", "-"))
                   for name, case in cases.items()}
        results = {}
        for name, process in running.items():
            said = process.communicate(timeout=60)[1]
            results[name] = (cases[name], process.returncode, said)
        lock.close()
    (tmp / "secret").chmod(0o755)
    yield lambda name: results[name]


def start(case: Start, data_dir: Path) -> subprocess.Popen[str]:
    given = [str(each) for each in case.arguments]
    defaults = {"--http-port": "0", "--management-port": "0", "--data-dir": str(data_dir)}
    for flag, value in defaults.items():
        if flag not in given:
            given += [flag, value]
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("shoal")), "serve", *given],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env={**os.environ, **case.environ},
        preexec_fn=obey_permissions if case.unprivileged else None,  # noqa: PLW1509 - one thread
    )


@pytest.mark.parametrize("name", starts.__annotations__ and [
    "http port in use", "management port in use", "no such host", "unknown variable",
    "wrong value", "wrong value in a variable", "unknown key in the file", "no file", "no YAML",
    "missing folder", "a file for a folder", "unreadable folder", "data folder is a file",
    "data folder not writable", "unknown registry", "registry is a folder",
    "registry of another program", "registry locked",
])
def test_it_says_in_one_line_why_it_does_not_start(
    ends: Callable[[str], tuple[Start, int, str]], name: str
) -> None:
    case, status, said = ends(name)
    assert status == case.status, said
    assert said.startswith("error: ")
    assert said.count("\n") == 1, said
    for word in case.words:
        assert word in said


def test_an_unknown_flag_is_wrong_usage(ends: Callable[[str], tuple[Start, int, str]]) -> None:
    case, status, said = ends("unknown flag")
    assert status == case.status
    assert "--htp-port" in said
    assert "--http-port" in said, "the one that was meant"
    assert "Traceback" not in said
