"""Open Inference Protocol (V2) over HTTP as a client speaks it: arrays to a request body, a
response body to arrays. Knows nothing of connections or of the server's side.

Binary tensor data extension (Triton, "extension_binary_data"): the JSON comes first, its length in
the header `Inference-Header-Content-Length`; the data of the tensors that carry a
`binary_data_size` follows it, in their order, little-endian; a BYTES element is a 4-byte length and
its bytes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import orjson

from shoal.codecs.message import InferRequest, InferResponse, Tensor
from shoal.codecs.tensors import (
    DATATYPES,
    DTYPES,
    FLOATS,
    convert,
    object_array,
    parse_binary,
    to_binary,
)
from shoal.domain.errors import InvalidInput
from shoal.domain.model import JsonValue

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEADER_LENGTH: Final = "inference-header-content-length"


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: JsonValue = None
    parameters: dict[str, JsonValue] | None = None


class _Response(msgspec.Struct):
    outputs: list[_Output]
    model_name: str = ""
    model_version: str | None = None
    id: str | None = None
    parameters: dict[str, JsonValue] | None = None


def tensor_of(name: str, values: object, datatype: str | None = None) -> Tensor:
    """`values`, an array or nested lists, as an input. Text becomes BYTES in UTF-8.

    datatype: what lists of numbers are converted to; arrays keep their own. Raises InvalidInput for
    rows of unequal length, types the protocol lacks, and lists that `datatype` cannot express.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InvalidInput(
            f"input {name!r}: these values make no array: {error}; "
            "all rows must have the same length"
        ) from None
    if array.dtype.kind in "USOT":
        array, is_text = _bytes_array(name, array)
        return Tensor(
            name, "BYTES", array.shape, array, {"content_type": "str"} if is_text else {}
        )
    found = DATATYPES.get(array.dtype.newbyteorder("="))
    if found is None:
        numeric = ", ".join(str(dtype) for dtype in DATATYPES if dtype.kind != "O")
        raise InvalidInput(
            f"input {name!r}: numpy type {array.dtype} has no datatype in the protocol; "
            f"convert it to one of {numeric} or text"
        )
    array = array.astype(DTYPES[found], copy=False)
    if datatype in DTYPES and not isinstance(values, np.ndarray | np.generic):
        array, found = convert(name, array, found, datatype), datatype
    return Tensor(name, found, array.shape, array)


def encode_request(request: InferRequest, *, binary: bool) -> tuple[bytes, dict[str, str]]:
    """Body and headers. `binary`: tensor data in the binary extension, both ways."""
    parts: list[bytes | memoryview] = []
    inputs: list[dict[str, object]] = []
    for tensor in request.inputs:
        parameters = dict(tensor.parameters)
        head: dict[str, object] = {
            "name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)
        }
        if binary:
            parts.append(to_binary(tensor.datatype, tensor.data))
            parameters["binary_data_size"] = len(parts[-1])
        else:
            head["data"] = _json_data(tensor)
        if parameters:
            head["parameters"] = parameters
        inputs.append(head)
    body: dict[str, object] = {"inputs": inputs}
    if request.id is not None:
        body["id"] = request.id
    parameters = dict(request.parameters)
    if binary:
        parameters.setdefault("binary_data_output", True)
    if parameters:
        body["parameters"] = parameters
    if request.outputs:
        body["outputs"] = [_requested(out.name, out.parameters, binary) for out in request.outputs]
    head_bytes = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary:
        return head_bytes, {"content-type": "application/json"}
    return b"".join((head_bytes, *parts)), {
        "content-type": "application/octet-stream",
        HEADER_LENGTH: str(len(head_bytes)),
    }


def decode_response(body: bytes, header_length: int | None) -> InferResponse:
    """Arrays own their memory and may be written to. BYTES are object arrays of bytes, or of str
    where the server says `content_type: str`.

    header_length: the value of `Inference-Header-Content-Length`; None: all of the body is JSON.
    Raises ValueError when the body breaks the protocol.
    """
    json_end = len(body) if header_length is None else header_length
    if not 0 <= json_end <= len(body):
        raise ValueError(f"header length {json_end} in a body of {len(body)} bytes")
    head = msgspec.json.decode(memoryview(body)[:json_end], type=_Response)
    offset = json_end
    outputs = []
    for output in head.outputs:
        if output.datatype not in DTYPES:
            raise ValueError(f"output {output.name!r} has the unknown datatype {output.datatype!r}")
        parameters = output.parameters or {}
        size = parameters.pop("binary_data_size", None)
        if isinstance(size, int):
            if size < 0 or offset + size > len(body):
                raise ValueError(f"output {output.name!r}: {size} bytes announced, fewer came")
            data = _from_raw(output, memoryview(body)[offset : offset + size])
            offset += size
        else:
            data = _from_json(output)
        if parameters.get("content_type") == "str" and output.datatype == "BYTES":
            data = _decoded_text(data)
        outputs.append(Tensor(output.name, output.datatype, output.shape, data, parameters))
    if offset != len(body):
        raise ValueError(f"{len(body) - offset} bytes follow the last output")
    return InferResponse(
        head.model_name, head.model_version or "", outputs, head.id, head.parameters or {}
    )


def _requested(name: str, parameters: dict[str, JsonValue], binary: bool) -> dict[str, object]:
    merged: dict[str, JsonValue] = {"binary_data": True} if binary else {}
    merged |= parameters
    return {"name": name, "parameters": merged} if merged else {"name": name}


def _bytes_array(name: str, array: NDArray[np.generic]) -> tuple[NDArray[np.generic], bool]:
    """Elements as bytes, and whether any was text."""
    elements: list[bytes] = []
    text = False
    for index, element in enumerate(array.ravel().tolist()):
        if isinstance(element, str):
            elements.append(element.encode())
            text = True
        elif isinstance(element, bytes):
            elements.append(element)
        else:
            raise InvalidInput(
                f"input {name!r}: element {index} is {element!r} among text or mixed values; "
                "give text or bytes throughout, or one numeric type"
            )
    return object_array(elements, array.shape), text


def _json_data(tensor: Tensor) -> object:
    if tensor.datatype == "BYTES":
        try:
            return [element.decode() for element in tensor.data.ravel().tolist()]
        except UnicodeDecodeError:
            raise InvalidInput(
                f"input {tensor.name!r}: bytes that are no UTF-8 text cannot be sent as JSON; "
                "use the binary extension"
            ) from None
    if tensor.datatype == "BF16":
        raise InvalidInput(
            f"input {tensor.name!r}: BF16 has no JSON form; use the binary extension"
        )
    if tensor.data.dtype.kind == "f" and not bool(np.isfinite(tensor.data).all()):
        raise InvalidInput(
            f"input {tensor.name!r}: NaN and infinity have no JSON form; use the binary extension"
        )
    return tensor.data.ravel().tolist()


def _from_raw(output: _Output, raw: memoryview) -> NDArray[np.generic]:
    try:
        return parse_binary(output.name, output.datatype, output.shape, raw)
    except InvalidInput as error:
        raise ValueError(error.message.replace("input", "output", 1)) from None


def _from_json(output: _Output) -> NDArray[np.generic]:
    if not isinstance(output.data, list):
        raise ValueError(f"output {output.name!r} has no data")
    flat = _flat(output.data)
    try:
        if output.datatype == "BYTES":
            return object_array([str(element).encode() for element in flat], output.shape)
        if output.datatype in FLOATS:  # whose NaN and infinities JSON writes as null
            flat = [math.nan if element is None else element for element in flat]
        return np.array(flat, dtype=DTYPES[output.datatype]).reshape(output.shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"output {output.name!r}: {error}") from None


def _flat(data: list[JsonValue]) -> list[JsonValue]:
    """Nested rows in row-major order; the protocol allows them beside the flat form."""
    while data and isinstance(data[0], list):
        data = [element for row in data if isinstance(row, list) for element in row]
    return data


def _decoded_text(array: NDArray[np.generic]) -> NDArray[np.generic]:
    texts = [element.decode("utf-8", "replace") for element in array.ravel().tolist()]
    return object_array(texts, array.shape)
