"""What unpacks archives that nobody vouches for."""

from __future__ import annotations

import gzip
import importlib.util
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.remote_fakes import tree

from shoal.domain.errors import InvalidArtifact, ShuttingDown
from shoal.storage.archives import Limits, root_of, unpack

FILES = {"1/model.bin": bytes(range(200)), "model.yaml": b"name: iris", "empty": b""}


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def tarred(*members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for each in members:
            info, content = each if isinstance(each, tuple) else (each, b"")
            info.size = len(content) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def plain_tar() -> bytes:
    return tarred(member("./", tarfile.DIRTYPE, mode=0o777),
                  *((member(f"./{name}", mode=0o4777), content)
                    for name, content in FILES.items()))


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


def put(tmp_path: Path, content: bytes, name: str = "m.tgz") -> Path:
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


@pytest.mark.parametrize("pack", [
    plain_tar, lambda: gzip.compress(plain_tar()), lambda: zipped({"1/": b"", **FILES}),
    lambda: zipped(FILES, zipfile.ZIP_STORED),
], ids=["tar", "tgz", "zip", "stored"])
def test_an_archive_is_known_by_its_bytes_and_unpacked(
        tmp_path: Path, pack: Callable[[], bytes]) -> None:
    unpack(put(tmp_path, pack(), "whatever"), tmp_path / "m")
    assert tree(tmp_path / "m") == FILES
    assert sorted(os.listdir(tmp_path)) == ["m", "whatever"]


def test_permissions_are_not_taken_over(tmp_path: Path) -> None:
    unpack(put(tmp_path, plain_tar()), tmp_path / "m")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "m").rglob("*")}
    assert modes == {0o600, 0o700}
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o700


BAD_TARS = {
    "above": (tarred((member("../evil"), b"1")), r"m\.tgz: '\.\./evil' lies outside"),
    "absolute": (tarred((member("/tmp/evil"), b"1")), "lies outside"),
    "symlink": (tarred(member("a", tarfile.SYMTYPE, linkname="/etc/passwd")), "a symbolic link"),
    "inner symlink": (tarred((member("b"), b"1"), member("a", tarfile.SYMTYPE, linkname="b")),
                      "symbolic link.*dereference"),
    "hard link": (tarred((member("b"), b"1"), member("a", tarfile.LNKTYPE, linkname="b")),
                  "a hard link"),
    "device": (tarred(member("a", tarfile.CHRTYPE)), "a device"),
    "pipe": (tarred(member("a", tarfile.FIFOTYPE)), "a pipe"),
    "odd": (tarred(member("a", b"Z")), "neither a file nor a folder|cannot be read"),
    "twice": (tarred((member("a"), b"1"), (member("a"), b"2")), "comes twice"),
    "file and folder": (tarred((member("a"), b"1"), (member("a/b"), b"2")), "comes twice"),
    "folder over file": (tarred((member("a"), b"1"), member("a", tarfile.DIRTYPE)),
                         "a folder and a file"),
    "long name": (tarred((member("x" * 300), b"1")), "too long"),
    "cut": (plain_tar()[:1400], "cannot be read"),
    "cut gzip": (gzip.compress(plain_tar())[:-20], "cannot be read"),
    "damaged gzip": (gzip.compress(plain_tar())[:-8] + b"12345678", "cannot be read"),
    "gzip of something": (gzip.compress(b"hello" * 500), "cannot be read"),
    "xz": (b"\xfd7zXZ\0rest", "is none of .tar, .tar.gz"),
    "nothing": (b"", "is none of"),
}


@pytest.mark.parametrize("case", BAD_TARS)
def test_a_tar_that_is_not_plain_is_refused_with_its_reason(tmp_path: Path, case: str) -> None:
    content, reason = BAD_TARS[case]
    with pytest.raises(InvalidArtifact, match=reason):
        unpack(put(tmp_path, content), tmp_path / "m")
    assert os.listdir(tmp_path) == ["m.tgz"]


def zip_with(name: str, **fields: object) -> bytes:
    info = zipfile.ZipInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(info, b"content")
    return made.getvalue()


def encrypted() -> bytes:
    content = bytearray(zip_with("a"))
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + at] |= 1
    return bytes(content)


def overlapping() -> bytes:
    """Two names in the directory for one content."""
    content = zip_with("a")
    directory, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    entry = content[directory:end]
    tail = bytearray(content[end:])
    tail[8] = tail[10] = 2
    tail[12:16] = (2 * len(entry)).to_bytes(4, "little")
    return content[:directory] + entry * 2 + bytes(tail)


BAD_ZIPS = {
    "above": (zip_with("../evil"), "lies outside"),
    "absolute": (zip_with("/evil"), "lies outside"),
    "symlink": (zip_with("a", external_attr=(stat.S_IFLNK | 0o777) << 16), "a link or a device"),
    "encrypted": (encrypted(), "is encrypted"),
    "lzma": (zip_with("a", compress_type=zipfile.ZIP_LZMA), "another way than deflate"),
    "overlapping": (overlapping(), "comes twice|cannot be read"),
    "cut": (zipped(FILES)[:-10], "cannot be read"),
    "damaged": (zipped(FILES, zipfile.ZIP_STORED).replace(b"name: iris", b"name: ires"),
                "cannot be read: Bad CRC"),
}


@pytest.mark.parametrize("case", BAD_ZIPS)
def test_a_zip_that_is_not_plain_is_refused_with_its_reason(tmp_path: Path, case: str) -> None:
    content, reason = BAD_ZIPS[case]
    with pytest.raises(InvalidArtifact, match=reason):
        unpack(put(tmp_path, content), tmp_path / "m")
    assert os.listdir(tmp_path) == ["m.tgz"]


@pytest.mark.parametrize("pack", [
    lambda: gzip.compress(tarred((member("a"), bytes(10**6)))),
    lambda: zipped({"a": bytes(10**6)}),
    lambda: gzip.compress(tarred((member("a"), b"1")) + bytes(10**6)),
], ids=["tgz", "zip", "behind the end"])
@pytest.mark.parametrize("limits", [
    Limits(max_bytes=10**5), Limits(max_ratio=20, ratio_from_bytes=1000)], ids=["bytes", "ratio"])
def test_a_bomb_ends_at_the_limit(
        tmp_path: Path, pack: Callable[[], bytes], limits: Limits) -> None:
    with pytest.raises(InvalidArtifact, match="unpacks to more than"):
        unpack(put(tmp_path, pack()), tmp_path / "m", limits)
    assert os.listdir(tmp_path) == ["m.tgz"]


def test_what_packs_well_is_no_bomb_while_it_is_small(tmp_path: Path) -> None:
    unpack(put(tmp_path, zipped({"a": bytes(10**6)})), tmp_path / "m")
    assert (tmp_path / "m/a").stat().st_size == 10**6


@pytest.mark.parametrize("pack", [
    lambda: tarred(*((member(str(n)), b"") for n in range(4))),
    lambda: zipped({str(n): b"" for n in range(4)})], ids=["tar", "zip"])
def test_there_may_not_be_too_many_members(tmp_path: Path, pack: Callable[[], bytes]) -> None:
    with pytest.raises(InvalidArtifact, match="'3' is one of more than 3 members"):
        unpack(put(tmp_path, pack()), tmp_path / "m", Limits(max_files=3))


def test_a_header_is_not_read_into_memory_however_large(tmp_path: Path) -> None:
    header = member("x", tarfile.XHDTYPE)
    header.size = 2 * 10**6
    bomb = header.tobuf() + bytes(2 * 10**6)
    with pytest.raises(InvalidArtifact, match="a header has 2,000,000 bytes"):
        unpack(put(tmp_path, gzip.compress(bomb)), tmp_path / "m")


def test_headers_of_headers_end(tmp_path: Path) -> None:
    header = member("x", tarfile.XHDTYPE)
    header.size = 512
    with pytest.raises(InvalidArtifact, match="cannot be read"):
        unpack(put(tmp_path, (header.tobuf() + bytes(512)) * 5000), tmp_path / "m")


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    info = member("a", tarfile.GNUTYPE_SPARSE)
    with pytest.raises(InvalidArtifact, match=r"neither a file nor a folder|cannot be read"):
        unpack(put(tmp_path, info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)), tmp_path / "m")


def test_members_are_kept_by_the_name_that_is_chosen_for_them(tmp_path: Path) -> None:
    content = tarred(member("bin", tarfile.SYMTYPE, linkname="usr/bin"),
                     (member("models/iris.onnx"), b"1"), (member("etc/passwd"), b"2"))
    unpack(put(tmp_path, content), tmp_path / "m", keep=lambda name:
           name.removeprefix("models/") if name.startswith("models/") else None)
    assert tree(tmp_path / "m") == {"iris.onnx": b"1"}


def test_unpacking_ends_when_it_is_told_to_and_leaves_nothing(tmp_path: Path) -> None:
    def go_on() -> None:
        raise ShuttingDown("the instance ends")

    with pytest.raises(ShuttingDown):
        unpack(put(tmp_path, plain_tar()), tmp_path / "m", go_on=go_on)
    assert os.listdir(tmp_path) == ["m.tgz"]


def test_what_an_interrupted_unpacking_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "m.unpacking/1").mkdir(parents=True)
    unpack(put(tmp_path, plain_tar()), tmp_path / "m")
    assert tree(tmp_path / "m") == FILES


@pytest.mark.parametrize(("names", "root"), [
    (["iris/model.onnx", "iris/x"], "iris"), (["3/model.onnx"], ""), (["model.onnx"], ""),
    (["iris/model.onnx", "model.yaml"], ""), (["iris/3/model.onnx"], "iris"),
], ids=["one folder", "a version", "a file", "several", "a version within"])
def test_a_lone_folder_at_the_top_is_where_it_begins(
        tmp_path: Path, names: list[str], root: str) -> None:
    unpack(put(tmp_path, zipped(dict.fromkeys(names, b"1"))), tmp_path / "m")
    assert root_of(tmp_path / "m") == tmp_path / "m" / root


@pytest.mark.skipif(
    any(importlib.util.find_spec(each) for each in ("compression", "backports")),
    reason="this Python reads zstd")
def test_zstd_says_what_to_do_where_it_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidArtifact, match=r"install backports\.zstd, or pack it with gzip"):
        unpack(put(tmp_path, b"\x28\xb5\x2f\xfd" + bytes(20)), tmp_path / "m")
