"""What a call, a load and a copy cost: the framework alone, Shoal's runtime, and converted to ONNX.

    python -m benchmarks runtimes [--rounds 15] [--copies 200]

Small models, one row a call, no server. The framework alone is its public call on an array that is
ready: ONNX Runtime's `run`, `Estimator.predict`, `Booster.inplace_predict`, `Booster.predict`.
Shoal's is `LoadedModel.predict`, from a dictionary of arrays to one. Converted is the same call
after `optimize`. Rounds of all alternate; the figures are medians, of processor time, since all run
on one thread. Memory is what a process of its own grows by for each copy. The last line is JSON.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks import flowers
from shoal.node.machine import trim_heap
from shoal.ports import Artifact, LoadedModel, Optimizable
from shoal.runtimes.registry import RuntimeRegistry

FOLDER = Path(tempfile.gettempdir()) / "shoal-benchmark-runtimes"
CALLS_S = 0.01  # of a round, each
LOADS = 30
REGISTRY = RuntimeRegistry.installed()
RANDOM = np.random.default_rng(1)
ROWS = RANDOM.normal(size=(300, 8))
CLASSES = (ROWS[:, 0] + ROWS[:, 1] ** 2 > 0.5).astype(int) + (ROWS[:, 2] > 1)

Row = NDArray[np.generic]


@dataclass(frozen=True)
class Kind:
    """open: the framework alone, from a file to a call for a row."""

    format: str
    file: str
    write: Callable[[Path], object]
    open: Callable[[Path], Callable[[Row], object]]
    row: Row


# --- models -------------------------------------------------------------------------------------


def _open_onnx(path: Path) -> Callable[[Row], object]:
    session = flowers.make_session(path.read_bytes())
    return lambda row: session.run(None, {"x": row})


def _image_bytes() -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    widths = (3, 16, 32, 64)
    nodes, weights, name = [], [], "x"
    for at, (before, after) in enumerate(itertools.pairwise(widths)):
        kernel = RANDOM.normal(size=(after, before, 3, 3)).astype(np.float32) / 10
        weights.append(numpy_helper.from_array(kernel, f"w{at}"))
        nodes += [
            helper.make_node("Conv", [name, f"w{at}"], [f"c{at}"], strides=[2, 2]),
            helper.make_node("Relu", [f"c{at}"], [f"r{at}"]),
        ]
        name = f"r{at}"
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["y"]))
    graph = helper.make_graph(
        nodes, "image", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 96, 96])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64, 1, 1])], weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def _estimator(make: Callable[[], Any]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        import joblib

        joblib.dump(make().fit(ROWS, CLASSES), path)

    return write


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression()


def _forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(10, random_state=1)


def _open_sklearn(path: Path) -> Callable[[Row], object]:
    import joblib

    predict: Callable[[Row], object] = joblib.load(path).predict
    return predict


def _write_xgboost(path: Path) -> None:
    import xgboost

    parameters = {"objective": "multi:softprob", "num_class": 3, "nthread": 1}
    xgboost.train(parameters, xgboost.DMatrix(ROWS, CLASSES), 20).save_model(path)


def _open_xgboost(path: Path) -> Callable[[Row], object]:
    import xgboost

    booster = xgboost.Booster(model_file=path)
    booster.set_param({"nthread": 1})
    predict: Callable[[Row], object] = booster.inplace_predict
    return predict


def _write_lightgbm(path: Path) -> None:
    import lightgbm

    parameters = {"objective": "multiclass", "num_class": 3, "num_threads": 1, "verbose": -1}
    lightgbm.train(parameters, lightgbm.Dataset(ROWS, CLASSES), 20).save_model(path)


def _open_lightgbm(path: Path) -> Callable[[Row], object]:
    import lightgbm

    booster = lightgbm.Booster(model_file=path)
    return lambda row: booster.predict(row, num_threads=1)


KINDS = {
    "onnx_tiny": Kind("onnx", "tiny.onnx", lambda path: path.write_bytes(flowers.model_bytes()),
                      _open_onnx, flowers.ROW),
    "onnx_image": Kind("onnx", "image.onnx", lambda path: path.write_bytes(_image_bytes()),
                       _open_onnx, RANDOM.normal(size=(1, 3, 96, 96)).astype(np.float32)),
    "logistic": Kind("sklearn", "logistic.joblib", _estimator(_logistic), _open_sklearn,
                     ROWS[:1]),
    "forest": Kind("sklearn", "forest.joblib", _estimator(_forest), _open_sklearn,
                   ROWS[:1]),
    "xgboost": Kind("xgboost", "model.ubj", _write_xgboost, _open_xgboost,
                    ROWS[:1].astype(np.float32)),
    "lightgbm": Kind("lightgbm", "model.txt", _write_lightgbm, _open_lightgbm, ROWS[:1]),
}


# --- measuring ----------------------------------------------------------------------------------


def load(kind: Kind) -> LoadedModel:
    artifact = Artifact("m", 1, FOLDER / kind.file, kind.format)
    return REGISTRY.get(kind.format).load(artifact)


def call_of(model: LoadedModel, row: Row) -> Callable[[], object]:
    name = model.signature.inputs[0].name
    return lambda: model.predict({name: row}, {})


def time_us(call: Callable[[], object]) -> float:
    calls, started = 0, time.thread_time()
    while (took := time.thread_time() - started) < CALLS_S:
        for _ in range(10):
            call()
        calls += 10
    return took / calls * 1e6


def median_ms(act: Callable[[], object]) -> float:
    taken = []
    for _ in range(LOADS):
        started = time.thread_time()
        act()
        taken.append(time.thread_time() - started)
    return statistics.median(taken) * 1e3


def measure(name: str, options: argparse.Namespace) -> dict[str, float]:
    kind = KINDS[name]
    path = FOLDER / kind.file
    kind.write(path)
    alone, shoal, optimized = kind.open(path), load(kind), load(kind)
    calls = {"framework_us": lambda: alone(kind.row), "shoal_us": call_of(shoal, kind.row)}
    found: dict[str, float] = {}
    note = ""
    if isinstance(optimized, Optimizable):
        started = time.perf_counter()
        outcome = optimized.optimize()
        found["convert_ms"] = (time.perf_counter() - started) * 1e3
        note = outcome.note
        if outcome.platform is not None:
            calls["converted_us"] = call_of(optimized, kind.row)
    taken: dict[str, list[float]] = {each: [] for each in calls}
    for _ in range(options.rounds):
        for each, call in calls.items():
            taken[each].append(time_us(call))
    found |= {each: statistics.median(values) for each, values in taken.items()}
    found["framework_load_ms"] = median_ms(lambda: kind.open(path))
    found["shoal_load_ms"] = median_ms(lambda: load(kind))
    found["shoal_kib"] = memory_kib(name, options.copies, converted=False)
    if "converted_us" in calls:
        found["converted_kib"] = memory_kib(name, options.copies // 10, converted=True)
    shown = "  ".join(f"{key} {value:,.1f}" for key, value in found.items())
    print(f"{name:>10}: {shown}" + (f"\n{'':>12}{note}" if note else ""), flush=True)
    return {key: round(value, 2) for key, value in found.items()}


def memory_kib(name: str, copies: int, *, converted: bool) -> float:
    """What a process grows by for each copy, run once."""
    command = [sys.executable, "-m", "benchmarks.runtimes", "--grow", name,
               "--copies", str(copies)]
    if converted:
        command.append("--converted")
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def grow(options: argparse.Namespace) -> None:
    kind = KINDS[options.grow]

    def make() -> LoadedModel:
        model = load(kind)
        if options.converted and isinstance(model, Optimizable):
            model.optimize()
        call_of(model, kind.row)()
        return model

    kept = [make(), make()]  # what comes with the framework is not a copy's
    trim_heap()
    before = psutil.Process().memory_info().rss
    kept += [make() for _ in range(options.copies)]
    gc.collect()
    trim_heap()
    print((psutil.Process().memory_info().rss - before) / options.copies / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--copies", type=int, default=200)
    parser.add_argument("--grow", help=argparse.SUPPRESS)
    parser.add_argument("--converted", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    FOLDER.mkdir(exist_ok=True)
    if options.grow:
        grow(options)
        return
    figures = {name: measure(name, options) for name in KINDS}
    print(json.dumps({
        f"{name}_{key}": value for name, found in figures.items() for key, value in found.items()
    }))


if __name__ == "__main__":
    main()
