"""Reads the files that commands are given; `-` is standard input. Knows not what is in them."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from shoal.domain.errors import InvalidSpecification

STANDARD_INPUT: Final = Path("-")
_MAX_BYTES: Final = 1024 * 1024


def shown(path: Path) -> str:
    return "standard input" if path == STANDARD_INPUT else str(path)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, to be read as often as needed: standard input (`-`) is copied to a temporary file.
    Raises InvalidSpecification."""
    try:
        if path != STANDARD_INPUT:
            with path.open("rb") as source:
                yield source
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
            yield copy
    except OSError as error:
        raise _unreadable(path, error) from None


def read_small(path: Path, what: str) -> bytes:
    """All of a file that holds `what`, which takes 1 MiB at most. Raises InvalidSpecification."""
    try:
        if path == STANDARD_INPUT:
            content = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with path.open("rb") as source:
                content = source.read(_MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    if len(content) > _MAX_BYTES:
        raise InvalidSpecification(f"{shown(path)} is larger than 1 MiB, and so no {what}")
    return content


def _unreadable(path: Path, error: OSError) -> InvalidSpecification:
    return InvalidSpecification(
        f"{shown(path)}: cannot be read: {error.strerror}; check the path")
