"""What passes between gRPC connections and what they serve: requests, replies, streams, methods."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

import msgspec

from shoal.dataplane.request_ids import HEADER as REQUEST_ID

Data: TypeAlias = "bytes | memoryview"
Metadata: TypeAlias = list[tuple[bytes, bytes]]


class Code(enum.IntEnum):
    """Of a call's status. Source: grpc.io, "Status codes and their use in gRPC"."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Head:
    """What a call's request headers say. Calls with equal ones may share one, so nothing in it
    changes, except that `packed` is kept: it as other instances take it.

    path: such as `/inference.GRPCInferenceService/ModelInfer`. headers: names lower case, the last
    of equal names wins; without pseudo-headers. method: what is served there. timeout: the value of
    `grpc-timeout`. encoding: of the client's messages; answers: of ours. plain: nothing is left to
    do for an answer that succeeded. unary: what handles its one message, of a unary method.
    """

    __slots__ = (
        "answers", "encoding", "headers", "method", "packed", "path", "plain", "timeout", "unary",
    )

    def __init__(self, path: str, headers: dict[bytes, bytes], method: Method) -> None:
        self.path = path
        self.headers = headers
        self.method = method
        self.unary = method.handle if type(method) is Unary else None
        self.timeout = headers.get(b"grpc-timeout")
        self.encoding = headers.get(b"grpc-encoding", b"identity")
        accepted = headers.get(b"grpc-accept-encoding", b"").replace(b" ", b"").split(b",")
        # Packed answers go to who packs its requests: most clients offer it with every call.
        self.answers = self.encoding if self.encoding in accepted else b"identity"
        self.plain = self.answers == b"identity" and REQUEST_ID not in headers
        self.packed: bytes | None = None


class Request(msgspec.Struct):
    """A call with its one message, decompressed. started: `perf_counter` at its arrival."""

    head: Head
    message: Data
    started: float
    request_id: str | None = None  # once it has one


class Reply(msgspec.Struct):
    """The end of a call. parts: of its message, in order; of a call that failed, none, nor of one
    whose messages went ahead. metadata: trailing, lower-case ASCII names, printable values. packed:
    do the parts have the message's prefix already?"""

    parts: Sequence[Data] = ()
    code: Code = Code.OK
    message: str = ""
    metadata: Metadata = []
    packed: bool = False


class Stream(Protocol):
    """A call of which several messages come, or go."""

    head: Head
    started: float

    @property
    def draining(self) -> bool:
        """The server ends: finish what came, then end."""

    async def receive(self) -> Data | None:
        """The next message, decompressed; None when no more will come, be it that the client sent
        its last or that the server ends. Raises InvalidRequest for what is no message."""

    async def send(self, parts: Sequence[Data]) -> None:
        """Returns when the client takes more."""

    async def drained(self) -> None:
        """Returns when the server ends."""


class Unary(msgspec.Struct, frozen=True):
    """A method that answers one message with one."""

    path: str
    handle: Callable[[Request], Reply | Awaitable[Reply]]


class Streaming(msgspec.Struct, frozen=True):
    """A method that takes or gives a stream of messages; its end is the returned reply."""

    path: str
    handle: Callable[[Stream], Awaitable[Reply]]


Method: TypeAlias = Unary | Streaming
