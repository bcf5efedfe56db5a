"""Keeps lines that a framework's native code prints while it is imported off the console.

Some libraries write to the process's standard error before anybody can tell them not to. Knows no
framework: which lines go is said by a pattern.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_STDERR: Final = 2
_CHUNK_BYTES: Final = 64 * 1024
_LAST_LINES_S: Final = 1.0


@contextmanager
def without_lines(unwanted: re.Pattern[bytes]) -> Iterator[None]:
    """While the block runs, whole lines on standard error in which `unwanted` is found are dropped.
    All others pass, in their order, whoever writes them: other threads log meanwhile."""
    try:
        real = os.dup(_STDERR)
    except OSError:  # there is no standard error, and so nothing to keep off it
        yield
        return
    source, sink = os.pipe()
    os.dup2(sink, _STDERR)
    os.close(sink)
    relay = threading.Thread(
        target=_relay, args=(source, real, unwanted), name="shoal-stderr", daemon=True
    )
    relay.start()
    try:
        yield
    finally:
        os.dup2(real, _STDERR)
        # Ends at once, unless a process that was started meanwhile still writes to the pipe.
        relay.join(_LAST_LINES_S)


def _relay(source: int, real: int, unwanted: re.Pattern[bytes]) -> None:
    """Until nobody holds the other end. Owns both descriptors."""
    with os.fdopen(source, "rb", buffering=0) as lines, os.fdopen(real, "wb", buffering=0) as out:
        rest = b""
        while chunk := lines.read(_CHUNK_BYTES):
            *whole, rest = (rest + chunk).split(b"\n")
            kept = [line + b"\n" for line in whole if not unwanted.search(line)]
            if kept:
                out.write(b"".join(kept))
        if rest and not unwanted.search(rest):
            out.write(rest)
