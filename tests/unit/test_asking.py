"""Questions to other instances: answers, refusals, and what is said of those who do not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from shoal.codecs.peer import MANAGEMENT, Lost, OnReply, Outcome, PeerCall, PeerReply
from shoal.domain.errors import Conflict, LoadFailed, Overloaded, Unreachable
from shoal.node.asking import REFUSED, Asking
from shoal.node.questions import AwaitCopy, Question, Refusal, TellLoaded


class FakeLink:
    """answer: what comes of a call; None: nothing does."""

    def __init__(self, answer: Callable[[PeerCall], PeerReply | Lost | None], takes: bool = True
                 ) -> None:
        self.calls: list[PeerCall] = []
        self.called = asyncio.Event()
        self.cancelled: list[int] = []
        self._answer = answer
        self._takes = takes

    def request(self, call: PeerCall, on_reply: OnReply) -> int | None:
        if not self._takes:
            return None
        self.calls.append(call)
        self.called.set()
        reply = self._answer(call)
        if reply is not None:
            asyncio.get_running_loop().call_soon(on_reply, reply)
        return len(self.calls)

    def cancel(self, stream: int) -> None:
        self.cancelled.append(stream)


class FakeLinks(dict[str, FakeLink]):
    def link(self, instance: str) -> FakeLink | None:
        return self.get(instance)


def says(value: object) -> FakeLink:
    body = msgspec.msgpack.encode(value)
    return FakeLink(lambda _: PeerReply(Outcome.ANSWERED, b"", [body]))


def replies(reply: PeerReply | Lost | None) -> FakeLink:
    return FakeLink(lambda _: reply)


def asking(**links: FakeLink) -> Asking:
    return Asking(FakeLinks(links))


async def test_an_answer_is_read_as_what_was_asked_for() -> None:
    link = says(["m"])
    assert await asking(b=link).one("b", TellLoaded(), list[str], within_s=1.5) == ["m"]
    [call] = link.calls
    assert (call.kind, call.timeout_ms) == (MANAGEMENT, 1500)
    assert msgspec.msgpack.decode(call.body, type=Question) == TellLoaded()
    assert link.cancelled == []


@pytest.mark.parametrize(
    "error", [LoadFailed("it is torn", 3.0), Conflict("it is taken"), Overloaded("too much", 1.0)],
    ids=lambda error: error.code,
)
async def test_a_refusal_is_raised_as_the_error_it_is(error: LoadFailed) -> None:
    body = msgspec.msgpack.encode(Refusal.of(error))
    links = asking(b=replies(PeerReply(Outcome.ANSWERED, REFUSED, [body])))
    with pytest.raises(type(error)) as raised:
        await links.one("b", AwaitCopy("m@1-0", 1.0), type(None))
    assert raised.value.message == error.message
    assert vars(raised.value) == vars(error)


@pytest.mark.parametrize(
    ("link", "why"),
    [
        (replies(Lost(True, "the link broke")), "does not answer: the link broke"),
        (replies(PeerReply(Outcome.MISS)), "does not know the question"),
        (replies(PeerReply(Outcome.FAILED, b"", [b"it failed"])), "it failed"),
        (replies(PeerReply(Outcome.REFUSED, b"", [b"it is leaving"])), "it is leaving"),
        (says({"other": 1}), "is not understood"),
        (FakeLink(lambda _: None, takes=False), "it is leaving, or too busy"),
    ],
    ids=["lost", "unknown", "failed", "refused", "misread", "not-taken"],
)
async def test_who_does_not_answer_is_unreachable_and_it_is_said_why(
    link: FakeLink, why: str
) -> None:
    with pytest.raises(Unreachable, match="'b'") as raised:
        await asking(b=link).one("b", TellLoaded(), list[str])
    assert why in raised.value.message


async def test_without_a_link_nobody_is_waited_for() -> None:
    with pytest.raises(Unreachable, match="no connection to it"):
        await asking().one("b", TellLoaded(), list[str])


async def test_who_is_silent_is_given_up_and_told_so() -> None:
    link = replies(None)
    with pytest.raises(Unreachable, match=r"nothing came in 0\.01 s"):
        await asking(b=link).one("b", TellLoaded(), list[str], within_s=0.01)
    assert link.cancelled == [1]


async def test_all_are_asked_at_once_and_what_is_missing_is_a_problem() -> None:
    silent = replies(None)
    answers = await asking(b=says(["m"]), c=silent, d=replies(Lost(False, "it broke"))).all(
        ["b", "c", "d"], TellLoaded(), list[str], within_s=0.01)
    assert answers.given == {"b": ["m"]}
    assert answers.problems == [
        "instance 'c' does not answer: nothing came in 0.01 s; what it alone knows is missing here",
        "instance 'd' does not answer: it broke; what it alone knows is missing here",
    ]
    assert silent.cancelled == [1]


async def test_who_stops_waiting_cancels_the_questions() -> None:
    link = replies(None)
    task = asyncio.create_task(asking(b=link).all(["b"], TellLoaded(), list[str], within_s=60.0))
    await link.called.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert link.cancelled == [1]


async def test_nobody_to_ask_is_no_wait() -> None:
    answers = await asking().all([], TellLoaded(), list[str], within_s=60.0)
    assert (answers.given, answers.problems) == ({}, [])
