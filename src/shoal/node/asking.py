"""Asks other instances, over their links, for what only they know; each has a short time.

Who does not answer costs nobody else: what is missing is told as a problem. Must not know what is
asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from shoal.codecs import foreign
from shoal.codecs.peer import MANAGEMENT, Lost, OnReply, Outcome, PeerCall, PeerReply
from shoal.domain.errors import ShoalError, Unreachable
from shoal.node.questions import Question, Refusal

PATIENCE_S: Final = 2.0  # for an answer that takes no work
REFUSED: Final = b"refused"  # head of a reply whose body says why there is no answer

_MOST_MS: Final = 2**32 - 1  # that a frame can say

_ENCODER: Final = msgspec.msgpack.Encoder()

T = TypeVar("T")


class Link(Protocol):
    """See `dataplane.peer.PeerLink`."""

    def request(self, call: PeerCall, on_reply: OnReply) -> int | None: ...

    def cancel(self, stream: int) -> None: ...


class Links(Protocol):
    """See `dataplane.peer.PeerLinks`."""

    def link(self, instance: str) -> Link | None: ...


@dataclass(frozen=True, slots=True)
class Answers(Generic[T]):
    """given: by instance. problems: why those of others are missing, in sentences."""

    given: dict[str, T]
    problems: list[str]


class _Pending:
    """A question on its way. reply: becomes what came of it."""

    def __init__(self, links: Links, instance: str, call: PeerCall) -> None:
        self.reply: asyncio.Future[PeerReply | Lost] = asyncio.get_running_loop().create_future()
        self._link = links.link(instance)
        self._stream: int | None = None
        self._over = False
        if self._link is None:
            self._came(Lost(False, "there is no connection to it"))
            return
        self._stream = self._link.request(call, self._came)
        if self._stream is None:
            self._came(Lost(False, "it is leaving, or too busy"))

    def _came(self, reply: PeerReply | Lost) -> None:
        self._over = True
        if not self.reply.done():
            self.reply.set_result(reply)

    def give_up(self) -> None:
        if not self._over and self._link is not None and self._stream is not None:
            self._link.cancel(self._stream)
        self.reply.cancel()


class Asking:
    """On the event loop."""

    def __init__(self, links: Links) -> None:
        self._links = links

    async def one(
        self, instance: str, question: Question, kind: type[T], within_s: float = PATIENCE_S
    ) -> T:
        """The answer of another instance, a `kind`. Raises Unreachable, and what it refuses with.
        """
        pending = _Pending(self._links, instance, _call(question, within_s))
        try:
            async with asyncio.timeout(within_s):
                return _read(instance, await pending.reply, kind)
        except TimeoutError:
            raise _silent(instance, within_s) from None
        finally:
            pending.give_up()

    async def all(
        self, instances: Iterable[str], question: Question, kind: type[T],
        within_s: float = PATIENCE_S,
    ) -> Answers[T]:
        """Ask all of these at once; none of them may keep the others waiting."""
        call = _call(question, within_s)
        asked = {each: _Pending(self._links, each, call) for each in instances}
        answers: Answers[T] = Answers({}, [])
        if not asked:
            return answers
        try:
            await asyncio.wait([each.reply for each in asked.values()], timeout=within_s)
            for instance, pending in asked.items():
                try:
                    if not pending.reply.done():
                        raise _silent(instance, within_s)
                    answers.given[instance] = _read(instance, pending.reply.result(), kind)
                except ShoalError as error:
                    answers.problems.append(
                        f"{error.message}; what it alone knows is missing here")
        finally:
            for pending in asked.values():
                pending.give_up()
        return answers


def _call(question: Question, within_s: float) -> PeerCall:
    timeout_ms = min(int(within_s * 1e3), _MOST_MS)
    return PeerCall(MANAGEMENT, "", b"", _ENCODER.encode(question), timeout_ms)


def _silent(instance: str, within_s: float) -> Unreachable:
    return Unreachable(f"instance {instance!r} does not answer: nothing came in {within_s:g} s")


def _read(instance: str, reply: PeerReply | Lost, kind: type[T]) -> T:
    if isinstance(reply, Lost):
        raise Unreachable(f"instance {instance!r} does not answer: {reply.why}")
    body = b"".join(reply.body)
    try:
        if reply.outcome is Outcome.ANSWERED and not reply.head:
            return foreign.read(msgspec.msgpack.Decoder(kind), body)
        if reply.outcome is Outcome.ANSWERED and reply.head == REFUSED:
            raise msgspec.msgpack.decode(body, type=Refusal).error()
    except msgspec.DecodeError as error:
        raise Unreachable(
            f"the answer of instance {instance!r} is not understood ({error}); is it of another "
            "release?"
        ) from None
    why = "it does not know the question; is it of another release?"
    if reply.outcome is not Outcome.MISS:
        why = body.decode(errors="replace")
    raise Unreachable(f"instance {instance!r} does not answer: {why}")
