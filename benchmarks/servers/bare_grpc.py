"""The least HTTP/2 on uvloop that takes ModelInfer calls, runs the model and answers.

Header blocks are decoded when they are new and recognised by their bytes from then on. No
CONTINUATION, no padding, no windows for sending, no statuses, deadlines, limits or errors. Knows
the model of `flowers` alone.
"""

from __future__ import annotations

import asyncio
from typing import cast

import hpack
import numpy as np
import onnxruntime
import uvloop
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from benchmarks.flowers import make_session, model_bytes
from benchmarks.h2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    WIDE_OPEN,
    WINDOW_UPDATE,
    frame,
    message,
)
from benchmarks.processes import announce

# `:status: 200` and `content-type: application/grpc`, then `grpc-status: 0`: literals of HPACK.
_HEAD = b"\x88\x0f\x10\x10application/grpc"
_TRAILERS = b"\x00\x0bgrpc-status\x010"


class Bare(asyncio.Protocol):
    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.decoder = hpack.Decoder()
        self.paths: dict[bytes, str] = {}  # by header block
        self.rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(frame(SETTINGS, 0, 0) + frame(WINDOW_UPDATE, 0, 0, WIDE_OPEN))

    def data_received(self, data: bytes) -> None:
        data = self.rest + data
        at, end = len(PREFACE) if data.startswith(PREFACE) else 0, len(data)
        out = []
        while end - at >= FRAME:
            stop = at + FRAME + int.from_bytes(data[at : at + 3], "big")
            if stop > end:
                break
            kind, flags, payload = data[at + 3], data[at + 4], data[at + FRAME : stop]
            if kind == HEADERS:
                self.path = self.paths.get(payload) or self.decode(payload)
            elif kind == DATA and flags & END_STREAM:
                stream = int.from_bytes(data[at + 5 : at + FRAME], "big")
                out += [
                    frame(HEADERS, END_HEADERS, stream, _HEAD),
                    frame(DATA, 0, stream, message(self.infer(payload[5:]))),
                    frame(HEADERS, END_HEADERS | END_STREAM, stream, _TRAILERS),
                ]
            elif kind in (SETTINGS, PING) and not flags & ACK:
                out.append(frame(kind, ACK, 0, payload if kind == PING else b""))
            at = stop
        self.rest = data[at:]
        if out:
            self.transport.write(b"".join(out))

    def decode(self, block: bytes) -> str:
        headers = {str(name): str(value) for name, value in self.decoder.decode(block)}
        return self.paths.setdefault(block, headers[":path"])

    def infer(self, body: bytes) -> bytes:
        request = ModelInferRequest.FromString(body)
        array = np.frombuffer(request.raw_input_contents[0], np.float32)
        (y,) = self.session.run(None, {"x": array.reshape(request.inputs[0].shape)})
        output = ModelInferResponse.InferOutputTensor(name="y", datatype="FP32", shape=y.shape)
        answer: bytes = ModelInferResponse(
            model_name="flowers", model_version="1", outputs=[output],
            raw_output_contents=[y.tobytes()],
        ).SerializeToString()
        return answer


def serve() -> None:
    uvloop.run(_serve())


async def _serve() -> None:
    session = make_session(model_bytes())
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Bare(session), "127.0.0.1", 0)
    announce(server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()
