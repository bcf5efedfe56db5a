"""Instances come, leave in order, and take over from each other: nobody who asks those that are
ready notices."""

from __future__ import annotations

import json
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from benchmarks import flowers
from benchmarks.mesh_load import Load, Plan
from benchmarks.mesh_world import Node, World, until
from tests.certificates import Authority
from tests.etcd_server import EtcdServer
from tests.served import Served
from tests.trouble import REQUEST, put, source

MODELS = 12
FILL = ("--cache-fill", "none")
FLAGS = (*FILL, "--mesh-lease-s", "2")
# No lease ends, and no link is cut, while the machine has no time for its owner.
PATIENT = (*FILL, "--mesh-silence-s", "15")
BODY = json.dumps(REQUEST).encode()


@pytest.fixture
def url(etcd_server: EtcdServer, tmp_path: Path) -> str:
    """Of a registry of the test's own."""
    return f"{etcd_server.url}/{tmp_path.name}"


def targets(*nodes: Node) -> list[tuple[str, str]]:
    return [(node.name, node.url) for node in nodes]


def test_a_rolling_restart_fails_no_request_and_makes_nothing_cold(
    tmp_path: Path, url: str
) -> None:
    with World(tmp_path, url, *PATIENT) as world:
        old = world.start((), (), ())
        names = world.make_models(MODELS)
        world.register(names)
        with Load(Plan(names, 100.0, follow=True), *targets(*old)) as load:
            load.goes_on(60)
            until(lambda: all(world.holders(name) for name in names), "all are warm")
            began = time.time()
            cold: list[object] = []
            for node in old:
                [successor] = world.start((), meet=False)
                load.add(successor.name, successor.url)
                load.goes_on(30)
                node.leave()
                assert node.ends() == 0
                world.drop(node)
                load.goes_on(30)
                cold += requested_since(world, began)
                began = time.time()
            world.meet()
            load.goes_on(60)
        assert not load.failures()
        # Of 36 copies that move. A new home that has not heard of all of them in time, since a
        # process had none, decides by what it knows.
        assert len(cold) <= 1, cold


def requested_since(world: World, began: float) -> list[object]:
    """Loads for which a request waited."""
    return [load for load in world.loads() if load[1] == "requested" and load[2] > began]


def test_from_one_to_three_and_back(tmp_path: Path, url: str) -> None:
    with World(tmp_path, url, *FLAGS) as world:
        [first] = world.start(())
        names = world.make_models(MODELS)
        world.register(names)
        with Load(Plan(names, 80.0, follow=True), *targets(first)) as load:
            load.goes_on(60)
            more = world.start((), ())
            for node in more:
                load.add(node.name, node.url)
            load.goes_on(100)
            until(lambda: all(each.homes for each in first.client.instances()),
                  "each decides about some")
            for node in more:
                node.leave()
            for node in more:
                assert node.ends() == 0
                world.drop(node)
            until(lambda: set(first.sees()) == {first.name}, "it is alone again")
            load.goes_on(60)
        assert not load.failures()


def test_a_watched_folder_is_read_by_one_and_the_other_goes_on(tmp_path: Path, url: str) -> None:
    folder = tmp_path / "watched"
    put(folder, "first", source(factor=1.0))
    with World(tmp_path, url, *FLAGS, "--folder-settle-s", "0", "--folder-poll-s", "0.2") as world:
        [killed] = world.start((folder,))
        [other] = world.start((folder,))
        assert {node.infer("first", BODY).status_code for node in (killed, other)} == {200}
        assert readers(killed, folder) == [killed.name]
        put(folder, "second", source(factor=2.0))
        until(lambda: other.infer("second", BODY).status_code == 200, "it is declared for both")
        killed.kill()
        put(folder, "third", source(factor=3.0))
        until(lambda: other.infer("third", BODY).status_code == 200, "the other reads it now")
        assert other.infer("first", BODY).json()["outputs"][0]["data"] == [1.0, 2.0]
        (folder / "second" / "model.py").unlink()
        (folder / "second").rmdir()
        until(lambda: other.infer("second", BODY).status_code == 404, "it notices what is gone")


def readers(node: Node, folder: Path) -> list[str]:
    """Instances that have read the folder, as their records in etcd say."""
    address = node.flags[node.flags.index("--registry-url") + 1]
    assert isinstance(address, str)
    endpoint, _, prefix = address.removeprefix("etcd://").partition("/")
    found = etcd_range(endpoint, f"/{prefix}/instances/")
    return [str(member["id"]) for member in found
            if any(str(folder) in each for each in member.get("folders_read", []))]


def etcd_range(endpoint: str, prefix: str) -> list[dict[str, list[str]]]:
    """Records of instances, as etcd's JSON API has them."""

    def encoded(text: str) -> str:
        return b64encode(text.encode()).decode()

    body = {"key": encoded(prefix), "range_end": encoded(prefix[:-1] + "0")}
    answer = httpx2.post(f"http://{endpoint}/v3/kv/range", json=body).json()
    records = [json.loads(b64decode(each["value"])) for each in answer.get("kvs", [])]
    return [each.get("member", each) for each in records]


def test_instances_that_show_certificates_work_together(tmp_path: Path, url: str) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    authority = Authority(keys)
    certificate, key = authority.sign("instance")
    tls = ("--mesh-cert-file", certificate, "--mesh-key-file", key,
           "--mesh-ca-file", authority.certificate)
    with World(tmp_path, url, *FLAGS) as world:
        world.start(tls, tls)
        names = world.make_models(4)
        world.register(names)
        for name in names:
            [_] = {node.infer(name, flowers.JSON_BODY).content for node in world.nodes}
        assert world.total("shoal_forwarded_requests_total", 'outcome="answered"') >= 4
        plain = world.spawn()  # without certificates it can be reached by nobody
        plain.serves()
        until(lambda: set(world.nodes[0].sees()) == {"a", "b"}, "the others go on")
        assert set(plain.sees()) == {plain.name}
        for node in world.nodes:
            assert node.infer(names[0], flowers.JSON_BODY).status_code == 200


# --- workers: several processes on SQLite ---------------------------------------------------------


@contextmanager
def asking(
    server: Served, names: list[str]
) -> Iterator[tuple[list[object], Callable[[int], None]]]:
    """Clients with connections of their own; failures, and what waits for so many answers."""
    failed: list[object] = []
    answered = [0]
    stop = threading.Event()

    def ask(number: int) -> None:
        turn = number
        while not stop.is_set():
            with httpx2.Client(base_url=server.url, timeout=30) as http:
                for _ in range(5):
                    turn += 1
                    answer = http.post(f"/v2/models/{names[turn % len(names)]}/infer",
                                       content=flowers.JSON_BODY)
                    if answer.status_code == 200:
                        answered[0] += 1
                    else:
                        failed.append(answer.text)

    def goes_on(count: int) -> None:
        wanted = answered[0] + count
        until(lambda: answered[0] >= wanted, f"{count} more answers")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield failed, goes_on
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def test_three_workers_are_one_cache(tmp_path: Path) -> None:
    names = World(tmp_path, "").make_models(MODELS)
    with Served(
        tmp_path / "models", "--workers", "3", "--memory", "96MiB", "--cache-fill", "none",
        data_dir=tmp_path / "data",
    ) as server:
        until(lambda: len(server.client.instances()) == 3, "they see each other")
        with asking(server, names) as (failed, goes_on):
            goes_on(150)
            # Three caches would load each model three times; what is hot gets a copy more.
            assert server.client.status().totals.loads < 2 * len(names)
        assert failed == []
        assert {each.state for each in server.client.models()} == {"ready"}
