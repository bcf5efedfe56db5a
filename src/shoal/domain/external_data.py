"""Names the files that belong to an artifact although they lie beside it.

ONNX models keep large weights in such files. Whatever is not named here is neither part of an
artifact's digest nor looked at for trust, so runtimes must not load it.
"""

from __future__ import annotations

from typing import Final

EXTERNAL_DATA: Final = (".data", "_data")
"""What follows the artifact's name: `iris.onnx.data`, `iris.onnx_data`."""


def names_beside(name: str) -> tuple[str, ...]:
    """Of the artifact called `name`, in the same folder; they need not exist."""
    return tuple(name + ending for ending in EXTERNAL_DATA)
