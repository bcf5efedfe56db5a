"""Slow models, too many requests, too little memory, hostile code: each request is answered."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.served import Served, until
from tests.trouble import (
    ANSWER,
    HELD,
    HELD_LOAD,
    REQUEST,
    Asked,
    Gate,
    answer,
    put,
    refusal,
    said,
    source,
    waiting,
)

from shoal.domain.errors import LoadFailed, TooLarge

MIB = 1024 * 1024
Register = Callable[..., str]


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("requests") / "trusted"


@pytest.fixture(scope="module")
def server(trusted: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    trusted.mkdir()
    with Served(
        "--trust-locations", trusted, "--memory", "16MiB", "--cache-fill", "none",
        "--request-max-queued-per-model", "3", "--load-max-waiting-per-model", "5",
        "--request-timeout-s", "25", "--load-retry-base-s", "0.1", "--request-threads", "6",
        data_dir=tmp_path_factory.mktemp("data"),
    ) as served:
        yield served


@pytest.fixture
def register(server: Served, trusted: Path) -> Iterator[Register]:
    """Registers a model for the length of a test: `register("name", source(…), pin=True)`."""
    names: list[str] = []

    def register(name: str, text: str = source(), **fields: object) -> str:
        path = put(trusted, name, text)
        server.client.register(name, str(path.parent), **fields)  # type: ignore[arg-type]
        names.append(name)
        return name

    yield register
    for name in names:
        server.client.unregister(name)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.open()


# --- slow models --------------------------------------------------------------------------------


def test_a_slow_model_does_not_delay_others(
    server: Served, register: Register, gate: Gate
) -> None:
    slow, quick = register("slow", source(HELD, gate=gate)), register("quick")
    held = [Asked(server, slow) for _ in range(3)]
    gate.wait_for(1)
    for _ in range(20):
        assert answer(server, quick) == [2.0, 4.0]
    assert not any(each.done for each in held)
    gate.open()
    assert [each.status for each in held] == [200, 200, 200]


def test_a_slow_load_does_not_delay_others(
    server: Served, register: Register, gate: Gate
) -> None:
    slow, quick = register("slow-load", source(HELD_LOAD, gate=gate)), register("quick-2")
    held = Asked(server, slow)
    gate.wait_for(1)
    assert answer(server, quick) == [2.0, 4.0]
    assert not held.done
    gate.open()
    assert held.status == 200


def test_a_full_queue_is_answered_429(server: Served, register: Register, gate: Gate) -> None:
    name = register("queued", source(HELD, gate=gate))
    running = Asked(server, name)
    gate.wait_for(1)
    asked: list[Asked] = []

    def overflow() -> bool:
        asked.append(Asked(server, name))
        return any(each.done for each in asked)

    until(overflow, "one too many")
    refused = [each for each in asked if each.done]
    assert [each.status for each in refused] == [429] * len(refused)
    assert int(refused[0].response.headers["retry-after"]) >= 1
    assert "request.max_queued_per_model" in refused[0].response.json()["error"]
    gate.open()
    assert running.status == 200
    assert sorted({each.status for each in asked}) == [200, 429]
    assert sum(each.status == 200 for each in asked) >= 3


def test_too_many_requests_for_one_load_are_refused(
    server: Served, register: Register, gate: Gate
) -> None:
    name = register("wanted", source(HELD_LOAD + ANSWER, gate=gate), max_concurrency=4)
    held = [Asked(server, name) for _ in range(5)]
    until(lambda: waiting(server) == 5, "five wait")
    status, cause = refusal(server, name)
    assert status == 429
    assert "load.max_waiting_per_model" in cause
    gate.open()
    # Now they want the copy all at once: one runs, some queue.
    assert {each.status for each in held} <= {200, 429}
    assert waiting(server) == 0


def test_a_request_that_takes_too_long_is_answered_504(
    server: Served, register: Register, gate: Gate
) -> None:
    name = register("endless", source(HELD, gate=gate))
    asked = Asked(server, name, timeout_ms=300)
    assert asked.status == 504
    assert "did not answer within 0.3 s" in asked.response.json()["error"]
    gate.open()
    assert answer(server, name) == [2.0, 4.0]


def test_a_load_that_takes_too_long_is_answered_504_and_goes_on(
    server: Served, register: Register, gate: Gate
) -> None:
    name = register("endless-load", source(HELD_LOAD, gate=gate))
    asked = Asked(server, name, timeout_ms=300)
    assert asked.status == 504
    assert "goes on loading" in asked.response.json()["error"]
    assert waiting(server) == 0
    gate.open()
    assert answer(server, name) == [2.0, 4.0]
    assert len(said(server, name, "loaded")) == 1


def leaving(server: Served, name: str) -> Callable[[], None]:
    """Send a request; the function that is returned closes its connection."""
    body = json.dumps(REQUEST).encode()
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(
        b"POST /v2/models/%b/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
        % (name.encode(), len(body), body))
    return connection.close


def test_a_client_that_leaves_while_it_waits_leaves_no_trace(
    server: Served, register: Register, gate: Gate
) -> None:
    name = register("left", source(HELD_LOAD, gate=gate))
    leave = leaving(server, name)
    until(lambda: waiting(server) == 1, "it waits")
    leave()
    until(lambda: waiting(server) == 0, "its ticket is gone")
    gate.open()
    assert answer(server, name) == [2.0, 4.0]


def test_clients_that_leave_while_queued_free_their_places(
    server: Served, register: Register, gate: Gate
) -> None:
    name = register("crowded", source(HELD, gate=gate))
    running = Asked(server, name)
    gate.wait_for(1)
    crowd: list[Callable[[], None]] = []

    def is_full() -> bool:
        crowd.append(leaving(server, name))
        return Asked(server, name, timeout_ms=100).status == 429

    until(is_full, "the queue is full")
    for leave in crowd:
        leave()
    asked: list[Asked] = []

    def queues() -> bool:
        asked.append(Asked(server, name, timeout_ms=100))
        return asked[-1].status == 504

    until(queues, "a place is free")
    gate.open()
    assert running.status == 200
    assert answer(server, name) == [2.0, 4.0]


# --- memory -------------------------------------------------------------------------------------


def test_a_running_copy_is_not_interrupted_by_eviction(
    server: Served, register: Register, gate: Gate
) -> None:
    first = register("first", source(HELD, gate=gate), memory_bytes=10 * MIB)
    second = register("second", source(factor=3), memory_bytes=10 * MIB)
    running = Asked(server, first)
    gate.wait_for(1)
    next_one = Asked(server, second)  # has to wait until the first has left
    until(lambda: said(server, first, "evicted"), "the first is to leave")
    again = Asked(server, first)  # loads it again
    until(lambda: waiting(server) == 2, "both wait")
    assert not running.done
    gate.open()
    assert [running.status, next_one.status, again.status] == [200, 200, 200]
    assert len(said(server, first, "loaded")) == 2


def test_larger_than_the_budget_is_refused_with_both_figures(
    server: Served, register: Register
) -> None:
    name = register("whale", memory_bytes=50 * MIB)
    status, cause = refusal(server, name)
    assert status == 503
    assert f"{50 * MIB:,} bytes" in cause
    assert f"{16 * MIB:,} bytes" in cause
    assert "--memory" in cause
    with pytest.raises(TooLarge):
        server.client.load(name)
    assert "retry-after" not in server.infer(name, REQUEST).headers
    ready = server.http.get(f"/v2/models/{name}/ready")
    assert ready.status_code == 503
    assert ready.json()["error"] == cause
    assert cause in " ".join(server.client.explain(name).summary)


def test_pinned_models_stay_and_the_rest_is_refused_for_lack_of_room(
    server: Served, register: Register
) -> None:
    pinned = register("pinned", source(factor=7), memory_bytes=10 * MIB, pin=True)
    until(lambda: server.client.model(pinned).state == "ready", "it is loaded unasked")
    other = register("other", memory_bytes=10 * MIB)
    small = register("small", memory_bytes=MIB)
    status, cause = refusal(server, other)
    assert status == 503
    assert "unpin a model" in cause
    assert answer(server, small) == [2.0, 4.0]
    assert answer(server, pinned) == [7.0, 14.0]
    assert not said(server, pinned, "evicted")
    server.client.unregister("pinned")
    until(lambda: refusal(server, other)[0] == 200, "there is room again")
    server.client.register("pinned", server.client.model(small).uri)


def test_an_idle_model_leaves_and_comes_back(server: Served, register: Register) -> None:
    name = register("idle", idle_ttl_s=0.1)
    assert answer(server, name) == [2.0, 4.0]
    until(lambda: server.client.model(name).state == "cold", "it is unloaded")
    assert "idle" in " ".join(server.client.explain(name).summary)
    assert answer(server, name) == [2.0, 4.0]


def test_out_of_service_until_it_is_loaded_by_hand(server: Served, register: Register) -> None:
    name = register("resting")
    assert answer(server, name) == [2.0, 4.0]
    server.client.unload(name)
    status, cause = refusal(server, name)
    assert status == 503
    assert "taken out of service" in cause
    assert server.http.get(f"/v2/models/{name}/ready").status_code == 503
    assert server.client.model(name).state == "unloaded"
    server.client.load(name)
    assert answer(server, name) == [2.0, 4.0]


def test_a_load_without_waiting_happens_though_loaders_are_busy(
    server: Served, register: Register, gate: Gate
) -> None:
    held = [register(f"busy-{n}", source(HELD_LOAD, gate=gate)) for n in range(2)]
    asked = [Asked(server, name) for name in held]
    gate.wait_for(1)
    until(lambda: server.client.instances()[0].loading == 2, "both loaders are busy")
    name = register("later")
    server.client.load(name, wait=False)
    assert server.client.model(name).state == "queued"
    gate.open()
    until(lambda: server.client.model(name).state == "ready", "it was loaded")
    assert [each.status for each in asked] == [200, 200]


# --- hostile code -------------------------------------------------------------------------------

RAISE_AT_13 = """
    def predict(self, inputs, parameters):
        if inputs["x"][0] == 13:
            {raising}
        return {{"y": inputs["x"] * FACTOR}}
"""
RAISINGS = {
    "SystemExit": "sys.exit(3)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "GeneratorExit": "raise GeneratorExit",
    "CancelledError": "import asyncio; raise asyncio.CancelledError",
    "StopIteration": "raise StopIteration",
    "MemoryError": "raise MemoryError",
    "RecursionError": "self.predict(inputs, parameters)",
    "TimeoutError": "raise TimeoutError",
    "ZeroDivisionError": "1 / 0",
}
AT_13: dict[str, object] = {
    "inputs": [{"name": "x", "datatype": "FP64", "shape": [2], "data": [13.0, 2.0]}]
}


@pytest.mark.parametrize("error", RAISINGS)
def test_whatever_predict_raises_is_one_failed_request(
    server: Served, register: Register, error: str
) -> None:
    text = source(RAISE_AT_13.format(raising=RAISINGS[error]))
    name = register(f"raises-{list(RAISINGS).index(error)}", text)
    first = server.infer(name, AT_13)  # on a thread
    for _ in range(5):
        assert answer(server, name) == [2.0, 4.0]
    second = server.infer(name, AT_13)  # on the event loop, where calls that are quick run
    for response in (first, second):
        assert response.status_code == 500
        assert error in response.json()["error"]
        assert name in response.json()["error"]
    assert answer(server, name) == [2.0, 4.0]
    assert error in said(server, name, "model_raised")[0]


@pytest.mark.parametrize("error", RAISINGS)
@pytest.mark.parametrize("where", ["import", "load"])
def test_whatever_loading_raises_is_one_failed_load(
    server: Served, register: Register, error: str, where: str
) -> None:
    raising = RAISINGS[error].replace("self.predict(inputs, parameters)", "self.load(folder)")
    if where == "load":
        text = source(f"    def load(self, folder):\n        {raising}\n{ANSWER}")
    elif error == "RecursionError":
        text = source() + "\ndef again():\n    again()\nagain()\n"
    else:
        text = source() + f"\n{raising}\n"
    name = register(f"fails-{where}-{list(RAISINGS).index(error)}", text)
    status, cause = refusal(server, name)
    assert status == 503
    assert error in cause
    with pytest.raises(LoadFailed, match=error):
        server.client.load(name)
    assert waiting(server) == 0


@pytest.mark.parametrize(
    "body",
    ["return None", "return [1, 2]", "return {}", 'return {"z": [1.0]}', 'return {"y": object()}',
     'return {"y": [[1.0], [1.0, 2.0]]}', 'return {"y": ["text"]}', 'return {"y": None}'],
)
def test_a_wrong_answer_is_one_failed_request(
    server: Served, register: Register, body: str
) -> None:
    name = register("wrong", source(f"def predict(self, inputs, parameters):\n    {body}"))
    response = server.infer(name, REQUEST)
    assert response.status_code == 500
    assert "model 'wrong'" in response.json()["error"]
    assert server.http.get("/v2/health/ready").status_code == 200


def test_a_close_that_raises_or_hangs_delays_nobody(
    server: Served, register: Register, gate: Gate
) -> None:
    held = HELD_LOAD.replace("def load(self, folder)", "def close(self)")
    slow = register("slow-close", source(held, gate=gate), memory_bytes=10 * MIB)
    rude = register("rude-close", source("    def close(self):\n        sys.exit(1)\n" + ANSWER))
    assert answer(server, slow) == answer(server, rude) == [2.0, 4.0]
    server.client.unload(rude)
    assert "SystemExit" in said(server, rude, "runtime_note")[0]
    server.client.unload(slow, wait=False)
    gate.wait_for(1)
    server.client.load(rude)
    assert answer(server, rude) == [2.0, 4.0]
    gate.open()
    until(lambda: server.client.instances()[0].used_bytes < 10 * MIB, "its bytes come back")


# --- many at once -------------------------------------------------------------------------------


def test_a_thousand_requests_for_one_cold_model_are_one_load(
    serve: Callable[..., Served], tmp_path: Path, gate: Gate
) -> None:
    put(tmp_path / "models", "cold", source(HELD_LOAD, gate=gate))
    server = serve(tmp_path / "models", "--cache-fill", "none")
    connections, each = 20, 50
    statuses: list[bytes] = []

    def ask() -> None:
        body = json.dumps(REQUEST).encode()
        host, port = server.url.removeprefix("http://").split(":")
        request = (
            b"POST /v2/models/cold/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body))
        last = request.replace(b"Host: x", b"Host: x\r\nConnection: close")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(request * (each - 1) + last)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
        statuses.extend(part[:3] for part in received.split(b"HTTP/1.1 ")[1:])

    threads = [threading.Thread(target=ask) for _ in range(connections)]
    for thread in threads:
        thread.start()
    until(lambda: waiting(server) == connections * each, "all wait")
    gate.open()
    for thread in threads:
        thread.join()
    assert statuses == [b"200"] * (connections * each)
    assert len(said(server, "cold", "load_started")) == 1
    assert server.client.status().totals.loads == 1
    assert waiting(server) == 0
