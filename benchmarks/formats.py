"""What a copy of each format takes, what Shoal books for it, and whether all of it comes back.

    python -m benchmarks formats [--only onnx,keras] [--copies 6] [--rounds 200]

Each format in a process of its own: one small model is loaded, from which the ratio of memory to
files is learnt, then copies of a larger one (some MiB), each from files of its own, by the `Loader`
of an instance. `booked` is what the instance books for a copy, `real` what the process grew by for
it in memory of its own (Private_Dirty of smaps_rollup, after malloc_trim); `peak` is how far it
rose while one was loaded. Then the copies are closed: `left` is the share that did not come back.

Formats that run in processes of their own are left out.

Rounds: `shoal serve` with models of all formats and too little memory for them; in each round every
model is asked for once, in another order, so that most are loaded and others leave for them. The
process, seen from outside, is compared with its budget: what it grew by since it had loaded every
format once, over the memory that models may fill. The last line is JSON.
"""

from __future__ import annotations

import argparse
import gc
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import orjson
import psutil

from benchmarks.format_models import KINDS, LARGE, SMALL, another
from benchmarks.processes import Running, shoal
from shoal.codecs.tensors import DTYPES
from shoal.core.sizes import Sizes
from shoal.domain.model import Revision
from shoal.domain.signature import TensorSpec
from shoal.node.loader import Loaded, Loader
from shoal.node.machine import peak_bytes, reset_peak, trim_heap, tune_allocator
from shoal.node.threads import run_apart
from shoal.ports import Isolated, LoadedModel
from shoal.runtimes.registry import RuntimeRegistry
from shoal.storage.digest import read_content

if TYPE_CHECKING:
    from shoal.ports import Arrays

MIB = 1024**2
CALLS = 100
OF_A_KIND = 2  # models that are served
SETTLE_S = 5.0  # freed memory goes back once a second


@dataclass(frozen=True)
class Figures:
    """Bytes of a copy, and milliseconds. first, learnt: predicted before anything of the format was
    loaded, and after another one was. left: what the process still holds of a copy when all are
    closed."""

    files: float
    first: float
    learnt: float
    booked: float
    real: float
    peak: float
    left: float
    load_ms: float
    call_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(KINDS), help="kinds of models")
    parser.add_argument("--copies", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=200, help="0: none")
    parser.add_argument("--memory", type=int, default=128, help="MiB, of the server")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.measure:
        measured = measure(options.measure, options.folder, options.copies)
        print(json.dumps(asdict(measured)))
        return
    kinds = [kind for kind in options.only.split(",") if not runs_apart(kind)]
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        made = [kind for kind in kinds if made_here(kind, Path(place))]
        print(f"{'':>14}  {'files':>6} {'real':>6} {'booked/real':>11} {'first/real':>10} "
              f"{'learnt/real':>11} {'peak/real':>9} {'left':>5} {'load':>8} {'call':>8}")
        for kind in made:
            figures |= in_a_process(kind, Path(place), options.copies)
        if options.rounds:
            figures |= rounds(made, Path(place), options)
    print(json.dumps(figures))


def runs_apart(kind: str) -> bool:
    """In a process of its own, whose size is what the copy takes, and which gives back all."""
    runtime = RuntimeRegistry.installed().get(KINDS[kind].format)
    return isinstance(runtime, Isolated) and runtime.isolated


def made_here(kind: str, place: Path) -> bool:
    """Make the models of a kind, in a process of their own; False where its framework is not
    installed."""
    code = ("import sys; from pathlib import Path; from benchmarks.format_models import make; "
            f"make({kind!r}, Path({str(place / kind / 'small')!r}), {SMALL}); "
            f"make({kind!r}, Path({str(place / kind / 'large')!r}), {LARGE})")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True,
                          text=True)
    if done.returncode:
        print(f"{kind:>14}  cannot be made: {done.stderr.splitlines()[-1][:120]}")
    return not done.returncode


# --- one format ---------------------------------------------------------------------------------


def in_a_process(kind: str, place: Path, copies: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.formats", "--measure", kind, "--folder",
         str(place / kind), "--copies", str(copies)], capture_output=True, text=True)
    if done.returncode:
        print(f"{kind:>14}  cannot be measured: {' '.join(done.stderr.splitlines()[-3:])[-300:]}")
        return {}
    of = Figures(**json.loads(done.stdout.splitlines()[-1]))
    real = max(of.real, 1.0)
    ratios = {"booked": of.booked / real, "first": of.first / real, "learnt": of.learnt / real,
              "peak": of.peak / real, "left": of.left / real}
    print(f"{kind:>14}  {of.files / MIB:6.2f} {of.real / MIB:6.2f} {ratios['booked']:11.2f} "
          f"{ratios['first']:10.2f} {ratios['learnt']:11.2f} {ratios['peak']:9.2f} "
          f"{ratios['left']:5.2f} {of.load_ms:5.0f} ms {of.call_ms:5.2f} ms", flush=True)
    found = {f"{kind}_{name}_over_real": round(value, 3) for name, value in ratios.items()}
    return found | {f"{kind}_real_bytes": round(of.real), f"{kind}_load_ms": round(of.load_ms, 2),
                    f"{kind}_call_ms": round(of.call_ms, 3)}


def measure(kind: str, folder: Path, copies: int) -> Figures:
    """In a process that has loaded nothing."""
    tune_allocator()
    loader = Loader(RuntimeRegistry.installed(), (str(folder),), (), 1)
    sizes = Sizes()
    large = [revision(kind, path_of(kind, folder / "large"))]
    large += [revision(kind, another(kind, folder / f"copy{number}", folder / "large"), number)
              for number in range(copies)]
    first = sizes.predict(large[0]).size_bytes
    for number in range(3):  # a framework's code, and what its first models bring
        small = revision(kind, path_of(kind, folder / "small"), number)
        loaded = load(loader, small)
        call(loaded.model)
        if number:  # of the first of a format an instance learns the same, from what it says
            sizes.measured(small, loaded.size_bytes)
        loader.close(loaded.model)
    del loaded
    learnt = sizes.predict(large[0]).size_bytes
    warm = load(loader, large[0]).model  # stays: what the first large one brings is not a copy's
    call(warm)
    before = settled_bytes()
    models, booked, loads_ms, peaks = [], [], [], []
    for each in large[1:]:
        if not reset_peak():
            raise RuntimeError("the kernel does not tell the peak of a process")
        lowest = peak_bytes()
        started = time.perf_counter()
        loaded = load(loader, each)
        loads_ms.append((time.perf_counter() - started) * 1e3)
        peaks.append(peak_bytes() - lowest)
        booked.append(sizes.measured(each, loaded.size_bytes))
        call(loaded.model)
        models.append(loaded.model)
        del loaded
    real = (settled_bytes() - before) / copies
    calls_ms = call_ms(models[-1])
    while models:
        loader.close(models.pop())
    left = (settled_bytes() - before) / copies
    return Figures(
        large[0].files_bytes, first, learnt, statistics.median(booked), real,
        statistics.median(peaks), left, statistics.median(loads_ms), calls_ms)


def load(loader: Loader, wanted: Revision) -> Loaded:
    """On a thread of its own, as an instance does: what frameworks keep by thread is gone."""
    return run_apart("load", loader.load, wanted).result()


def path_of(kind: str, folder: Path) -> Path:
    return folder / KINDS[kind].path if KINDS[kind].path else folder


def revision(kind: str, path: Path, number: int = 0) -> Revision:
    """A number makes another revision of the same files; its content is another for the core."""
    content, of = read_content(path), KINDS[kind]
    name = f"{kind}-{path.parent.name}-{number}"
    return Revision(
        id=f"{name}@1", model=name, version=1, uri=str(path), format=of.format,
        artifact_digest=content.digest, files_bytes=content.files_bytes, inputs=of.inputs,
        outputs=of.outputs)


def call(model: LoadedModel) -> Arrays:
    return model.predict(question(model.signature.inputs), {})


def call_ms(model: LoadedModel) -> float:
    asked, taken = question(model.signature.inputs), []
    for _ in range(CALLS):
        started = time.perf_counter()
        model.predict(asked, {})
        taken.append((time.perf_counter() - started) * 1e3)
    return statistics.median(taken)


def question(specs: tuple[TensorSpec, ...]) -> Arrays:
    """One row of ones, or a word, for each input that text classification and numbers need."""
    asked = {}
    for spec in specs:
        shape = tuple(max(extent, 1) for extent in spec.shape)
        if spec.datatype == "BYTES":
            asked[spec.name] = np.full(shape, b"word1 word2", object)
        else:
            asked[spec.name] = np.ones(shape, DTYPES[spec.datatype])
    return asked


# --- memory -------------------------------------------------------------------------------------


def settled_bytes() -> int:
    """Memory that is this process's alone, when what is free was given back."""
    gc.collect()
    trim_heap()
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not tell the memory of a process")


# --- all formats in one server ------------------------------------------------------------------


def rounds(kinds: list[str], place: Path, options: argparse.Namespace) -> dict[str, float]:
    served, budget = place / "served", options.memory * MIB
    names = [f"{kind}-{number}" for kind in kinds for number in range(OF_A_KIND)]
    for name in names:
        kind = name.rpartition("-")[0]
        another(kind, served / name, place / kind / "large")
    flags = ("--memory", f"{options.memory}MiB", "--cache-fill", "none", "--no-folder-watch",
             "--request-repository-control")
    with shoal(served, flags=flags) as server:
        grown = []
        client = http.client.HTTPConnection("127.0.0.1", server.http_port)
        bodies = {name: body_for(client, name) for name in names}
        process = psutil.Process(server.pid)
        for name in names:  # every framework is imported, and has run
            post(client, f"/v2/models/{name}/infer", bodies[name])
        empty = without_models(client, process, names)
        order, most, started = random.Random(1), 0, time.perf_counter()
        print(f"\n{len(names)} models, --memory {options.memory} MiB; the process without them "
              f"{empty / MIB:,.0f} MiB")
        for number in range(options.rounds):
            for name in order.sample(names, len(names)):
                post(client, f"/v2/models/{name}/infer", bodies[name])
                most = max(most, process.memory_info().rss - empty)
            grown.append(process.memory_info().rss - empty)
            if not (number + 1) % max(options.rounds // 10, 1):
                print(f"round {number + 1:4}: {statistics.median(grown[-10:]) / budget:.2f} of the "
                      f"budget, {most / budget:.2f} at most, {booked_bytes(server) / budget:.2f} "
                      f"booked", flush=True)
        took_s = time.perf_counter() - started
        loads = metric(server, "shoal_loads_total")
        left = without_models(client, process, names) - empty
        client.close()
    tenth = max(len(grown) // 10, 1)
    figures = {
        "rounds": len(grown), "loads": loads, "loads_per_s": round(loads / took_s, 1),
        "grown_over_budget": round(statistics.median(grown[-tenth:]) / budget, 3),
        "grown_over_budget_at_first": round(statistics.median(grown[:tenth]) / budget, 3),
        "most_over_budget": round(most / budget, 3), "left_over_budget": round(left / budget, 3),
    }
    print("  ".join(f"{key} {value}" for key, value in figures.items()))
    return figures


def without_models(client: http.client.HTTPConnection, process: psutil.Process, names: list[str]
                   ) -> int:
    """What the process holds when all models have left for a while; then they may come again."""
    for name in names:
        post(client, f"/v2/repository/models/{name}/unload", b"{}")
    time.sleep(SETTLE_S)
    held: int = process.memory_info().rss
    for name in names:
        post(client, f"/v2/repository/models/{name}/load", b"{}")
    return held


def body_for(client: http.client.HTTPConnection, name: str) -> bytes:
    client.request("GET", f"/v2/models/{name}")
    metadata = orjson.loads(client.getresponse().read())
    if "inputs" not in metadata:
        raise RuntimeError(f"{name}: {metadata}")
    specs = tuple(TensorSpec(each["name"], each["datatype"], tuple(each["shape"]))
                  for each in metadata["inputs"])
    return orjson.dumps({"inputs": [
        {"name": key, "datatype": spec.datatype, "shape": value.shape,
         "data": [each.decode() for each in value.ravel().tolist()] if spec.datatype == "BYTES"
         else value.ravel().tolist()}
        for spec, (key, value) in zip(specs, question(specs).items(), strict=True)]})


def post(client: http.client.HTTPConnection, path: str, body: bytes) -> None:
    client.request("POST", path, body)
    response = client.getresponse()
    answer = response.read()
    if response.status != 200:
        raise RuntimeError(f"{path}: {answer.decode()[:300]}")


def booked_bytes(server: Running) -> float:
    return metric(server, 'shoal_cache_bytes{kind="used"}')


def metric(server: Running, name: str) -> float:
    client = http.client.HTTPConnection("127.0.0.1", server.management_port)
    client.request("GET", "/metrics")
    text = client.getresponse().read().decode()
    client.close()
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines()
                if line.startswith(f"{name} "))


if __name__ == "__main__":
    main()
