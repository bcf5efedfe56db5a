"""Watched folders are read again for other serving runtimes, though none of their files changed."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.storage_fakes import HeldClock, SuffixFinder, put

from shoal.domain.serving_runtime import DeclaredRuntime, ServingRuntime, SupportedFormat
from shoal.node.folders import Folders
from shoal.node.instance import Instance, Parts
from shoal.node.live import Running
from shoal.node.loader import Loader
from shoal.observability.metrics import Metrics
from shoal.runtimes.registry import RuntimeRegistry
from shoal.settings import Settings
from shoal.storage.children import Children
from shoal.storage.folder import Declared, ModelFolder, Problem
from shoal.stores.memory import MemoryStore

TRITON = DeclaredRuntime(ServingRuntime(
    name="triton", formats=(SupportedFormat("tensorrt"),), command=("tritonserver",)))


def folder_of(path: Path, finder: SuffixFinder, clock: HeldClock) -> ModelFolder:
    put(path / "engine/model.plan")
    put(path / "engine/model.yaml", "format: tensorrt")
    put(path / "other.onnx")
    return ModelFolder(Children(path, finder), settle_s=1.0, poll_s=60.0, clock=clock,
                       sleep=clock.sleep)


async def test_what_is_read_again_is_told_when_it_says_something_else(tmp_path: Path) -> None:
    finder, clock = SuffixFinder(), HeldClock()
    folder = folder_of(tmp_path, finder, clock)
    # Two threads read them, and either may be first.
    problem, other = sorted(
        await folder.first_scan(), key=lambda change: isinstance(change, Declared))
    assert isinstance(problem, Problem)
    assert (problem.name, problem.code) == ("engine", "UNKNOWN_FORMAT")
    assert isinstance(other, Declared)
    folder.read_again(["engine", "other", "nobody's"])
    assert await folder.first_scan() == []
    finder.servers = (TRITON,)
    folder.read_again(["engine", "other"])
    (healed,) = await folder.first_scan()
    assert isinstance(healed, Declared)
    assert [each.runtime for each in healed.record.revisions] == ["triton"]


async def test_a_folder_that_nobody_watches_is_looked_at_once(tmp_path: Path) -> None:
    finder, clock = SuffixFinder(), HeldClock()
    instance = Instance(Settings(), Parts(
        store=MemoryStore(clock), loader=Loader(RuntimeRegistry([]), (), (), 1),
        running=Running(ThreadPoolExecutor(1), 1, 0.0, 1), metrics=Metrics(False, 0), clock=clock,
        budget_bytes=0,
    ))
    folders = Folders(instance, [lambda: folder_of(tmp_path, finder, clock)])
    await folders.start(watch=False)
    engine = instance.replica.get("engine")
    assert engine is not None
    assert (engine.revisions, engine.problem_code) == ((), "UNKNOWN_FORMAT")
    finder.servers = (TRITON,)
    folders.read_again(["engine"])
    folders.read_again(["engine"])
    async with asyncio.timeout(10):
        while not (engine := instance.replica.get("engine")) or not engine.revisions:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert (engine.problem, engine.problem_code) == (None, None)
    await folders.stop()
