"""Which kind of file PyTorch wrote: a program, weights alone, compiled code; told by its content.

Suffixes do not tell: all kinds are saved as `.pt`. Reads a file's beginning and the names of an
archive's members, imports no framework and runs nothing.
"""

from __future__ import annotations

import struct
import zipfile
from enum import Enum
from pathlib import Path
from typing import Final

WEIGHT_SUFFIXES: Final = (".safetensors", ".pt", ".pth")

_ZIP: Final = b"PK\x03\x04"
# A pickle that begins with PyTorch's number, as torch.save wrote it until 1.6, and on demand since.
_LEGACY: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_SAFETENSORS_HEADER_BYTES: Final = 100_000_000  # the most that the format allows


class Kind(Enum):
    """SCRIPT: TorchScript. EXPORTED: torch.export. COMPILED: AOTInductor's machine code. WEIGHTS:
    of torch.save, or whatever else was pickled. SAFETENSORS: weights without a pickle."""

    SCRIPT = "a TorchScript program"
    EXPORTED = "an exported program"
    COMPILED = "a compiled package (AOTInductor)"
    WEIGHTS = "weights or a pickled module"
    SAFETENSORS = "weights (safetensors)"
    UNKNOWN = "no file of PyTorch"


def kind_of(path: Path) -> Kind:
    """Of the file at `path`; UNKNOWN also for one that is damaged or cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(len(_LEGACY))
            if not head.startswith(_ZIP):
                return _unpacked(head, path.stat().st_size)
            with zipfile.ZipFile(file) as archive:
                return _of_members(archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, struct.error):
        return Kind.UNKNOWN


def runs_code(kind: Kind) -> bool:
    """Can opening a file of this kind run code in it?

    TorchScript is a language of its own and only runs when it is called; weights are read as plain
    tensors. An exported program brings expressions and guards that PyTorch evaluates as Python, and
    unpickles what its plain reader refuses; compiled packages are libraries.
    """
    return kind in (Kind.EXPORTED, Kind.COMPILED)


def _unpacked(head: bytes, size: int) -> Kind:
    if head.startswith(_LEGACY):
        return Kind.WEIGHTS
    header = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and 1 < header <= min(size - 8, _SAFETENSORS_HEADER_BYTES):
        return Kind.SAFETENSORS
    return Kind.UNKNOWN


def _of_members(names: list[str]) -> Kind:
    """By names, within the one folder in which PyTorch packs everything."""
    inner = {name.partition("/")[2] for name in names}
    if any(name.startswith("data/aotinductor/") for name in inner):
        return Kind.COMPILED
    if any(name.startswith("models/") for name in inner) and "archive_format" in inner:
        return Kind.EXPORTED
    if "serialized_exported_program.json" in names:  # until PyTorch 2.7
        return Kind.EXPORTED
    if "constants.pkl" in inner:
        return Kind.SCRIPT
    return Kind.WEIGHTS if "data.pkl" in inner else Kind.UNKNOWN
