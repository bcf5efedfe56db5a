"""Open Inference Protocol (V2) over HTTP: request bodies to tensors, tensors to response bodies.

Both forms: all JSON, and JSON followed by raw tensors (the binary tensor data extension). Knows
no model: whether the tensors suit one is for `dataplane.validation` to say.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Final

import msgspec
import numpy as np
import orjson

from shoal.codecs import json_errors, tensors, v2_rules
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


class _Known(msgspec.Struct):
    """A document that came before, all of whose tensors follow it as bytes: the request without
    their data, and how many bytes each has. plain: the numpy type of each, None where the bytes
    themselves can be wrong."""

    request: InferRequest
    sizes: list[int]
    size: int
    plain: list[np.dtype[np.generic] | None]


class _KnownDocuments(dict[bytes, _Known]):
    """What was decoded before, by its bytes: clients of the binary extension send the same JSON
    again and again before other numbers. A document is kept when it comes the second time, so that
    traffic that never repeats does not pay for keeping."""

    MOST: Final = 1024  # about 2 MB when all are used
    LARGEST: Final = 1024

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[int] = set()

    def offer(self, document: bytes, request: InferRequest, sizes: list[int]) -> None:
        if len(sizes) != len(request.inputs) or len(document) > self.LARGEST:
            return
        mark = hash(document)
        if mark not in self._seen:
            if len(self._seen) >= 4 * self.MOST:
                self._seen.clear()
            self._seen.add(mark)
            return
        if len(self) >= self.MOST:
            self.clear()
        inputs = [
            Tensor(item.name, item.datatype, item.shape, _NOTHING, item.parameters)
            for item in request.inputs
        ]
        kept = InferRequest(inputs, request.id, request.parameters, request.outputs)
        plain = [
            None if item.datatype in ("BYTES", "BOOL") else tensors.DTYPES[item.datatype]
            for item in inputs
        ]
        self[document] = _Known(kept, sizes, sum(sizes), plain)


_REQUEST: Final = msgspec.json.Decoder(_Request)
_DOCUMENTS: Final = _KnownDocuments()
_NOTHING: Final = np.empty(0)
_INPUT_PATH: Final = re.compile(r"(inputs|outputs)\[(\d+)\]")


def decode_request(body: bytes | memoryview, json_length: int | None = None) -> InferRequest:
    """The request in `body`. json_length: the value of Inference-Header-Content-Length, None
    without that header.

    Arrays have the datatype and shape the request says. `binary_data_size` is taken out of an
    input's parameters. Raises InvalidRequest for what is no such request, InvalidInput for a wrong
    tensor.
    """
    if json_length is None:
        return _decode(body, _NO_BYTES, [])
    if not 0 < json_length <= len(body):
        raise InvalidRequest(
            f"Inference-Header-Content-Length is {json_length}, but the body has {len(body)} "
            "bytes; it must be the length of the JSON at the body's beginning"
        )
    document = bytes(body[:json_length])
    binary = memoryview(body)[json_length:]
    known = _DOCUMENTS.get(document)
    if known is not None and known.size == len(binary):
        return _filled(known, binary)
    sizes: list[int] = []
    request = _decode(document, binary, sizes)
    _DOCUMENTS.offer(document, request, sizes)
    return request


def _filled(known: _Known, binary: memoryview) -> InferRequest:
    """The request whose document is known, with the data that came behind it."""
    like = known.request
    inputs = []
    offset = 0
    for item, size, dtype in zip(like.inputs, known.sizes, known.plain, strict=True):
        raw = binary[offset : offset + size]
        if dtype is not None:
            data = tensors.own(item.shape, dtype, raw)
        else:
            data = tensors.parse_binary(item.name, item.datatype, item.shape, raw)
        inputs.append(Tensor(item.name, item.datatype, item.shape, data, item.parameters))
        offset += size
    parameters = like.parameters.copy()  # a model may change its own
    return InferRequest(inputs, like.id, parameters, like.outputs)


def _decode(document: bytes | memoryview, binary: memoryview, sizes: list[int]) -> InferRequest:
    """`sizes` gets the bytes of each input that is in `binary`."""
    try:
        decoded = _REQUEST.decode(document)
    except json_errors.DECODING_ERRORS as error:
        raise _refusal(error, document) from None
    outputs = decoded.outputs
    request = InferRequest(
        _decode_inputs(decoded.inputs, binary, sizes),
        decoded.id,
        decoded.parameters or {},  # type: ignore[arg-type]  # JSON by construction
        _decode_outputs(outputs) if outputs else [],
    )
    if request.parameters:
        _check_flag(request.parameters, "binary_data_output", "the request")
    return request


def _decode_inputs(
    inputs: list[_Input], binary: memoryview, sizes: list[int]
) -> list[Tensor]:
    decoded = []
    offset = 0
    for item in inputs:
        name, datatype, parameters = item.name, item.datatype, item.parameters
        if datatype not in tensors.DTYPES:
            v2_rules.check_datatype(name, datatype)
        shape = tuple(item.shape)
        if parameters and "binary_data_size" in parameters:
            size = _binary_size(item, len(binary) - offset)
            data = tensors.parse_binary(name, datatype, shape, binary[offset : offset + size])
            offset += size
            sizes.append(size)
            del parameters["binary_data_size"]
        elif item.data is _ABSENT:
            raise v2_rules.no_data(
                name, parameters, "give 'data', or the parameter 'binary_data_size' and the bytes "
                "after the JSON"
            )
        else:
            data = tensors.parse_json(name, datatype, shape, item.data)
        decoded.append(Tensor(name, datatype, shape, data, parameters or {}))  # type: ignore[arg-type]
    if offset != len(binary):
        raise InvalidInput(
            f"{len(binary)} bytes follow the JSON, but the inputs' 'binary_data_size' add up to "
            f"{offset}"
        )
    if len(decoded) > 1:
        v2_rules.check_names("input", [tensor.name for tensor in decoded])
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


def _decode_outputs(outputs: list[_Output]) -> list[RequestedOutput]:
    decoded = []
    for item in outputs:
        parameters: dict[str, JsonValue] = item.parameters or {}  # type: ignore[assignment]
        _check_flag(parameters, "binary_data", f"output {item.name!r}")
        decoded.append(RequestedOutput(item.name, parameters))
    v2_rules.check_outputs(decoded)
    return decoded


def _check_flag(parameters: dict[str, JsonValue], flag: str, owner: str) -> None:
    if not isinstance(parameters.get(flag, False), bool):
        raise InvalidRequest(f"{owner}: the parameter {flag!r} must be true or false")


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
    (`binary_data_output`). NaN and Infinity in JSON become null. Raises InvalidRequest for BYTES
    that JSON cannot carry.
    """
    default = bool(request.parameters) and request.parameters.get("binary_data_output") is True
    text = [_response_head(response.model_name, response.model_version)]
    if response.id is not None:
        text += (b'"id":', orjson.dumps(response.id), b",")
    if response.parameters:
        text += (b'"parameters":', orjson.dumps(response.parameters), b",")
    text.append(b'"outputs":[')
    parts: list[bytes | memoryview] = []
    following = b""
    for tensor in response.outputs:
        text += (following, _output_head(tensor.name, tensor.datatype, tensor.shape))
        if _wants_binary(request, tensor.name, default):
            data = tensors.to_binary(tensor.datatype, tensor.data)
            parts.append(data)
            if tensor.parameters:
                parameters = {**tensor.parameters, "binary_data_size": len(data)}
                text += (b'"parameters":', orjson.dumps(parameters), b"}")
            else:
                text.append(b'"parameters":{"binary_data_size":%d}}' % len(data))
        else:
            if tensor.parameters:
                text += (b'"parameters":', orjson.dumps(tensor.parameters), b",")
            values = tensors.to_json(tensor.name, tensor.datatype, tensor.data)
            text += (
                b'"data":', orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY), b"}"
            )
        following = b","
    text.append(b"]}")
    head = b"".join(text)
    return [head, *parts], len(head) if parts else None


def _wants_binary(request: InferRequest, name: str, default: bool) -> bool:
    for output in request.outputs:
        if output.name == name:
            return output.parameters.get("binary_data", default) is True
    return default


# The beginnings of responses repeat: a model's name, an output's datatype and shape.


@lru_cache(maxsize=4096)
def _response_head(model: str, version: str) -> bytes:
    return b'{"model_name":%b,"model_version":%b,' % (orjson.dumps(model), orjson.dumps(version))


@lru_cache(maxsize=4096)
def _output_head(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    return b'{"name":%b,"datatype":%b,"shape":%b,' % (
        orjson.dumps(name), orjson.dumps(datatype), orjson.dumps(shape)
    )
