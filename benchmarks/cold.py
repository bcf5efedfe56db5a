"""A cold request beside what the framework alone needs, for every format.

    python -m benchmarks cold [--models 150] [--only onnx,sklearn]

Tiny models of different content on local disk are asked for once each over HTTP, one after the
other, by a server that has loaded nothing but one of the format (the framework's import is not a
model's); then each file is loaded and run by its framework in this process. The last line is JSON:
from request to answer in milliseconds, by format.
"""

from __future__ import annotations

import argparse
import http.client
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.cold_models import FORMATS, Format
from benchmarks.machine import pin_client
from benchmarks.open_loop import percentile
from benchmarks.processes import shoal


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=150, help="of each format")
    parser.add_argument("--only", default=",".join(FORMATS), help="formats")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of deprecated TorchScript
    figures: dict[str, float] = {}
    print(f"{'':>10}  {'cold p50':>9} {'cold p99':>9} {'warm p50':>9} {'alone p50':>9}  ms")
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            of_format = measure(FORMATS[name], Path(folder), options.models)
        print(f"{name:>10}  " + " ".join(f"{value:9.3f}" for value in of_format.values()))
        figures |= {f"{name}_{what}_ms": round(value, 3) for what, value in of_format.items()}
    print(json.dumps(figures))


def measure(kind: Format, folder: Path, models: int) -> dict[str, float]:
    """Milliseconds: cold p50 and p99, warm p50, and the framework alone."""
    names = [f"m{number:04}" for number in range(models + 1)]
    paths = [folder / kind.file.format(name=name) for name in names]
    for seed, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        kind.write(path, seed)
    with shoal(folder, flags=("--cache-fill", "none", "--no-folder-watch")) as ours:
        pin_client()
        connection = http.client.HTTPConnection("127.0.0.1", ours.http_port)
        ask(connection, names[0], kind.body)
        cold = times_ms([partial(ask, connection, name, kind.body) for name in names[1:]])
        warm = times_ms([partial(ask, connection, name, kind.body) for name in names[1:]])
        connection.close()
    kind.run(paths[0])
    alone = times_ms([partial(kind.run, path) for path in paths[1:]])
    return {
        "p50": percentile(cold, 0.5), "p99": percentile(cold, 0.99),
        "warm_p50": percentile(warm, 0.5), "alone_p50": percentile(alone, 0.5),
    }


def ask(connection: http.client.HTTPConnection, name: str, body: bytes) -> None:
    connection.request("POST", f"/v2/models/{name}/infer", body)
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise RuntimeError(f"{name}: {answer!r}")


def times_ms(acts: Sequence[Callable[[], object]]) -> list[float]:
    """Of each act, sorted."""
    taken = []
    for act in acts:
        started = time.perf_counter()
        act()
        taken.append((time.perf_counter() - started) * 1e3)
    return sorted(taken)


if __name__ == "__main__":
    main()
