"""Requests that run together, over HTTP: each gets its own answer, whatever the others are."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx2
import joblib
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, minmax_scale
from tests.served import Served, until

CALLERS = 12

# Slow, so that whoever comes meanwhile waits; refuses negative numbers.
SLOW = """
    import time

    import shoal


    class Model:
        inputs = [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
        outputs = [{"name": "sum", "datatype": "FP32", "shape": [-1]}]
        max_batch_rows = 16

        def predict(self, inputs, parameters):
            time.sleep(0.02)
            if (inputs["x"] < 0).any():
                raise shoal.InvalidInput("x is negative")
            return {"sum": inputs["x"].sum(axis=1) + parameters.get("add", 0)}
"""

FLOWERS = load_iris().data


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("models")
    make_models(folder)
    with Served(folder, data_dir=tmp_path_factory.mktemp("data")) as running:
        yield running


def make_models(folder: Path) -> None:
    x, y = load_iris(return_X_y=True)
    forest = RandomForestClassifier(60, random_state=1).fit(x, y)
    joblib.dump(forest, folder / "forest.joblib")
    logistic = LogisticRegression(max_iter=1000).fit(x, y)
    joblib.dump(logistic, folder / "logistic.joblib")
    meeting = make_pipeline(FunctionTransformer(minmax_scale), LogisticRegression()).fit(x, y)
    joblib.dump(meeting, folder / "meeting.joblib")
    (folder / "slow").mkdir()
    (folder / "slow" / "model.py").write_text(dedent(SLOW))


def v2(rows: Any, **fields: object) -> dict[str, Any]:
    data = np.asarray(rows, np.float64)
    tensor = {"name": "x", "datatype": "FP32", "shape": list(data.shape),
              "data": data.ravel().tolist()}
    return {"inputs": [tensor], **fields}


def at_once(server: Served, posts: Sequence[tuple[str, dict[str, Any], dict[str, str]]]
            ) -> list[httpx2.Response]:
    """(path, body, headers) each, from many threads; the answers in the same order."""
    def post(it: tuple[str, dict[str, Any], dict[str, str]]) -> httpx2.Response:
        path, body, headers = it
        return server.http.post(path, json=body, headers=headers)

    with ThreadPoolExecutor(CALLERS) as pool:
        return list(pool.map(post, posts))


def counts(server: Served, model: str) -> tuple[int, int]:
    """Inferences and executions."""
    (stats,) = server.http.get(f"/v2/models/{model}/stats").json()["model_stats"]
    assert stats["inference_count"] == stats["inference_stats"]["success"]["count"]
    batches = {each["batch_size"]: each["compute_infer"]["count"] for each in stats["batch_stats"]}
    assert sum(batches.values()) == stats["execution_count"]
    assert sum(size * count for size, count in batches.items()) == stats["inference_count"]
    return stats["inference_count"], stats["execution_count"]


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_a_forest_answers_requests_of_unequal_rows_together_as_alone(
    server: Served, protocol: str
) -> None:
    chosen = [FLOWERS[start : start + 1 + start % 5] for start in range(0, 140, 3)]
    path, field = "/v2/models/forest/infer", "outputs"
    bodies = [v2(rows, outputs=[{"name": "predict"}, {"name": "predict_proba"}], id=f"r{index}")
              for index, rows in enumerate(chosen)]
    if protocol == "v1":
        path, field = "/v1/models/forest:predict", "predictions"
        bodies = [{"instances": rows.tolist()} for rows in chosen]
    alone = [server.http.post(path, json=body).json() for body in bodies]
    assert [len(each[field]) for each in alone] == [
        2 if protocol == "v2" else len(rows) for rows in chosen
    ]

    def ran_together() -> bool:
        before = counts(server, "forest")
        answers = at_once(server, [(path, body, {}) for body in bodies])
        assert [each.json() for each in answers] == alone
        after = counts(server, "forest")
        return after[1] - before[1] < after[0] - before[0]

    until(ran_together, "requests that ran together")


def test_what_runs_together_is_counted(server: Served) -> None:
    def ran_together() -> bool:
        at_once(server, [("/v2/models/slow/infer", v2([[i, i]]), {}) for i in range(CALLERS)])
        inferences, executions = counts(server, "slow")
        return executions < inferences

    until(ran_together, "requests that ran together")
    metrics = httpx2.get(server.management + "/metrics").text
    (count,) = [line for line in metrics.splitlines()
                if line.startswith("shoal_joined_requests_count")]
    assert float(count.split()[1]) > 0


def test_only_guilty_requests_fail_and_each_has_its_own_parameters_and_id(server: Served) -> None:
    path = "/v2/models/slow/infer"
    posts: list[tuple[str, dict[str, Any], dict[str, str]]] = []
    for i in range(4 * CALLERS):
        body = v2([[i, 1]] * (1 + i % 3), id=f"r{i}")
        if i % 8 == 3:
            body = v2([[i, -1]], id=f"r{i}")
        elif i % 8 == 5:
            body = v2([[i, 1, 1]], id=f"r{i}")
        elif i % 4 == 0:
            body["parameters"] = {"add": i}
        posts.append((path, body, {}))
    for i, answer in enumerate(at_once(server, posts)):
        said = answer.json()
        if i % 8 == 3:
            assert (answer.status_code, said["error"]) == (400, "x is negative")
        elif i % 8 == 5:
            assert answer.status_code == 400
            assert "the model takes [-1, 2]" in said["error"]
        else:
            added = i if i % 4 == 0 else 0
            assert said["outputs"][0]["data"] == [i + 1 + added] * (1 + i % 3)
            assert said["id"] == f"r{i}"


def test_a_deadline_that_passes_in_the_line_is_that_requests_alone(server: Served) -> None:
    path = "/v2/models/slow/infer"
    hurried = {"shoal-timeout-ms": "5"}
    posts = [(path, v2([[i, 0]]), hurried if i % 4 == 1 else {}) for i in range(2 * CALLERS)]
    for i, answer in enumerate(at_once(server, posts)):
        if i % 4 == 1:
            assert answer.status_code == 504
        else:
            assert answer.json()["outputs"][0]["data"] == [i]


# --- short calls, gathered over a turn of the event loop ------------------------------------------


def pipelined(server: Served, model: str, flowers: Any) -> list[Any]:
    """Answers to one request a flower, all sent at once on one connection."""
    host, port = server.url.removeprefix("http://").rsplit(":", 1)
    out = b""
    for index, flower in enumerate(flowers):
        body = json.dumps(v2([flower], id=str(index))).encode()
        out += b"POST /v2/models/%b/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (
            model.encode(), len(body), body
        )
    answers = []
    address = (host, int(port))
    with socket.create_connection(address, timeout=30) as sock, sock.makefile("rb") as file:
        sock.sendall(out)
        for _ in flowers:
            assert file.readline().startswith(b"HTTP/1.1 200")
            headers = dict(line.lower().split(b": ") for line in iter(file.readline, b"\r\n"))
            answers.append(json.loads(file.read(int(headers[b"content-length"]))))
    assert [each["id"] for each in answers] == [str(index) for index in range(len(flowers))]
    return [each["outputs"][0]["data"][0] for each in answers]


def test_short_calls_of_one_turn_are_answered_together_as_alone(server: Served) -> None:
    flowers = FLOWERS[::15]
    alone = [pipelined(server, "logistic", [flower])[0] for flower in flowers]

    def ran_together() -> bool:
        assert pipelined(server, "logistic", flowers) == alone
        inferences, executions = counts(server, "logistic")
        return executions < inferences - len(flowers)

    until(ran_together, "requests that ran together")


def test_a_model_whose_rows_meet_is_found_out_and_always_right(server: Served) -> None:
    flowers = FLOWERS[::15]
    alone = [pipelined(server, "meeting", [flower])[0] for flower in flowers]

    def was_found_out() -> bool:
        assert pipelined(server, "meeting", flowers) == alone
        events = server.client.events(model="meeting").events
        return any(event.kind == "batching_stopped" for event in events)

    until(was_found_out, "an event that says so")
    inferences, executions = counts(server, "meeting")
    assert inferences == executions
