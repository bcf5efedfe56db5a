"""Fixtures that several unit tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.canned_server import CannedServer, canned_server
from tests.canned_views import Shoal, shoal_at
from tests.disk_caches import Seconds

from shoal.node import retrying
from shoal.storage.disk_cache import CacheOptions, DiskCache


@pytest.fixture
def server() -> Iterator[CannedServer]:
    with canned_server() as server:
        yield server


@pytest.fixture
def shoal(server: CannedServer) -> Shoal:
    """The command line, which asks `server`."""
    return shoal_at(server.url)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has lost the registry tries again soon, and goes on doing so."""
    monkeypatch.setattr(retrying, "FIRST_S", 0.001)
    monkeypatch.setattr(retrying, "MOST_S", 0.002)


@pytest.fixture
def without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)


# --- the disk cache: in `root`, of 100 bytes, with `options`, by the clock `seconds`


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def options(seconds: Seconds) -> CacheOptions:
    return CacheOptions(clock=seconds.clock, wall=seconds.clock, sleep=seconds.sleep,
                        free=lambda folder: 10**9)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cache(root: Path, options: CacheOptions) -> Iterator[DiskCache]:
    with DiskCache(root, 100, options) as opened:
        yield opened
