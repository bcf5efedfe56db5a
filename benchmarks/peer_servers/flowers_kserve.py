# mypy: ignore-errors
"""The model in KServe's ModelServer; runs in KServe's environment."""

import argparse
import os

import kserve
import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, model_server
from kserve.utils.utils import generate_uuid


class Flowers(kserve.Model):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["FLOWERS"], options)
        self.ready = True

    async def predict(
        self, payload: InferRequest, headers=None, response_headers=None
    ) -> InferResponse:
        (y,) = self.session.run(None, {"x": payload.inputs[0].as_numpy()})
        output = InferOutput("y", list(y.shape), "FP32")
        # Raw tensors answer raw tensors, as over gRPC.
        output.set_data_from_numpy(y, binary_data=payload.inputs[0]._raw_data is not None)
        return InferResponse(payload.id or generate_uuid(), self.name, [output])


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(parents=[model_server.parser]).parse_args()
    kserve.ModelServer().start([Flowers(arguments.model_name)])
