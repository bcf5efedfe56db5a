"""Shoal beside other servers with the same model.

    python -m benchmarks peers [--only mlserver,triton] [--processors 2] [--rounds 5] [--seconds 2]

Each peer is installed into an environment of its own under --environments, started as its
documentation says, and asked the same as Shoal, in alternating rounds: W1 over HTTP (LitServe,
BentoML and Ray Serve in JSON of their own), W3 over gRPC where it has that. The last line is JSON:
Shoal's requests/s over the peer's, and the peer's processor time a request over Shoal's (`_cpu`),
medians of the rounds; a peer that does not install or start has its reason there.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from argparse import Namespace
from pathlib import Path

from benchmarks import flowers
from benchmarks.channels import Channel, GrpcChannel, HttpChannel, IsRight, is_whole, polled
from benchmarks.closed_loop import GrpcTarget, Target, arguments, load, measure, ratio
from benchmarks.machine import pin_client, server_processors
from benchmarks.peer_environments import ENVIRONMENTS, reason, started
from benchmarks.peer_servers import PEERS, Peer
from benchmarks.processes import Running, shoal


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(rounds=5, seconds=2.0)
    parser.add_argument("--only", default=",".join(peer.name for peer in PEERS))
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    parser.add_argument("--processors", type=int, default=1, help="for each server")
    options = parser.parse_args()
    processors = server_processors(options.processors)
    figures: dict[str, float | str] = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "flowers.onnx").write_bytes(flowers.model_bytes())
        with shoal(Path(folder), processors=processors) as ours:
            for peer in PEERS:
                if peer.name not in options.only.split(","):
                    continue
                try:
                    with started(peer, options.environments, processors) as theirs:
                        figures |= compare(peer, ours, theirs, options)
                except (OSError, RuntimeError, ValueError, subprocess.CalledProcessError) as error:
                    figures[f"{peer.name}_failed"] = reason(error)
                    print(f"{peer.name}: {reason(error)}")
    print(json.dumps(figures))


def compare(peer: Peer, ours: Running, theirs: Running, options: Namespace) -> dict[str, float]:
    pin_client()
    figures = {}
    pairs = [("w1", "http", http_target(ours, flowers.W1), http_target(theirs, peer.request))]
    if peer.speaks_grpc:
        pairs.append(("w3", "grpc", grpc_target(ours), grpc_target(theirs)))
    for work, protocol, our, their in pairs:
        load(their, options)  # until it is warm
        measure({f"{work}, {peer.name}": their, f"{work}, Shoal": our}, options)
        key = f"{protocol}_{work}_vs_{peer.name}"
        figures[key] = round(ratio(our.per_s, their.per_s), 2)
        figures[f"{key}_cpu"] = round(ratio(their.cost_us, our.cost_us), 2)
        figures[f"{key}_peer_per_s"] = round(statistics.median(their.per_s))
    return figures


def http_target(server: Running, request: bytes) -> Target:
    """One whose first answer was looked at. Raises ValueError when it is wrong."""
    answer: list[bytes] = []
    ask(HttpChannel(server.http_port, iter([request]), first_into(answer, is_whole)))
    return Target(server.pid, server.http_port, [request], flowers.has_right_json(answer[0]))


def grpc_target(server: Running) -> Target:
    """As `http_target`."""
    answer: list[bytes] = []
    ask(GrpcChannel(server.grpc_port, flowers.w3(), first_into(answer, lambda _: True), 1))
    is_right = flowers.has_right_bytes(answer[0])
    return GrpcTarget(server.pid, server.grpc_port, flowers.w3(), is_right)


def ask(channel: Channel) -> None:
    with polled([channel]):
        channel.send([0.0])


def first_into(answer: list[bytes], is_complete: IsRight) -> IsRight:
    """Takes any answer that is complete."""

    def is_right(received: bytes) -> bool:
        if is_complete(received):
            answer.append(received)
        return bool(answer)

    return is_right


if __name__ == "__main__":
    main()
