"""The Triton of nvidia-pytriton's wheel, with its Python backend: real answers, real losses."""

from __future__ import annotations

import ctypes.util
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import ROOT
from tests.external import external, load, revision_of

from shoal.codecs import protobuf
from shoal.codecs.tensors import object_array
from shoal.domain.errors import InvalidArtifact, InvalidInput
from shoal.domain.serving_runtime import ServingRuntime, SupportedFormat
from shoal.domain.signature import TensorSpec
from shoal.external.repository import SERVICE
from shoal.external.servers import ExternalServers

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
HOME = ROOT / ".venv" / "triton"
TRITON = HOME / "lib" / PYTHON / "site-packages" / "pytriton" / "tritonserver"
SERVING = ServingRuntime(
    name="triton", formats=(SupportedFormat("python"),), serves="triton",
    command=(
        str(TRITON / "bin" / "tritonserver"), "--model-repository={models}",
        "--model-control-mode=explicit", f"--backend-directory={TRITON / 'backends'}",
        "--grpc-address=127.0.0.1", "--grpc-port={grpc_port}", "--allow-http=false",
        "--allow-metrics=false"),
    environment={"PATH": f"{HOME / 'bin'}:/usr/bin:/bin"}, start_timeout_s=120.0)
X = np.random.default_rng(1).random((5, 3), "f4")
WEIGHTS = np.array([1, 2, 3], "f4")
LINEAR = """
import numpy as np
import triton_python_backend_utils as triton

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = triton.get_input_tensor_by_name(request, "x").as_numpy()
            words = triton.get_input_tensor_by_name(request, "words").as_numpy()
            answers.append(triton.InferenceResponse([
                triton.Tensor("y", x @ np.array([1, 2, 3], np.float32)),
                triton.Tensor("upper", np.array([each.upper() for each in words], object))]))
        return answers
"""
CONFIG = """
name: "linear"
backend: "python"
input [{ name: "x" data_type: TYPE_FP32 dims: [-1, 3] },
       { name: "words" data_type: TYPE_STRING dims: [-1] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [-1] },
        { name: "upper" data_type: TYPE_STRING dims: [-1] }]
"""

pytestmark = [
    pytest.mark.skipif(not (HOME / ".installed").exists(), reason="make .venv/triton/.installed"),
    pytest.mark.skipif(
        ctypes.util.find_library(PYTHON) is None, reason=f"its backend needs lib{PYTHON}.so"),
]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExternalServers]:
    made = external(tmp_path_factory.mktemp("external"))
    yield made
    made.stop()


def test_a_folder_of_triton_answers_and_comes_back_when_it_was_lost(
    servers: ExternalServers, tmp_path: Path
) -> None:
    folder = tmp_path / "linear"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(LINEAR)
    (folder / "config.pbtxt").write_text(CONFIG)
    model = load(servers, SERVING, revision_of(folder, "python", "linear"))
    assert model.signature.inputs == (
        TensorSpec("x", "FP32", (-1, 3)), TensorSpec("words", "BYTES", (-1,)))
    words = object_array([b"fish", "über".encode()], (2,))
    for _ in range(2):
        answer = model.predict({"x": X, "words": words}, {})
        np.testing.assert_allclose(answer["y"].astype("f4"), X @ WEIGHTS, rtol=1e-6)
        assert answer["upper"].tolist() == [b"FISH", "über".encode().upper()]
        model._server.session()._data.ask(
            f"{SERVICE}RepositoryModelUnload", protobuf.write(
                "inference.RepositoryModelUnloadRequest", {"model_name": model._slot.id}), 10.0)
    with pytest.raises(InvalidInput, match="expects 'FP32'"):
        model.predict({"x": X.astype("f8"), "words": words}, {})


def test_what_it_cannot_load_is_refused_with_its_words(
    servers: ExternalServers, tmp_path: Path
) -> None:
    path = tmp_path / "model.py"
    path.write_text("class NoModel: pass")
    with pytest.raises(InvalidArtifact, match="no attribute 'TritonPythonModel'"):
        load(servers, SERVING, revision_of(
            path, "python", "broken", inputs=(TensorSpec("x", "FP32", (-1,)),),
            outputs=(TensorSpec("y", "FP32", (-1,)),)))
