"""What it costs that another instance answers: the entry's processor time, and the time it adds.

    python -m benchmarks mesh-forward [--rounds 9] [--seconds 1] [--connections 32]

Two instances of which only one may hold the model; W1 (HTTP) and W3 (gRPC) as in `ceiling`. Each
is asked at the one that has the copy and at the other one, in alternating rounds of closed loops:
many connections for processor time, then a single one for latency. The last line is JSON. Of W1
are `entry_cpu_us`: processor time of the entry for a forwarded request; `entry_vs_own`: that over
what an instance needs for a request that it answers itself, which moves less from machine to
machine; `added_p50_ms`: by how much the median answer is later than from the instance itself. The
same of W3 with `grpc_` before it.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from benchmarks import flowers
from benchmarks.channels import Unanswered, polled
from benchmarks.closed_loop import GrpcTarget, Target, arguments, load
from benchmarks.machine import pin_client, processors, server_processors
from benchmarks.mesh_world import Node, World, until
from benchmarks.open_loop import percentile
from benchmarks.processes import processor_s

ROLE = "role=holder"
WARM_S = 2.0  # until both know that the model is quick


@dataclass
class Way:
    """A way to the model: a target, and what was measured of it."""

    target: Target
    cost_us: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    requests: int = 0
    failed: int = 0

    def run(self, options: Namespace) -> None:
        """A round of many connections."""
        before = processor_s(self.target.pid)
        try:
            count = load(self.target, options)
        except Unanswered:
            self.failed += 1
            return
        self.requests += count
        self.cost_us.append((processor_s(self.target.pid) - before) / count * 1e6)

    def run_alone(self, seconds: float) -> None:
        """A round of one request at a time."""
        taken: list[float] = []
        try:
            with polled(self.target.connect(1)) as (poll, channels):
                (channel,) = channels.values()
                until_s = perf_counter() + seconds
                channel.send([perf_counter()])
                while perf_counter() < until_s or not taken:
                    for _ in poll.poll(0):
                        for mark in channel.receive():
                            now = perf_counter()
                            taken.append((now - mark) * 1e3)
                            channel.send([now])
        except Unanswered:
            self.failed += 1
            return
        self.requests += len(taken)
        self.p50_ms.append(percentile(sorted(taken), 0.5))


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(rounds=9, seconds=1.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        registry = f"sqlite:{folder / 'registry.sqlite3'}"
        with World(folder, registry, "--mesh-join", "on", "--cache-fill", "none") as world:
            entry, holder = world.start((), ("--mesh-labels", ROLE))
            (folder / "models" / "flowers.onnx").write_bytes(flowers.model_bytes())
            world.register(["flowers"], placement={"required": dict([ROLE.split("=")])})
            figures = measured(entry, holder, options)
    print(json.dumps(figures))


def measured(entry: Node, holder: Node, options: Namespace) -> dict[str, float]:
    place(entry, holder)
    entry.infer("flowers", flowers.JSON_BODY).raise_for_status()
    as_json, as_bytes = flowers.right_parts()
    ways = {
        "": [Way(Target(node.process.pid, port(node.url), [flowers.W1],
                        lambda answer: as_json in answer)) for node in (entry, holder)],
        "grpc_": [Way(GrpcTarget(node.process.pid, port(node.grpc), flowers.w3(),
                                 lambda answer: as_bytes in answer)) for node in (entry, holder)],
    }
    figures: dict[str, float] = {}
    before = entry.metric("shoal_forwarded_requests_total", "answered")
    for key, (forwarded, own) in ways.items():
        warm(forwarded)
        for _ in range(options.rounds):
            for way in (forwarded, own):
                way.run(options)
                way.run_alone(options.seconds)
        figures |= compared(key, forwarded, own)
    all_ways = [way for pair in ways.values() for way in pair]
    expected = sum(pair[0].requests for pair in ways.values())
    until(lambda: entry.metric("shoal_forwarded_requests_total", "answered") - before >= expected,
          "all requests to the entry were forwarded")
    return {
        **figures,
        "requests": sum(way.requests for way in all_ways),
        "failed_requests": sum(way.failed for way in all_ways),
    }


def place(entry: Node, holder: Node) -> None:
    """The load generator on the last processor, the instances on others, apart if there are three.
    """
    servers = sorted(server_processors(max(processors() - 1, 1)))
    os.sched_setaffinity(entry.process.pid, servers[:1])
    os.sched_setaffinity(holder.process.pid, servers[-1:])
    pin_client()


def warm(way: Way) -> None:
    load(way.target, Namespace(connections=8, seconds=WARM_S))


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


def compared(key: str, forwarded: Way, own: Way) -> dict[str, float]:
    cost_us = statistics.median(forwarded.cost_us)
    versus = statistics.median(
        [a / b for a, b in zip(forwarded.cost_us, own.cost_us, strict=True)])
    added_ms = statistics.median(
        [a - b for a, b in zip(forwarded.p50_ms, own.p50_ms, strict=True)])
    print(
        f"{key or 'http_':>5}: {cost_us:6.2f} µs of the entry's processor a forwarded request, "
        f"{versus:.2f} of one that is answered there; p50 {statistics.median(own.p50_ms):.3f} ms, "
        f"forwarded {statistics.median(forwarded.p50_ms):.3f} ms", flush=True,
    )
    return {
        f"{key}entry_cpu_us": round(cost_us, 2), f"{key}entry_vs_own": round(versus, 3),
        f"{key}added_p50_ms": round(added_ms, 4),
    }


if __name__ == "__main__":
    main()
