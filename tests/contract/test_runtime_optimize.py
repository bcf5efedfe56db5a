"""Converted models answer as their originals, or there is a reason why they were not kept."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import (
    GradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from shoal.domain.errors import InvalidInput
from shoal.ports import Artifact, LoadedModel, Optimizable, Outcome
from shoal.runtimes.lightgbm import LightGBMRuntime
from shoal.runtimes.sklearn import SklearnRuntime
from shoal.runtimes.xgboost import XGBoostRuntime

IRIS, SPECIES = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])[SPECIES]
SUGAR, PROGRESS = load_diabetes(return_X_y=True)
CELLS, MALIGNANT = load_breast_cancer(return_X_y=True)
SCALED = StandardScaler().fit_transform(CELLS)

Rows = NDArray[np.floating]

ESTIMATORS: dict[str, Callable[[], tuple[Any, Rows]]] = {
    "logistic": lambda: (LogisticRegression(max_iter=500).fit(IRIS, NAMES), IRIS),
    "two classes": lambda: (LogisticRegression(max_iter=500).fit(SCALED, MALIGNANT > 0), SCALED),
    "linear": lambda: (LinearRegression().fit(SUGAR, PROGRESS), SUGAR),
    "two targets": lambda: (LinearRegression().fit(IRIS, IRIS[:, :2] ** 2), IRIS),
    "tree": lambda: (DecisionTreeClassifier(random_state=0).fit(IRIS, SPECIES), IRIS),
    "forest": lambda: (
        RandomForestClassifier(25, random_state=0, max_features=1).fit(CELLS, MALIGNANT), CELLS),
    "forest of numbers": lambda: (
        RandomForestRegressor(5, random_state=0).fit(SUGAR, PROGRESS), SUGAR),
    "boosted": lambda: (
        GradientBoostingClassifier(n_estimators=8, random_state=0).fit(IRIS, SPECIES), IRIS),
    "margins": lambda: (LinearSVC().fit(IRIS, SPECIES), IRIS),
    "network": lambda: (
        MLPClassifier((8,), max_iter=2000, random_state=0).fit(IRIS, SPECIES), IRIS),
    "pipeline": lambda: (
        make_pipeline(StandardScaler(), LogisticRegression()).fit(IRIS, SPECIES), IRIS),
}


def load(estimator: object, folder: Path) -> LoadedModel:
    path = folder / "model.joblib"
    joblib.dump(estimator, path)
    return SklearnRuntime().load(Artifact("m", 1, path, "sklearn"))


def optimize(model: LoadedModel) -> Outcome:
    assert isinstance(model, Optimizable)
    return model.optimize()


def boosted(folder: Path, rows: Rows, target: Rows, **parameters: object) -> LoadedModel:
    booster = xgboost.train(
        {"nthread": 1, "max_depth": 4, **parameters}, xgboost.DMatrix(rows, target), 10)
    booster.save_model(folder / "model.ubj")
    return XGBoostRuntime().load(Artifact("m", 1, folder / "model.ubj", "xgboost"))


def near(actual: NDArray[np.generic], expected: NDArray[np.generic]) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if expected.dtype.kind == "f":
        largest = float(np.abs(expected).max())
        np.testing.assert_allclose(
            np.asarray(actual, np.float64), np.asarray(expected, np.float64), 1e-5, 1e-6 * largest)
    else:
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_a_converted_estimator_answers_as_before(tmp_path: Path, kind: str) -> None:
    estimator, rows = ESTIMATORS[kind]()
    model = load(estimator, tmp_path)
    signature = model.signature
    names = tuple(spec.name for spec in signature.outputs)
    before = model.predict({"x": rows}, {}, names)
    outcome = optimize(model)
    assert outcome.platform == model.platform == "onnxruntime_sklearn", outcome.note
    assert outcome.note.startswith("converted to ONNX: ")
    assert model.signature == signature
    after = model.predict({"x": rows}, {}, names)
    for name in names:
        near(after[name], before[name])
    for index in range(0, len(rows), 29):
        alone = model.predict({"x": rows[index : index + 1]}, {}, names)
        for name in names:
            near(alone[name], before[name][index : index + 1])


def test_what_the_original_refuses_is_still_refused(tmp_path: Path) -> None:
    model = load(LogisticRegression(max_iter=500).fit(IRIS, SPECIES), tmp_path)
    assert optimize(model).platform is not None
    for wrong in (np.nan, np.inf, -np.inf):
        with pytest.raises(InvalidInput, match=r"NaN|infinity"):
            model.predict({"x": np.where(IRIS[:2] > 5, wrong, IRIS[:2])}, {})
    with pytest.raises(InvalidInput, match="minimum of 1 is required"):
        model.predict({"x": np.empty((0, 4))}, {})
    with pytest.raises(InvalidInput, match=r"\[-1, 4\]"):
        model.predict({"x": np.zeros((1, 5))}, {})


def test_a_tie_gets_the_label_that_the_original_gives_it(tmp_path: Path) -> None:
    """Trees that vote half for one class and half for the other: sums in float32 would decide."""
    forest = RandomForestClassifier(10, random_state=3, max_features=1).fit(IRIS, SPECIES)
    model = load(forest, tmp_path)
    assert optimize(model).platform is not None
    rows = np.random.default_rng(1).uniform(0, 8, (3_000, 4))
    chances = np.sort(forest.predict_proba(rows))
    ties = rows[np.isclose(chances[:, -1], chances[:, -2])]
    assert len(ties) > 20
    assert model.predict({"x": ties}, {})["predict"].tolist() == forest.predict(ties).tolist()
    for row in ties[:20]:
        assert model.predict({"x": row[None]}, {})["predict"] == forest.predict(row[None])


def test_values_at_thresholds_take_the_branch_that_the_original_takes(tmp_path: Path) -> None:
    tree = DecisionTreeClassifier(random_state=0).fit(CELLS, MALIGNANT)
    model = load(tree, tmp_path)
    assert optimize(model).platform is not None
    inner = tree.tree_.children_left != -1
    rows = np.repeat(CELLS[:40], 3, axis=0)
    for feature, threshold in zip(
        tree.tree_.feature[inner], tree.tree_.threshold[inner], strict=True
    ):
        rows[0::3, feature] = threshold
        rows[1::3, feature] = np.nextafter(threshold, np.inf)
        rows[2::3, feature] = np.nextafter(threshold, -np.inf)
    answer = model.predict({"x": rows}, {})["predict"]
    assert answer.tolist() == tree.predict(rows).tolist()


@pytest.mark.parametrize(("make", "reason"), [
    (lambda: SVC().fit(IRIS, SPECIES), "answers differ by up to|labels differ"),
    (lambda: make_pipeline(StandardScaler(), RandomForestClassifier(5)).fit(CELLS, MALIGNANT),
     "answers differ by up to|labels differ"),
    (lambda: StandardScaler().fit(IRIS), "neither a classifier of one target nor a regressor"),
    (lambda: make_pipeline(FunctionTransformer(np.log1p), LinearRegression()).fit(IRIS, SPECIES),
     "the converter refuses it"),
    (lambda: make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(["red", "blue"], [0, 1]),
     "it takes an unknown number of features"),
], ids=["votes", "trees behind a scaler", "transformer", "function", "text"])
def test_an_estimator_that_cannot_be_converted_stays_as_it_is(
    tmp_path: Path, make: Callable[[], Any], reason: str
) -> None:
    model = load(make(), tmp_path)
    outcome = optimize(model)
    assert outcome.platform is None
    assert outcome.note.startswith("not converted to ONNX: ")

    assert re.search(reason, outcome.note), outcome.note
    assert model.platform == "sklearn"


def test_columns_of_a_data_frame_are_not_converted(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame(IRIS, columns=list("abcd"))
    outcome = optimize(load(LinearRegression().fit(frame, SPECIES), tmp_path))
    assert outcome.platform is None
    assert outcome.note.endswith("it takes text or a data frame's columns")


def test_others_estimators_are_not_converted(tmp_path: Path) -> None:
    from lightgbm import LGBMRegressor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load(LGBMRegressor(n_estimators=2, verbose=-1).fit(IRIS, SPECIES), tmp_path)
    assert "a LGBMRegressor is not scikit-learn's own" in optimize(model).note


def test_a_missing_converter_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(LinearRegression().fit(SUGAR, PROGRESS), tmp_path)
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    outcome = optimize(model)
    assert outcome.platform is None
    assert "pip install 'shoal[optimize]'" in outcome.note
    assert model.predict({"x": SUGAR[:1]}, {})["predict"].shape == (1,)


# --- boosted trees ------------------------------------------------------------------------------


@pytest.mark.parametrize(("objective", "rows", "target", "more"), [
    ("reg:squarederror", SUGAR, PROGRESS, {}), ("binary:logistic", CELLS, MALIGNANT, {}),
    ("multi:softprob", IRIS, SPECIES, {"num_class": 3}), ("count:poisson", SUGAR, PROGRESS, {}),
], ids=["squares", "logistic", "classes", "counts"])
def test_converted_xgboost_answers_as_before_also_without_some_values(
    tmp_path: Path, objective: str, rows: Rows, target: Rows, more: dict[str, object]
) -> None:
    model = boosted(tmp_path, rows, target, objective=objective, **more)
    name = model.signature.inputs[0].name
    holes = rows.astype(np.float32)
    holes[::3, ::2] = np.nan
    before = model.predict({name: holes}, {})["predict"]
    outcome = optimize(model)
    assert outcome.platform == model.platform == "onnxruntime_xgboost", outcome.note
    near(model.predict({name: holes}, {})["predict"], before)
    near(model.predict({name: holes[:1]}, {})["predict"], before[:1])


def test_xgboost_with_named_columns_is_converted_too(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame(SUGAR, columns=[f"test {letter}" for letter in "abcdefghij"])
    booster = xgboost.train({"nthread": 1}, xgboost.DMatrix(frame, PROGRESS), 5)
    booster.save_model(tmp_path / "model.json")
    model = XGBoostRuntime().load(Artifact("m", 1, tmp_path / "model.json", "xgboost"))
    columns = {name: frame[name].to_numpy(np.float32)[:9] for name in frame}
    before = model.predict(columns, {})["predict"]
    assert optimize(model).platform == "onnxruntime_xgboost"
    near(model.predict(columns, {})["predict"], before)


@pytest.mark.filterwarnings("ignore")  # of the deprecated booster
@pytest.mark.parametrize(("parameters", "reason"), [
    ({"booster": "gblinear"}, "its booster is gblinear"),
    ({"objective": "multi:softmax", "num_class": 3}, "its objective is multi:softmax"),
    ({"objective": "binary:logitraw"}, "answers differ"),
], ids=["linear", "labels", "misread by the converter"])
def test_xgboost_that_cannot_be_converted_stays_as_it_is(
    tmp_path: Path, parameters: dict[str, object], reason: str
) -> None:
    target = SPECIES if "num_class" in parameters else SPECIES > 0
    if parameters.get("booster") == "gblinear":
        parameters = {**parameters, "max_depth": 0}
    model = boosted(tmp_path, IRIS, target, **parameters)
    outcome = optimize(model)
    assert outcome.platform is None
    assert reason in outcome.note
    assert model.platform == "xgboost"


def grown(folder: Path, rounds: int) -> LoadedModel:
    parameters = {"verbose": -1, "num_threads": 1, "objective": "regression"}
    booster = lightgbm.train(parameters, lightgbm.Dataset(SUGAR, PROGRESS), rounds)
    booster.save_model(folder / "model.txt")
    return LightGBMRuntime().load(Artifact("m", 1, folder / "model.txt", "lightgbm"))


def test_lightgbm_of_which_float32_would_miss_thresholds_stays_as_it_is(tmp_path: Path) -> None:
    model = grown(tmp_path, 150)
    before = model.predict({"x": SUGAR}, {})["predict"]
    outcome = optimize(model)
    assert outcome.platform is None
    assert "answers differ" in outcome.note or "takes only" in outcome.note
    np.testing.assert_array_equal(model.predict({"x": SUGAR}, {})["predict"], before)
