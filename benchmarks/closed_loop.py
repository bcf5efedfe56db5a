"""A closed loop: each connection sends the next request when it has an answer.

Rounds of different servers alternate. `requests/s` depends on the load generator and on who else
uses the machine; ratios are of the servers' processor time per request, which hardly does.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.channels import Channel, GrpcChannel, HttpChannel, IsRight, polled
from benchmarks.processes import processor_s


@dataclass
class Target:
    """What is measured: a server and the requests that it gets in turn. `is_right`: of an answer's
    last bytes."""

    pid: int
    port: int
    requests: Sequence[bytes]
    is_right: IsRight
    cost_us: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)

    def connect(self, in_flight: int) -> Sequence[Channel]:
        """Connections for so many requests at once."""
        following = itertools.cycle(self.requests)
        return [HttpChannel(self.port, following, self.is_right) for _ in range(in_flight)]


@dataclass
class GrpcTarget(Target):
    """A server that is called by gRPC, on connections of several streams. `requests`: the method's
    path and the request; `is_right`: of a message with its gRPC prefix."""

    streams: int = 8

    def connect(self, in_flight: int) -> Sequence[Channel]:
        path, body = self.requests
        return [
            GrpcChannel(self.port, (path, body), self.is_right, self.streams)
            for _ in range(max(in_flight // self.streams, 1))
        ]


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a round")
    parser.add_argument(
        "--connections", type=int, default=32, help="requests at once; gRPC has 8 on a connection"
    )
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    return parser


def load(target: Target, options: argparse.Namespace) -> int:
    """Requests answered in a round."""
    count = 0
    with polled(target.connect(options.connections)) as (poll, channels):
        for channel in channels.values():
            channel.send([0.0] * channel.room)
        until = time.perf_counter() + options.seconds
        while time.perf_counter() < until:
            # Never sleeps: waking it up would cost the server's writes more than some answers do.
            for number, _ in poll.poll(0):
                channel = channels[number]
                answered = channel.receive()
                count += len(answered)
                channel.send(answered)
    return count


def measure(targets: dict[str, Target], options: argparse.Namespace) -> dict[str, float]:
    """Alternate rounds; print a table; the median ratio of the first target's cost to each."""
    for _ in range(options.rounds):
        for target in targets.values():
            before = processor_s(target.pid)
            count = load(target, options)
            target.cost_us.append((processor_s(target.pid) - before) / count * 1e6)
            target.per_s.append(count / options.seconds)
    first = next(iter(targets.values()))
    ratios = {}
    for name, target in targets.items():
        ratios[name] = round(ratio(first.cost_us, target.cost_us), 3)
        print(
            f"{name:>28}: {statistics.median(target.per_s):8,.0f} requests/s,"
            f" {statistics.median(target.cost_us):7.2f} µs of processor time a request,"
            f" ratio {ratios[name]:.2f}"
        )
    return ratios


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median([a / b for a, b in zip(ours, theirs, strict=True)])
