"""Open Inference Protocol (V2) over gRPC: `ModelInferRequest` bytes to tensors.

What comes before `raw_input_contents` is alike from request to request, so it is recognised by its
bytes and read once. What encoders rarely write goes through the protobuf library, which drops
unknown fields, merges what is repeated, and writes it again in the usual order. Knows no model:
whether the tensors suit one is for `dataplane.validation` to say. `v2_proto_answer` is the way
back.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec
import numpy as np
from google.protobuf.message import DecodeError

from shoal.codecs import names, protobuf, tensors, v2_rules
from shoal.codecs import v2_proto_wire as wire
from shoal.codecs.message import InferRequest, RequestedOutput, Tensor
from shoal.codecs.v2_proto_typed import from_contents
from shoal.codecs.v2_proto_wire import Unusual
from shoal.domain.errors import InvalidInput, InvalidRequest
from shoal.domain.model import JsonValue

KNOWN_HEADS: Final = 1024  # kept at once
LONGEST_KNOWN: Final = 2048  # bytes of one: what strangers send must not fill the memory

_REQUEST: Final = "inference.ModelInferRequest"
_ID: Final = 0x1A
_RAW: Final = 0x3A
_HEAD: Final = frozenset((0x0A, 0x12, _ID, 0x22, 0x2A, 0x32))
_DOUBLE: Final = struct.Struct("<d")
_EMPTY: Final = memoryview(b"")


class _Input(msgspec.Struct):
    """`needed`: bytes of its elements; -1 where they must be looked at. contents: as they came,
    None without."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    needed: int
    parameters: dict[str, JsonValue]
    contents: bytes | None


class _Head(msgspec.Struct):
    """What comes before the raw tensors, but for the id."""

    model: str
    version: int | None
    parameters: dict[str, JsonValue]
    inputs: list[_Input]
    outputs: list[RequestedOutput]
    typed: bool  # some input has contents


class Received(msgspec.Struct):
    """A request of which the structure is read: `model` and `version` are looked up, then `decode`
    makes the tensors. spans: where in `data` the raw tensors lie."""

    head: _Head
    id: str | None
    data: bytes | memoryview
    spans: list[tuple[int, int]]

    @property
    def typed(self) -> bool:
        """Did its tensors come as typed contents?"""
        return self.head.typed


class RequestReader:
    """Reads the requests of one server. Its memory is bounded, whatever comes."""

    def __init__(self) -> None:
        self._heads: dict[bytes, _Head] = {}
        self._begins: dict[int, int] = {}  # length of a message -> where its raw tensors began

    def read(self, data: bytes | memoryview) -> Received:
        """The structure of a serialized ModelInferRequest.

        Raises InvalidRequest for what is none, InvalidInput for a wrong input, ModelNotFound and
        VersionNotFound for what no model is called.
        """
        size = len(data)
        begin = self._begins.get(size)
        if begin is not None:
            head = self._heads.get(bytes(data[:begin]))
            if head is not None:
                try:
                    return Received(head, None, data, _spans(data, begin, size))
                except (Unusual, IndexError):
                    pass
        try:
            return self._read(data)
        except (Unusual, IndexError, UnicodeDecodeError):
            return self._read_by_library(data)

    def _read(self, data: bytes | memoryview) -> Received:
        size = len(data)
        id_from, id_to, begin = _walk(data)
        spans = _spans(data, begin, size)
        if id_to:
            key = bytes(data[:id_from]) + bytes(data[id_to:begin])
            identity = bytes(data[wire.length(data, id_from + 1)[1] : id_to]).decode() or None
        else:
            key = bytes(data[:begin])
            identity = None
        head = self._heads.get(key)
        if head is None:
            head = _read_head(key)
            if len(key) <= LONGEST_KNOWN:
                if len(self._heads) >= KNOWN_HEADS:
                    self._heads.clear()
                self._heads[key] = head
        if not id_to and len(key) <= LONGEST_KNOWN:
            if len(self._begins) >= KNOWN_HEADS:
                self._begins.clear()
            self._begins[size] = begin
        return Received(head, identity, data, spans)

    def _read_by_library(self, data: bytes | memoryview) -> Received:
        message = protobuf.message_class(_REQUEST)()
        try:
            message.ParseFromString(bytes(data))
        except DecodeError as error:
            raise InvalidRequest(
                f"the request is not a valid ModelInferRequest message: {error}"
            ) from None
        message.DiscardUnknownFields()
        return self._read(message.SerializeToString(deterministic=True))


def decode(received: Received) -> InferRequest:
    """The request with its tensors; their arrays are its own: contiguous, aligned, writable.

    Raises InvalidInput for a wrong tensor, InvalidRequest for raw and typed ones together.
    """
    head, data = received.head, received.data
    inputs = head.inputs
    spans = received.spans
    if len(spans) != len(inputs) or head.typed:
        return _request(received, _typed(head, spans))
    decoded = []
    for item, (begin, end) in zip(inputs, spans, strict=True):
        raw = memoryview(data)[begin:end]
        if item.needed == end - begin:
            array = tensors.own(item.shape, item.dtype, raw)
        else:
            array = tensors.parse_binary(item.name, item.datatype, item.shape, raw)
        decoded.append(
            Tensor(item.name, item.datatype, item.shape, array, item.parameters.copy())
        )
    return _request(received, decoded)


def first_tensor_at(data: bytes | memoryview) -> int | None:
    """Where the first raw tensor begins in a message of which `data` is the beginning; None when
    that is not to be seen. So that the whole can be laid in memory with its tensors aligned."""
    try:
        begin = _walk(data)[2]
        return wire.length(data, begin + 1)[1] if data[begin] == _RAW else None
    except (Unusual, IndexError):
        return None


# --- structure ------------------------------------------------------------------------------------


def _walk(data: bytes | memoryview) -> tuple[int, int, int]:
    """Where the id begins and ends (0 and 0 without one), and where the raw tensors begin."""
    at, size = 0, len(data)
    id_from = id_to = 0
    while at < size:
        tag = data[at]
        if tag == _RAW:
            break
        if tag not in _HEAD:
            raise Unusual
        length = data[at + 1]
        after = at + 2
        if length >= 0x80:
            length, after = wire.length(data, at + 1)
        after += length
        if tag == _ID:
            if id_to:
                raise Unusual
            id_from, id_to = at, after
        at = after
    if at > size:
        raise Unusual
    return id_from, id_to, at


def _spans(data: bytes | memoryview, at: int, size: int) -> list[tuple[int, int]]:
    spans = []
    while at < size:
        if data[at] != _RAW:
            raise Unusual
        length = data[at + 1]
        begin = at + 2
        if length >= 0x80:
            length, begin = wire.length(data, at + 1)
        at = begin + length
        spans.append((begin, at))
    if at > size:
        raise Unusual
    return spans


def _read_head(data: bytes) -> _Head:
    model = version = ""
    parameters: dict[str, JsonValue] = {}
    inputs: list[bytes] = []
    outputs: list[RequestedOutput] = []
    for tag, value in wire.fields(data):
        if not isinstance(value, bytes):
            raise Unusual
        if tag == 0x0A:
            model = value.decode()
        elif tag == 0x12:
            version = value.decode()
        elif tag == 0x22:
            _read_parameter(value, parameters)
        elif tag == 0x2A:
            inputs.append(value)
        elif tag == 0x32:
            outputs.append(_read_output(value))
        else:
            raise Unusual
    raw_inputs = [_read_input(value) for value in inputs]
    names.model_name(model)
    number = names.model_version(version) if version else None
    checked = [_checked(*each) for each in raw_inputs]
    v2_rules.check_names("input", [each.name for each in checked])
    v2_rules.check_outputs(outputs)
    typed = any(each.contents for each in checked)
    return _Head(model, number, parameters, checked, outputs, typed)


_RawInput = tuple[str, str, tuple[int, ...], dict[str, JsonValue], bytes | None]


def _read_input(data: bytes) -> _RawInput:
    name = datatype = ""
    shape: list[int] = []
    parameters: dict[str, JsonValue] = {}
    contents: bytes | None = None
    for tag, value in wire.fields(data):
        if isinstance(value, int):
            if tag != 0x18:
                raise Unusual
            shape.append(wire.signed(value))
        elif tag == 0x0A:
            name = value.decode()
        elif tag == 0x12:
            datatype = value.decode()
        elif tag == 0x1A:
            at = 0
            while at < len(value):
                extent, at = wire.varint(value, at)
                shape.append(wire.signed(extent))
        elif tag == 0x22:
            _read_parameter(value, parameters)
        elif tag == 0x2A:  # parts of a message are merged by joining their bytes
            contents = value if contents is None else contents + value
        else:
            raise Unusual
    return name, datatype, tuple(shape), parameters, contents


def _read_output(data: bytes) -> RequestedOutput:
    name = ""
    parameters: dict[str, JsonValue] = {}
    for tag, value in wire.fields(data):
        if not isinstance(value, bytes):
            raise Unusual
        if tag == 0x0A:
            name = value.decode()
        elif tag == 0x12:
            _read_parameter(value, parameters)
        else:
            raise Unusual
    return RequestedOutput(name, parameters)


def _read_parameter(entry: bytes, parameters: dict[str, JsonValue]) -> None:
    """Of a map; one without a value is left out."""
    key = ""
    choice: JsonValue = None
    for tag, value in wire.fields(entry):
        if not isinstance(value, bytes):
            raise Unusual
        if tag == 0x0A:
            key = value.decode()
        elif tag == 0x12:
            choice = _read_choice(value, choice)
        else:
            raise Unusual
    if choice is None:
        parameters.pop(key, None)
    else:
        parameters[key] = choice


def _read_choice(data: bytes, choice: JsonValue) -> JsonValue:
    for tag, value in wire.fields(data):
        if tag == 0x08:
            choice = bool(value)
        elif tag == 0x10 and isinstance(value, int):
            choice = wire.signed(value)
        elif tag == 0x1A and isinstance(value, bytes):
            choice = value.decode()
        elif tag == 0x21 and isinstance(value, bytes):
            choice = float(_DOUBLE.unpack(value)[0])
        elif tag == 0x28 and isinstance(value, int):
            choice = value
        else:
            raise Unusual
    return choice


# --- tensors --------------------------------------------------------------------------------------


def _checked(
    name: str, datatype: str, shape: tuple[int, ...], parameters: dict[str, JsonValue],
    contents: bytes | None,
) -> _Input:
    dtype = v2_rules.check_datatype(name, datatype)
    v2_rules.check_shape(name, shape)
    needed = -1
    if datatype not in ("BYTES", "BOOL"):
        needed = dtype.itemsize
        for extent in shape:
            needed *= extent
    if needed == 0:  # an empty tensor may have a vast extent
        needed = -1
    return _Input(name, datatype, shape, dtype, needed, parameters, contents)


def _typed(head: _Head, spans: list[tuple[int, int]]) -> list[Tensor]:
    """The inputs of a request that has not one raw tensor for each of them."""
    if spans and head.typed:
        raise InvalidRequest(
            "the request has both raw_input_contents and contents of inputs; keep one form for "
            "all inputs"
        )
    if spans:
        raise InvalidInput(
            f"raw_input_contents has {len(spans)} tensors, but the request has "
            f"{len(head.inputs)} inputs"
        )
    decoded = []
    for item in head.inputs:
        if item.contents:
            data = from_contents(item.name, item.datatype, item.shape, item.contents)
        elif 0 in item.shape:
            data = tensors.parse_binary(item.name, item.datatype, item.shape, _EMPTY)
        else:
            raise v2_rules.no_data(
                item.name, item.parameters, "give raw_input_contents, or contents of the input"
            )
        decoded.append(Tensor(item.name, item.datatype, item.shape, data, item.parameters.copy()))
    return decoded


def _request(received: Received, decoded: list[Tensor]) -> InferRequest:
    head = received.head
    return InferRequest(decoded, received.id, head.parameters.copy(), head.outputs)
