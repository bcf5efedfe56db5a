"""Turns numpy arrays into the protocol's datatypes and back.

Text is the one hard case: the protocol has bytes (BYTES: object arrays of bytes), frameworks have
`str`. Knows nothing of models.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shoal.codecs.tensors import DATATYPES, DTYPES
from shoal.domain.errors import InvalidInput

# Most answers: nothing is to be done with them.
_AS_THEY_ARE: Final = frozenset(dtype for dtype in DATATYPES if dtype.kind != "O")


def datatype_of(dtype: np.dtype[np.generic]) -> str:
    """The datatype in which arrays of `dtype` answer. Raises TypeError when there is none."""
    if dtype.kind in "OUSTMm":
        return "BYTES"
    if dtype == np.longdouble:
        return "FP64"
    found = DATATYPES.get(dtype.newbyteorder("="))
    if found is None:
        raise TypeError(f"arrays of {dtype} have no datatype in the Open Inference Protocol")
    return found


def to_protocol(value: ArrayLike) -> NDArray[np.generic]:
    """`value` as an array with the numpy type of a datatype; whatever is not a number becomes
    text, and text becomes bytes in UTF-8. Raises TypeError for complex numbers and records."""
    if type(value) is np.ndarray and value.dtype in _AS_THEY_ARE:
        return value
    if hasattr(value, "toarray"):  # scipy's sparse matrices, which numpy takes for scalars
        value = value.toarray()
    array = np.asarray(value)
    datatype = datatype_of(array.dtype)
    if datatype != "BYTES":
        return array.astype(DTYPES[datatype], copy=False)
    encoded = np.empty(array.shape, dtype=np.object_)
    encoded.reshape(-1)[:] = [_as_bytes(item) for item in array.reshape(-1)]
    return encoded


def text_of(array: NDArray[np.generic], name: str) -> NDArray[np.generic]:
    """An object array of `str` from one of bytes (or of `str`). Raises InvalidInput naming the
    tensor `name` when an element is not UTF-8."""
    decoded = np.empty(array.shape, dtype=np.object_)
    try:
        decoded.reshape(-1)[:] = [
            item.decode() if isinstance(item, bytes) else str(item) for item in array.reshape(-1)
        ]
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"input {name!r}: an element is not UTF-8 text ({error.reason} at byte "
            f"{error.start}); this model takes text"
        ) from error
    return decoded


def _as_bytes(item: object) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()
