"""An instance with accelerators, of a made-up kind: what runs where, what leaves, what is shown."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.numbered_device import KIND, Devices, NumberedRuntime, PlainRuntime
from tests.storage_fakes import HeldClock

from shoal.domain.accelerators import PoolBudget
from shoal.domain.errors import (
    AcceleratorFull,
    InvalidSpecification,
    LoadFailed,
    NoRoom,
    TooLarge,
)
from shoal.domain.model import ModelSpec, Placement
from shoal.node import story
from shoal.node.declarations import Declarations
from shoal.node.instance import Instance, Parts
from shoal.node.live import LiveCopy, Running
from shoal.node.loader import Loader
from shoal.observability.metrics import Metrics
from shoal.runtimes.registry import RuntimeRegistry
from shoal.settings import Settings
from shoal.settings.groups import CacheSettings
from shoal.stores.memory import MemoryStore

MIB = 1024**2
REQUIRED = Placement(accelerator=KIND)
PREFERRED = Placement(preferred_accelerator=KIND)


class Shell:
    """Two devices of 100 bytes, of which models may fill 80 and 60."""

    def __init__(self, folder: Path, store: MemoryStore) -> None:
        self.folder, self.clock = folder, HeldClock()
        self.devices = Devices(toy_0=100, toy_1=100)
        runtimes = RuntimeRegistry([NumberedRuntime(self.devices), PlainRuntime(self.devices)])
        loader = Loader(runtimes, (str(folder),), (), 1)
        loader.held_on = lambda device: self.devices.used[device]
        self.instance = Instance(Settings(cache=CacheSettings(fill="none")), Parts(
            store=store, loader=loader, running=Running(ThreadPoolExecutor(1), 1, 0.0, 1),
            metrics=Metrics(True, 10), clock=self.clock, budget_bytes=100 * MIB,
            pools=(PoolBudget("toy:0", 80), PoolBudget("toy:1", 60)), accelerators=(KIND,),
            accelerated_formats={KIND: ("numbered",)},
        ))
        self.declarations = Declarations(self.instance, runtimes)

    async def declare(
        self, name: str, size: int, placement: Placement | None = REQUIRED,
        suffix: str = "numbered",
    ) -> None:
        path = self.folder / f"{name}.{suffix}"
        path.write_text(json.dumps({"bytes": size, "name": name}))
        await self.declarations.register(
            ModelSpec(name=name, uri=str(path), placement=placement))

    async def on(self, name: str) -> int:
        """The number of the device that answers; -1: the processor."""
        copy = await self.instance.acquire(name, None, 10.0)
        assert isinstance(copy, LiveCopy)
        try:
            answer = copy.model.predict({"x": np.zeros(1, np.float32)}, {})
        finally:
            copy.release()
        return int(answer["on"][0])


@pytest.fixture
async def begin(tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[Shell]]]:
    """Starts an instance, each on the store of those before."""
    store, begun = MemoryStore(HeldClock()), []

    async def start() -> Shell:
        shell = Shell(tmp_path, store)
        await shell.instance.start()
        shell.instance.starting = False
        begun.append(shell)
        return shell

    yield start
    for shell in begun:
        await shell.instance.stop()


@pytest.fixture
async def shell(begin: Callable[[], Awaitable[Shell]]) -> Shell:
    return await begin()


async def test_a_model_runs_where_it_asks_to(shell: Shell) -> None:
    await shell.declare("required", 30)
    await shell.declare("preferred", 30, PREFERRED)
    await shell.declare("neither", 30, None)
    assert [await shell.on(name) for name in ("required", "preferred", "neither")] == [0, 1, -1]
    assert shell.devices.used == {"toy:0": 30, "toy:1": 30}


async def test_more_than_fits_is_served_in_turn_and_never_beyond_the_budgets(shell: Shell) -> None:
    names = [f"m{number}" for number in range(12)]
    for number, name in enumerate(names):
        await shell.declare(name, 20 + number)
    for _ in range(2):
        for name in names:
            assert await shell.on(name) in (0, 1)
            shell.instance.core.check_invariants()
    cache = shell.instance.core.cache
    # A size that was only guessed may turn out larger than was reserved, until what it displaces
    # has left; those of the second round were known.
    assert {name: pool.booked_bytes for name, pool in cache.pools.items()} == shell.devices.used
    assert all(shell.devices.used[name] <= pool.budget_bytes
               for name, pool in cache.pools.items())
    assert cache.ledger.evictions > 12


async def test_what_does_not_fit_any_device_is_refused_with_figures(shell: Shell) -> None:
    await shell.declare("large", 81)
    with pytest.raises(TooLarge, match=r"needs 81 bytes of the accelerator toy:0 and its whole "
                                       r"budget is 80 bytes; raise --accelerator-memory"):
        await shell.on("large")
    assert shell.devices.used == {"toy:0": 0, "toy:1": 0}


async def test_what_only_prefers_a_device_and_does_not_fit_runs_on_the_processor(
    shell: Shell,
) -> None:
    await shell.declare("large", 81, PREFERRED)
    assert await shell.on("large") == -1
    assert shell.devices.used["toy:0"] == 0


async def test_a_device_that_others_have_filled_fails_no_model_for_good(shell: Shell) -> None:
    await shell.declare("m", 50)
    for name in shell.devices.used:
        shell.devices.used[name] = 60
    with pytest.raises(NoRoom, match="too little memory") as raised:
        await shell.on("m")
    assert raised.value.code == AcceleratorFull.code
    assert raised.value.retryable
    for name in shell.devices.used:
        shell.devices.used[name] = 0
    shell.clock.pass_(10.0)
    assert await shell.on("m") == 0


async def test_what_only_prefers_a_device_that_others_have_filled_runs_on_the_processor(
    shell: Shell,
) -> None:
    await shell.declare("m", 50, PREFERRED)
    for name in shell.devices.used:
        shell.devices.used[name] = 60
    assert await shell.on("m") == -1


async def test_a_framework_without_the_device_serves_what_only_prefers_it(shell: Shell) -> None:
    shell.devices.missing = True
    await shell.declare("preferred", 10, PREFERRED)
    await shell.declare("required", 10)
    assert await shell.on("preferred") == -1
    notes = [event.message for event in shell.instance.journal.page(0, 100, "preferred").events
             if event.kind == "runtime_note"]
    assert notes == ["it runs on the processor: the framework installed here knows no toy"]
    with pytest.raises(LoadFailed, match="the framework installed here knows no toy"):
        await shell.on("required")


async def test_a_format_that_cannot_run_there_is_refused_when_it_is_registered(
    shell: Shell,
) -> None:
    with pytest.raises(InvalidSpecification, match=r"must run on an accelerator \(placement.accel"
                                                   r"erator: toy\), and the format plain runs on "
                                                   r"the processor alone"):
        await shell.declare("m", 10, suffix="plain")
    await shell.declare("m", 10, PREFERRED, suffix="plain")
    assert await shell.on("m") == -1


async def test_a_kind_that_the_format_does_not_know_is_refused(shell: Shell) -> None:
    with pytest.raises(InvalidSpecification, match="runs on the processor or toy"):
        await shell.declare("m", 10, Placement(accelerator="cuda"))


async def test_sizes_there_outlive_the_process(begin: Callable[[], Awaitable[Shell]]) -> None:
    shell = await begin()
    await shell.declare("m", 37)
    await shell.on("m")
    await shell.instance.stop()
    later = await begin()
    record = later.instance.record("m")
    split = later.instance.core.cache.sizes.accelerated.predict(record.revisions[0])
    assert (split.accelerator_bytes, split.known) == (37, True)


async def test_where_a_copy_lies_is_told(shell: Shell) -> None:
    await shell.declare("m", 37)
    await shell.on("m")
    model = story.view(shell.instance, shell.instance.record("m"))
    assert [(copy.device, copy.accelerator_bytes) for copy in model.where] == [("toy:0", 37)]
    loaded = [event.message for event in shell.instance.journal.page(0, 100, "m").events
              if event.kind == "loaded"]
    assert loaded[0].endswith(", and 37 on its accelerator")


async def test_what_frameworks_hold_besides_is_followed(shell: Shell) -> None:
    await shell.declare("m", 30)
    await shell.on("m")
    shell.devices.used["toy:0"] += 15
    await shell.instance.tick(1.0)
    assert shell.instance.core.cache.pools["toy:0"].besides_bytes == 15
