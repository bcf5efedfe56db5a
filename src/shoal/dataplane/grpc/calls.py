"""An inference over gRPC: its bytes in and out."""

from __future__ import annotations

import re
from time import perf_counter
from typing import Final

from shoal.codecs import v2_proto
from shoal.codecs.message import InferRequest, InferResponse
from shoal.codecs.peer import GRPC, PeerReply
from shoal.codecs.v2_proto_answer import ResponseWriter, failed_in_stream, in_stream
from shoal.dataplane import request_ids
from shoal.dataplane.grpc import peer_form, statuses
from shoal.dataplane.grpc.message import Code, Data, Head, Reply, Request
from shoal.dataplane.inference import LONGEST_TIMEOUT_S
from shoal.domain.errors import DeadlineExceeded, InvalidRequest, ShoalError
from shoal.domain.signature import Signature

MODEL_INFER: Final = "/inference.GRPCInferenceService/ModelInfer"

_TIMEOUT: Final = re.compile(rb"(\d{1,8})([HMSmun])")
_UNITS_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class InferCall:
    """`ModelInfer`: a `dataplane.inference.Call`."""

    __slots__ = (
        "_received", "_request", "_writer", "name", "size_bytes", "started", "version",
    )
    protocol = "grpc"
    revision = origin = ""

    def __init__(
        self, request: Request, received: v2_proto.Received, writer: ResponseWriter
    ) -> None:
        head = received.head
        self.name = head.model
        self.version = head.version
        self.size_bytes = len(received.data)
        self.started = request.started
        self._request = request
        self._received = received
        self._writer = writer

    @property
    def request_id(self) -> str:
        return request_id(self._request)

    def decode(self, signature: Signature) -> InferRequest:
        if self._request.head.timeout is not None:
            timeout_s(self._request.head, 0.0)
        return v2_proto.decode(self._received)

    def encode(self, response: InferResponse, request: InferRequest) -> Reply:
        return Reply(self._writer.write(response, typed=self._received.typed))

    def refuse(self, error: ShoalError) -> Reply:
        return statuses.of_error(error, self.request_id)

    def timeout_s(self, default_s: float) -> float:
        return timeout_s(self._request.head, default_s)

    def pack(self) -> tuple[int, bytes, Data]:
        request = self._request
        head = peer_form.pack_head(request.head, MODEL_INFER, request.request_id)
        return GRPC, head, self._received.data

    def unpack(self, reply: PeerReply) -> tuple[Reply, int]:
        return peer_form.unpack_reply(reply)


class StreamedCall:
    """One request of a `ModelStreamInfer`: what fails is told within the stream, which goes on. The
    stream's timeout is of the whole, so each request has what is left of it."""

    __slots__ = (
        "_deadline", "_head", "_received", "_request_id", "_writer", "name", "size_bytes",
        "started", "version",
    )
    protocol = "grpc"
    revision = origin = ""

    def __init__(
        self, head: Head, received: v2_proto.Received, writer: ResponseWriter, deadline: float
    ) -> None:
        """deadline: by `perf_counter`; infinite without one."""
        self.started = perf_counter()
        self.name = received.head.model
        self.version = received.head.version
        self.size_bytes = len(received.data)
        self._deadline = deadline
        self._head = head
        self._received = received
        self._request_id: str | None = None  # once it has one
        self._writer = writer

    @property
    def request_id(self) -> str:
        """The stream's, which many requests may have; else a new one."""
        if self._request_id is None:
            given = request_ids.usable(self._head.headers.get(request_ids.HEADER))
            self._request_id = given or request_ids.make()
        return self._request_id

    def decode(self, signature: Signature) -> InferRequest:
        return v2_proto.decode(self._received)

    def encode(self, response: InferResponse, request: InferRequest) -> list[Data]:
        return [*in_stream(self._writer.write(response, typed=self._received.typed))]

    def refuse(self, error: ShoalError) -> list[Data]:
        return [*failed_in_stream(error.message, self._received.id)]

    def timeout_s(self, default_s: float) -> float:
        return min(default_s, max(self._deadline - self.started, 0.0))

    def pack(self) -> tuple[int, bytes, Data]:
        head = peer_form.pack_head(self._head, MODEL_INFER, self._request_id)
        return GRPC, head, self._received.data

    def unpack(self, reply: PeerReply) -> tuple[list[Data], int]:
        answer, status = peer_form.unpack_reply(reply)
        if answer.code is not Code.OK:
            return [*failed_in_stream(answer.message, self._received.id)], status
        return [*in_stream(list(answer.parts))], status


class Question:
    """What is asked about a model, not of it: a `dataplane.peer.forwarding.Asked`. Its answers end
    calls that succeeded; what fails is raised."""

    def __init__(
        self, request: Request, name: str = "", version: int | None = None, revision: str = ""
    ) -> None:
        self.started = request.started
        self.name = name
        self.version = version
        self.revision = revision
        self._request = request

    def pack(self) -> tuple[int, bytes, Data]:
        request = self._request
        head = peer_form.pack_head(request.head, request.head.path, request.request_id)
        return GRPC, head, request.message

    def unpack(self, reply: PeerReply) -> tuple[Reply, int]:
        return peer_form.unpack_reply(reply)


def timeout_s(head: Head, default_s: float) -> float:
    """Seconds that a call may take in all: what its client says in `grpc-timeout`, else
    `default_s`.

    Raises InvalidRequest for what is no timeout, DeadlineExceeded for 0.
    """
    given = head.timeout
    if given is None:
        return default_s
    match = _TIMEOUT.fullmatch(given)
    if match is None:
        raise InvalidRequest(
            f"grpc-timeout is {given[:40].decode('latin-1')!r}; it must be 1 to 8 digits and a "
            "unit: H, M, S, m, u or n"
        )
    seconds = int(match[1]) * _UNITS_S[match[2]]
    if seconds == 0:
        raise DeadlineExceeded("grpc-timeout is 0: no time is left; allow the call more")
    return min(seconds, LONGEST_TIMEOUT_S)


def request_id(request: Request) -> str:
    """The client's, when it is fit for that, else a new one, which the call has from now on."""
    if request.request_id is None:
        given = request_ids.usable(request.head.headers.get(request_ids.HEADER))
        request.request_id = given or request_ids.make()
    return request.request_id
