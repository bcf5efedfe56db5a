"""What is left of the disk cache after restarts, crashes, damage and what cannot be used."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from tests.disk_caches import IRIS, adopt, adopt_file, here
from tests.remote_fakes import tree
from tests.storage_fakes import put

from shoal.domain.errors import InvalidSpecification, Unavailable
from shoal.storage.disk_cache import CacheOptions, DiskCache
from shoal.storage.disk_index import LAYOUT

pytestmark = pytest.mark.usefixtures("without_waiting_for_the_disk")


# --- restarts, crashes, damage


def crash(cache: DiskCache, root: Path) -> None:
    """Ends as a process does that is killed: nobody is there, but its mark is."""
    names = set(os.listdir(root / "users"))
    cache.close()
    for name in names:
        put(root / "users" / name)


def test_it_survives_a_restart(root: Path, options: CacheOptions) -> None:
    with DiskCache(root, 100, options) as cache:
        digest = adopt(cache, IRIS)
        cache.remember("s3://b/k", "tag", digest)
    with DiskCache(root, 100, options) as cache:
        assert cache.recall("s3://b/k", "tag") == digest
        assert here(cache, digest)


def rot(root: Path, name: str, beside: str = "") -> None:
    """The disk gives other bytes than were written, and nobody wrote. beside: of this file in the
    folder where `name` is."""
    [path] = root.glob(f"trees/*/{name}")
    path = path.with_name(beside or name)
    before = path.stat()
    path.chmod(0o600)
    with open(path, "r+b") as file:
        file.write(b"!")
    path.chmod(0o400)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_after_a_clean_end_files_are_not_read(root: Path, options: CacheOptions) -> None:
    def go_on() -> None:
        raise AssertionError("a byte was read")

    with DiskCache(root, 100, options) as cache:
        digest = adopt(cache, IRIS)
    with DiskCache(root, 100, options) as cache:
        assert cache.open(digest, go_on=go_on) is not None


def test_after_a_crash_every_byte_is_read_once(root: Path, options: CacheOptions) -> None:
    cache = DiskCache(root, 100, options)
    digest = adopt(cache, IRIS)
    crash(cache, root)
    chunks: list[int] = []
    with DiskCache(root, 100, options) as cache:
        for _ in range(2):
            held = cache.open(digest, go_on=lambda: chunks.append(1))
            assert held is not None
            held.release()
    assert len(chunks) == 2


def test_what_was_damaged_in_a_crash_is_dropped_and_can_come_again(
        root: Path, options: CacheOptions) -> None:
    cache = DiskCache(root, 100, options)
    digest, other = adopt(cache, IRIS), adopt(cache, {"other": b"1"})
    rot(root, "model.yaml")
    crash(cache, root)
    with DiskCache(root, 100, options) as cache:
        assert cache.open(digest) is None
        assert here(cache, other)
        assert (cache.statistics().damaged, cache.statistics().trees) == (1, 1)
        assert adopt(cache, IRIS) == digest
        held = cache.open(digest)
        assert held is not None
        assert tree(held.path) == IRIS


def test_a_damaged_file_is_not_shared_any_more(root: Path, options: CacheOptions) -> None:
    cache = DiskCache(root, 100, options)
    first = adopt(cache, {"base": b"0" * 20, "a": b"1"})
    rot(root, "base")
    second = adopt(cache, {"base": b"0" * 20, "b": b"2"})
    held = cache.open(second)
    assert held is not None
    assert tree(held.path) == {"base": b"0" * 20, "b": b"2"}
    crash(cache, root)
    with DiskCache(root, 100, options) as cache:
        assert (here(cache, first), here(cache, second)) == (False, True)


def test_what_is_found_damaged_makes_all_that_shares_it_be_read(
        root: Path, options: CacheOptions) -> None:
    with DiskCache(root, 100, options) as cache:
        first = adopt(cache, {"base": b"0" * 20, "a": b"1"})
        second = adopt(cache, {"base": b"0" * 20})
        rot(root, "a", beside="base")
        put(next(root.glob("trees/*/a")).with_name("more"), b"so that it is read")
        assert not here(cache, first)
        assert not here(cache, second)


@pytest.mark.parametrize("harm", ["written", "gone", "more"])
def test_what_somebody_changed_is_dropped_at_any_time(
        cache: DiskCache, root: Path, harm: str) -> None:
    digest = adopt(cache, IRIS)
    [path] = root.glob("trees/*/model.yaml")
    if harm == "written":
        path.chmod(0o600)
        path.write_bytes(b"!")
    elif harm == "gone":
        path.unlink()
    else:
        put(path.with_name("more"), b"1")
    assert cache.open(digest) is None


def test_what_loading_leaves_behind_is_no_damage(cache: DiskCache, root: Path) -> None:
    digest = adopt(cache, IRIS)
    [path] = root.glob("trees/*/model.yaml")
    put(path.with_name("__pycache__") / "x.pyc", b"1")
    assert here(cache, digest)


def test_a_tree_that_is_gone_is_a_miss(cache: DiskCache, root: Path) -> None:
    digest = adopt(cache, IRIS)
    shutil.rmtree(next((root / "trees").iterdir()))
    assert cache.open(digest) is None
    assert adopt(cache, IRIS) == digest


@pytest.mark.parametrize("harm", ["removed", "garbage", "torn"])
def test_a_lost_index_is_made_anew_from_what_lies_there(
        root: Path, options: CacheOptions, harm: str) -> None:
    cache = DiskCache(root, 100, options)
    digests = [adopt(cache, IRIS), adopt_file(cache, "iris.onnx", b"weights"),
               adopt(cache, {"model.yaml": b"name: iris"})]
    crash(cache, root)
    index = root / "index"
    if harm == "removed":
        index.unlink()
    else:
        index.write_bytes(b"no database" * 999 if harm == "garbage"
                          else index.read_bytes()[:8192] + bytes(4096))
    with DiskCache(root, 100, options) as cache:
        assert [here(cache, digest) for digest in digests] == [True] * 3
        found = cache.statistics()
        assert (found.trees, found.blobs, found.size_bytes) == (3, 3, 27)


def test_what_a_crash_left_half_done_is_removed(root: Path, options: CacheOptions) -> None:
    cache = DiskCache(root, 100, options)
    digest = adopt(cache, IRIS)
    crash(cache, root)
    put(root / "leaving/x/file")
    put(root / "trees" / ("0" * 64) / "file")
    put(root / "blobs" / ("1" * 64))
    put(root / "fetching/x/part", b"12345")
    with DiskCache(root, 100, options) as cache:
        assert len(os.listdir(root / "trees")) == 1
        assert len(os.listdir(root / "blobs")) == 2
        assert os.listdir(root / "leaving") == []
        assert cache.statistics().reserved_bytes == 5
        assert here(cache, digest)


def test_a_hold_of_one_who_was_killed_ends(root: Path, options: CacheOptions) -> None:
    cache = DiskCache(root, 100, options)
    digest = adopt(cache, {"a": b"0" * 60}, keep=True)
    with sqlite3.connect(root / "index") as index:
        holds = index.execute("select * from holds").fetchall()
    index.close()
    crash(cache, root)
    with sqlite3.connect(root / "index") as index:
        index.executemany("insert into holds values (?, ?)", holds)
    index.close()
    with DiskCache(root, 100, options) as cache:
        adopt(cache, {"b": b"1" * 60})
        assert not here(cache, digest)


# --- what goes wrong


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    put(tmp_path / "file")
    with pytest.raises(InvalidSpecification, match="file/cache cannot be written: Not a directory"):
        DiskCache(tmp_path / "file/cache", 100)


def test_a_cache_of_a_later_release_is_left_alone(root: Path, options: CacheOptions) -> None:
    DiskCache(root, 100, options).close()
    with sqlite3.connect(root / "index") as index:
        index.execute("pragma user_version = 99")
    index.close()
    with pytest.raises(InvalidSpecification, match="a later release"):
        DiskCache(root, 100, options)


def test_a_closed_cache_says_so(root: Path, options: CacheOptions) -> None:
    cache = DiskCache(root, 100, options)
    held = cache.open(adopt(cache, IRIS))
    assert held is not None
    cache.close()
    cache.close()
    held.release()
    with pytest.raises(Unavailable, match="is closed"):
        cache.open("sha256:0")


def test_an_index_that_breaks_under_way_is_mended_by_a_restart(
        root: Path, options: CacheOptions) -> None:
    cache = DiskCache(root, 100, options)
    digest = adopt(cache, IRIS)
    index = sqlite3.connect(root / "index")
    index.execute("pragma wal_checkpoint(truncate)")
    with open(root / "index", "r+b") as file:
        file.seek(4096)
        file.write(b"x" * 4096 * 8)
    index.execute(f"pragma user_version = {LAYOUT}")  # so that nobody trusts what it read before
    index.close()
    with pytest.raises(Unavailable, match="and restart, which mends the cache"):
        cache.open(digest)
    cache.close()
    with DiskCache(root, 100, options) as cache:
        assert here(cache, digest)
