"""ModelInferRequest and ModelInferResponse in bytes: our reading and writing, and the library's."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.codecs import protobuf, tensors, v2_proto
from shoal.codecs import v2_proto_wire as wire
from shoal.codecs.message import InferRequest, InferResponse, Tensor
from shoal.codecs.v2_proto_answer import ResponseWriter, failed_in_stream, in_stream
from shoal.codecs.v2_proto_typed import FIELDS
from shoal.domain.errors import (
    InvalidInput,
    InvalidRequest,
    ModelNotFound,
    ShoalError,
    VersionNotFound,
)

Request: Any = protobuf.message_class("inference.ModelInferRequest")
Response: Any = protobuf.message_class("inference.ModelInferResponse")
StreamResponse: Any = protobuf.message_class("inference.ModelStreamInferResponse")

ELEMENTS: dict[str, list[Any]] = {
    "BOOL": [True, False], "UINT8": [0, 255], "UINT16": [0, 2**16 - 1], "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1], "INT8": [-128, 127], "INT16": [-(2**15), 2**15 - 1],
    "INT32": [-(2**31), 2**31 - 1], "INT64": [-(2**63), 2**63 - 1], "FP16": [0.5, -65504.0],
    "BF16": [1.5, -2.0], "FP32": [1.5, 3.4e38], "FP64": [0.1, 1.7e308],
}


def message(**fields: Any) -> Any:
    return Request(**{"model_name": "m", **fields})


def one(datatype: str = "FP32", shape: tuple[int, ...] = (2,), raw: bytes = b"\0" * 8) -> Any:
    made = message(raw_input_contents=[raw])
    made.inputs.add(name="x", datatype=datatype, shape=shape)
    return made


def read(data: bytes | memoryview) -> InferRequest:
    return v2_proto.decode(v2_proto.RequestReader().read(data))


def refused(made: Any, kind: type[ShoalError] = InvalidInput) -> str:
    with pytest.raises(kind) as caught:
        read(made.SerializeToString())
    assert type(caught.value) is kind
    return caught.value.message


# --- requests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", ELEMENTS)
def test_raw_elements_of_every_datatype_are_read(datatype: str) -> None:
    data = np.array(ELEMENTS[datatype], tensors.DTYPES[datatype])
    (tensor,) = read(one(datatype, (2, 1), data.tobytes()).SerializeToString()).inputs
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x", datatype, (2, 1))
    assert tensor.data.dtype == data.dtype
    assert tensor.data.ravel().tolist() == data.tolist()
    assert tensor.data.flags.writeable
    assert tensor.data.flags.aligned


def test_raw_text_is_read() -> None:
    raw = b"\x02\0\0\0ab\0\0\0\0"
    (tensor,) = read(one("BYTES", (2,), raw).SerializeToString()).inputs
    assert tensor.data.tolist() == [b"ab", b""]


@pytest.mark.parametrize("datatype", FIELDS)
def test_typed_elements_of_every_datatype_are_read(datatype: str) -> None:
    values = [b"ab", b""] if datatype == "BYTES" else ELEMENTS[datatype]
    made = message()
    tensor = made.inputs.add(name="x", datatype=datatype, shape=[2])
    getattr(tensor.contents, FIELDS[datatype]).extend(values)
    received = v2_proto.RequestReader().read(made.SerializeToString())
    assert received.typed
    (found,) = v2_proto.decode(received).inputs
    assert found.data.dtype == tensors.DTYPES[datatype]
    assert found.data.tolist() == np.array(values, tensors.DTYPES[datatype]).tolist()


def test_parameters_of_every_kind_are_read() -> None:
    made = one()
    for key, kind, value in (
        ("yes", "bool_param", True), ("no", "bool_param", False), ("least", "int64_param", -7),
        ("text", "string_param", "ü"), ("half", "double_param", 0.5),
        ("most", "uint64_param", 2**64 - 1),
    ):
        setattr(made.parameters[key], kind, value)
    made.inputs[0].parameters["content_type"].string_param = "np"
    made.outputs.add(name="y").parameters["a"].int64_param = 1
    request = read(made.SerializeToString())
    assert request.parameters == {
        "yes": True, "no": False, "least": -7, "text": "ü", "half": 0.5, "most": 2**64 - 1,
    }
    assert request.inputs[0].parameters == {"content_type": "np"}
    assert [(each.name, each.parameters) for each in request.outputs] == [("y", {"a": 1})]


def test_the_model_version_and_id_are_read() -> None:
    reader = v2_proto.RequestReader()
    for identity in ("", "first", "second", "ü" * 200):
        made = one()
        made.model_version, made.id = "12", identity
        received = reader.read(made.SerializeToString())
        assert (received.head.model, received.head.version) == ("m", 12)
        assert v2_proto.decode(received).id == (identity or None)


def test_what_is_remembered_is_not_shared_with_requests() -> None:
    reader = v2_proto.RequestReader()
    made = one()
    made.parameters["a"].int64_param = 1
    first = v2_proto.decode(reader.read(made.SerializeToString()))
    first.parameters["b"] = 2
    first.inputs[0].parameters["b"] = 2
    first.inputs[0].data[:] = 7
    second = v2_proto.decode(reader.read(made.SerializeToString()))
    assert (second.parameters, second.inputs[0].parameters) == ({"a": 1}, {})
    assert second.inputs[0].data.tolist() == [0, 0]


def test_what_is_remembered_is_bounded() -> None:
    reader = v2_proto.RequestReader()
    for number in range(v2_proto.KNOWN_HEADS + 10):
        made = one()
        made.parameters["n"].int64_param = number
        made.parameters["long"].string_param = "x" * (number % 3000)
        reader.read(made.SerializeToString())
    assert len(reader._heads) <= v2_proto.KNOWN_HEADS
    assert len(reader._begins) <= v2_proto.KNOWN_HEADS
    assert max(map(len, reader._heads)) <= v2_proto.LONGEST_KNOWN


def test_a_writable_message_lends_its_memory_to_aligned_tensors() -> None:
    data = one("FP32", (1000,), b"\1" * 4000).SerializeToString()
    first = v2_proto.first_tensor_at(data[:100])
    assert first is not None
    room = bytearray(len(data) + 64)
    pad = -first % 64
    whole = memoryview(room)[pad : pad + len(data)]
    whole[:] = data
    (tensor,) = read(whole).inputs
    assert np.shares_memory(tensor.data, np.frombuffer(room, np.uint8))
    unaligned = memoryview(room)[pad + 1 : pad + 1 + len(data)]
    unaligned[:] = data
    (tensor,) = read(unaligned).inputs
    assert tensor.data.flags.aligned
    assert not np.shares_memory(tensor.data, np.frombuffer(room, np.uint8))


@pytest.mark.parametrize("data", [b"", b"\x0a", b"\x0a\x01m", b"\x3a\x80", b"junk"])
def test_the_first_tensor_is_not_guessed(data: bytes) -> None:
    assert v2_proto.first_tensor_at(data) is None


# --- what is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [
    b"\x0a", b"\x0a\x05m", b"\xff", b"\x08\x01\x0a\x02\xff\xfe", b"\x0a\x01\xff", b"\x3a\x80",
    b"\x0a\x01m\x2a\x02\x0a\x05", b"\x00\x01", b"\x0a" + b"\x80" * 11,
])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not a valid ModelInferRequest message"):
        read(data)


def test_wrong_tensors_are_refused_by_name() -> None:
    assert "input 'x': shape [2] of FP32 needs 8 bytes, 4 came" in refused(one(raw=b"\0" * 4))
    assert "unknown datatype 'FLOAT'" in refused(one("FLOAT"))
    assert "expected integers >= 0, got [-1, 2]" in refused(one(shape=(-1, 2)))
    assert "at most 32 axes, got 33" in refused(one(shape=(1,) * 33))
    assert "neither 0 nor 1" in refused(one("BOOL", (2,), b"\0\2"))
    assert "ends within the length" in refused(one("BYTES", (1,), b"\1\0"))
    assert "too large" in refused(one("FP32", (0, 2**62, 2**62), b""))


def test_a_request_without_data_is_told_what_to_give() -> None:
    made = message()
    made.inputs.add(name="x", datatype="FP32", shape=[2])
    assert "input 'x' has no data: give raw_input_contents" in refused(made)
    made.inputs[0].parameters["shared_memory_region"].string_param = "r"
    assert "shared memory is not supported" in refused(made)
    made.inputs[0].shape[:] = [0, 2]
    assert read(made.SerializeToString()).inputs[0].data.shape == (0, 2)


def test_raw_and_typed_contents_together_are_refused() -> None:
    made = one()
    made.inputs[0].contents.fp32_contents.extend([1, 2])
    assert "both raw_input_contents and contents" in refused(made, InvalidRequest)


def test_each_input_needs_one_raw_tensor() -> None:
    made = one()
    made.raw_input_contents.append(b"")
    assert "raw_input_contents has 2 tensors, but the request has 1 inputs" in refused(made)


def test_wrong_typed_contents_are_refused() -> None:
    made = message()
    tensor = made.inputs.add(name="x", datatype="INT8", shape=[2])
    tensor.contents.int_contents.extend([1, 128])
    assert "out of range for INT8" in refused(made)
    tensor.contents.int_contents[:] = [1]
    assert "needs 2 elements, 'contents' has 1" in refused(made)
    tensor.datatype = "INT64"
    assert "INT64 goes into int64_contents, but int_contents came" in refused(made)
    tensor.datatype = "FP16"
    assert "FP16 has no typed contents" in refused(made)


def test_names_that_no_model_has_are_refused() -> None:
    made = one()
    made.model_version = "newest"
    assert "no version 'newest'" in refused(made, VersionNotFound)
    made.model_name = "a b"
    assert "no model 'a b'" in refused(made, ModelNotFound)
    assert "no model ''" in refused(Request(), ModelNotFound)


def test_what_v2_refuses_over_http_is_refused_in_the_same_words() -> None:
    made = one()
    made.inputs.add(name="x", datatype="FP32", shape=[2])
    made.raw_input_contents.append(b"\0" * 8)
    assert refused(made) == "input 'x' is given more than once"
    made = one()
    made.outputs.add(name="y").parameters["classification"].int64_param = 3
    assert "'classification' is not supported" in refused(made, InvalidRequest)


# --- both readings agree ------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=5)
parameters = st.dictionaries(texts, st.one_of(
    st.booleans().map(lambda value: {"bool_param": value}),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: {"int64_param": value}),
    texts.map(lambda value: {"string_param": value}),
    st.floats(allow_nan=False).map(lambda value: {"double_param": value}),
    st.integers(0, 2**64 - 1).map(lambda value: {"uint64_param": value}),
    st.just({}),
), max_size=2)


@st.composite
def messages(draw: st.DrawFn) -> Any:
    made = message(id=draw(texts), model_version=draw(st.sampled_from(["", "1", "007"])))
    for key, value in draw(parameters).items():
        made.parameters[key].SetInParent()
        made.parameters[key].MergeFrom(type(made.parameters[key])(**value))
    for name in draw(st.lists(texts, max_size=3, unique=True)):
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        tensor = made.inputs.add(name=name, datatype="INT8", shape=shape)
        for key, value in draw(parameters).items():
            tensor.parameters[key].MergeFrom(type(tensor.parameters[key])(**value))
        made.raw_input_contents.append(draw(st.binary(
            min_size=int(np.prod(shape, dtype=int)), max_size=int(np.prod(shape, dtype=int))
        )))
    for name in draw(st.lists(texts, max_size=2, unique=True)):
        made.outputs.add(name=name)
    return made


def plain(parameter_map: Any) -> dict[str, object]:
    return {
        key: getattr(value, kind) for key, value in parameter_map.items()
        if (kind := value.WhichOneof("parameter_choice"))
    }


def by_library(data: bytes) -> object:
    """What the library reads, in the form of `ours`; None if it reads nothing."""
    try:
        made = Request.FromString(data)
    except Exception:  # noqa: BLE001 - whatever it raises means that it refuses
        return None
    return (
        made.model_name, made.id, plain(made.parameters),
        [(each.name, each.datatype, tuple(each.shape), plain(each.parameters))
         for each in made.inputs],
        [(each.name, plain(each.parameters)) for each in made.outputs],
        [bytes(raw) for raw in made.raw_input_contents],
    )


def ours(reader: v2_proto.RequestReader, data: bytes) -> object:
    try:
        received = reader.read(data)
    except InvalidRequest as error:
        return None if "not a valid" in error.message else error
    except ShoalError as error:
        return error
    head = received.head
    return (
        head.model, received.id or "", head.parameters,
        [(each.name, each.datatype, each.shape, each.parameters) for each in head.inputs],
        [(each.name, each.parameters) for each in head.outputs],
        [bytes(received.data[begin:end]) for begin, end in received.spans],
    )


READER = v2_proto.RequestReader()


@settings(max_examples=200, deadline=None)
@given(messages())
def test_what_encoders_write_is_read_as_the_library_reads_it(made: Any) -> None:
    data = made.SerializeToString()
    assert ours(READER, data) == by_library(data)
    assert ours(READER, data) == by_library(data)  # now that it is known


unknown = st.sampled_from([
    b"\x40\x05", b"\x4a\x02hi", b"\xc2\x3e\x01x", b"\x3d\0\0\0\0", b"\x39\0\0\0\0\0\0\0\0",
    b"\x0b\x0c", b"\x10\x01", b"\x38\x01",
])


@settings(max_examples=200, deadline=None)
@given(messages(), messages(), unknown, st.data())
def test_unusual_bytes_are_read_as_the_library_reads_them(
    first: Any, second: Any, odd: bytes, data: st.DataObject
) -> None:
    """Repeated fields, fields in any order, unknown ones: two messages joined are one merged."""
    second.ClearField("inputs")
    second.ClearField("outputs")
    one_, two = first.SerializeToString(), second.SerializeToString()
    both = data.draw(st.sampled_from([one_ + odd + two, odd + one_, two + one_ + odd, one_ + two]))
    expected = by_library(both)
    found = ours(READER, both)
    assert isinstance(found, ShoalError) or found == expected


@settings(max_examples=300, deadline=None)
@given(messages(), st.data())
def test_damaged_bytes_are_refused_or_read_as_the_library_reads_them(
    made: Any, data: st.DataObject
) -> None:
    damaged = bytearray(made.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    found, expected = ours(READER, bytes(damaged)), by_library(bytes(damaged))
    if isinstance(found, ShoalError):
        assert expected is not None
    else:
        assert found == expected


def test_submessages_in_parts_are_merged() -> None:
    value = wire.field(
        2, wire.field(1, b"k") + wire.field(2, b"\x10\x01") + wire.field(2, b"\x08\1")
    )
    entry = wire.field(1, b"y") + value
    data = wire.field(1, b"m") + wire.field(6, entry)
    assert ours(READER, data) == by_library(data)
    contents = wire.field(5, wire.field(6, b"\0\0\x80\x3f")) + wire.field(5, b"\x35\0\0\0\x40")
    tensor = wire.field(1, b"x") + wire.field(2, b"FP32") + b"\x18\x02" + contents
    (found,) = read(wire.field(1, b"m") + wire.field(5, tensor)).inputs
    assert found.data.tolist() == [1.0, 2.0]


# --- responses ----------------------------------------------------------------------------------


def response(*outputs: Tensor, **more: Any) -> InferResponse:
    return InferResponse("m", "3", list(outputs), **more)


def tensor_of(datatype: str, values: list[Any], shape: tuple[int, ...] = (2,)) -> Tensor:
    if datatype == "BYTES":
        data = tensors.object_array(values, shape)
    else:
        data = np.array(values, tensors.DTYPES[datatype]).reshape(shape)
    return Tensor("y", datatype, shape, data)


@pytest.mark.parametrize("datatype", ELEMENTS)
def test_raw_answers_are_read_by_the_library(datatype: str) -> None:
    writer = ResponseWriter()
    for identity in (None, "7", "7"):
        parts = writer.write(
            response(tensor_of(datatype, ELEMENTS[datatype], (2, 1)), id=identity), typed=False
        )
        made = Response.FromString(b"".join(parts))
        assert (made.model_name, made.model_version, made.id) == ("m", "3", identity or "")
        (output,) = made.outputs
        assert (output.name, output.datatype, list(output.shape)) == ("y", datatype, [2, 1])
        found = np.frombuffer(made.raw_output_contents[0], tensors.DTYPES[datatype])
        assert found.tolist() == np.array(ELEMENTS[datatype], found.dtype).tolist()


def test_answers_are_written_as_the_library_writes_them() -> None:
    parts = ResponseWriter().write(response(
        tensor_of("BYTES", [b"ab", b""]), tensor_of("FP32", [0.0] * 300, (3, 100)), id="a",
    ), typed=False)
    written = b"".join(parts)
    assert Response.FromString(written).SerializeToString() == written


@pytest.mark.parametrize("datatype", FIELDS)
def test_typed_requests_get_typed_answers(datatype: str) -> None:
    values: list[Any] = [b"ab", b""] if datatype == "BYTES" else ELEMENTS[datatype]
    made = Response.FromString(
        b"".join(ResponseWriter().write(response(tensor_of(datatype, values)), typed=True))
    )
    assert list(made.raw_output_contents) == []
    found = list(getattr(made.outputs[0].contents, FIELDS[datatype]))
    assert found == pytest.approx(values) if datatype != "BYTES" else found == values


def test_half_precision_makes_an_answer_raw() -> None:
    half = Tensor("h", "BF16", (1,), np.array([1.5], ml_dtypes.bfloat16))
    made = Response.FromString(b"".join(
        ResponseWriter().write(response(tensor_of("INT64", [1, 2]), half), typed=True)
    ))
    assert len(made.raw_output_contents) == 2
    assert not made.outputs[0].HasField("contents")


def test_parameters_of_answers_are_written() -> None:
    tensor = tensor_of("FP32", [1, 2])
    tensor.parameters = {"a": "b", "c": 2**63}
    made = Response.FromString(b"".join(ResponseWriter().write(
        response(tensor, parameters={"x": True, "y": -1, "z": 0.5}), typed=False
    )))
    assert plain(made.parameters) == {"x": True, "y": -1, "z": 0.5}
    assert plain(made.outputs[0].parameters) == {"a": "b", "c": 2**63}


def test_answers_of_a_stream_have_a_message_around_them() -> None:
    parts = ResponseWriter().write(response(tensor_of("FP32", [1, 2]), id="9"), typed=False)
    made = StreamResponse.FromString(b"".join(in_stream(parts)))
    assert made.error_message == ""
    assert made.infer_response.id == "9"
    failed = StreamResponse.FromString(b"".join(failed_in_stream("no room", "9")))
    assert (failed.error_message, failed.infer_response.id) == ("no room", "9")
