"""All instances of a mesh are replaced under load, one after another: nobody waits for a load.

    python -m benchmarks mesh-rolling [--rate 500] [--seconds 60] [--models 100]

A successor starts and is ready before its predecessor gets SIGTERM; clients ask only instances that
say they are ready. `hot_cold_starts`: loads for which a request waited; every model is in use all
the time.

The last line is JSON.
"""

from __future__ import annotations

import time

from benchmarks import mesh_etcd
from benchmarks.mesh_load import Plan


def main() -> None:
    options = mesh_etcd.arguments(__doc__).parse_args()
    between = max(round(options.rate * options.seconds / (2 * options.instances)), 1)
    with mesh_etcd.warm_mesh(options) as mesh:
        world = mesh.world
        ended, took_s = 0, []
        with mesh.load(Plan(mesh.names, options.rate, follow=True)) as load:
            load.goes_on(round(options.rate))
            began, wall = time.monotonic(), time.time()
            cold: set[tuple[str, float]] = set()
            for node in list(world.nodes):
                [successor] = world.start((), meet=False)
                load.add(successor.name, successor.url)
                load.goes_on(between)
                cold |= waited_for(world.loads(), wall)
                asked = time.monotonic()
                node.leave()
                ended += node.ends() == 0
                took_s.append(time.monotonic() - asked)
                world.drop(node)
                load.goes_on(between)
                cold |= waited_for(world.loads(), wall)
            world.meet()
            done = time.monotonic()
        figures = {
            **mesh_etcd.counted(load),
            "hot_cold_starts": len(cold),
            "replaced": ended,
            "hand_over_s": round(max(took_s), 2),
            "p99_ms_before": load.p(0.99, before=began),
            "p99_ms_replacing": load.p(0.99, since=began, before=done),
        }
    print(f"{figures['requests']} requests, {figures['failed_requests']} failed,"
          f" {figures['hot_cold_starts']} cold starts while {ended} instances were replaced; an"
          f" instance was gone {figures['hand_over_s']} s after SIGTERM at most")
    mesh_etcd.tell(figures, load)


def waited_for(loads: list[tuple[str, str, float]], since: float) -> set[tuple[str, float]]:
    return {(instance, at) for instance, reason, at in loads
            if reason == "requested" and at > since}


if __name__ == "__main__":
    main()
