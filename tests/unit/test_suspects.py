"""What a process was loading when it died, and what becomes of that."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from shoal.domain.model import ModelSpec, Revision, make_revision
from shoal.node.suspects import Suspects
from shoal.node.under_way import Left, UnderWay, left_behind
from shoal.observability.oom import oom_kills


def die(folder: Path, *loading: str) -> int:
    """As if a process had been killed that loads these: its file stays, its lock does not; its
    number."""
    under_way = UnderWay(folder)
    with under_way.loading("over@1-x"):
        pass
    with ExitStack() as begun:
        for each in loading:
            begun.enter_context(under_way.loading(each))
        [file] = folder.glob(f"{os.getpid()}-*.loads")
        shutil.copyfile(file, folder / "died.loads")
    under_way.close()
    return os.getpid()


def revision(name: str) -> Revision:
    return make_revision(
        ModelSpec(name=name, uri=f"/{name}"), version=1, uri=f"/{name}", format="python",
        artifact_digest=f"sha256:{name}", files_bytes=1)


# --- loads under way ----------------------------------------------------------------------------


def test_a_killed_process_leaves_what_it_was_loading(tmp_path: Path) -> None:
    pid = die(tmp_path, "a@1-x", "b@1-y")
    assert left_behind(tmp_path) == [Left(pid, ("a@1-x", "b@1-y"), for_memory=False)]
    assert left_behind(tmp_path) == []  # told once
    assert list(tmp_path.iterdir()) == []


def test_one_that_loaded_nothing_leaves_nothing(tmp_path: Path) -> None:
    die(tmp_path)
    assert left_behind(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_what_a_living_process_loads_is_its_own_business(tmp_path: Path) -> None:
    under_way = UnderWay(tmp_path)
    with under_way.loading("a@1-x"):
        assert left_behind(tmp_path) == []
    under_way.close()
    assert list(tmp_path.iterdir()) == []


def test_a_load_that_fails_is_over(tmp_path: Path) -> None:
    under_way = UnderWay(tmp_path)
    with pytest.raises(ValueError, match="broken"), under_way.loading("a@1-x"):
        raise ValueError("broken")
    [file] = tmp_path.iterdir()
    assert b"a@1-x" in file.read_bytes()  # but not as an entry
    os.close(under_way._fd)  # as if it were gone
    assert left_behind(tmp_path) == []


def test_more_loads_than_there_is_room_for_are_not_refused(tmp_path: Path) -> None:
    under_way = UnderWay(tmp_path)
    begun = [under_way.loading(f"m{number}@1-x") for number in range(70)]
    for each in begun:
        each.__enter__()
    for each in begun:
        each.__exit__(None, None, None)
    with under_way.loading("x" * 600):
        pass
    under_way.close()


@pytest.mark.parametrize("damaged", [b"", b"\xff" * 40_000], ids=["short", "senseless"])
def test_a_damaged_file_is_ignored(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / "1-a.loads").write_bytes(damaged)
    assert left_behind(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_the_machine_was_started_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    die(tmp_path, "a@1-x")
    boot = tmp_path / "boot"
    boot.write_text("another\n")
    monkeypatch.setattr("shoal.node.under_way._BOOT_ID", boot)
    assert left_behind(tmp_path) == []


# --- suspects -----------------------------------------------------------------------------------


def opened(folder: Path, how: dict[int, str] | None = None) -> Suspects:
    found = Suspects(folder, how)
    found.close()
    return found


def test_once_may_be_chance_and_twice_is_not(tmp_path: Path) -> None:
    model = revision("m")
    pid = die(tmp_path, model.id)
    suspects = opened(tmp_path, {pid: "was killed by SIGKILL"})
    assert suspects.refusal(model) is None
    assert suspects.is_suspect(model.id)
    assert list(suspects.news) == [model.id]
    pid = die(tmp_path, model.id)
    refusal = opened(tmp_path, {pid: "was killed by SIGKILL"}).refusal(model)
    assert refusal is not None
    assert refusal.message.startswith(
        "the process was killed by SIGKILL while it loaded this model, 2 times in a row, last at 2")
    assert "'shoal load m'" in refusal.message


def test_processes_of_one_folder_know_the_same(tmp_path: Path) -> None:
    model = revision("m")
    running = opened(tmp_path)
    assert running.refusal(model) is None
    for _ in range(2):
        die(tmp_path, model.id)
        opened(tmp_path)
    assert running.refusal(model) is not None
    assert list(running.refused()) == [model.id]
    with opened(tmp_path).turn(model.id):
        pass
    assert running.refusal(model) is None
    assert not running.is_suspect(model.id)


def test_by_hand_it_is_tried_once_more(tmp_path: Path) -> None:
    model = revision("m")
    for _ in range(3):
        die(tmp_path, model.id)
        suspects = opened(tmp_path)
    assert suspects.refusal(model) is not None
    suspects.forgive(model.id)
    assert suspects.refusal(model) is None
    die(tmp_path, model.id)
    assert opened(tmp_path).refusal(model) is not None


def test_a_load_that_only_fails_clears_nobody(tmp_path: Path) -> None:
    model = revision("m")
    die(tmp_path, model.id)
    suspects = opened(tmp_path)
    with pytest.raises(ValueError, match="broken"), suspects.turn(model.id):
        raise ValueError("broken")
    assert suspects.is_suspect(model.id)


def test_suspects_go_one_by_one(tmp_path: Path) -> None:
    one, two = revision("one"), revision("two")
    die(tmp_path, one.id, two.id)
    suspects = opened(tmp_path)
    with ThreadPoolExecutor() as pool:
        with suspects.turn(one.id):
            waiting = pool.submit(pass_by, suspects, two.id)
            pool.submit(pass_by, suspects, "innocent@1-x").result(30)
            assert not waiting.done()
        waiting.result(30)


def pass_by(suspects: Suspects, revision: str) -> None:
    with suspects.turn(revision):
        pass


def test_a_kill_for_memory_is_proof_where_nothing_else_was_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, alone = revision("one"), revision("two"), revision("alone")
    left = [Left(1, (one.id, two.id), for_memory=True), Left(2, (alone.id,), for_memory=True)]
    monkeypatch.setattr("shoal.node.suspects.left_behind", lambda _: left)
    suspects = opened(tmp_path)
    assert suspects.refusal(one) is None
    assert suspects.refusal(two) is None
    refusal = suspects.refusal(alone)
    assert refusal is not None
    assert "the kernel has killed for want of memory" in refusal.message


def test_a_damaged_list_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "suspects.json").write_text("{")
    model = revision("m")
    assert opened(tmp_path).refusal(model) is None
    die(tmp_path, model.id)
    assert opened(tmp_path).is_suspect(model.id)


# --- the kernel's counter -----------------------------------------------------------------------


@pytest.mark.parametrize(("own", "file", "text", "count"), [
    ("0::/app\n", "app/memory.events", "low 0\noom 3\noom_kill 2\n", 2),
    ("0::/app\n", "memory.events", "oom_kill 1\n", 1),
    ("9:cpu:/\n4:memory:/app\n0::/\n", "memory/app/memory.oom_control", "oom_kill 4\n", 4),
    ("0::/app\n", "app/memory.events", "oom 3\n", None),
    ("0::/app\n", "other", "", None),
], ids=["v2", "v2-own-root", "v1", "old-kernel", "none"])  # fmt: skip
def test_kills_are_counted(
    tmp_path: Path, own: str, file: str, text: str, count: int | None
) -> None:
    (tmp_path / "own").write_text(own)
    (tmp_path / "cg" / file).parent.mkdir(parents=True)
    (tmp_path / "cg" / file).write_text(text)
    assert oom_kills(tmp_path / "cg", tmp_path / "own") == count
