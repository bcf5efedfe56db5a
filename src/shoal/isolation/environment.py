"""Python environments for models with requirements: built once, kept, shared by equal requirements.

An environment is a folder `<digest>` of what determines it: the requirements, this Python, this
Shoal. In it are the requirements, and links to Shoal and to the few packages that its runtimes'
code needs, as far as the requirements do not bring their own. It is built where it stays, since
programs in it name their interpreter by its whole path, and counts once its file `complete` is
there. Locks (`flock`) beside it are shared by all who use it and held alone by who builds or
removes it, so they end with their holders. Must not know models' processes.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import random
import re
import shutil
import subprocess
import sys
import time
import venv
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import shoal
from shoal.domain.errors import InvalidArtifact
from shoal.isolation.variables import variables
from shoal.observability.logs import get_logger
from shoal.storage.disk_locks import open_lock

FILE: Final = "requirements.txt"
RETRY_AFTER_S: Final = 300.0
"""A build that failed is not tried again sooner, for whichever model: an index that is down, or a
requirement that does not exist, costs minutes each time."""

_LINKED: Final = ("numpy", "msgspec", "ml_dtypes", "orjson")
_COMPLETE: Final = "complete"
_ELSEWHERE: Final = re.compile(
    r"-r\b|-c\b|-e\b|--requirement|--constraint|--editable|\.{1,2}/|/|~|file:|.*@\s*(file:|\.|/)")
_LAST_LINES: Final = 12
_AGAIN_S: Final = (0.001, 0.01)

log = get_logger("shoal.isolation")


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to use an environment. python: its interpreter."""

    python: Path
    descriptor: int

    def end(self) -> None:
        os.close(self.descriptor)


class Environments:
    """Those in `folder`, which several processes may share. most: that are kept, beside those in
    use: the ones used last."""

    def __init__(self, folder: Path, most: int) -> None:
        self._folder = folder
        self._most = most

    def lease(self, requirements: Path, model: str) -> Lease:
        """The environment for a file of requirements, built if there is none. Blocking, for minutes
        perhaps; several may ask for the same. Raises InvalidArtifact when it cannot be built."""
        text = _read(requirements, model)
        digest = _digest(text)
        home = self._folder / digest
        self._folder.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = _lock(home.with_suffix(".lock"), fcntl.LOCK_SH)  # waits while it is built
            if (home / _COMPLETE).is_file():
                os.utime(home / _COMPLETE)
                return Lease(home / "bin" / "python", descriptor)
            os.close(descriptor)
            try:
                self._build(home, text, model)
            except BlockingIOError:  # another one builds it by now, uses it, or looks as this one
                time.sleep(random.uniform(*_AGAIN_S))

    def _build(self, home: Path, text: str, model: str) -> None:
        """Raises BlockingIOError where others have the lock: who uses it has it for long."""
        descriptor = _lock(home.with_suffix(".lock"), fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            if (home / _COMPLETE).is_file():
                return
            failed = home.with_suffix(".failed")
            _check_not_failed(failed, model)
            self._remove_oldest()
            started = time.monotonic()
            log.info("an environment is built", model=model, environment=home.name)
            try:
                _fill(home, text, model, descriptor)
            except InvalidArtifact as error:
                shutil.rmtree(home, ignore_errors=True)
                said = error.message.removeprefix(f"model {model!r}: ")
                failed.write_text(said, encoding="utf-8")
                raise
            failed.unlink(missing_ok=True)
            (home / _COMPLETE).touch()
            log.info("an environment was built", model=model, environment=home.name,
                     took_s=round(time.monotonic() - started, 3))
        finally:
            os.close(descriptor)

    def _remove_oldest(self) -> None:
        """Make room for one more, as far as others are not used."""
        there = [path.parent for path in self._folder.glob(f"*/{_COMPLETE}")]
        there.sort(key=lambda home: (home / _COMPLETE).stat().st_mtime)
        for home in there[: max(len(there) - self._most + 1, 0)]:
            lock = home.with_suffix(".lock")
            try:
                descriptor = _lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # it is used
                continue
            log.info("an environment is removed", environment=home.name)
            (home / _COMPLETE).unlink(missing_ok=True)
            shutil.rmtree(home, ignore_errors=True)
            lock.unlink(missing_ok=True)
            os.close(descriptor)


def _read(requirements: Path, model: str) -> str:
    """The requirements without comments, one a line. Raises InvalidArtifact."""
    try:
        text = requirements.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArtifact(f"model {model!r}: {FILE} cannot be read: {error}") from error
    lines = [re.sub(r"(^|\s+)#.*", "", line).strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    for line in lines:
        if _ELSEWHERE.match(line):
            raise InvalidArtifact(
                f"model {model!r}: {FILE} says {line!r}, which leads to other files; an "
                "environment is shared by all models with the same requirements, so write them "
                "into this file, or put packages where pip finds them by name (--find-links, "
                "--index-url)"
            )
    return "\n".join(lines)


def _digest(text: str) -> str:
    """Of all that an environment is made of."""
    parts = [text, sys.version, sys.base_prefix, shoal.__version__, str(_own_folder())]
    for name in _LINKED:
        found = importlib.metadata.distribution(name)
        parts.append(f"{name} {found.version} {found.locate_file('')}")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _own_folder() -> Path:
    return Path(shoal.__file__).parent


def _lock(path: Path, kind: int) -> int:
    """A descriptor of the file with this lock; it is made if it is missing, and may be removed by
    who has it alone. With LOCK_NB raises BlockingIOError when another one has it."""
    while True:
        descriptor = open_lock(path)
        try:
            fcntl.flock(descriptor, kind)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _check_not_failed(failed: Path, model: str) -> None:
    try:
        left_s = failed.stat().st_mtime + RETRY_AFTER_S - time.time()
        said = failed.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    if left_s > 0:
        raise InvalidArtifact(
            f"model {model!r}: {said} (so it was before; it is tried again in {left_s:.0f} s, or "
            f"at once when {FILE} changes, or {failed} is removed)"
        )


# --- building -----------------------------------------------------------------------------------


def _fill(home: Path, text: str, model: str, lock: int) -> None:
    shutil.rmtree(home, ignore_errors=True)
    try:
        venv.EnvBuilder(symlinks=True, with_pip=False).create(home)
    except (OSError, subprocess.SubprocessError) as error:
        raise InvalidArtifact(
            f"model {model!r}: no environment can be made in {home.parent}: {error}") from error
    requirements = home / FILE
    requirements.write_text(text + "\n", encoding="utf-8")
    python = home / "bin" / "python"
    if text:
        _run(_installer(python, requirements, model), model, lock)
    _link_own(python)


def _installer(python: Path, requirements: Path, model: str) -> list[str]:
    """pip, whose settings say where packages come from; uv only where there is no pip, as it does
    not know these settings."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-P", "-m", "pip", "--python", str(python), "install",
                "--no-input", "--disable-pip-version-check", "--progress-bar", "off",
                "-r", str(requirements)]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", str(python), "-r", str(requirements)]
    raise InvalidArtifact(
        f"model {model!r}: its {FILE} needs pip or uv, and neither is installed beside Shoal; "
        "install one: python -m ensurepip"
    )


def _run(command: list[str], model: str, lock: int) -> None:
    """Logs what is printed. The lock is held for as long as the installer runs, should this process
    die meanwhile."""
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", pass_fds=(lock,), env=installer_environment(),
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if said := line.strip():
                last.append(said)
                log.info("pip says", model=model, line=said[:300])
    if process.returncode:
        raise InvalidArtifact(
            f"model {model!r}: the environment of its {FILE} cannot be built: {_errors(last)}; "
            "correct it, or what pip is configured with"
        )


def installer_environment() -> dict[str, str]:
    """Without the server's secrets, but with pip's and uv's own settings."""
    kept = variables(os.environ, foreign=True)
    own = {name: value for name, value in os.environ.items()
           if name.startswith(("PIP_", "UV_")) or name.lower().endswith("_proxy")}
    return {**kept, **own}


def _errors(lines: deque[str]) -> str:
    errors = [line for line in lines if line.startswith(("ERROR", "error", "×", "  ×"))]
    return " | ".join((errors or list(lines))[-3:])[:600] or "pip says nothing"


def _link_own(python: Path) -> None:
    """Shoal, and what its runtimes' code needs, unless the requirements brought it."""
    found = next((python.parent.parent / "lib").glob("python*/site-packages"))
    _link(_own_folder(), found)
    for name in _LINKED:
        if (found / name).exists():
            continue
        distribution = importlib.metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files or ()}
        for top in sorted(tops - {".."}):
            _link(Path(str(distribution.locate_file(top))), found)


def _link(target: Path, folder: Path) -> None:
    if not (folder / target.name).exists():
        (folder / target.name).symlink_to(target)
