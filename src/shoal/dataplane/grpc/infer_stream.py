"""`ModelStreamInfer`: many inferences at once over one call.

Answers go as they are ready, as Triton's, and have the ids of their requests. What fails is told
within the stream, which goes on. What is in progress is bounded: no more is read beyond.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from math import inf
from time import perf_counter
from typing import Final

from shoal.codecs.v2_proto import RequestReader
from shoal.codecs.v2_proto_answer import ResponseWriter, failed_in_stream
from shoal.dataplane.grpc import statuses
from shoal.dataplane.grpc.calls import StreamedCall, timeout_s
from shoal.dataplane.grpc.message import Data, Reply, Stream
from shoal.dataplane.inference import Inference
from shoal.domain.errors import ShoalError

# Requests are late after their stream is, which cancels them: else chance would say whether its
# client reads of that in the stream or as its status.
_LATER_S: Final = 1.0


class InferStreams:
    """The streams of one server. most: requests of one stream in progress."""

    def __init__(
        self, inference: Inference, reader: RequestReader, writer: ResponseWriter, most: int
    ) -> None:
        self._inference = inference
        self._reader = reader
        self._writer = writer
        self._most = most

    async def handle(self, stream: Stream) -> Reply:
        """Raises what the stream itself is refused with."""
        allowed_s = timeout_s(stream.head, inf)
        deadline = stream.started + allowed_s
        left_s = deadline - perf_counter() if allowed_s < inf else None
        room = asyncio.Semaphore(self._most)
        async with asyncio.timeout(left_s), asyncio.TaskGroup() as waiting:
            while (message := await stream.receive()) is not None:
                answer = self._infer(stream, message, deadline)
                if isinstance(answer, list):
                    await stream.send(answer)
                else:
                    await room.acquire()
                    waiting.create_task(_answer(stream, answer, room))
        return statuses.shutting_down() if stream.draining else Reply()

    def _infer(
        self, stream: Stream, message: Data, deadline: float
    ) -> list[Data] | Awaitable[list[Data]]:
        try:
            received = self._reader.read(message)
        except ShoalError as error:
            self._inference.count_unreached("grpc", error)
            return [*failed_in_stream(error.message, None)]
        call = StreamedCall(stream.head, received, self._writer, deadline + _LATER_S)
        if self._inference.logs:
            _ = call.request_id  # from here on it has one, here and where it is sent on to
        return self._inference.infer(call)


async def _answer(
    stream: Stream, answer: Awaitable[list[Data]], room: asyncio.Semaphore
) -> None:
    try:
        await stream.send(await answer)
    finally:
        room.release()
