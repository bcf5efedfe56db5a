"""Cold starts and waiting by eviction rule, with the real core on a made-up trace.

    python -m benchmarks eviction [--models 5000] [--requests 150000] [--seeds 3]

Models' popularity follows Zipf's law, sizes a lognormal one, load times a constant by format plus
size / 500 MB/s; the cache holds 5 % of the bytes of all models. The second half of each trace is
counted. Time is simulated; loads take effect at once, so queueing is not. The last line is JSON:
GDSF-R's share of cold starts, and its waiting, over LRU's.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from dataclasses import dataclass

from shoal.core.node import Core
from shoal.core.options import Options
from shoal.domain import commands as do
from shoal.domain import events as on
from shoal.domain.model import ModelRecord, ModelSpec, make_revision

REQUESTS_PER_S = 100.0
LOAD_S = ((0.0005, 0.4), (0.05, 0.35), (1.0, 0.2), (8.0, 0.05))  # seconds, share of the models
READ_BYTES_PER_S = 500e6


@dataclass
class Trace:
    records: list[ModelRecord]
    load_s: list[float]
    requests: list[int]


def make_trace(models: int, requests: int, alpha: float, seed: int) -> Trace:
    chance = random.Random(seed)
    records, load_s = [], []
    for number in range(models):
        size = round(min(max(chance.lognormvariate(16.8, 2.0), 5e5), 8e9))
        spec = ModelSpec(name=f"m{number}", uri=f"/m{number}", memory_bytes=size)
        revision = make_revision(spec, version=1, uri=spec.uri, format="onnx",
                                 artifact_digest=spec.name, files_bytes=size)
        records.append(ModelRecord(name=spec.name, spec=spec, revisions=(revision,)))
        constant = chance.choices([s for s, _ in LOAD_S], [w for _, w in LOAD_S])[0]
        load_s.append(constant + size / READ_BYTES_PER_S)
    weights = [1 / (rank + 1) ** alpha for rank in range(models)]
    return Trace(records, load_s, chance.choices(range(models), weights, k=requests))


def run(trace: Trace, eviction: str) -> tuple[float, float]:
    """Share of requests that waited for a load, and mean seconds waited, in the second half."""
    total = sum(record.revisions[0].files_bytes for record in trace.records)
    core = Core(Options(budget_bytes=round(total * 0.05), eviction=eviction, load_concurrency=1,
                        max_wait_s=1e9), {each.name: each for each in trace.records}.get)
    ready: set[str] = set()
    used: dict[str, tuple[int, float]] = {}
    cold, waited_s, half = 0, 0.0, len(trace.requests) // 2
    reported_at = 0.0

    def send(event: on.Event, now: float, load_s: float) -> None:
        for command in core.handle(event, now):
            if isinstance(command, do.UnloadCopy):
                ready.discard(command.revision)
                send(on.CopyUnloaded(command.revision), now, load_s)
            elif isinstance(command, do.LoadCopy):
                ready.add(command.revision.id)
                size = command.reserved_bytes
                send(on.CopyLoaded(command.revision.id, size, load_s), now, load_s)

    for place, number in enumerate(trace.requests):
        now = place / REQUESTS_PER_S
        record, load_s = trace.records[number], trace.load_s[number]
        key = record.revisions[0].id
        if now - reported_at >= 1.0:
            uses = [on.Use(each, count, at) for each, (count, at) in used.items()]
            send(on.UsesReported(tuple(uses)), now, load_s)
            used.clear()
            reported_at = now
        if key not in ready:
            send(on.CopyRequested(place, record.name), now, load_s)
            if place >= half:
                cold += 1
                waited_s += load_s
        used[key] = (used.get(key, (0, 0.0))[0] + 1, now)
    return cold / (len(trace.requests) - half), waited_s / (len(trace.requests) - half)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=5_000)
    parser.add_argument("--requests", type=int, default=150_000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    figures: dict[str, float] = {}
    for alpha in (0.9, 1.0, 1.2):
        cold_ratios, wait_ratios = [], []
        for seed in range(101, 101 + options.seeds):
            trace = make_trace(options.models, options.requests, alpha, seed)
            lru, gdsf = run(trace, "lru"), run(trace, "gdsf")
            cold_ratios.append(gdsf[0] / lru[0])
            wait_ratios.append(gdsf[1] / lru[1])
            print(f"Zipf {alpha}, seed {seed}: cold starts LRU {lru[0]:6.1%}, GDSF-R "
                  f"{gdsf[0]:6.1%}; mean wait {lru[1]:.3f} s, {gdsf[1]:.3f} s")
        figures[f"cold_vs_lru_zipf_{alpha}"] = round(statistics.median(cold_ratios), 3)
        figures[f"wait_vs_lru_zipf_{alpha}"] = round(statistics.median(wait_ratios), 3)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
