"""Real files of real frameworks, told apart by the installed runtimes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.storage_fakes import HeldClock, put

from shoal.domain.errors import InvalidSpecification
from shoal.domain.model import ModelRecord, ModelSpec
from shoal.runtimes.registry import RuntimeRegistry
from shoal.storage.children import Children
from shoal.storage.declare import declare
from shoal.storage.folder import Declared, ModelFolder
from shoal.storage.formats import FormatFinder

TABLE = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]] * 10)
CLASSES = np.array([0, 1, 1, 0] * 10)


@pytest.fixture(scope="module")
def finder() -> FormatFinder:
    return RuntimeRegistry.installed()


def declared(path: Path, finder: FormatFinder) -> ModelRecord:
    return declare(ModelSpec(name="m", uri=str(path)), finder, registered_at=0.0)


def format_of(path: Path, finder: FormatFinder) -> str:
    (revision,) = declared(path, finder).revisions
    return revision.format


def test_a_pickled_estimator_is_sklearns(tmp_path: Path, finder: FormatFinder) -> None:
    joblib = pytest.importorskip("joblib")
    joblib.dump({"any": "object"}, tmp_path / "model.joblib")
    assert format_of(tmp_path, finder) == "sklearn"


@pytest.mark.parametrize("name", ["model.json", "model.ubj"])
def test_a_saved_booster_is_xgboosts(tmp_path: Path, finder: FormatFinder, name: str) -> None:
    xgboost = pytest.importorskip("xgboost")
    matrix = xgboost.DMatrix(TABLE, label=CLASSES)
    xgboost.train({"nthread": 1}, matrix, num_boost_round=1).save_model(tmp_path / name)
    put(tmp_path / "README.txt", "How this was trained")
    assert format_of(tmp_path, finder) == "xgboost"


@pytest.mark.parametrize("name", ["model.txt", "model.bst"])
def test_a_saved_booster_is_lightgbms(tmp_path: Path, finder: FormatFinder, name: str) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    data = lightgbm.Dataset(TABLE, label=CLASSES, params={"min_data_in_leaf": 1, "verbose": -1})
    booster = lightgbm.train({"verbose": -1, "num_threads": 1}, data, num_boost_round=1)
    booster.save_model(str(tmp_path / name))
    put(tmp_path / "README.txt", "How this was trained")
    assert format_of(tmp_path, finder) == "lightgbm"


def test_an_onnx_file_is_onnx_in_tritons_layout(tmp_path: Path, finder: FormatFinder) -> None:
    put(tmp_path / "config.pbtxt", 'platform: "onnxruntime_onnx" max_batch_size: 8')
    put(tmp_path / "1/model.onnx")
    assert format_of(tmp_path, finder) == "onnx"


def test_a_python_model_is_its_folder(tmp_path: Path, finder: FormatFinder) -> None:
    put(tmp_path / "m/model.py", "class Model: ...")
    put(tmp_path / "m/words.json", "[]")
    (revision,) = declared(tmp_path / "m", finder).revisions
    assert (revision.format, revision.uri) == ("python", str(tmp_path / "m"))


def test_what_this_release_cannot_run_is_said_at_once(
        tmp_path: Path, finder: FormatFinder) -> None:
    put(tmp_path / "config.pbtxt", 'platform: "caffe2_netdef"')
    put(tmp_path / "1/model.netdef")
    with pytest.raises(InvalidSpecification, match="no runtime for platform 'caffe2_netdef'"):
        declared(tmp_path, finder)


async def test_all_layouts_live_together_in_one_folder(
        tmp_path: Path, finder: FormatFinder) -> None:
    put(tmp_path / "bare.joblib")
    put(tmp_path / "bare.yaml", "labels: {team: a}")
    put(tmp_path / "versions/1/model.onnx")
    put(tmp_path / "versions/2/model.onnx")
    put(tmp_path / "triton/config.pbtxt", 'name: "triton" backend: "pytorch"')
    put(tmp_path / "triton/1/model.pt")
    put(tmp_path / "mlserver/model-settings.json", json.dumps({
        "name": "from-mlserver", "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "./model.joblib"}}))
    put(tmp_path / "mlserver/model.joblib")
    put(tmp_path / "python/model.py", "class Model: ...")
    clock = HeldClock()
    folder = ModelFolder(Children(tmp_path, finder), settle_s=1.0, poll_s=30.0, clock=clock,
                         sleep=clock.sleep)
    records = [change.record for change in await folder.first_scan()
               if isinstance(change, Declared)]
    assert sorted((r.name, r.revisions[-1].format, r.problem) for r in records) == [
        ("bare", "sklearn", None), ("from-mlserver", "sklearn", None),
        ("python", "python", None), ("triton", "pytorch", None), ("versions", "onnx", None),
    ]
