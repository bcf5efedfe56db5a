"""One model is suddenly asked for by 90 % of the traffic: it gets copies, the others still answer;
afterwards it gives the room back.

    python -m benchmarks mesh-hot [--rate 200] [--seconds 60] [--models 100]

The hot model keeps a processor busy for 2 ms a request and holds 16 MiB; the others are tiny. Each
instance has 24 MiB for models, so that another copy of it finds no room where one is. A third of
the time the traffic is even, a third hot, a third even again, and further, until the hot model has
no more copies than one in steady use has (two), at most 5 min.

`copies_s`: from the start of the hot third until every instance has a copy. `copies_after_hot`: at
the end; `room_after_s`: from the end of the hot third until there were no more, null if that did
not come to pass. A copy is surplus only after `mesh.surplus_s` (60 s) in which fewer were enough.

The last line is JSON.
"""

from __future__ import annotations

import time
from typing import Final

from benchmarks import mesh_etcd
from benchmarks.mesh_load import Load, Plan
from benchmarks.mesh_world import World, until

SOURCE = """\
import time
from pathlib import Path

class Model:
    inputs = [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    outputs = [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}]

    def load(self, folder):
        self.weights = Path(folder, "weights").read_bytes()

    def predict(self, inputs, parameters):
        end = time.thread_time() + 0.002
        while time.thread_time() < end:
            pass
        return {"y": inputs["x"]}
"""
MEMORY: Final = "24MiB"
HOT_BYTES: Final = 16 * 2**20
STEADY: Final = 2  # copies of a model in steady use
ROOM_WITHIN_S: Final = 300.0


def main() -> None:
    options = mesh_etcd.arguments(__doc__, rate=200.0).parse_args()
    third = round(options.rate * options.seconds / 3)
    with mesh_etcd.warm_mesh(options, "--memory", MEMORY) as mesh:
        world, names = mesh.world, [*mesh.names, "hot"]
        register_hot(world)
        with mesh.load(Plan(names, options.rate)) as load:
            load.goes_on(third, options.seconds)
            copies_before, hot = len(world.holders("hot")), time.monotonic()
            load.plan(Plan(_mostly_hot(mesh.names), options.rate))
            until(lambda: len(world.holders("hot")) == len(world.nodes), "copies follow", 60)
            copied = time.monotonic()
            load.goes_on(third, options.seconds)
            even = time.monotonic()
            load.plan(Plan(names, options.rate))
            load.goes_on(third, options.seconds)
            room_s = seconds_to_room(world, load, even)
        figures = {
            **mesh_etcd.counted(load),
            "copies_s": round(copied - hot, 2),
            "copies_before": copies_before,
            "copies_after_hot": len(world.holders("hot")),
            "room_after_s": room_s,
            "p99_ms_even": load.p(0.99, before=hot),
            "p99_ms_hot_at_first": load.p(0.99, since=hot, before=copied),
            "p99_ms_hot": load.p(0.99, since=copied, before=even),
            "p99_ms_even_again": load.p(0.99, since=even),
        }
    print(f"{figures['requests']} requests, {figures['failed_requests']} failed; a copy on each of"
          f" {len(world.nodes)} instances after {figures['copies_s']} s, {copies_before} before,"
          f" {figures['copies_after_hot']} after ({room_s} s); p99"
          f" {figures['p99_ms_even']} ms before, {figures['p99_ms_hot']} ms while it is hot,"
          f" {figures['p99_ms_even_again']} ms afterwards")
    mesh_etcd.tell(figures, load)


def register_hot(world: World) -> None:
    folder = world.folder / "models" / "hot"
    folder.mkdir()
    (folder / "model.py").write_text(SOURCE)
    (folder / "weights").write_bytes(bytes(HOT_BYTES))
    world.nodes[0].client.register("hot", str(folder))
    world.known(["hot"])


def seconds_to_room(world: World, load: Load, since: float) -> float | None:
    """How long after `since` the hot model has no more copies than it needs; the load goes on."""
    while len(world.holders("hot")) > STEADY:
        if time.monotonic() - since > ROOM_WITHIN_S:
            return None
        load.goes_on(1)
    return round(time.monotonic() - since, 1)


def _mostly_hot(names: list[str]) -> list[str]:
    """Nine of ten."""
    return [each for name in names for each in (name, *["hot"] * 9)]


if __name__ == "__main__":
    main()
