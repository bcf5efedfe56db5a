"""Decides which of several addresses a request goes to.

Inference is spread: a request goes to the address with the fewest requests of this client in
flight, in turn among equals. So a server that is slow, or waits for a load, gets fewer, which plain
round robin would go on feeding; and a program that asks one thing at a time still goes round.
Management keeps to one address while that answers: what one instance was told, the others learn a
moment later, and each counts its own events.

An address that failed is left out for 0.5 s, twice as long after every further failure, up to 30 s.
Then one request tries it, and the others follow when it has answered. Where nothing else is left,
addresses that are left out are asked all the same.

Sans-IO: `retry` asks, and tells what came of it. Knows neither requests nor errors.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from shoal.client.endpoints import Endpoints, Side

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0


class Verdict(enum.Enum):
    """What a send says about its address."""

    ANSWERED = "answered"
    FAILED = "failed"
    OVERDUE = "overdue"  # bad news of an address that failed before; else the model may be slow


@dataclass(frozen=True, slots=True)
class Turn:
    """One send to one address. outages: those of the address that had been seen when it began."""

    base: str
    index: int
    outages: int
    trial: bool


@dataclass(slots=True)
class _Address:
    base: str
    in_flight: int = 0
    failures: int = 0  # since it last answered
    outages: int = 0  # since ever
    due: float = 0.0  # after a failure: when it is tried again
    on_trial: bool = False


class Addresses:
    """The base URLs that one side of the API has, and how each of them fared.

    spread: whether requests are shared out among them. first: where to begin, an index; clients
    that begin anywhere do not all ask the same server first. May be used by several threads. Times
    are seconds of any clock that only grows.
    """

    def __init__(self, bases: Sequence[str], *, spread: bool = True, first: int = 0) -> None:
        self._addresses: Final = [_Address(base) for base in bases]
        self._spread: Final = spread
        self._next = first
        self._lock: Final = threading.Lock()

    def __len__(self) -> int:
        return len(self._addresses)

    def choose(self, passed: Collection[str], now: float) -> Turn | None:
        """The address to send to, none of `passed`; None when there is no other. To be ended."""
        with self._lock:
            left = [index for index, each in enumerate(self._addresses) if each.base not in passed]
            if not left:
                return None
            index = min(left, key=lambda index: self._rank(index, now))
            self._next = (index + 1) % len(self._addresses) if self._spread else index
            chosen = self._addresses[index]
            trial = _is_due(chosen, now)
            chosen.on_trial |= trial
            chosen.in_flight += 1
            return Turn(chosen.base, index, chosen.outages, trial)

    def end(self, turn: Turn, verdict: Verdict | None, now: float) -> None:
        """The send is over. verdict: None when it was given up."""
        with self._lock:
            address = self._addresses[turn.index]
            address.in_flight -= 1
            if turn.trial:
                address.on_trial = False
            if turn.outages != address.outages:
                return  # it began before an outage that others have told of
            if verdict is Verdict.ANSWERED:
                address.failures = 0
            elif verdict is Verdict.FAILED or (verdict is Verdict.OVERDUE and address.failures):
                address.due = now + min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** address.failures)
                # Beyond that the pause is the longest anyway, and its power of two soon infinite.
                address.failures = min(address.failures + 1, 16)
                address.outages += 1

    def _rank(self, index: int, now: float) -> tuple[int, float, int]:
        """The least is chosen: what is due for a trial, what works, what is left out."""
        address = self._addresses[index]
        distance = (index - self._next) % len(self._addresses)
        if address.failures and not _is_due(address, now):
            return 2, address.due, distance
        if not self._spread:
            return 1, 0, distance
        return (0 if address.failures else 1), address.in_flight, distance


def addresses_of(endpoints: Endpoints, random: float) -> dict[Side, Addresses]:
    """Of both sides. random: uniform in [0, 1), says which server is asked first."""
    first = int(random * len(endpoints.inference))
    return {
        Side.INFERENCE: Addresses(endpoints.inference, first=first),
        Side.MANAGEMENT: Addresses(endpoints.management, spread=False),
    }


def _is_due(address: _Address, now: float) -> bool:
    return bool(address.failures) and not address.on_trial and now >= address.due
