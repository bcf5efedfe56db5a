"""Open Inference Protocol (V2) over gRPC as a client speaks it: arrays to `ModelInferRequest`
bytes, `ModelInferResponse` bytes to arrays. Knows nothing of connections or of the server's side.

Tensors travel raw. Answers may come typed all the same, as some servers' do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from shoal.codecs import protobuf, tensors
from shoal.codecs import v2_proto_wire as wire
from shoal.codecs.v2_proto_answer import described, parameter
from shoal.codecs.v2_proto_typed import FIELDS, from_contents
from shoal.domain.errors import InvalidInput, InvalidRequest
from shoal.domain.model import JsonValue

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from shoal.codecs.tensors import Array

_MODEL: Final = 1
_VERSION: Final = 2
_PARAMETERS: Final = 4
_INPUTS: Final = 5
_OUTPUTS: Final = 6
_RAW: Final = 7


class _Output:
    """What the library's ModelInferResponse.InferOutputTensor has of use here."""

    name: str
    datatype: str
    shape: Sequence[int]
    contents: Message


class _Response:
    outputs: Sequence[_Output]
    raw_output_contents: Sequence[bytes]


def encode_request(
    model: str, inputs: Mapping[str, Array], parameters: Mapping[str, JsonValue],
    outputs: Sequence[str], version: str = "",
) -> bytes:
    """A serialized ModelInferRequest with raw tensors. inputs: arrays of the protocol's types;
    BYTES as object arrays of bytes. outputs: those that are asked for; empty: all."""
    parts: list[bytes | memoryview] = [wire.field(_MODEL, model.encode())]
    if version:
        parts.append(wire.field(_VERSION, version.encode()))
    parts += [parameter(_PARAMETERS, key, value) for key, value in parameters.items()]
    raw: list[bytes | memoryview] = []
    for name, array in inputs.items():
        datatype = tensors.DATATYPES[array.dtype]
        parts.append(wire.field(_INPUTS, described(name, datatype, array.shape)))
        raw.append(tensors.to_binary(datatype, array))
    parts += [wire.field(_OUTPUTS, wire.field(1, name.encode())) for name in outputs]
    for data in raw:
        parts += [bytes((_RAW << 3 | wire.BYTES,)), wire.write_varint(len(data)), data]
    return b"".join(parts)


def decode_response(data: bytes) -> dict[str, Array]:
    """The outputs of a serialized ModelInferResponse, each array its own and writable. Raises
    ValueError when it breaks the protocol."""
    try:
        response = cast(_Response, protobuf.parse("inference.ModelInferResponse", data))
    except InvalidRequest:
        raise ValueError("it is no ModelInferResponse") from None
    raw = list(response.raw_output_contents)
    if raw and len(raw) != len(response.outputs):
        raise ValueError(f"it has {len(response.outputs)} outputs, but {len(raw)} raw tensors")
    arrays: dict[str, Array] = {}
    for index, output in enumerate(response.outputs):
        if output.datatype not in tensors.DTYPES:
            raise ValueError(
                f"output {output.name!r} has the unknown datatype {output.datatype!r}")
        shape = tuple(output.shape)
        if min(shape, default=0) < 0:
            raise ValueError(f"output {output.name!r} has the shape {list(shape)}")
        try:
            arrays[output.name] = (
                tensors.parse_binary(output.name, output.datatype, shape, memoryview(raw[index]))
                if raw else _typed(output, shape))
        except InvalidInput as error:
            raise ValueError(error.message.replace("input", "output", 1)) from None
    return arrays


def _typed(output: _Output, shape: tuple[int, ...]) -> Array:
    if 0 in shape:
        return np.zeros(shape, tensors.DTYPES[output.datatype])
    if output.datatype not in FIELDS:
        raise ValueError(f"output {output.name!r} has no data")
    return from_contents(
        output.name, output.datatype, shape, output.contents.SerializeToString())
