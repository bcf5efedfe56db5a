"""The registry of instances under load is gone for a while: no request fails, declarations do.

    python -m benchmarks mesh-etcd-loss [--rate 500] [--seconds 60] [--models 100]

etcd is killed for `--seconds` under an open loop, in which models are asked for that were never
loaded before, too; meanwhile every declaration must be refused with a reason. Then it comes back, a
model is registered, and `consistent_s` later all instances know each other and answer for it.

The last line is JSON.
"""

from __future__ import annotations

import time

from benchmarks import density, flowers, mesh_etcd
from benchmarks.mesh_load import Plan
from benchmarks.mesh_world import until
from shoal.domain.errors import StoreUnavailable


def main() -> None:
    options = mesh_etcd.arguments(__doc__).parse_args()
    with mesh_etcd.warm_mesh(
        options, "--registry-timeout-s", "1", warm=0.5, spare=1
    ) as mesh:
        world, [late] = mesh.world, mesh.spare
        spec = density.spec(world.folder / "models", late)
        refused = accepted = 0
        with mesh.load(Plan(mesh.names, options.rate)) as load:
            load.goes_on(round(options.rate))
            mesh.etcd.kill()
            gone = time.monotonic()
            while time.monotonic() - gone < options.seconds:
                try:
                    world.nodes[refused % len(world.nodes)].client.register(late, str(spec["uri"]))
                except StoreUnavailable:
                    refused += 1
                else:
                    accepted += 1
                load.goes_on(max(round(options.rate / 2), 1))
            mesh.etcd.start()
            back = time.monotonic()
            until(lambda: not any("the registry" in problem for node in world.nodes
                                  for problem in node.client.status().problems),
                  "all are in touch with it", 60)
            world.meet()
            world.register([late])
            until(lambda: all(node.infer(late, flowers.JSON_BODY).status_code == 200
                              for node in world.nodes), "all know the new model")
            consistent_s = time.monotonic() - back
            load.goes_on(round(options.rate))
        figures = {
            **mesh_etcd.counted(load),
            "refused_declarations": refused,
            "accepted_declarations": accepted,
            "gone_s": round(back - gone, 1),
            "consistent_s": round(consistent_s, 2),
            "p99_ms_before": load.p(0.99, before=gone),
            "p99_ms_gone": load.p(0.99, since=gone, before=back),
        }
    print(f"{figures['requests']} requests, {figures['failed_requests']} failed; {refused}"
          f" declarations refused in {figures['gone_s']} s without etcd; all agree"
          f" {figures['consistent_s']} s after it came back")
    mesh_etcd.tell(figures, load)


if __name__ == "__main__":
    main()
