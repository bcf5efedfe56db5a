"""Large tensors in and out, beside a copy in memory and beside Triton.

    python -m benchmarks large [--rounds 5] [--seconds 1] [--only-shoal]

A model that gives back what it gets, of 1 MiB and 16 MiB, asked by tritonclient one request after
the other: JSON and binary over HTTP, and gRPC; the same client asks Triton's Python backend
(see `peers`). The last line is JSON: MiB of tensors a second, in and out together, and the server's
processor time a request in units of one copy of the tensor in memory (`_copies`): the kernel alone
needs two, one in and one out.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from subprocess import CalledProcessError

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from numpy.typing import NDArray

from benchmarks.closed_loop import arguments
from benchmarks.machine import pin_client, server_processors
from benchmarks.peer_environments import ENVIRONMENTS, reason, started
from benchmarks.peer_servers import PEERS
from benchmarks.processes import Running, processor_s, shoal

MIB = 2**20
ECHO = """\
class Model:
    inputs = [{"name": "x", "datatype": "FP32", "shape": [-1]}]
    outputs = [{"name": "y", "datatype": "FP32", "shape": [-1]}]

    def predict(self, inputs, parameters):
        return {"y": inputs["x"]}
"""
Array = NDArray[np.float32]
Ask = Callable[[], object]


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(rounds=5, seconds=1.0)
    parser.add_argument("--only-shoal", action="store_true")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    options = parser.parse_args()
    figures: dict[str, float | str] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "echo").mkdir()
        (folder / "echo" / "model.py").write_text(ECHO)
        at = {"shoal": stack.enter_context(shoal(folder))}
        if not options.only_shoal:
            (triton,) = (peer for peer in PEERS if peer.name == "triton")
            try:
                at["triton"] = stack.enter_context(
                    started(triton, options.environments, server_processors())
                )
            except (OSError, RuntimeError, CalledProcessError) as error:
                figures["triton_failed"] = reason(error)
                print(f"triton: {reason(error)}")
        pin_client()
        for size_mib in (1, 16):
            x = np.random.default_rng(1).random(size_mib * MIB // 4, np.float32)
            copy_s = memory_copy_s(x)
            figures[f"memory_copy_{size_mib}mib_mib_per_s"] = round(size_mib / copy_s)
            print(f"a copy of {size_mib} MiB in memory: {size_mib / copy_s:,.0f} MiB/s")
            for kind in ("http_json", "http_binary", "grpc"):
                figures |= compare(f"{kind}_{size_mib}mib", at, x, copy_s, options)
    print(json.dumps(figures))


def compare(key: str, at: dict[str, Running], x: Array, copy_s: float, options: Namespace
            ) -> dict[str, float]:
    """Alternate the servers; print a line for each."""
    kind = key.rpartition("_")[0]
    asks = {who: client(kind, server, x) for who, server in at.items()}
    per_s: dict[str, list[float]] = {who: [] for who in asks}
    cost_s: dict[str, list[float]] = {who: [] for who in asks}
    for ask in asks.values():
        ask()  # until it is warm
    for _ in range(options.rounds):
        for who, ask in asks.items():
            before, started_at, count = processor_s(at[who].pid), time.perf_counter(), 0
            while time.perf_counter() < started_at + options.seconds:
                ask()
                count += 1
            per_s[who].append(count / (time.perf_counter() - started_at))
            cost_s[who].append((processor_s(at[who].pid) - before) / count)
    figures: dict[str, float] = {}
    for who in asks:
        of_key = key if who == "shoal" else f"{key}_{who}"
        cost = statistics.median(cost_s[who])
        moved = round(statistics.median(per_s[who]) * 2 * x.nbytes / MIB)
        copies = round(cost / copy_s, 1)
        figures |= {f"{of_key}_mib_per_s": moved, f"{of_key}_copies": copies}
        print(f"{of_key:>26}: {moved:6,} MiB/s, {cost * 1e3:7.2f} ms of processor time a request,"
              f" as long as {copies:.1f} copies")
    return figures


def client(kind: str, server: Running, x: Array) -> Ask:
    """A request and its answer, which is looked at once."""
    if kind == "grpc":
        tensor = triton_grpc.InferInput("x", x.shape, "FP32")
        tensor.set_data_from_numpy(x)
        caller = triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
        outputs = [triton_grpc.InferRequestedOutput("y")]
    else:
        binary = kind == "http_binary"
        tensor = triton_http.InferInput("x", x.shape, "FP32")
        tensor.set_data_from_numpy(x, binary_data=binary)
        caller = triton_http.InferenceServerClient(f"127.0.0.1:{server.http_port}")
        outputs = [triton_http.InferRequestedOutput("y", binary_data=binary)]

    def ask() -> Array:
        y: Array = caller.infer("echo", [tensor], outputs=outputs).as_numpy("y")
        return y

    if not np.allclose(ask(), x):
        raise RuntimeError(f"{kind}: a wrong answer")
    return ask


def memory_copy_s(x: Array) -> float:
    """The median time of a copy, into memory that was used before."""
    target = np.empty_like(x)
    taken = []
    for _ in range(50):
        started_at = time.perf_counter()
        np.copyto(target, x)
        taken.append(time.perf_counter() - started_at)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
