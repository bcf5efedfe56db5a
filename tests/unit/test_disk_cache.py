"""What keeps artifacts on disk by their content."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from tests.disk_caches import IRIS, Seconds, adopt, adopt_file, here
from tests.remote_fakes import tree
from tests.storage_fakes import put

from shoal.domain.errors import (
    ArtifactMissing,
    InvalidArtifact,
    NoRoom,
    ShuttingDown,
    TooLarge,
)
from shoal.storage.digest import read_content
from shoal.storage.disk_cache import CacheOptions, DiskCache

pytestmark = pytest.mark.usefixtures("without_waiting_for_the_disk")


def interrupted(cache: DiskCache, part: bytes, size_bytes: int) -> None:
    """A download of `x` that ended early."""
    with suppress(ShuttingDown), cache.fetching("x") as fetch:
        fetch.reserve(size_bytes)
        put(fetch.folder / "part", part)
        raise ShuttingDown("the instance ends")


# --- what lies in it


def test_a_folder_is_found_by_its_content(cache: DiskCache) -> None:
    digest = adopt(cache, IRIS)
    held = cache.open(digest)
    assert held is not None
    assert (tree(held.path), read_content(held.path).digest) == (IRIS, digest)


def test_a_file_is_found_by_the_digest_of_its_bytes_and_keeps_its_name(cache: DiskCache) -> None:
    digest = adopt_file(cache, "iris.onnx", b"weights")
    held = cache.open(digest)
    assert held is not None
    assert (held.path.name, read_content(held.path)) == ("iris.onnx", held.content())
    assert held.content().digest == digest


def test_a_file_brings_its_weights_beside_it(cache: DiskCache) -> None:
    with cache.fetching("x") as fetch:
        put(fetch.folder / "iris.onnx.data", b"weights")
        with fetch.adopt(put(fetch.folder / "iris.onnx", b"graph")) as held:
            assert tree(held.path.parent) == {"iris.onnx": b"graph", "iris.onnx.data": b"weights"}
            assert read_content(held.path) == held.content()


def test_the_same_bytes_have_any_name_that_is_asked_for(cache: DiskCache) -> None:
    digest = adopt_file(cache, "a.json", b"{}")
    held = cache.open(digest, "b.ubj")
    assert held is not None
    assert (held.path.name, held.path.read_bytes()) == ("b.ubj", b"{}")
    assert cache.statistics().size_bytes == 2
    again = cache.open(digest, "a.json")
    assert again is not None
    assert again.path.name == "a.json"


@pytest.mark.parametrize("name", ["../evil", "a/b", "x" * 300])
def test_a_name_that_no_file_can_have_is_not_given_to_one(cache: DiskCache, name: str) -> None:
    held = cache.open(adopt_file(cache, "a.json", b"{}"), name)
    assert held is not None
    assert held.path.name == "a.json"


def test_what_was_never_here_is_not_found(cache: DiskCache) -> None:
    assert cache.open("sha256:" + "0" * 64) is None


def test_equal_files_of_two_artifacts_lie_there_once(cache: DiskCache) -> None:
    first = adopt(cache, {"base.bin": b"0" * 60, "a": b"1"})
    second = adopt(cache, {"base.bin": b"0" * 60, "b": b"2"})
    found = cache.statistics()
    assert (found.trees, found.blobs, found.size_bytes) == (2, 3, 62)
    assert here(cache, first)
    assert here(cache, second)


def test_one_artifact_that_comes_twice_lies_there_once(cache: DiskCache, root: Path) -> None:
    assert adopt(cache, IRIS) == adopt(cache, dict(reversed(IRIS.items())))
    assert cache.statistics().trees == 1
    assert os.listdir(root / "fetching") == []


def test_what_belongs_to_no_model_is_left_behind(cache: DiskCache) -> None:
    held = cache.open(adopt(cache, {**IRIS, ".git/x": b"1", "m.tmp": b"1"}))
    assert held is not None
    assert tree(held.path) == IRIS


def test_only_the_owner_may_read_it_and_nobody_write(cache: DiskCache, root: Path) -> None:
    held = cache.open(adopt(cache, IRIS))
    assert held is not None
    assert {stat.S_IMODE(each.stat().st_mode) for each in held.path.rglob("*")} == {0o400, 0o700}
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_links_within_become_files(cache: DiskCache) -> None:
    with cache.fetching("x") as fetch:
        put(fetch.folder / "files/a", b"1")
        (fetch.folder / "files/b").symlink_to("a")
        with fetch.adopt(fetch.folder / "files") as held:
            assert tree(held.path) == {"a": b"1", "b": b"1"}
            assert not (held.path / "b").is_symlink()


def test_links_that_lead_out_are_refused(cache: DiskCache, tmp_path: Path) -> None:
    put(tmp_path / "secret", b"1")
    with cache.fetching("x") as fetch:
        put(fetch.folder / "files/a", b"1")
        (fetch.folder / "files/b").symlink_to(tmp_path / "secret")
        with pytest.raises(InvalidArtifact, match="b is a link that leads out of the artifact"):
            fetch.adopt(fetch.folder / "files")


@pytest.mark.parametrize("inside", ["", "1", "1/model.onnx", "1/other"])
def test_the_content_of_a_part_is_known_without_reading_it(cache: DiskCache, inside: str) -> None:
    held = cache.open(adopt(cache, {
        "1/model.onnx": b"1", "1/model.onnx.data": b"2", "1/other": b"3", "1x": b"4"}))
    assert held is not None
    assert held.content(inside) == read_content(held.path / inside)


def test_the_content_of_what_is_not_there_is_missing(cache: DiskCache) -> None:
    held = cache.open(adopt(cache, IRIS))
    assert held is not None
    with pytest.raises(ArtifactMissing, match="1/mod does not exist"):
        held.content("1/mod")


def test_empty_files_are_artifacts_too(cache: DiskCache) -> None:
    digest = adopt(cache, {"pkg/__init__.py": b"", "model.py": b""})
    held = cache.open(digest)
    assert held is not None
    assert tree(held.path) == {"pkg/__init__.py": b"", "model.py": b""}


def test_a_folder_without_files_is_missing_its_artifact(cache: DiskCache) -> None:
    with cache.fetching("x") as fetch, pytest.raises(ArtifactMissing, match="holds no files"):
        fetch.adopt(fetch.folder)


# --- what a place's state was


def test_what_lay_at_a_uri_is_remembered_by_its_state(cache: DiskCache, root: Path) -> None:
    cache.remember("s3://b/k?secret", "tag1", "sha256:1")
    cache.remember("s3://b/k?secret", "tag2", "sha256:2")
    cache.remember("s3://b/k?secret", "", "sha256:3")
    assert cache.recall("s3://b/k?secret", "tag1") == "sha256:1"
    assert cache.recall("s3://b/k?secret", "") is None
    assert cache.recall("s3://b/other", "tag1") is None
    assert cache.remembered("s3://b/k?secret") == ["sha256:2", "sha256:1"]
    assert b"secret" not in b"".join(path.read_bytes() for path in root.glob("index*"))


def test_only_the_latest_states_are_remembered(cache: DiskCache) -> None:
    for number in range(20):
        cache.remember("s3://b/k", f"tag{number}", f"sha256:{number}")
    assert cache.remembered("s3://b/k") == [f"sha256:{n}" for n in range(19, 11, -1)]


# --- room


def test_what_is_worth_least_leaves(cache: DiskCache) -> None:
    cheap = adopt(cache, {"a": b"0" * 40}, cost_s=1.0)
    dear = adopt(cache, {"b": b"1" * 40}, cost_s=60.0)
    adopt(cache, {"c": b"2" * 40}, cost_s=1.0)
    assert (here(cache, cheap), here(cache, dear)) == (False, True)
    assert cache.statistics().evictions == 1


def test_what_is_used_more_often_stays(cache: DiskCache) -> None:
    used, unused = adopt(cache, {"a": b"0" * 40}), adopt(cache, {"b": b"1" * 40})
    assert here(cache, used)
    adopt(cache, {"c": b"2" * 40})
    assert (here(cache, used), here(cache, unused)) == (True, False)


def test_what_was_dear_once_ages(cache: DiskCache) -> None:
    dear = adopt(cache, {"dear": b"1" * 40}, cost_s=3.0)
    for number in range(8):
        adopt(cache, {f"f{number}": bytes([number]) * 60})
    assert not here(cache, dear)


def test_the_uses_of_what_left_are_remembered(cache: DiskCache) -> None:
    popular = adopt(cache, {"a": b"0" * 40})
    for _ in range(3):
        assert here(cache, popular)
    adopt(cache, {"all": b"1" * 100}, cost_s=100.0)
    assert not here(cache, popular)
    adopt(cache, {"a": b"0" * 40})
    rare = adopt(cache, {"b": b"2" * 40})
    adopt(cache, {"c": b"3" * 40})
    assert (here(cache, popular), here(cache, rare)) == (True, False)


def test_what_is_held_never_leaves(cache: DiskCache) -> None:
    digest = adopt(cache, {"a": b"0" * 60}, keep=True)
    with pytest.raises(NoRoom, match=r"no room for 50 bytes: 60 are in use.*unload models"):
        adopt(cache, {"b": b"1" * 50})
    assert here(cache, digest)


def test_nothing_leaves_where_that_would_not_be_enough(cache: DiskCache) -> None:
    adopt(cache, {"a": b"0" * 60}, keep=True)
    idle = adopt(cache, {"b": b"1" * 20})
    with pytest.raises(NoRoom):
        adopt(cache, {"c": b"2" * 50})
    assert here(cache, idle)


def test_what_shares_all_with_something_held_does_not_leave_for_nothing(cache: DiskCache) -> None:
    adopt(cache, {"base": b"0" * 50, "a": b"1" * 10}, keep=True)
    shared = adopt(cache, {"base": b"0" * 50})
    other = adopt(cache, {"c": b"2" * 30}, cost_s=100.0)
    adopt(cache, {"d": b"3" * 30})
    assert (here(cache, shared), here(cache, other)) == (True, False)


def test_once_released_it_may_leave(cache: DiskCache) -> None:
    digest = adopt(cache, {"a": b"0" * 60})
    first, second = cache.open(digest), cache.open(digest)
    assert first is not None
    assert second is not None
    first.release()
    first.release()
    with pytest.raises(NoRoom):
        adopt(cache, {"b": b"1" * 50})
    second.release()
    adopt(cache, {"b": b"1" * 50})
    assert not here(cache, digest)


def test_bytes_leave_the_disk_with_the_last_artifact_that_has_them(
        cache: DiskCache, root: Path) -> None:
    adopt(cache, {"base": b"0" * 50, "a": b"1" * 10})
    adopt(cache, {"base": b"0" * 50, "b": b"2" * 10})
    adopt(cache, {"c": b"3" * 100})
    assert len(os.listdir(root / "blobs")) == 1
    assert len(os.listdir(root / "trees")) == 1
    assert os.listdir(root / "leaving") == []


def test_what_is_larger_than_the_budget_is_refused_at_once(cache: DiskCache) -> None:
    digest = adopt(cache, {"a": b"0" * 60})
    with cache.fetching("x") as fetch, pytest.raises(TooLarge, match="101 bytes are more than"):
        fetch.reserve(101)
    assert here(cache, digest)


def test_room_is_made_before_a_download_begins(cache: DiskCache) -> None:
    digest = adopt(cache, {"a": b"0" * 60})
    with cache.fetching("x") as fetch:
        fetch.reserve(50)
        assert not here(cache, digest)
        assert cache.statistics().reserved_bytes == 50
    assert cache.statistics().reserved_bytes == 0


def test_downloads_at_once_share_the_budget(cache: DiskCache) -> None:
    with cache.fetching("x") as first, cache.fetching("y") as second:
        first.reserve(60)
        with pytest.raises(NoRoom, match="60 reserved for downloads"):
            second.reserve(50)
        second.reserve(40)


def test_a_reservation_becomes_what_is_adopted(cache: DiskCache) -> None:
    with cache.fetching("x") as fetch:
        fetch.reserve(90)
        with fetch.adopt(put(fetch.folder / "a", b"0" * 90)):
            found = cache.statistics()
        assert (found.size_bytes, found.reserved_bytes) == (90, 0)


def test_several_artifacts_may_come_of_one_fetch(cache: DiskCache) -> None:
    with cache.fetching("x") as fetch:
        for version in ("1", "2"):
            fetch.reserve(40)
            put(fetch.folder / version / "a", version.encode() * 40)
            fetch.adopt(fetch.folder / version).release()
    assert cache.statistics().size_bytes == 80


def test_the_disk_itself_may_be_what_is_full(root: Path) -> None:
    free = 30
    with DiskCache(root, 100, CacheOptions(free=lambda folder: free)) as cache:
        digest = adopt(cache, {"a": b"0" * 10}, keep=True)
        with cache.fetching("x") as fetch, pytest.raises(NoRoom, match="30 free on its disk"):
            fetch.reserve(50)
        assert here(cache, digest)


# --- fetching


def test_what_an_interrupted_fetch_left_is_there_for_the_next_one(cache: DiskCache) -> None:
    interrupted(cache, b"0" * 20, 80)
    assert cache.statistics().reserved_bytes == 20
    with cache.fetching("x") as fetch:
        assert tree(fetch.folder) == {"part": b"0" * 20}
        fetch.reserve(100)


def test_what_was_left_gives_way_to_what_is_needed(cache: DiskCache, root: Path) -> None:
    digest = adopt(cache, {"a": b"0" * 60})
    interrupted(cache, b"1" * 30, 40)
    adopt(cache, {"b": b"2" * 35})
    assert here(cache, digest)
    assert os.listdir(root / "fetching") == []


def test_a_fetch_that_is_awaited_is_waited_for_until_told_otherwise(
        cache: DiskCache, seconds: Seconds) -> None:
    def go_on() -> None:
        if seconds.waits == 3:
            raise ShuttingDown("the instance ends")

    with cache.fetching("x"):
        with pytest.raises(ShuttingDown), cache.fetching("x", go_on):
            pass
        with cache.fetching("y", go_on):
            pass


def test_what_was_left_long_ago_is_removed_at_the_next_start(
        root: Path, options: CacheOptions, seconds: Seconds) -> None:
    with DiskCache(root, 100, options) as cache:
        interrupted(cache, b"1" * 30, 40)
    seconds.now_s += options.keep_partial_s - 1
    DiskCache(root, 100, options).close()
    assert len(os.listdir(root / "fetching")) == 1
    seconds.now_s += 2
    DiskCache(root, 100, options).close()
    assert os.listdir(root / "fetching") == []


def test_threads_that_want_the_same_fetch_it_once(root: Path) -> None:
    fetched: list[int] = []

    def want(cache: DiskCache) -> str:
        with cache.fetching("x") as fetch:
            digest = cache.recall("x", "tag")
            held = cache.open(digest) if digest else None
            if held is None:
                fetched.append(1)
                put(fetch.folder / "files/a", b"1")
                held = fetch.adopt(fetch.folder / "files")
                cache.remember("x", "tag", held.digest)
            with held:
                return held.digest

    options = CacheOptions(sleep=lambda seconds: None)
    with DiskCache(root, 100, options) as cache, ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(want, [cache] * 8))) == 1
        assert cache.statistics().held_bytes == 0
    assert fetched == [1]
