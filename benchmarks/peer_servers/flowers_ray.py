# mypy: ignore-errors
"""The model as a Ray Serve deployment; runs in Ray's environment: `flowers_ray.py PORT`."""

import os
import signal
import sys

import numpy as np
import onnxruntime
import ray
from ray import serve
from starlette.requests import Request


@serve.deployment
class Flowers:
    def __init__(self, path: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options)

    async def __call__(self, request: Request) -> dict:
        body = await request.json()
        (y,) = self.session.run(None, {"x": np.array(body["x"], np.float32)})
        return {"y": y.tolist()}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Flowers.bind(os.environ["FLOWERS"]))
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
