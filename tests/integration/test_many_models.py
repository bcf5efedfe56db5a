"""A thousand models of which a hundred fit: every answer right, memory within the budget."""

from __future__ import annotations

import http.client
import json
import random
import threading
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import joblib
import numpy as np
import psutil
from sklearn.dummy import DummyRegressor
from tests.served import Served

MODELS = 1_000
FIT = 100
REQUESTS = 2_500  # some 900 loads
CLIENTS = 8
BALLAST_BYTES = 1024 * 1024
BUDGET_BYTES = FIT * (BALLAST_BYTES + 64 * 1024)
# Buffers of requests, threads' stacks, heaps that are not quite full.
SLACK_BYTES = 48 * 1024 * 1024

PYTHON_MODEL = f"""
from pathlib import Path
import numpy as np

class Model:
    inputs = ({{"name": "x", "datatype": "FP64", "shape": [-1, 1]}},)
    outputs = ({{"name": "predict", "datatype": "FP64", "shape": [-1]}},)

    def load(self, folder):
        self.answer = float((folder / "answer.txt").read_text())
        self.ballast = np.full({BALLAST_BYTES // 8}, self.answer)

    def predict(self, inputs, parameters):
        return {{"predict": np.full(len(inputs["x"]), self.ballast[-1])}}
"""


def make_models(folder: Path) -> None:
    """Half of them Python classes, half scikit-learn's; each answers its own number."""
    ballast = np.zeros(BALLAST_BYTES // 8)
    for number in range(MODELS):
        child = folder / f"model-{number:04}"
        child.mkdir(parents=True)
        if number % 2:
            (child / "model.py").write_text(PYTHON_MODEL)
            (child / "answer.txt").write_text(str(number))
        else:
            model = DummyRegressor(strategy="constant", constant=float(number))
            model.fit(np.zeros((1, 1)), [float(number)])
            model.ballast = ballast
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                joblib.dump(model, child / "model.joblib", compress=1)


class Clients:
    """Ask by popularity, each over a connection of its own; count the answers."""

    def __init__(self, url: str, asked: list[int]) -> None:
        self.address = urlsplit(url).netloc
        self.asked = iter(asked)
        self.lock = threading.Lock()
        self.outcome: Counter[str] = Counter()

    def run(self) -> None:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        body = json.dumps({"inputs": [
            {"name": "x", "datatype": "FP64", "shape": [1, 1], "data": [1.0]}
        ]})
        mine: Counter[str] = Counter()
        while True:
            with self.lock:
                number = next(self.asked, None)
            if number is None:
                break
            connection.request("POST", f"/v2/models/model-{number:04}/infer", body)
            response = connection.getresponse()
            answer = json.loads(response.read())
            right = response.status == 200 and answer["outputs"][0]["data"] == [float(number)]
            mine["right" if right else f"{response.status} {answer}"[:300]] += 1
        connection.close()
        with self.lock:
            self.outcome += mine


class Highest:
    """The most memory a process had, looked at all the time."""

    def __init__(self, pid: int) -> None:
        self.process = psutil.Process(pid)
        self.bytes = 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def watch(self) -> None:
        while not self.done.wait(0.02):
            self.bytes = max(self.bytes, self.process.memory_info().rss)

    def __enter__(self) -> Highest:
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.done.set()
        self.thread.join()


def repeated_loads(logs: list[dict[str, object]]) -> list[object]:
    """Revisions whose load began while one was under way."""
    under_way: set[object] = set()
    repeated = []
    for line in logs:
        revision = line.get("revision")
        if line.get("kind") == "load_started":
            if revision in under_way:
                repeated.append(revision)
            under_way.add(revision)
        elif line.get("kind") in ("loaded", "load_failed"):
            under_way.discard(revision)
    return repeated


def test_a_thousand_models_of_which_a_hundred_fit(
    tmp_path: Path, serve: Callable[..., Served]
) -> None:
    folder = tmp_path / "models"
    make_models(folder)
    server = serve(folder, "--memory", str(BUDGET_BYTES), "--cache-fill", "none",
                   "--no-folder-watch")
    for number in (0, 1):  # the frameworks' own code is not the models'
        assert server.client.infer(f"model-{number:04}", {"x": [[1.0]]})["predict"] == [number]
    before_bytes = server.resident_bytes()

    popularity = [1 / (rank + 1) for rank in range(MODELS)]
    numbers = list(range(MODELS))
    chooser = random.Random(20)
    chooser.shuffle(numbers)
    clients = Clients(server.url, chooser.choices(numbers, popularity, k=REQUESTS))
    with Highest(server.process.pid) as highest, ThreadPoolExecutor(CLIENTS) as pool:
        for done in [pool.submit(clients.run) for _ in range(CLIENTS)]:
            done.result()

    assert clients.outcome == {"right": REQUESTS}
    status = server.client.status()
    assert status.totals.evictions > 700
    assert status.instances[0].used_bytes <= BUDGET_BYTES
    assert status.instances[0].copies > FIT * 0.7, "the budget is used"
    assert highest.bytes - before_bytes <= BUDGET_BYTES + SLACK_BYTES
    assert server.stop() == 0
    assert repeated_loads(server.logs) == []
