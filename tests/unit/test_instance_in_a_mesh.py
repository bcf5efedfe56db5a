"""An instance of a mesh: whom it takes for unreached, and what it declares for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from tests.storage_fakes import HeldClock

from shoal.domain.errors import Conflict, InvalidSpecification
from shoal.domain.mesh import Member
from shoal.domain.model import ModelRecord, ModelSpec
from shoal.node.declarations import Declarations
from shoal.node.folders import Folders
from shoal.node.instance import Instance, Parts
from shoal.node.live import Running
from shoal.node.loader import Loader
from shoal.observability.metrics import Metrics
from shoal.ports import Op
from shoal.runtimes.registry import RuntimeRegistry
from shoal.settings import Settings
from shoal.storage.folder import Declared, ModelFolder
from shoal.stores.memory import MemoryStore

ORIGIN = "folder:/models"


class Narrow(MemoryStore):
    """Takes two records at once, and none with `large` in its key."""

    async def transact(self, ops: Sequence[Op]) -> int:
        if len(ops) > 2 or any("large" in op.key for op in ops):
            raise InvalidSpecification("that is too much at once")
        return await super().transact(ops)


class Folder:
    path = Path("/models")
    origin = ORIGIN

    def __init__(self, *names: str) -> None:
        self.names = names
        self.broken = False

    async def first_scan(self) -> list[Declared]:
        if self.broken:
            raise InvalidSpecification("the folder /models cannot be read")
        return [
            Declared(ModelRecord(name=name, spec=ModelSpec(name=name, uri=f"/models/{name}"),
                                 origin=ORIGIN))
            for name in self.names
        ]


class Sharing:
    """As the test says: whether this instance reads, and whether somebody has read."""

    def __init__(self, *, ours: bool) -> None:
        self.ours = asyncio.Event()
        self.read = asyncio.Event()
        if ours:
            self.ours.set()
        else:
            self.read.set()

    async def to_read(self, origin: str) -> None:
        await self.ours.wait()

    async def not_to_read(self, origin: str) -> None:
        await asyncio.Event().wait()

    async def is_read(self, origin: str) -> None:
        await self.read.wait()

    def has_read(self, origin: str) -> None:
        self.read.set()


@pytest.fixture
async def instance() -> Instance:
    clock = HeldClock()
    runtimes = RuntimeRegistry.installed()
    return Instance(Settings(), Parts(
        store=Narrow(clock), loader=Loader(runtimes, (), (), 1),
        running=Running(ThreadPoolExecutor(1), 1, 0.0, 1), metrics=Metrics(False, 0), clock=clock,
        budget_bytes=0,
    ))


def shared(instance: Instance, folder: Folder, sharing: Sharing) -> Folders:
    return Folders(instance, [partial(cast, ModelFolder, folder)], sharing)


def problems(instance: Instance) -> list[str]:
    return [event.message for event in instance.journal.page(0, 100, None).events
            if event.kind == "folder_problem"]


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - whatever it is
            await asyncio.sleep(0.001)


async def test_an_instance_that_left_is_not_remembered_as_unreached(instance: Instance) -> None:
    instance.peer_down("b", "the link was lost")
    assert "b" in instance.unreached
    me = instance.core.view.members[instance.core.view.me]
    instance.members_changed((me,), 1, ())
    assert instance.unreached == {}


async def test_what_another_instance_reads_from_a_folder_is_not_changed_from_here(
    instance: Instance,
) -> None:
    me = instance.core.view.members[instance.core.view.me]
    watching = Member(id="other", incarnation="1", folders=(ORIGIN,))
    declarations = Declarations(instance, RuntimeRegistry.installed())
    (declared,) = await Folder("a").first_scan()
    await instance.replica.put(declared.record)
    instance.members_changed((me, watching), 1, ())
    with pytest.raises(Conflict, match="watched folder /models; change it there"):
        await declarations.unregister("a")
    (result,) = await declarations.unregister_all(["a"])
    assert result.code == Conflict.code
    instance.members_changed((me,), 2, ())  # nobody reads the folder any more
    await declarations.unregister("a")
    assert "a" not in instance.replica


async def test_what_the_registry_does_not_take_at_once_is_declared_in_parts(
    instance: Instance,
) -> None:
    folders = shared(instance, Folder(*"abcde"), Sharing(ours=True))
    async with asyncio.timeout(10):
        await folders.start(watch=False)
    assert instance.replica.names() == list("abcde")
    await folders.stop()


async def test_a_model_that_the_registry_never_takes_is_told_and_keeps_none_from_being_declared(
    instance: Instance,
) -> None:
    folders = shared(instance, Folder("a", "large", "z"), Sharing(ours=True))
    async with asyncio.timeout(10):
        await folders.start(watch=False)
    assert instance.replica.names() == ["a", "z"]
    assert problems(instance) == [
        "model 'large' cannot be declared: that is too much at once"]
    await folders.stop()


async def test_a_folder_that_cannot_be_read_when_it_is_taken_over_is_told(
    instance: Instance,
) -> None:
    folder, sharing = Folder("a"), Sharing(ours=False)
    folders = shared(instance, folder, sharing)
    await folders.start(watch=False)
    folder.broken = True
    sharing.ours.set()
    await until(lambda: problems(instance))
    assert problems(instance) == [
        "a folder is not read any more: the folder /models cannot be read; restart to read it"]
    await folders.stop()
