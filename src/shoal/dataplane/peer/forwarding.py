"""Sends requests on to the instances that hold their copies, and sees to how that ends.

Which instances these are, and what follows when one does not answer, is the core's to say. Where it
is known that others have the copy, no task is made. Must not know protocols, nor what is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from math import inf
from random import random
from time import perf_counter
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from shoal.codecs.peer import Lost, Outcome, PeerCall, PeerReply
from shoal.codecs.peer.frames import Data
from shoal.dataplane.peer.link import PeerLink
from shoal.dataplane.peer.refusals import as_miss
from shoal.domain.errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    ShoalError,
    Unreachable,
)
from shoal.domain.events import Miss
from shoal.node.elsewhere import Elsewhere
from shoal.node.instance import Instance
from shoal.node.live import LiveCopy

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")

LOOK_EVERY_S: Final = 1.0  # for requests that wait longer than anybody allowed them in words

_ANSWERED: Final = Outcome.ANSWERED


class Asked(Protocol[T_co]):
    """Something that can only be answered where there is a copy of a model.

    revision: the one for which another instance sent this here; no other may answer, and it goes
    no further. "": a client's own. started: `perf_counter` at its arrival.
    """

    name: str
    version: int | None
    revision: str
    started: float

    def pack(self) -> tuple[int, bytes, Data]:
        """As another instance takes it: the kind of call, its head, its body; see `PeerCall`."""

    def unpack(self, reply: PeerReply) -> tuple[T_co, int]:
        """What another instance answered, for the client, and its status as HTTP has it."""


class Answer(NamedTuple, Generic[T]):
    """Of another instance. status: as HTTP has it. cold: the request waited for a load."""

    answer: T
    status: int
    instance: str
    cold: bool = False


class Links(Protocol):
    """`PeerLinks`, as far as it is needed here."""

    def link(self, instance: str) -> PeerLink | None: ...


class Entry(Protocol[T]):
    """Who has requests forwarded without waiting for them."""

    def answered(self, asked: Asked[T], status: int, instance: str) -> None:
        """Another instance did."""

    def refuse(self, asked: Asked[T], error: ShoalError) -> T:
        """The answer to what fails."""

    def retry(self, asked: Asked[T], miss: Miss) -> Coroutine[Any, Any, T]:
        """The answer to what was forwarded in vain."""


class Sent(asyncio.Future[R]):
    """A request that another instance has. Cancelling it tells that instance.

    allowed_s: for all of it, from its arrival here.
    """

    __slots__ = ("_forwarding", "_link", "_stream", "_timer", "allowed_s", "asked", "instance",
                 "revision")

    def __init__(
        self, forwarding: Forwarding, asked: Asked[Any], revision: str, allowed_s: float
    ) -> None:
        super().__init__()
        self.asked = asked
        self.revision = revision
        self.allowed_s = allowed_s
        self.instance = ""
        self._forwarding = forwarding
        self._link: PeerLink | None = None
        self._stream = 0
        self._timer: asyncio.TimerHandle | None = None

    def on_its_way(self, link: PeerLink, stream: int) -> None:
        self._link = link
        self._stream = stream

    def expire_in(self, left_s: float) -> None:
        self._timer = self.get_loop().call_later(left_s, self.expire)

    @property
    def is_late(self) -> bool:
        return perf_counter() > self.asked.started + self.allowed_s

    def cancel(self, msg: Any = None) -> bool:
        if self.done():
            return False
        self._call_back("cancelled")
        return super().cancel(msg)

    def expire(self) -> None:
        """Its time is over."""
        if not self.done() and self._link is not None:
            self._call_back("late")
            self.failed(too_late(self.asked, self.allowed_s))

    def on_reply(self, reply: PeerReply | Lost) -> None:
        """Called by the link."""
        forwarding = self._forwarding
        self._link = None
        forwarding.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
        try:
            if type(reply) is PeerReply and reply.outcome is _ANSWERED:
                forwarding.outcomes["answered"] += 1
                self.answered(*self.asked.unpack(reply))
                return
            forwarding.count(_outcome(reply))
            trouble = as_miss(reply, self.instance, self.revision)
            if isinstance(trouble, Miss):
                self.missed(trouble)
            else:
                self.failed(trouble)
        except Exception as error:  # noqa: BLE001 - whoever waits reports it
            if not self.done():
                self.set_exception(error)

    def _call_back(self, outcome: str) -> None:
        """Nobody waits for the reply any more."""
        if self._link is not None:
            self._link.cancel(self._stream)
            self._link = None
            self._forwarding.waiting.pop(self, None)
            self._forwarding.count(outcome)
        if self._timer is not None:
            self._timer.cancel()

    # --- ends -----------------------------------------------------------------------------------

    def answered(self, answer: Any, status: int) -> None:
        raise NotImplementedError

    def missed(self, miss: Miss) -> None:
        raise NotImplementedError

    def failed(self, error: ShoalError) -> None:
        raise NotImplementedError


class _Awaited(Sent["Answer[T] | Miss"]):
    """Somebody decides what follows."""

    __slots__ = ()

    def answered(self, answer: T, status: int) -> None:
        self.set_result(Answer(answer, status, self.instance))

    def missed(self, miss: Miss) -> None:
        self.set_result(miss)

    def failed(self, error: ShoalError) -> None:
        self.set_exception(error)


class _Direct(Sent[T]):
    """Becomes the answer, whatever that takes."""

    __slots__ = ("_entry", "_retrying")

    def __init__(
        self, forwarding: Forwarding, asked: Asked[T], revision: str, allowed_s: float,
        entry: Entry[T],
    ) -> None:
        super().__init__(forwarding, asked, revision, allowed_s)
        self._entry = entry
        self._retrying: asyncio.Task[T] | None = None

    def answered(self, answer: T, status: int) -> None:
        self._entry.answered(self.asked, status, self.instance)
        self.set_result(answer)

    def missed(self, miss: Miss) -> None:
        retry = self._entry.retry(self.asked, miss)
        self._retrying = self.get_loop().create_task(retry)
        self._retrying.add_done_callback(self._retried)

    def failed(self, error: ShoalError) -> None:
        self.set_result(self._entry.refuse(self.asked, error))

    def cancel(self, msg: Any = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled and self._retrying is not None:
            self._retrying.cancel()
        return cancelled

    def _retried(self, task: asyncio.Task[T]) -> None:
        if self.done():
            if not task.cancelled():
                task.exception()  # nobody waits for it; asyncio need not complain
        elif task.cancelled():
            super().cancel()
        elif (error := task.exception()) is not None:
            self.set_exception(error)
        else:
            self.set_result(task.result())


class Forwarding:
    """links: to the other instances; None: this one is alone. waiting: what was sent and is not
    answered. outcomes: how requests ended, as metrics name it."""

    def __init__(self, instance: Instance, links: Links | None) -> None:
        self.waiting: Final[dict[Sent[Any], None]] = {}
        self._instance = instance
        self._links = links
        self._default_s = instance.settings.request.timeout_s
        self._metrics = instance.metrics
        self.outcomes: Final = instance.metrics.forwarded
        self._looking = False

    def count(self, outcome: str) -> None:
        self.outcomes[outcome] += 1

    def forward(
        self, asked: Asked[T], there: Elsewhere, allowed_s: float, entry: Entry[T]
    ) -> asyncio.Future[T]:
        """The answer to `asked`, by one of the instances that are `there`, or by whatever comes of
        it. allowed_s: what the client allows; infinite when it says nothing. Raises
        DeadlineExceeded, InvalidRequest."""
        sent = _Direct(self, asked, there.revision, allowed_s, entry)
        miss = self._send(sent, there)
        if miss is not None:
            sent.missed(miss)
        return sent

    async def reach(
        self, asked: Asked[T], timeout_s: float, attempt: int = 0, miss: Miss | None = None
    ) -> LiveCopy | Answer[T]:
        """A copy of this instance, which the caller must `release`, or what another answered.

        attempt, miss: as `Instance.acquire` takes them. Raises what that raises.
        """
        instance = self._instance
        if asked.revision:
            return await instance.acquire_here(asked.revision, timeout_s)
        left_s = timeout_s
        while True:
            if attempt:
                left_s = timeout_s - (perf_counter() - asked.started)
                if left_s <= 0.0:
                    raise too_late(asked, timeout_s)
            found = await instance.acquire(
                asked.name, asked.version, left_s, attempt=attempt, miss=miss
            )
            if attempt:
                self._metrics.forward_retries += 1
            if isinstance(found, LiveCopy):
                return found
            sent: _Awaited[T] = _Awaited(self, asked, found.revision, timeout_s)
            outcome = self._send(sent, found) or await sent
            if not isinstance(outcome, Miss):
                return outcome._replace(cold=not found.ready)
            attempt, miss = attempt + 1, outcome

    def _send(self, sent: Sent[Any], there: Elsewhere) -> Miss | None:
        """None: it is on its way. Raises as `forward`."""
        instance, link = self._choose(there.holders)
        if link is None:
            self.count("unreachable")
            return Miss(instance, there.revision, Unreachable.code,
                        f"instance {instance!r} cannot be reached from this one", 1.0)
        asked, timeout_ms = sent.asked, 0
        if sent.allowed_s == inf:
            sent.allowed_s = self._default_s
        else:
            left_s = sent.allowed_s - (perf_counter() - asked.started)
            if left_s <= 0.0:
                raise too_late(asked, sent.allowed_s)
            timeout_ms = max(int(left_s * 1e3), 1)
        sent.instance = instance
        kind, head, body = asked.pack()
        try:
            stream = link.request(
                PeerCall(kind, there.revision, head, body, timeout_ms), sent.on_reply
            )
        except ValueError as error:
            raise InvalidRequest(
                f"model {asked.name!r} is held by another instance, to which this request cannot "
                f"be passed on: {error}; send less at once, or fewer headers"
            ) from None
        if stream is None:
            self.count("unreachable")
            return Miss(instance, there.revision, Overloaded.code,
                        f"instance {instance!r} takes no more requests from this one for now", 1.0)
        sent.on_its_way(link, stream)
        there.forwards += 1
        self.waiting[sent] = None
        if timeout_ms:
            sent.expire_in(left_s)
        elif not self._looking:
            self._look_later()
        return None

    def _choose(self, holders: tuple[str, ...]) -> tuple[str, PeerLink | None]:
        """Of two at random the one that has less to do; a third only if neither can be reached."""
        links, count = self._links, len(holders)
        if links is None:
            return holders[0], None
        if count == 1:
            return holders[0], links.link(holders[0])
        first = int(random() * count)
        second = (first + 1 + int(random() * (count - 1))) % count
        one, other = links.link(holders[first]), links.link(holders[second])
        if one is None or (other is not None and other.in_flight < one.in_flight):
            first, one = second, other
        if one is None:
            for name in holders:
                if (link := links.link(name)) is not None:
                    return name, link
        return holders[first], one

    # --- lateness -------------------------------------------------------------------------------

    def _look_later(self) -> None:
        self._looking = True
        asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        """End what waits for too long. What has a time of its own has a timer, too."""
        self._looking = False
        for sent in [sent for sent in self.waiting if sent.is_late]:
            sent.expire()
        if self.waiting:
            self._look_later()


def too_late(asked: Asked[Any], allowed_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"model {asked.name!r} did not answer within {allowed_s:g} s; allow it more time, or send "
        "less at once"
    )


def _outcome(reply: PeerReply | Lost) -> str:
    return "lost" if isinstance(reply, Lost) else reply.outcome.name.lower()
