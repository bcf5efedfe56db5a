"""What benchmarks count by: times of an open loop, percentiles, calls as HTTP/2 frames."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Sequence

import hpack
import pytest
from benchmarks import open_loop
from benchmarks.__main__ import benchmarks, main
from benchmarks.channels import is_whole
from benchmarks.flowers import expected, has_right_json
from benchmarks.h2 import (
    DATA,
    END_STREAM,
    FRAME,
    HEADERS,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    Calls,
    frame,
)

TICK_S = 1e-5


class Clock:
    """Each look at it takes a moment."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += TICK_S
        return self.now


class Stalling:
    """A channel that answers at once, but whose first request holds everything up for 0.1 s."""

    def __init__(self, clock: Clock) -> None:
        self.sock, self._server = socket.socketpair()
        self.room = 1
        self._clock = clock
        self._marks: list[float] = []
        self._first = True

    def send(self, marks: Sequence[float]) -> None:
        if self._first:
            self._clock.now += 0.1
            self._first = False
        self._marks += marks
        self.room = 0
        self._server.send(b"!")

    def receive(self) -> Sequence[float]:
        self.sock.recv(1)
        self.room = 1
        answered, self._marks = self._marks, []
        return answered

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(open_loop, "perf_counter", clock)
    return clock


def test_an_open_loop_counts_from_when_a_request_was_due(clock: Clock) -> None:
    channel = Stalling(clock)
    try:
        taken = open_loop.latencies_ms([channel], rate=1000, seconds=0.2)
    finally:
        channel.close()
    assert len(taken) == 200
    assert taken == sorted(taken)
    # The requests of the stalled 0.1 s waited for 50 ms on average, though each was answered at
    # once when it was sent.
    held_up = [each for each in taken if each > 5]
    assert 90 <= len(held_up) <= 110
    assert 95 <= max(taken) <= 105


@pytest.mark.parametrize(
    ("share", "value"), [(0.5, 50), (0.99, 99), (0.999, 100), (1.0, 100), (0.0, 1)]
)
def test_a_percentile_is_one_of_the_values(share: float, value: int) -> None:
    assert open_loop.percentile(list(range(1, 101)), share) == value


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Kind, flags, stream, payload."""
    found = []
    while data:
        stop = FRAME + int.from_bytes(data[:3], "big")
        stream = int.from_bytes(data[5:9], "big")
        found.append((data[3], data[4], stream, data[FRAME:stop]))
        data = data[stop:]
    return found


def test_all_calls_of_a_connection_have_the_same_headers() -> None:
    calls = Calls(b"/some.Service/Method", b"body")
    assert [calls.call() for _ in range(3)] == [1, 3, 5]
    sent = frames(bytes(calls.out.removeprefix(PREFACE)))
    decoder = hpack.Decoder()
    first, *later = [
        {str(name): str(value) for name, value in decoder.decode(payload)}
        for kind, _, _, payload in sent if kind == HEADERS
    ]
    assert later == [first, first]
    assert first[":path"] == "/some.Service/Method"
    assert [payload for kind, _, _, payload in sent if kind == DATA] == [b"\0\0\0\0\4body"] * 3


def test_calls_wait_until_the_server_allows_more_bytes() -> None:
    calls = Calls(b"/a/B", bytes(30_000))
    for _ in range(3):
        calls.call()
    streams = [stream for kind, _, stream, _ in frames(bytes(calls.out[len(PREFACE) :]))
               if kind == DATA]
    assert streams == [1, 3]
    calls.out.clear()
    calls.feed(frame(WINDOW_UPDATE, 0, 0, (30_000).to_bytes(4, "big")))
    assert [stream for kind, _, stream, _ in frames(bytes(calls.out)) if kind == DATA] == [5]


def test_answers_are_put_together_however_they_are_cut() -> None:
    calls = Calls(b"/a/B", b"")
    stream = calls.call()
    whole = (
        frame(SETTINGS, 0, 0) + frame(HEADERS, 4, stream, b"\x88") + frame(DATA, 0, stream, b"one")
        + frame(DATA, 0, stream, b"two") + frame(HEADERS, 4 | END_STREAM, stream, b"\x88")
    )
    for byte in whole:
        calls.feed(bytes((byte,)))
    assert calls.received == [(stream, b"onetwo")]


def test_a_call_that_the_server_resets_ends_the_measurement() -> None:
    calls = Calls(b"/a/B", b"")
    with pytest.raises(ConnectionError, match="frame 3"):
        calls.feed(frame(3, 0, calls.call(), bytes(4)))


ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody"


@pytest.mark.parametrize("cut", range(1, len(ANSWER)))
def test_an_answer_cut_short_is_not_whole(cut: int) -> None:
    assert not is_whole(ANSWER[:cut])


def test_an_answer_is_whole_when_its_body_has_come() -> None:
    assert is_whole(ANSWER)
    assert is_whole(b"HTTP/1.1 500 Internal Server Error\r\n\r\n")
    assert is_whole(b"SSH-2.0\r\n")


def test_answers_in_any_form_are_compared_with_the_models() -> None:
    numbers = ", ".join(map(str, expected())).encode()
    is_right = has_right_json(b'{"y": [[%b]]}' % numbers)
    assert is_right(b'{"z": 1, "y": [[%b]]}' % numbers)
    assert not is_right(b'{"y": [[1.0, 2.0, 3.0]]}')
    with pytest.raises(ValueError, match="a wrong answer"):
        has_right_json(b'{"y": [[1.0, 2.0, 3.0]]}')


def test_every_benchmark_says_in_a_line_what_it_compares() -> None:
    found = benchmarks()
    assert {"ceiling", "cold", "eviction", "http", "large", "latency", "peers"} <= set(found)
    assert all(len(line) > 20 for line in found.values())
    assert not set(found) & {"channels", "closed_loop", "h2", "machine", "open_loop", "processes"}


def test_without_a_name_the_benchmarks_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks"])
    main()
    listed = capsys.readouterr().out
    assert all(name in listed for name in itertools.islice(benchmarks(), 3))


def test_an_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "celing"])
    with pytest.raises(SystemExit, match="there is no benchmark 'celing'; there are"):
        main()
