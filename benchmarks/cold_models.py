"""Tiny models of every format, each of other content, and what their frameworks alone do with them.

Knows no server. A framework is imported by the first use of its format.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from benchmarks import flowers

ROWS = np.random.default_rng(3).normal(size=(60, 4))
LABELS = np.arange(60) % 3


@dataclass(frozen=True)
class Format:
    """file: of a model called `{name}`, in the served folder. write: makes one, another for each
    seed. run: load the file and run it once, as one would without a server."""

    file: str
    write: Callable[[Path, int], None]
    run: Callable[[Path], object]
    input_name: str = "predict"
    datatype: str = "FP64"

    @property
    def body(self) -> bytes:
        """A V2 request for one row."""
        return orjson.dumps({"inputs": [{
            "name": self.input_name, "datatype": self.datatype, "shape": [1, 4],
            "data": flowers.ROW.ravel().tolist(),
        }]})


def _shuffled(seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Other labels for each seed: models of one size and of another content."""
    return np.random.default_rng(seed).permutation(LABELS)


def _write_onnx(path: Path, seed: int) -> None:
    path.write_bytes(flowers.model_bytes(seed))


def _run_onnx(path: Path) -> object:
    return flowers.make_session(path.read_bytes()).run(None, {"x": flowers.ROW})


def _write_sklearn(path: Path, seed: int) -> None:
    import joblib
    from sklearn.linear_model import LogisticRegression

    joblib.dump(LogisticRegression().fit(ROWS, _shuffled(seed)), path)


def _run_sklearn(path: Path) -> object:
    import joblib

    return joblib.load(path).predict(flowers.ROW)


def _write_xgboost(path: Path, seed: int) -> None:
    import xgboost

    parameters = {"objective": "multi:softprob", "num_class": 3, "nthread": 1, "max_depth": 3}
    data = xgboost.DMatrix(ROWS, _shuffled(seed), nthread=1)
    xgboost.train(parameters, data, 15).save_model(path)


def _run_xgboost(path: Path) -> object:
    import xgboost

    return xgboost.Booster({"nthread": 1}, model_file=path).inplace_predict(flowers.ROW)


def _write_lightgbm(path: Path, seed: int) -> None:
    import lightgbm

    parameters = {"objective": "multiclass", "num_class": 3, "num_threads": 1, "verbose": -1,
                  "min_data_in_leaf": 5}
    lightgbm.train(parameters, lightgbm.Dataset(ROWS, _shuffled(seed)), 15).save_model(path)


def _run_lightgbm(path: Path) -> object:
    import lightgbm

    return lightgbm.Booster(model_file=path).predict(flowers.ROW, num_threads=1)


_TORCH_CONFIG = """\
platform: "pytorch_libtorch"
input [{ name: "INPUT__0" data_type: TYPE_FP32 dims: [-1, 4] }]
output [{ name: "OUTPUT__0" data_type: TYPE_FP32 dims: [-1, 3] }]
"""


def _write_pytorch(path: Path, seed: int) -> None:
    import torch

    torch.manual_seed(seed)
    network = torch.nn.Sequential(
        torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)
    ).eval()
    torch.jit.trace(network, torch.from_numpy(flowers.ROW)).save(str(path))
    (path.parent.parent / "config.pbtxt").write_text(_TORCH_CONFIG)


def _run_pytorch(path: Path) -> object:
    import torch

    with torch.inference_mode():
        return torch.jit.load(str(path))(torch.from_numpy(flowers.ROW))


_PYTHON_MODEL = """\
class Model:
    def load(self, folder):
        self.scale = {seed}

    def predict(self, inputs, parameters):
        return {{"y": inputs["predict"] * self.scale}}
"""


def _write_python(path: Path, seed: int) -> None:
    path.write_text(_PYTHON_MODEL.format(seed=seed))


def _run_python(path: Path) -> object:
    spec = importlib.util.spec_from_file_location(path.parent.name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.Model()
    model.load(path.parent)
    return model.predict({"predict": flowers.ROW}, {})


FORMATS = {
    "onnx": Format("{name}.onnx", _write_onnx, _run_onnx, "x", "FP32"),
    "sklearn": Format("{name}/model.joblib", _write_sklearn, _run_sklearn),
    "xgboost": Format("{name}.ubj", _write_xgboost, _run_xgboost, datatype="FP32"),
    "lightgbm": Format("{name}.txt", _write_lightgbm, _run_lightgbm),
    "pytorch": Format("{name}/1/model.pt", _write_pytorch, _run_pytorch, "INPUT__0", "FP32"),
    "python": Format("{name}/model.py", _write_python, _run_python),
}
