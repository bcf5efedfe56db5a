"""What V2 requires of requests in any form, JSON or protobuf, in the same words.

Knows no bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from shoal.codecs import tensors
from shoal.codecs.message import RequestedOutput
from shoal.domain.errors import InvalidInput, InvalidRequest

if TYPE_CHECKING:
    import numpy as np

_UNSUPPORTED = ("classification", "shared_memory_region")


def check_datatype(name: str, datatype: str) -> np.dtype[np.generic]:
    """The numpy type of an input's `datatype`. Raises InvalidInput."""
    dtype = tensors.DTYPES.get(datatype)
    if dtype is None:
        raise InvalidInput(
            f"input {name!r}: unknown datatype {datatype!r}; known are {', '.join(tensors.DTYPES)}"
        )
    return dtype


def check_shape(name: str, shape: Sequence[int]) -> None:
    """Raises InvalidInput. JSON's decoder checks it itself."""
    if any(extent < 0 for extent in shape):
        raise InvalidInput(
            f"input {name!r}: shape: expected integers >= 0, got {list(shape)}"
        )
    if len(shape) > tensors.MAX_RANK:
        raise InvalidInput(
            f"input {name!r}: shape: expected at most {tensors.MAX_RANK} axes, got {len(shape)}"
        )


def check_names(what: str, names: Sequence[str]) -> None:
    """what: input or output. Raises InvalidInput."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(f"{what} {twice!r} is given more than once")


def check_outputs(outputs: Sequence[RequestedOutput]) -> None:
    """Raises InvalidRequest: to answer in another form than was asked for would be a wrong
    answer."""
    for output in outputs:
        for extension in _UNSUPPORTED:
            if extension in output.parameters:
                raise InvalidRequest(
                    f"output {output.name!r}: the parameter {extension!r} is not supported; "
                    "leave it out"
                )
    check_names("output", [output.name for output in outputs])


def no_data(name: str, parameters: Mapping[str, object] | None, way_out: str) -> InvalidInput:
    """An input came without a tensor. way_out: how to send one."""
    if parameters and "shared_memory_region" in parameters:
        return InvalidInput(
            f"input {name!r}: shared memory is not supported; send 'data' or binary data"
        )
    return InvalidInput(f"input {name!r} has no data: {way_out}")
