"""V1: rows and columns to tensors by a signature, predictions back."""

from __future__ import annotations

import base64
from typing import Any

import ml_dtypes
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from shoal.codecs import v1
from shoal.codecs.message import InferRequest, InferResponse, Tensor
from shoal.codecs.tensors import DATATYPES, object_array
from shoal.domain.errors import InvalidInput, InvalidRequest
from shoal.domain.signature import Signature, TensorSpec

MATRIX = Signature((TensorSpec("x", "FP64", (-1, 4)),), (), any_name=True)
TEXT = Signature((TensorSpec("text", "BYTES", (-1,)),), ())
TWO = Signature((TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "INT64", (-1, 1))), ())
TABLE = Signature(
    (TensorSpec("age", "INT64", (-1,)), TensorSpec("city", "BYTES", (-1,))), (), table=True
)


def decode(document: object, signature: Signature) -> InferRequest:
    return v1.to_request(v1.decode(orjson.dumps(document)), signature)


def lists(request: InferRequest) -> dict[str, Any]:
    return {tensor.name: tensor.data.tolist() for tensor in request.inputs}


def predictions(**outputs: NDArray[Any]) -> Any:
    tensors = [Tensor(name, DATATYPES[data.dtype], data.shape, data)
               for name, data in outputs.items()]
    document = orjson.loads(v1.encode_response(InferResponse("m", "1", tensors)))
    assert list(document) == ["predictions"]
    return document["predictions"]


# --- requests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["instances", "inputs"])
def test_rows_become_the_one_input(field: str) -> None:
    request = decode({field: [[5.1, 3.5, 1.4, 0.2], [1, 2, 3, 4]], "signature_name": "s"}, MATRIX)
    (tensor,) = request.inputs
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x", "FP64", (2, 4))
    assert tensor.data.dtype == np.float64
    assert tensor.data.tolist() == [[5.1, 3.5, 1.4, 0.2], [1, 2, 3, 4]]


@pytest.mark.parametrize("document", [
    {"instances": [{"a": [1, 2], "b": [3]}, {"a": [4, 5], "b": [6]}]},
    {"instances": [{"a": [1, 2], "b": 3}, {"b": 6, "a": [4, 5]}]},
    {"inputs": {"a": [[1, 2], [4, 5]], "b": [[3], [6]]}},
    {"inputs": {"a": [[1, 2], [4, 5]], "b": [3, 6]}},
])  # fmt: skip
def test_several_inputs_come_by_row_or_by_column(document: object) -> None:
    assert lists(decode(document, TWO)) == {"a": [[1, 2], [4, 5]], "b": [[3], [6]]}


@pytest.mark.parametrize("document", [
    {"instances": [{"age": 30, "city": "Rome"}, {"age": 40, "city": "Oslo"}]},
    {"instances": [[30, "Rome"], [40, "Oslo"]]},
    {"inputs": {"age": [30, 40], "city": ["Rome", "Oslo"]}},
    {"inputs": [[30, "Rome"], [40, "Oslo"]]},
])  # fmt: skip
def test_a_table_comes_by_row_or_by_column(document: object) -> None:
    assert lists(decode(document, TABLE)) == {"age": [30, 40], "city": [b"Rome", b"Oslo"]}


def test_the_column_of_a_table_may_have_a_second_axis() -> None:
    request = decode({"inputs": {"age": [[30], [40]], "city": ["Rome", "Oslo"]}}, TABLE)
    assert lists(request)["age"] == [[30], [40]]


def test_any_name_is_taken_where_the_signature_says_so() -> None:
    assert lists(decode({"instances": [{"whatever": [1, 2, 3, 4]}]}, MATRIX)) == {
        "whatever": [[1, 2, 3, 4]]
    }


def test_a_guessed_shape_takes_rows_of_any_depth() -> None:
    signature = Signature((TensorSpec("x", "FP32", ()),), (), guessed=True)
    assert lists(decode({"instances": [[[1], [2]]]}, signature)) == {"x": [[[1], [2]]]}
    assert lists(decode({"instances": [1, 2]}, signature)) == {"x": [1, 2]}


def test_text_and_base64_become_bytes() -> None:
    encoded = {"b64": base64.b64encode(b"\xff\x00").decode()}
    assert lists(decode({"instances": ["äß", encoded]}, TEXT)) == {
        "text": ["äß".encode(), b"\xff\x00"]
    }
    assert lists(decode({"instances": [encoded]}, TEXT)) == {"text": [b"\xff\x00"]}
    assert lists(decode({"instances": [{"text": encoded}]}, TEXT)) == {"text": [b"\xff\x00"]}


@pytest.mark.parametrize(
    ("document", "signature", "said"),
    [
        ({"instances": [["a", 2, 3, 4]]}, MATRIX, "data[0][0]: expected a number, got a string"),
        ({"instances": [[1, 2, 3, 4], [1]]}, MATRIX, "lists in 'data' differ in length"),
        ({"instances": [[1, 2, 3, None]]}, MATRIX, "JSON has no NaN"),
        ({"instances": [1, 2]}, MATRIX, "expected a list, got an integer"),
        ({"instances": [[[1]]]}, MATRIX, "expected a number, got a list"),
        ({"instances": [[1, 2]]}, TWO, "the model has 2 inputs, so each row must be an object"),
        ({"instances": [{"a": [1, 2]}]}, TWO, "row 0 lacks 'b'; the model's inputs are 'a', 'b'"),
        ({"instances": [{"a": [1, 2], "b": 1, "c": 2}]}, TWO, "row 0 has the unknown 'c'"),
        ({"instances": [{"a": [1, 2], "b": 1}, {"a": [1, 2]}]}, TWO, "row 1 lacks 'b'"),
        ({"instances": [{"a": [1, 2], "b": 1}, 5]}, TWO, "row 1 is no object"),
        ({"instances": [{"a": [1, 2], "b": 0.5}]}, TWO, "expected an integer, got a number"),
        ({"instances": [{"x": [1]}, {"y": [1]}]}, MATRIX, "row 1 has other names than row 0"),
        ({"inputs": {"a": [[1, 2]]}}, TWO, "'inputs' lacks 'b'"),
        ({"inputs": {"a": 5, "b": [1]}}, TWO, "input 'a': data: expected a list"),
        ({"instances": [{"age": 3}]}, TABLE, "lacks 'city'; the model's columns are 'age', 'city'"),
        ({"instances": [{"age": 3, "town": "x"}]}, TABLE, "'city' and has the unknown 'town'"),
        ({"instances": [[30]]}, TABLE, "row 0 has 1 values; a row is an object with the columns"),
        ({"instances": [[30, "x"], 5]}, TABLE, "row 1 is no list"),
        ({"instances": [{"age": "x", "city": "y"}]}, TABLE, "input 'age': data[0]: expected an"),
        ({"instances": [{"b64": "***"}]}, TEXT, "not valid base64"),
        ({"instances": [{"b64": 5}]}, TEXT, "expected a string, got an integer"),
        ({"instances": [1]}, Signature((), ()), "declares no inputs"),
    ],
)
def test_values_that_do_not_suit_are_refused(
    document: object, signature: Signature, said: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode(document, signature)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not valid JSON"),
        (b'{"instances": [1e999]}', "out of range"),
        (b"[1]", "the request: expected an object, got a list"),
        (b"{}", "'instances' (a list of rows) or 'inputs' (columns); this one has neither"),
        (b'{"instances": [1], "inputs": [1]}', "this one has both"),
        (b'{"instances": {}}', "instances: expected a list, got an object"),
        (b'{"instances": []}', "'instances' is empty"),
        (b'{"inputs": {}}', "'inputs' is empty"),
        (b'{"inputs": 5}', "inputs: expected"),
        (b'{"instances": [1], "signature_name": 5}', "signature_name: expected a string or null"),
        (b'{"instances": ' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_v1_request_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        v1.decode(body)
    assert said in caught.value.message


# --- responses ----------------------------------------------------------------------------------


def test_one_output_answers_with_its_rows() -> None:
    assert predictions(y=np.array([[0.1, 0.9], [0.5, 0.5]], np.float32)) == [[0.1, 0.9], [0.5, 0.5]]
    assert predictions(y=np.array([1, 2])) == [1, 2]


def test_several_outputs_answer_with_an_object_a_row() -> None:
    assert predictions(label=object_array([b"a", b"b"], (2,)), p=np.array([[1.0], [2.0]])) == [
        {"label": "a", "p": [1.0]}, {"label": "b", "p": [2.0]},
    ]


@pytest.mark.parametrize(
    "dtype",
    [np.bool_, np.int8, np.uint64, np.longlong, np.ulonglong, np.float16, np.float32],
)
def test_numbers_in_rows_are_written_by_their_own_datatype(dtype: type) -> None:
    assert predictions(a=np.array([1], dtype), b=np.array([0], dtype)) == [{"a": 1, "b": 0}]


def test_outputs_without_common_rows_answer_by_name() -> None:
    assert predictions(a=np.array([1, 2]), b=np.array([3])) == {"a": [1, 2], "b": [3]}
    assert predictions(a=np.array(1), b=np.array(2)) == {"a": 1, "b": 2}


def test_outputs_of_any_memory_order_and_bf16_are_written() -> None:
    assert predictions(y=np.arange(4).reshape(2, 2).T) == [[0, 2], [1, 3]]
    assert predictions(y=np.array([1.5], ml_dtypes.bfloat16)) == [1.5]
    assert predictions(y=np.array(1.5)) == 1.5


def test_bytes_that_are_no_text_are_base64() -> None:
    assert predictions(y=object_array([b"ok", b"\xff"], (2,))) == ["ok", {"b64": "/w=="}]


def test_nan_becomes_null() -> None:
    assert predictions(y=np.array([np.nan, 1.0])) == [None, 1.0]
