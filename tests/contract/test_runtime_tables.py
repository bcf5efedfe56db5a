"""scikit-learn, XGBoost and LightGBM: what is particular to models of tables."""

from __future__ import annotations

import pickle
import sys
import textwrap
import types
import warnings
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
import skops.io
import xgboost
from numpy.typing import NDArray
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from shoal.domain.errors import (
    InvalidArtifact,
    InvalidInput,
    InvalidSpecification,
    NotTrusted,
    RuntimeMissing,
)
from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact, LoadedModel, Noted
from shoal.runtimes.lightgbm import LightGBMRuntime
from shoal.runtimes.sklearn import SklearnRuntime
from shoal.runtimes.xgboost import XGBoostRuntime

X = np.random.default_rng(0).normal(size=(60, 3))
Y = (X[:, 0] > 0).astype(int)
SPECIES = np.array(["ant", "bee"], dtype=object)
FRAME = pd.DataFrame({
    "size": X[:, 0], "kind": np.array(["a", "b", "c"])[np.arange(60) % 3], "age": np.arange(60.0),
})


def text(*items: str) -> NDArray[np.object_]:
    return np.array([item.encode() for item in items], dtype=object)


def close(actual: NDArray[np.generic], expected: object) -> None:
    np.testing.assert_allclose(actual.astype(np.float64), np.asarray(expected, np.float64), 1e-5)


def load(estimator: object, folder: Path, **artifact: Any) -> LoadedModel:
    path = folder / "model.joblib"
    joblib.dump(estimator, path)
    return SklearnRuntime().load(Artifact("m", 1, path, "sklearn", **artifact))


# --- scikit-learn -------------------------------------------------------------------------------


def test_probabilities_are_answered_on_demand(tmp_path: Path) -> None:
    estimator = LogisticRegression().fit(X, Y)
    model = load(estimator, tmp_path)
    assert model.signature.default_outputs == ("predict",)
    assert TensorSpec("predict_proba", "FP64", (-1, 2)) in model.signature.outputs
    answer = model.predict({"any": X}, {}, ("predict_proba", "decision_function"))
    np.testing.assert_array_equal(answer["predict_proba"], estimator.predict_proba(X))
    np.testing.assert_array_equal(answer["decision_function"], estimator.decision_function(X))
    assert list(answer) == ["predict_proba", "decision_function"]


def test_text_labels_answer_as_bytes(tmp_path: Path) -> None:
    model = load(DecisionTreeClassifier().fit(X, SPECIES[Y]), tmp_path)
    assert model.signature.outputs[0] == TensorSpec("predict", "BYTES", (-1,))
    assert model.predict({"x": X[:2]}, {})["predict"].tolist() == [
        label.encode() for label in SPECIES[Y[:2]]
    ]


def test_a_transformer_answers_transform(tmp_path: Path) -> None:
    scaler = StandardScaler().fit(X)
    model = load(scaler, tmp_path)
    assert model.signature.outputs == (TensorSpec("transform", "FP64", (-1, 3)),)
    np.testing.assert_array_equal(model.predict({"x": X}, {})["transform"], scaler.transform(X))


def test_a_sparse_answer_becomes_a_matrix(tmp_path: Path) -> None:
    vectorizer = TfidfVectorizer().fit(["red fish", "blue fish"])
    model = load(vectorizer, tmp_path)
    assert model.signature.outputs == (TensorSpec("transform", "FP64", (-1, 3)),)
    answer = model.predict({"x": text("red")}, {})["transform"]
    assert answer.tolist() == vectorizer.transform(["red"]).toarray().tolist()


def test_a_pipeline_of_text_takes_one_text_a_row(tmp_path: Path) -> None:
    words = ["good day", "bad day", "good food", "bad food"]
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(words, [1, 0, 1, 0])
    model = load(pipeline, tmp_path)
    assert model.signature.inputs == (TensorSpec("predict", "BYTES", (-1,)),)
    assert model.predict({"x": text("good", "bad")}, {})["predict"].tolist() == [1, 0]
    assert model.predict({"x": text("good", "bad")[:, None]}, {})["predict"].tolist() == [1, 0]
    with pytest.raises(InvalidInput, match="UTF-8"):
        model.predict({"x": np.array([b"\xff"], dtype=object)}, {})


def frame_model() -> Any:
    prepare = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()), ["kind"]),
        ("passthrough", slice("age", "age")), (StandardScaler(), [0]),
    )
    return make_pipeline(prepare, LogisticRegression(max_iter=500)).fit(FRAME, Y)


def test_columns_of_text_are_known_from_the_encoder(tmp_path: Path) -> None:
    model = load(frame_model(), tmp_path)
    assert model.signature.table
    assert [(spec.name, spec.datatype) for spec in model.signature.inputs] == [
        ("size", "FP64"), ("kind", "BYTES"), ("age", "FP64"),
    ]


def test_columns_and_one_matrix_answer_alike(tmp_path: Path) -> None:
    pipeline = frame_model()
    model = load(pipeline, tmp_path)
    columns = {"size": X[:4, :1], "kind": text("a", "b", "c", "a"), "age": np.arange(4.0)}
    matrix = np.array([[str(v).encode() for v in row] for row in FRAME[:4].to_numpy()], object)
    expected = pipeline.predict(FRAME[:4]).tolist()
    assert model.predict(columns, {})["predict"].tolist() == expected
    assert model.predict({"rows": matrix}, {})["predict"].tolist() == expected


def test_columns_of_different_length_are_refused(tmp_path: Path) -> None:
    model = load(frame_model(), tmp_path)
    with pytest.raises(InvalidInput, match="differ in length"):
        model.predict({"size": X[:2, 0], "kind": text("a"), "age": np.zeros(2)}, {})


def test_an_unknown_category_is_refused_in_one_line(tmp_path: Path) -> None:
    model = load(frame_model(), tmp_path)
    with pytest.raises(InvalidInput, match="unknown categories") as raised:
        model.predict({"size": X[:1, 0], "kind": text("z"), "age": np.zeros(1)}, {})
    assert "\n" not in raised.value.message


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    model = load(frame_model(), tmp_path)
    with pytest.raises(InvalidInput, match="column 'age' missing"):
        model.predict({"size": X[:1, 0], "kind": text("a")}, {})


def test_numbers_that_the_estimator_refuses_are_the_callers(tmp_path: Path) -> None:
    model = load(LinearRegression().fit(X, Y), tmp_path)
    with pytest.raises(InvalidInput, match="NaN"):
        model.predict({"x": np.full((1, 3), np.nan)}, {})


def test_one_declared_matrix_hides_the_columns(tmp_path: Path) -> None:
    regression = LinearRegression().fit(FRAME[["size", "age"]], Y)
    declared = TensorSpec("rows", "FP32", (-1, 2))
    model = load(regression, tmp_path, inputs=(declared,))
    assert model.signature.inputs == (declared,)
    assert not model.signature.table
    rows = FRAME[["size", "age"]][:3]
    answer = model.predict({"rows": rows.to_numpy()}, {})["predict"]
    close(answer, regression.predict(rows))


def test_declared_columns_split_a_matrix(tmp_path: Path) -> None:
    regression = LinearRegression().fit(X, Y)
    columns = tuple(TensorSpec(name, "FP64", (-1,)) for name in "abc")
    model = load(regression, tmp_path, inputs=columns)
    assert model.signature.table
    answer = model.predict({name: X[:5, i] for i, name in enumerate("abc")}, {})["predict"]
    close(answer, regression.predict(X[:5]))


def test_a_wrong_number_of_declared_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecification, match=r"2 inputs are declared.* 3 features"):
        load(LinearRegression().fit(X, Y), tmp_path,
             inputs=tuple(TensorSpec(name, "FP64", (-1,)) for name in "ab"))


def test_only_declared_outputs_are_answered(tmp_path: Path) -> None:
    declared = TensorSpec("predict_proba", "FP32", (-1, 2))
    model = load(LogisticRegression().fit(X, Y), tmp_path, outputs=(declared,))
    answer = model.predict({"x": X[:2]}, {})
    assert list(answer) == ["predict_proba"]
    assert answer["predict_proba"].dtype == np.float32


def test_a_datatype_that_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecification, match="declared as BYTES"):
        load(LinearRegression().fit(X, Y), tmp_path,
             outputs=(TensorSpec("predict", "BYTES", (-1,)),))


def test_an_unfitted_estimator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArtifact, match="not fitted"):
        load(LinearRegression(), tmp_path)


@pytest.mark.parametrize("thing", [{"a": 1}, [1, 2], LinearRegression, 3])
def test_what_is_no_estimator_is_refused(tmp_path: Path, thing: object) -> None:
    with pytest.raises(InvalidArtifact, match="neither predict nor transform"):
        load(thing, tmp_path)


def test_jobs_are_bound_to_the_threads_of_the_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    usual = joblib.Parallel.__init__

    def watched(self: Any, *given: Any, **named: Any) -> None:
        asked.append(named.get("n_jobs"))
        usual(self, *given, **named)

    model = load(make_pipeline(RandomForestClassifier(3, n_jobs=8).fit(X, Y)), tmp_path)
    monkeypatch.setattr(joblib.Parallel, "__init__", watched)
    model.predict({"x": X}, {})
    assert asked == [1]


def test_an_older_version_becomes_a_note(tmp_path: Path) -> None:
    import sklearn

    path = tmp_path / "model.pkl"
    other = "0" * len(sklearn.__version__)
    data = pickle.dumps(LinearRegression().fit(X, Y))
    path.write_bytes(data.replace(sklearn.__version__.encode(), other.encode()))
    model = SklearnRuntime().load(Artifact("m", 1, path, "sklearn"))
    assert isinstance(model, Noted)
    assert model.notes == (
        f"saved by scikit-learn {other}, loaded by {sklearn.__version__}: answers may differ; save "
        "it anew when you can",
    )


def test_a_pickle_of_a_package_not_installed_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("beekeeping")
    module.Hive = type("Hive", (), {"__module__": "beekeeping"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "beekeeping", module)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(module.Hive()))
    monkeypatch.delitem(sys.modules, "beekeeping")
    with pytest.raises(RuntimeMissing, match="'beekeeping'"):
        SklearnRuntime().load(Artifact("m", 1, tmp_path / "model.pkl", "sklearn"))


def test_a_missing_framework_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.json").write_text('{"learner": {}}')
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(RuntimeMissing, match=r"pip install 'shoal\[xgboost\]'"):
        XGBoostRuntime().load(Artifact("m", 1, tmp_path / "model.json", "xgboost"))


def test_skops_types_need_trust(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    pipeline = make_pipeline(FunctionTransformer(), LinearRegression())
    pipeline.fit(X, Y).steps[0][1].inverse_func = textwrap.indent  # harmless, but not known as such
    skops.io.dump(pipeline, path)
    (unknown,) = skops.io.get_untrusted_types(file=path)
    with pytest.raises(NotTrusted) as raised:
        SklearnRuntime().load(Artifact("m", 1, path, "sklearn"))
    assert unknown in raised.value.message
    assert "trust.skops_types" in raised.value.message
    model = SklearnRuntime().load(Artifact("m", 1, path, "sklearn", trusted_types=(unknown,)))
    np.testing.assert_array_equal(model.predict({"x": X}, {})["predict"], pipeline.predict(X))


# --- boosted trees ------------------------------------------------------------------------------


def boosted(folder: Path, parameters: dict[str, Any], data: xgboost.DMatrix,
            **artifact: Any) -> tuple[xgboost.Booster, LoadedModel]:
    booster = xgboost.train({"nthread": 1, **parameters}, data, 4)
    path = folder / "model.ubj"
    booster.save_model(path)
    return booster, XGBoostRuntime().load(Artifact("m", 1, path, "xgboost", **artifact))


# Newer releases deprecate `dart` and `gblinear`, and serve the first as `gbtree`.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["gbtree", "dart", "gblinear"])
def test_every_kind_of_booster_answers_as_it_does_itself(tmp_path: Path, kind: str) -> None:
    booster, model = boosted(tmp_path, {"booster": kind}, xgboost.DMatrix(X, Y))
    answer = model.predict({"x": X.astype("f4")}, {})["predict"]
    close(answer, booster.predict(xgboost.DMatrix(X)))
    if kind == "gblinear":
        assert model.max_concurrency == 1


CATEGORIES = FRAME.assign(kind=FRAME["kind"].astype("category"))


def test_xgboost_takes_columns_of_categories(tmp_path: Path) -> None:
    data = xgboost.DMatrix(CATEGORIES, Y, enable_categorical=True)
    booster, model = boosted(tmp_path, {"max_depth": 3}, data)
    assert [(spec.name, spec.datatype) for spec in model.signature.inputs] == [
        ("size", "FP32"), ("kind", "BYTES"), ("age", "FP32"),
    ]
    columns = {"size": X[:6, 0], "kind": text(*FRAME["kind"][:6]), "age": np.arange(6.0)}
    answer = model.predict(columns, {})["predict"]
    close(answer, booster.predict(data)[:6])


def test_xgboost_refuses_a_category_it_was_not_trained_on(tmp_path: Path) -> None:
    data = xgboost.DMatrix(CATEGORIES, Y, enable_categorical=True)
    _, model = boosted(tmp_path, {}, data)
    with pytest.raises(InvalidInput, match=r"column 'kind': 'z' is none .* a, b, c"):
        model.predict({"size": X[:1, 0], "kind": text("z"), "age": np.zeros(1)}, {})


def test_xgboost_reads_json_whatever_the_file_is_called(tmp_path: Path) -> None:
    booster = xgboost.train({"nthread": 1}, xgboost.DMatrix(X, Y), 2)
    path = tmp_path / "model.bst"
    path.write_bytes(bytes(booster.save_raw("json")))
    assert XGBoostRuntime().recognise(path, path.read_bytes()[:4096])
    assert XGBoostRuntime().load(Artifact("m", 1, path, "xgboost")).signature.inputs


def test_a_binary_of_an_old_xgboost_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "model.bst"
    path.write_bytes(b"binf" + bytes(500))
    assert XGBoostRuntime().recognise(path, path.read_bytes())
    with pytest.raises(InvalidArtifact, match=r"save_model\('model.ubj'\)"):
        XGBoostRuntime().load(Artifact("m", 1, path, "xgboost"))


def test_other_json_is_not_xgboosts(tmp_path: Path) -> None:
    assert not XGBoostRuntime().recognise(tmp_path / "model-settings.json", b'{"name": "m"}')


def grown(folder: Path, frame: pd.DataFrame) -> tuple[lightgbm.Booster, LoadedModel]:
    parameters = {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 2, "min_data_per_group": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        booster = lightgbm.train(parameters, lightgbm.Dataset(frame, Y + FRAME["age"] % 3), 5)
    path = folder / "model.txt"
    booster.save_model(path)
    return booster, LightGBMRuntime().load(Artifact("m", 1, path, "lightgbm"))


def test_lightgbm_takes_columns_of_categories(tmp_path: Path) -> None:
    booster, model = grown(tmp_path, CATEGORIES)
    assert [spec.datatype for spec in model.signature.inputs] == ["FP64", "BYTES", "FP64"]
    columns = {"size": X[:6, 0], "kind": text(*FRAME["kind"][:6]), "age": np.arange(6.0)}
    answer = model.predict(columns, {})["predict"]
    close(answer, booster.predict(CATEGORIES[:6]))


def test_lightgbm_takes_an_unknown_category_for_missing_as_it_does_itself(tmp_path: Path) -> None:
    booster, model = grown(tmp_path, CATEGORIES)
    row = pd.DataFrame({"size": X[:1, 0], "kind": pd.Categorical(["z"]), "age": [0.0]})
    columns = {"size": X[:1, 0], "kind": text("z"), "age": np.zeros(1)}
    close(model.predict(columns, {})["predict"], booster.predict(row))


def test_lightgbm_takes_numbers_as_text_only_where_they_are_numbers(tmp_path: Path) -> None:
    _, model = grown(tmp_path, CATEGORIES)
    with pytest.raises(InvalidInput, match="column 'size' takes numbers"):
        model.predict({"size": text("big"), "kind": text("a"), "age": np.zeros(1)}, {})


@pytest.mark.parametrize(("old", "new"), [
    (b"left_child=", b"left_child=99 "), (b"threshold=", b"threshold=x"),
    (b"num_cat=", b"num_kat="), (b"max_feature_idx=2", b"max_feature_idx=7"),
    (b"end of parameters", b"end of parrots"), (b"[boosting:", b"[boosting"),
    (b"Tree=1", b"Twig=1"), (b"num_class=1", b"num_class=one"),
    (b"split_feature=", b"split_feature=8 "),
])
def test_a_damaged_lightgbm_file_is_refused_before_lightgbm_sees_it(
    tmp_path: Path, old: bytes, new: bytes
) -> None:
    grown(tmp_path, CATEGORIES)
    path = tmp_path / "model.txt"
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    with pytest.raises(InvalidArtifact, match=r"damaged|cut off"):
        LightGBMRuntime().load(Artifact("m", 1, path, "lightgbm"))
