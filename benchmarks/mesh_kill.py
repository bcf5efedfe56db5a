"""One of three instances under load is killed: what its clients and those of the others see.

    python -m benchmarks mesh-kill [--rate 500] [--seconds 60] [--models 100]

An open loop of clients of each instance, and a Python client that knows all three. After a third of
the time one instance is killed with SIGKILL, and its clients leave. Failures are counted for
clients of the other instances (`failed_requests`), for those of the killed one at that moment, and
for the Python client. `cold_after_s`: how long after the kill the last load began for which a
request waited: from then on whatever was warm before is warm again.

The last line is JSON.
"""

from __future__ import annotations

import threading
import time
from itertools import cycle

import numpy as np

from benchmarks import flowers, mesh_etcd
from benchmarks.mesh_load import Plan
from benchmarks.mesh_world import World
from shoal.client import Client
from shoal.domain.errors import ShoalError


class PythonClient:
    """Threads with a client that knows all instances. A context."""

    def __init__(self, world: World, names: list[str], threads: int = 2) -> None:
        self._client = Client([node.url for node in world.nodes])
        self._names = cycle(names)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(threads)]
        self._counting = threading.Lock()
        self.answered = 0
        self.failed: list[str] = []

    def __enter__(self) -> PythonClient:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        self._client.close()

    def _ask(self) -> None:
        while not self._stop.wait(0.02):
            with self._counting:
                name = next(self._names)
            try:
                self._client.infer(name, {"x": np.asarray(flowers.ROW)})
            except ShoalError as error:
                self.failed.append(str(error))
            else:
                with self._counting:
                    self.answered += 1


def main() -> None:
    options = mesh_etcd.arguments(__doc__).parse_args()
    with mesh_etcd.warm_mesh(options) as mesh:
        world, names = mesh.world, mesh.names
        *others, killed = world.nodes
        with (
            mesh.load(Plan(names, options.rate)) as load,
            PythonClient(world, names) as client,
        ):
            load.goes_on(round(options.rate * options.seconds / 3), options.seconds)
            at, wall = time.monotonic(), time.time()
            killed.kill()
            load.remove(killed.name)
            load.goes_on(round(options.rate * options.seconds * 2 / 3), 2 * options.seconds)
        again = [began - wall for _, reason, began in world.loads()
                 if reason == "requested" and began > wall]
        figures = {
            **mesh_etcd.counted(load, without=[killed.name]),
            "failed_of_killed": load.failures().total()
            - load.failures(without=[killed.name]).total(),
            "client_requests": client.answered + len(client.failed),
            "client_failed": len(client.failed),
            "cold_after_kill": len(again),
            "cold_after_s": round(max(again, default=0.0), 3),
            "p99_ms_before": load.p(0.99, before=at),
            "p99_ms_second_after": load.p(0.99, since=at, before=at + 1),
            "p99_ms_later": load.p(0.99, since=at + 1),
        }
    print(f"{figures['requests']} requests, {len(others)} instances are left: "
          f"{figures['failed_requests']} failed for clients of the others, "
          f"{figures['client_failed']} of {figures['client_requests']} for the Python client; "
          f"{len(again)} cold requests, the last {figures['cold_after_s']} s after the kill")
    mesh_etcd.tell(figures, load)


if __name__ == "__main__":
    main()
