"""Content types: what the tensors of a V2 request mean beyond their datatypes, as in MLServer.

The parameter `content_type` of a request or an input. `pd`: the inputs are the columns of a table.
`str`: BYTES that are text. `base64`: BYTES that are base64 text. `datetime`: BYTES that are ISO
8601 times. `np`: just an array. Knows requests, no model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from typing import TYPE_CHECKING, Final

import numpy as np

from shoal.codecs import tensors
from shoal.codecs.message import InferRequest, Tensor
from shoal.domain.errors import InvalidInput, InvalidRequest
from shoal.domain.model import JsonValue

if TYPE_CHECKING:
    from shoal.codecs.tensors import Array

PARAMETER: Final = "content_type"


def has_content_type(request: InferRequest) -> bool:
    return PARAMETER in request.parameters or any(
        PARAMETER in tensor.parameters for tensor in request.inputs
    )


def is_table(request: InferRequest) -> bool:
    """Does the request say that its inputs are columns?"""
    return request.parameters.get(PARAMETER) == "pd"


def decode_content(request: InferRequest) -> list[Tensor]:
    """The inputs of `request` with their content types applied; an input's own wins over the
    request's. Columns of a table come out with the shape [rows].

    Raises InvalidRequest for unknown content types, InvalidInput for data that is not what its
    content type says.
    """
    whole = _known(request.parameters.get(PARAMETER), _REQUEST_TYPES, "the request")
    decoded = []
    for tensor in request.inputs:
        own = _known(tensor.parameters.get(PARAMETER), _INPUT_TYPES, f"input {tensor.name!r}")
        data = tensor.data
        if own is not None:
            data = _INPUT_TYPES[own](tensor)
        elif whole is not None and whole != "pd":
            data = _INPUT_TYPES[whole](tensor)
        if whole == "pd":
            data = as_column(tensor.name, data)
        decoded.append(Tensor(tensor.name, tensor.datatype, data.shape, data))
    return decoded


def as_column(name: str, data: Array) -> Array:
    """[n] or [n, 1] as [n]; InvalidInput for any other shape."""
    if data.ndim == 1 or (data.ndim == 2 and data.shape[1] == 1):
        return data.ravel()
    raise InvalidInput(
        f"input {name!r} has the shape {list(data.shape)}; a column of a table has [rows] or "
        "[rows, 1]"
    )


def as_matrix(columns: list[Tensor], name: str) -> Tensor:
    """Columns of shape [rows], side by side in their order, as the one tensor `name`.

    For a model that takes a bare matrix. Its datatype is FP64 unless the columns share one; BYTES
    and columns of different lengths are refused with InvalidInput.
    """
    check_rows(columns)
    for column in columns:
        if column.datatype == "BYTES":
            raise InvalidInput(
                f"input {column.name!r} has the datatype BYTES, but the model takes a matrix of "
                "numbers"
            )
    shared = {column.datatype for column in columns}
    datatype = shared.pop() if len(shared) == 1 else "FP64"
    data: Array = np.stack(
        [tensors.convert(column.name, column.data, column.datatype, datatype)
         for column in columns], axis=1,
    )
    return Tensor(name, datatype, data.shape, data)


def check_rows(columns: list[Tensor]) -> None:
    """Raise InvalidInput unless all columns are equally long."""
    for column in columns:
        if column.shape[0] != columns[0].shape[0]:
            raise InvalidInput(
                f"column {column.name!r} has {column.shape[0]} rows, but column "
                f"{columns[0].name!r} has {columns[0].shape[0]}"
            )


def _known(value: JsonValue, known: Collection[str], owner: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or value not in known:
        raise InvalidRequest(
            f"{owner}: unknown content_type {value!r}; known here are {', '.join(known)}"
        )
    return value


# --- the content types of an input --------------------------------------------------------------


def _np(tensor: Tensor) -> Array:
    return tensor.data


def _str(tensor: Tensor) -> Array:
    for element in _elements(tensor, "str"):
        try:
            element.decode()
        except UnicodeDecodeError:
            raise InvalidInput(
                f"input {tensor.name!r}: an element is not UTF-8 text, which content_type 'str' "
                "says it is"
            ) from None
    return tensor.data


def _base64(tensor: Tensor) -> Array:
    decoded = [
        tensors.from_base64(tensor.name, element) for element in _elements(tensor, "base64")
    ]
    return tensors.object_array(decoded, tensor.shape)


def _datetime(tensor: Tensor) -> Array:
    for element in _elements(tensor, "datetime"):
        try:
            datetime.fromisoformat(element.decode())
        except ValueError:
            raise InvalidInput(
                f"input {tensor.name!r}: {element[:40]!r} is no ISO 8601 time, which content_type "
                "'datetime' says it is"
            ) from None
    return tensor.data


def _elements(tensor: Tensor, content_type: str) -> list[bytes]:
    if tensor.datatype != "BYTES":
        raise InvalidInput(
            f"input {tensor.name!r} has the datatype {tensor.datatype}, but content_type "
            f"{content_type!r} is for BYTES"
        )
    elements: list[bytes] = tensor.data.ravel().tolist()
    return elements


_INPUT_TYPES: Final[dict[str, Callable[[Tensor], Array]]] = {
    "np": _np,
    "str": _str,
    "base64": _base64,
    "datetime": _datetime,
}
_REQUEST_TYPES: Final = ("pd", "np", "str")
