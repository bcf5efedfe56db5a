"""Requests against signatures, and outputs against promises."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from shoal.codecs.message import InferRequest, RequestedOutput, Tensor
from shoal.codecs.tensors import DATATYPES, object_array
from shoal.dataplane.validation import RequestCheck, make_response
from shoal.domain.errors import InvalidInput, InvalidRequest, ModelFailed
from shoal.domain.model import JsonValue
from shoal.domain.signature import Signature, TensorSpec

X = TensorSpec("x", "FP32", (-1, 4))
OUT = (TensorSpec("label", "INT64", (-1,)), TensorSpec("p", "FP32", (-1, 3)))
STRICT = Signature((X,), OUT)
ANY = Signature((X,), OUT, any_name=True, converts=True)
TWO = Signature((TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "BYTES", (-1, 1))), ())
TABLE = Signature(
    (TensorSpec("age", "FP64", (-1,)), TensorSpec("city", "BYTES", (-1,))), (),
    table=True, converts=True,
)
NUMBERS = Signature(
    (TensorSpec("h", "FP64", (-1, 1)), TensorSpec("w", "INT64", (-1, 1))), (),
    table=True, converts=True,
)

ONES = np.ones((2, 4), np.float32)
CITIES = object_array([b"Rome", b"Oslo"], (2,))


def request(content_type: JsonValue = None, /, **inputs: NDArray[Any]) -> InferRequest:
    return InferRequest(
        [Tensor(name, DATATYPES[data.dtype], data.shape, data) for name, data in inputs.items()],
        parameters={} if content_type is None else {"content_type": content_type},
    )


def arrays(signature: Signature, asked: InferRequest) -> dict[str, Any]:
    return {name: data.tolist() for name, data in RequestCheck(signature).arrays(asked).items()}


def refusal(signature: Signature, asked: InferRequest) -> str:
    with pytest.raises(InvalidInput) as caught:
        RequestCheck(signature).arrays(asked)
    return caught.value.message


# --- inputs -------------------------------------------------------------------------------------


def test_a_right_request_is_handed_on_without_a_copy() -> None:
    assert RequestCheck(STRICT).arrays(request(x=ONES))["x"] is ONES


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (request(y=ONES), "input 'y' is unknown; the model takes 'x'"),
        (request(), "input 'x' missing; the model takes 'x'"),
        (request(x=ONES, y=ONES), "input 'y' is unknown"),
        (request(x=ONES.astype(np.float64)), "the datatype FP64, but the model takes FP32"),
        (request(x=ONES[:, :3]), "the shape [2, 3], but the model takes [-1, 4] (-1: any)"),
        (request(x=ONES[0]), "the shape [4], but the model takes [-1, 4]"),
        (request(x=ONES[None]), "the shape [1, 2, 4], but the model takes [-1, 4]"),
    ],
)
def test_a_request_that_does_not_suit_is_refused_by_name(asked: InferRequest, said: str) -> None:
    assert said in refusal(STRICT, asked)


def test_all_missing_inputs_are_named() -> None:
    assert refusal(TWO, request()) == "inputs 'a', 'b' missing; the model takes 'a', 'b'"


def test_an_input_is_given_once() -> None:
    asked = request(a=np.ones((1, 2), np.float32))
    asked.inputs *= 2
    assert "input 'a' is given more than once" in refusal(TWO, asked)


def test_several_inputs_come_in_any_order() -> None:
    asked = request(b=object_array([b"t"], (1, 1)), a=np.ones((1, 2), np.float32))
    assert arrays(TWO, asked) == {"a": [[1, 1]], "b": [[b"t"]]}


def test_any_name_is_taken_where_the_signature_says_so() -> None:
    assert RequestCheck(ANY).arrays(request(input_0=ONES))["x"] is ONES
    assert arrays(ANY, request(input_0=ONES.astype(np.float64))) == {"x": ONES.tolist()}
    assert "'b' is unknown" in refusal(ANY, request(x=ONES, b=ONES))


@pytest.mark.parametrize(
    ("data", "declared"),
    [
        (np.array([1.5], np.float32), "FP64"),
        (np.array([3]), "FP32"),
        (np.array([1.5]), "FP32"),
        (np.array([np.nan, np.inf]), "FP32"),
        (np.array([3.0]), "INT8"),
        (np.array([300]), "INT16"),
        (np.array([0, 1]), "BOOL"),
        (np.array([True]), "FP32"),
        (np.array([True]), "INT8"),
        (np.array([2.0], ml_dtypes.bfloat16), "INT64"),
        (np.array([2.5]), "BF16"),
        (np.zeros(0), "INT8"),
    ],
)
def test_numbers_are_converted_where_the_signature_says_so(
    data: NDArray[Any], declared: str
) -> None:
    signature = Signature((TensorSpec("x", declared, (-1,)),), (), converts=True)
    converted = RequestCheck(signature).arrays(request(x=data))["x"]
    assert DATATYPES[converted.dtype] == declared
    assert np.array_equal(converted.astype(np.float64), data.astype(np.float64), equal_nan=True)


@pytest.mark.parametrize(
    ("data", "declared", "said"),
    [
        (np.array([1.5]), "INT64", "FP64 does not convert to INT64, which the model takes: a value "
                                   "has a fraction"),
        (np.array([np.nan]), "INT64", "a value is NaN or infinite"),
        (np.array([1e300]), "FP32", "a value is out of its range"),
        (np.array([1e300]), "INT64", "a value is out of its range"),
        (np.array([2.0**63]), "INT64", "a value is out of its range"),
        (np.array([-1]), "UINT64", "a value is out of its range"),
        (np.array([2]), "BOOL", "a value is out of its range"),
        (np.array([2.5], ml_dtypes.bfloat16), "INT64", "a value has a fraction"),
        (CITIES, "FP32", "BYTES does not convert to FP32"),
        (np.array([1.5]), "BYTES", "FP64 does not convert to BYTES"),
    ],
)
def test_conversions_that_change_the_meaning_are_refused(
    data: NDArray[Any], declared: str, said: str
) -> None:
    signature = Signature((TensorSpec("x", declared, (-1,)),), (), converts=True)
    assert said in refusal(signature, request(x=data))


def test_a_signature_without_inputs_takes_any() -> None:
    assert arrays(Signature((), ()), request(x=CITIES)) == {"x": [b"Rome", b"Oslo"]}


def test_of_guessed_inputs_only_the_names_are_checked() -> None:
    signature = Signature((TensorSpec("x", "FP32", ()),), (), guessed=True)
    assert RequestCheck(signature).arrays(request(x=CITIES))["x"] is CITIES
    assert "input 'y' is unknown" in refusal(signature, request(y=ONES))


# --- tables and content types -------------------------------------------------------------------


@pytest.mark.parametrize("content_type", [None, "pd"])
@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_columns_come_with_one_axis_or_two(
    content_type: str | None, shape: tuple[int, ...]
) -> None:
    asked = request(content_type, city=CITIES.reshape(shape), age=np.array([30, 40]).reshape(shape))
    assert arrays(TABLE, asked) == {"age": [30.0, 40.0], "city": [b"Rome", b"Oslo"]}


def test_a_matrix_stands_for_all_columns() -> None:
    asked = request(anything=np.array([[1.5, 2], [3, 4]], np.float32))
    assert arrays(NUMBERS, asked) == {"h": [[1.5], [3]], "w": [[2], [4]]}


@pytest.mark.parametrize(
    ("signature", "asked", "said"),
    [
        (TABLE, request(age=np.array([1, 2])), "column 'city' missing; the model takes 'age', 'ci"),
        (TABLE, request(age=np.array([1]), town=CITIES), "column 'town' is unknown"),
        (TABLE, request(age=np.array([1]), city=CITIES), "has 2 rows, but column 'age' has 1"),
        (TABLE, request(age=np.ones((2, 2)), city=CITIES), "input 'age' has the shape [2, 2]"),
        (TABLE, request(age=np.array(1.0), city=CITIES), "the shape []"),
        (TABLE, request(x=np.ones((2, 2))), "input 'city': FP64 does not convert to BYTES"),
        (NUMBERS, request(x=np.ones((2, 3))), "'x' has 3 columns, but the model takes 2: 'h', 'w'"),
        (NUMBERS, request(x=np.ones(2)), "column 'x' is unknown"),
    ],
)
def test_a_table_that_does_not_suit_is_refused(
    signature: Signature, asked: InferRequest, said: str
) -> None:
    assert said in refusal(signature, asked)


def test_columns_of_a_pd_request_become_the_matrix_a_model_takes() -> None:
    columns = {name: np.array([index, index + 0.5]) for index, name in enumerate("abcd")}
    assert arrays(ANY, request("pd", **columns)) == {"x": [[0, 1, 2, 3], [0.5, 1.5, 2.5, 3.5]]}


def test_a_pd_request_without_inputs_is_refused() -> None:
    assert "missing" in refusal(ANY, request("pd"))


def test_columns_of_a_pd_request_fit_inputs_of_two_axes() -> None:
    signature = Signature(
        (TensorSpec("a", "FP32", (-1, 1)), TensorSpec("b", "BYTES", (-1, 1))), ()
    )
    asked = request("pd", a=np.array([1, 2], np.float32), b=CITIES)
    assert arrays(signature, asked) == {"a": [[1], [2]], "b": [[b"Rome"], [b"Oslo"]]}


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
@pytest.mark.parametrize("declared", [(-1,), (-1, 1)])
def test_text_comes_with_one_axis_or_two(shape: tuple[int, ...], declared: tuple[int, ...]) -> None:
    signature = Signature((TensorSpec("t", "BYTES", declared),), ())
    data = RequestCheck(signature).arrays(request("str", t=CITIES.reshape(shape)))["t"]
    assert data.ndim == len(declared)
    assert data.ravel().tolist() == [b"Rome", b"Oslo"]


def test_an_input_s_content_type_is_heeded() -> None:
    asked = request(x=ONES)
    asked.inputs[0].parameters["content_type"] = "nonsense"
    with pytest.raises(InvalidRequest, match="unknown content_type 'nonsense'"):
        RequestCheck(STRICT).arrays(asked)


# --- outputs ------------------------------------------------------------------------------------


def test_the_default_outputs_are_those_the_signature_names_or_all() -> None:
    assert RequestCheck(STRICT).outputs(request()) == ("label", "p")
    default = Signature((X,), OUT, default_outputs=("label",))
    assert RequestCheck(default).outputs(request()) == ("label",)


def test_outputs_come_as_asked_for() -> None:
    asked = InferRequest([], outputs=[RequestedOutput("p"), RequestedOutput("label")])
    assert RequestCheck(STRICT).outputs(asked) == ("p", "label")
    assert RequestCheck(Signature((), ())).outputs(asked) == ()


def test_an_unknown_output_is_refused_naming_the_known() -> None:
    asked = InferRequest([], outputs=[RequestedOutput("q")])
    with pytest.raises(InvalidInput, match=r"output 'q' is not one of the model's: 'label', 'p'"):
        RequestCheck(STRICT).outputs(asked)


def test_a_response_has_the_wanted_outputs_in_order() -> None:
    given = {"label": np.array([1]), "extra": np.array([0]), "p": np.ones((1, 3), np.float32)}
    response = make_response("m", "3", given, InferRequest([], id="7"), ("p", "label"))
    assert (response.model_name, response.model_version, response.id) == ("m", "3", "7")
    assert [(t.name, t.datatype, t.shape) for t in response.outputs] == [
        ("p", "FP32", (1, 3)), ("label", "INT64", (1,)),
    ]


def test_without_wanted_names_every_output_is_returned() -> None:
    response = make_response("m", "1", {"a": np.array([1]), "b": np.array([2])}, request(), ())
    assert [tensor.name for tensor in response.outputs] == ["a", "b"]


@pytest.mark.parametrize("data", [
    np.array(["ä", "b"]),
    np.array(["ä".encode(), b"b"]),
    np.array(["ä", b"b"], object),
    np.array(["ä", "b"], np.dtypes.StringDType()),
])  # fmt: skip
def test_strings_of_any_kind_become_bytes(data: NDArray[Any]) -> None:
    (tensor,) = make_response("m", "1", {"y": data}, request(), ("y",)).outputs
    assert (tensor.datatype, tensor.shape) == ("BYTES", (2,))
    assert tensor.data.tolist() == ["ä".encode(), b"b"]


def test_foreign_byte_order_is_turned() -> None:
    data = np.array([1, 2], ">i4")
    (tensor,) = make_response("m", "1", {"y": data}, request(), ("y",)).outputs
    assert tensor.datatype == "INT32"
    assert tensor.data.dtype.isnative
    assert tensor.data.tolist() == [1, 2]


def test_every_integer_type_of_numpy_has_a_datatype() -> None:
    for code in "bBhHiIlLqQ":
        (tensor,) = make_response("m", "1", {"y": np.zeros(1, code)}, request(), ()).outputs
        assert tensor.datatype.lstrip("U").startswith("INT")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"z": np.array([1])}, "model 'm' gave no output 'y', which it declares; it gave 'z'"),
        ({}, "it gave nothing"),
        ({"y": [1, 2]}, "output 'y' is a list, not a numpy array"),
        ({"y": np.array([1j])}, "type complex128, for which the protocol has no datatype"),
        ({"y": np.array(["2026-01-01"], "datetime64[D]")}, "datetime64[D], for which"),
        ({"y": np.array([None], object)}, "output 'y' holds a NoneType"),
        ({"y": np.array(["\udc80"])}, "holds a string that is no Unicode text"),
    ],
)
def test_a_model_that_breaks_its_promise_has_failed(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelFailed) as caught:
        make_response("m", "1", given, request(), ("y",))
    assert said in caught.value.message


@pytest.mark.parametrize("name", [7, "y\ud800", b"y"])
def test_outputs_whose_names_are_no_text_are_the_models_fault(name: Any) -> None:
    with pytest.raises(ModelFailed, match="names must be text"):
        make_response("m", "1", {name: ONES}, request(), ())


def test_of_undeclared_outputs_those_asked_for_are_returned() -> None:
    asked = InferRequest([], outputs=[RequestedOutput("c"), RequestedOutput("a")])
    given = dict.fromkeys("abc", ONES)
    response = make_response("m", "1", given, asked, RequestCheck(Signature((), ())).outputs(asked))
    assert [tensor.name for tensor in response.outputs] == ["c", "a"]


def test_asking_for_an_output_nobody_declared_nor_gave_is_the_callers_fault() -> None:
    asked = InferRequest([], outputs=[RequestedOutput("z")])
    with pytest.raises(InvalidInput, match="'z' is not one of the model's, which gave 'a', 'b'"):
        make_response("m", "1", {"a": ONES, "b": ONES}, asked, ())
