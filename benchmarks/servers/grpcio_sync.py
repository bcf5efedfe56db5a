"""gRPC's own synchronous server with the same model: what a Python team would write first.

Knows the model of `flowers` alone.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

from benchmarks.flowers import make_session, model_bytes
from benchmarks.processes import announce


class Service(GRPCInferenceServiceServicer):  # type: ignore[misc]  # generated without types
    def __init__(self) -> None:
        self.session = make_session(model_bytes())

    def ModelInfer(  # noqa: N802 - the protocol's name
        self, request: ModelInferRequest, context: grpc.ServicerContext
    ) -> ModelInferResponse:
        array = np.frombuffer(request.raw_input_contents[0], np.float32)
        (y,) = self.session.run(None, {"x": array.reshape(request.inputs[0].shape)})
        output = ModelInferResponse.InferOutputTensor(name="y", datatype="FP32", shape=y.shape)
        return ModelInferResponse(
            model_name="flowers", model_version="1", outputs=[output],
            raw_output_contents=[y.tobytes()],
        )


def serve() -> None:
    server = grpc.server(ThreadPoolExecutor(max_workers=10))  # as in gRPC's own examples
    add_GRPCInferenceServiceServicer_to_server(Service(), server)
    announce(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    server.wait_for_termination()
