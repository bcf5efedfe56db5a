"""What an instance says to another that sent it a request: an answer, or that it look elsewhere."""

from __future__ import annotations

from time import perf_counter
from typing import Any, cast

import pytest

from shoal.codecs.message import InferRequest, InferResponse
from shoal.codecs.peer import GRPC, HTTP, Outcome, PeerCall, PeerReply
from shoal.dataplane.inference import Call
from shoal.dataplane.peer.received import Form, ReceivedCall, by_kind
from shoal.domain.errors import (
    CopyGone,
    DeadlineExceeded,
    InvalidInput,
    LoadFailed,
    ModelFailed,
    NoRoom,
    Overloaded,
    ShoalError,
    ShuttingDown,
    Thrashing,
    TooLarge,
)
from shoal.observability.metrics import RECEIVED


class InText:
    """A call whose answers are text. later: they are packed on a thread."""

    name = "m"
    version = 3
    protocol = "v2"
    request_id = "7"
    size_bytes = 12
    later = False

    def __init__(self) -> None:
        self.started = perf_counter()

    def encode(self, response: InferResponse, request: InferRequest) -> Any:
        return self._packed() if self.later else "well"

    def refuse(self, error: ShoalError) -> str:
        return f"no: {error}"

    async def _packed(self) -> str:
        return "well, at last"


def pack(answer: str) -> PeerReply:
    return PeerReply(Outcome.ANSWERED, b"text", [answer.encode()])


def received(call: InText | None = None) -> tuple[ReceivedCall[str], dict[str, int]]:
    outcomes = dict.fromkeys(RECEIVED, 0)
    peer = PeerCall(HTTP, "m@3-0", b"", b"", peer="there")
    return ReceivedCall(cast("Call[str]", call or InText()), Form(str, pack), peer, outcomes), (
        outcomes
    )


RESPONSE: Any = None


def test_it_is_the_same_call_for_one_revision_and_of_another_instance() -> None:
    call, _ = received()
    assert (call.name, call.version, call.protocol, call.request_id, call.size_bytes) == (
        "m", 3, "v2", "7", 12)
    assert (call.revision, call.origin) == ("m@3-0", "there")


async def test_an_answer_is_packed_now_or_when_it_is_there() -> None:
    call, outcomes = received()
    assert call.encode(RESPONSE, RESPONSE) == pack("well")
    slow = InText()
    slow.later = True
    coming: Any = received(slow)[0].encode(RESPONSE, RESPONSE)
    assert await coming == pack("well, at last")
    assert outcomes == {"answered": 1, "miss": 0, "refused": 0}


@pytest.mark.parametrize("error", [
    LoadFailed("x"), NoRoom("x"), TooLarge("x"), Overloaded("x"), Thrashing("x"), ShuttingDown("x"),
], ids=lambda error: error.code)  # fmt: skip
def test_what_may_go_better_elsewhere_is_refused(error: ShoalError) -> None:
    call, outcomes = received()
    assert call.refuse(error).outcome is Outcome.REFUSED
    assert outcomes == {"answered": 0, "miss": 0, "refused": 1}


def test_a_copy_that_is_not_here_is_a_miss() -> None:
    call, outcomes = received()
    assert call.refuse(CopyGone("x")) == PeerReply(Outcome.MISS)
    assert outcomes == {"answered": 0, "miss": 1, "refused": 0}


@pytest.mark.parametrize("error", [
    InvalidInput("x"), ModelFailed("x"), DeadlineExceeded("x"),
], ids=lambda error: error.code)  # fmt: skip
def test_what_is_wrong_with_the_request_is_its_answer(error: ShoalError) -> None:
    call, outcomes = received()
    assert call.refuse(error) == pack("no: x")
    assert outcomes == {"answered": 1, "miss": 0, "refused": 0}


def test_what_another_instance_sent_is_not_sent_on() -> None:
    call, _ = received()
    with pytest.raises(AssertionError):
        call.pack()
    with pytest.raises(AssertionError):
        call.unpack(pack("x"))


def test_calls_go_to_the_handler_of_their_kind_and_those_of_tomorrow_elsewhere() -> None:
    outcomes = dict.fromkeys(RECEIVED, 0)
    handle = by_kind({HTTP: lambda call: pack("http"), GRPC: lambda call: pack("grpc")}, outcomes)
    assert handle(PeerCall(GRPC, "m@3-0", b"", b"")) == pack("grpc")
    reply = handle(PeerCall(77, "m@3-0", b"", b""))
    assert isinstance(reply, PeerReply)
    assert reply.outcome is Outcome.REFUSED
    assert outcomes["refused"] == 1
