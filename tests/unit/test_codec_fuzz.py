"""Round trips for every datatype, and hostile bodies, out of which only InvalidRequest may come."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from shoal.codecs import compression, v1, v2
from shoal.codecs.message import InferRequest, InferResponse, Tensor
from shoal.codecs.tensors import DTYPES, FLOATS, convert, object_array
from shoal.dataplane.validation import RequestCheck
from shoal.domain.errors import InvalidInput, InvalidRequest
from shoal.domain.signature import Signature, TensorSpec

QUICK = settings(
    max_examples=50, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
MORE = settings(QUICK, max_examples=200)

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["b64", "x", "y", "content_type"]), inner, max_size=3),
    max_leaves=12,
)
SIGNATURES = [
    Signature((TensorSpec("x", "FP32", (-1, 2)),), (), any_name=True, converts=True),
    Signature((TensorSpec("x", "FP64", (-1, 1)), TensorSpec("y", "BYTES", (-1,))), ()),
    Signature((TensorSpec("x", "INT8", (-1,)), TensorSpec("y", "BYTES", (-1,))), (),
              table=True, converts=True),
    Signature((TensorSpec("x", "BYTES", (-1,)),), ()),
    Signature((TensorSpec("x", "FP32", ()),), (), guessed=True),
]


@st.composite
def arrays(draw: st.DrawFn, datatype: str, *, finite: bool = False) -> NDArray[Any]:
    shape = draw(SHAPES)
    if datatype == "BYTES":
        count = int(np.prod(shape))
        element = st.text(max_size=6).map(str.encode) if finite else st.binary(max_size=6)
        return object_array(draw(st.lists(element, min_size=count, max_size=count)), shape)
    if datatype == "BF16":
        bits = draw(hnp.arrays(np.uint16, shape))
        values = bits.view(DTYPES["BF16"])
        return np.where(bits & 0x7F80 == 0x7F80, values.dtype.type(1), values) if finite else values
    dtype = DTYPES[datatype]
    elements = None
    if dtype.kind == "f":
        elements = hnp.from_dtype(dtype, allow_nan=not finite, allow_infinity=not finite)
    return draw(hnp.arrays(dtype, shape, elements=elements))


def same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype == object:
        return bool(one.tolist() == other.tolist())
    return one.tobytes() == other.tobytes()


def through_response(data: NDArray[Any], datatype: str, *, binary: bool) -> NDArray[Any]:
    """A response's output, read back as the input of a request: their forms are the same."""
    response = InferResponse("m", "1", [Tensor("x", datatype, data.shape, data)])
    wish = InferRequest([], parameters={"binary_data_output": binary})
    parts, length = v2.encode_response(response, wish)
    head = orjson.loads(parts[0])
    document = orjson.dumps({"inputs": head["outputs"]})
    body = document + b"".join(parts[1:])
    request = v2.decode_request(body, None if length is None else len(document))
    return request.inputs[0].data


@pytest.mark.parametrize("datatype", list(DTYPES))
@QUICK
@given(data=st.data())
def test_every_array_comes_back_from_binary_bit_by_bit(datatype: str, data: st.DataObject) -> None:
    array = data.draw(arrays(datatype))
    assert same(through_response(array, datatype, binary=True), array)


@pytest.mark.parametrize("datatype", list(DTYPES))
@QUICK
@given(data=st.data())
def test_every_finite_array_comes_back_from_json(datatype: str, data: st.DataObject) -> None:
    array = data.draw(arrays(datatype, finite=True))
    assert np.array_equal(through_response(array, datatype, binary=False), array)


@pytest.mark.parametrize("datatype", ["INT32", "FP64", "BOOL", "BYTES"])
@QUICK
@given(data=st.data())
def test_nested_data_is_read_as_flat_data_is(datatype: str, data: st.DataObject) -> None:
    array = data.draw(arrays(datatype, finite=True))
    plain = array if datatype != "BYTES" else object_array(
        [element.decode() for element in array.ravel()], array.shape
    )
    document = orjson.dumps({"inputs": [
        {"name": "x", "datatype": datatype, "shape": array.shape, "data": plain.tolist()}
    ]})
    if 0 in array.shape[:-1]:
        return  # nested lists cannot tell [0, 3] from [0]
    assert np.array_equal(v2.decode_request(document).inputs[0].data, array)


@QUICK
@given(array=arrays("FP32", finite=True))
def test_rows_come_back_from_v1(array: NDArray[Any]) -> None:
    if array.ndim == 0 or array.size == 0:
        return
    signature = Signature((TensorSpec("x", "FP32", (-1,) * array.ndim),), ())
    body = v1.encode_response(
        InferResponse("m", "1", [Tensor("y", "FP32", array.shape, array)])
    ).replace(b"predictions", b"instances")
    assert np.array_equal(v1.to_request(v1.decode(body), signature).inputs[0].data, array)


@pytest.mark.parametrize("source", list(DTYPES))
@QUICK
@given(data=st.data())
def test_what_converts_keeps_its_value(source: str, data: st.DataObject) -> None:
    array = data.draw(arrays(source))
    for target in DTYPES:
        try:
            converted = convert("x", array, source, target)
        except InvalidInput:
            continue
        assert converted.dtype == DTYPES[target]
        if target not in FLOATS and source != target:
            assert converted.astype(object).tolist() == array.astype(object).tolist()


def serve(body: bytes, json_length: int | None = None) -> None:
    """What is done with a body before a model runs; only InvalidRequest may come out."""
    for signature in SIGNATURES:
        check = RequestCheck(signature)
        try:
            request = v2.decode_request(body, json_length)
            given_arrays = check.arrays(request)
            check.outputs(request)
        except InvalidRequest:
            pass
        else:
            assert given_arrays.keys() == {spec.name for spec in signature.inputs}
        try:
            given_arrays = check.arrays(v1.to_request(v1.decode(body), signature))
        except InvalidRequest:
            pass
        else:
            assert given_arrays.keys() == {spec.name for spec in signature.inputs}


@MORE
@given(body=st.binary(max_size=60), length=st.none() | st.integers(-1, 61))
def test_arbitrary_bytes_are_refused(body: bytes, length: int | None) -> None:
    serve(body, length)


@MORE
@given(document=JSON)
def test_arbitrary_json_is_a_request_or_refused(document: object) -> None:
    serve(orjson.dumps(document))


@MORE
@given(
    document=st.fixed_dictionaries(
        {},
        optional={"instances": JSON, "inputs": JSON, "signature_name": JSON},
    )
)
def test_arbitrary_v1_fields_are_a_request_or_refused(document: object) -> None:
    serve(orjson.dumps(document))


@MORE
@given(
    tensors=st.lists(
        st.fixed_dictionaries(
            {
                "name": st.sampled_from(["x", "y"]),
                "datatype": st.sampled_from(list(DTYPES)) | st.text(max_size=3),
                "shape": st.lists(st.integers(-1, 4) | st.just(2**62), max_size=4),
            },
            optional={
                "data": JSON,
                "parameters": st.fixed_dictionaries(
                    {}, optional={"binary_data_size": st.integers(-1, 9) | JSON,
                                  "content_type": st.sampled_from(["str", "base64", "datetime"])},
                ),
            },
        ),
        max_size=3,
    ),
    parameters=st.none() | st.just({"content_type": "pd"}) | JSON,
    binary=st.none() | st.binary(max_size=16),
)
def test_almost_right_requests_are_a_request_or_refused(
    tensors: object, parameters: object, binary: bytes | None
) -> None:
    document = orjson.dumps({"inputs": tensors, "parameters": parameters})
    serve(document + (binary or b""), None if binary is None else len(document))


RIGHT = (
    b'{"id":"7","parameters":{"content_type":"np","binary_data_output":true},"inputs":[{"name":"x",'
    b'"shape":[2,2],"datatype":"FP32","data":[[1.5,-2e3],[3,4]]},{"name":"y","datatype":"BYTES",'
    b'"shape":[1],"parameters":{"binary_data_size":6}}],"outputs":[{"name":"p"}]}'
)


@MORE
@given(
    at=st.integers(0, len(RIGHT)), cut=st.integers(0, 6),
    put=st.binary(max_size=3) | st.text("[]{}:,\"\\0e-.tn", max_size=3).map(str.encode),
    shift=st.integers(-2, 2),
)
def test_a_mutated_request_is_a_request_or_refused(
    at: int, cut: int, put: bytes, shift: int
) -> None:
    mutated = RIGHT[:at] + put + RIGHT[at + cut :]
    serve(mutated + b"\x02\x00\x00\x00ab", len(mutated) + shift)
    serve(mutated.replace(b'"inputs"', b'"instances"'))


@MORE
@given(body=st.binary(max_size=80), encoding=st.sampled_from([b"gzip", b"deflate", b"identity"]))
def test_arbitrary_bytes_are_decompressed_or_refused(body: bytes, encoding: bytes) -> None:
    try:
        assert len(compression.decompress(body, encoding, 100)) <= 100
    except InvalidRequest:
        pass


@QUICK
@given(body=st.binary(max_size=500), at=st.integers(0, 40), put=st.binary(min_size=1, max_size=2))
def test_damaged_compressed_bodies_are_decompressed_or_refused(
    body: bytes, at: int, put: bytes
) -> None:
    for packed, encoding in ((gzip.compress(body), b"gzip"), (zlib.compress(body), b"deflate")):
        damaged = packed[:at] + put + packed[at + len(put) :]
        try:
            compression.decompress(damaged, encoding, 1000)
        except InvalidRequest:
            pass


@QUICK
@given(header=st.binary(max_size=30) | st.from_regex(rb"\A([a-z*]+(;q=[0-9.]{1,4})?,? ?){0,4}\Z"))
def test_any_header_negotiates_something(header: bytes) -> None:
    assert compression.negotiate(header, 5000) in ("gzip", "deflate", None)
    try:
        compression.decompress(b"", header, 10)
    except InvalidRequest:
        pass
