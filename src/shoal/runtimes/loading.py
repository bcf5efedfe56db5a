"""What every load shares: the file, the framework's import, its warnings, its reasons in one line.

Knows no framework.
"""

from __future__ import annotations

import importlib
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Final, TextIO

from shoal.domain.errors import AcceleratorFull, ArtifactMissing, InvalidArtifact, RuntimeMissing
from shoal.ports import Artifact

MAX_NOTES: Final = 8
MAX_REASON_CHARS: Final = 300
# Said to whoever writes the framework's calls, which is us, not to whoever serves a model.
_NOT_FOR_USERS: Final = (
    DeprecationWarning, PendingDeprecationWarning, ResourceWarning, ImportWarning,
)


def check_file(artifact: Artifact, suffixes: tuple[str, ...]) -> None:
    """Raise unless the artifact is a file that holds something."""
    path = artifact.path
    if path.is_dir():
        raise InvalidArtifact(
            f"model {artifact.model!r}: {path.name} is a folder; the format {artifact.format} is a "
            f"file ({', '.join(suffixes)})"
        )
    check_exists(artifact)
    if path.stat().st_size == 0:
        raise InvalidArtifact(f"model {artifact.model!r}: {path.name} is empty; copy it again")


def check_exists(artifact: Artifact) -> None:
    """Raise ArtifactMissing unless there is a file or a folder."""
    if not artifact.path.exists():
        raise ArtifactMissing(
            f"model {artifact.model!r}: {artifact.path.name} does not exist (any more); put it "
            "back or register the model anew"
        )


def import_framework(name: str, extra: str, artifact: Artifact) -> ModuleType:
    """The module `name`. Raises RuntimeMissing naming the extra that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RuntimeMissing(
            f"model {artifact.model!r}: {artifact.path.name} needs {name}, which cannot be "
            f"imported ({one_line(error)}); install it with: pip install 'shoal[{extra}]'"
        ) from error


def unreadable(artifact: Artifact, reason: str, way_out: str) -> InvalidArtifact:
    return InvalidArtifact(
        f"model {artifact.model!r}: {artifact.path.name} cannot be read as {artifact.format}: "
        f"{reason.rstrip('.')}; {way_out}"
    )


def no_room(artifact: Artifact, reason: str, needed_bytes: int = 0) -> AcceleratorFull:
    """On the artifact's device. needed_bytes: see AcceleratorFull."""
    return AcceleratorFull(
        f"model {artifact.model!r}: the accelerator {artifact.device} has too little memory free "
        f"for it ({reason}); lower accelerator.share or accelerator.memory if others use the "
        "device, too", needed_bytes,
    )


def one_line(error: BaseException | str) -> str:
    """The first line that says something, cut to 300 characters; the type's name when none does."""
    lines = [line.strip() for line in str(error).splitlines()]
    text = next((line for line in lines if line), "") or type(error).__name__
    return text if len(text) <= MAX_REASON_CHARS else text[: MAX_REASON_CHARS - 1] + "…"


def parallel_calls(threads: int) -> int:
    """How many calls of a thread-safe framework make sense at once, each using `threads` threads:
    as many as keep the CPUs of this process busy."""
    return max(1, len(os.sched_getaffinity(0)) // max(1, threads))


def bound_openmp(threads: int) -> None:
    """Keep OpenMP pools of frameworks not yet imported to `threads`.

    OpenMP reads the variable once, when its library is loaded, and its calls would only bind the
    calling thread. What somebody set before us stays.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


# --- warnings -----------------------------------------------------------------------------------


class _Listeners(threading.local):
    def __init__(self) -> None:
        self.stack: list[list[Warning]] = []


_listeners = _Listeners()
_lock = threading.Lock()
_outside = warnings.catch_warnings()
_show_outside = warnings.showwarning
_open = 0


@contextmanager
def taking_notes(phrase: Callable[[Warning], str] = one_line) -> Iterator[list[str]]:
    """Collects what this thread is warned of: the list is filled when the block ends, also by an
    error. Nothing is printed, and no filter turns a warning into an error.

    phrase: a warning as one sentence; an empty one drops it.

    `warnings.catch_warnings` alone would not do: its state belongs to the process, and loads run on
    several threads.
    """
    notes: list[str] = []
    heard: list[Warning] = []
    _begin()
    _listeners.stack.append(heard)
    try:
        yield notes
    finally:
        _listeners.stack.pop()
        _end()
        said = (phrase(item) for item in heard if not isinstance(item, _NOT_FOR_USERS))
        notes.extend(list(dict.fromkeys(note for note in said if note))[:MAX_NOTES])


def _begin() -> None:
    global _open, _outside, _show_outside  # the state of `warnings` is one per process, too
    with _lock:
        _open += 1
        if _open == 1:
            # A framework that leaves its own `catch_warnings` on another thread after our block has
            # ended puts `_hear` back; taken for the one outside it would call itself for ever.
            if warnings.showwarning is not _hear:
                _show_outside = warnings.showwarning
            _outside = warnings.catch_warnings()
            _outside.__enter__()
            warnings.simplefilter("always")
            warnings.showwarning = _hear


def _end() -> None:
    global _open
    with _lock:
        _open -= 1
        if _open == 0:
            _outside.__exit__(None, None, None)


def _hear(message: Warning | str, category: type[Warning], filename: str, lineno: int,
          file: TextIO | None = None, line: str | None = None) -> None:
    if _listeners.stack:
        heard = message if isinstance(message, Warning) else category(message)
        _listeners.stack[-1].append(heard)
    else:
        _show_outside(message, category, filename, lineno, file, line)
