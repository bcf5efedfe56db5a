"""How many connections each process has, in memory that they share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from shoal.dataplane.shares import Shares


@pytest.fixture
def table() -> Iterator[int]:
    fd = Shares.create(rows=3)
    yield fd
    os.close(fd)


def test_who_is_alone_may_take_everything(table: int) -> None:
    share = Shares(table, 3).share("http", 0)
    share.tell(1_000)
    assert share.is_fair()


def test_what_one_tells_others_see(table: int) -> None:
    mine, other = Shares(table, 3).share("http", 0), Shares(table, 3).share("http", 2)
    mine.tell(1)
    other.tell(0)
    assert not mine.is_fair()
    assert other.is_fair()
    other.tell(1)
    assert mine.is_fair()


def test_an_eighth_more_is_fair(table: int) -> None:
    mine, other = (Shares(table, 3).share("http", row) for row in (0, 1))
    other.tell(70)
    mine.tell(80)
    assert mine.is_fair()
    mine.tell(81)
    assert not mine.is_fair()


def test_ports_are_counted_apart(table: int) -> None:
    shares = Shares(table, 3)
    shares.share("grpc", 1).tell(0)
    http = shares.share("http", 0)
    http.tell(5)
    assert http.is_fair()


def test_who_has_ended_does_not_count(table: int) -> None:
    shares = Shares(table, 3)
    mine = shares.share("http", 0)
    mine.tell(5)
    shares.share("http", 1).tell(0)
    shares.clear(1)
    assert mine.is_fair()
