# mypy: ignore-errors
"""The model as a BentoML service; runs in BentoML's environment."""

import os

import bentoml
import numpy as np
import onnxruntime


@bentoml.service
class Flowers:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["FLOWERS"], options)

    @bentoml.api
    def predict(self, x: np.ndarray) -> np.ndarray:
        (y,) = self.session.run(None, {"x": x.astype(np.float32)})
        return y
