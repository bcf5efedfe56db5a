"""A model server in sixty lines: ModelMesh's ModelRuntime, by which models come and go, and the
inference of the Open Inference Protocol. Its models are files like `{"weights": [2, 3]}`.

    python examples/model_runtime_server.py 127.0.0.1:9000
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from shoal.codecs.protobuf import message_class as v2
from shoal.external.messages import message_class as mmesh

models: dict[str, np.ndarray] = {}


def runtime_status(request: Any, context: Any) -> Any:
    models.clear()  # who asks this begins anew
    return mmesh("RuntimeStatusResponse")(
        status="READY", capacityInBytes=1 << 30, maxLoadingConcurrency=2,
        modelLoadingTimeoutMs=30_000, limitModelConcurrency=True)


def load_model(request: Any, context: Any) -> Any:
    try:
        weights = np.array(json.loads(Path(request.modelPath).read_text())["weights"], "f4")
    except (OSError, ValueError, KeyError, TypeError) as error:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"it has no weights: {error!r}")
    models[request.modelId] = weights
    return mmesh("LoadModelResponse")(sizeInBytes=weights.nbytes, maxConcurrency=8)


def unload_model(request: Any, context: Any) -> Any:
    models.pop(request.modelId, None)
    return mmesh("UnloadModelResponse")()


def infer(request: Any, context: Any) -> Any:
    if request.model_name not in models:
        context.abort(grpc.StatusCode.NOT_FOUND, f"model {request.model_name} is not loaded")
    weights = models[request.model_name]
    x = np.frombuffer(request.raw_input_contents[0], "<f4")
    if x.size % weights.size:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"rows must have {weights.size} columns")
    y = x.reshape(-1, weights.size) @ weights
    return v2("inference.ModelInferResponse")(
        outputs=[{"name": "y", "datatype": "FP32", "shape": y.shape}],
        raw_output_contents=[y.tobytes()])


METHODS: dict[str, tuple[Any, Callable[[Any, Any], Any]]] = {
    "/mmesh.ModelRuntime/runtimeStatus": (mmesh("RuntimeStatusRequest"), runtime_status),
    "/mmesh.ModelRuntime/loadModel": (mmesh("LoadModelRequest"), load_model),
    "/mmesh.ModelRuntime/unloadModel": (mmesh("UnloadModelRequest"), unload_model),
    "/inference.GRPCInferenceService/ModelInfer": (v2("inference.ModelInferRequest"), infer),
}


class Methods:
    def service(self, call: Any) -> Any:
        if call.method not in METHODS:
            return None  # which answers UNIMPLEMENTED
        request, answer = METHODS[call.method]
        return grpc.unary_unary_rpc_method_handler(
            answer, request.FromString, lambda response: response.SerializeToString())


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(8), handlers=[Methods()])
    server.add_insecure_port(sys.argv[1])
    server.start()
    server.wait_for_termination()
