"""Content types of V2 requests: columns of tables, text, base64, times."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from shoal.codecs import tables
from shoal.codecs.message import InferRequest, Tensor
from shoal.codecs.tensors import DATATYPES, object_array
from shoal.domain.errors import InvalidInput, InvalidRequest
from shoal.domain.model import JsonValue

Parameters: TypeAlias = dict[str, JsonValue]


def tensor(name: str, data: NDArray[Any] | list[bytes], content_type: JsonValue = None) -> Tensor:
    if isinstance(data, list):
        data = object_array(data, (len(data),))
    parameters: Parameters = {} if content_type is None else {"content_type": content_type}
    return Tensor(name, DATATYPES[data.dtype], data.shape, data, parameters)


def decode(*given: Tensor, content_type: JsonValue = None) -> list[Tensor]:
    parameters: Parameters = {} if content_type is None else {"content_type": content_type}
    return tables.decode_content(InferRequest(list(given), parameters=parameters))


def test_columns_of_a_table_come_as_rows_or_as_rows_by_one() -> None:
    age, city = decode(
        tensor("age", np.array([30, 40])),
        tensor("city", object_array([b"Rome", b"Oslo"], (2, 1))),
        content_type="pd",
    )
    assert (age.shape, age.data.tolist()) == ((2,), [30, 40])
    assert (city.shape, city.data.tolist()) == ((2,), [b"Rome", b"Oslo"])


def test_a_column_has_no_further_axis() -> None:
    with pytest.raises(InvalidInput, match=r"input 'age' has the shape \[2, 2\]"):
        decode(tensor("age", np.zeros((2, 2))), content_type="pd")


def test_an_input_s_own_content_type_wins() -> None:
    age, photo = decode(
        tensor("age", np.array([30])), tensor("photo", [b"/w=="], "base64"), content_type="pd"
    )
    assert age.data.tolist() == [30]
    assert photo.data.tolist() == [b"\xff"]
    assert photo.parameters == {}


def test_text_and_times_stay_as_they_are() -> None:
    times = [b"2026-01-31", b"2026-01-31T10:00:00Z"]
    assert decode(tensor("t", times, "datetime"))[0].data.tolist() == times
    assert decode(tensor("t", ["äß".encode()], "str"))[0].data.tolist() == ["äß".encode()]
    assert decode(tensor("t", [b"a"]), content_type="str")[0].data.tolist() == [b"a"]
    assert decode(tensor("t", np.array([1]), "np"))[0].data.tolist() == [1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (tensor("t", [b"\xff"], "str"), "input 't': an element is not UTF-8 text"),
        (tensor("t", [b"***"], "base64"), "input 't': a value is not valid base64"),
        (tensor("t", [b"yesterday"], "datetime"), "b'yesterday' is no ISO 8601 time"),
        (tensor("t", [b"\xff"], "datetime"), "is no ISO 8601 time"),
        (tensor("t", np.array([1]), "str"), "datatype INT64, but content_type 'str' is for"),
    ],
)
def test_data_that_is_not_what_it_says_is_refused(given: Tensor, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode(given)
    assert said in caught.value.message


@pytest.mark.parametrize("unknown", ["pillow_image", "pd", 5, ["np"]])
def test_an_unknown_content_type_of_an_input_names_the_known(unknown: JsonValue) -> None:
    with pytest.raises(InvalidRequest, match=r"input 't': .*known here are np, str, base64, datet"):
        decode(tensor("t", [b"a"], unknown))


def test_an_unknown_content_type_of_a_request_names_the_known() -> None:
    with pytest.raises(InvalidRequest, match=r"'hg_json'; known here are pd, np, str"):
        decode(tensor("t", [b"a"]), content_type="hg_json")


def test_columns_stand_side_by_side_in_their_order() -> None:
    columns = [tensor("b", np.array([1, 2], np.float32)), tensor("a", np.array([3, 4], np.float32))]
    matrix = tables.as_matrix(columns, "x")
    assert (matrix.name, matrix.datatype, matrix.shape) == ("x", "FP32", (2, 2))
    assert matrix.data.tolist() == [[1, 3], [2, 4]]


def test_columns_of_several_datatypes_become_a_matrix_of_fp64() -> None:
    columns = [tensor("a", np.array([1, 2])), tensor("b", np.array([0.5, 1], np.float32))]
    matrix = tables.as_matrix(columns, "x")
    assert matrix.datatype == "FP64"
    assert matrix.data.tolist() == [[1, 0.5], [2, 1]]


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(InvalidInput, match="column 'b' has 1 rows, but column 'a' has 2"):
        tables.as_matrix([tensor("a", np.array([1, 2])), tensor("b", np.array([1]))], "x")


def test_text_does_not_become_a_matrix() -> None:
    with pytest.raises(InvalidInput, match="'b' has the datatype BYTES, but the model takes"):
        tables.as_matrix([tensor("a", np.array([1])), tensor("b", [b"x"])], "x")
