"""Clients that know three servers, of which one ends under load and comes back."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from textwrap import dedent
from typing import Final

import grpc
import numpy as np
import pytest
from tests import grpc_requests
from tests.ports import HeldPort
from tests.served import Served, until
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

import shoal

SERVERS: Final = 3
PORT_FLAGS: Final = ("--http-port", "--grpc-port", "--management-port")
CALLERS: Final = 4
CALLS: Final = 100  # in each phase of the load, at least
# Slow enough that calls are on their way whenever a server ends.
ECHO: Final = """
    import time


    class Model:
        max_concurrency = 8

        def predict(self, inputs, parameters):
            time.sleep(0.002)
            return dict(inputs)
"""
SERVICE_CONFIG: Final = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [{
        "name": [{"service": "inference.GRPCInferenceService"}],
        "retryPolicy": {
            "maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "1s",
            "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"],
        },
    }],
}  # fmt: skip


class Fleet:
    """Servers that have nothing in common but their models. All run between tests."""

    def __init__(self, base: Path) -> None:
        self._folder, self._base = base / "models", base
        (self._folder / "echo").mkdir(parents=True)
        (self._folder / "echo" / "model.py").write_text(dedent(ECHO))
        self._ports = [[HeldPort() for _ in PORT_FLAGS] for _ in range(SERVERS)]
        with ThreadPoolExecutor() as pool:
            self.servers = list(pool.map(self._start, range(SERVERS)))

    def _start(self, number: int) -> Served:
        ports = zip(PORT_FLAGS, map(str, self._ports[number]), strict=True)
        return Served(
            self._folder, "--no-folder-watch", *chain(*ports),
            data_dir=self._base / f"data-{number}",
        )

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def end(self, number: int, by: signal.Signals) -> None:
        self.servers[number].process.send_signal(by)
        self.servers[number].stop()

    def revive(self, number: int) -> None:
        """At the addresses that it had."""
        self.servers[number] = self._start(number)

    def answered(self, number: int) -> int:
        """Inferences since its start."""
        answer = self.servers[number].http.get("/v2/models/echo/stats").json()
        count: int = answer["model_stats"][0]["inference_count"]
        return count

    def stop(self) -> None:
        for server in self.servers:
            server.stop()
        for port in chain(*self._ports):
            port.close()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    made = Fleet(tmp_path_factory.mktemp("fleet"))
    yield made
    made.stop()


class Load:
    """What callers did: how many calls went well, and what the others raised."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.done = 0
        self.failed: list[BaseException] = []
        self._lock = threading.Lock()

    def count(self, value: float, answer: float) -> None:
        with self._lock:
            assert answer == value
            self.done += 1

    def repeat(self, call: Callable[[float], float]) -> None:
        """Until it is over."""
        value = 0.0
        while not self.over.is_set():
            value += 1.0
            try:
                self.count(value, call(value))
            except Exception as error:  # noqa: BLE001 -- any is what the test looks for
                self.failed.append(error)

    def more(self) -> None:
        """Wait for some more calls."""
        enough = self.done + CALLS
        until(lambda: self.done >= enough or self.failed, f"{CALLS} more calls")


def outlive(
    fleet: Fleet, load: Load, victim: int, by: signal.Signals = signal.SIGKILL
) -> None:
    """The load goes on while one server ends and comes back, and then reaches it again."""
    try:
        load.more()
        assert fleet.answered(victim) > 0
        fleet.end(victim, by)
        load.more()
        fleet.revive(victim)
        until(lambda: fleet.answered(victim) >= 10, "calls to the server that came back")
    finally:
        load.over.set()
    assert load.failed == []
    assert all(fleet.answered(number) > 0 for number in range(SERVERS))


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_a_shared_client_fails_no_call_while_a_server_ends_and_comes_back(
    fleet: Fleet, by: signal.Signals
) -> None:
    load = Load()
    with shoal.Client(fleet.urls, timeout_s=20) as client, ThreadPoolExecutor(CALLERS) as pool:
        def call(value: float) -> float:
            result = client.infer("echo", {"x": np.array([value])})
            return float(result["x"][0])

        for _ in range(CALLERS):
            pool.submit(load.repeat, call)
        outlive(fleet, load, 0, by)


async def test_an_async_client_fails_no_call_while_a_server_ends_and_comes_back(
    fleet: Fleet,
) -> None:
    load = Load()

    async def repeat(client: shoal.AsyncClient) -> None:
        value = 0.0
        while not load.over.is_set():
            value += 1.0
            try:
                result = await client.infer("echo", {"x": np.array([value])})
                load.count(value, float(result["x"][0]))
            except Exception as error:  # noqa: BLE001 -- any is what the test looks for
                load.failed.append(error)

    async with shoal.AsyncClient(fleet.urls, timeout_s=20) as client, asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(repeat(client))
        await asyncio.to_thread(outlive, fleet, load, 1)


def test_grpcio_balances_and_repeats_by_its_service_config(fleet: Fleet) -> None:
    target = "ipv4:" + ",".join(server.grpc for server in fleet.servers)
    options = [
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
    load = Load()
    with (
        grpc.insecure_channel(target, options=options) as channel,
        ThreadPoolExecutor(CALLERS) as pool,
    ):
        stub = GRPCInferenceServiceStub(channel)

        def call(value: float) -> float:
            answer = stub.ModelInfer(grpc_requests.one(value=value), timeout=20)
            return grpc_requests.floats(answer)[0]

        for _ in range(CALLERS):
            pool.submit(load.repeat, call)
        outlive(fleet, load, victim=2)


def test_management_goes_to_another_server_when_the_first_is_away(fleet: Fleet) -> None:
    addresses = ["http://127.0.0.1:1", *(server.management for server in fleet.servers)]
    with shoal.Client(fleet.urls, management=addresses) as client:
        assert client.model("echo").name == "echo"
        client.unload("echo")
        assert client.model("echo").state == "unloaded"  # by the same server: it has kept to one
        client.load("echo")

