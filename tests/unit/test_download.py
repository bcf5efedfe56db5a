"""What brings files here: in parts, again, checked, and from where it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.remote_fakes import URI, MemoryPlace, Time, quick, tree

from shoal.domain.errors import (
    ArtifactChanged,
    ArtifactMissing,
    InvalidArtifact,
    InvalidSpecification,
    NoRoom,
    PlaceDenied,
    PlaceUnavailable,
    ShuttingDown,
    Unavailable,
)
from shoal.storage.download import download
from shoal.storage.names import lone_name, shown
from shoal.storage.places.place import RemoteFile, Snapshot
from shoal.storage.writing import unwritable

LONG = bytes(range(64))
FILES = {"1/model.bin": LONG, "model.yaml": b"name: iris", "empty": b""}

pytestmark = pytest.mark.usefixtures("without_waiting_for_the_disk")


def test_files_come_as_they_lie_there(tmp_path: Path) -> None:
    place = MemoryPlace(FILES)
    seen = place.look(URI)
    assert download(place, seen, tmp_path / "m", quick()) == seen
    assert tree(tmp_path / "m") == FILES
    assert os.listdir(tmp_path) == ["m"]


def test_a_lone_file_comes_by_the_name_that_its_uri_ends_with(tmp_path: Path) -> None:
    place = MemoryPlace({"": LONG}, uri="mem://bucket/a%20b.onnx?version=2")
    download(place, place.look("mem://bucket/a%20b.onnx?version=2"), tmp_path / "m", quick())
    assert tree(tmp_path / "m") == {"a b.onnx": LONG}


@pytest.mark.parametrize(("uri", "name"), [
    ("s3://b/k/iris.onnx", "iris.onnx"), ("https://h/a/..", "artifact"),
    ("https://h/a%2Fb", "artifact"), ("https://h/m.bin?sig=x#y", "m.bin"),
])
def test_a_lone_file_is_never_called_what_no_file_can_be(uri: str, name: str) -> None:
    assert lone_name(uri) == name


def test_large_files_come_in_parts_and_small_ones_whole(tmp_path: Path) -> None:
    place = MemoryPlace(FILES)
    download(place, place.look(URI), tmp_path / "m", quick())
    assert sorted(place.reads) == [
        ("1/model.bin", start, start + 10) for start in range(0, 60, 10)
    ] + [("1/model.bin", 60, None), ("model.yaml", 0, None)]


def test_where_a_place_knows_no_ranges_a_file_comes_in_one_piece(tmp_path: Path) -> None:
    place = MemoryPlace(FILES, ranges=False)
    download(place, place.look(URI), tmp_path / "m", quick())
    assert sorted(place.reads) == [("1/model.bin", 0, None), ("model.yaml", 0, None)]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_size_that_the_place_does_not_tell_is_no_hindrance(tmp_path: Path, ranges: bool) -> None:
    place = MemoryPlace(FILES, sizes=False, ranges=ranges)
    download(place, place.look(URI), tmp_path / "m", quick())
    assert tree(tmp_path / "m") == FILES


def test_progress_is_told_up_to_the_end(tmp_path: Path) -> None:
    place = MemoryPlace(FILES)
    told: list[tuple[int, int | None]] = []
    download(place, place.look(URI), tmp_path / "m", quick(),
             lambda done, total: told.append((done, total)))
    assert told[0] == (0, 74)
    assert told[-1] == (74, 74)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


# --- interruptions


@pytest.mark.parametrize("error", [
    PlaceUnavailable("503"), ConnectionResetError(104, "reset"), None], ids=["503", "reset", "end"])
def test_a_connection_that_is_cut_is_gone_on_with_where_it_was(
        tmp_path: Path, error: Exception | None) -> None:
    place = MemoryPlace({"f": LONG}, fault=lambda number, name, start, data:
                        (data[:8], error) if number == 1 else (data, None))
    download(place, place.look(URI), tmp_path / "m", quick(threads=1, part_bytes=100))
    assert place.reads == [("f", 0, None), ("f", 8, None)]
    assert tree(tmp_path / "m") == {"f": LONG}


def test_without_ranges_a_cut_file_is_read_from_its_beginning(tmp_path: Path) -> None:
    place = MemoryPlace({"f": LONG}, ranges=False, fault=lambda number, name, start, data:
                        (data[:8], None) if number == 1 else (data, None))
    told: list[int] = []
    download(place, place.look(URI), tmp_path / "m", quick(),
             lambda done, total: told.append(done))
    assert place.reads == [("f", 0, None)] * 2
    assert (tree(tmp_path / "m"), told[-1]) == ({"f": LONG}, 64)


def test_attempts_are_made_after_growing_waits_and_end_with_their_story(tmp_path: Path) -> None:
    time = Time()
    place = MemoryPlace({"f": LONG}, fault=lambda number, name, start, data:
                        (b"", PlaceUnavailable("it answers 503")))
    options = quick(time, attempts=4, first_wait_s=1.0, longest_wait_s=3.0, part_bytes=100)
    with pytest.raises(PlaceUnavailable, match=r"iris: 'f' .* 4 attempts .* answers 503"):
        download(place, place.look(URI), tmp_path / "m", options)
    assert (len(place.reads), sum(time.waits)) == (4, 1 + 2 + 3)
    assert not (tmp_path / "m").exists()


def test_what_brings_bytes_may_fail_as_often_as_it_likes(tmp_path: Path) -> None:
    place = MemoryPlace({"f": LONG}, fault=lambda number, name, start, data: (data[:4], None))
    options = quick(attempts=2, least_bytes_s=1.0, window_s=4.0)
    download(place, place.look(URI), tmp_path / "m", options)
    assert tree(tmp_path / "m") == {"f": LONG}


def test_a_trickle_is_cut_and_in_the_end_refused(tmp_path: Path) -> None:
    time = Time()

    def slowly() -> float:
        time.now_s += 1.0
        return time.now_s

    place = MemoryPlace({"f": LONG}, chunk_bytes=1)
    options = quick(time, attempts=2, clock=slowly, least_bytes_s=2.0, window_s=3.0)
    with pytest.raises(PlaceUnavailable, match="bytes came within"):
        download(place, place.look(URI), tmp_path / "m", options)


def test_another_download_goes_on_from_the_parts_that_are_here(tmp_path: Path) -> None:
    place = MemoryPlace({"a": b"small", "f": LONG}, fault=lambda number, name, start, data:
                        (b"", PlaceDenied("no")) if start == 40 else (data, None))
    with pytest.raises(PlaceDenied):
        download(place, place.look(URI), tmp_path / "m", quick(threads=1))
    assert not (tmp_path / "m").exists()
    place.fault, place.reads = None, []
    told: list[int] = []
    download(place, place.look(URI), tmp_path / "m", quick(threads=1),
             lambda done, total: told.append(done))
    assert place.reads == [("f", 40, 50), ("f", 50, 60), ("f", 60, None)]
    assert told[0] == 45
    assert tree(tmp_path / "m") == {"a": b"small", "f": LONG}


def test_a_line_that_was_cut_is_no_part(tmp_path: Path) -> None:
    place = MemoryPlace({"f": LONG}, fault=lambda number, name, start, data:
                        (b"", PlaceDenied("no")) if start == 20 else (data, None))
    with pytest.raises(PlaceDenied):
        download(place, place.look(URI), tmp_path / "m", quick(threads=1))
    [journal] = (tmp_path / "m.partial").glob("*.parts")
    journal.write_text(journal.read_text() + "20 3")
    place.fault, place.reads = None, []
    download(place, place.look(URI), tmp_path / "m", quick(threads=1))
    assert [start for _, start, _ in place.reads] == [20, 30, 40, 50, 60]
    assert tree(tmp_path / "m") == {"f": LONG}


@pytest.mark.parametrize("tags", [True, False])
def test_parts_of_another_state_are_not_used(tmp_path: Path, tags: bool) -> None:
    place = MemoryPlace({"f": LONG}, tags=tags, fault=lambda number, name, start, data:
                        (b"", PlaceDenied("no")) if start == 60 else (data, None))
    with pytest.raises(PlaceDenied):
        download(place, place.look(URI), tmp_path / "m", quick(threads=1))
    place.files["f"] = bytes(64)
    place.fault, place.reads = None, []
    download(place, place.look(URI), tmp_path / "m", quick(threads=1))
    assert len(place.reads) == 7
    assert tree(tmp_path / "m") == {"f": bytes(64)}


def test_it_ends_when_it_is_told_to(tmp_path: Path) -> None:
    place = MemoryPlace(FILES)

    def go_on() -> None:
        if place.reads:
            raise ShuttingDown("the instance ends")

    with pytest.raises(ShuttingDown):
        download(place, place.look(URI), tmp_path / "m", quick(go_on=go_on))
    assert not (tmp_path / "m").exists()


def test_it_ends_also_while_it_waits(tmp_path: Path) -> None:
    time = Time()
    place = MemoryPlace({"f": LONG}, fault=lambda number, name, start, data:
                        (b"", PlaceUnavailable("503")))

    def go_on() -> None:
        if time.waits:
            raise ShuttingDown("the instance ends")

    with pytest.raises(ShuttingDown):
        download(place, place.look(URI), tmp_path / "m",
                 quick(time, go_on=go_on, first_wait_s=60.0, longest_wait_s=60.0, threads=1))
    assert sum(time.waits) < 1


# --- what is wrong


def test_bytes_that_are_not_what_was_vouched_for_are_read_again(tmp_path: Path) -> None:
    place = MemoryPlace({"f": LONG}, vouches=True, fault=lambda number, name, start, data:
                        (data[:-1] + b"!", None) if number == 3 else (data, None))
    download(place, place.look(URI), tmp_path / "m", quick(threads=1))
    assert len(place.reads) == 14
    assert tree(tmp_path / "m") == {"f": LONG}


@pytest.mark.parametrize("part_bytes", [10, 100])
def test_bytes_that_stay_wrong_are_never_taken(tmp_path: Path, part_bytes: int) -> None:
    place = MemoryPlace({"f": LONG}, vouches=True,
                        fault=lambda number, name, start, data: (bytes(len(data)), None))
    with pytest.raises(PlaceUnavailable, match=r"iris: 'f' was read 3 times.*SHA-256"):
        download(place, place.look(URI), tmp_path / "m", quick(part_bytes=part_bytes))
    assert not (tmp_path / "m").exists()
    assert [path.stat().st_size for path in (tmp_path / "m.partial").iterdir()] == [0]


def test_a_place_that_gives_more_than_a_part_is_not_believed(tmp_path: Path) -> None:
    place = MemoryPlace({"f": LONG}, fault=lambda number, name, start, data:
                        (LONG, None) if number == 2 else (data, None))
    download(place, place.look(URI), tmp_path / "m", quick(threads=1))
    assert tree(tmp_path / "m") == {"f": LONG}


def test_a_place_that_always_gives_too_much_is_refused(tmp_path: Path) -> None:
    place = MemoryPlace({"f": LONG}, fault=lambda number, name, start, data: (data + b"!", None))
    with pytest.raises(PlaceUnavailable, match="more than the"):
        download(place, place.look(URI), tmp_path / "m", quick())


def test_a_file_that_is_shorter_than_listed_is_refused(tmp_path: Path) -> None:
    place = MemoryPlace({"f": LONG}, fault=lambda number, name, start, data:
                        (LONG[start:50][:len(data)], None))
    with pytest.raises(PlaceUnavailable, match="the connection ended after"):
        download(place, place.look(URI), tmp_path / "m", quick())


def test_files_that_change_meanwhile_are_listed_anew(tmp_path: Path) -> None:
    place = MemoryPlace({"a": b"old", "b": LONG})
    seen = place.look(URI)
    place.files["a"] = b"new"
    found = download(place, seen, tmp_path / "m", quick(threads=1))
    assert found == place.look(URI) != seen
    assert tree(tmp_path / "m") == {"a": b"new", "b": LONG}


def test_a_file_that_stayed_the_same_is_not_read_twice(tmp_path: Path) -> None:
    place = MemoryPlace({"a": LONG, "b": b"old"})
    seen = place.look(URI)
    place.files["b"] = b"new"
    download(place, seen, tmp_path / "m", quick(threads=1))
    assert len([name for name, _, _ in place.reads if name == "a"]) == 7


def test_files_that_never_rest_are_given_up(tmp_path: Path) -> None:
    place = MemoryPlace({"a": b"0"})
    seen = place.look(URI)
    looks: list[int] = []

    def look_again() -> Snapshot:
        looks.append(1)
        return seen

    place.files["a"] = b"1"
    with pytest.raises(ArtifactChanged, match=r"mem://bucket/iris changed .* 3 times"):
        download(place, seen, tmp_path / "m", quick(looks=2), look_again=look_again)
    assert len(looks) == 2


def test_files_that_are_gone_are_missing(tmp_path: Path) -> None:
    place = MemoryPlace({"a": b"0"})
    seen = place.look(URI)
    place.files.clear()
    with pytest.raises(ArtifactMissing, match="does not exist"):
        download(place, seen, tmp_path / "m", quick())


def test_what_the_place_denies_is_not_tried_again(tmp_path: Path) -> None:
    place = MemoryPlace({"a": b"0"}, fault=lambda number, name, start, data:
                        (b"", PlaceDenied("403")))
    with pytest.raises(PlaceDenied, match="403"):
        download(place, place.look(URI), tmp_path / "m", quick())
    assert len(place.reads) == 1


# --- the disk


def test_a_disk_without_room_is_told_before_anything_is_read(tmp_path: Path) -> None:
    place = MemoryPlace(FILES)
    with pytest.raises(NoRoom, match=r"m\.partial has 70 bytes free and 74 are needed; free 4 "):
        download(place, place.look(URI), tmp_path / "m", quick(free=lambda folder: 70))
    assert place.reads == []


@pytest.mark.parametrize(("name", "reason"), [
    ("../evil", "outside"), ("a/../../evil", "outside"), ("/etc/evil", "outside"),
    ("a//b", "empty parts"), ("./a", "empty parts"), ("a/", "empty parts"), ("a\0b", "no file"),
    ("x" * 256, "too long"), ("x/" * 1200 + "x", "too long"), ("\ud800", "no file"),
], ids=["above", "within", "absolute", "twice", "here", "behind", "nul", "long", "deep",
        "surrogate"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str, reason: str) -> None:
    place = MemoryPlace({"a": b"0"})
    with pytest.raises(InvalidArtifact, match=reason):
        download(place, Snapshot(URI, (RemoteFile(name, 1, "t"),)), tmp_path / "m", quick())
    assert place.reads == []


@pytest.mark.parametrize(("names", "reason"), [
    (("a", "a"), "comes twice"), (("a", "a/b"), "both a file and a folder"),
    (("a/b", "a/b/c/d"), "both a file and a folder"),
], ids=["twice", "folder", "deep"])
def test_names_that_collide_are_refused(
        tmp_path: Path, names: tuple[str, ...], reason: str) -> None:
    place = MemoryPlace({"a": b"0"})
    files = tuple(RemoteFile(name, 1, "t") for name in names)
    with pytest.raises(InvalidArtifact, match=reason):
        download(place, Snapshot(URI, files), tmp_path / "m", quick())


def test_links_on_the_way_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "m").mkdir()
    (tmp_path / "m/1").symlink_to(tmp_path / "outside")
    place = MemoryPlace(FILES)
    with pytest.raises(Unavailable, match="cannot be written"):
        download(place, place.look(URI), tmp_path / "m", quick())
    assert os.listdir(tmp_path / "outside") == []


def test_a_link_in_the_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"mine")
    (tmp_path / "m").mkdir()
    (tmp_path / "m/model.yaml").symlink_to(tmp_path / "outside")
    place = MemoryPlace(FILES)
    download(place, place.look(URI), tmp_path / "m", quick())
    assert (tmp_path / "outside").read_bytes() == b"mine"
    assert tree(tmp_path / "m") == FILES


def test_other_files_of_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/other").write_bytes(b"1")
    place = MemoryPlace({"a": b"0"})
    download(place, place.look(URI), tmp_path / "m", quick())
    assert tree(tmp_path / "m") == {"a": b"0", "other": b"1"}


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    place = MemoryPlace({"a": b"0"})
    with pytest.raises(InvalidSpecification, match="file cannot be written: Not a directory"):
        download(place, place.look(URI), tmp_path / "file" / "m", quick())


def test_a_full_disk_has_words_of_its_own() -> None:
    assert isinstance(unwritable(OSError(28, "No space left on device"), Path("/c")), NoRoom)
    assert "look after that disk" in unwritable(OSError(5, "I/O error", "/c/x"), Path("/c")).message


@pytest.mark.parametrize(("uri", "text"), [
    ("https://user:secret@host/a/b?X-Signature=secret#secret", "https://host/a/b"),
    ("s3://bucket/key", "s3://bucket/key"), ("az://a/b?sig=secret", "az://a/b"),
    ("odd?secret", "odd"),
])
def test_what_may_be_secret_in_a_uri_is_not_shown(uri: str, text: str) -> None:
    assert shown(uri) == text
