"""Connections of a load generator: each takes requests up to its room and says which are answered.

What an answer must look like is for its caller to say; when to send is for `closed_loop` and
`open_loop`.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

from benchmarks.h2 import Calls

PATIENCE_S = 30.0
_READ_BYTES = 1 << 18


class Unanswered(RuntimeError):
    """A server did not answer, or not as it must: its figures would mean nothing."""


IsRight = Callable[[bytes], bool]


class Channel(Protocol):
    """A connection. room: requests it takes now."""

    sock: socket.socket
    room: int

    def send(self, marks: Sequence[float]) -> None:
        """One request for each mark, at most `room` of them."""

    def receive(self) -> Sequence[float]:
        """The marks of the requests that are answered. Raises Unanswered at a wrong one."""


class HttpChannel:
    """One connection with one request at a time."""

    def __init__(self, port: int, requests: Iterator[bytes], is_right: IsRight) -> None:
        self.sock = connect(port)
        self.room = 1
        self._requests = requests
        self._is_right = is_right
        self._answer = b""
        self._mark = 0.0

    def send(self, marks: Sequence[float]) -> None:
        if marks:
            (self._mark,) = marks
            self.room = 0
            self.sock.sendall(next(self._requests))

    def receive(self) -> Sequence[float]:
        came = self.sock.recv(_READ_BYTES)
        answer = self._answer + came
        if self._is_right(answer):
            self._answer = b""
            self.room = 1
            return (self._mark,)
        if not came or is_whole(answer):
            raise Unanswered(f"a wrong answer: {answer!r}")
        self._answer = answer
        return ()


class GrpcChannel:
    """One connection with up to `streams` calls at a time."""

    def __init__(self, port: int, call: tuple[bytes, bytes], is_right: IsRight, streams: int
                 ) -> None:
        """call: the method's path, and the request."""
        self.sock = connect(port)
        self.room = streams
        self._calls = Calls(*call)
        self._is_right = is_right
        self._marks: dict[int, float] = {}

    def send(self, marks: Sequence[float]) -> None:
        calls = self._calls
        self.room -= len(marks)
        for mark in marks:
            self._marks[calls.call()] = mark
        self._flush()

    def receive(self) -> Sequence[float]:
        came = self.sock.recv(_READ_BYTES)
        if not came:
            raise Unanswered("the server closed the connection")
        calls = self._calls
        calls.feed(came)
        answered = []
        for stream, body in calls.received:
            if not self._is_right(body):
                raise Unanswered(f"a wrong answer: {body!r}")
            answered.append(self._marks.pop(stream))
        calls.received.clear()
        self.room += len(answered)
        if not answered:
            self._flush()
        return answered

    def _flush(self) -> None:
        if self._calls.out:
            self.sock.sendall(self._calls.out)
            self._calls.out.clear()


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


@contextmanager
def polled(channels: Sequence[Channel]) -> Iterator[tuple[select.epoll, dict[int, Channel]]]:
    """Something to poll, and the channels by their numbers in it. Closes them at the end, each
    after the answer that it still waits for."""
    with ExitStack() as stack, select.epoll() as poll:
        by_number = {channel.sock.fileno(): channel for channel in channels}
        for number, channel in by_number.items():
            stack.enter_context(channel.sock)
            poll.register(number, select.EPOLLIN)
        full = {number: channel.room for number, channel in by_number.items()}
        yield poll, by_number
        while any(channel.room < full[number] for number, channel in by_number.items()):
            ready = poll.poll(PATIENCE_S)
            if not ready:
                raise Unanswered(f"no answer within {PATIENCE_S:g} s")
            for number, _ in ready:
                by_number[number].receive()


def is_whole(answer: bytes) -> bool:
    """Whether an HTTP answer's head and body have come; True also for what is none."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return not answer.startswith(b"HTTP/1.1"[: len(answer)])
    if b" 200 " not in head[:20]:
        return True
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return len(body) >= int(value)
    return body.endswith(b"0\r\n\r\n")
