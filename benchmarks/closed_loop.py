"""A closed loop over raw sockets, and servers in processes of their own: what benchmarks share.

Each connection sends the next request when it has the last answer. Rounds of different servers
alternate. `requests/s` depends on the load generator and on who else uses the machine; ratios are
of the servers' processor time per request, which hardly does.
"""

from __future__ import annotations

import argparse
import itertools
import os
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil


@dataclass
class Target:
    """What is measured: a server and the requests that it gets in turn. `is_right`: of an answer's
    last bytes."""

    pid: int
    port: int
    requests: Sequence[bytes]
    is_right: Callable[[bytes], bool]
    cost_us: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a round")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    return parser


def load(target: Target, options: argparse.Namespace) -> int:
    """Requests answered in a round."""
    sockets: dict[int, socket.socket] = {}
    poll = select.epoll()
    following = itertools.cycle(target.requests)
    for _ in range(options.connections):
        sock = socket.create_connection(("127.0.0.1", target.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[sock.fileno()] = sock
        poll.register(sock, select.EPOLLIN)
        sock.sendall(next(following))
    count = 0
    until = time.perf_counter() + options.seconds
    while time.perf_counter() < until:
        # Never sleeps: waking it up would cost the server's writes more than some answers do.
        for number, _ in poll.poll(0):
            sock = sockets[number]
            answer = sock.recv(65536)
            if not target.is_right(answer):
                sys.exit(f"a wrong answer: {answer!r}")
            count += 1
            sock.send(next(following))
    for sock in sockets.values():
        sock.recv(65536)
        sock.close()
    return count


def measure(targets: dict[str, Target], options: argparse.Namespace) -> dict[str, float]:
    """Alternate rounds; print a table; the median ratio of the first target's cost to each."""
    for _ in range(options.rounds):
        for target in targets.values():
            process = psutil.Process(target.pid)
            before = sum(process.cpu_times()[:2])
            count = load(target, options)
            target.cost_us.append((sum(process.cpu_times()[:2]) - before) / count * 1e6)
            target.per_s.append(count / options.seconds)
    first = next(iter(targets.values()))
    ratios = {}
    for name, target in targets.items():
        pairs = zip(first.cost_us, target.cost_us, strict=True)
        ratios[name] = round(statistics.median([base / cost for base, cost in pairs]), 3)
        print(
            f"{name:>28}: {statistics.median(target.per_s):8,.0f} requests/s,"
            f" {statistics.median(target.cost_us):6.2f} µs of processor time a request,"
            f" ratio {ratios[name]:.2f}"
        )
    return ratios


def pin_client() -> None:
    """The load generator on the last processor, servers on the first (see `server`)."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])


@contextmanager
def servers(module: str, kinds: Sequence[str]) -> Iterator[dict[str, tuple[int, int]]]:
    """Processes `python -m benchmarks.<module> --serve KIND`, each on the first processor, that
    print their port; yields process id and port by kind."""
    cores = os.sched_getaffinity(0)
    children = []
    found = {}
    try:
        for kind in kinds:
            child = subprocess.Popen(
                [sys.executable, "-m", module, "--serve", kind], stdout=subprocess.PIPE,
                preexec_fn=lambda: os.sched_setaffinity(0, sorted(cores)[:1]),
            )
            children.append(child)
            assert child.stdout is not None
            found[kind] = (child.pid, int(child.stdout.readline()))
        yield found
    finally:
        for child in children:
            child.terminate()
            child.wait()


def announce(port: int) -> None:
    """Tell the parent where this server listens."""
    print(port, flush=True)
