"""Open Inference Protocol (V2) over gRPC: tensors to `ModelInferResponse` bytes.

All but the id and the elements is alike from answer to answer of a model, so it is written once.
Answers come in the form of their requests: raw tensors to raw, typed contents to typed, as
KServe's servers do; FP16 and BF16 make the whole answer raw, since they have no typed form.
"""

from __future__ import annotations

import math
import struct
from typing import Final, TypeAlias

import msgspec

from shoal.codecs import tensors
from shoal.codecs import v2_proto_wire as wire
from shoal.codecs.message import InferResponse, Tensor
from shoal.codecs.v2_proto_typed import FIELDS, to_contents
from shoal.domain.model import JsonValue

Parts: TypeAlias = list[bytes | memoryview]

KNOWN_FORMS: Final = 1024  # kept at once

_DOUBLE: Final = struct.Struct("<d")
_ID: Final = 3
_PARAMETERS: Final = 4
_OUTPUTS: Final = 5

# Model, version, and name, datatype and shape of each output.
_Form: TypeAlias = "tuple[str, str, tuple[tuple[str, str, tuple[int, ...]], ...]]"


class _Known(msgspec.Struct):
    """head: what comes before the id; body: the rest before the first tensor, if any. tags: what
    comes before the elements of each tensor; empty for BYTES, whose length differs."""

    head: bytes
    body: bytes
    tags: list[bytes]


class ResponseWriter:
    """Writes the responses of one server. Its memory is bounded, whatever models answer."""

    def __init__(self) -> None:
        self._known: dict[_Form, _Known] = {}
        self._leads: dict[tuple[object, ...], bytes] = {}  # before the elements of an only output

    def write(self, response: InferResponse, *, typed: bool) -> Parts:
        """A serialized ModelInferResponse, in parts to be sent one after the other. typed: the
        request had typed contents."""
        outputs = response.outputs
        if len(outputs) == 1 and not (typed or response.id):  # the common case, in half the time
            tensor = outputs[0]
            lead = self._leads.get((
                response.model_name, response.model_version, tensor.name, tensor.datatype,
                tensor.shape,
            ))
            if lead is not None and not (tensor.parameters or response.parameters):
                return [lead, tensors.to_binary(tensor.datatype, tensor.data)]
        if typed and all(tensor.datatype in FIELDS for tensor in outputs):
            return [_by_fields(response, typed=True)]
        if response.parameters or _have_parameters(outputs):
            known = _Known(_by_fields(response, typed=False), b"", [b""] * len(outputs))
        else:
            form = (
                response.model_name, response.model_version,
                tuple([(tensor.name, tensor.datatype, tensor.shape) for tensor in outputs]),
            )
            known = self._known.get(form) or self._know(form)
        lead = known.head
        if known.body:
            if response.id:
                lead += wire.field(_ID, response.id.encode())
            lead += known.body
        parts: Parts = []
        for tag, tensor in zip(known.tags, outputs, strict=True):
            raw = tensors.to_binary(tensor.datatype, tensor.data)
            parts.append(lead + (tag or _tag(len(raw))))
            parts.append(raw)
            lead = b""
        return parts or [lead]

    def _know(self, form: _Form) -> _Known:
        model, version, outputs = form
        body = b"".join(
            wire.field(_OUTPUTS, described(name, datatype, shape))
            for name, datatype, shape in outputs
        )
        known = _Known(
            wire.field(1, model.encode()) + wire.field(2, version.encode()), body,
            [_tag_of(datatype, shape) for _, datatype, shape in outputs],
        )
        if len(self._known) >= KNOWN_FORMS:
            self._known.clear()
            self._leads.clear()
        self._known[form] = known
        if len(outputs) == 1 and known.tags[0]:
            self._leads[model, version, *outputs[0]] = known.head + known.body + known.tags[0]
        return known


def _tag_of(datatype: str, shape: tuple[int, ...]) -> bytes:
    if datatype == "BYTES":
        return b""
    return _tag(math.prod(shape) * tensors.DTYPES[datatype].itemsize)


def _tag(size: int) -> bytes:
    return b"\x32" + wire.write_varint(size)


def _have_parameters(outputs: list[Tensor]) -> bool:
    for tensor in outputs:  # noqa: SIM110 - quicker than any()
        if tensor.parameters:
            return True
    return False


def in_stream(parts: Parts) -> Parts:
    """A response, as a serialized ModelStreamInferResponse."""
    return [b"\x12" + wire.write_varint(sum(map(len, parts))), *parts]


def failed_in_stream(message: str, request_id: str | None) -> Parts:
    """A ModelStreamInferResponse that tells of an error, with the request's id, as Triton's."""
    parts: Parts = [wire.field(1, message.encode())]
    if request_id:
        parts += in_stream([wire.field(_ID, request_id.encode())])
    return parts


def _by_fields(response: InferResponse, *, typed: bool) -> bytes:
    """All but raw tensors."""
    parts = [wire.field(1, response.model_name.encode()),
             wire.field(2, response.model_version.encode())]
    if response.id:
        parts.append(wire.field(_ID, response.id.encode()))
    parts += [parameter(_PARAMETERS, key, value) for key, value in response.parameters.items()]
    parts += [wire.field(_OUTPUTS, _output(tensor, typed=typed)) for tensor in response.outputs]
    return b"".join(parts)


def _output(tensor: Tensor, *, typed: bool) -> bytes:
    written = described(tensor.name, tensor.datatype, tensor.shape)
    for key, value in tensor.parameters.items():
        written += parameter(_PARAMETERS, key, value)
    if typed:
        written += wire.field(5, to_contents(tensor.datatype, tensor.data))
    return written


def described(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    """A tensor's name, datatype and shape: fields 1 to 3 of an input and of an output."""
    extents = b"".join(wire.write_varint(extent) for extent in shape)
    return (
        (wire.field(1, name.encode()) if name else b"")
        + wire.field(2, datatype.encode())
        + (wire.field(3, extents) if shape else b"")
    )


def parameter(number: int, key: str, value: JsonValue) -> bytes:
    """An entry of a map of parameters; what the protocol has no kind for goes as text."""
    if isinstance(value, bool):
        choice = b"\x08" + bytes((value,))
    elif isinstance(value, int):
        tag = b"\x10" if value < 1 << 63 else b"\x28"
        choice = tag + wire.write_varint(value)
    elif isinstance(value, float):
        choice = b"\x21" + _DOUBLE.pack(value)
    else:
        choice = wire.field(3, str(value).encode())
    return wire.field(number, wire.field(1, key.encode()) + wire.field(2, choice))
