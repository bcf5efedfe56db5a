"""Decides when a call is sent, sent again or given up, within one deadline.

Sans-IO: `steps` yields what to do and is sent what came of it; `sync` and `aio` do it. Repeated are
calls that may be, after a lost connection and the statuses 429, 502, 503 and 504, with exponential
waits under full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)
and never less than `Retry-After`. Not repeated is what waiting does not mend, such as a model taken
out of service by hand.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypeVar

from shoal.client.endpoints import Side
from shoal.client.errors import Answer, ConnectionFailed, error_of, retry_after_s
from shoal.domain.errors import (
    DeadlineExceeded,
    LoadFailed,
    ShoalError,
    TooLarge,
    Unloaded,
)

T = TypeVar("T")

_REPEATED_STATUSES: Final = frozenset({429, 502, 503, 504})
_NOT_MENDED_BY_WAITING: Final = (LoadFailed, TooLarge, Unloaded)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request. path: encoded, with its query. repeatable: asking twice does no harm.
    accepts: statuses of 400 and above that are an answer rather than an error."""

    method: str
    side: Side
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    repeatable: bool = True
    accepts: frozenset[int] = frozenset()


# What the SDK's methods are: exchanges out, answers in, a value at the end.
Conversation: TypeAlias = Generator[Exchange, Answer, T]


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how fast calls are repeated.

    attempts: sends of one request at most; 1 repeats nothing.
    base_s: the first wait is at most this, in seconds; each further one at most twice the last.
    max_s: no wait is drawn longer than this, in seconds, though `Retry-After` may ask for more.
    clock: seconds that only grow; random: uniform in [0, 1). Both are arguments for tests.
    """

    attempts: int = 6
    base_s: float = 0.2
    max_s: float = 5.0
    clock: Callable[[], float] = time.monotonic
    random: Callable[[], float] = random.random

    def wait_s(self, attempt: int, asked_s: float | None) -> float:
        """Seconds before the send after the `attempt`-th, counted from 0."""
        ceiling = min(self.max_s, self.base_s * 2.0 ** min(attempt, 32))
        return max(self.random() * ceiling, asked_s or 0.0)


@dataclass(frozen=True, slots=True)
class Send:
    """Send `exchange`; to be answered with the Answer, a ConnectionFailed or, after `timeout_s`
    seconds, a DeadlineExceeded."""

    exchange: Exchange
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Sleep; to be answered with None."""

    seconds: float


Step: TypeAlias = "Send | Wait"
Outcome: TypeAlias = "Answer | ConnectionFailed | DeadlineExceeded | None"


def steps(
    conversation: Conversation[T], retry: Retry, timeout_s: float
) -> Generator[Step, Outcome, T]:
    """Carry a conversation to its end; all of it shares one deadline, `timeout_s` seconds from now.

    An exchange that ends in an error raises it inside the conversation, and here unless the
    conversation goes on.
    """
    deadline = retry.clock() + timeout_s
    reply: Answer | ShoalError | None = None
    while True:
        try:
            if reply is None:
                exchange = next(conversation)
            elif isinstance(reply, Answer):
                exchange = conversation.send(reply)
            else:  # which the conversation may know what to do about
                exchange = conversation.throw(reply)
        except StopIteration as end:
            value: T = end.value
            return value
        try:
            reply = yield from _settle(exchange, retry, deadline, timeout_s)
        except ShoalError as error:
            reply = error


def _settle(
    exchange: Exchange, retry: Retry, deadline: float, timeout_s: float
) -> Generator[Step, Outcome, Answer]:
    """Send until there is an answer to work with."""
    attempt = 0
    while True:
        left_s = deadline - retry.clock()
        if left_s <= 0:
            raise DeadlineExceeded(
                f"{exchange.method} {exchange.path}: the {timeout_s:g} s for the whole call were "
                "over before it was sent; allow more with timeout_s"
            )
        outcome = yield Send(exchange, left_s)
        assert outcome is not None
        if isinstance(outcome, Answer):
            if outcome.status < 300 or outcome.status in exchange.accepts:
                return outcome
            error, asked_s = error_of(outcome), retry_after_s(outcome.headers)
            again = outcome.status in _REPEATED_STATUSES and _may_heal(error)
        else:
            error, asked_s = outcome, None
            again = isinstance(outcome, ConnectionFailed)
        wait_s = retry.wait_s(attempt, asked_s)
        attempt += 1
        if (
            not (again and exchange.repeatable)
            or attempt >= retry.attempts
            or retry.clock() + wait_s >= deadline
        ):
            raise error
        yield Wait(wait_s)


def _may_heal(error: ShoalError) -> bool:
    return not isinstance(error, _NOT_MENDED_BY_WAITING)
