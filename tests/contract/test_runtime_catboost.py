"""CatBoost: what is its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from catboost import CatBoost, CatBoostClassifier, CatBoostRegressor, Pool
from numpy.typing import NDArray

from shoal.domain.errors import InvalidArtifact, InvalidInput, InvalidSpecification, RuntimeMissing
from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact, LoadedModel
from shoal.runtimes.catboost import CatBoostRuntime
from shoal.runtimes.xgboost import XGBoostRuntime

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(80, 3)).astype("f4")
KINDS = np.array(["a", "b", "c"])[np.arange(80) % 3]
FRAME = pd.DataFrame({"size": X[:, 0], "kind": KINDS, "age": X[:, 1]})
LARGE = (X[:, 0] + (KINDS == "a") > 0).astype(int)
QUICK: dict[str, Any] = {
    "iterations": 4, "depth": 2, "thread_count": 1, "logging_level": "Silent",
    "allow_writing_files": False,
}


def text(*items: str) -> NDArray[np.object_]:
    return np.array([item.encode() for item in items], dtype=object)


def close(actual: NDArray[np.generic], expected: object) -> None:
    np.testing.assert_allclose(actual.astype(np.float64), np.asarray(expected, np.float64), 1e-9)


def load(model: CatBoost, folder: Path, **artifact: Any) -> LoadedModel:
    path = folder / "model.cbm"
    model.save_model(str(path))
    return CatBoostRuntime().load(Artifact("m", 1, path, "catboost", **artifact))


def of_categories() -> CatBoostClassifier:
    return CatBoostClassifier(cat_features=["kind"], **QUICK).fit(FRAME, LARGE)


def columns(rows: int) -> dict[str, NDArray[Any]]:
    return {"size": X[:rows, 0], "kind": text(*KINDS[:rows]), "age": X[:rows, 1]}


def test_categories_are_strings(tmp_path: Path) -> None:
    trained = of_categories()
    model = load(trained, tmp_path)
    assert model.signature.table
    assert model.signature.inputs == (
        TensorSpec("size", "FP32", (-1,)), TensorSpec("kind", "BYTES", (-1,)),
        TensorSpec("age", "FP32", (-1,)),
    )
    answer = model.predict(columns(9), {})
    assert answer["predict"].tolist() == trained.predict(FRAME[:9]).tolist()


def test_probabilities_and_raw_values_are_answered_on_demand(tmp_path: Path) -> None:
    trained = of_categories()
    model = load(trained, tmp_path)
    assert model.signature.default_outputs == ("predict",)
    answer = model.predict(columns(9), {}, ("predict_proba", "raw"))
    assert list(answer) == ["predict_proba", "raw"]
    close(answer["predict_proba"], trained.predict_proba(FRAME[:9]))
    close(answer["raw"], trained.predict(FRAME[:9], prediction_type="RawFormulaVal"))


def test_a_category_that_was_never_seen_is_taken(tmp_path: Path) -> None:
    model = load(of_categories(), tmp_path)
    row = {"size": X[:1, 0], "kind": text("never seen"), "age": X[:1, 1]}
    assert model.predict(row, {})["predict"].tolist() in ([0], [1])


def test_categories_without_names_of_columns_make_a_table_of_numbered_ones(tmp_path: Path) -> None:
    rows = np.empty((80, 2), dtype=object)
    rows[:, 0], rows[:, 1] = X[:, 0], np.arange(80) % 3
    trained = CatBoostClassifier(cat_features=[1], **QUICK).fit(rows, LARGE)
    model = load(trained, tmp_path)
    assert [(spec.name, spec.datatype) for spec in model.signature.inputs] == [
        ("0", "FP32"), ("1", "BYTES"),
    ]
    answer = model.predict({"0": X[:4, 0], "1": text("0", "1", "2", "0")}, {})
    assert answer["predict"].tolist() == trained.predict(rows[:4]).tolist()


def test_one_matrix_of_strings_answers_as_columns_do(tmp_path: Path) -> None:
    model = load(of_categories(), tmp_path)
    matrix = np.array([[str(v).encode() for v in row] for row in FRAME[:6].to_numpy()], object)
    expected = model.predict(columns(6), {})["predict"].tolist()
    assert model.predict({"rows": matrix}, {})["predict"].tolist() == expected


def test_a_table_without_rows_answers_nothing(tmp_path: Path) -> None:
    model = load(of_categories(), tmp_path)
    answer = model.predict(columns(0), {}, ("predict", "predict_proba"))
    assert answer["predict"].shape == (0,)
    assert answer["predict_proba"].shape == (0, 2)


def test_text_where_a_number_belongs_is_the_callers_fault(tmp_path: Path) -> None:
    model = load(of_categories(), tmp_path)
    with pytest.raises(InvalidInput, match="Cannot convert 'big' to float") as raised:
        model.predict({**columns(1), "size": text("big")}, {})
    assert ".cpp" not in raised.value.message


@pytest.mark.parametrize(("loss", "target", "shape"), [
    ("MultiClass", KINDS, (5, 1)),
    ("MultiClassOneVsAll", np.arange(80) % 3, (5, 1)),
    ("MultiLogloss", (X[:, :2] > 0).astype(int), (5, 2)),
    ("CrossEntropy", LARGE * 0.5, (5,)),
], ids=["classes", "one-vs-all", "labels", "cross-entropy"])
def test_classifiers_answer_as_they_do_themselves(
    tmp_path: Path, loss: str, target: NDArray[Any], shape: tuple[int, ...]
) -> None:
    trained = CatBoostClassifier(loss_function=loss, **QUICK).fit(X, target)
    model = load(trained, tmp_path)
    answer = model.predict({"x": X[:5]}, {}, ("predict", "predict_proba"))
    assert answer["predict"].shape == shape
    own = [[str(v) for v in np.atleast_1d(row)] for row in trained.predict(X[:5])]
    found = [[v.decode() if isinstance(v, bytes) else str(v) for v in np.atleast_1d(row)]
             for row in answer["predict"]]
    assert found == own
    close(answer["predict_proba"], trained.predict_proba(X[:5]))


@pytest.mark.parametrize("loss", [
    "RMSE", "Poisson", "Tweedie:variance_power=1.5", "RMSEWithUncertainty",
    "MultiQuantile:alpha=0.1,0.9",
])
def test_regressors_answer_as_they_do_themselves(tmp_path: Path, loss: str) -> None:
    trained = CatBoostRegressor(loss_function=loss, **QUICK).fit(X, np.abs(X[:, 0]))
    model = load(trained, tmp_path)
    close(model.predict({"x": X[:5]}, {})["predict"], trained.predict(X[:5]))


def test_a_ranker_answers_scores(tmp_path: Path) -> None:
    groups = Pool(X, np.abs(X[:, 0]), group_id=np.arange(80) // 10)
    trained = CatBoost({"loss_function": "YetiRank", **QUICK}).fit(groups)
    model = load(trained, tmp_path)
    assert [spec.name for spec in model.signature.outputs] == ["predict"]
    close(model.predict({"x": X[:5]}, {})["predict"], trained.predict(X[:5]))


def test_declared_columns_split_a_matrix(tmp_path: Path) -> None:
    trained = CatBoostRegressor(**QUICK).fit(X, X[:, 0])
    named = tuple(TensorSpec(name, "FP64", (-1,)) for name in "abc")
    model = load(trained, tmp_path, inputs=named)
    answer = model.predict({name: X[:5, i] for i, name in enumerate("abc")}, {})["predict"]
    close(answer, trained.predict(X[:5]))


def test_a_wrong_number_of_declared_columns_is_refused(tmp_path: Path) -> None:
    named = tuple(TensorSpec(name, "FP64", (-1,)) for name in "ab")
    with pytest.raises(InvalidSpecification, match="3 features"):
        load(CatBoostRegressor(**QUICK).fit(X, X[:, 0]), tmp_path, inputs=named)


def test_embeddings_are_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"e": list(X), "a": X[:, 0]})
    trained = CatBoostClassifier(embedding_features=["e"], **QUICK).fit(frame, LARGE)
    with pytest.raises(InvalidArtifact, match="it takes embeddings"):
        load(trained, tmp_path)


def test_the_two_kinds_of_json_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    ours, theirs = CatBoostRuntime(), XGBoostRuntime()
    for head, claims in [
        (b'{\n"ctr_data":\n  {', (True, False)), (b'{"features_info": {', (True, False)),
        (b'{"learner": {"attributes": {}}}', (False, True)),
        (b'{"name": "m", "features_info": 1}', (False, False)),
    ]:
        assert (ours.recognise(path, head), theirs.recognise(path, head)) == claims


def of_categories_as_json(folder: Path) -> Path:
    path = folder / "model.json"
    pool = Pool(FRAME, LARGE, cat_features=["kind"])
    of_categories().save_model(str(path), format="json", pool=pool)
    return path


def test_json_answers_as_the_binary_form_does(tmp_path: Path) -> None:
    path = of_categories_as_json(tmp_path)
    assert CatBoostRuntime().recognise(path, path.read_bytes()[:4096])
    model = CatBoostRuntime().load(Artifact("m", 1, path, "catboost"))
    binary = load(of_categories(), tmp_path)
    asked = ("predict", "predict_proba")
    for name, array in model.predict(columns(9), {}, asked).items():
        close(array, binary.predict(columns(9), {}, asked)[name])


@pytest.mark.parametrize(("content", "reason"), [
    ('{"features_info": {}}', "it has no trees"),
    ('{"features_info": {}, "oblivious_trees": []}', "it has no trees"),
    ('{"oblivious_trees": [1]}', "it has no features_info"),
    ("tree", "neither CatBoost's binary form nor its JSON"),
    ('{"features_info": {', "cut off or damaged"),
    ("[1, 2]", "it has no features_info"),
], ids=["no-trees", "empty-trees", "no-features", "no-json", "cut", "a-list"])
def test_json_that_catboost_would_take_for_an_empty_model_is_refused(
    tmp_path: Path, content: str, reason: str
) -> None:
    path = tmp_path / "model.json"
    path.write_text(content)
    with pytest.raises(InvalidArtifact, match=reason):
        CatBoostRuntime().load(Artifact("m", 1, path, "catboost"))


def test_json_without_names_of_features_is_not_served(tmp_path: Path) -> None:
    path = of_categories_as_json(tmp_path)
    content = json.loads(path.read_text())
    content["features_info"] = {}
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidArtifact):
        CatBoostRuntime().load(Artifact("m", 1, path, "catboost"))


@pytest.mark.parametrize("shorten", [
    lambda data: data[:-1], lambda data: data[:-150], lambda data: data[:6],
    lambda data: data[: 8 + int.from_bytes(data[4:8], "little")],
], ids=["last-byte", "tables", "head", "all-tables"])
def test_a_file_without_all_its_tables_is_refused(
    tmp_path: Path, shorten: Callable[[bytes], bytes]
) -> None:
    load(of_categories(), tmp_path)
    path = tmp_path / "model.cbm"
    path.write_bytes(shorten(path.read_bytes()))
    with pytest.raises(InvalidArtifact, match="it is cut off; copy it again"):
        CatBoostRuntime().load(Artifact("m", 1, path, "catboost"))


def test_a_missing_framework_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.cbm").write_bytes(b"CBM1")
    monkeypatch.setitem(sys.modules, "catboost", None)
    with pytest.raises(RuntimeMissing, match=r"pip install 'shoal\[catboost\]'"):
        CatBoostRuntime().load(Artifact("m", 1, tmp_path / "model.cbm", "catboost"))


def test_nothing_is_written_and_nothing_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    model = load(of_categories(), tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    capfd.readouterr()
    model = CatBoostRuntime().load(Artifact("m", 1, tmp_path / "model.cbm", "catboost"))
    model.predict(columns(3), {})
    assert list((tmp_path / "here").iterdir()) == []
    assert capfd.readouterr() == ("", "")
