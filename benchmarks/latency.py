"""How long answers take at fixed rates of requests, beside the bare servers.

    python -m benchmarks latency [--rates 1000,5000,10000] [--rounds 3] [--seconds 5]

An open loop: requests are due at even intervals whatever the server does, and a latency counts from
when its request was due. W1, W2 (HTTP) and W3 (gRPC) as in `ceiling`. The last line is JSON: p50,
p99 and p99.9 in milliseconds by request and rate, medians of alternating rounds, and the share of
the time that other programs kept the load generator from its processor: above a hundredth the
latencies are theirs.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

from benchmarks import flowers
from benchmarks.closed_loop import GrpcTarget, Target, arguments
from benchmarks.machine import pin_client, waited_s
from benchmarks.open_loop import latencies_ms, percentile
from benchmarks.processes import servers, shoal

SHARES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(rounds=3, seconds=5.0)
    parser.add_argument("--rates", default="1000,5000,10000", help="requests a second")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "flowers.onnx").write_bytes(flowers.model_bytes())
        bare = stack.enter_context(servers("benchmarks.servers", ["bare-http", "bare-grpc"]))
        ours = stack.enter_context(shoal(folder))
        pin_client()
        started, waited = perf_counter(), waited_s()
        as_json, as_bytes = flowers.right_parts()
        at = {"bare": bare["bare-http"], "shoal": (ours.pid, ours.http_port)}
        grpc_at = {"bare": bare["bare-grpc"], "shoal": (ours.pid, ours.grpc_port)}
        works: dict[str, dict[str, Target]] = {
            "http_w1": {who: Target(*where, [flowers.W1], lambda answer: as_json in answer)
                        for who, where in at.items()},
            "http_w2": {who: Target(*where, [flowers.W2], lambda answer: as_bytes in answer)
                        for who, where in at.items()},
            "grpc_w3": {who: GrpcTarget(*where, flowers.w3(), lambda answer: as_bytes in answer)
                        for who, where in grpc_at.items()},
        }
        figures: dict[str, float] = {}
        for work, targets in works.items():
            for rate in map(int, options.rates.split(",")):
                figures |= compare(f"{work}_{rate}", targets, rate, options)
        share = (waited_s() - waited) / (perf_counter() - started)
    print(f"others had the load generator's processor for {share:.1%} of the time")
    print(json.dumps({**figures, "generator_waited_share": round(share, 4)}))


def compare(key: str, targets: dict[str, Target], rate: int, options: Namespace
            ) -> dict[str, float]:
    """Alternate the targets at this rate; print a line for each."""
    rounds: dict[str, list[list[float]]] = {who: [] for who in targets}
    for _ in range(options.rounds):
        for who, target in targets.items():
            channels = target.connect(options.connections)
            rounds[who].append(latencies_ms(channels, rate, options.seconds))
    figures = {}
    for who, taken in rounds.items():
        of_key = key if who == "shoal" else f"{key}_{who}"
        for name, share in SHARES.items():
            figures[f"{of_key}_{name}_ms"] = round(
                statistics.median(percentile(ordered, share) for ordered in taken), 3
            )
        print(f"{of_key:>20}: " + ", ".join(
            f"{name} {figures[f'{of_key}_{name}_ms']:7.3f} ms" for name in SHARES
        ))
    return figures


if __name__ == "__main__":
    main()
