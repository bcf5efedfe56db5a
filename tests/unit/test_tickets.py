"""Tickets: who waits gets the copy or the refusal; who leaves leaves nothing behind."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest

from shoal.domain import commands as do
from shoal.domain import errors
from shoal.domain.errors import (
    DeadlineExceeded,
    LoadFailed,
    ModelNotFound,
    Overloaded,
    ShuttingDown,
)
from shoal.domain.model import Revision
from shoal.domain.signature import Signature
from shoal.node.elsewhere import Elsewhere
from shoal.node.live import LiveCopy, Running
from shoal.node.tickets import Tickets
from shoal.ports import LoadedModel


class _Model:
    signature = Signature((), ())
    platform = "test"
    max_concurrency = 1


def make_copy() -> LiveCopy:
    revision = Revision(id="m@1-0", model="m", version=1, uri="/m", format="python",
                        artifact_digest="sha256:0", files_bytes=1)
    return LiveCopy(revision, cast(LoadedModel, _Model()),
                    Running(ThreadPoolExecutor(1), 1, 0.0, 1))


@pytest.fixture
def abandoned() -> list[int]:
    return []


@pytest.fixture
def tickets(abandoned: list[int]) -> Tickets:
    return Tickets(abandoned.append)


def wait(
    tickets: Tickets, ticket: int, timeout_s: float = 10
) -> asyncio.Task[LiveCopy | Elsewhere | None]:
    return asyncio.create_task(tickets.wait(ticket, timeout_s, "model 'm'"))


async def test_who_waits_gets_the_copy_and_holds_it(
    tickets: Tickets, abandoned: list[int]
) -> None:
    copy = make_copy()
    waiting = wait(tickets, ticket := tickets.issue())
    tickets.answer(ticket, copy)
    assert await waiting is copy
    assert copy.in_flight == 1
    assert len(tickets) == 0
    assert abandoned == []


async def test_an_answer_that_comes_first_waits_too(tickets: Tickets) -> None:
    tickets.answer(ticket := tickets.issue(), None)
    assert await wait(tickets, ticket) is None


async def test_a_refusal_is_raised_as_its_error(tickets: Tickets) -> None:
    waiting = wait(tickets, ticket := tickets.issue())
    tickets.refuse(do.Refuse(ticket, "LOAD_FAILED", "it is broken", 7.0))
    with pytest.raises(LoadFailed, match="it is broken") as error:
        await waiting
    assert error.value.retry_after_s == 7.0


@pytest.mark.parametrize(
    "kind", [LoadFailed, Overloaded, ModelNotFound, errors.TooLarge, errors.Unloaded,
             errors.Thrashing, errors.NoRoom, errors.VersionNotFound],
)
async def test_every_refusal_of_the_core_has_its_error(
    tickets: Tickets, kind: type[errors.ShoalError]
) -> None:
    tickets.refuse(do.Refuse(ticket := tickets.issue(), kind.code, "why"))
    with pytest.raises(kind, match="why"):
        await wait(tickets, ticket)


async def test_after_its_time_a_ticket_is_abandoned(
    tickets: Tickets, abandoned: list[int]
) -> None:
    ticket = tickets.issue()
    with pytest.raises(DeadlineExceeded, match=r"model 'm' was not ready within 0.001 s"):
        await wait(tickets, ticket, 0.001)
    assert abandoned == [ticket]
    assert len(tickets) == 0


async def test_who_leaves_abandons_the_ticket(tickets: Tickets, abandoned: list[int]) -> None:
    waiting = wait(tickets, ticket := tickets.issue())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert abandoned == [ticket]
    assert len(tickets) == 0


async def test_who_leaves_just_when_the_answer_comes_gives_the_copy_back(
    tickets: Tickets, abandoned: list[int]
) -> None:
    copy = make_copy()
    waiting = wait(tickets, ticket := tickets.issue())
    await asyncio.sleep(0)
    tickets.answer(ticket, copy)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert copy.in_flight == 0
    assert abandoned == [], "the core has answered it"
    assert len(tickets) == 0


async def test_a_forgotten_ticket_is_abandoned_once(
    tickets: Tickets, abandoned: list[int]
) -> None:
    ticket = tickets.issue()
    tickets.forget(ticket)
    tickets.forget(ticket)
    assert abandoned == [ticket]


async def test_a_forgotten_refusal_troubles_nobody(
    tickets: Tickets, abandoned: list[int]
) -> None:
    tickets.refuse(do.Refuse(ticket := tickets.issue(), "OVERLOADED", "too many"))
    tickets.forget(ticket)
    assert abandoned == []


async def test_answers_for_nobody_retain_nothing(tickets: Tickets) -> None:
    copy = make_copy()
    tickets.answer(99, copy)
    tickets.refuse(do.Refuse(99, "OVERLOADED", "too many"))
    tickets.forget(ticket := tickets.issue())
    tickets.answer(ticket, copy)
    assert copy.in_flight == 0


async def test_draining_issues_no_more_but_those_that_wait_go_on(tickets: Tickets) -> None:
    waiting = wait(tickets, ticket := tickets.issue())
    tickets.drain()
    with pytest.raises(ShuttingDown, match="ask another one"):
        tickets.issue()
    tickets.answer(ticket, None)
    assert await waiting is None


async def test_closing_refuses_all_that_wait(tickets: Tickets) -> None:
    waiting = [wait(tickets, tickets.issue()) for _ in range(3)]
    await asyncio.sleep(0)
    tickets.close()
    for each in waiting:
        with pytest.raises(ShuttingDown):
            await each
    assert len(tickets) == 0
