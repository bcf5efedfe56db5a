"""What Triton's clients send and are to get back, over HTTP as over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tests.integration.conftest import Public

NUMBERS = {
    "BOOL": [True, False], "INT8": [-128, 127], "INT16": [-(2**15), 2**15 - 1],
    "INT32": [-(2**31), 1], "INT64": [-(2**63), 2**63 - 1], "UINT8": [0, 255],
    "UINT16": [0, 2**16 - 1], "UINT32": [0, 2**32 - 1], "UINT64": [0, 2**64 - 1],
    "FP16": [0.5, -65504], "FP32": [1.5, 3.4e38], "FP64": [0.1, 1.7e308],
}


def measures(public: Public) -> Any:
    (given,) = public.cases["iris-net"].request["inputs"]
    return np.array(given["data"], "f4").reshape(given["shape"])


def labels(public: Public) -> list[int]:
    found: list[int] = public.cases["iris-net"].expect["outputs"][0]["data"]
    return found
