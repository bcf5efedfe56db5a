"""Lays tensors one after the other into memory, and takes them out of it as they lie.

Must not know where that memory is, nor what the tensors are for. Both sides run on one machine, so
numbers are in its own byte order, which is the wire's. BYTES are the lengths of their elements
(u32), then the elements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
import numpy as np

from shoal.codecs.tensors import DATATYPES, DTYPES
from shoal.domain.errors import ModelFailed
from shoal.runtimes.arrays import to_protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shoal.ports import Arrays

    Memory: TypeAlias = "bytearray | NDArray[np.uint8]"

ALIGNMENT: Final = 64  # what vector instructions like best
_MAX_ELEMENT_BYTES: Final = 2**32 - 1


class Piece(msgspec.Struct, array_like=True, frozen=True):
    """Where a tensor lies: from `offset` on, a multiple of `ALIGNMENT`, `size` bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    offset: int
    size: int


class Layout:
    """Tensors that are to be written. `pieces` say where each will lie, `size` is of all."""

    __slots__ = ("_data", "pieces", "size")

    def __init__(self, tensors: Mapping[str, NDArray[np.generic]]) -> None:
        """Raises TypeError for what has no datatype."""
        self.pieces: list[Piece] = []
        self._data: list[NDArray[np.generic] | bytes] = []
        offset = end = 0
        for name, given in tensors.items():
            array = given if DATATYPES.get(given.dtype, "BYTES") != "BYTES" else to_protocol(given)
            datatype = DATATYPES[array.dtype]
            data = _joined(array) if datatype == "BYTES" else array
            size = len(data) if isinstance(data, bytes) else data.nbytes
            self.pieces.append(Piece(name, datatype, array.shape, offset, size))
            self._data.append(data)
            end = offset + size
            offset = -(-end // ALIGNMENT) * ALIGNMENT
        self.size = end

    def write(self, memory: Memory, start: int) -> None:
        """Into `memory`, from `start` on, where there is room for `size` bytes."""
        for piece, data in zip(self.pieces, self._data, strict=True):
            at = start + piece.offset
            if not piece.size:
                continue
            if isinstance(data, bytes):
                target: NDArray[np.generic] = np.ndarray(piece.size, np.uint8, memory, at)
                target[...] = np.frombuffer(data, np.uint8)
            else:
                target = np.ndarray(data.shape, data.dtype, memory, at)
                target[...] = data


def take(pieces: list[Piece], memory: NDArray[np.uint8]) -> Arrays:
    """The tensors that lie in `memory`: numbers as views into it, BYTES on their own. Raises
    ValueError when they cannot lie there."""
    return {piece.name: _view(piece, memory) for piece in pieces}


def _view(piece: Piece, memory: NDArray[np.uint8]) -> NDArray[np.generic]:
    dtype = DTYPES.get(piece.datatype)
    if dtype is None or piece.offset + piece.size > memory.size:
        raise ValueError(f"tensor {piece.name!r} is not as it was told")
    if piece.datatype == "BYTES":
        return _split(piece, memory)
    if not piece.size:
        return np.empty(piece.shape, dtype)
    try:
        return np.ndarray(piece.shape, dtype, memory, piece.offset)
    except TypeError as error:
        raise ValueError(f"tensor {piece.name!r}: {error}") from error


def _joined(array: NDArray[np.generic]) -> bytes:
    elements = [
        item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1)
    ]
    lengths = list(map(len, elements))
    if max(lengths, default=0) > _MAX_ELEMENT_BYTES:
        raise ModelFailed("an element of a BYTES tensor is longer than 4 GiB")
    return b"".join((np.array(lengths, np.uint32).tobytes(), *elements))


def _split(piece: Piece, memory: NDArray[np.uint8]) -> NDArray[np.generic]:
    count = math.prod(piece.shape)
    if 4 * count > piece.size:
        raise ValueError(f"tensor {piece.name!r} is not as it was told")
    data = memory[piece.offset : piece.offset + piece.size].tobytes()
    ends = list(accumulate(np.frombuffer(data, np.uint32, count).tolist(), initial=4 * count))
    array = np.empty(piece.shape, object)
    array.reshape(-1)[:] = [data[start:end] for start, end in pairwise(ends)]
    return array
