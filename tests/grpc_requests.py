"""Requests of the inference protocol over gRPC, by Triton's own generated classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb


def raw(model: str, **arrays: Any) -> Any:
    """A ModelInferRequest with raw tensors, of numbers."""
    request = pb.ModelInferRequest(model_name=model)
    for name, array in arrays.items():
        request.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


def one(model: str = "echo", value: float = 1.5) -> Any:
    """The request of `odd_models.ONE`."""
    return raw(model, x=np.array([value], "f4"))


def typed(model: str, values: list[float]) -> Any:
    request = pb.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[len(values)])
    tensor.contents.fp32_contents.extend(values)
    return request


def datatype_of(array: Any) -> str:
    kind, size = array.dtype.kind, array.dtype.itemsize * 8
    if kind == "b":
        return "BOOL"
    return {"f": "FP", "i": "INT", "u": "UINT"}[kind] + str(size)


def floats(response: Any, index: int = 0) -> list[float]:
    """The elements of an FP32 output."""
    found: list[float] = np.frombuffer(response.raw_output_contents[index], "f4").tolist()
    return found
