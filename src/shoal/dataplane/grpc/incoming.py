"""Calls whose messages arrive in pieces: collected for unary methods, queued for streams.

Must not know methods.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Final

from shoal.dataplane.grpc.framing import BadMessage, MessageReader
from shoal.dataplane.grpc.message import Code, Data, Head, Request
from shoal.dataplane.shared import MIN_RATE
from shoal.domain.errors import InvalidRequest

if TYPE_CHECKING:
    from shoal.dataplane.grpc.dispatch import Dispatcher

# Of complete messages of a stream that wait to be handled; its client sends no more beyond.
QUEUED_BYTES: Final = 1024**2


class Collected:
    """A unary call whose message is not complete."""

    __slots__ = ("_message", "_received", "_since", "head", "reader", "started")

    def __init__(self, head: Head, max_bytes: int, now: float) -> None:
        self.head = head
        self.started = perf_counter()
        self.reader = MessageReader(head.encoding, max_bytes)
        self._since = now
        self._received = 0
        self._message: Data | None = None

    def feed(self, data: Data) -> None:
        """Raises BadMessage."""
        self._received += len(data)
        for message in self.reader.feed(data):
            if self._message is not None:
                raise _wrong_number("more than one")
            self._message = message

    def request(self) -> Request:
        """The whole, at the end of what its client sends. Raises BadMessage."""
        if self.reader.amid:
            raise BadMessage(InvalidRequest("the call ended within its message"), Code.INTERNAL)
        if self._message is None:
            raise _wrong_number("none")
        return Request(self.head, self._message, self.started)

    def is_late(self, now: float, timeout_s: float) -> bool:
        """Does the client take too long?"""
        return now > self._since + timeout_s + self._received / MIN_RATE


class StreamCall:
    """A call of which several messages come, or go: `message.Stream`. `task`: what handles it."""

    __slots__ = (
        "_amid_since", "_dispatcher", "_ended", "_error", "_messages", "_queued", "_reader",
        "_received", "_unacknowledged", "_waiter", "begun", "head", "number", "room", "started",
        "task",
    )

    def __init__(self, dispatcher: Dispatcher, number: int, head: Head, max_bytes: int) -> None:
        self.head = head
        self.number = number
        self.started = perf_counter()
        self.begun = False  # were headers sent?
        self.room: asyncio.Future[None] | None = None  # until the client takes more
        self.task: asyncio.Task[None] | None = None
        self._dispatcher = dispatcher
        self._reader = MessageReader(head.encoding, max_bytes)
        self._messages: deque[Data] = deque()
        self._queued = 0
        self._unacknowledged = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: BadMessage | None = None
        self._ended = False
        self._amid_since = 0.0
        self._received = 0

    # --- called by the connection ---------------------------------------------------------------

    def feed(self, data: Data, *, ended: bool, now: float) -> None:
        """What fails is told to whoever receives."""
        amid = self._reader.amid
        self._unacknowledged += len(data)
        self._received += len(data)
        try:
            for message in self._reader.feed(data):
                self._messages.append(message)
                self._queued += len(message)
                amid = False
            if ended and self._reader.amid:
                raise BadMessage(InvalidRequest("the call ended within a message"), Code.INTERNAL)
        except BadMessage as error:
            self._error = error
        if not amid:
            self._amid_since = now
            self._received = 0
        self._ended = self._ended or ended or self._error is not None
        self._acknowledge()
        self.wake()

    def wake(self) -> None:
        """Something came, or the server begins to end."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def is_late(self, now: float, timeout_s: float) -> bool:
        """Does the client take too long over a message?"""
        if self._ended or not self._reader.amid:
            return False
        return now > self._amid_since + timeout_s + self._received / MIN_RATE

    def fail(self, error: BadMessage) -> None:
        """To be told to whoever receives."""
        self._error = error
        self._ended = True
        self.wake()

    # --- called by the method -------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        return self._dispatcher.draining

    async def receive(self) -> Data | None:
        while not self._messages:
            if self._error is not None:
                raise self._error
            if self._ended or self.draining:
                return None
            await self._something()
        message = self._messages.popleft()
        self._queued -= len(message)
        self._acknowledge()
        return message

    async def drained(self) -> None:
        while not self.draining:
            await self._something()

    async def send(self, parts: Sequence[Data]) -> None:
        await self._dispatcher.send_message(self, parts)

    async def _something(self) -> None:
        self._waiter = self._dispatcher.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _acknowledge(self) -> None:
        """Let the client send more, unless much is waiting."""
        if self._unacknowledged and self._queued < QUEUED_BYTES:
            self._dispatcher.acknowledge(self.number, self._unacknowledged)
            self._unacknowledged = 0


def _wrong_number(came: str) -> BadMessage:
    return BadMessage(
        InvalidRequest(f"the method takes exactly one message, {came} came"), Code.UNIMPLEMENTED
    )
