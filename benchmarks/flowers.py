"""The model that benchmarks serve, a 4-16-3 network in ONNX, and requests for it.

W1: the Open Inference Protocol in JSON over HTTP; W2: the same with the binary tensor extension;
W3: gRPC with raw contents. Knows no server.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

import numpy as np
import onnxruntime
import orjson
from onnx import TensorProto, helper, numpy_helper

ROW = np.array([[5.1, 3.5, 1.4, 0.2]], np.float32)
JSON_BODY = orjson.dumps({"inputs": [
    {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": ROW.ravel().tolist()}
]})
BINARY_HEAD = orjson.dumps({
    "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32",
                "parameters": {"binary_data_size": ROW.nbytes}}],
    "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
})
BINARY_BODY = BINARY_HEAD + ROW.tobytes()


def http_request(body: bytes, *headers: bytes, path: bytes = b"/v2/models/flowers/infer") -> bytes:
    head = (b"POST %b HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"
            b"User-Agent: benchmark\r\nAccept: */*\r\nContent-Length: %d\r\n" % (path, len(body)))
    return head + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + body


W1 = http_request(JSON_BODY, b"Content-Type: application/json")
W2 = http_request(
    BINARY_BODY, b"Content-Type: application/octet-stream",
    b"Inference-Header-Content-Length: %d" % len(BINARY_HEAD),
)


def w3() -> tuple[bytes, bytes]:
    """The method's path, and the request."""
    from tritonclient.grpc.service_pb2 import ModelInferRequest

    tensor = ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 4])
    request: bytes = ModelInferRequest(
        model_name="flowers", inputs=[tensor], raw_input_contents=[ROW.tobytes()]
    ).SerializeToString()
    return b"/inference.GRPCInferenceService/ModelInfer", request


def model_bytes(seed: int = 1) -> bytes:
    random = np.random.default_rng(seed)
    weights = {
        "w1": random.normal(size=(4, 16)), "b1": random.normal(size=16),
        "w2": random.normal(size=(16, 3)), "b2": random.normal(size=3),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["y"]),
        ],
        "flowers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 3])],
        [numpy_helper.from_array(value.astype("f4"), name) for name, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    encoded: bytes = made.SerializeToString()
    return encoded


def make_session(model: bytes) -> onnxruntime.InferenceSession:
    """As lean as ONNX Runtime's options make it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options)


def expected() -> list[float]:
    (y,) = make_session(model_bytes()).run(None, {"x": ROW})
    numbers: list[float] = y.ravel().tolist()
    return numbers


def right_parts() -> tuple[bytes, bytes]:
    """What right answers hold, when they are written by orjson, and when they are raw."""
    y = np.array(expected(), np.float32)
    return orjson.dumps(y, option=orjson.OPT_SERIALIZE_NUMPY), y.tobytes()


def has_right_json(answer: bytes) -> Callable[[bytes], bool]:
    """What recognises right answers, after `answer`, one that is looked at closely: it holds the
    model's numbers, in whatever form, as all later ones must. Raises ValueError if it does not."""
    for found in re.finditer(rb"\[\s*(-?\d[^\[\]]*)\]", answer):
        numbers = [float(number) for number in found[1].split(b",")]
        if len(numbers) == 3 and np.allclose(numbers, expected(), atol=1e-4):
            return _containing(found[1])
    raise ValueError(f"a wrong answer: {answer!r}")


def has_right_bytes(answer: bytes) -> Callable[[bytes], bool]:
    """As `has_right_json`, of raw tensors in whatever frames them."""
    wanted = expected()
    for at in range(len(answer) - 11):
        if np.allclose(struct.unpack_from("<3f", answer, at), wanted, atol=1e-4):
            return _containing(answer[at : at + 12])
    raise ValueError(f"a wrong answer: {answer!r}")


def _containing(part: bytes) -> Callable[[bytes], bool]:
    return lambda answer: part in answer
