"""Damages XGBoost files and loads them, in a process of its own: where the runtime does not notice
the damage, XGBoost can end the process or never come back.

    python -m tests.damaged_xgboost <folder of models> <number of damaged copies>

Prints a line for each copy before it is loaded, and how it ended.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shoal.domain.errors import InvalidArtifact
from shoal.ports import Artifact
from shoal.runtimes.xgboost import XGBoostRuntime

_TELLING = b'0123456789-{}[]"LSil#$,:'  # bytes that mean something in either encoding


def damaged(data: bytes, number: int) -> bytes:
    """The same for each number: a third is cut off, in the others up to four bytes are changed."""
    luck = random.Random(number)
    if number % 3 == 0:
        return data[: luck.randrange(2, len(data))]
    copy = bytearray(data)
    for _ in range(luck.randint(1, 4)):
        byte = luck.randrange(256) if number % 3 == 1 else luck.choice(_TELLING)
        copy[luck.randrange(len(copy))] = byte
    return bytes(copy)


def copies(folder: Path, count: int) -> Iterator[tuple[str, bytes]]:
    sources = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    for number in range(count):
        name, data = sources[number % len(sources)]
        yield f"{number} {name}", damaged(data, number)


def outcome(path: Path) -> str:
    """Loads, and predicts: XGBoost also trusts what it follows only then."""
    try:
        model = XGBoostRuntime().load(Artifact("m", 1, path, "xgboost"))
    except InvalidArtifact as error:
        return "refused" if "\n" not in error.message else "refused in several lines"
    (spec,) = model.signature.inputs
    rows = np.random.default_rng(0).normal(size=(5, spec.shape[1])).astype(np.float32)
    rows[1] = np.nan
    rows[2] = 1
    model.predict({spec.name: rows}, {})
    model.predict({spec.name: rows[1:2]}, {})
    model.size_bytes()
    model.close()
    return "loaded"


def main(folder: str, count: str) -> None:
    path = Path(folder).with_name("damaged.ubj")
    for name, data in copies(Path(folder), int(count)):
        path.write_bytes(data)
        print(name, end=" ", flush=True)
        print(outcome(path), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
