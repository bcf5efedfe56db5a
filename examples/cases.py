"""A model, a question and the right answer: what an example is made of.

Bodies are the Open Inference Protocol's. Knows nothing of Shoal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_DATATYPES: Final = {"f4": "FP32", "f8": "FP64", "i8": "INT64", "i4": "INT32"}

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Case:
    """A model, a request for it and the right answer.

    artifact: what its framework reads, relative to the folder. request, expect: Open Inference
    Protocol bodies. inputs, outputs: what is declared beside the artifact, if anything.
    """

    model: str
    format: str
    artifact: str
    request: dict[str, Any]
    expect: dict[str, Any]
    version: str | None = None
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)


def question(**inputs: Array) -> dict[str, Any]:
    return {"inputs": [tensor(name, array) for name, array in inputs.items()]}


def reply(**outputs: Array) -> dict[str, Any]:
    return {"outputs": [tensor(name, array) for name, array in outputs.items()]}


def tensor(name: str, array: Array) -> dict[str, Any]:
    """Text of numpy's own kind becomes BYTES."""
    datatype = _DATATYPES.get(array.dtype.str[1:], "BYTES")
    return {"name": name, "datatype": datatype, "shape": list(array.shape),
            "data": array.ravel().tolist()}


def place(folder: Path, name: str) -> Path:
    """Where to write a file of a model; the folders are made."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
