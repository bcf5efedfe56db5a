"""Asks a scanner what it thinks of an artifact that can run code, within bounds.

What it says is advice: a scanner that finds nothing has proved nothing, so no decision depends on
it (`trust` decides). Must not know who is told.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import msgspec

from shoal.domain.errors import RuntimeMissing
from shoal.storage.digest import parts_of
from shoal.storage.files import File, readable_name, reading, walk

SCANNER: Final = "picklescan"

_CHILD: Final = Path(__file__).with_name("scan_child.py")
_MAX_FILES: Final = 100
_MAX_FILE_BYTES: Final = 256 * 1024**2
_MEMORY_BYTES: Final = 2 * 1024**3  # of the file, what is unpacked of it, and the interpreter
_TIMEOUT_S: Final = 60.0
_SUFFIXES: Final = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".npy", ".npz", ".dat")
_PICKLE: Final = b"\x80"  # how a pickle begins from protocol 2 on
_SHOWN: Final = 5


class _Said(msgspec.Struct):
    dangerous: list[str] = []
    whole: bool = True
    why: str = ""


@dataclass(frozen=True, slots=True)
class Advice:
    """dangerous: does it advise against the artifact? text: what it says, as the end of a
    sentence."""

    dangerous: bool
    text: str


def check_scanner() -> None:
    """Raise RuntimeMissing unless the scanner is installed."""
    if find_spec(SCANNER) is None:
        raise RuntimeMissing(
            f"trust.scan needs the package {SCANNER}; install it: pip install 'shoal[scan]'")


def advice_on(path: Path, timeout_s: float = _TIMEOUT_S) -> Advice | None:
    """What the scanner says of the artifact at `path`; None: there is nothing it could look into.
    Blocking, at most `timeout_s` seconds. Raises ArtifactMissing or InvalidSpecification when the
    files cannot be listed."""
    with reading(path):
        files = list(_pickles(path))
    if not files:
        return None
    notes = []
    if len(files) > _MAX_FILES:
        notes.append(f"it looked into the first {_MAX_FILES} of {len(files):,} files")
    small = [file for file in files[:_MAX_FILES] if file.info.st_size <= _MAX_FILE_BYTES]
    large = [file for file in files[:_MAX_FILES] if file.info.st_size > _MAX_FILE_BYTES]
    notes += [f"{_name(file)} is too large to look into" for file in large]
    said = _ask(small, timeout_s)
    if len(said) < len(small):
        notes.append(f"it did not get beyond {_name(small[len(said)])}, within {timeout_s:g} s and "
                     f"{_MEMORY_BYTES:,} bytes of memory")
    alarms = []
    for file, each in zip(small, said, strict=False):
        if each.dangerous:
            alarms.append(f"{_name(file)} imports {', '.join(each.dangerous[:_SHOWN])}")
        if each.why:
            notes.append(f"it could not read {_name(file)} ({each.why})")
        elif not each.whole:
            notes.append(f"it could read {_name(file)} only in part, for example up to its first "
                         "array")
    first = f"{SCANNER} warns: {'; '.join(alarms)}" if alarms else (
        f"{SCANNER} finds nothing that it knows as dangerous")
    return Advice(bool(alarms), "; ".join([first, *notes[:_SHOWN]]))


def _pickles(path: Path) -> Iterator[File]:
    for part in parts_of(path):
        for file in walk(part):
            with open(file.path, "rb") as source:
                head = source.read(1)
            if head == _PICKLE or file.path.lower().endswith(_SUFFIXES):
                yield file


def _ask(files: list[File], timeout_s: float) -> list[_Said]:
    """What it says of each; fewer when it was ended by its limits."""
    command = [sys.executable, "-I", str(_CHILD), str(_MEMORY_BYTES), *(f.path for f in files)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=timeout_s, check=False)
        output = done.stdout
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
    said = []
    for line in output.splitlines():
        try:
            said.append(msgspec.json.decode(line, type=_Said))
        except msgspec.DecodeError:
            break  # it was ended within the line
    return said


def _name(file: File) -> str:
    return readable_name(file.name or Path(file.path).name)
