"""The least code on uvloop and httptools that parses V2 requests, runs the model and answers.

It validates, counts and limits nothing. Knows the model of `flowers` alone.
"""

from __future__ import annotations

import asyncio
from typing import cast

import httptools
import numpy as np
import onnxruntime
import orjson
import uvloop

from benchmarks.flowers import make_session, model_bytes
from benchmarks.processes import announce


class Bare(asyncio.Protocol):
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


def serve() -> None:
    uvloop.run(_serve())


async def _serve() -> None:
    session = make_session(model_bytes())
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Bare(session), "127.0.0.1", 0)
    announce(server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()
