"""Looks into pickles with picklescan, as a process of its own: what it reads may be made to hang it
or to fill its memory. Run by `scanning`; imports nothing of Shoal.

Arguments: the bytes of memory that it may take, then files. Writes one JSON object a file, a line
each: `dangerous`, what it imports that picklescan knows as dangerous; `whole`, whether all of it
could be read; or `why` none of it could.
"""

from __future__ import annotations

import bz2
import io
import json
import logging
import lzma
import os
import resource
import sys
import zlib
from collections.abc import Callable
from typing import Final, Protocol

_MAX_UNPACKED_BYTES: Final = 256 * 1024**2
_MAX_CPU_S: Final = 120  # should nobody be left to end it
_NICENESS: Final = 19


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


_UNPACKERS: Final[dict[bytes, Callable[[], _Unpacker]]] = {
    b"x": zlib.decompressobj,
    b"\x1f\x8b": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
    b"BZ": bz2.BZ2Decompressor,
    b"\xfd7zXZ": lzma.LZMADecompressor,
    b"\x5d\x00": lzma.LZMADecompressor,
}


def _unpacked(data: bytes) -> tuple[bytes, bool]:
    """What joblib compressed, up to a limit; and whether that is all."""
    for magic, unpacker in _UNPACKERS.items():
        if data.startswith(magic):
            at_work = unpacker()
            return at_work.decompress(data, _MAX_UNPACKED_BYTES), at_work.eof
    return data, True


def _look(path: str) -> dict[str, object]:
    from picklescan.scanner import SafetyLevel, scan_bytes

    with open(path, "rb") as file:
        data, whole = _unpacked(file.read())
    result = scan_bytes(io.BytesIO(data), path, os.path.splitext(path)[1])
    dangerous = sorted(f"{each.module}.{each.name}" for each in result.globals
                       if each.safety is SafetyLevel.Dangerous)
    # Of what it cannot read at all picklescan tells no error, but finds no import either.
    return {"dangerous": dangerous, "whole": whole and not result.scan_err and bool(result.globals)}


def main(arguments: list[str]) -> None:
    most_bytes = int(arguments[0])
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (_MAX_CPU_S, _MAX_CPU_S))
    os.nice(_NICENESS)
    logging.disable(logging.CRITICAL)
    for path in arguments[1:]:
        try:
            found = _look(path)
        except Exception as error:  # noqa: BLE001 - of any kind, by files made to; told as it is
            found = {"why": f"{type(error).__name__}: {error}"[:200]}
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
