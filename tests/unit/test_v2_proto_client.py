"""V2 over gRPC as a client speaks it, against the server's side and the protobuf library."""

from __future__ import annotations

import numpy as np
import pytest

from shoal.codecs import protobuf, tensors
from shoal.codecs.message import InferResponse, Tensor
from shoal.codecs.v2_proto import RequestReader, decode
from shoal.codecs.v2_proto_answer import ResponseWriter
from shoal.codecs.v2_proto_client import decode_response, encode_request

ARRAYS = {
    "FP32": np.array([[1.5, -2.0]], "f4"),
    "INT64": np.array([1, -(2**40)], "i8"),
    "BOOL": np.array([True, False]),
    "FP16": np.array([[0.5]], "f2"),
    "UINT8": np.zeros((2, 0), "u1"),
    "BYTES": tensors.object_array([b"one", b"", "öl".encode()], (3,)),
    "FP64": np.array(2.5),
}


@pytest.mark.parametrize("datatype", ARRAYS)
def test_the_servers_side_reads_what_is_written(datatype: str) -> None:
    array = ARRAYS[datatype]
    data = encode_request("m", {"x": array, "y": array}, {"a": 1, "b": "c"}, ("z",), "3")
    received = RequestReader().read(data)
    request = decode(received)
    assert (received.head.model, received.head.version) == ("m", 3)
    assert request.parameters == {"a": 1, "b": "c"}
    assert [output.name for output in request.outputs] == ["z"]
    assert [tensor.name for tensor in request.inputs] == ["x", "y"]
    for tensor in request.inputs:
        assert tensor.datatype == datatype
        assert tensor.shape == array.shape
        np.testing.assert_array_equal(tensor.data, array)


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("datatype", ARRAYS)
def test_what_the_servers_side_writes_is_read(datatype: str, typed: bool) -> None:
    array = ARRAYS[datatype]
    outputs = [Tensor(name, datatype, array.shape, array) for name in "xy"]
    data = b"".join(ResponseWriter().write(InferResponse("m", "1", outputs), typed=typed))
    arrays = decode_response(data)
    assert list(arrays) == ["x", "y"]
    for found in arrays.values():
        assert found.dtype == array.dtype
        assert found.flags.writeable
        np.testing.assert_array_equal(found, array)


def response(**values: object) -> bytes:
    return protobuf.write("inference.ModelInferResponse", values)


@pytest.mark.parametrize(("data", "problem"), [
    (b"\xff", "no ModelInferResponse"),
    (response(outputs=[{"name": "y", "datatype": "FP32", "shape": [2]}],
              raw_output_contents=["AAAA"]), "needs 8 bytes"),
    (response(outputs=[{"name": "y", "datatype": "FP32", "shape": [1]}],
              raw_output_contents=["", ""]), "1 outputs, but 2 raw"),
    (response(outputs=[{"name": "y", "datatype": "FP8", "shape": [1]}]), "unknown datatype 'FP8'"),
    (response(outputs=[{"name": "y", "datatype": "FP32", "shape": [-1]}]), r"shape \[-1\]"),
    (response(outputs=[{"name": "y", "datatype": "FP16", "shape": [1]}]), "has no data"),
    (response(outputs=[{"name": "y", "datatype": "FP32", "shape": [2]}]), "needs 2 elements"),
], ids=["bytes", "short", "count", "datatype", "shape", "untyped", "typed"])
def test_what_breaks_the_protocol_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        decode_response(data)
