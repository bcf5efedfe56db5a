"""What a slow model does to a fast neighbour: latencies of the fast one, alone and beside it.

    python -m benchmarks neighbour [--rounds 9] [--seconds 2] [--rate 500] [--callers 8]

One instance serves both. The fast model (4-16-3 in ONNX, W1 over HTTP) is asked at a fixed rate,
whether or not answers come (an open loop), on the last processor; the slow one, about 50 ms a call,
by `callers` that each ask again when they have their answer, from a process of their own. It is
slow in three ways: `waits` for something else (sleeps), `computes` in a framework that gives the
interpreter's lock back (ONNX Runtime), `holds` the lock in Python code. Rounds alternate. The last
line is JSON: the medians of the rounds' 99th percentiles, `fast_p99_ms_beside_slow` being that of
the worst kind.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import orjson
from onnx import TensorProto, helper, numpy_helper

from benchmarks import flowers
from benchmarks.channels import HttpChannel
from benchmarks.closed_loop import arguments
from benchmarks.machine import pin_client, processors
from benchmarks.open_loop import latencies_ms, percentile
from benchmarks.processes import shoal

SETTLE_S = 0.5  # calls that have begun end, though their callers left
CONNECTIONS = 64  # of the fast model's callers
WIDTH, LAYERS = 2048, 48  # what takes ONNX Runtime about 50 ms on one processor, one row a call

WAITS = """
import time


class Model:
    inputs = [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}]
    outputs = [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}]
    max_concurrency = 4

    def predict(self, inputs, parameters):
        time.sleep(0.05)
        return {"y": inputs["x"]}
"""

HOLDS = """
from time import thread_time


class Model:
    inputs = [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}]
    outputs = [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}]

    def predict(self, inputs, parameters):
        end = thread_time() + 0.05
        while thread_time() < end:
            for _ in range(1000):
                pass
        return {"y": inputs["x"]}
"""


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(rounds=9, seconds=2.0)
    parser.add_argument("--rate", type=float, default=500.0, help="of the fast model, a second")
    parser.add_argument("--callers", type=int, default=8, help="of the slow model")
    parser.add_argument("--call", type=int, metavar="PORT", help="be the slow model's callers")
    parser.add_argument("--model")
    options = parser.parse_args()
    if options.call:
        call(options.call, options.model, options.callers)
        return
    kinds = ("alone", "waits", "computes", "holds")
    p99: dict[str, list[float]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder))
        with shoal(Path(folder), processors=all_but_the_last()) as server:
            pin_client()
            for kind in kinds[1:]:
                with callers(server.http_port, kind, 1):
                    measured(server.http_port, options.rate, 0.1)
            for _ in range(options.rounds):
                for kind in kinds:
                    with callers(server.http_port, kind, options.callers):
                        taken = measured(server.http_port, options.rate, options.seconds)
                    p99[kind].append(percentile(taken, 0.99))
                    print(f"{kind:>10}: p50 {percentile(taken, 0.5):7.3f} ms,"
                          f" p99 {p99[kind][-1]:7.3f} ms, p99.9 {percentile(taken, 0.999):7.3f} ms")
    medians = {kind: round(statistics.median(values), 3) for kind, values in p99.items()}
    print(json.dumps({
        "fast_p99_ms_alone": medians["alone"],
        "fast_p99_ms_beside_slow": max(medians[kind] for kind in kinds[1:]),
        **{f"fast_p99_ms_beside_one_that_{kind}": medians[kind] for kind in kinds[1:]},
    }))


def all_but_the_last() -> list[int]:
    """For the server, when there are two or more."""
    mine = sorted(os.sched_getaffinity(0))
    return mine[: max(processors() - 1, 1)]


def make_models(folder: Path) -> None:
    (folder / "flowers.onnx").write_bytes(flowers.model_bytes())
    (folder / "computes.onnx").write_bytes(slow_network())
    for name, code in (("waits", WAITS), ("holds", HOLDS)):
        (folder / name).mkdir()
        (folder / name / "model.py").write_text(code)


def slow_network() -> bytes:
    random = np.random.default_rng(1)
    weight = random.normal(size=(WIDTH, WIDTH), scale=WIDTH**-0.5).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", [f"h{layer}", "w"], [f"h{layer + 1}"]) for layer in range(LAYERS)
    ]
    nodes.insert(0, helper.make_node("MatMul", ["x", "widen"], ["h0"]))
    nodes.append(helper.make_node("ReduceMean", [f"h{LAYERS}"], ["y"], axes=[1]))
    graph = helper.make_graph(
        nodes, "computes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(weight, "w"),
         numpy_helper.from_array(np.ones((1, WIDTH), np.float32), "widen")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    encoded: bytes = made.SerializeToString()
    return encoded


def measured(port: int, rate: float, seconds: float) -> list[float]:
    numbers = orjson.dumps(
        np.array(flowers.expected(), np.float32), option=orjson.OPT_SERIALIZE_NUMPY
    )
    requests = itertools.repeat(flowers.W1)
    channels = [
        HttpChannel(port, requests, lambda answer: numbers in answer) for _ in range(CONNECTIONS)
    ]
    return latencies_ms(channels, rate, seconds)


@contextmanager
def callers(port: int, model: str, count: int) -> Iterator[None]:
    """Callers of the slow model, once its first answers are here; none for `alone`."""
    if model == "alone":
        yield
        return
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.neighbour", "--call", str(port), "--model", model,
         "--callers", str(count)], stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    try:
        if not child.stdout.readline():
            sys.exit(f"the callers of {model} got no answer")
        yield
    finally:
        child.terminate()
        child.wait()
        child.stdout.close()
        time.sleep(SETTLE_S)


def call(port: int, model: str, count: int) -> None:
    """A closed loop without an end; tells on standard output when it has answers."""
    os.nice(5)  # it shares a processor with the open loop, which must be on time
    body = orjson.dumps(
        {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}]}
    )
    request = flowers.http_request(body, path=f"/v2/models/{model}/infer".encode())
    channels = {
        channel.sock.fileno(): channel
        for channel in (
            HttpChannel(port, itertools.repeat(request), lambda answer: answer.endswith(b"]}]}"))
            for _ in range(count)
        )
    }
    poll = select.epoll()
    for number, channel in channels.items():
        poll.register(number, select.EPOLLIN)
        channel.send([0.0])
    answers = 0
    while True:
        for number, _ in poll.poll():
            answered = channels[number].receive()
            channels[number].send(answered)
            answers += len(answered)
            if answered and answers == 2 * count:
                print("warm", flush=True)


if __name__ == "__main__":
    main()
