"""The whole product beside the least code that parses, runs the same model and answers.

    python -m benchmarks ceiling [--rounds 15] [--seconds 0.5] [--connections 32]

W1: the Open Inference Protocol in JSON; W2: with the binary tensor extension. The model is a
4-16-3 network in ONNX. The bare server does not validate, count or limit anything. The last line is
JSON: the bare server's processor time a request over Shoal's (1.0: as lean as the bare one).
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import cast

import httptools
import numpy as np
import onnxruntime
import orjson
import uvloop
from onnx import TensorProto, helper, numpy_helper

from benchmarks.closed_loop import Target, announce, arguments, measure, pin_client, servers
from shoal.app import App
from shoal.observability.logs import configure_logs
from shoal.settings import read_settings

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


def http_request(body: bytes, *headers: bytes) -> bytes:
    head = (b"POST /v2/models/flowers/infer HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"
            b"User-Agent: benchmark\r\nAccept: */*\r\nContent-Length: %d\r\n" % len(body))
    return head + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + body


W1 = http_request(JSON_BODY, b"Content-Type: application/json")
W2 = http_request(
    BINARY_BODY, b"Content-Type: application/octet-stream",
    b"Inference-Header-Content-Length: %d" % len(BINARY_HEAD),
)


def model_bytes() -> bytes:
    random = np.random.default_rng(1)
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


class Bare(asyncio.Protocol):
    """Parses, runs, answers: no more."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.parser = httptools.HttpRequestParser(self)
        self.body, self.json_length = b"", 0

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == b"Inference-Header-Content-Length":
            self.json_length = int(value)

    def on_body(self, body: bytes) -> None:
        self.body = body

    def on_message_complete(self) -> None:
        if self.json_length:
            head = orjson.loads(self.body[: self.json_length])["inputs"][0]
            array = np.frombuffer(self.body, np.float32, offset=self.json_length)
        else:
            head = orjson.loads(self.body)["inputs"][0]
            array = np.array(head["data"], np.float32)
        (y,) = self.session.run(None, {"x": array.reshape(head["shape"])})
        output = {"name": "y", "datatype": "FP32", "shape": y.shape}
        answer = {"model_name": "flowers", "model_version": "1", "outputs": [output]}
        if self.json_length:
            data = y.tobytes()
            output["parameters"] = {"binary_data_size": len(data)}
            text = orjson.dumps(answer)
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n"
                b"inference-header-content-length: %d\r\ncontent-length: %d\r\n\r\n%b%b"
                % (len(text), len(text) + len(data), text, data)
            )
        else:
            output["data"] = y.ravel()
            text = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (len(text), text)
            )


async def serve_bare() -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model_bytes(), options)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Bare(session), "127.0.0.1", 0)
    announce(server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


async def serve_shoal() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "models" / "flowers.onnx"
        model.parent.mkdir()
        model.write_bytes(model_bytes())
        configure_logs("warning", "json")
        app = App(read_settings({
            "http.port": "0", "management.port": "0", "data_dir": folder,
            "registry.url": "memory", "folder.settle_s": "0",
        }, {}), [model.parent])
        await app.start()
        announce(int(app.identity.http_address.rpartition(":")[2]))
        await asyncio.Event().wait()


def main() -> None:
    options = arguments(__doc__).parse_args()
    if options.serve:
        uvloop.run(serve_bare() if options.serve == "bare" else serve_shoal())
        return
    session = onnxruntime.InferenceSession(model_bytes())
    (expected,) = session.run(None, {"x": ROW})
    as_json = orjson.dumps(expected.ravel(), option=orjson.OPT_SERIALIZE_NUMPY)
    as_bytes = expected.tobytes()
    with servers("benchmarks.ceiling", ["bare", "shoal"]) as at:
        pin_client()
        w1 = measure({
            "W1 (JSON), bare": Target(*at["bare"], [W1], lambda data: as_json in data),
            "W1 (JSON), Shoal": Target(*at["shoal"], [W1], lambda data: as_json in data),
        }, options)
        w2 = measure({
            "W2 (binary), bare": Target(*at["bare"], [W2], lambda data: data.endswith(as_bytes)),
            "W2 (binary), Shoal": Target(*at["shoal"], [W2], lambda data: data.endswith(as_bytes)),
        }, options)
    print(json.dumps({
        "http_w1_vs_ceiling": w1["W1 (JSON), Shoal"],
        "http_w2_vs_ceiling": w2["W2 (binary), Shoal"],
    }))


if __name__ == "__main__":
    main()
