"""How many models fit: registered ones by the million, loaded ones by the ten thousand.

    python -m benchmarks density [--registered 1000000] [--resident 20000] [--rate 2000]
                                 [--seconds 20] [--rounds 3]

All is seen from outside: memory is what the whole process holds (resident set size) beyond what it
held before, times are those of a client. Models differ in their weights (4-16-3 networks in ONNX)
and are registered in bulk through the management API.

Registered: nobody reads their files, and none is loaded. Beside the memory a model: how many are
registered a second, how long the server takes to start with all of them in its registry, and what
a look at one of them costs beside a server with 100.

Resident: all are loaded and asked before memory is read. Then an open loop asks all in turn, evenly
in shuffled order, on the last processor; a latency counts from when its request was due. Rounds
alternate with the same rate over 100 of the models (`…_over_100`), which shows what the machine and
its other users add.

The last line is JSON.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil
from onnx import load_model_from_string, numpy_helper

from benchmarks import flowers
from benchmarks.channels import HttpChannel
from benchmarks.closed_loop import Target, arguments, load
from benchmarks.machine import pin_client
from benchmarks.open_loop import latencies_ms, percentile
from benchmarks.processes import Running, processor_s, shoal
from shoal.client import Client, Retry

CONNECTIONS = 64
FEW = 100  # registered models of the server that the other is compared with
LOOKED_AT = 10_000  # models
PAGE = 2_000
SETTLE_S = 3.0  # freed memory goes back once a second


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(rounds=3, seconds=20.0)
    parser.add_argument("--registered", type=int, default=1_000_000, help="models; 0: none")
    parser.add_argument("--resident", type=int, default=20_000, help="models; 0: none")
    parser.add_argument("--rate", type=float, default=2_000.0, help="requests a second")
    options = parser.parse_args()
    pin_client()
    figures: dict[str, float] = {}
    if options.registered:
        figures |= registered(options)
    if options.resident:
        figures |= resident(options)
    print(json.dumps(figures))


# --- registered -----------------------------------------------------------------------------------


def registered(options: Namespace) -> dict[str, float]:
    count: int = options.registered
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as many, tempfile.TemporaryDirectory() as few:
        with shoal(flags=stored_in(many)) as server:
            before = memory_bytes(server.pid)
            started = time.perf_counter()
            register(server, unread(count), read=False)
            figures["registered_models_per_s"] = round(count / (time.perf_counter() - started))
            time.sleep(SETTLE_S)
            figures["bytes_per_registered_model"] = per(server, before, count)
        with shoal(flags=stored_in(few)) as server:
            register(server, unread(FEW), read=False)
        with shoal(flags=stored_in(few)) as other:
            before = memory_bytes(other.pid)
            started = time.perf_counter()
            with shoal(flags=stored_in(many)) as server:
                figures["start_s"] = round(time.perf_counter() - started, 1)
                figures["bytes_per_registered_model_after_start"] = per(server, before, count)
                figures |= compare_lookups({FEW: other, count: server}, options)
    print(f"{count:,} registered: {figures['registered_models_per_s']:,.0f} a second,"
          f" {figures['bytes_per_registered_model']:.0f} bytes each"
          f" ({figures['bytes_per_registered_model_after_start']:.0f} after a start),"
          f" start {figures['start_s']:.1f} s,"
          f" a look costs {figures['lookup_us']:.1f} us, with {FEW} models"
          f" {figures[f'lookup_us_at_{FEW}']:.1f} us")
    return figures


def stored_in(folder: str) -> list[str]:
    return ["--registry-url", "sqlite", "--data-dir", folder, "--cache-fill", "none"]


def unread(count: int) -> Iterator[Mapping[str, object]]:
    for number in range(count):
        name = name_of(number)
        digest = hashlib.sha256(name.encode()).hexdigest()
        yield {"name": name, "uri": f"/srv/models/{name}.onnx", "format": "onnx",
               "digest": f"sha256:{digest}"}


def compare_lookups(servers: Mapping[int, Running], options: Namespace) -> dict[str, float]:
    """Processor time of the server for `GET /v2/models/NAME/ready`, names drawn at random."""
    costs: dict[int, list[float]] = {count: [] for count in servers}
    draw = random.Random(1)
    targets = {
        count: Target(server.pid, server.http_port, [
            f"GET /v2/models/{name_of(draw.randrange(count))}/ready HTTP/1.1\r\nHost: a\r\n\r\n"
            .encode() for _ in range(LOOKED_AT)
        ], lambda answer: answer.startswith(b"HTTP/1.1 200"))
        for count, server in servers.items()
    }
    looks = Namespace(**{**vars(options), "seconds": 1.0})
    for _ in range(options.rounds):
        for count, target in targets.items():
            before = processor_s(target.pid)
            answered = load(target, looks)
            costs[count].append((processor_s(target.pid) - before) / answered * 1e6)
    few, many = (round(statistics.median(each), 1) for each in costs.values())
    return {"lookup_us": many, f"lookup_us_at_{FEW}": few}


# --- resident -------------------------------------------------------------------------------------


def resident(options: Namespace) -> dict[str, float]:
    count: int = options.resident
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        names = make_models(Path(folder), count)
        with shoal(flags=["--memory", "64GiB"]) as server:
            register(server, [spec(Path(folder), names[0])])
            wait_for_copies(server, 1)
            warm_up(server, names[:1], options)
            before = memory_bytes(server.pid)
            started = time.perf_counter()
            register(server, [spec(Path(folder), name) for name in names[1:]])
            figures["read_models_per_s"] = round(count / (time.perf_counter() - started))
            wait_for_copies(server, count)
            figures["loaded_models_per_s"] = round(count / (time.perf_counter() - started))
            time.sleep(SETTLE_S)
            loaded_only = per(server, before, count - 1)
            warm_up(server, names, options)
            time.sleep(SETTLE_S)
            figures["kib_per_model"] = round(per(server, before, count - 1) / 1024, 1)
            threads = psutil.Process(server.pid).num_threads()
            taken: dict[str, list[list[float]]] = {"": [], f"_over_{FEW}": []}
            for _ in range(options.rounds):
                for key, asked in zip(taken, (names, names[:FEW]), strict=True):
                    taken[key].append(ask_all(server, asked, options))
    for key, rounds in taken.items():
        for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99), ("p999_ms", 0.999)):
            median = statistics.median(percentile(ordered, share) for ordered in rounds)
            figures[f"{name}{key}"] = round(median, 3)
    print(f"{count:,} resident: {figures['kib_per_model']:.1f} KiB each"
          f" ({loaded_only / 1024:.1f} before the first request), {threads} threads,"
          f" {figures['read_models_per_s']:,.0f} read and registered a second,"
          f" {figures['loaded_models_per_s']:,.0f} registered and loaded a second;"
          f" {options.rate:,.0f} requests/s over all: p50 {figures['p50_ms']:.3f} ms,"
          f" p99 {figures['p99_ms']:.3f} ms, p99.9 {figures['p999_ms']:.3f} ms;"
          f" over {FEW} of them: p99 {figures[f'p99_ms_over_{FEW}']:.3f} ms")
    return figures


def make_models(folder: Path, count: int) -> list[str]:
    """One file written for each, the weights of a first one replaced by random ones."""
    first = flowers.model_bytes()
    graph = load_model_from_string(first).graph
    weights = next(each for each in graph.initializer if each.name == "w1").raw_data
    shape = numpy_helper.to_array(next(e for e in graph.initializer if e.name == "w1")).shape
    at = first.index(weights)
    draw = np.random.default_rng(1)
    names = [name_of(number) for number in range(count)]
    for name in names:
        own = draw.normal(size=shape).astype(np.float32).tobytes()
        (folder / f"{name}.onnx").write_bytes(first[:at] + own + first[at + len(own) :])
    return names


def wait_for_copies(server: Running, count: int) -> None:
    with client_of(server) as client:
        while client.instances()[0].copies < count:
            time.sleep(0.2)


def warm_up(server: Running, names: Sequence[str], options: Namespace) -> None:
    """Each model answers twice: the first call of a copy is measured on a thread."""
    rate = min(options.rate, 1_000.0)
    latencies_ms(channels(server, names), rate, 2 * len(names) / rate)


def ask_all(server: Running, names: Sequence[str], options: Namespace) -> list[float]:
    return latencies_ms(channels(server, names), options.rate, options.seconds)


def channels(server: Running, names: Sequence[str]) -> list[HttpChannel]:
    order = list(names)
    random.Random(1).shuffle(order)
    requests = itertools.cycle([
        flowers.http_request(flowers.JSON_BODY, path=f"/v2/models/{name}/infer".encode())
        for name in order
    ])
    return [
        HttpChannel(server.http_port, requests, lambda answer: answer.endswith(b"]}]}"))
        for _ in range(CONNECTIONS)
    ]


# --- both -----------------------------------------------------------------------------------------


def name_of(number: int) -> str:
    return f"tenant-{number:07}"


def spec(folder: Path, name: str) -> Mapping[str, object]:
    return {"name": name, "uri": str(folder / f"{name}.onnx")}


def client_of(server: Running) -> Client:
    return Client(
        f"http://127.0.0.1:{server.http_port}",
        management=f"http://127.0.0.1:{server.management_port}", retry=Retry(attempts=1),
    )


def register(
    server: Running, models: Sequence[Mapping[str, object]] | Iterator[Mapping[str, object]],
    *, read: bool = True,
) -> None:
    with client_of(server) as client:
        for result in client.register_many(models, read=read, page_size=PAGE):
            assert result.ok, result


def memory_bytes(pid: int) -> int:
    found: int = psutil.Process(pid).memory_info().rss
    return found


def per(server: Running, before: int, count: int) -> float:
    """Bytes that the process has grown by, a model."""
    return round((memory_bytes(server.pid) - before) / max(count, 1), 1)


if __name__ == "__main__":
    main()
