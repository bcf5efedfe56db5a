"""A real folder under real notices of the file system, in real time."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.storage_fakes import SuffixFinder, put

from shoal.domain.errors import InvalidSpecification
from shoal.storage.children import Children
from shoal.storage.folder import Declared, FolderChange, ModelFolder, Problem, Removed


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def unmount(folder: Path) -> Path:
    """Where it went."""
    return folder.rename(folder.with_name("away"))


class Told:
    """Changes as they are told, to be waited for."""

    def __init__(self) -> None:
        self.changes: list[FolderChange] = []
        self._more = asyncio.Condition()

    async def take(self, change: FolderChange) -> None:
        async with self._more:
            self.changes.append(change)
            self._more.notify_all()

    async def until(self, true: Callable[[FolderChange], bool]) -> FolderChange:
        async with asyncio.timeout(10), self._more:
            await self._more.wait_for(lambda: any(true(change) for change in self.changes))
        return next(change for change in self.changes if true(change))


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


@asynccontextmanager
async def watching(path: Path, *, poll_s: float = 60.0, settle_s: float = 0.05
                   ) -> AsyncIterator[Told]:
    told = Told()
    folder = ModelFolder(Children(path, SuffixFinder()), settle_s=settle_s, poll_s=poll_s,
                         clock=SystemClock())
    task = asyncio.create_task(folder.watch(told.take))
    try:
        yield told
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def declares(name: str) -> Callable[[FolderChange], bool]:
    return lambda change: isinstance(change, Declared) and change.record.name == name


async def test_a_watch_begins_with_what_is_there(models: Path) -> None:
    put(models / "iris.joblib")
    async with watching(models) as told:
        await told.until(declares("iris"))


async def test_notices_of_the_file_system_bring_changes_before_the_next_poll(
        models: Path) -> None:
    put(models / "iris/model.joblib")
    async with watching(models) as told:
        await told.until(declares("iris"))
        put(models / "wine/1/model.onnx")
        await told.until(declares("wine"))
        shutil.rmtree(models / "iris")
        await told.until(lambda change: change == Removed("iris"))
        put(models / "wine/2/model.onnx", b"2")
        await told.until(lambda c: isinstance(c, Declared) and len(c.record.revisions) == 2)


async def test_a_watched_file_may_be_replaced(tmp_path: Path) -> None:
    path = put(tmp_path / "iris.joblib", b"1")
    async with watching(path) as told:
        first = await told.until(declares("iris"))
        put(tmp_path / "next", b"2").rename(path)
        await told.until(lambda c: isinstance(c, Declared) and c != first)


async def test_polls_find_changes_when_there_are_no_notices(
        models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> AsyncIterator[None]:
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr("watchfiles.awatch", refuse)
    async with watching(models, poll_s=0.05) as told:
        problem = await told.until(lambda change: isinstance(change, Problem))
        assert isinstance(problem, Problem)
        assert "watch limit reached), so changes are only seen every 0.05 s" in problem.message
        put(models / "iris.joblib")
        await told.until(declares("iris"))


async def test_a_folder_that_went_away_is_watched_again_when_it_is_back(models: Path) -> None:
    put(models / "iris.joblib")
    async with watching(models, poll_s=0.2) as told:
        await told.until(declares("iris"))
        away = unmount(models)
        await told.until(lambda change: isinstance(change, Problem) and change.name is None)
        away.rename(models)
        put(models / "wine.joblib")
        await told.until(declares("wine"))
    assert Removed("iris") not in told.changes


async def test_an_error_of_the_listener_ends_the_watch(models: Path) -> None:
    async def fail(change: FolderChange) -> None:
        raise RuntimeError("no room")

    put(models / "iris.joblib")
    watched = Children(models, SuffixFinder())
    folder = ModelFolder(watched, settle_s=0.0, poll_s=60.0, clock=SystemClock())
    with pytest.raises(RuntimeError, match="no room"):
        await folder.watch(fail)


async def test_a_missing_folder_ends_the_watch_at_once(tmp_path: Path) -> None:
    folder = ModelFolder(Children(tmp_path / "x", SuffixFinder()), settle_s=0.0, poll_s=60.0,
                         clock=SystemClock())
    with pytest.raises(InvalidSpecification, match="x does not exist"):
        await folder.watch(Told().take)
