"""Open Inference Protocol (V2) over HTTP: request bodies to tensors, tensors to response bodies.

Both forms: all JSON, and JSON followed by raw tensors (the binary tensor data extension). Knows
no model: whether the tensors suit one is for `dataplane.validation` to say.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec
import orjson

from shoal.codecs import json_errors, tensors
from shoal.codecs.message import InferRequest, InferResponse, RequestedOutput, Tensor
from shoal.domain.errors import InvalidInput, InvalidRequest
from shoal.domain.model import JsonValue

_ABSENT: Final = msgspec.Raw()
_NO_BYTES: Final = memoryview(b"")
_Parameters = dict[str, object] | None


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: Annotated[
        list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(max_length=tensors.MAX_RANK)
    ]
    data: msgspec.Raw = _ABSENT
    parameters: _Parameters = None


class _Output(msgspec.Struct):
    name: str
    parameters: _Parameters = None


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    parameters: _Parameters = None
    outputs: list[_Output] | None = None


_REQUEST: Final = msgspec.json.Decoder(_Request)
_INPUT_PATH: Final = re.compile(r"(inputs|outputs)\[(\d+)\]")


def decode_request(body: bytes | memoryview, json_length: int | None = None) -> InferRequest:
    """The request in `body`. json_length: the value of Inference-Header-Content-Length, None
    without that header.

    Arrays have the datatype and shape the request says. `binary_data_size` is taken out of an
    input's parameters. Raises InvalidRequest for what is no such request, InvalidInput for a wrong
    tensor.
    """
    if json_length is None:
        document, binary = body, _NO_BYTES
    else:
        if not 0 < json_length <= len(body):
            raise InvalidRequest(
                f"Inference-Header-Content-Length is {json_length}, but the body has {len(body)} "
                "bytes; it must be the length of the JSON at the body's beginning"
            )
        view = memoryview(body)
        document, binary = view[:json_length], view[json_length:]
    try:
        decoded = _REQUEST.decode(document)
    except json_errors.DECODING_ERRORS as error:
        raise _refusal(error, document) from None
    outputs = decoded.outputs
    request = InferRequest(
        _decode_inputs(decoded.inputs, binary),
        decoded.id,
        decoded.parameters or {},  # type: ignore[arg-type]  # JSON by construction
        _decode_outputs(outputs) if outputs else [],
    )
    if request.parameters:
        _check_flag(request.parameters, "binary_data_output", "the request")
    return request


def _decode_inputs(inputs: list[_Input], binary: memoryview) -> list[Tensor]:
    decoded = []
    offset = 0
    for item in inputs:
        name, datatype, parameters = item.name, item.datatype, item.parameters
        if datatype not in tensors.DTYPES:
            raise InvalidInput(
                f"input {name!r}: unknown datatype {datatype!r}; "
                f"known are {', '.join(tensors.DTYPES)}"
            )
        shape = tuple(item.shape)
        if parameters and "binary_data_size" in parameters:
            size = _binary_size(item, len(binary) - offset)
            data = tensors.parse_binary(name, datatype, shape, binary[offset : offset + size])
            offset += size
            del parameters["binary_data_size"]
        elif item.data is _ABSENT:
            raise _no_data(item)
        else:
            data = tensors.parse_json(name, datatype, shape, item.data)
        decoded.append(Tensor(name, datatype, shape, data, parameters or {}))  # type: ignore[arg-type]
    if offset != len(binary):
        raise InvalidInput(
            f"{len(binary)} bytes follow the JSON, but the inputs' 'binary_data_size' add up to "
            f"{offset}"
        )
    if len(decoded) > 1:
        _check_names("input", [tensor.name for tensor in decoded])
    return decoded


def _binary_size(item: _Input, left: int) -> int:
    """The checked `binary_data_size` of an input; `left`: bytes of the body not taken yet."""
    assert item.parameters is not None
    size = item.parameters["binary_data_size"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise InvalidInput(
            f"input {item.name!r}: 'binary_data_size' must be a number of bytes, 0 or more"
        )
    if item.data is not _ABSENT:
        raise InvalidInput(
            f"input {item.name!r} has both 'data' and 'binary_data_size'; keep one"
        )
    if size > left:
        raise InvalidInput(
            f"input {item.name!r}: 'binary_data_size' is {size}, but {left} bytes are left after "
            "the JSON; is the header Inference-Header-Content-Length right?"
        )
    return size


def _no_data(item: _Input) -> InvalidInput:
    if item.parameters and "shared_memory_region" in item.parameters:
        return InvalidInput(
            f"input {item.name!r}: shared memory is not supported; send 'data' or binary data"
        )
    return InvalidInput(
        f"input {item.name!r} has no data: give 'data', or the parameter 'binary_data_size' and "
        "the bytes after the JSON"
    )


def _decode_outputs(outputs: list[_Output]) -> list[RequestedOutput]:
    decoded = []
    for item in outputs:
        parameters: dict[str, JsonValue] = item.parameters or {}  # type: ignore[assignment]
        _check_flag(parameters, "binary_data", f"output {item.name!r}")
        for extension in ("classification", "shared_memory_region"):
            if extension in parameters:
                # Answering in another form than was asked for would be a wrong answer.
                raise InvalidRequest(
                    f"output {item.name!r}: the parameter {extension!r} is not supported; "
                    "leave it out"
                )
        decoded.append(RequestedOutput(item.name, parameters))
    _check_names("output", [output.name for output in decoded])
    return decoded


def _check_flag(parameters: dict[str, JsonValue], flag: str, owner: str) -> None:
    if not isinstance(parameters.get(flag, False), bool):
        raise InvalidRequest(f"{owner}: the parameter {flag!r} must be true or false")


def _check_names(what: str, names: list[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(f"{what} {twice!r} is given more than once")


def _refusal(error: Exception, document: bytes | memoryview) -> InvalidRequest:
    """As `json_errors.as_refusal`, and names the tensor where the fault lies in one."""
    refusal = json_errors.as_refusal(error, document)
    match = _INPUT_PATH.match(refusal.message)
    if not match:
        return refusal
    kind, index = match.group(1), int(match.group(2))
    try:
        name = orjson.loads(document)[kind][index]["name"]
    except (ValueError, LookupError, TypeError):  # the document has other faults besides
        name = None
    if not isinstance(name, str):
        return InvalidInput(refusal.message)
    return InvalidInput(f"{kind[:-1]} {name!r}: {refusal.message}")


# --- responses ----------------------------------------------------------------------------------


def encode_response(
    response: InferResponse, request: InferRequest
) -> tuple[list[bytes | memoryview], int | None]:
    """The parts of the response's body, and the value of Inference-Header-Content-Length: None when
    all is JSON.

    An output is binary if `request` says so, for it (`binary_data`) or for all
    (`binary_data_output`). NaN and Infinity in JSON
    become null. Raises InvalidRequest for BYTES that JSON cannot carry.
    """
    default = bool(request.parameters) and request.parameters.get("binary_data_output", False)
    wishes = {
        output.name: output.parameters.get("binary_data", default) for output in request.outputs
    }
    outputs: list[dict[str, object]] = []
    parts: list[bytes | memoryview] = []
    for tensor in response.outputs:
        output: dict[str, object] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
        }
        if wishes.get(tensor.name, default):
            data = tensors.to_binary(tensor.datatype, tensor.data)
            output["parameters"] = {**tensor.parameters, "binary_data_size": len(data)}
            parts.append(data)
        else:
            if tensor.parameters:
                output["parameters"] = tensor.parameters
            output["data"] = tensors.to_json(tensor.name, tensor.datatype, tensor.data)
        outputs.append(output)
    document: dict[str, object] = {
        "model_name": response.model_name,
        "model_version": response.model_version,
    }
    if response.id is not None:
        document["id"] = response.id
    if response.parameters:
        document["parameters"] = response.parameters
    document["outputs"] = outputs
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return [head, *parts], len(head) if parts else None
