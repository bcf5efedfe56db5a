"""Whole servers that share a registry in etcd: what one is told all know, and losing it stops
changes, not answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.etcd_server import EtcdServer
from tests.served import Served, until
from tests.trouble import answer, put, source

import shoal
from shoal.client import Retry
from shoal.domain.errors import StoreUnavailable

PASSWORD = "not-to-be-shown"


@pytest.fixture
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


def knows(server: Served, name: str) -> bool:
    return any(model.name == name for model in server.client.models())


def test_what_one_server_is_told_another_knows(
    serve: Callable[..., Served], etcd: EtcdServer, tmp_path: Path
) -> None:
    path = put(tmp_path / "trusted", "one", source(factor=3)).parent
    flags = ("--registry-url", f"{etcd.url}/mesh", "--trust-locations", tmp_path / "trusted")
    first = serve(*flags, data_dir=tmp_path / "first")
    second = serve(*flags, data_dir=tmp_path / "second")
    first.client.register("one", str(path))
    until(lambda: knows(second, "one"), "the other knows it")
    assert answer(second, "one") == [3.0, 6.0]
    second.client.unregister("one")
    until(lambda: not knows(first, "one"), "it is gone")


def test_losing_etcd_stops_changes_and_no_answers(
    serve: Callable[..., Served], etcd: EtcdServer, tmp_path: Path
) -> None:
    path = put(tmp_path / "trusted", "one", source(factor=3)).parent
    server = serve(
        "--registry-url", etcd.url, "--registry-timeout-s", "2",
        "--trust-locations", tmp_path / "trusted",
        environ={"SHOAL_REGISTRY_USERNAME": "shoal", "SHOAL_REGISTRY_PASSWORD": PASSWORD},
    )
    server.client.register("one", str(path))
    etcd.kill()
    until(lambda: any("registry" in each for each in server.client.status().problems), "it says so")
    assert answer(server, "one") == [3.0, 6.0]
    with (
        shoal.Client(server.url, management=server.management, retry=Retry(attempts=1)) as once,
        pytest.raises(StoreUnavailable, match="cannot be reached"),
    ):
        once.register("two", str(path))
    etcd.start()
    until(lambda: not server.client.status().problems, "it is back")
    server.client.register("two", str(path))
    assert knows(server, "one")
    assert knows(server, "two")

    shown = {each.name: each.value for each in server.client.settings()}
    assert shown["registry.password"] == "**********"
    assert server.stop() == 0
    assert server.other_lines == []
    assert PASSWORD not in str(server.logs)
