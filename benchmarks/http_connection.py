"""What the HTTP connection costs beside the least code that parses a request and answers it.

Both servers run on uvloop in processes of their own, pinned to one core; the load, a closed loop
over raw sockets, comes from another. Rounds alternate. `requests/s` depends on the load generator
and on who else uses the machine; the ratio is of the servers' processor time per request, which
hardly does.

    python benchmarks/http_connection.py [--rounds 15] [--seconds 0.5] [--connections 32]

The last line is JSON: the bare server's processor time a request over that of the whole connection
(1.0: as lean as the bare one), when clients repeat their heads, and when every head is another.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import time
from typing import cast

import httptools
import orjson
import psutil
import uvloop

from shoal.dataplane.http.message import Request, Response
from shoal.dataplane.http.reader import KnownHeads
from shoal.dataplane.http.server import Listen, Server
from shoal.settings import HttpSettings

REQUEST_BODY = orjson.dumps(
    {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}]}
)
REQUEST = (
    b"POST /v2/models/flowers/infer HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"
    b"User-Agent: benchmark\r\nAccept: */*\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(REQUEST_BODY), REQUEST_BODY)
)
ANSWER = orjson.dumps(
    {
        "model_name": "flowers",
        "outputs": [
            {"name": "y", "shape": [1, 3], "datatype": "FP32", "data": [0.9, 0.08, 0.02]}
        ],
    }
)
HEADERS = [(b"content-type", b"application/json")]


class Bare(asyncio.Protocol):
    """Parses, collects the body, answers. No limit, no order, no error, no header."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.parser = httptools.HttpRequestParser(self)
        self.url = self.body = b""

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_body(self, body: bytes) -> None:
        self.body = body

    def on_message_complete(self) -> None:
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (len(ANSWER), ANSWER)
        )


def answer(request: Request) -> Response:
    return Response(200, [ANSWER], HEADERS)


def report(error: BaseException, request: Request) -> None:
    raise error


async def serve(kind: str) -> None:
    if kind == "bare":
        server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
    else:
        shoal = Server(answer, HttpSettings(), listen=Listen(), on_error=report)
        await shoal.start()
        port = shoal.address[1]
    print(port, flush=True)
    await asyncio.Event().wait()


def load(port: int, requests: list[bytes], options: argparse.Namespace) -> int:
    """Requests answered in a round, each connection sending the next when it has the last."""
    sockets: dict[int, socket.socket] = {}
    poll = select.epoll()
    following = itertools.cycle(requests)
    for _ in range(options.connections):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[sock.fileno()] = sock
        poll.register(sock, select.EPOLLIN)
        sock.sendall(next(following))
    count = 0
    until = time.perf_counter() + options.seconds
    while time.perf_counter() < until:
        for number, _ in poll.poll():
            sock = sockets[number]
            data = sock.recv(65536)
            assert data.endswith(ANSWER), data
            count += 1
            sock.send(next(following))
    for sock in sockets.values():
        sock.recv(65536)
        sock.close()
    return count


def measure(servers: dict[str, tuple[int, int]], options: argparse.Namespace) -> dict[str, float]:
    repeated = [REQUEST]
    # More than are remembered, in turn: every one is parsed.
    varied = [REQUEST.replace(b"flowers", b"flower-%d" % i) for i in range(2 * KnownHeads.MOST)]
    rounds = {
        "bare": ("bare", repeated),
        "connection, heads known": ("connection", repeated),
        "connection, heads new": ("connection", varied),
    }
    rates: dict[str, list[float]] = {name: [] for name in rounds}
    costs: dict[str, list[float]] = {name: [] for name in rounds}
    for _ in range(options.rounds):
        for name, (server, requests) in rounds.items():
            pid, port = servers[server]
            process = psutil.Process(pid)
            before = sum(process.cpu_times()[:2])
            count = load(port, requests, options)
            costs[name].append((sum(process.cpu_times()[:2]) - before) / count * 1e6)
            rates[name].append(count / options.seconds)
    ratios = {}
    for name in rounds:
        pairs = zip(costs["bare"], costs[name], strict=True)
        ratios[name] = round(statistics.median([bare / whole for bare, whole in pairs]), 3)
        print(
            f"{name:>24}: {statistics.median(rates[name]):8,.0f} requests/s"
            f" {statistics.median(costs[name]):6.2f} µs of processor time a request,"
            f" ratio {ratios[name]:.2f}"
        )
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--serve", choices=["bare", "connection"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if options.serve:
        os.sched_setaffinity(0, cores[:1])
        uvloop.run(serve(options.serve))
        return
    os.sched_setaffinity(0, cores[-1:])
    children = []
    servers = {}
    try:
        for kind in ("bare", "connection"):
            child = subprocess.Popen(
                [sys.executable, __file__, "--serve", kind],
                stdout=subprocess.PIPE,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )
            children.append(child)
            assert child.stdout is not None
            servers[kind] = (child.pid, int(child.stdout.readline()))
        ratios = measure(servers, options)
    finally:
        for child in children:
            child.terminate()
            child.wait()
    print(
        json.dumps(
            {
                "http_connection_vs_bare": ratios["connection, heads known"],
                "http_connection_new_heads_vs_bare": ratios["connection, heads new"],
            }
        )
    )


if __name__ == "__main__":
    main()
