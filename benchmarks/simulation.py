"""Cold starts and added latency by the rules of Shoal, plain LRU and ModelMesh, in made-up time.

    python -m benchmarks simulation [--traces DIR] [--models 10000] [--requests 60000] [--seeds 1]

Zipf 0.9, 1.0 and 1.2 and Zipf 1.0 whose popularity drifts, at 10 requests/s; with `--traces DIR`
(`servegen_rates.npz`, `invokesCDF.csv`, `CVs.csv`) the shapes of two production workloads too. All
instances together hold 5 % of the bytes of all models; 8 instances for Zipf, 4 for the shapes. The
second half of each trace is counted. Unlike the figures that the eviction rule was chosen by, loads
queue here, two at once on an instance. The real core decides for `shoal` and `shoal-lru`; the rules
of ModelMesh are a simplified model of it (`shoal.simulation.modelmesh`). The last line is JSON:
cold or refused requests, and mean added seconds, each over shoal's.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shoal.simulation.planning import POLICIES, Plan, simulate
from shoal.simulation.results import Result
from shoal.simulation.traces import Catalogue, Floats, Trace, drifting, made_up, zipf

RATE = 10.0
SHARE = 0.05
WINDOW_S = 600.0  # of ServeGen's rates
MOST_PER_H = 360.0  # of a model of the Azure-shaped workload
DAYS = 14.0  # over which its invocations are counted


def workloads(options: argparse.Namespace, seed: int) -> Iterator[tuple[str, int, Trace]]:
    """Names, instances, traces."""
    models, seconds = options.models, options.requests / RATE
    for alpha in (0.9, 1.0, 1.2):
        yield f"zipf {alpha}", 8, zipf(models, alpha, RATE, seconds, seed)
    steady = zipf(models, 1.0, RATE, seconds, seed)
    yield "zipf 1.0, drift", 8, drifting(steady, models, 0.05, seconds / 10, seed)
    if options.traces is None:
        print("without --traces DIR the shapes of production workloads are left out")
        return
    if (rates := options.traces / "servegen_rates.npz").exists():
        yield "servegen-shaped", 4, servegen(rates, models // 5, options.requests, seed)
    else:
        print(f"{rates} is missing; its workload is left out")
    if (calls := options.traces / "invokesCDF.csv").exists():
        yield "azure-shaped", 4, azure(options.traces, models // 5, options.requests, seed)
    else:
        print(f"{calls} is missing; its workload is left out")


def servegen(path: Path, models: int, requests: int, seed: int) -> Trace:
    """Each model follows a client's series of rates from a random phase on, at a random level."""
    chance = np.random.default_rng(seed)
    windows = 144
    series = [row for each in np.load(path).values() for row in each]
    rates = np.empty((models, windows))
    for model in range(models):
        row = np.resize(series[chance.integers(len(series))], 2016)
        level = chance.lognormal(0.0, 1.0) / max(float(row.mean()), 1e-9)
        rates[model] = np.roll(row, chance.integers(len(row)))[:windows] * level
    counts = chance.poisson(rates / rates.sum() * requests)
    found = np.nonzero(counts)
    many = counts[found]
    asked, window = np.repeat(found[0], many), np.repeat(found[1], many)
    return _sorted(window * WINDOW_S + chance.uniform(0, WINDOW_S, len(asked)), asked)


def azure(folder: Path, models: int, requests: int, seed: int) -> Trace:
    """Rates and variation of the gaps from the published distributions; gaps gamma-distributed."""
    chance = np.random.default_rng(seed)
    calls = np.loadtxt(folder / "invokesCDF.csv", delimiter=",")
    gaps = np.loadtxt(folder / "CVs.csv", delimiter=",")
    drawn = np.interp(chance.uniform(size=models), calls[:, 1], calls[:, 0])
    rate_per_h = np.minimum(drawn / DAYS / 24.0, MOST_PER_H)
    variation = np.maximum(np.interp(chance.uniform(size=models), gaps[:, 1], gaps[:, 0]), 0.05)
    hours = requests / rate_per_h.sum()
    at, asked = [], []
    for model in range(models):
        shape = 1.0 / variation[model] ** 2
        count = int(rate_per_h[model] * hours * 1.5) + 8
        times = np.cumsum(chance.gamma(shape, 3600.0 / rate_per_h[model] / shape, count))
        times -= chance.uniform(0, 3600.0 / rate_per_h[model])
        times = times[(times >= 0) & (times < hours * 3600.0)]
        at.append(times)
        asked.append(np.full(len(times), model))
    return _sorted(np.concatenate(at), np.concatenate(asked))


def _sorted(at: Floats, asked: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Trace:
    order = np.argsort(at, kind="stable")
    return Trace(at[order] - at[order][0], asked[order].astype(np.int64))


def failing(result: Result) -> float:
    """Share of the requests that were not answered at once."""
    return (result.cold + result.refused) / max(result.requests, 1)


def play(trace: Trace, catalogue: Catalogue, instances: int, policy: str) -> Result:
    memory = round(catalogue.total_bytes * SHARE / instances)
    began = time.process_time()
    result = simulate(trace, catalogue, Plan(instances, memory, policy))
    print(f"  {policy:16} cold {result.cold / result.requests:6.1%}, refused "
          f"{result.refused / result.requests:6.1%}, added {result.added_mean_s:6.3f} s (p99 "
          f"{result.added_p99_s:5.1f} s), {result.loaded_bytes / 1e9:6,.0f} GB loaded, "
          f"{result.copies:6,} copies; {time.process_time() - began:.0f} s of processor",
          flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=60_000)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    figures: dict[str, float] = {}
    for seed in range(101, 101 + options.seeds):
        for name, instances, trace in workloads(options, seed):
            catalogue = made_up(int(trace.models.max()) + 1, seed)
            print(f"{name}: {len(trace.at):,} requests in {trace.span_s / 3600:.1f} h, "
                  f"{len(catalogue):,} models", flush=True)
            results = {policy: play(trace, catalogue, instances, policy) for policy in POLICIES}
            shoal = results["shoal"]
            for policy, each in results.items():
                if each is shoal:
                    continue
                key = f"{name} {policy}".replace(",", "").replace(" ", "_")
                figures[f"{key}_cold"] = round(failing(each) / max(failing(shoal), 1e-9), 3)
                waited = each.added_mean_s / max(shoal.added_mean_s, 1e-9)
                figures[f"{key}_added"] = round(waited, 3)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
