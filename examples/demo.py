"""The README's first five minutes: make models, serve them, ask them, outgrow the memory.

    make demo             ends by itself
    make demo KEEP=1      goes on serving until Ctrl-C

Trains small models of every kind, serves them with `shoal serve`, compares each answer with that of
the model's own framework, then registers many times more copies than the memory budget holds and
asks them by a skewed distribution, so that models are loaded on demand and evicted.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from examples.cases import Case
from examples.make_models import make_models
from rich.console import Console
from rich.progress import track
from rich.table import Table

import shoal

FOLDER: Final = Path(__file__).parent.parent / ".demo"
MEMORY: Final = "48MiB"
COPIED: Final = "digits"  # a forest of about a megabyte in memory
COPIES: Final = 150
REQUESTS: Final = 3_000
AT_ONCE: Final = 16
START_TIMEOUT_S: Final = 60.0

console = Console(width=100)


@contextmanager
def serving(models: Path) -> Iterator[tuple[str, str]]:
    """`shoal serve` on free ports; yields its inference and management addresses."""
    command = [
        Path(sys.executable).with_name("shoal"), "serve", models, "--http-port", "0",
        "--grpc-port", "0", "--management-port", "0", "--memory", MEMORY,
        "--data-dir", FOLDER / "data", "--registry-url", "memory", "--log-format", "json",
        "--cache-fill", "none",
    ]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            said = json.loads(line) if line.startswith("{") else {"event": line.rstrip()}
            if said["event"] == "serving":
                break
            console.print(said["event"], style="dim", highlight=False)
        else:
            sys.exit(f"shoal serve ended with status {process.wait()}")
        log = (FOLDER / "serve.log").open("w")
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=log)
        yield said["http"], said["management"]
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(timeout=60)
        drain.wait()
        log.close()
        console.print(f"shoal serve ended with status {status} after SIGTERM", style="dim")
    if status != 0:
        sys.exit(1)


def ask_each(client: shoal.Client, cases: list[Case]) -> bool:
    """One request to each model; are all answers right?"""
    table = Table("model", "version", "format", "answer", "first request", "right",
                  title="\nOne request each")
    right = True
    for case in cases:
        inputs = {each["name"]: _array(each) for each in case.request["inputs"]}
        started = time.perf_counter()
        result = client.infer(case.model, inputs, version=case.version)
        took_ms = (time.perf_counter() - started) * 1e3
        same = all(_same(result[each["name"]], each) for each in case.expect["outputs"])
        right = right and same
        first = case.expect["outputs"][0]["name"]
        table.add_row(case.model, result.model_version, case.format, _short(result[first]),
                      f"{took_ms:.0f} ms", "yes" if same else "[red]no")
    console.print(table)
    return right


def _array(tensor: dict[str, object]) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    dtype = {"FP32": "f4", "FP64": "f8", "INT64": "i8", "INT32": "i4"}.get(str(tensor["datatype"]))
    data = np.array(tensor["data"], dtype=dtype)
    shape = tensor["shape"]
    assert isinstance(shape, list)
    return data.reshape(shape)


def _same(
    found: np.ndarray[tuple[int, ...], np.dtype[np.generic]], expected: dict[str, object]
) -> bool:
    wanted = _array(expected)
    if wanted.dtype.kind == "f":
        return bool(np.allclose(found.astype("f8"), wanted.astype("f8"), rtol=1e-4, atol=1e-6))
    texts = [each.decode() if isinstance(each, bytes) else each for each in found.ravel().tolist()]
    return texts == wanted.ravel().tolist()


def _short(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
    values = array.ravel().tolist()[:3]
    shown = [f"{v:.4g}" if isinstance(v, float) else v.decode() if isinstance(v, bytes) else str(v)
             for v in values]
    return ", ".join(shown) + (", …" if array.size > 3 else "")


async def outgrow(http: str, management: str, case: Case, models: Path) -> Counter[str]:
    """Register many copies of one model and ask them by popularity; answers by rightness."""
    inputs = {each["name"]: _array(each) for each in case.request["inputs"]}
    names = [f"{case.model}-{number:03}" for number in range(COPIES)]
    outcome: Counter[str] = Counter()
    choose = random.Random(1)
    popularity = [1 / (rank + 1) for rank in range(COPIES)]
    asked = choose.choices(names, popularity, k=REQUESTS)
    async with shoal.AsyncClient(http, management=management) as client:
        for name in track(names, "registering copies", console=console, transient=True):
            await client.register(name, str(models / case.artifact))
        requests = iter(track(asked, "asking them", console=console, transient=True))

        async def ask() -> None:
            for name in requests:
                result = await client.infer(name, inputs)
                expected = case.expect["outputs"][0]
                outcome["right" if _same(result[expected["name"]], expected) else "wrong"] += 1

        await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
    return outcome


def summary(client: shoal.Client, outcome: Counter[str]) -> None:
    status = client.status()
    instance, totals = status.instances[0], status.totals
    table = Table("what", "figure", title=f"\n{status.models} models in {MEMORY} of memory")
    table.add_row("requests", f"{totals.requests:,}")
    table.add_row("right answers of the copies", f"{outcome['right']:,} of {outcome.total():,}")
    table.add_row("hits (found in memory)", f"{totals.hits:,}")
    table.add_row("cold starts (waited for a load)", f"{totals.cold:,}")
    table.add_row("loads", f"{totals.loads:,}")
    table.add_row("evictions", f"{totals.evictions:,}")
    used, budget = instance.used_bytes / 2**20, instance.budget_bytes / 2**20
    table.add_row("in memory now", f"{instance.copies} models, {used:.1f} of {budget:.0f} MiB")
    for title, latency in (("latency", status.latency), ("cold start", status.cold_latency)):
        if latency.p50 is not None and latency.p99 is not None:
            table.add_row(f"{title}, p50 and p99",
                          f"{latency.p50 * 1e3:.2f} ms, {latency.p99 * 1e3:.2f} ms")
    console.print(table)


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    models = FOLDER / "models"
    console.print("making the example models …", style="dim")
    cases = make_models(models)
    with serving(models) as (http, management):
        console.print(f"serving {models} at {http}, management at {management}")
        with shoal.Client(http, management=management) as client:
            right = ask_each(client, cases)
            copied = next(case for case in cases if case.model == COPIED)
            outcome = asyncio.run(outgrow(http, management, copied, models))
            summary(client, outcome)
        if os.environ.get("KEEP"):
            _keep(http, management)
    return 0 if right and not outcome["wrong"] else 1


def _keep(http: str, management: str) -> None:
    console.print(f"\nStill serving. For example:\n"
                  f"  curl {http}/v2/models/iris\n"
                  f"  shoal --management {management} status\nCtrl-C ends it.")
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print()


if __name__ == "__main__":
    sys.exit(main())
