"""A mesh in trouble: an instance killed, etcd gone, connections cut. Whoever can be answered is."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from benchmarks.mesh_load import Load, Plan
from benchmarks.mesh_world import Node, World, until
from tests.cuttable import Cuttable
from tests.etcd_server import EtcdServer
from tests.networks import Networks

from shoal.domain.errors import ShoalError, StoreUnavailable

MODELS = 12
FLAGS = ("--cache-fill", "none", "--mesh-lease-s", "2", "--registry-timeout-s", "2")


@pytest.fixture
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
def world(etcd: EtcdServer, tmp_path: Path) -> Iterator[World]:
    with World(tmp_path, etcd.url, *FLAGS) as made:
        yield made


def targets(*nodes: Node) -> list[tuple[str, str]]:
    return [(node.name, node.url) for node in nodes]


def test_a_killed_instance_costs_its_own_clients_alone(world: World) -> None:
    nodes = world.start((), (), ())
    names = world.make_models(MODELS)
    world.register(names)
    with Load(Plan(names, 120.0), *targets(*nodes)) as load:
        load.goes_on(100)
        held = {name: world.holders(name) for name in names}
        killed = max(nodes, key=lambda node: sum(those == {node.name} for those in held.values()))
        alone = [name for name in names if held[name] == {killed.name}]
        assert alone, held
        killed.kill()
        load.remove(killed.name)
        load.goes_on(150)
        left = {node.name: node for node in nodes if node is not killed}
        until(lambda: all(world.holders(name) & left.keys() for name in alone),
              "the others hold what it held alone")
        until(lambda: all(set(node.sees()) == left.keys() for node in left.values()),
              "its lease ended")
        load.goes_on(50)
    assert not load.failures(without=[killed.name])
    assert set(load.failures()) <= {
        "connection reset", "connection closed", "no connection: Connection refused"}
    again = [(name, instance) for name in alone
             for instance, reason, _ in world.loads(name) if reason == "requested"]
    assert len(again) == len({*again})  # nobody loads one twice


def test_losing_etcd_costs_no_answer_and_is_healed_afterwards(
    etcd: EtcdServer, world: World
) -> None:
    a, b, c = world.start((), (), ())
    names = world.make_models(MODELS + 2)
    known, late = names[:MODELS], names[MODELS:]
    world.register(known)
    asked = known[:-2]  # the last two are cold while etcd is gone
    with Load(Plan(asked, 100.0), *targets(a, b, c)) as load:
        load.goes_on(60)
        etcd.kill()
        killed = time.monotonic()
        with pytest.raises(StoreUnavailable):
            a.client.register(late[0], str(world.folder / "models" / f"{late[0]}.onnx"))
        load.plan(Plan(known, 100.0))
        until(lambda: all("etcd" in " ".join(node.client.status().problems)
                          for node in (a, b, c)), "all say so")
        until(lambda: time.monotonic() - killed > 5, "leases have ended since")
        assert all(len(node.sees()) == 3 for node in (a, b, c))  # nobody is taken for dead
        etcd.start()
        until(lambda: not any(node.client.status().problems for node in (a, b, c)), "it is back")
        world.register(late)
        load.plan(Plan(names, 100.0))
        load.goes_on(60)
        world.meet()
    assert not load.failures()


def test_an_instance_that_comes_back_under_its_name_is_one_of_them_again(world: World) -> None:
    a, b = world.start((), ())
    names = world.make_models(6)
    world.register(names)
    with Load(Plan(names, 60.0), *targets(a)) as load:
        load.goes_on(30)
        b.kill()
        again = world.respawn(b)
        again.serves()
        world.meet()
        load.add("b again", again.url)
        load.goes_on(60)
    assert not load.failures()


# --- partitions -----------------------------------------------------------------------------------


class Proxies:
    """TCP proxies that tests cut, on a thread of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._open: list[Cuttable] = []

    def to(self, target: str) -> Cuttable:
        async def enter() -> Cuttable:
            return await Cuttable(target).__aenter__()

        self._open.append(asyncio.run_coroutine_threadsafe(enter(), self._loop).result(10))
        return self._open[-1]

    def do(self, *actions: Callable[[], None]) -> None:
        async def act() -> None:
            for action in actions:
                action()

        asyncio.run_coroutine_threadsafe(act(), self._loop).result(10)

    def close(self) -> None:
        async def leave() -> None:
            for each in self._open:
                await each.__aexit__()
            ending = asyncio.all_tasks() - {asyncio.current_task()}
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(leave(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def proxies() -> Iterator[Proxies]:
    made = Proxies()
    yield made
    made.close()


def test_an_instance_parted_from_etcd_goes_on_and_comes_back(
    etcd: EtcdServer, world: World, proxies: Proxies
) -> None:
    """Its record ends, so the others take its models over; it answers with what it knows."""
    between = proxies.to(etcd.endpoint)
    a, b = world.start((), ())
    world.url = f"etcd://{between.endpoint}"
    [c] = world.start(())
    names = world.make_models(MODELS)
    world.register(names)
    with Load(Plan(names, 80.0), *targets(a, b, c)) as load:
        load.goes_on(60)
        proxies.do(between.hang)
        until(lambda: "c" not in a.sees() and "c" not in b.sees(), "its lease ended")
        until(lambda: "etcd" in " ".join(c.client.status().problems), "it says what is wrong")
        load.goes_on(100)
        with pytest.raises(ShoalError):
            c.client.register("late", str(world.folder / "models" / f"{names[0]}.onnx"))
        proxies.do(between.heal)
        world.meet()
        load.goes_on(60)
    assert not load.failures()


@pytest.fixture
def networks() -> Iterator[Networks]:
    with Networks.or_skip() as made:
        yield made


def test_instances_parted_from_each_other_answer_all_the_same(
    tmp_path: Path, networks: Networks
) -> None:
    """a and b cannot reach each other, and both reach c, etcd and their clients."""
    at = {name: networks.add(name) for name in "abc"}
    with (
        EtcdServer(host=networks.host) as etcd,
        World(tmp_path, etcd.url, *FLAGS, "--mesh-silence-s", "1") as world,
    ):
        nodes = [world.spawn("--host", each.address, prefix=each.prefix) for each in at.values()]
        for node in nodes:
            node.serves()
        world.meet()
        a, b, c = nodes
        names = world.make_models(MODELS)
        world.register(names)
        with Load(Plan(names, 80.0), *targets(a, b, c)) as load:
            load.goes_on(60)
            networks.part("a", "b")
            until(lambda: "b" not in a.sees() and "a" not in b.sees(), "they notice")
            load.goes_on(150)
            assert set(c.sees()) == {"a", "b", "c"}
            networks.heal()
            world.meet()
            load.goes_on(60)
        assert not load.failures()
