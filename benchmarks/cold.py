"""A cold request beside what the framework alone needs: a tiny ONNX model on local disk.

    python -m benchmarks cold [--models 300]

Each model is asked for once over HTTP, one after the other, by a server that has loaded nothing;
then each file is read, loaded and run by ONNX Runtime in this process. The last line is JSON:
medians in milliseconds, and their ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnxruntime
import uvloop

from benchmarks.ceiling import JSON_BODY, ROW, model_bytes
from benchmarks.closed_loop import announce, servers
from shoal.app import App
from shoal.observability.logs import configure_logs
from shoal.settings import read_settings

FOLDER = Path(tempfile.gettempdir()) / "shoal-benchmark-cold"


async def serve() -> None:
    configure_logs("warning", "json")
    app = App(read_settings({
        "http.port": "0", "management.port": "0", "data_dir": str(FOLDER), "cache.fill": "none",
        "registry.url": "memory", "folder.settle_s": "0", "folder.watch": "false",
    }, {}), [FOLDER / "models"])
    await app.start()
    announce(int(app.identity.http_address.rpartition(":")[2]))
    await asyncio.Event().wait()


def timed_ms(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return (time.perf_counter() - started) * 1e3


def ask(connection: http.client.HTTPConnection, name: str) -> None:
    connection.request("POST", f"/v2/models/{name}/infer", JSON_BODY)
    response = connection.getresponse()
    body = response.read()
    assert response.status == 200, body


def load_alone(path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path.read_bytes(), options)
    session.run(None, {"x": ROW})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=300)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve())
        return
    models = FOLDER / "models"
    models.mkdir(parents=True, exist_ok=True)
    paths = [models / f"m{number:04}.onnx" for number in range(options.models)]
    for path in paths:
        path.write_bytes(model_bytes())
    with servers("benchmarks.cold", ["shoal"]) as at:
        connection = http.client.HTTPConnection("127.0.0.1", at["shoal"][1])
        ask(connection, paths[0].stem)  # the framework's import is not a model's
        cold = [timed_ms(partial(ask, connection, path.stem)) for path in paths[1:]]
        warm = [timed_ms(partial(ask, connection, path.stem)) for path in paths[1:]]
        connection.close()
    load_alone(paths[0])
    alone = [timed_ms(partial(load_alone, path)) for path in paths[1:]]
    medians = {
        "cold_p50_ms": round(statistics.median(cold), 3),
        "warm_p50_ms": round(statistics.median(warm), 3),
        "framework_alone_p50_ms": round(statistics.median(alone), 3),
    }
    for name, value in medians.items():
        print(f"{name:>24}: {value:.3f}")
    print(json.dumps({
        **medians,
        "cold_vs_framework": round(medians["cold_p50_ms"] / medians["framework_alone_p50_ms"], 2),
    }))


if __name__ == "__main__":
    main()
