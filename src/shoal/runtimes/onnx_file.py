"""Finds the files in which an ONNX model keeps weights, before ONNX Runtime opens them.

It would open whatever the model names, of which only some files belong to the artifact: see
`domain.external_data`. Reads no more of the model than that takes. Layout: `onnx.proto`, and the
encoding of protocol buffers. Imports no framework.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from shoal.domain.external_data import names_beside
from shoal.runtimes.wire_format import NotProtobuf, fields

_CHUNK_BYTES: Final = 1024 * 1024
_LOCATION: Final = b"location"
_MAX_DEPTH: Final = 100
_EXTERNAL: Final = 1  # TensorProto.DataLocation

# By message, the numbers of the fields through which tensors are reached, and their messages.
_FIELDS: Final[dict[str, dict[int, str]]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor",
                  23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}
_TENSOR_ENTRY, _TENSOR_PLACE, _ENTRY_KEY, _ENTRY_VALUE = 13, 14, 1, 2


def stray_location(path: Path) -> str | None:
    """A file that the model keeps weights in and that is no part of the artifact at `path`, as the
    model names it; None when there is none. Raises NotProtobuf, OSError."""
    if not _mentions(path, _LOCATION):
        return None
    belonging = {PurePosixPath(name) for name in names_beside(path.name)}
    found = _locations(memoryview(path.read_bytes()), "Model", 0)
    return next((name for name in found if PurePosixPath(name) not in belonging), None)


def _mentions(path: Path, word: bytes) -> bool:
    """Most models keep all weights inside. For them this is all there is to do."""
    tail = b""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            if word in tail + chunk:
                return True
            tail = chunk[-len(word) :]
    return False


def _locations(data: memoryview, message: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise NotProtobuf(f"it is nested deeper than {_MAX_DEPTH} levels")
    if message == "Tensor":
        yield from _location_of_tensor(data)
        return
    inner = _FIELDS[message]
    for number, content in fields(data):
        if number in inner and isinstance(content, memoryview):
            yield from _locations(content, inner[number], depth + 1)


def _location_of_tensor(data: memoryview) -> list[str]:
    place = 0
    locations: list[str] = []
    for number, content in fields(data):
        if number == _TENSOR_PLACE and isinstance(content, int):
            place = content
        elif number == _TENSOR_ENTRY and isinstance(content, memoryview):
            entry = {key: bytes(value) for key, value in fields(content)
                     if isinstance(value, memoryview)}
            if entry.get(_ENTRY_KEY) == _LOCATION:
                locations.append(entry.get(_ENTRY_VALUE, b"").decode("utf-8", "backslashreplace"))
    return locations if place == _EXTERNAL else []
