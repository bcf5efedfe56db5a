"""The management server on a real socket, in this loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator

import httpx2
import pytest
from tests.fake_control import FakeControl

from shoal.domain.errors import InvalidSpecification
from shoal.domain.model import ModelSpec
from shoal.management.api import create_app
from shoal.management.server import ManagementServer

DEADLINE_S = 10.0


def expose(_accept: str) -> tuple[bytes, str]:
    return b"", "text/plain"


@pytest.fixture
def control() -> FakeControl:
    return FakeControl(ModelSpec(name="churn", uri="/models/slow"))


@pytest.fixture
async def server(control: FakeControl) -> AsyncIterator[ManagementServer]:
    server = ManagementServer(create_app(control, expose), "127.0.0.1", 0)
    await server.start()
    yield server
    await server.stop(timeout_s=0.0)


@pytest.fixture
async def client(server: ManagementServer) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(
        base_url=f"http://{server.address}", timeout=DEADLINE_S, trust_env=False
    ) as client:
        yield client


async def test_a_started_server_answers_at_its_address(
    server: ManagementServer, client: httpx2.AsyncClient
) -> None:
    assert not server.address.endswith(":0")
    response = await client.get("/api/v1/models/churn", headers={"X-Request-Id": "r-1"})
    assert (response.status_code, response.json()["name"]) == (200, "churn")
    assert response.headers["x-request-id"] == "r-1"


async def test_head_sends_no_body(client: httpx2.AsyncClient) -> None:
    for _ in range(2):  # a body that was sent all the same would spoil the second answer
        response = await client.head("/api/v1/models")
        assert (response.status_code, response.content) == (200, b"")
        assert int(response.headers["content-length"]) > 0


async def test_the_server_leaves_signals_and_logging_alone(control: FakeControl) -> None:
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    log_handlers = {name: logging.getLogger(name).handlers[:] for name in (None, "uvicorn")}
    server = ManagementServer(create_app(control, expose), "127.0.0.1", 0)
    await server.start()
    assert {each: signal.getsignal(each) for each in handlers} == handlers
    assert {name: logging.getLogger(name).handlers for name in log_handlers} == log_handlers
    await server.stop(timeout_s=DEADLINE_S)


async def test_a_port_in_use_is_named_with_the_way_out(control: FakeControl) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = ManagementServer(create_app(control, expose), "127.0.0.1", port)
        with pytest.raises(InvalidSpecification) as caught:
            await server.start()
    for part in (f"127.0.0.1:{port}", "in use", "--management-port"):
        assert part in caught.value.message
    await server.stop(timeout_s=0.0)


async def test_an_address_of_another_machine_is_refused(control: FakeControl) -> None:
    server = ManagementServer(create_app(control, expose), "192.0.2.1", 0)
    with pytest.raises(InvalidSpecification, match=r"192\.0\.2\.1:0: no network interface"):
        await server.start()


@pytest.mark.parametrize("host", ["no such host", "x" * 64])
async def test_a_host_that_cannot_be_resolved_is_refused(control: FakeControl, host: str) -> None:
    server = ManagementServer(create_app(control, expose), host, 8082)
    with pytest.raises(InvalidSpecification, match=rf"{host}:8082.*--management-host"):
        await server.start()


async def test_a_name_is_served_on_all_its_addresses(control: FakeControl) -> None:
    server = ManagementServer(create_app(control, expose), "localhost", 0)
    await server.start()
    host, _, port = server.address.rpartition(":")
    assert host == "localhost"
    for *_, address in await asyncio.get_running_loop().getaddrinfo(host, int(port)):
        with contextlib.suppress(ConnectionRefusedError):  # an address this machine may lack
            _, writer = await asyncio.open_connection(*address[:2])
            break
    else:
        pytest.fail("nothing listens on localhost")
    writer.close()
    await server.stop(timeout_s=DEADLINE_S)


async def test_a_port_is_free_again_after_the_stop(control: FakeControl) -> None:
    first = ManagementServer(create_app(control, expose), "127.0.0.1", 0)
    await first.start()
    port = int(first.address.rpartition(":")[2])
    await first.stop(timeout_s=DEADLINE_S)
    second = ManagementServer(create_app(control, expose), "127.0.0.1", port)
    await second.start()
    await second.stop(timeout_s=DEADLINE_S)


async def test_a_stop_lets_running_requests_finish(
    server: ManagementServer, client: httpx2.AsyncClient, control: FakeControl
) -> None:
    loading = asyncio.create_task(client.post("/api/v1/models/churn/load"))
    await asyncio.wait_for(control.loading.wait(), DEADLINE_S)
    stopping = asyncio.create_task(server.stop(timeout_s=DEADLINE_S))
    await refuses(server.address)
    assert not stopping.done()
    control.release.set()
    assert (await loading).json()["state"] == "ready"
    await stopping


async def test_a_stop_that_runs_out_of_time_answers_what_still_runs(
    server: ManagementServer,
    client: httpx2.AsyncClient,
    control: FakeControl,
    caplog: pytest.LogCaptureFixture,
) -> None:
    headers = {"X-Request-Id": "r-9"}
    loading = asyncio.create_task(client.post("/api/v1/models/churn/load", headers=headers))
    await asyncio.wait_for(control.loading.wait(), DEADLINE_S)
    await server.stop(timeout_s=0.0)
    response = await loading
    assert (response.status_code, response.json()["code"]) == (503, "SHUTTING_DOWN")
    assert response.headers["x-request-id"] == "r-9"
    assert "retry-after" in response.headers
    assert caplog.records == []  # no fault to report, least of all with a traceback


async def test_idle_and_half_sent_requests_do_not_hold_up_a_stop(
    server: ManagementServer, client: httpx2.AsyncClient
) -> None:
    await client.get("/health/live")  # its connection stays open
    host, _, port = server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /api/v1/models HTTP/1.1\r\nHost: shoal\r\nContent-Length: 100\r\n\r\n{")
    await client.get("/health/live")  # the half one has been seen when this is answered
    await asyncio.wait_for(server.stop(timeout_s=0.0), DEADLINE_S)
    assert b"SHUTTING_DOWN" in await reader.read()
    writer.close()


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_fault(
    server: ManagementServer, client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    host, _, port = server.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /api/v1/models HTTP/1.1\r\nHost: shoal\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await client.get("/health/live")).status_code == 200
    await server.stop(timeout_s=DEADLINE_S)
    assert caplog.records == []


async def test_stopping_twice_is_stopping_once(control: FakeControl) -> None:
    server = ManagementServer(create_app(control, expose), "127.0.0.1", 0)
    await server.stop(timeout_s=0.0)
    await server.start()
    await server.stop(timeout_s=DEADLINE_S)
    await server.stop(timeout_s=DEADLINE_S)


async def refuses(address: str) -> None:
    """Return once nothing accepts connections at `address`."""
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                return
            writer.close()
            await asyncio.sleep(0)
