"""What watched folders say becomes known on the instance, and names stay with their owners."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import cast

import pytest
from tests.storage_fakes import HeldClock

from shoal.domain.errors import InvalidSpecification
from shoal.domain.model import ModelRecord, ModelSpec, make_revision
from shoal.node.folders import Folders
from shoal.node.instance import Instance, Parts
from shoal.node.live import Running
from shoal.node.loader import Loader
from shoal.observability.metrics import Metrics
from shoal.runtimes.registry import RuntimeRegistry
from shoal.settings import Settings
from shoal.storage.folder import Declared, FolderChange, ModelFolder, Problem, Removed
from shoal.stores.memory import MemoryStore


class Folder:
    """A folder that says what a test wants."""

    def __init__(self, path: str, *at_first: FolderChange) -> None:
        self.name = path
        self.origin = f"folder:{path}"
        self.watched = self
        self.at_first = list(at_first)
        self.said: asyncio.Queue[FolderChange | Exception] = asyncio.Queue()

    def uri_of(self, name: str) -> str:
        return f"{self.name}/{name}"

    async def first_scan(self) -> list[FolderChange]:
        return self.at_first

    async def watch(self, on_change: Callable[[FolderChange], Awaitable[None]]) -> None:
        while True:
            said = await self.said.get()
            if isinstance(said, Exception):
                raise said
            await on_change(said)

    def declares(self, name: str, content: str = "a") -> Declared:
        spec = ModelSpec(name=name, uri=self.uri_of(name))
        revision = make_revision(spec, version=1, uri=spec.uri, format="onnx",
                                 artifact_digest=content, files_bytes=1)
        return Declared(ModelRecord(name=name, spec=spec, revisions=(revision,),
                                    origin=self.origin))


@pytest.fixture
async def instance() -> Instance:
    clock = HeldClock()
    runtimes = RuntimeRegistry.installed()
    return Instance(Settings(), Parts(
        store=MemoryStore(clock), loader=Loader(runtimes, (), (), 1),
        running=Running(ThreadPoolExecutor(1), 1, 0.0, 1), metrics=Metrics(False, 0), clock=clock,
        budget_bytes=0,
    ))


def watching(instance: Instance, *folders: Folder) -> Folders:
    return Folders(instance, [partial(cast, ModelFolder, folder) for folder in folders])


def origins(instance: Instance) -> dict[str, str]:
    found = {name: instance.replica.get(name) for name in instance.replica.names_after(None)}
    return {name: record.origin for name, record in found.items() if record is not None}


def problems(instance: Instance) -> list[str]:
    return [event.message for event in instance.journal.page(0, 100, None).events
            if event.kind == "folder_problem"]


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - whatever it is
            await asyncio.sleep(0.001)


async def test_what_is_there_at_the_start_is_declared(instance: Instance) -> None:
    folder = Folder("/models")
    folder.at_first = [folder.declares("a"), folder.declares("b"),
                       Problem(None, "/models: something is odd")]
    await watching(instance, folder).start(watch=False)
    assert origins(instance) == {"a": "folder:/models", "b": "folder:/models"}
    assert problems(instance) == ["/models: something is odd"]


async def test_changes_are_followed(instance: Instance) -> None:
    folder = Folder("/models")
    folders = watching(instance, folder)
    await folders.start(watch=True)
    folder.said.put_nowait(folder.declares("a"))
    await until(lambda: "a" in instance.replica)
    folder.said.put_nowait(Removed("a"))
    await until(lambda: "a" not in instance.replica)
    await folders.stop()


async def test_a_problem_leaves_what_was_declared_and_says_why(instance: Instance) -> None:
    folder = Folder("/models")
    folders = watching(instance, folder)
    folders.apply(cast(ModelFolder, folder), folder.declares("a"))
    folders.apply(cast(ModelFolder, folder), Problem("a", "two artifacts"))
    record = instance.replica.get("a")
    assert record is not None
    assert record.problem == "two artifacts"
    assert len(record.revisions) == 1
    assert not instance.invalid
    folders.apply(cast(ModelFolder, folder), folder.declares("a", "b"))
    record = instance.replica.get("a")
    assert record is not None
    assert record.problem is None


async def test_a_model_that_never_was_in_order_is_known_with_its_problem(
    instance: Instance
) -> None:
    folder = Folder("/models", Problem("a", "nothing in it", entry="a.onnx"))
    await watching(instance, folder).start(watch=False)
    record = instance.replica.get("a")
    assert record is not None
    assert (record.problem, record.revisions) == ("nothing in it", ())
    assert record.spec.uri == "/models/a.onnx"
    assert instance.invalid == {"a"}


async def test_a_registered_name_stays_with_its_owner(instance: Instance) -> None:
    await instance.replica.put(ModelRecord(name="a", spec=ModelSpec(name="a", uri="/elsewhere")))
    folder = Folder("/models")
    folder.at_first = [folder.declares("a")]
    folders = watching(instance, folder)
    await folders.start(watch=False)
    assert origins(instance) == {"a": "api"}
    assert "was registered; rename one of them" in problems(instance)[0]
    folders.apply(cast(ModelFolder, folder), Problem("a", "broken"))
    folders.apply(cast(ModelFolder, folder), Removed("a"))
    assert origins(instance) == {"a": "api"}


async def test_of_two_folders_the_first_has_the_name(instance: Instance) -> None:
    first, second = Folder("/first"), Folder("/second")
    first.at_first, second.at_first = [first.declares("a")], [second.declares("a")]
    await watching(instance, first, second).start(watch=False)
    assert origins(instance) == {"a": "folder:/first"}
    assert "is declared by /first; rename one of them" in problems(instance)[0]


async def test_a_name_that_becomes_free_goes_to_who_waits_for_it(instance: Instance) -> None:
    await instance.replica.put(ModelRecord(name="a", spec=ModelSpec(name="a", uri="/elsewhere")))
    first, second = Folder("/first"), Folder("/second")
    first.at_first, second.at_first = [first.declares("a")], [second.declares("a")]
    folders = watching(instance, first, second)
    await folders.start(watch=False)
    await instance.replica.delete("a")
    await until(lambda: origins(instance) == {"a": "folder:/first"})
    folders.apply(cast(ModelFolder, first), Removed("a"))
    await until(lambda: origins(instance) == {"a": "folder:/second"})
    folders.apply(cast(ModelFolder, second), Removed("a"))
    await asyncio.sleep(0)
    assert origins(instance) == {}


async def test_what_left_its_folder_meanwhile_does_not_come_back(instance: Instance) -> None:
    await instance.replica.put(ModelRecord(name="a", spec=ModelSpec(name="a", uri="/elsewhere")))
    folder = Folder("/models")
    folder.at_first = [folder.declares("a")]
    folders = watching(instance, folder)
    await folders.start(watch=False)
    folders.apply(cast(ModelFolder, folder), Removed("a"))
    await instance.replica.delete("a")
    await asyncio.sleep(0)
    assert origins(instance) == {}


@pytest.mark.parametrize("error", [InvalidSpecification("it is gone"), RuntimeError("a defect")])
async def test_a_watch_that_ends_is_said_and_its_models_stay(
    instance: Instance, error: Exception
) -> None:
    folder = Folder("/models")
    folder.at_first = [folder.declares("a")]
    folders = watching(instance, folder)
    await folders.start(watch=True)
    folder.said.put_nowait(error)
    await until(lambda: problems(instance))
    assert "/models is watched no longer" in problems(instance)[0]
    assert str(error) in problems(instance)[0]
    assert "restart to watch it" in problems(instance)[0]
    assert "a" in instance.replica
    await folders.stop()
