"""Requests and responses of the V2 protocol from the client's side; the server's codec is the
partner."""

from __future__ import annotations

import ml_dtypes
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from shoal.codecs.message import InferRequest, InferResponse, RequestedOutput, Tensor
from shoal.codecs.v2 import decode_request, encode_response
from shoal.codecs.v2_client import HEADER_LENGTH, decode_response, encode_request, tensor_of
from shoal.domain.errors import InvalidInput

ARRAYS = {
    "BOOL": np.array([[True, False]]),
    "UINT8": np.array([0, 255], np.uint8),
    "UINT16": np.array([1, 65535], np.uint16),
    "UINT32": np.array([1, 2**32 - 1], np.uint32),
    "UINT64": np.array([1, 2**64 - 1], np.uint64),
    "INT8": np.array([-128, 127], np.int8),
    "INT16": np.array([-5, 5], np.int16),
    "INT32": np.array([[1], [2]], np.int32),
    "INT64": np.array([[1, 2], [3, 4]]),
    "FP16": np.array([0.5, -2], np.float16),
    "FP32": np.array([0.1, 2e30], np.float32),
    "FP64": np.array([0.1, 1e300]),
    "BF16": np.array([1.5, -3], ml_dtypes.bfloat16),
    "BYTES": np.array([["grün", ""], ["a", "b"]]),
}
AS_JSON = [name for name in ARRAYS if name != "BF16"]


def sent(request: InferRequest, *, binary: bool) -> InferRequest:
    """What the server's codec makes of it."""
    body, headers = encode_request(request, binary=binary)
    length = headers.get(HEADER_LENGTH)
    return decode_request(body, None if length is None else int(length))


@pytest.mark.parametrize("datatype", ARRAYS)
def test_the_server_reads_binary_inputs_as_they_were(datatype: str) -> None:
    tensor = tensor_of("x", ARRAYS[datatype])
    [got] = sent(InferRequest([tensor]), binary=True).inputs
    assert (got.name, got.datatype, got.shape) == ("x", datatype, ARRAYS[datatype].shape)
    assert np.array_equal(got.data, tensor.data)


@pytest.mark.parametrize("datatype", AS_JSON)
def test_the_server_reads_json_inputs_as_they_were(datatype: str) -> None:
    tensor = tensor_of("x", ARRAYS[datatype])
    [got] = sent(InferRequest([tensor]), binary=False).inputs
    assert (got.name, got.datatype, got.shape) == ("x", datatype, ARRAYS[datatype].shape)
    assert np.array_equal(got.data, tensor.data)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", AS_JSON)
def test_answers_of_the_server_are_read_as_they_were(datatype: str, binary: bool) -> None:
    tensor = tensor_of("y", ARRAYS[datatype])
    request = InferRequest([], parameters={"binary_data_output": binary})
    response = InferResponse("m", "3", [Tensor("y", datatype, tensor.shape, tensor.data)], "id-1")
    parts, length = encode_response(response, request)
    got = decode_response(b"".join(parts), length)
    assert (got.model_name, got.model_version, got.id) == ("m", "3", "id-1")
    assert np.array_equal(got.outputs[0].data, tensor.data)
    assert got.outputs[0].shape == tensor.shape


def test_everything_beside_the_tensors_travels() -> None:
    request = InferRequest(
        [tensor_of("x", [1])], "id-7", {"depth": 3}, [RequestedOutput("label")]
    )
    got = sent(request, binary=True)
    assert got.id == "id-7"
    assert got.parameters["depth"] == 3
    assert [output.name for output in got.outputs] == ["label"]
    assert got.outputs[0].parameters == {"binary_data": True}


def test_arrays_in_other_byte_orders_and_layouts_are_sent_right() -> None:
    values = np.arange(6, dtype=">i4").reshape(2, 3).T
    [got] = sent(InferRequest([tensor_of("x", values)]), binary=True).inputs
    assert got.datatype == "INT32"
    assert np.array_equal(got.data, values)


@pytest.mark.parametrize(
    ("values", "declared", "datatype"),
    [
        ([[1, 2.5]], "FP32", "FP32"),
        ([1, 2], "FP64", "FP64"),
        ([1, 2], "UINT8", "UINT8"),
        ([1, 2], None, "INT64"),
        ([1.5], None, "FP64"),
        (["a"], "BYTES", "BYTES"),
        ([0, 1], "BOOL", "BOOL"),
    ],
)
def test_lists_take_the_declared_datatype(
    values: list[object], declared: str | None, datatype: str
) -> None:
    assert tensor_of("x", values, declared).datatype == datatype


def test_arrays_keep_their_own_datatype() -> None:
    assert tensor_of("x", np.array([1.0]), "FP32").datatype == "FP64"


@pytest.mark.parametrize(
    ("values", "declared", "complaint"),
    [
        ([[1], [1, 2]], None, "same length"),
        ([1.5], "INT32", "fraction"),
        ([300], "UINT8", "range"),
        ([1 + 2j], None, "no datatype in the protocol"),
        (np.array(["2026-01-01"], "datetime64[D]"), None, "no datatype in the protocol"),
        ([1, None], None, "element 0 is 1"),
    ],
)
def test_values_that_make_no_tensor_are_refused(
    values: object, declared: str | None, complaint: str
) -> None:
    with pytest.raises(InvalidInput, match=complaint) as caught:
        tensor_of("age", values, declared)
    assert "'age'" in caught.value.message


@pytest.mark.parametrize(
    "values", [np.array([np.nan]), np.array([b"\xff"]), np.array([1], ml_dtypes.bfloat16)]
)
def test_what_json_cannot_say_is_refused_with_the_way_out(values: NDArray[np.generic]) -> None:
    with pytest.raises(InvalidInput, match="use the binary extension"):
        encode_request(InferRequest([tensor_of("x", values)]), binary=False)


def test_text_is_decoded_where_the_server_says_that_it_is_text() -> None:
    output = {
        "name": "y", "datatype": "BYTES", "shape": [1], "data": ["ja"],
        "parameters": {"content_type": "str"},
    }
    got = decode_response(msgspec.json.encode({"outputs": [output]}), None)
    assert got.outputs[0].data.tolist() == ["ja"]


def test_null_is_nan_and_nested_rows_are_flattened() -> None:
    output = {"name": "y", "datatype": "FP32", "shape": [2, 1], "data": [[None], [2]]}
    [got] = decode_response(msgspec.json.encode({"outputs": [output]}), None).outputs
    assert np.array_equal(got.data, np.array([[np.nan], [2]], np.float32), equal_nan=True)


def _output(**fields: object) -> bytes:
    whole = {"name": "y", "datatype": "INT32", "shape": [2], **fields}
    return msgspec.json.encode({"outputs": [whole]})


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b"not json", None),
        (_output(data=[1]), None),
        (_output(), None),
        (_output(data="12"), None),
        (_output(data=["a", "b"]), None),
        (_output(data=[1, None]), None),
        (_output(datatype="INT128", data=[1, 2]), None),
        (_output(data=[1, 2]) + b"rest", len(_output(data=[1, 2]))),
        (_output(data=[1, 2]), 10_000),
        (_output(parameters={"binary_data_size": 8}) + b"1234", None),
        (_output(parameters={"binary_data_size": 8}) + b"1234",
         len(_output(parameters={"binary_data_size": 8}))),
        (_output(parameters={"binary_data_size": 4}) + b"1234",
         len(_output(parameters={"binary_data_size": 4}))),
        (_output(datatype="BYTES", parameters={"binary_data_size": 4}) + b"\xff\xff\xff\xff",
         len(_output(datatype="BYTES", parameters={"binary_data_size": 4}))),
    ],
)  # fmt: skip
def test_a_response_that_breaks_the_protocol_is_refused(body: bytes, length: int | None) -> None:
    with pytest.raises(ValueError):
        decode_response(body, length)
