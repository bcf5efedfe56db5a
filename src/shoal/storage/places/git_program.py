"""Runs `git` for a place: nothing but what it is told takes part, it asks nobody, and it ends when
it is to end.

Knows no URIs.
"""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from shoal.domain.errors import RuntimeMissing
from shoal.storage.places.web_client import basic

_LOOK_EVERY_S: Final = 0.1
_MAX_OUTPUT_BYTES: Final = 64 * 1024 * 1024
_MAX_STORY: Final = 300

# All that git sees of the environment: where programs, a home and the way out are.
_KEPT: Final = (
    "PATH", "HOME", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO",
    "http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY",
)
_ALWAYS: Final = {
    "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull, "GIT_ATTR_NOSYSTEM": "1", "GIT_OPTIONAL_LOCKS": "0",
    "GIT_LFS_SKIP_SMUDGE": "1",
}
_CONFIGURATION: Final = {
    "core.hooksPath": os.devnull, "core.askPass": "", "core.fsmonitor": "false",
    "core.attributesFile": os.devnull, "credential.helper": "", "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false", "gc.auto": "0", "maintenance.auto": "false",
    "protocol.allow": "never", "advice.detachedHead": "false",
    # A server that brings less than 1 kB/s for 30 s has gone.
    "http.lowSpeedLimit": "1000", "http.lowSpeedTime": "30",
}


class GitFailed(Exception):
    """story: the last that git said. grew: it was ended because what it wrote grew too large."""

    def __init__(self, story: str, *, grew: bool = False) -> None:
        super().__init__(story)
        self.story = story
        self.grew = grew


class Git:
    """scheme: the only one that is spoken. authorization: an address, a user and a password, which
    is sent there and nowhere else. folder, into: the repository, and where its files go.
    authorities: PEM of those trusted beside the system's; may be set before it is run."""

    authorities = ""

    def __init__(
        self, environment: Mapping[str, str], go_on: Callable[[], None], scheme: str,
        authorization: tuple[str, str, str] | None, folder: Path | None = None,
        into: Path | None = None,
    ) -> None:
        self._go_on = go_on
        self._into = into
        self._environment = {name: environment[name] for name in _KEPT if name in environment}
        self._environment.update(_ALWAYS)
        configuration = {**_CONFIGURATION, f"protocol.{scheme}.allow": "always"}
        if authorization is not None:
            address, user, password = authorization
            header = f"Authorization: {basic(user, password)}"
            configuration[f"http.{address}.extraHeader"] = header
            configuration["http.followRedirects"] = "false"
        self._environment["GIT_CONFIG_COUNT"] = str(len(configuration))
        for number, (key, value) in enumerate(configuration.items()):
            self._environment[f"GIT_CONFIG_KEY_{number}"] = key
            self._environment[f"GIT_CONFIG_VALUE_{number}"] = value
        if folder is not None and into is not None:
            self._environment.update(GIT_DIR=str(folder), GIT_WORK_TREE=str(into))

    def has(self, program: str) -> bool:
        return shutil.which(program, path=self._environment.get("PATH")) is not None

    def run(self, *arguments: str, watched: Path | None = None, max_bytes: int = 0) -> bytes:
        """What it prints. watched: a folder that may not grow over `max_bytes`.

        Raises GitFailed, RuntimeMissing without git, and what `go_on` raises.
        """
        if not self.has("git"):
            raise RuntimeMissing(
                "the program git is not installed where Shoal runs, and git+https:// needs it; "
                "install the package git")
        with (tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err,
              self._trusting() as environment):
            process = subprocess.Popen(
                ["git", *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                env=environment, cwd=self._into or "/", start_new_session=True)
            try:
                while not _ended(process):
                    self._go_on()
                    if watched is not None and _size_of(watched) > max_bytes:
                        raise GitFailed("it grew too large", grew=True)
            except BaseException:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
            if process.returncode:
                raise GitFailed(_story(err, process.returncode))
            out.seek(0)
            return out.read(_MAX_OUTPUT_BYTES)


    @contextmanager
    def _trusting(self) -> Iterator[Mapping[str, str]]:
        """The environment with the authorities in it: git takes one file instead of the system's,
        which therefore is in it as well."""
        if not self.authorities:
            yield self._environment
            return
        own = self._environment
        known = (own.get("GIT_SSL_CAINFO") or own.get("SSL_CERT_FILE")
                 or ssl.get_default_verify_paths().cafile)
        with tempfile.NamedTemporaryFile("w", prefix="shoal-", suffix=".pem") as bundle:
            with suppress(OSError):  # a system without any
                bundle.write(Path(known).read_text() if known else "")
            bundle.write(f"\n{self.authorities}\n")
            bundle.flush()
            yield {**own, "GIT_SSL_CAINFO": bundle.name}


def _ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_LOOK_EVERY_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _size_of(folder: Path) -> int:
    size = 0
    for top, _, files in os.walk(folder):
        for name in files:
            try:
                size += os.lstat(os.path.join(top, name)).st_size
            except FileNotFoundError:  # git renames and removes meanwhile
                continue
    return size


def _story(err: IO[bytes], code: int) -> str:
    """The lines that say most: those that are fatal, else the last."""
    err.seek(0)
    lines = [line.strip() for line in err.read(64 * 1024).decode(errors="replace").splitlines()]
    lines = [line for line in lines if line]
    fatal = [line for line in lines if line.startswith(("fatal:", "error:", "remote:"))]
    text = "; ".join(fatal or lines[-3:]) or f"nothing, and ends with {code}"
    return "".join(char for char in text if char.isprintable())[:_MAX_STORY]
