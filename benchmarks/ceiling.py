"""The whole product beside the least code that parses, runs the same model and answers.

    python -m benchmarks ceiling [--rounds 15] [--seconds 0.5] [--connections 32]

W1: V2 in JSON over HTTP, W2: with the binary tensor extension, both beside a bare protocol class on
uvloop and httptools. W3: gRPC, beside the least HTTP/2 on uvloop and beside grpcio's synchronous
server. The last line is JSON: the other's processor time a request over Shoal's, the median of
alternating rounds (1.0: as lean as it).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks import flowers
from benchmarks.closed_loop import GrpcTarget, Target, arguments, measure, ratio
from benchmarks.machine import pin_client
from benchmarks.processes import servers, shoal


def main() -> None:
    options = arguments(__doc__).parse_args()
    as_json, as_bytes = flowers.right_parts()
    figures: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        servers("benchmarks.servers", ["bare-http", "bare-grpc", "grpcio-sync"]) as at,
    ):
        (Path(folder) / "flowers.onnx").write_bytes(flowers.model_bytes())
        with shoal(Path(folder)) as ours:
            pin_client()
            for key, request, is_right in (
                ("w1", flowers.W1, lambda answer: as_json in answer),
                ("w2", flowers.W2, lambda answer: answer.endswith(as_bytes)),
            ):
                ratios = measure({
                    f"{key}, bare": Target(*at["bare-http"], [request], is_right),
                    f"{key}, Shoal": Target(ours.pid, ours.http_port, [request], is_right),
                }, options)
                figures[f"http_{key}_vs_ceiling"] = ratios[f"{key}, Shoal"]
            w3 = {
                name: GrpcTarget(*where, flowers.w3(), lambda answer: as_bytes in answer)
                for name, where in {
                    "w3, bare": at["bare-grpc"], "w3, grpcio sync": at["grpcio-sync"],
                    "w3, Shoal": (ours.pid, ours.grpc_port),
                }.items()
            }
            figures["grpc_w3_vs_ceiling"] = measure({**w3}, options)["w3, Shoal"]
            figures["grpc_w3_vs_grpcio_sync"] = round(
                ratio(w3["w3, grpcio sync"].cost_us, w3["w3, Shoal"].cost_us), 3
            )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
