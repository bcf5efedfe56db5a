"""The servers that Shoal is compared with: what each needs, how it is started, what it is asked.

Each serves the model of `flowers` as its documentation says to serve a model of one's own. The
other modules here run in the peers' environments and know nothing of Shoal.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from benchmarks import flowers

_DEBIAN_PYTHON = "/usr/bin/python3"  # which Triton's stub is linked to
_HERE = Path(__file__).parent
_PLAIN = flowers.http_request(
    orjson.dumps({"x": flowers.ROW.tolist()}), b"Content-Type: application/json", path=b"/predict"
)


@dataclass(frozen=True)
class Place:
    """Where a peer runs. environment: its virtual one. folder: one for its files, with the model,
    whose path it also has in its variable FLOWERS."""

    environment: Path
    folder: Path
    http_port: int
    grpc_port: int

    @property
    def model(self) -> Path:
        return self.folder / "flowers.onnx"

    def program(self, name: str) -> str:
        return str(self.environment / "bin" / name)


@dataclass(frozen=True)
class Peer:
    """command: prepares the folder and says how to start: variables (NAME=value), then the command
    line. request: W1 in the peer's words."""

    name: str
    requirements: Sequence[str]
    command: Callable[[Place], Sequence[str]]
    request: bytes = flowers.W1
    speaks_grpc: bool = False
    python: str = sys.executable


def _mlserver(place: Place) -> Sequence[str]:
    """Without parallel workers, which measures best with one processor."""
    shutil.copy(_HERE / "flowers_mlserver.py", place.folder)
    (place.folder / "settings.json").write_text(json.dumps({
        "host": "127.0.0.1", "http_port": place.http_port, "grpc_port": place.grpc_port,
        "metrics_endpoint": None, "parallel_workers": 0, "debug": False,
    }))
    (place.folder / "model-settings.json").write_text(json.dumps({
        "name": "flowers", "implementation": "flowers_mlserver.Flowers",
        "parameters": {"uri": str(place.model)},
    }))
    return [place.program("mlserver"), "start", str(place.folder)]


def _kserve(place: Place) -> Sequence[str]:
    return [
        place.program("python"), str(_HERE / "flowers_kserve.py"), "--model_name", "flowers",
        "--http_port", str(place.http_port), "--grpc_port", str(place.grpc_port),
    ]


def _litserve(place: Place) -> Sequence[str]:
    return [
        place.program("python"), str(_HERE / "flowers_litserve.py"), str(place.http_port)
    ]


def _bentoml(place: Place) -> Sequence[str]:
    shutil.copy(_HERE / "flowers_bentoml.py", place.folder)
    return [
        place.program("bentoml"), "serve", "flowers_bentoml:Flowers", "--host", "127.0.0.1",
        "--port", str(place.http_port), "--working-dir", str(place.folder),
    ]


def _ray(place: Place) -> Sequence[str]:
    return [place.program("python"), str(_HERE / "flowers_ray.py"), str(place.http_port)]


_TRITON_MODELS = {
    "flowers": """\
backend: "python"
input [{ name: "x" data_type: TYPE_FP32 dims: [-1, 4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [-1, 3] }]
""",
    "echo": """\
backend: "python"
input [{ name: "x" data_type: TYPE_FP32 dims: [-1] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [-1] }]
""",
}


def _triton(place: Place) -> Sequence[str]:
    """The server in NVIDIA's wheel for Python, with the stub of this Python beside its backend."""
    (packages,) = (place.environment / "lib").glob("python3*/site-packages")
    server = packages / "pytriton" / "tritonserver"
    backends = place.folder / "backends"
    shutil.copytree(server / "backends", backends)
    version = packages.parent.name.removeprefix("python")
    shutil.copy(
        server / "python_backend_stubs" / version / "triton_python_backend_stub",
        backends / "python",
    )
    repository = place.folder / "repository"
    for name, config in _TRITON_MODELS.items():
        model = repository / name
        (model / "1").mkdir(parents=True)
        (model / "config.pbtxt").write_text(config)
        shutil.copy(_HERE / f"{name}_triton.py", model / "1" / "model.py")
    libraries, found = packages / "nvidia_pytriton.libs", os.environ["PATH"]
    return [
        f"LD_LIBRARY_PATH={libraries}", f"PYTHONPATH={packages}",
        f"PATH={place.environment / 'bin'}:{found}", str(server / "bin" / "tritonserver"),
        f"--model-repository={repository}", f"--backend-directory={backends}",
        f"--http-port={place.http_port}", f"--grpc-port={place.grpc_port}",
        "--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--allow-metrics=false",
    ]


_ONNX = "onnxruntime>=1.20"
PEERS: Sequence[Peer] = (
    Peer("mlserver", ("mlserver==1.7.1", _ONNX), _mlserver, speaks_grpc=True),
    Peer("triton", ("nvidia-pytriton==0.7.0", _ONNX), _triton, speaks_grpc=True,
         python=_DEBIAN_PYTHON),
    Peer("kserve", ("kserve==0.21.0", _ONNX), _kserve, speaks_grpc=True),
    Peer("litserve", ("litserve==0.2.19", _ONNX), _litserve, _PLAIN),
    Peer("bentoml", ("bentoml==1.4.39", _ONNX), _bentoml, _PLAIN),
    Peer("ray", ("ray[serve]==2.60.0", _ONNX), _ray, _PLAIN.replace(b"/predict", b"/")),
)
