"""Eight instances and very many registered models under skewed traffic, beside one instance with as
much memory as all of them.

    python -m benchmarks mesh-scale [--registered 100000] [--instances 8] [--memory-mib 160]
                                    [--rate 200] [--seconds 60] [--skew 1.0]

Models are registered in bulk from a few files, and asked for by Zipf's law, in an open loop, first
of the mesh, then of the single instance, by the same draws. A first half fills the caches, the
second is counted. hit_rate: 1 - requests that waited for a load / requests. cpu_us: processor time
of all instances a request, loads included.

The last line is JSON: figures of the mesh, and `single_…`.
"""

from __future__ import annotations

import hashlib
import json
import time
from argparse import Namespace
from collections.abc import Sequence

import numpy as np

from benchmarks import density, mesh_etcd
from benchmarks.mesh_load import Load, Plan
from benchmarks.mesh_world import World
from benchmarks.processes import processor_s

FILES = 50


def main() -> None:
    parser = mesh_etcd.arguments(__doc__, rate=200.0)
    parser.set_defaults(instances=8)
    parser.add_argument("--registered", type=int, default=100_000)
    parser.add_argument("--memory-mib", type=int, default=160, help="of all instances together")
    parser.add_argument("--skew", type=float, default=1.0, help="Zipf's exponent")
    options = parser.parse_args()
    draws = drawn(options)
    figures: dict[str, object] = {}
    for count, prefix in ((options.instances, ""), (1, "single_")):
        memory = f"{options.memory_mib * 1024 // count}KiB"
        with mesh_etcd.mesh(count, "--memory", memory) as (world, _):
            started = time.perf_counter()
            register(world, options.registered)
            registered_s = time.perf_counter() - started
            found = ask(world, draws, options)
        figures |= {prefix + key: value for key, value in found.items()}
        figures[f"{prefix}registered_s"] = round(registered_s, 1)
        print(f"{count} instances of {memory}: hit rate {found['hit_rate']}, p50 {found['p50_ms']},"
              f" p99 {found['p99_ms']} ms, {found['loaded_mib']} MiB loaded,"
              f" {found['cpu_us']} us of processor time a request,"
              f" {found['copies']} copies of {found['held']} models;"
              f" {options.registered} registered and known to all in {registered_s:.0f} s",
              flush=True)
    print(json.dumps(figures))


def drawn(options: Namespace) -> list[str]:
    """Names by Zipf's law, as many as are asked for."""
    draw = np.random.default_rng(1)
    weights = 1.0 / np.arange(1, options.registered + 1) ** options.skew
    names = draw.permutation(options.registered)
    ranks = draw.choice(options.registered, round(options.rate * options.seconds),
                        p=weights / weights.sum())
    return [density.name_of(int(names[rank])) for rank in ranks]


def register(world: World, count: int) -> None:
    """Without reading the files; come back when all instances know them."""
    files = []
    for name in density.make_models(world.folder / "models", FILES):
        path = world.folder / "models" / f"{name}.onnx"
        files.append((str(path), f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"))
    names = [density.name_of(number) for number in range(count)]
    specs: Sequence[dict[str, object]] = [
        {"name": name, "uri": files[number % FILES][0], "format": "onnx",
         "digest": files[number % FILES][1]}
        for number, name in enumerate(names)
    ]
    for result in world.nodes[0].client.register_many(specs, read=False, page_size=2_000):
        assert result.ok, result
    world.known(names)


def ask(world: World, draws: Sequence[str], options: Namespace) -> dict[str, object]:
    half = len(draws) // 2
    patience_s = 5 * options.seconds
    with Load(
        Plan(draws, options.rate, lambda _, body: None if b'"outputs"' in body else str(body)),
        *mesh_etcd.targets(world.nodes),
    ) as load:
        load.goes_on(half, patience_s)
        before, since = measured(world), time.monotonic()
        answered = load.answered
        load.goes_on(half - 1, patience_s)
        after = measured(world)
        requests = load.answered - answered
    cold = after["cold"] - before["cold"]
    status = world.nodes[0].client.status()
    return {
        **mesh_etcd.counted(load),
        "hit_rate": round(1 - cold / requests, 4),
        "p50_ms": load.p(0.5, since=since),
        "p99_ms": load.p(0.99, since=since),
        "loaded_mib": round((after["bytes"] - before["bytes"]) / 2**20, 1),
        "cpu_us": round((after["cpu_s"] - before["cpu_s"]) / requests * 1e6, 1),
        "copies": sum(each.copies for each in status.instances),
        "held": status.by_state.get("ready", 0),
    }


def measured(world: World) -> dict[str, float]:
    return {
        "cold": world.nodes[0].client.status().totals.cold,  # of all instances
        "bytes": sum(node.metric("shoal_loaded_bytes_total") for node in world.nodes),
        "cpu_s": sum(processor_s(node.process.pid) for node in world.nodes),
    }


if __name__ == "__main__":
    main()
