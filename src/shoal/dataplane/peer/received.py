"""Requests that other instances sent here: answered by the copy that they ask for, or given back.

They go no further. What is wrong with a request is its answer; what another instance may do better
is told to the one that sent it. Must not know protocols.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from shoal.codecs.message import InferRequest, InferResponse
from shoal.codecs.peer import Outcome, PeerCall, PeerReply
from shoal.codecs.peer.frames import Data
from shoal.dataplane.inference import Call
from shoal.dataplane.peer.refusals import refusal
from shoal.dataplane.peer.served import Handler
from shoal.domain.errors import ShoalError, Unavailable
from shoal.domain.signature import Signature

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """How a protocol's answers, which are of the type `answer`, pass between instances."""

    answer: type[T]
    pack: Callable[[T], PeerReply]


class ReceivedCall(Generic[T]):
    """An inference that `peer` asks for: a `Call` whose answers are what it gets back.

    call: the same as its protocol sees it. outcomes: counts of how such requests end.
    """

    __slots__ = (
        "_call", "_form", "_outcomes", "name", "origin", "protocol", "revision", "started",
        "version",
    )

    def __init__(
        self, call: Call[T], form: Form[T], peer: PeerCall, outcomes: dict[str, int]
    ) -> None:
        self.name = call.name
        self.version = call.version
        self.protocol = call.protocol
        self.started = call.started
        self.revision = peer.revision
        self.origin = peer.peer
        self._call = call
        self._form = form
        self._outcomes = outcomes

    @property
    def request_id(self) -> str:
        return self._call.request_id

    @property
    def size_bytes(self) -> int:
        return self._call.size_bytes

    def decode(self, signature: Signature) -> InferRequest:
        return self._call.decode(signature)

    def encode(
        self, response: InferResponse, request: InferRequest
    ) -> PeerReply | Awaitable[PeerReply]:
        answer = self._call.encode(response, request)
        self._outcomes["answered"] += 1
        if isinstance(answer, self._form.answer):
            return self._form.pack(answer)
        assert isinstance(answer, Awaitable)
        return self._pack_later(answer)

    def refuse(self, error: ShoalError) -> PeerReply:
        reply = refused(error, self._outcomes)
        return self._form.pack(self._call.refuse(error)) if reply is None else reply

    def timeout_s(self, default_s: float) -> float:
        return self._call.timeout_s(default_s)

    def pack(self) -> tuple[int, bytes, Data]:
        raise AssertionError("what another instance sent goes no further")

    def unpack(self, reply: PeerReply) -> tuple[PeerReply, int]:
        raise AssertionError("what another instance sent goes no further")

    async def _pack_later(self, answer: Awaitable[T]) -> PeerReply:
        return self._form.pack(await answer)


def refused(error: ShoalError, outcomes: dict[str, int]) -> PeerReply | None:
    """What another instance is told when a request failed so that it should look elsewhere; None
    when `error` is the answer. Counted either way."""
    reply = refusal(error)
    outcome = Outcome.ANSWERED if reply is None else reply.outcome
    outcomes[outcome.name.lower()] += 1
    return reply


def by_kind(handlers: Mapping[int, Handler], outcomes: dict[str, int]) -> Handler:
    """A handler for a `PeerServer`, of calls of several kinds."""
    found: Final = dict(handlers)

    def handle(call: PeerCall) -> PeerReply | Awaitable[PeerReply]:
        handler = found.get(call.kind)
        if handler is not None:
            return handler(call)
        error = Unavailable("this instance is of an older release, which does not know the request")
        reply = refused(error, outcomes)
        assert reply is not None
        return reply

    return handle
