"""Several processes with one disk cache, and what is left when they are killed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.http_server import Handler, HttpServer

import shoal
from shoal.storage.disk_cache import DiskCache

DEADLINE_S = 30.0
SOURCES = Path(shoal.__file__).parents[1]
SCRIPT = Path(__file__).parents[1] / "disk_cache_process.py"
PART = 64 * 1024
LARGE = os.urandom(4 * PART)


class Bucket(HttpServer):
    """Serves files by ranges; answers no part at or behind `hold_from` before it is let go on."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.hold_from: int | None = None
        self.starts: list[int] = []
        self.held = threading.Event()
        self.let_go = threading.Event()
        super().__init__(_Handler, of=self)

    def __exit__(self, *exception: object) -> None:
        self.let_go.set()
        super().__exit__(*exception)


class _Handler(Handler):
    of: Bucket

    def do_HEAD(self) -> None:
        content = self.of.files[self.path]
        self.send(200, content, ETag=_etag(content))

    def do_GET(self) -> None:
        content = self.of.files[self.path]
        first = int(self.headers["range"].removeprefix("bytes=").partition("-")[0])
        self.of.starts.append(first)
        if self.of.hold_from is not None and first >= self.of.hold_from:
            self.of.held.set()
            self.of.let_go.wait(DEADLINE_S)
        self.send_part(content, ETag=_etag(content))


def _etag(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with Bucket({"/a": LARGE, "/b": LARGE[:PART]}) as made:
        yield made


class Other:
    """A process that does as it is told."""

    def __init__(self, started: subprocess.Popen[str]) -> None:
        self._started = started
        self._is_ready = False

    def begin(self, what: str, argument: object = None) -> None:
        assert self._started.stdin is not None
        self._started.stdin.write(json.dumps([what, argument]) + "\n")
        self._started.stdin.flush()

    def answer(self) -> object:
        assert self._started.stdout is not None
        if not self._is_ready:
            self._is_ready = True
            assert self.answer() == "ready"
        line = self._started.stdout.readline()
        assert line, "it has ended"
        found: object = json.loads(line)
        return found

    def do(self, what: str, argument: object = None) -> object:
        self.begin(what, argument)
        return self.answer()

    def kill(self) -> None:
        self._started.kill()
        self._started.wait(DEADLINE_S)


@contextmanager
def other(root: Path, budget_bytes: int = 10**9) -> Iterator[Other]:
    started = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(root), str(budget_bytes)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(SOURCES)})
    try:
        with started:
            try:
                yield Other(started)
            finally:
                started.kill()
    finally:
        started.wait(DEADLINE_S)


def test_who_is_killed_in_the_midst_is_gone_on_with_from_there(
        tmp_path: Path, bucket: Bucket) -> None:
    bucket.hold_from = 2 * PART
    with other(tmp_path) as first:
        first.begin("fetch", f"{bucket.url}/a")
        assert bucket.held.wait(DEADLINE_S)
        first.kill()
    bucket.hold_from = None
    bucket.let_go.set()
    with other(tmp_path) as second:
        digest = second.do("fetch", f"{bucket.url}/a")
        assert second.do("open", digest) == hashlib.sha256(LARGE).hexdigest()
    assert bucket.starts == [0, PART, 2 * PART, 2 * PART, 3 * PART]


def test_two_that_want_the_same_download_it_once(tmp_path: Path, bucket: Bucket) -> None:
    bucket.hold_from = 3 * PART
    with other(tmp_path) as first, other(tmp_path) as second:
        first.begin("fetch", f"{bucket.url}/a")
        assert bucket.held.wait(DEADLINE_S)
        second.begin("fetch", f"{bucket.url}/a")
        bucket.let_go.set()
        assert first.answer() == second.answer()
    assert bucket.starts == [0, PART, 2 * PART, 3 * PART]


def test_who_waits_takes_over_when_the_other_is_killed(tmp_path: Path, bucket: Bucket) -> None:
    bucket.hold_from = 2 * PART
    with other(tmp_path) as first, other(tmp_path) as second:
        first.begin("fetch", f"{bucket.url}/a")
        assert bucket.held.wait(DEADLINE_S)
        second.begin("fetch", f"{bucket.url}/a")
        first.kill()
        bucket.hold_from = None
        bucket.let_go.set()
        assert str(second.answer()).startswith("sha256:")
    assert bucket.starts == [0, PART, 2 * PART, 2 * PART, 3 * PART]


def test_what_one_process_holds_no_other_evicts_until_it_is_killed(
        tmp_path: Path, bucket: Bucket) -> None:
    budget_bytes = len(LARGE) + PART // 2
    with other(tmp_path, budget_bytes) as first, other(tmp_path, budget_bytes) as second:
        digest = first.do("fetch", f"{bucket.url}/a")
        assert "NoRoom" in str(second.do("fetch", f"{bucket.url}/b"))
        first.kill()
        assert str(second.do("fetch", f"{bucket.url}/b")).startswith("sha256:")
        assert second.do("open", digest) is None


def test_what_one_fetched_all_use(tmp_path: Path, bucket: Bucket) -> None:
    with other(tmp_path) as first, other(tmp_path) as second:
        digest = first.do("fetch", f"{bucket.url}/a")
        assert second.do("open", digest) == first.do("open", digest)
        first.do("release")
        assert second.do("statistics") == len(LARGE)


def test_after_all_were_killed_the_cache_is_read_before_it_is_used(
        tmp_path: Path, bucket: Bucket) -> None:
    with other(tmp_path) as first:
        digest = first.do("fetch", f"{bucket.url}/a")
        first.kill()
    chunks: list[int] = []
    with DiskCache(tmp_path, 10**9) as cache:
        held = cache.open(str(digest), go_on=lambda: chunks.append(1))
        assert held is not None
        assert (held.path / "a").read_bytes() == LARGE
    assert chunks
    with DiskCache(tmp_path, 10**9) as cache:
        chunks.clear()
        assert cache.open(str(digest), go_on=lambda: chunks.append(1)) is not None
    assert not chunks
