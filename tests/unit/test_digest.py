"""What names the content of an artifact, and what notices that it changes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from tests.storage_fakes import put

from shoal.domain.errors import ArtifactChanged, ArtifactMissing, InvalidSpecification
from shoal.storage import files
from shoal.storage.digest import Content, ContentMemory, check_content, read_content
from shoal.storage.files import stamp


def digest(path: Path) -> str:
    return read_content(path).digest


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = put(tmp_path / "model.joblib", b"weights")
    assert read_content(path) == Content(
        f"sha256:{hashlib.sha256(b'weights').hexdigest()}", 7)


def test_the_digest_of_a_folder_is_that_of_a_list_of_its_files(tmp_path: Path) -> None:
    put(tmp_path / "m/b", b"2")
    put(tmp_path / "m/a/c", b"1")
    lines = b"".join(hashlib.sha256(content).hexdigest().encode() + b"  " + name + b"\0"
                     for content, name in ((b"1", b"a/c"), (b"2", b"b")))
    assert read_content(tmp_path / "m") == Content(
        f"sha256:{hashlib.sha256(lines).hexdigest()}", 2)


def test_the_place_of_an_artifact_does_not_matter(tmp_path: Path) -> None:
    put(tmp_path / "m/a", b"1")
    put(tmp_path / "n/a", b"1")
    assert digest(tmp_path / "m") == digest(tmp_path / "n")


def test_a_renamed_file_is_another_content(tmp_path: Path) -> None:
    put(tmp_path / "m/a", b"1")
    put(tmp_path / "n/b", b"1")
    assert digest(tmp_path / "m") != digest(tmp_path / "n")


def test_what_loading_leaves_behind_does_not_count(tmp_path: Path) -> None:
    put(tmp_path / "m/model.py", b"1")
    before, stamped = digest(tmp_path / "m"), stamp(tmp_path / "m")
    put(tmp_path / "m/__pycache__/model.cpython-311.pyc")
    put(tmp_path / "m/.model.py.swp")
    assert (digest(tmp_path / "m"), stamp(tmp_path / "m")) == (before, stamped)


@pytest.mark.parametrize("ending", [".data", "_data"])
def test_weights_beside_an_onnx_model_count(tmp_path: Path, ending: str) -> None:
    path = put(tmp_path / "model.onnx")
    put(tmp_path / f"model.onnx{ending}", b"1")
    before = digest(path)
    put(tmp_path / f"model.onnx{ending}", b"2")
    assert digest(path) != before


def test_a_folder_without_files_is_missing_its_artifact(tmp_path: Path) -> None:
    (tmp_path / "m/sub").mkdir(parents=True)
    with pytest.raises(ArtifactMissing, match="holds no files"):
        read_content(tmp_path / "m")


def test_links_are_followed(tmp_path: Path) -> None:
    put(tmp_path / "store/model.joblib", b"weights")
    (tmp_path / "m").mkdir()
    (tmp_path / "m/folder").symlink_to(tmp_path / "store")
    (tmp_path / "m/file").symlink_to(tmp_path / "store/model.joblib")
    assert read_content(tmp_path / "m").files_bytes == 14


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_around_itself_is_refused(tmp_path: Path, target: str) -> None:
    put(tmp_path / "m/a/b/c")
    (tmp_path / "m/a/b/loop").symlink_to(target)
    with pytest.raises(InvalidSpecification, match="leads back to itself or around itself"):
        read_content(tmp_path / "m")


def test_two_links_that_lead_to_each_other_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "m/a")
    put(tmp_path / "n/a")
    (tmp_path / "m/n").symlink_to(tmp_path / "n")
    (tmp_path / "n/m").symlink_to(tmp_path / "m")
    with pytest.raises(InvalidSpecification, match="around itself"):
        read_content(tmp_path / "m")


def test_a_pipe_inside_is_refused_rather_than_read(tmp_path: Path) -> None:
    put(tmp_path / "m/a")
    os.mkfifo(tmp_path / "m/pipe")
    with pytest.raises(InvalidSpecification, match="neither a file nor a folder"):
        read_content(tmp_path / "m")


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILES", 2)
    for name in "abc":
        put(tmp_path / "m" / name)
    with pytest.raises(InvalidSpecification, match="holds more than 2 files"):
        read_content(tmp_path / "m")


def test_nothing_at_the_path_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing, match="does not exist"):
        read_content(tmp_path / "m")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission_is_named(tmp_path: Path) -> None:
    put(tmp_path / "m/secret").chmod(0)
    with pytest.raises(ArtifactMissing, match="secret cannot be read: permission denied"):
        read_content(tmp_path / "m")


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "model.joblib", b"1")
    with pytest.raises(ArtifactChanged, match="changed while it was read"):
        read_content(path, go_on=lambda: _append(path))


def test_a_file_that_is_overwritten_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "model.joblib", b"1")
    with pytest.raises(ArtifactChanged, match="changed while it was read"):
        read_content(path, go_on=lambda: _overwrite(path))


def test_a_file_that_vanishes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "m/a")
    put(tmp_path / "m/b")
    with pytest.raises(ArtifactChanged, match="changed while it was read"):
        read_content(tmp_path / "m", go_on=lambda: (tmp_path / "m/b").unlink(missing_ok=True))


def _overwrite(path: Path) -> None:
    put(path, b"2")


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"2")


def test_reading_can_be_ended_from_outside(tmp_path: Path) -> None:
    def stop() -> None:
        raise InterruptedError("enough")

    with pytest.raises(ArtifactMissing, match="enough"):
        read_content(put(tmp_path / "model.joblib"), go_on=stop)


def test_content_that_was_declared_is_checked(tmp_path: Path) -> None:
    path = put(tmp_path / "model.joblib", b"1")
    check_content(path, digest(path))
    declared = digest(path)
    put(path, b"2")
    with pytest.raises(ArtifactChanged, match="is not what was declared"):
        check_content(path, declared)


# --- stamps -------------------------------------------------------------------------------------


def test_a_stamp_stays_while_nothing_changes(tmp_path: Path) -> None:
    put(tmp_path / "m/a")
    assert stamp(tmp_path / "m") == stamp(tmp_path / "m")


def test_new_bytes_under_old_times_change_the_stamp(tmp_path: Path) -> None:
    path = put(tmp_path / "a", b"1")
    before, info = stamp(path), path.stat()
    put(path, b"2")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert stamp(path) != before


def test_a_replaced_file_changes_the_stamp(tmp_path: Path) -> None:
    path = put(tmp_path / "a", b"1")
    before = stamp(path)
    put(tmp_path / "b", b"1").rename(path)
    assert stamp(path) != before


def test_what_is_absent_has_no_stamp(tmp_path: Path) -> None:
    assert stamp(tmp_path / "m") is None


def test_a_link_to_nothing_has_a_stamp_that_changes_when_it_is_repaired(tmp_path: Path) -> None:
    (tmp_path / "m").symlink_to(tmp_path / "target")
    before = stamp(tmp_path / "m")
    put(tmp_path / "target")
    assert before is not None
    assert stamp(tmp_path / "m") != before


# --- memory -------------------------------------------------------------------------------------


def test_a_large_artifact_is_read_once_while_it_stays_the_same(tmp_path: Path) -> None:
    chunks: list[None] = []
    memory = ContentMemory(go_on=lambda: chunks.append(None))
    path = put(tmp_path / "large", b"1" * 1024 * 1024)
    first = memory.read(path)
    read_once = len(chunks)
    assert memory.read(path) == first
    assert len(chunks) == read_once


def test_a_large_artifact_is_read_again_when_it_changed(tmp_path: Path) -> None:
    memory = ContentMemory()
    path = put(tmp_path / "large", b"1" * 1024 * 1024)
    first = memory.read(path)
    put(path, b"2" * 1024 * 1024)
    assert memory.read(path) != first


def test_a_refusal_of_the_system_names_the_way_out(tmp_path: Path) -> None:
    error = PermissionError(13, "Permission denied", str(tmp_path / "secret"))
    assert "secret cannot be read: permission denied; give the user that runs Shoal read" in (
        files.unreadable(error, tmp_path).message)
    assert "m cannot be read: Input/output error" in (
        files.unreadable(OSError(5, "Input/output error"), tmp_path / "m").message)
