"""V2 over HTTP: bodies to tensors and back, with tritonclient as an independent reference."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray
from tritonclient.http import (
    InferenceServerClient,
    InferInput,
    InferRequestedOutput,
    InferResult,
)

from shoal.codecs import v2
from shoal.codecs.message import InferRequest, InferResponse, RequestedOutput, Tensor
from shoal.codecs.tensors import DTYPES, object_array, to_binary
from shoal.domain.errors import InvalidInput, InvalidRequest

INTEGERS: list[Any] = [np.uint8, np.uint16, np.uint32, np.uint64,
                       np.int8, np.int16, np.int32, np.int64]
SOME: dict[str, NDArray[Any]] = {
    "BOOL": np.array([[True, False, True]]),
    "FP16": np.array([[0.5, -1.5, 2.25]], np.float16),
    "BF16": np.array([[0.5, -1.5, 2.25]], ml_dtypes.bfloat16),
    "FP32": np.array([[0.1, -1.5, 3.4e38]], np.float32),
    "FP64": np.array([[0.1, -1.5, 1e300]]),
    "BYTES": object_array([b"", b"text", "äß☃".encode()], (1, 3)),
    **{
        str(info.dtype).upper(): np.array([[info.min, 7, info.max]], info.dtype)
        for info in map(np.iinfo, INTEGERS)
    },
}


def body(**replaced: object) -> bytes:
    """A right request with one input, some of its fields replaced (None: left out)."""
    tensor: dict[str, object] = {
        "name": "x", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2],
    }
    tensor.update(replaced)
    # orjson writes no integers beyond 64 bits.
    return json.dumps(
        {"inputs": [{key: value for key, value in tensor.items() if value is not None}]}
    ).encode()


def decode_one(**replaced: object) -> Tensor:
    (tensor,) = v2.decode_request(body(**replaced)).inputs
    return tensor


def refusal(document: bytes, json_length: int | None = None) -> str:
    with pytest.raises(InvalidRequest) as caught:
        v2.decode_request(document, json_length)
    return caught.value.message


def respond(data: NDArray[Any], datatype: str, request: InferRequest | None = None
            ) -> tuple[bytes, int | None]:
    response = InferResponse("m", "1", [Tensor("y", datatype, data.shape, data)])
    parts, length = v2.encode_response(response, request or InferRequest([]))
    return b"".join(parts), length


def with_binary(head: object, data: bytes = b"") -> tuple[bytes, int]:
    document = orjson.dumps(head)
    return document + data, len(document)


# --- requests in JSON ---------------------------------------------------------------------------


def test_a_plain_request_becomes_one_tensor() -> None:
    tensor = decode_one()
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x", "FP32", (1, 4))
    assert tensor.data.dtype == np.float32
    assert tensor.data.tolist() == np.array([[5.1, 3.5, 1.4, 0.2]], np.float32).tolist()


def test_data_may_be_nested_as_the_shape_says() -> None:
    assert decode_one(shape=[2, 2], data=[[1, 2], [3, 4]]).data.tolist() == [[1, 2], [3, 4]]


def test_white_space_in_nested_data_is_fine() -> None:
    document = b'{"inputs":[{"name":"x","shape":[2,1],"datatype":"INT8","data": [ [1],\n [2] ]}]}'
    assert v2.decode_request(document).inputs[0].data.tolist() == [[1], [2]]


def test_an_empty_shape_takes_a_bare_value_or_a_list_of_one() -> None:
    assert decode_one(shape=[], data=3).data.shape == ()
    assert decode_one(shape=[], data=[3]).data.shape == ()


def test_an_empty_batch_is_a_request() -> None:
    assert decode_one(shape=[0, 4], data=[]).data.shape == (0, 4)


@pytest.mark.parametrize("datatype", list(DTYPES))
def test_every_datatype_comes_through_json(datatype: str) -> None:
    data = SOME[datatype]
    values = [v.decode() for v in data.ravel()] if datatype == "BYTES" else (
        data.astype(np.float64).ravel().tolist() if datatype in ("BF16", "FP16", "FP32")
        else data.ravel().tolist()
    )
    tensor = decode_one(datatype=datatype, shape=[1, 3], data=values)
    assert tensor.data.dtype == DTYPES[datatype]
    assert np.array_equal(tensor.data, data)


def test_integers_are_fine_for_floats() -> None:
    assert decode_one(data=[1, 2, 3, 4]).data.dtype == np.float32


def test_whole_numbers_written_as_floats_are_integers() -> None:
    assert decode_one(datatype="INT64", data=[1.0, 2, 3, -4e0]).data.tolist() == [[1, 2, 3, -4]]
    assert decode_one(datatype="INT8", shape=[1, 1], data=[[1.0]]).data.tolist() == [[1]]


def test_zero_and_one_are_booleans() -> None:
    assert decode_one(datatype="BOOL", data=[0, 1, True, False]).data.tolist() == [
        [False, True, True, False]
    ]


def test_the_arrays_are_writable_and_contiguous() -> None:
    for tensor in (decode_one(), decode_one(shape=[2, 2], data=[[1, 2], [3, 4]])):
        assert tensor.data.flags.writeable
        assert tensor.data.flags.c_contiguous


def test_id_parameters_and_outputs_are_kept() -> None:
    request = v2.decode_request(
        b'{"id":"7","parameters":{"a":1},"inputs":[],'
        b'"outputs":[{"name":"y","parameters":{"binary_data":false}},{"name":"z"}],"more":1}'
    )
    assert request.id == "7"
    assert request.parameters == {"a": 1}
    assert request.outputs == [
        RequestedOutput("y", {"binary_data": False}), RequestedOutput("z", {}),
    ]


@pytest.mark.parametrize(
    ("replaced", "said"),
    [
        ({"data": [1, 2, 3]}, "input 'x': shape [1, 4] needs 4 elements, 'data' has 3"),
        ({"data": [[1, 2], [3, 4]]}, "nested as [2, 2], but 'shape' says [1, 4]"),
        ({"data": [[1, 2], [3]], "shape": [2, 2]}, "'data' differ in length"),
        ({"data": ["5.1", 1, 2, 3]}, "input 'x': data[0]: expected a number, got a string"),
        ({"data": [1, True, 2, 3]}, "data[1]: expected a number, got a boolean"),
        ({"data": [1, 2, 1e39, 3]}, "out of range for FP32"),
        ({"data": 5}, "input 'x': 'data' must be a list"),
        ({"data": {"a": 1}}, "input 'x': 'data' must be a list"),
        ({"data": None}, "input 'x' has no data"),
        ({"datatype": "INT8", "data": [1, 2, 3, 200]}, "out of range for INT8"),
        ({"datatype": "INT64", "data": [1, 2, 3, 2**63]}, "out of range for INT64"),
        ({"datatype": "UINT64", "data": [1, 2, 3, -1]}, "out of range for UINT64"),
        ({"datatype": "INT32", "data": [1, 2, 3, 0.5]}, "expected an integer, got a number"),
        ({"datatype": "FP16", "data": [1, 2, 3, 65520]}, "out of range for FP16"),
        ({"datatype": "BOOL", "data": [0, 1, 2, 1]}, "BOOL takes true, false, 0 and 1"),
        ({"datatype": "BYTES", "data": ["a", "b", "c", 4]}, "expected a string, got an integer"),
        ({"datatype": "BYTES", "data": [["a", "b"], ["c"]], "shape": [2, 2]}, "differ in length"),
        ({"datatype": "BYTES", "data": ["a"]}, "needs 4 elements, 'data' has 1"),
        ({"datatype": "FP31"}, "input 'x': unknown datatype 'FP31'; known are BOOL, UINT8"),
        ({"shape": [-1, 4]}, "input 'x': inputs[0].shape[0]: expected an integer >= 0"),
        ({"shape": [1.5, 4]}, "shape[0]: expected an integer, got a number"),
        ({"shape": "4"}, "input 'x': inputs[0].shape: expected a list, got a string"),
        ({"shape": [1] * 33}, "a list of length <= 32"),
        ({"shape": [2**62, 4]}, "needs 18446744073709551616 elements, 'data' has 4"),
        ({"shape": [0, 2**62, 4], "data": []}, "the shape [0, 4611686018427387904, 4] is too"),
        ({"shape": None}, "input 'x': inputs[0]: object missing required field 'shape'"),
        ({"name": 4}, "inputs[0].name: expected a string, got an integer"),
        ({"parameters": [1]}, "inputs[0].parameters: expected an object or null, got a list"),
        ({"parameters": {"shared_memory_region": "r"}, "data": None}, "shared memory"),
    ],
)
def test_a_wrong_input_is_refused_by_name(replaced: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        v2.decode_request(body(**replaced))
    assert said in caught.value.message


def test_a_value_beyond_uint64_is_refused() -> None:
    assert "out of range for UINT64" in refusal(body(shape=[1], datatype="UINT64", data=[2**64]))


def test_null_names_the_way_to_send_nan() -> None:
    document = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[null]}]}'
    assert "got null; JSON has no NaN or Infinity: send this tensor as binary" in refusal(document)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b"", "not valid JSON: "),
        (b'{"inputs": [}', "line 1 column 13"),
        (b'{"inputs":\n[{"name": nope}]}', "line 2 column"),
        (b'{"inputs": [], "id": "\\ud800"}', "not valid JSON"),
        (b'{"inputs": [], "id": "\xff"}', "not valid UTF-8"),
        (b'{"inputs": [{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}]}', "line 1 column"),
        (b'{"inputs": [{"name":"x","shape":[1],"datatype":"BYTES","data":["\xff"]}]}', "UTF-8"),
        (b'{"inputs": [{"name":"x","shape":[1],"datatype":"FP64","data":[1e999]}]}', "range"),
        (b"[]", "the request: expected an object, got a list"),
        (b"{}", "the request: object missing required field 'inputs'"),
        (b'{"inputs": {}}', "inputs: expected a list, got an object"),
        (b'{"inputs": [3]}', "inputs[0]: expected an object, got an integer"),
        (b'{"inputs": [], "id": 5}', "id: expected a string or null, got an integer"),
        (b'{"inputs": [], "parameters": 5}', "parameters: expected an object or null"),
        (b'{"inputs": [], "outputs": 5}', "outputs: expected a list or null"),
        (b'{"inputs": [], "outputs": [{"name":"y"},{"name":"y"}]}', "'y' is given more than once"),
        (b'{"inputs": [{"name":"x"}], "inputs": []}', "missing required field"),
        (b'{"inputs": [], "parameters": {"binary_data_output": 1}}', "must be true or false"),
        (b'{"inputs": [], "outputs": [{"name":"y","parameters":{"binary_data":"yes"}}]}',
         "output 'y': the parameter 'binary_data' must be true or false"),
        (b'{"inputs": [], "outputs": [{"name":"y","parameters":{"classification":3}}]}',
         "'classification' is not supported"),
    ],
)
def test_a_document_that_is_no_request_is_refused(document: bytes, said: str) -> None:
    assert said in refusal(document)


@pytest.mark.parametrize("bomb", [
    b'{"other":' + b"[" * 100_000,
    b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":' + b"[" * 100_000,
    b'{"inputs":[],"parameters":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
])  # fmt: skip
def test_a_nesting_bomb_is_refused(bomb: bytes) -> None:
    assert "JSON" in refusal(bomb)


def test_input_names_are_unique() -> None:
    one = orjson.loads(body())["inputs"][0]
    assert "input 'x' is given more than once" in refusal(orjson.dumps({"inputs": [one, one]}))


# --- requests with binary data ------------------------------------------------------------------


@pytest.mark.parametrize("datatype", list(DTYPES))
def test_tritonclient_and_we_agree_on_binary_requests(datatype: str) -> None:
    data = SOME[datatype]
    tensor = InferInput("x", list(data.shape), datatype)
    tensor.set_data_from_numpy(data, binary_data=True)
    document, length = InferenceServerClient.generate_request_body([tensor])
    request = v2.decode_request(document, length)
    assert np.array_equal(request.inputs[0].data, data)
    assert request.inputs[0].data.dtype == DTYPES[datatype]
    assert request.inputs[0].data.flags.writeable
    assert request.inputs[0].data.flags.aligned
    assert request.inputs[0].parameters == {}
    assert request.parameters == {"binary_data_output": True}


def test_tritonclient_may_mix_json_and_binary_inputs() -> None:
    tensors = []
    for name, binary in (("a", True), ("b", False), ("c", True)):
        tensor = InferInput(name, [2], "INT32")
        tensor.set_data_from_numpy(np.array([1, ord(name)], np.int32), binary_data=binary)
        tensors.append(tensor)
    document, length = InferenceServerClient.generate_request_body(
        tensors, outputs=[InferRequestedOutput("y")], request_id="7", parameters={"p": 1}
    )
    request = v2.decode_request(memoryview(document), length)
    assert [tensor.data.tolist() for tensor in request.inputs] == [[1, 97], [1, 98], [1, 99]]
    assert request.id == "7"
    assert request.outputs == [RequestedOutput("y", {"binary_data": True})]


@pytest.mark.parametrize(
    ("size", "data", "said"),
    [
        (16, b"0" * 12, "'binary_data_size' is 16, but 12 bytes are left"),
        (16, b"0" * 20, "20 bytes follow the JSON, but the inputs' 'binary_data_size' add up"),
        (12, b"0" * 12, "shape [1, 4] of FP32 needs 16 bytes, 12 came"),
        (-1, b"", "must be a number of bytes"),
        (True, b"0", "must be a number of bytes"),
        ("16", b"0" * 16, "must be a number of bytes"),
        (2**70, b"0" * 16, "16 bytes are left"),
    ],
)
def test_a_wrong_amount_of_binary_data_is_refused(size: object, data: bytes, said: str) -> None:
    head = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32"}]}
    text = orjson.dumps(head)[:-3] + b',"parameters":{"binary_data_size":%s}}]}' % (
        str(size).lower().encode() if not isinstance(size, str) else b'"16"'
    )
    assert said in refusal(text + data, len(text))


def test_binary_data_without_the_length_header_is_refused() -> None:
    document, _ = with_binary({"inputs": [
        {"name": "x", "shape": [1], "datatype": "UINT8", "parameters": {"binary_data_size": 1}}
    ]})
    assert "Inference-Header-Content-Length" in refusal(document)


def test_both_data_and_binary_data_are_refused() -> None:
    document, length = with_binary({"inputs": [
        {"name": "x", "shape": [1], "datatype": "UINT8", "parameters": {"binary_data_size": 1},
         "data": [1]}
    ]}, b"1")
    assert "has both 'data' and 'binary_data_size'" in refusal(document, length)


@pytest.mark.parametrize("length", [0, -1, 1000])
def test_an_impossible_json_length_is_refused(length: int) -> None:
    assert "Inference-Header-Content-Length is" in refusal(body(), length)


def test_binary_data_that_no_input_takes_is_refused() -> None:
    document, length = with_binary(orjson.loads(body()), b"123")
    assert "3 bytes follow the JSON" in refusal(document, length)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x02\x00\x00", "ends within the length of element 0"),
        (b"\x01\x00\x00\x00a\xff\xff\xff\xffab", "element 1 should have 4294967295 bytes, 2 are"),
        (b"\x01\x00\x00\x00a", "needs 2 elements, 'data' has 1"),
    ],
)
def test_broken_framing_of_bytes_is_refused(data: bytes, said: str) -> None:
    document, length = with_binary({"inputs": [
        {"name": "x", "shape": [2], "datatype": "BYTES",
         "parameters": {"binary_data_size": len(data)}}
    ]}, data)
    assert said in refusal(document, length)


def test_a_bool_byte_is_zero_or_one() -> None:
    document, length = with_binary({"inputs": [
        {"name": "x", "shape": [2], "datatype": "BOOL", "parameters": {"binary_data_size": 2}}
    ]}, b"\x01\x02")
    assert "neither 0 nor 1" in refusal(document, length)


def test_nan_comes_through_binary_data() -> None:
    document, length = with_binary({"inputs": [
        {"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}
    ]}, np.array([np.nan], np.float32).tobytes())
    assert np.isnan(v2.decode_request(document, length).inputs[0].data).all()


def test_an_empty_binary_tensor_is_fine() -> None:
    document, length = with_binary({"inputs": [
        {"name": "x", "shape": [0, 4], "datatype": "FP32", "parameters": {"binary_data_size": 0}}
    ]})
    assert v2.decode_request(document, length).inputs[0].data.shape == (0, 4)


def binary_request(*tensors: tuple[str, str, NDArray[Any]]) -> tuple[bytes, int]:
    """A body whose tensors all follow the JSON, and the length of the JSON."""
    inputs, data = [], b""
    for name, datatype, array in tensors:
        raw = to_binary(datatype, array)
        inputs.append({"name": name, "shape": array.shape, "datatype": datatype,
                       "parameters": {"binary_data_size": len(raw), "kept": 1}})
        data += raw
    head = orjson.dumps({"id": "7", "inputs": inputs, "outputs": [{"name": "y"}]})
    return head + data, len(head)


@pytest.mark.parametrize("datatype", DTYPES)
def test_a_document_that_came_before_is_understood_the_same(datatype: str) -> None:
    array = SOME[datatype]
    whole, length = binary_request(("a", datatype, array), ("b", "INT8", np.arange(3, dtype="i1")))
    for _ in range(4):
        request = v2.decode_request(whole, length)
        assert request.id == "7"
        assert [output.name for output in request.outputs] == ["y"]
        first, second = request.inputs
        assert (first.name, first.datatype, first.shape) == ("a", datatype, array.shape)
        assert first.parameters == {"kept": 1}
        assert np.array_equal(first.data, array)
        assert np.array_equal(second.data, [0, 1, 2])
        assert second.data.flags.writeable


def test_behind_a_document_that_came_before_other_numbers_are_read() -> None:
    for number in range(5):
        whole, length = binary_request(("x", "FP32", np.full((1, 4), number, np.float32)))
        assert (v2.decode_request(whole, length).inputs[0].data == number).all()


def test_behind_a_document_that_came_before_wrong_data_is_refused_as_ever() -> None:
    whole, length = binary_request(("x", "BOOL", np.array([True])))
    for _ in range(3):
        v2.decode_request(whole, length)
    assert "but 0 bytes are left" in refusal(whole[:-1], length)
    assert "2 bytes follow the JSON" in refusal(whole + b"\0", length)
    assert "neither 0 nor 1" in refusal(whole[:-1] + b"\2", length)


# --- responses ----------------------------------------------------------------------------------


def test_a_json_response_has_the_fields_of_the_protocol() -> None:
    data = np.array([[0.1, 0.2]], np.float32)
    response = InferResponse("m", "3", [Tensor("y", "FP32", (1, 2), data)], id="7")
    (document,), length = v2.encode_response(response, InferRequest([], id="7"))
    assert length is None
    assert orjson.loads(document) == {
        "model_name": "m", "model_version": "3", "id": "7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [0.1, 0.2]}],
    }


def test_parameters_of_response_and_outputs_are_written() -> None:
    tensor = Tensor("y", "INT8", (1,), np.array([1], np.int8), {"a": 1})
    response = InferResponse("m", "3", [tensor], parameters={"b": 2})
    (document,), _ = v2.encode_response(response, InferRequest([]))
    decoded = orjson.loads(document)
    assert decoded["parameters"] == {"b": 2}
    assert decoded["outputs"][0]["parameters"] == {"a": 1}
    assert "id" not in decoded


@pytest.mark.parametrize("datatype", list(DTYPES))
@pytest.mark.parametrize("binary", [False, True])
def test_tritonclient_reads_our_responses(datatype: str, binary: bool) -> None:
    request = InferRequest([], parameters={"binary_data_output": binary})
    document, length = respond(SOME[datatype], datatype, request)
    assert (length is not None) == binary
    result = InferResult.from_response_body(document, header_length=length)
    read = result.as_numpy("y")
    if datatype == "BYTES" and not binary:
        read = object_array([text.encode() for text in read.ravel()], read.shape)
    assert np.array_equal(read, SOME[datatype])


def test_bf16_is_written_in_both_forms() -> None:
    document, _ = respond(SOME["BF16"], "BF16")
    assert orjson.loads(document)["outputs"][0]["data"] == [0.5, -1.5, 2.25]
    document, length = respond(
        SOME["BF16"], "BF16", InferRequest([], parameters={"binary_data_output": True})
    )
    assert document[length:] == SOME["BF16"].tobytes()


def test_each_output_is_binary_or_not_as_asked() -> None:
    data = np.arange(2, dtype=np.int16)
    response = InferResponse("m", "1", [Tensor(name, "INT16", (2,), data) for name in "abc"])
    request = InferRequest(
        [], parameters={"binary_data_output": True},
        outputs=[RequestedOutput("a"), RequestedOutput("b", {"binary_data": False}),
                 RequestedOutput("c", {"binary_data": True})],
    )
    parts, length = v2.encode_response(response, request)
    outputs = orjson.loads(parts[0])["outputs"]
    assert [output.get("parameters") for output in outputs] == [
        {"binary_data_size": 4}, None, {"binary_data_size": 4},
    ]
    assert "data" in outputs[1]
    assert [bytes(part) for part in parts[1:]] == [data.tobytes()] * 2
    assert length == len(parts[0])


def test_an_output_in_any_memory_order_is_written_row_by_row() -> None:
    data = np.arange(6, dtype=np.float32).reshape(2, 3).T
    assert orjson.loads(respond(data, "FP32")[0])["outputs"][0]["data"] == [0, 3, 1, 4, 2, 5]
    request = InferRequest([], parameters={"binary_data_output": True})
    document, length = respond(data, "FP32", request)
    assert np.frombuffer(document[length:], np.float32).tolist() == [0, 3, 1, 4, 2, 5]


def test_nan_and_infinity_become_null_in_json() -> None:
    document, _ = respond(np.array([np.nan, np.inf, 1]), "FP64")
    assert orjson.loads(document)["outputs"][0]["data"] == [None, None, 1.0]


def test_bytes_that_are_no_text_name_the_binary_form_as_way_out() -> None:
    with pytest.raises(InvalidRequest, match=r"output 'y'.*'binary_data': true"):
        respond(object_array([b"\xff"], (1,)), "BYTES")


def test_empty_outputs_are_written_in_both_forms() -> None:
    empty = np.zeros((0, 3), np.float32)
    assert orjson.loads(respond(empty, "FP32")[0])["outputs"][0]["data"] == []
    request = InferRequest([], parameters={"binary_data_output": True})
    document, length = respond(empty, "FP32", request)
    assert len(document) == length
