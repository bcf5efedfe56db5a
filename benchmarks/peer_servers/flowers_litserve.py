# mypy: ignore-errors
"""The model in LitServe; runs in LitServe's environment: `flowers_litserve.py PORT`."""

import os
import sys

import litserve
import numpy as np
import onnxruntime


class Flowers(litserve.LitAPI):
    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["FLOWERS"], options)

    def decode_request(self, request):
        return np.array(request["x"], np.float32)

    def predict(self, x):
        (y,) = self.session.run(None, {"x": x})
        return y

    def encode_response(self, output):
        return {"y": output.tolist()}


if __name__ == "__main__":
    litserve.LitServer(Flowers(), accelerator="cpu").run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
