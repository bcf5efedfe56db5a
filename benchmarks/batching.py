"""What running requests together brings: throughput with batching and without, W1 over HTTP.

    python -m benchmarks batching [--rounds 7] [--seconds 1] [--connections 32]

Two instances serve the same models, one with `request.max_batch_rows` 1. Rounds of both alternate.
The last line is JSON, by model, the medians of the rounds' ratios (1.0: batching brings nothing):
`_batching_gain` is requests/s with batching over requests/s without, `_batching_saves` processor
time a request without over that with it. `tiny` is what never waits and should lose nothing.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path

import joblib
import numpy as np
import orjson
import xgboost
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from benchmarks import flowers
from benchmarks.closed_loop import Target, arguments, measure, ratio
from benchmarks.machine import pin_client
from benchmarks.processes import shoal

WIDTH = 16
LAYERS = (256, 1536, 1536, 10)  # 12 MiB of weights: reading them is most of a row's cost
REQUESTS = 64  # different ones, sent in turn


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(rounds=7, seconds=1.0)
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        widths = make_models(Path(folder))
        with (
            shoal(Path(folder)) as joined,
            shoal(Path(folder), flags=("--request-max-batch-rows", "1")) as alone,
        ):
            pin_client()
            for model, width in widths.items():
                requests = [request(model, width, seed) for seed in range(REQUESTS)]
                targets = {
                    f"{model}, {how}": Target(server.pid, server.http_port, requests, is_right)
                    for how, server in (("together", joined), ("alone", alone))
                }
                for target in targets.values():
                    load_it(target)
                measure(targets, options)
                together, apart = targets.values()
                figures |= {
                    f"{model}_batching_gain": round(ratio(together.per_s, apart.per_s), 2),
                    f"{model}_batching_saves": round(ratio(apart.cost_us, together.cost_us), 2),
                }
    print(json.dumps(figures))


def make_models(folder: Path) -> dict[str, int]:
    """Writes them; how many numbers each takes a row, by name."""
    x, y = make_classification(2_000, WIDTH, n_informative=8, n_classes=3, random_state=1)
    joblib.dump(LogisticRegression(max_iter=500).fit(x, y), folder / "logistic.joblib")
    joblib.dump(
        RandomForestClassifier(30, max_depth=8, random_state=1).fit(x, y), folder / "forest.joblib"
    )
    boosted = xgboost.train(
        {"objective": "multi:softprob", "num_class": 3, "seed": 1}, xgboost.DMatrix(x, y), 50
    )
    boosted.save_model(folder / "boosted.ubj")
    (folder / "network.onnx").write_bytes(network())
    (folder / "tiny.onnx").write_bytes(flowers.model_bytes())
    return {"logistic": WIDTH, "forest": WIDTH, "boosted": WIDTH, "network": LAYERS[0], "tiny": 4}


def network() -> bytes:
    """A perceptron in ONNX, too slow for the event loop."""
    random = np.random.default_rng(1)
    nodes, weights, last = [], [], "x"
    for index, (taken, given) in enumerate(itertools.pairwise(LAYERS)):
        scaled = random.normal(size=(taken, given), scale=taken**-0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(scaled, f"w{index}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{index}"], [f"h{index}"]))
        nodes.append(helper.make_node("Tanh", [f"h{index}"], [f"t{index}"]))
        last = f"t{index}"
    graph = helper.make_graph(
        nodes, "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", LAYERS[0]])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["rows", LAYERS[-1]])],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    encoded: bytes = made.SerializeToString()
    return encoded


def request(model: str, width: int, seed: int) -> bytes:
    row = np.random.default_rng(seed).normal(size=(1, width)).round(4)
    body = orjson.dumps({"inputs": [
        {"name": "x", "shape": [1, width], "datatype": "FP32", "data": row.ravel().tolist()}
    ]})
    path = f"/v2/models/{model}/infer".encode()
    return flowers.http_request(body, b"Content-Type: application/json", path=path)


def load_it(target: Target) -> None:
    """Returns when the model is in memory."""
    (channel,) = target.connect(1)
    with channel.sock:
        channel.send([0.0])
        while not channel.receive():
            pass


def is_right(answer: bytes) -> bool:
    """The numbers are compared by tests."""
    return answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"]}]}")


if __name__ == "__main__":
    main()
