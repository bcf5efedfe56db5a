"""What KServe's SDK sees of a gRPC port, as one line of JSON. Run by its own environment:

    .venv/kserve-client/bin/python tests/kserve_client.py 127.0.0.1:8081
"""

from __future__ import annotations

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest


def request(model: str, values: object, datatype: str, *, raw: bool) -> InferRequest:
    array = np.array(values)
    if raw:
        tensor = InferInput("x", list(array.shape), datatype)
        tensor.set_data_from_numpy(array, binary_data=True)
    else:
        tensor = InferInput("x", list(array.shape), datatype, data=array.ravel().tolist())
    return InferRequest(model_name=model, infer_inputs=[tensor], request_id="k-1")


async def seen(address: str) -> dict[str, object]:
    found: dict[str, object] = {}
    async with InferenceGRPCClient(url=address) as client:
        found["live"] = await client.is_server_live()
        found["ready"] = await client.is_server_ready()
        found["model ready"] = await client.is_model_ready("echo")
        for name, values, datatype in (
            ("floats", np.array([[1.5, -2]], "f4"), "FP32"),
            ("integers", np.array([1, -(2**40)], "i8"), "INT64"),
            ("half", np.array([0.5], "f2"), "FP16"),
        ):
            for raw in (True, False):
                if datatype == "FP16" and not raw:
                    continue
                answer = await client.infer(request("echo", values, datatype, raw=raw))
                same = answer.outputs[0].as_numpy().tolist() == values.tolist()
                found[f"{name} {'raw' if raw else 'typed'}"] = same and answer.id == "k-1"
        try:
            await client.infer(request("nope", np.array([1], "f4"), "FP32", raw=True))
        except Exception as error:  # noqa: BLE001 - whatever it makes of the status
            found["unknown model"] = str(error)
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(seen(sys.argv[1]))))
