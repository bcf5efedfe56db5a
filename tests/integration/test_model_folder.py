"""A real folder that changes under a held clock."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from tests.storage_fakes import HeldClock, SuffixFinder, put

from shoal.domain.errors import InvalidSpecification
from shoal.domain.model import ModelRecord
from shoal.storage.children import Children
from shoal.storage.folder import Declared, FolderChange, ModelFolder, Problem, Removed

SETTLE_S = 1.0


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
def folder(models: Path, clock: HeldClock) -> ModelFolder:
    return watched(models, clock)


def watched(path: Path, clock: HeldClock) -> ModelFolder:
    return ModelFolder(Children(path, SuffixFinder()), settle_s=SETTLE_S, poll_s=30.0, clock=clock,
                       sleep=clock.sleep)


async def settled(folder: ModelFolder, clock: HeldClock) -> list[FolderChange]:
    """What is told once everything has been still for long enough."""
    assert await folder.scan() == []
    clock.pass_(SETTLE_S)
    return await folder.scan()


def names(changes: list[FolderChange]) -> list[str | None]:
    return [c.record.name if isinstance(c, Declared) else c.name for c in changes]


def only_record(changes: list[FolderChange]) -> ModelRecord:
    (change,) = changes
    assert isinstance(change, Declared)
    return change.record


def only_problem(changes: list[FolderChange]) -> Problem:
    (change,) = changes
    assert isinstance(change, Problem)
    return change


def unmount(folder: Path) -> Path:
    """Where it went."""
    return folder.rename(folder.with_name("away"))


# --- the start ----------------------------------------------------------------------------------


async def test_the_first_scan_declares_old_files_at_once(
        models: Path, folder: ModelFolder, clock: HeldClock) -> None:
    put(models / "iris.joblib")
    put(models / "wine/model.onnx")
    before_s = clock.now_s
    assert set(names(await folder.first_scan())) == {"iris", "wine"}
    assert clock.now_s == before_s


async def test_the_first_scan_waits_for_young_files(models: Path) -> None:
    clock = HeldClock(wall_s=time.time())
    put(models / "iris.joblib")
    before_s = clock.now_s
    assert names(await watched(models, clock).first_scan()) == ["iris"]
    assert clock.now_s == pytest.approx(before_s + SETTLE_S, abs=0.01)


async def test_a_record_says_where_it_comes_from(models: Path, folder: ModelFolder) -> None:
    path = put(models / "iris.joblib")
    record = only_record(await folder.first_scan())
    assert record.origin == f"folder:{models}"
    assert record.spec.uri == str(path)


async def test_an_empty_folder_declares_nothing(folder: ModelFolder) -> None:
    assert await folder.first_scan() == []


async def test_what_was_told_is_not_told_again(models: Path, folder: ModelFolder) -> None:
    put(models / "iris.joblib")
    await folder.first_scan()
    assert await folder.scan() == []


async def test_a_folder_that_is_one_model_declares_that(tmp_path: Path, clock: HeldClock) -> None:
    for number in (1, 2):
        put(tmp_path / f"iris/{number}/model.joblib")
    record = only_record(await watched(tmp_path / "iris", clock).first_scan())
    assert (record.name, len(record.revisions)) == ("iris", 2)


async def test_a_file_is_one_model(tmp_path: Path, clock: HeldClock) -> None:
    path = put(tmp_path / "iris.joblib")
    put(tmp_path / "wine.joblib")
    put(tmp_path / "iris.yaml", "pin: true")
    record = only_record(await watched(path, clock).first_scan())
    assert (record.name, record.spec.pin) == ("iris", True)


async def test_a_missing_folder_is_an_error_at_the_start(tmp_path: Path, clock: HeldClock) -> None:
    with pytest.raises(InvalidSpecification, match="nowhere does not exist"):
        await watched(tmp_path / "nowhere", clock).first_scan()


# --- changes ------------------------------------------------------------------------------------


async def test_a_new_model_is_declared_once_it_is_still(
        models: Path, folder: ModelFolder, clock: HeldClock) -> None:
    await folder.first_scan()
    put(models / "iris.joblib")
    assert names(await settled(folder, clock)) == ["iris"]


async def test_a_file_that_is_still_being_copied_is_not_read(
        models: Path, folder: ModelFolder, clock: HeldClock) -> None:
    await folder.first_scan()
    path = models / "iris.joblib"
    for piece in range(5):
        with path.open("ab") as file:
            file.write(b"piece %d" % piece)
        clock.pass_(SETTLE_S * 0.9)
        assert await folder.scan() == []
    record = only_record(await settled(folder, clock))
    assert record.revisions[0].files_bytes == 35


async def test_a_copy_that_keeps_old_times_waits_as_well(
        models: Path, folder: ModelFolder, clock: HeldClock) -> None:
    await folder.first_scan()
    path = put(models / "iris.joblib", b"half")
    os.utime(path, (1e9, 1e9))
    assert await folder.scan() == []
    clock.pass_(SETTLE_S * 0.9)
    put(path, b"both")
    os.utime(path, (1e9, 1e9))
    assert await folder.scan() == []
    clock.pass_(SETTLE_S * 0.9)
    assert await folder.scan() == []
    clock.pass_(SETTLE_S)
    assert names(await folder.scan()) == ["iris"]


async def test_a_model_folder_waits_for_its_youngest_file(
        models: Path, folder: ModelFolder, clock: HeldClock) -> None:
    await folder.first_scan()
    put(models / "iris/1/model.joblib")
    await folder.scan()
    clock.pass_(SETTLE_S)
    put(models / "iris/2/model.joblib")
    record = only_record(await settled(folder, clock))
    assert [revision.version for revision in record.revisions] == [1, 2]


async def test_an_atomic_replacement_gives_a_new_revision(
        models: Path, folder: ModelFolder, clock: HeldClock) -> None:
    put(models / "iris.joblib", b"1")
    before = only_record(await folder.first_scan())
    put(models / ".iris.new", b"2").rename(models / "iris.joblib")
    after = only_record(await settled(folder, clock))
    assert after.revisions[0].id != before.revisions[0].id


async def test_a_switched_link_gives_a_new_revision(
        models: Path, folder: ModelFolder, tmp_path: Path, clock: HeldClock) -> None:
    for name in ("one", "two"):
        put(tmp_path / name / "model.joblib", name)
    (models / "iris").symlink_to(tmp_path / "one")
    before = only_record(await folder.first_scan())
    (models / ".next").symlink_to(tmp_path / "two")
    (models / ".next").rename(models / "iris")
    after = only_record(await settled(folder, clock))
    assert after.revisions[0].artifact_digest != before.revisions[0].artifact_digest


async def test_touching_a_file_tells_nothing(
        models: Path, folder: ModelFolder, clock: HeldClock) -> None:
    path = put(models / "iris.joblib")
    await folder.first_scan()
    path.touch()
    assert await settled(folder, clock) == []


async def test_a_removed_model_is_told_once_it_stays_away(
        models: Path, folder: ModelFolder, clock: HeldClock) -> None:
    put(models / "iris.joblib")
    await folder.first_scan()
    (models / "iris.joblib").unlink()
    assert await settled(folder, clock) == [Removed("iris")]


async def test_a_model_that_is_removed_and_put_back_is_not_removed(
        models: Path, folder: ModelFolder, clock: HeldClock) -> None:
    put(models / "iris/model.joblib", b"1")
    await folder.first_scan()
    shutil.rmtree(models / "iris")
    assert await folder.scan() == []
    put(models / "iris/model.joblib", b"2")
    assert names(await settled(folder, clock)) == ["iris"]


async def test_a_model_that_moves_to_another_entry_is_not_removed(
        models: Path, folder: ModelFolder, clock: HeldClock) -> None:
    put(models / "iris.joblib")
    await folder.first_scan()
    (models / "iris.joblib").unlink()
    put(models / "iris/model.joblib")
    (change,) = await settled(folder, clock)
    assert isinstance(change, Declared)


async def test_a_new_description_changes_a_bare_artifact(
        models: Path, folder: ModelFolder, clock: HeldClock) -> None:
    put(models / "iris.joblib")
    await folder.first_scan()
    put(models / "iris.yaml", "pin: true")
    assert only_record(await settled(folder, clock)).spec.pin


async def test_a_renaming_description_removes_the_old_name(
        models: Path, folder: ModelFolder, clock: HeldClock) -> None:
    put(models / "iris/model.joblib")
    await folder.first_scan()
    put(models / "iris/model.yaml", "name: flower")
    changes = await settled(folder, clock)
    assert names(changes) == ["flower", "iris"]
    assert changes[1] == Removed("iris")


async def test_an_artifact_outside_the_folder_is_watched_too(
        models: Path, folder: ModelFolder, tmp_path: Path, clock: HeldClock) -> None:
    path = put(tmp_path / "elsewhere/model.joblib", b"1")
    put(models / "iris.yaml", f"uri: {path}")
    before = only_record(await folder.first_scan())
    assert await settled(folder, clock) == []
    put(path, b"2")
    after = only_record(await settled(folder, clock))
    assert after.revisions[0].id != before.revisions[0].id


async def test_a_file_that_changes_while_it_is_read_is_read_later(
        models: Path, folder: ModelFolder, clock: HeldClock,
        monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(models / "iris.joblib", b"1")

    def interfere() -> None:
        monkeypatch.undo()
        put(path, b"22")

    monkeypatch.setattr(
        folder.watched._sources.read.__self__, "_go_on", interfere)  # type: ignore[attr-defined]
    assert await folder.scan() == []
    record = only_record(await settled(folder, clock))
    assert record.revisions[0].files_bytes == 2


# --- problems -----------------------------------------------------------------------------------


async def test_a_model_that_breaks_is_a_problem_under_its_name(
        models: Path, folder: ModelFolder, clock: HeldClock) -> None:
    put(models / "a/model.joblib")
    put(models / "a/model.yaml", "name: iris")
    await folder.first_scan()
    put(models / "a/model.yaml", "name: iris\npriorty: 1")
    problem = only_problem(await settled(folder, clock))
    assert (problem.name, problem.entry) == ("iris", "a")
    assert "unknown field 'priorty'" in problem.message


async def test_a_model_that_is_well_again_is_declared_though_nothing_changed(
        models: Path, folder: ModelFolder, clock: HeldClock) -> None:
    put(models / "iris/model.joblib")
    before = only_record(await folder.first_scan())
    put(models / "iris/model.yaml", "priorty: 1")
    only_problem(await settled(folder, clock))
    (models / "iris/model.yaml").unlink()
    assert only_record(await settled(folder, clock)).revisions == before.revisions


async def test_a_broken_version_among_good_ones_is_the_records_problem(
        models: Path, folder: ModelFolder) -> None:
    put(models / "iris/1/model.joblib")
    (models / "iris/2").mkdir()
    record = only_record(await folder.first_scan())
    assert "version 2 is not served" in (record.problem or "")


@pytest.mark.parametrize(("entry", "name", "says"), [
    ("my model.joblib", "my model", "model name 'my model' is not valid"),
    ("data.csv", "data.csv", "of no known format"),
    ("lonely.yaml", "lonely", "describes no artifact"),
    ("a\udcff.joblib", "a\\xff", "is not UTF-8; rename it"),
])
async def test_what_cannot_be_a_model_is_a_problem(
        models: Path, folder: ModelFolder, entry: str, name: str, says: str) -> None:
    put(models / entry, "")
    problem = only_problem(await folder.first_scan())
    assert problem.name == name
    assert says in problem.message
    assert problem.message.encode()


async def test_an_empty_model_folder_is_a_problem(models: Path, folder: ModelFolder) -> None:
    (models / "iris").mkdir()
    problem = only_problem(await folder.first_scan())
    assert "holds no artifact" in problem.message


async def test_a_link_to_nothing_is_a_problem_until_it_is_repaired(
        models: Path, folder: ModelFolder, tmp_path: Path, clock: HeldClock) -> None:
    (models / "iris.joblib").symlink_to(tmp_path / "later")
    assert "symbolic link to nothing" in only_problem(await folder.first_scan()).message
    put(tmp_path / "later")
    assert names(await settled(folder, clock)) == ["iris"]


async def test_a_link_around_itself_is_a_problem(models: Path, folder: ModelFolder) -> None:
    put(models / "iris/model.py")
    (models / "iris/loop").symlink_to(models)
    assert "around itself" in only_problem(await folder.first_scan()).message


async def test_what_is_clearly_no_model_is_passed_over(models: Path, folder: ModelFolder) -> None:
    for name in ("README.md", "LICENSE", "notes.txt", ".hidden.joblib", "x.joblib.part",
                 "__pycache__/a.joblib", "lost+found/b.joblib"):
        put(models / name)
    put(models / "iris.onnx")
    put(models / "iris.onnx.data")
    assert names(await folder.first_scan()) == ["iris"]


async def test_of_two_entries_with_one_name_the_first_serves_and_both_are_told(
        models: Path, folder: ModelFolder, clock: HeldClock) -> None:
    put(models / "iris.joblib")
    put(models / "iris.onnx")
    changes = await folder.first_scan()
    record = changes[-1].record if isinstance(changes[-1], Declared) else None
    assert record is not None
    assert record.revisions[0].format == "sklearn"
    assert "iris.onnx in" in (record.problem or "")
    assert "as well as iris.joblib, which alone is served" in (record.problem or "")
    (models / "iris.joblib").unlink()
    after = only_record(await settled(folder, clock))
    assert (after.revisions[0].format, after.problem) == ("onnx", None)


async def test_the_end_of_a_clash_ends_the_problem(
        models: Path, folder: ModelFolder, clock: HeldClock) -> None:
    put(models / "iris.joblib")
    put(models / "iris.onnx")
    await folder.first_scan()
    (models / "iris.onnx").unlink()
    assert only_record(await settled(folder, clock)).problem is None


async def test_a_disk_that_fails_for_a_moment_is_tried_again(
        models: Path, clock: HeldClock) -> None:
    class FailingOnce(SuffixFinder):
        failed = False

        def recognise(self, path: Path) -> str | None:
            if not self.failed and path.suffix:
                self.failed = True
                raise OSError(5, "Input/output error", str(path))
            return super().recognise(path)

    put(models / "iris.joblib")
    watched = Children(models, FailingOnce())
    folder = ModelFolder(watched, settle_s=SETTLE_S, poll_s=30.0, clock=clock)
    assert "Input/output error" in only_problem(await folder.scan()).message
    assert names(await settled(folder, clock)) == ["iris"]


async def test_an_artifact_that_is_missing_elsewhere_is_looked_for_again(
        models: Path, folder: ModelFolder, tmp_path: Path, clock: HeldClock) -> None:
    put(models / "iris.yaml", f"uri: {tmp_path / 'later.joblib'}")
    only_problem(await folder.first_scan())
    assert await settled(folder, clock) == []
    put(tmp_path / "later.joblib")
    assert names(await settled(folder, clock)) == ["iris"]


# --- the folder itself --------------------------------------------------------------------------


async def test_models_are_kept_while_the_folder_is_away(
        models: Path, folder: ModelFolder, clock: HeldClock) -> None:
    put(models / "iris.joblib")
    await folder.first_scan()
    away = unmount(models)
    problem = only_problem(await folder.scan())
    assert problem.name is None
    assert "models does not exist" in problem.message
    assert folder.problem == problem.message
    clock.pass_(100)
    assert await folder.scan() == []
    away.rename(models)
    assert await folder.scan() == []
    assert folder.problem is None


async def test_a_mount_point_left_empty_keeps_the_models(
        models: Path, folder: ModelFolder, clock: HeldClock) -> None:
    put(models / "iris.joblib")
    await folder.first_scan()
    unmount(models)
    os.mkdir(models)
    assert "replaced by an empty folder" in only_problem(await folder.scan()).message
    put(models / "wine.joblib")
    changes = await settled(folder, clock)
    assert changes[-1] == Removed("iris")
    assert names(changes) == ["wine", "iris"]


async def test_emptying_the_folder_removes_its_models(
        models: Path, folder: ModelFolder, clock: HeldClock) -> None:
    put(models / "iris.joblib")
    await folder.first_scan()
    (models / "iris.joblib").unlink()
    assert await settled(folder, clock) == [Removed("iris")]
