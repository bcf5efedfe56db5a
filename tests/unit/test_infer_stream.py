"""Streams of inferences, without sockets and models."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import inf
from time import perf_counter
from typing import Any, cast

import pytest
from tests import grpc_requests

from shoal.codecs.v2_proto import RequestReader
from shoal.codecs.v2_proto_answer import ResponseWriter
from shoal.dataplane.grpc.calls import StreamedCall
from shoal.dataplane.grpc.infer_stream import InferStreams
from shoal.dataplane.grpc.message import Data, Head, Method, Streaming
from shoal.dataplane.inference import Inference

PATH = "/inference.GRPCInferenceService/ModelStreamInfer"


class LateInference:
    """Answers that a request is late, a little too early, as timers do that count milliseconds."""

    logs = False

    async def infer(self, call: StreamedCall) -> list[Data]:
        await asyncio.sleep(call.timeout_s(inf) - 0.001)
        return [b"it is late"]


class OneMessage:
    """A stream of one message, whose client waits 20 ms."""

    draining = False

    def __init__(self) -> None:
        method: Method = Streaming(PATH, cast(Any, None))
        self.head = Head(PATH, {b"grpc-timeout": b"20m"}, method)
        self.started = perf_counter()
        self.sent: list[Sequence[Data]] = []
        self._messages = [grpc_requests.one("m").SerializeToString()]

    async def receive(self) -> Data | None:
        return self._messages.pop() if self._messages else None

    async def send(self, parts: Sequence[Data]) -> None:
        self.sent.append(parts)

    async def drained(self) -> None:
        await asyncio.Event().wait()


async def test_a_stream_that_is_late_ends_as_such_and_not_its_requests() -> None:
    inference = cast("Inference", LateInference())
    streams = InferStreams(inference, RequestReader(), ResponseWriter(), 10)
    stream = OneMessage()
    with pytest.raises(TimeoutError):
        await streams.handle(stream)
    assert stream.sent == []
