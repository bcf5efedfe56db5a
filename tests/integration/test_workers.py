"""`shoal serve --workers 2`: real processes on the same ports."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil
import pytest
from tests.served import Served, until
from tests.trouble import REQUEST, put, source

FLAGS = ("--workers", "2", "--memory", "64MiB")
REPLACED = "all workers are replaced"


@dataclass(frozen=True)
class Worker:
    pid: int
    instance: str


def workers(server: Served) -> list[Worker]:
    """Those that live, by their numbers."""
    found = []
    for process in psutil.Process(server.process.pid).children():
        try:
            command = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        if "shoal.cli.worker" in command:
            found.append(Worker(process.pid, command[-1]))
    return sorted(found, key=lambda worker: worker.instance.rpartition("-")[2])


def address(server: Served) -> tuple[str, int]:
    host, port = server.url.removeprefix("http://").split(":")
    return host, int(port)


class Asking:
    """A client with one connection."""

    def __init__(self, server: Served) -> None:
        self._socket = socket.create_connection(address(server), timeout=30)
        self._http = httpx2.Client(base_url=server.url, timeout=30)
        body = httpx2.Request("POST", server.url, json=REQUEST).read()
        self._request = (
            b"POST /v2/models/double/infer HTTP/1.1\r\nHost: x\r\nContent-Length: "
            + str(len(body)).encode() + b"\r\n\r\n" + body
        )

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()
        self._http.close()

    def is_answered(self) -> bool:
        self._socket.sendall(self._request)
        return self._socket.recv(4096).startswith(b"HTTP/1.1 200 ")

    def is_with(self, worker: Worker) -> bool:
        mine = self._socket.getsockname()
        return any(
            tuple(each.raddr) == mine
            for each in psutil.Process(worker.pid).net_connections(kind="tcp") if each.raddr
        )


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    base = tmp_path_factory.mktemp("fleet")
    put(base / "models", "double", source())
    with Served(base / "models", *FLAGS, data_dir=base / "data") as server:
        yield server


@pytest.fixture
def clients(fleet: Served) -> Iterator[dict[Worker, Asking]]:
    """One for each worker."""
    found: dict[Worker, Asking] = {}
    spare = []
    while len(found) < 2:
        asking = Asking(fleet)
        assert asking.is_answered()
        owner = next(each for each in workers(fleet) if asking.is_with(each))
        if owner in found:
            spare.append(asking)
            assert len(spare) < 100, "all connections go to one worker"
        else:
            found[owner] = asking
    yield found
    for asking in (*found.values(), *spare):
        asking.__exit__()


def metrics(server: Served, accept: str = "text/plain") -> str:
    return httpx2.get(server.management + "/metrics", headers={"Accept": accept}).text


def test_the_start_is_told_once_for_all(fleet: Served) -> None:
    [serving] = [line for line in fleet.logs if line["event"] == "serving"]
    assert (serving["workers"], serving["models"], serving["budget_bytes"]) == (2, 1, 64 << 20)
    parts = [line for line in fleet.logs if line["event"] == "worker serving"]
    assert sorted(str(line["worker"]) for line in parts[:2]) == ["1", "2"]
    assert [line["budget_bytes"] for line in parts[:2]] == [32 << 20, 32 << 20]


def test_each_worker_is_an_instance_of_its_own(fleet: Served) -> None:
    name = re.escape(socket.gethostname())
    for number, worker in enumerate(workers(fleet), 1):
        assert re.fullmatch(rf"{name}-[0-9a-f]{{6}}-w{number}", worker.instance)
    answering = httpx2.get(fleet.management + "/api/v1/instances").json()[0]["id"]
    assert answering in {worker.instance for worker in workers(fleet)}


def test_one_page_of_metrics_has_all_workers(
    fleet: Served, clients: dict[Worker, Asking]
) -> None:
    for accept in ("text/plain", "application/openmetrics-text; version=1.0.0"):
        page = metrics(fleet, accept)
        registered = re.findall(
            r'^shoal_registered_models\{worker="(\d)"\} (\S+)', page, re.MULTILINE)
        assert [(number, float(count)) for number, count in sorted(registered)] == [
            ("1", 1.0), ("2", 1.0)]
        # A request is counted where it is answered, by whichever worker has the model.
        answered = re.findall(
            r'^shoal_requests_total\{worker="\d",model="double",.*code="200"\} (\S+)', page,
            re.MULTILINE,
        )
        assert sum(map(float, answered)) >= len(clients)
        assert page.count("# TYPE shoal_requests") == 1
        assert "\nshoal_workers_unreachable 0.0\n" in page


def test_a_killed_worker_comes_back_and_clients_of_the_other_notice_nothing(
    fleet: Served, clients: dict[Worker, Asking]
) -> None:
    killed, other = clients
    def starts() -> int:
        return len([line for line in list(fleet.logs) if line["event"] == "worker serving"])

    before = starts()
    os.kill(killed.pid, signal.SIGKILL)
    assert clients[other].is_answered()
    until(lambda: fleet.find("worker ended and is started again"), "its death is noticed")
    with Asking(fleet) as another:  # the socket stays open: nobody is refused meanwhile
        assert another.is_answered()
    until(lambda: starts() > before, "it is back")
    now = workers(fleet)
    assert len(now) == 2
    assert other in now
    assert killed not in now
    assert clients[other].is_answered()


def test_hangup_replaces_the_workers_without_a_failed_request(fleet: Served) -> None:
    before = workers(fleet)
    stop = threading.Event()
    failed: list[object] = []
    answered: list[int] = []

    def ask() -> None:
        with httpx2.Client(base_url=fleet.url, timeout=30) as http:
            while not stop.is_set():
                try:
                    response = http.post("/v2/models/double/infer", json=REQUEST)
                except httpx2.HTTPError as error:
                    failed.append(error)
                else:
                    (failed if response.status_code != 200 else answered).append(
                        response.status_code
                    )
                stop.wait(0.01)

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    fleet.process.send_signal(signal.SIGHUP)
    until(lambda: fleet.find(REPLACED), "all are replaced")
    stop.set()
    for thread in asking:
        thread.join(30)
    assert failed == []
    assert len(answered) > 50
    until(lambda: len(workers(fleet)) == 2, "the old ones are gone")
    assert not set(before) & set(workers(fleet))
    assert "\nshoal_workers_unreachable 0.0\n" in metrics(fleet)


def test_the_end_leaves_nothing(tmp_path: Path) -> None:
    put(tmp_path / "models", "double", source())
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # the paths of sockets must be short
        with Served(
            tmp_path / "models", *FLAGS, data_dir=tmp_path / "data", environ={"TMPDIR": short}
        ) as server:
            running = workers(server)
            assert len(list(Path(short).glob("shoal-*/worker-*.sock"))) == 2
            assert server.stop() == 0
        assert not any(psutil.pid_exists(worker.pid) for worker in running)
        assert list(Path(short).iterdir()) == []
    assert server.other_lines == []


def test_workers_end_in_order_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    put(tmp_path / "models", "double", source())
    with Served(
        tmp_path / "models", *FLAGS, data_dir=tmp_path / "data", environ={"TMPDIR": str(tmp_path)}
    ) as server:
        running = [psutil.Process(worker.pid) for worker in workers(server)]
        server.process.kill()
        gone, alive = psutil.wait_procs(running, timeout=30)
        assert alive == []
        assert len(gone) == 2
        until(lambda: len([x for x in server.logs if x["event"] == "ended"]) == 2, "both ended")
    assert list(tmp_path.glob("shoal-*")) == []


def refused(*arguments: str | Path) -> tuple[int, str]:
    """Exit status and what was said, of a server that does not start."""
    ended = subprocess.run(
        [str(Path(sys.executable).with_name("shoal")), "serve", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "COLUMNS": "1000"},
    )
    return ended.returncode, ended.stderr


def test_a_port_that_is_taken_is_one_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, said = refused(
            *FLAGS, "--data-dir", tmp_path, "--management-port", "0", "--http-port", port
        )
    assert status == 5
    assert said.count("error: ") == 1
    assert re.search(rf"cannot listen on 127.0.0.1:{port}: .*in use.*--http-port", said)


def test_a_registry_in_memory_cannot_be_shared(tmp_path: Path) -> None:
    status, said = refused(*FLAGS, "--data-dir", tmp_path, "--registry-url", "memory")
    assert status == 5
    assert "--workers to 1" in said


def test_what_no_worker_can_start_with_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, said = refused(
        *FLAGS, "--data-dir", tmp_path / "file", "--http-port", "0", "--grpc-port", "0",
        "--management-port", "0",
    )
    assert status == 5
    assert said.count("error: ") == 1
    assert "cannot be made" in said
    assert "Traceback" not in said


HANGING = """
    def predict(self, inputs, parameters):
        import ctypes
        ctypes.PyDLL(None).sleep(60)  # with the interpreter's lock
"""


def test_a_worker_whose_loop_hangs_says_where_and_is_replaced(tmp_path: Path) -> None:
    path = put(tmp_path / "models", "hanging", source(HANGING))
    with Served(
        *FLAGS, "--recycle-hang-timeout-s", "3", "--trust-locations", path.parent,
        data_dir=tmp_path / "data",
    ) as server:
        before = workers(server)
        server.client.register("hanging", str(path.parent), repeatable=False)

        def reaches_it() -> bool:
            """The other worker may not know it yet; that which hangs cuts the connection."""
            try:
                answer = httpx2.post(
                    f"{server.url}/v2/models/hanging/infer", json=REQUEST, timeout=30)
            except httpx2.RemoteProtocolError:
                return True
            return answer.status_code != 404

        until(reaches_it, "a request hangs")
        replaced = "worker ended and is started again"
        until(lambda: [x for x in server.logs if x["event"] == replaced], "it is noticed")
        [told] = [line for line in server.logs if line["event"] == replaced]
        assert told["how"] == "hung and was ended"
        until(lambda: len(workers(server)) == 2, "another serves in its place")
        assert len(set(before) & set(workers(server))) == 1
        assert any('model.py", line' in line and "in predict" in line
                   for line in server.other_lines)
