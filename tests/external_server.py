"""The example's model server with tricks, for tests: `python tests/external_server.py ADDRESS`.

What a model's file says beside its weights: `die` and `hang` (under a request, once, where there is
the file that it names; all others hang along), `die_loading`, `hang_loading`, `refuse` and `fail`
(a load), `size` and `asked_size` (in bytes), `key` (to note what else it was told). Variables:
NOTES, a file of what it was asked; STATUS, CAPACITY, what it reports.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from examples import model_runtime_server as example

from shoal.codecs.protobuf import message_class as v2
from shoal.external.messages import message_class as mmesh

said: dict[str, dict[str, Any]] = {}
hanging = threading.Event()


def note(what: str) -> None:
    """For tests to read what was asked, in order."""
    print(what, flush=True)
    if path := os.environ.get("NOTES"):
        with Path(path).open("a") as file:
            file.write(f"{what}\n")


def runtime_status(request: Any, context: Any) -> Any:
    note("status")
    status = os.environ.get("STATUS", "READY")
    capacity = int(os.environ.get("CAPACITY", "0"))
    return mmesh("RuntimeStatusResponse")(
        status=status, capacityInBytes=capacity, maxLoadingConcurrency=2,
        limitModelConcurrency=True)


def load_model(request: Any, context: Any) -> Any:
    note(f"load {request.modelId}")
    try:
        tricks = json.loads(Path(request.modelPath).read_text())
    except ValueError:
        tricks = {}
    said[request.modelId] = tricks
    if "key" in tricks:
        note(request.modelKey)
    if tricks.get("die_loading"):
        print("out of cheese", flush=True)
        os._exit(3)
    if tricks.get("hang_loading"):
        threading.Event().wait(60)
    if tricks.get("refuse"):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not on a Sunday")
    if tricks.get("fail"):
        context.abort(grpc.StatusCode.INTERNAL, "the weights are too heavy")
    response = example.load_model(request, context)
    response.sizeInBytes = tricks.get("size", 0)
    return response


def model_size(request: Any, context: Any) -> Any:
    return mmesh("ModelSizeResponse")(
        sizeInBytes=said.get(request.modelId, {}).get("asked_size", 0))


def predict_size(request: Any, context: Any) -> Any:
    return mmesh("PredictModelSizeResponse")(
        sizeInBytes=json.loads(Path(request.modelPath).read_text()).get("size", 0))


def unload_model(request: Any, context: Any) -> Any:
    note(f"unload {request.modelId}")
    return example.unload_model(request, context)


def infer(request: Any, context: Any) -> Any:
    tricks = said.get(request.model_name, {})
    if tricks.get("die") and Path(tricks["die"]).exists():
        Path(tricks["die"]).unlink()
        print("out of luck", flush=True)
        os._exit(7)
    if tricks.get("hang") and Path(tricks["hang"]).exists():
        Path(tricks["hang"]).unlink()
        hanging.set()
        threading.Event().wait(60)
    return example.infer(request, context)


def live(request: Any, context: Any) -> Any:
    if hanging.is_set():
        threading.Event().wait(60)
    return v2("inference.ServerLiveResponse")(live=True)


RUNTIME = "/mmesh.ModelRuntime/"
INFERENCE = "/inference.GRPCInferenceService/"

if __name__ == "__main__":
    example.METHODS.update({
        RUNTIME + "runtimeStatus": (mmesh("RuntimeStatusRequest"), runtime_status),
        RUNTIME + "loadModel": (mmesh("LoadModelRequest"), load_model),
        RUNTIME + "unloadModel": (mmesh("UnloadModelRequest"), unload_model),
        RUNTIME + "modelSize": (mmesh("ModelSizeRequest"), model_size),
        RUNTIME + "predictModelSize": (mmesh("PredictModelSizeRequest"), predict_size),
        INFERENCE + "ModelInfer": (v2("inference.ModelInferRequest"), infer),
        INFERENCE + "ServerLive": (v2("inference.ServerLiveRequest"), live),
    })
    server = grpc.server(ThreadPoolExecutor(8), handlers=[example.Methods()])
    server.add_insecure_port(sys.argv[1])
    server.start()
    server.wait_for_termination()
