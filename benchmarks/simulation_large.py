"""A thousand instances and a million models in made-up time: the same core, what it costs.

    python -m benchmarks simulation_large [--instances 1000] [--models 1000000] [--requests 20000]

Requests follow Zipf's law at 2,000/s; all instances together hold 5 % of the bytes of all models.
Says how much virtual time passed, wall and processor time, and memory. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time

import psutil

from shoal.simulation.fleet import Fleet, FleetOptions
from shoal.simulation.traces import made_up, zipf

RATE = 2000.0
SHARE = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--models", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=101)
    options = parser.parse_args()
    process = psutil.Process()
    before = process.memory_info().rss
    wall, processor = time.monotonic(), time.process_time()
    catalogue = made_up(options.models, options.seed)
    trace = zipf(options.models, 1.0, RATE, options.requests / RATE, options.seed)
    memory = round(catalogue.total_bytes * SHARE / options.instances)
    fleet = Fleet(catalogue, FleetOptions(
        instances=options.instances, memory_bytes=memory, warm_up=0.0, seed=options.seed))
    joined = time.monotonic() - wall
    print(f"{options.instances:,} instances know each other after {joined:.1f} s", flush=True)
    result = fleet.play(trace, "shoal")
    figures = {
        "instances": options.instances, "models": options.models, "requests": result.requests,
        "hits": result.hits, "cold": result.cold, "refused": result.refused,
        "copies": result.copies, "evictions": result.evictions,
        "virtual_s": round(trace.span_s, 1), "wall_s": round(time.monotonic() - wall, 1),
        "processor_s": round(time.process_time() - processor, 1),
        "memory_mb": round((process.memory_info().rss - before) / 1e6),
        "consistent": fleet.is_consistent(),
    }
    print(f"{result.requests:,} requests to {options.models:,} models in "
          f"{figures['virtual_s']} virtual seconds took {figures['wall_s']} s and "
          f"{figures['memory_mb']} MB")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
