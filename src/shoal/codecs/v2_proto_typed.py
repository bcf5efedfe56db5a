"""Typed contents of tensors over gRPC: `InferTensorContents` to arrays and back.

By the protobuf library: whoever wants speed sends raw tensors. Knows no model.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from shoal.codecs import protobuf, tensors
from shoal.domain.errors import InvalidInput

if TYPE_CHECKING:
    from shoal.codecs.tensors import Array

_MESSAGE: Final = "inference.InferTensorContents"

# Source: Open Inference Protocol, "Tensor Data": the field for each datatype. FP16 and BF16 have
# none.
FIELDS: Final = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def from_contents(name: str, datatype: str, shape: tuple[int, ...], contents: bytes) -> Array:
    """The elements of a serialized InferTensorContents, which is not empty.

    Raises InvalidInput for elements in a field of another datatype, another count than the
    shape's, values outside the datatype's range.
    """
    field = FIELDS.get(datatype)
    if field is None:
        raise InvalidInput(
            f"input {name!r}: {datatype} has no typed contents; send it in raw_input_contents"
        )
    message = protobuf.parse(_MESSAGE, contents)
    for present, _ in message.ListFields():
        if present.name != field:
            raise InvalidInput(
                f"input {name!r}: {datatype} goes into {field}, but {present.name} came"
            )
    values = list(getattr(message, field))
    expected = math.prod(shape)
    if len(values) != expected:
        raise InvalidInput(
            f"input {name!r}: shape {list(shape)} needs {expected} elements, 'contents' has "
            f"{len(values)}"
        )
    try:
        if datatype == "BYTES":
            return tensors.object_array(values, shape)
        return np.array(values, tensors.DTYPES[datatype]).reshape(shape)
    except OverflowError:
        raise InvalidInput(f"input {name!r}: a value is out of range for {datatype}") from None
    except ValueError:  # an empty tensor with a vast extent
        raise InvalidInput(f"input {name!r}: the shape {list(shape)} is too large") from None


def to_contents(datatype: str, data: Array) -> bytes:
    """A serialized InferTensorContents; `datatype` is one of FIELDS."""
    message = protobuf.message_class(_MESSAGE)()
    getattr(message, FIELDS[datatype]).extend(data.ravel().tolist())
    return message.SerializeToString()
