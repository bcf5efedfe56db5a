"""How requests are sent on to other instances, and what becomes of them, without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, cast

import pytest

from shoal.codecs.peer import HTTP, Lost, OnReply, Outcome, PeerCall, PeerReply
from shoal.dataplane.peer import forwarding
from shoal.dataplane.peer.forwarding import Answer, Asked, Forwarding
from shoal.dataplane.peer.link import PeerLink
from shoal.domain.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    ShoalError,
    Unreachable,
)
from shoal.domain.events import Miss
from shoal.domain.model import ModelSpec, make_revision
from shoal.domain.signature import Signature
from shoal.node.elsewhere import Elsewhere
from shoal.node.instance import Instance
from shoal.node.live import LiveCopy, Running
from shoal.observability.metrics import Metrics
from shoal.settings import Settings

ANSWERED = PeerReply(Outcome.ANSWERED, b"200", [b"yes"])
GONE = PeerReply(Outcome.MISS)


@dataclass
class FakeLink:
    """takes: None refuses every request."""

    in_flight: int = 0
    takes: int | None = 1
    calls: list[PeerCall] = field(default_factory=list)
    callbacks: list[OnReply] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)

    def request(self, call: PeerCall, on_reply: OnReply) -> int | None:
        if len(call.head) > 100:
            raise ValueError("the head is too long")
        if self.takes is None:
            return None
        self.calls.append(call)
        self.callbacks.append(on_reply)
        return len(self.calls)

    def cancel(self, stream: int) -> None:
        self.cancelled.append(stream)

    def reply(self, reply: PeerReply | Lost) -> None:
        self.callbacks.pop(0)(reply)


@dataclass
class FakeLinks:
    by_name: dict[str, FakeLink]

    def link(self, instance: str) -> PeerLink | None:
        return cast("PeerLink | None", self.by_name.get(instance))


@dataclass
class FakeInstance:
    """acquired: what `acquire` finds, in order. asked: its attempts and misses."""

    acquired: list[Elsewhere | LiveCopy | ShoalError] = field(default_factory=list)
    asked: list[tuple[int, Miss | None, float]] = field(default_factory=list)
    settings: Settings = field(default_factory=Settings)
    metrics: Metrics = field(default_factory=lambda: Metrics(True, 10))

    async def acquire(self, name: str, version: int | None, timeout_s: float, *, attempt: int,
                      miss: Miss | None) -> Elsewhere | LiveCopy:
        self.asked.append((attempt, miss, timeout_s))
        found = self.acquired.pop(0)
        if isinstance(found, ShoalError):
            raise found
        return found

    async def acquire_here(self, revision: str, timeout_s: float) -> str:
        return f"here: {revision}"


@dataclass
class FakeAsked:
    name: str = "m"
    version: int | None = None
    revision: str = ""
    head: bytes = b"head"
    started: float = field(default_factory=perf_counter)

    def pack(self) -> tuple[int, bytes, bytes]:
        return HTTP, self.head, b"body"

    def unpack(self, reply: PeerReply) -> tuple[str, int]:
        return bytes(reply.body[0]).decode(), int(reply.head)


@dataclass
class FakeEntry:
    """retries: what a retry gives; None waits for ever."""

    counted: list[tuple[int, str]] = field(default_factory=list)
    misses: list[Miss] = field(default_factory=list)
    retried: str | Exception | None = "at last"
    gave_up: int = 0

    def answered(self, asked: Asked[str], status: int, instance: str) -> None:
        self.counted.append((status, instance))

    def refuse(self, asked: Asked[str], error: ShoalError) -> str:
        return f"{error.code}: {error}"

    async def retry(self, asked: Asked[str], miss: Miss) -> str:
        self.misses.append(miss)
        if isinstance(self.retried, Exception):
            raise self.retried
        if self.retried is None:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                self.gave_up += 1
                raise
        assert self.retried is not None
        return self.retried


class World:
    def __init__(self, *acquired: Elsewhere | LiveCopy | ShoalError, **links: FakeLink) -> None:
        self.links = links
        self.instance = FakeInstance(list(acquired))
        self.entry = FakeEntry()
        self.forwarding = Forwarding(cast(Instance, self.instance), FakeLinks(links))

    def forward(self, *holders: str, allowed_s: float = float("inf"),
                asked: FakeAsked | None = None) -> asyncio.Future[str]:
        there = Elsewhere("m@1", holders)
        return self.forwarding.forward(asked or FakeAsked(), there, allowed_s, self.entry)

    def reach(self, timeout_s: float = 60.0, asked: FakeAsked | None = None
              ) -> asyncio.Task[LiveCopy | Answer[str]]:
        return asyncio.ensure_future(self.forwarding.reach(asked or FakeAsked(), timeout_s))

    @property
    def outcomes(self) -> dict[str, int]:
        return {key: count for key, count in self.instance.metrics.forwarded.items() if count}


async def turns(true: Callable[[], object]) -> None:
    """Let others have turns until something is so."""
    for _ in range(100):
        if true():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not happen")


# --- sent without waiting -----------------------------------------------------------------------


async def test_an_answer_comes_as_it_is_and_without_a_task() -> None:
    b = FakeLink()
    world = World(b=b)
    tasks = len(asyncio.all_tasks())
    coming = world.forward("b")
    assert b.calls == [PeerCall(HTTP, "m@1", b"head", b"body")]
    b.reply(ANSWERED)
    assert coming.result() == "yes"
    assert world.entry.counted == [(200, "b")]
    assert len(asyncio.all_tasks()) == tasks
    assert world.outcomes == {"answered": 1}
    assert not world.forwarding.waiting


async def test_every_request_sent_on_the_word_of_a_hint_is_counted_there() -> None:
    world = World(b=FakeLink())
    there = Elsewhere("m@1", ("b",))
    for _ in range(3):
        world.forwarding.forward(FakeAsked(), there, 1.0, world.entry).cancel()
    assert there.forwards == 3


async def test_of_two_instances_the_one_with_less_to_do_is_asked() -> None:
    busy, idle = FakeLink(in_flight=9), FakeLink()
    world = World(busy=busy, idle=idle)
    for _ in range(20):
        world.forward("busy", "idle")
    assert (len(busy.calls), len(idle.calls)) == (0, 20)


async def test_of_many_instances_all_get_something_and_the_busiest_nothing() -> None:
    links = {f"n{number}": FakeLink() for number in range(4)}
    links["n0"].in_flight = 9
    world = World(**links)
    for _ in range(200):
        world.forward(*links)
    counts = [len(link.calls) for link in links.values()]
    assert counts[0] == 0
    assert all(counts[1:])


async def test_an_instance_that_cannot_be_reached_is_passed_over() -> None:
    c = FakeLink()
    world = World(c=c)
    for _ in range(20):
        world.forward("a", "b", "c", "d")
    assert len(c.calls) == 20


async def test_when_none_can_be_reached_it_is_looked_for_anew_at_once() -> None:
    world = World()
    assert await world.forward("b") == "at last"
    (miss,) = world.entry.misses
    assert (miss.instance, miss.revision, miss.code, miss.lost) == (
        "b", "m@1", "UNREACHABLE", False)
    assert world.outcomes == {"unreachable": 1}


async def test_a_link_that_takes_no_more_is_a_miss_too() -> None:
    world = World(b=FakeLink(takes=None))
    assert await world.forward("b") == "at last"
    assert world.entry.misses[0].code == "OVERLOADED"


@pytest.mark.parametrize(("reply", "outcome", "code", "lost"), [
    (GONE, "miss", "COPY_GONE", False),
    (PeerReply(Outcome.REFUSED), "refused", "UNAVAILABLE", False),
    (Lost(True, "cut"), "lost", "UNREACHABLE", True),
    (Lost(False, "cut"), "lost", "UNREACHABLE", False),
], ids=["miss", "refused", "lost", "unwritten"])  # fmt: skip
async def test_what_is_not_answered_is_looked_for_anew(
    reply: PeerReply | Lost, outcome: str, code: str, lost: bool
) -> None:
    b = FakeLink()
    world = World(b=b)
    coming = world.forward("b")
    b.reply(reply)
    assert await coming == "at last"
    assert [(miss.code, miss.lost) for miss in world.entry.misses] == [(code, lost)]
    assert world.outcomes == {outcome: 1}


async def test_a_defect_there_ends_the_request() -> None:
    b = FakeLink()
    world = World(b=b)
    coming = world.forward("b")
    b.reply(PeerReply(Outcome.FAILED))
    assert coming.result().startswith("INTERNAL: ")
    assert world.entry.misses == []


async def test_an_answer_that_is_not_understood_is_an_error_and_not_silence() -> None:
    b = FakeLink()
    coming = World(b=b).forward("b")
    b.reply(PeerReply(Outcome.ANSWERED, b"no number", [b"x"]))
    with pytest.raises(ValueError, match="no number"):
        coming.result()


async def test_what_a_link_cannot_carry_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="the head is too long; send less"):
        World(b=FakeLink()).forward("b", asked=FakeAsked(head=bytes(200)))


# --- clients that leave -------------------------------------------------------------------------


async def test_when_the_client_leaves_the_other_instance_is_told() -> None:
    b = FakeLink()
    world = World(b=b)
    coming = world.forward("b")
    assert coming.cancel()
    assert b.cancelled == [1]
    assert world.outcomes == {"cancelled": 1}
    assert not world.forwarding.waiting
    b.reply(ANSWERED)  # nothing happens
    assert not coming.cancel()


async def test_when_the_client_leaves_during_a_retry_that_ends() -> None:
    world = World()
    world.entry.retried = None
    coming = world.forward("b")
    await turns(lambda: world.entry.misses)
    assert coming.cancel()
    await turns(lambda: world.entry.gave_up)


async def test_a_retry_that_breaks_is_reported_where_its_answer_is_awaited() -> None:
    world = World()
    world.entry.retried = RuntimeError("a defect")
    with pytest.raises(RuntimeError, match="a defect"):
        await world.forward("b")


async def test_a_retry_that_breaks_when_its_client_has_left_is_forgotten() -> None:
    world = World()
    world.entry.retried = RuntimeError("a defect")
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    coming = world.forward("b")
    await turns(lambda: world.entry.misses)
    coming.cancel()
    del coming
    await asyncio.sleep(0)
    assert complaints == []


# --- time ---------------------------------------------------------------------------------------


async def test_the_time_that_is_left_is_sent_along() -> None:
    b = FakeLink()
    World(b=b).forward("b", allowed_s=10.0, asked=FakeAsked(started=perf_counter() - 4.0)).cancel()
    assert 5800 < b.calls[0].timeout_ms <= 6000


async def test_nothing_is_sent_when_no_time_is_left() -> None:
    b = FakeLink()
    with pytest.raises(DeadlineExceeded, match="did not answer within 1 s"):
        World(b=b).forward("b", allowed_s=1.0, asked=FakeAsked(started=perf_counter() - 4.0))
    assert b.calls == []


async def test_a_request_whose_time_ends_is_answered_and_called_back() -> None:
    b = FakeLink()
    world = World(b=b)
    answer = await world.forward("b", allowed_s=0.003)
    assert answer == ("DEADLINE_EXCEEDED: model 'm' did not answer within 0.003 s; allow it more "
                      "time, or send less at once")
    assert b.cancelled == [1]
    assert world.outcomes == {"late": 1}


async def test_what_waits_beyond_the_default_time_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "LOOK_EVERY_S", 0.001)
    b = FakeLink()
    world = World(b=b)
    old = world.forward("b", asked=FakeAsked(started=perf_counter() - 61.0))
    new = world.forward("b")
    assert (await old).startswith("DEADLINE_EXCEEDED")
    assert b.calls[0].timeout_ms == 0
    assert not new.done()
    new.cancel()


# --- reached by somebody who waits --------------------------------------------------------------


async def test_what_another_instance_answers_is_found() -> None:
    b = FakeLink()
    world = World(Elsewhere("m@1", ("b",)), b=b)
    task = world.reach()
    await turns(lambda: b.calls)
    b.reply(ANSWERED)
    assert await task == Answer("yes", 200, "b")
    assert [(attempt, miss) for attempt, miss, _ in world.instance.asked] == [(0, None)]
    assert world.instance.metrics.forward_retries == 0


async def test_it_goes_on_with_what_the_core_says_after_each_miss() -> None:
    b, c = FakeLink(), FakeLink()
    with ThreadPoolExecutor(1) as pool:
        copy = copy_of(pool)
        world = World(Elsewhere("m@1", ("b",)), Elsewhere("m@2", ("c",)), copy, b=b, c=c)
        task = world.reach()
        await turns(lambda: b.calls)
        b.reply(GONE)
        await turns(lambda: c.calls)
        c.reply(Lost(True, "cut"))
        assert await task is copy
    told = [(attempt, miss and (miss.instance, miss.code, miss.lost))
            for attempt, miss, _ in world.instance.asked]
    assert told == [(0, None), (1, ("b", "COPY_GONE", False)), (2, ("c", "UNREACHABLE", True))]
    assert world.instance.metrics.forward_retries == 2


async def test_what_the_core_refuses_is_raised() -> None:
    b = FakeLink()
    world = World(Elsewhere("m@1", ("b",)), Unreachable("nobody answers"), b=b)
    task = world.reach()
    await turns(lambda: b.calls)
    b.reply(Lost(True, "cut"))
    with pytest.raises(Unreachable, match="nobody answers"):
        await task
    assert world.instance.metrics.forward_retries == 0


async def test_there_is_no_retry_after_the_deadline() -> None:
    world = World(Elsewhere("m@1", ("b",)), ModelNotFound("not asked"))
    with pytest.raises(DeadlineExceeded):
        await world.reach(1.0, FakeAsked(started=perf_counter() - 2.0))
    assert len(world.instance.asked) == 1


async def test_a_deadline_that_passes_there_is_raised_here() -> None:
    b = FakeLink()
    world = World(Elsewhere("m@1", ("b",)), b=b)
    with pytest.raises(DeadlineExceeded, match=r"within 0\.005 s"):
        await world.reach(0.005)
    assert b.cancelled == [1]


async def test_who_stops_waiting_calls_the_request_back() -> None:
    b = FakeLink()
    world = World(Elsewhere("m@1", ("b",)), b=b)
    task = world.reach()
    await turns(lambda: b.calls)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert b.cancelled == [1]


async def test_what_another_instance_sent_goes_no_further() -> None:
    world = World()
    found: object = await world.reach(asked=FakeAsked(revision="m@1"))
    assert found == "here: m@1"
    assert world.instance.asked == []


async def test_an_instance_alone_reaches_nobody() -> None:
    instance = FakeInstance([Elsewhere("m@1", ("b",)), Unreachable("so it is")])
    alone = Forwarding(cast(Instance, instance), None)
    with pytest.raises(Unreachable, match="so it is"):
        await alone.reach(FakeAsked(), 1.0)


def copy_of(pool: ThreadPoolExecutor) -> LiveCopy:
    revision = make_revision(ModelSpec(name="m", uri="/m"), version=1, uri="/m", format="fake",
                             artifact_digest="", files_bytes=0)
    return LiveCopy(revision, cast(Any, FakeModel()), Running(pool, 1, 1.0, 1))


class FakeModel:
    platform = "fake"
    max_concurrency = 1
    may_wait = False
    signature = Signature((), ())
