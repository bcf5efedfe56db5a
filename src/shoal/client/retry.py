"""Decides when a call is sent, sent again or given up, within one deadline.

Sans-IO: `steps` yields what to do and is sent what came of it; `sync` and `aio` do it. Repeated are
calls that may be, after a lost connection and the statuses 429, 502, 503 and 504, with exponential
waits under full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)
and never less than `Retry-After`. Not repeated is what waiting does not mend, such as a model taken
out of service by hand.

Where there are several addresses, a call that one of them cannot serve (lost connections, servers
that shut down or cannot reach one they need) goes to the next at once; only when all have been
asked does it wait. Which one is next, `choosing` decides. A request that was never sent, because no
connection came about, is repeated even if it must not run twice.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias, TypeVar

from shoal.client.choosing import Addresses, Turn, Verdict
from shoal.client.endpoints import Side
from shoal.client.errors import (
    Answer,
    ConnectionFailed,
    error_of,
    error_of_all,
    retry_after_s,
)
from shoal.domain.errors import (
    DeadlineExceeded,
    LoadFailed,
    ShoalError,
    ShuttingDown,
    TooLarge,
    Unavailable,
    Unloaded,
    Unreachable,
)

T = TypeVar("T")

_REPEATED_STATUSES: Final = frozenset({429, 502, 503, 504})
_NOT_MENDED_BY_WAITING: Final = (LoadFailed, TooLarge, Unloaded)
_OF_THE_ADDRESS: Final = (ConnectionFailed, ShuttingDown, Unreachable)

# A host that lets connections time out is reported, and tried again, long before the deadline;
# where another address can be asked, sooner, but not before a lost SYN was sent again, after 1 s.
_CONNECT_S: Final = 5.0
_CONNECT_AMONG_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request. path: encoded, with its query. repeatable: asking twice does no harm.
    accepts: statuses of 400 and above that are an answer rather than an error, unless another
    address answers better."""

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

    attempts: how often at most the addresses are gone through, each asked once; with one address
        that many sends of a request. 1 never waits.
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
    """Send `exchange` to the server at `base`; to be answered with the Answer, a ConnectionFailed
    or, after `timeout_s` seconds, a DeadlineExceeded. connect_s: of these, to connect in."""

    exchange: Exchange
    base: str
    timeout_s: float
    connect_s: float

    @property
    def url(self) -> str:
        return self.base + self.exchange.path


@dataclass(frozen=True, slots=True)
class Wait:
    """Sleep; to be answered with None."""

    seconds: float


Step: TypeAlias = "Send | Wait"
Outcome: TypeAlias = "Answer | ConnectionFailed | DeadlineExceeded | None"


@dataclass(frozen=True, slots=True)
class _Terms:
    """What all sends of a call share."""

    retry: Retry
    addresses: Mapping[Side, Addresses]
    timeout_s: float
    deadline: float

    def left_s(self) -> float:
        return self.deadline - self.retry.clock()


@dataclass(frozen=True, slots=True)
class _Failure:
    """asked_s: the server's wish for when to come back. again: repeating is allowed and may help.
    elsewhere: another address may do better, at once."""

    error: ShoalError
    asked_s: float | None
    again: bool
    elsewhere: bool


def steps(
    conversation: Conversation[T],
    retry: Retry,
    addresses: Mapping[Side, Addresses],
    timeout_s: float,
) -> Generator[Step, Outcome, T]:
    """Carry a conversation to its end; all of it shares one deadline, `timeout_s` seconds from now.

    An exchange that ends in an error raises it inside the conversation, and here unless the
    conversation goes on. To be closed when it is not carried to its end.
    """
    terms = _Terms(retry, addresses, timeout_s, retry.clock() + timeout_s)
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
            reply = yield from _settle(exchange, terms)
        except ShoalError as error:
            reply = error


def _settle(exchange: Exchange, terms: _Terms) -> Generator[Step, Outcome, Answer]:
    """Go through the addresses, again and again, until there is an answer to work with."""
    failures: dict[str, Unavailable] = {}
    rounds = 0
    while True:
        end = yield from _round(exchange, terms, failures)
        if isinstance(end, Answer):
            return end
        wait_s = terms.retry.wait_s(rounds, end.asked_s)
        rounds += 1
        if not end.again or rounds >= terms.retry.attempts or wait_s >= terms.left_s():
            if end.elsewhere and len(failures) > 1:
                raise error_of_all(f"{exchange.method} {exchange.path}", failures)
            raise end.error
        yield Wait(wait_s)


def _round(
    exchange: Exchange, terms: _Terms, failures: dict[str, Unavailable]
) -> Generator[Step, Outcome, Answer | _Failure]:
    """Ask one address after the other, as long as the next may do better at once. `failures` keeps
    why each address could not serve the call."""
    addresses = terms.addresses[exchange.side]
    passed: list[str] = []
    asked_s: list[float] = []
    refusal: Answer | None = None  # which the exchange takes for an answer, if nobody says better
    failure: _Failure | None = None
    while terms.left_s() > 0:
        turn = addresses.choose(passed, terms.retry.clock())
        if turn is None:
            break
        passed.append(turn.base)
        came = yield from _send(exchange, turn, terms, len(addresses) - len(passed))
        if isinstance(came, Answer):
            if came.status < 300:
                return came
            refusal = came
            continue
        failure = came
        if not failure.elsewhere:
            break
        assert isinstance(failure.error, Unavailable)
        failures[turn.base] = failure.error
        asked_s.append(failure.asked_s or 0.0)
    if refusal is not None:
        return refusal
    if failure is None:
        raise DeadlineExceeded(
            f"{exchange.method} {exchange.path}: the {terms.timeout_s:g} s for the whole call were "
            "over before it was sent; allow more with timeout_s"
        )
    return replace(failure, asked_s=min(asked_s)) if failure.elsewhere else failure


def _send(
    exchange: Exchange, turn: Turn, terms: _Terms, others: int
) -> Generator[Step, Outcome, Answer | _Failure]:
    """Send once. others: addresses that may be asked afterwards, for which time is left."""
    left_s = terms.left_s()
    connect_s = min(_CONNECT_AMONG_S if others else _CONNECT_S, left_s / (others + 1))
    verdict: Verdict | None = None
    try:
        outcome = yield Send(exchange, turn.base, left_s, connect_s)
        assert outcome is not None
        if isinstance(outcome, DeadlineExceeded):
            verdict = Verdict.OVERDUE
            return _Failure(outcome, None, again=False, elsewhere=False)
        verdict = Verdict.ANSWERED
        if isinstance(outcome, Answer) and (
            outcome.status < 300 or outcome.status in exchange.accepts
        ):
            return outcome
        failure = _failure_of(exchange, outcome)
        if isinstance(failure.error, _OF_THE_ADDRESS):
            verdict = Verdict.FAILED
        return failure
    finally:
        terms.addresses[exchange.side].end(turn, verdict, terms.retry.clock())


def _failure_of(exchange: Exchange, outcome: Answer | ConnectionFailed) -> _Failure:
    if isinstance(outcome, ConnectionFailed):
        again = exchange.repeatable or not outcome.sent
        return _Failure(outcome, None, again, elsewhere=again)
    error = error_of(outcome)
    again = (
        exchange.repeatable
        and outcome.status in _REPEATED_STATUSES
        and not isinstance(error, _NOT_MENDED_BY_WAITING)
    )
    asked_s = retry_after_s(outcome.headers)
    return _Failure(error, asked_s, again, again and isinstance(error, _OF_THE_ADDRESS))
