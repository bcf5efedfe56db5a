"""Frames that are right, mutated and random: a moment of `python -m benchmarks http2_fuzz`."""

from __future__ import annotations

import random

from benchmarks.http2_fuzz import fuzz
from tests.http2_wire import HELLO, feed, refusals

from shoal.codecs.http2 import ConnectionEnded, ErrorCode, ServerConnection


def test_no_frames_make_a_connection_fail() -> None:
    """On failure, its message has the line; the seed makes it happen again."""
    frames, conversations = fuzz(100_000, seed=1, seconds=4)
    assert frames > 100
    assert conversations > 1


def test_garbage_ends_a_connection_and_nothing_else() -> None:
    chance = random.Random(2)
    for _ in range(200):
        connection = ServerConnection()
        garbage = chance.randbytes(600_000 if chance.random() < 0.02 else 300)
        events = feed(connection, HELLO + garbage, garbage)
        if connection.ended:
            last = events[-1]
            assert isinstance(last, ConnectionEnded)
            assert last.code in list(ErrorCode)
            assert refusals(connection.take())[-1] == (0, last.code)
