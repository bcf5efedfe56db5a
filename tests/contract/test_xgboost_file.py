"""XGBoost files of every kind load; damaged ones are refused before they can end the process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray

from shoal.domain.errors import InvalidArtifact
from shoal.ports import Artifact
from shoal.runtimes import xgboost_file
from shoal.runtimes.ubjson import read_ubjson
from shoal.runtimes.xgboost import XGBoostRuntime
from shoal.runtimes.xgboost_file import problem_of
from shoal.runtimes.xgboost_trees import Forest, forest_of, plain_trees

# Newer releases deprecate `dart` and `gblinear`.
pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).parents[2]
BATCH = 480
LATEST = (3, 2)

LUCK = np.random.default_rng(0)
X = LUCK.normal(size=(200, 4)).astype(np.float32)
X[LUCK.random(X.shape) < 0.1] = np.nan
Y = np.nan_to_num(X[:, 0] * 2 + X[:, 1])
CLASSES = np.digitize(Y, [-1, 1])
TWO = np.stack([Y, -Y], axis=1)
CODES = X.copy()
CODES[:, 1], CODES[:, 3] = LUCK.integers(0, 40, 200), LUCK.integers(0, 3, 200)
BY_CODE = Y + CODES[:, 1] % 3
VECTORS = {"multi_strategy": "multi_output_tree", "tree_method": "hist"}
PRUNED = {"tree_method": "exact", "gamma": 15.0}


def matrix(y: NDArray[Any], **more: Any) -> xgboost.DMatrix:
    return xgboost.DMatrix(X, y, nthread=1, **more)


def codes() -> xgboost.DMatrix:
    kinds = ["q", "c", "q", "c"]
    return xgboost.DMatrix(CODES, BY_CODE, feature_types=kinds, enable_categorical=True, nthread=1)


KINDS: dict[str, tuple[dict[str, Any], Callable[[], xgboost.DMatrix], int]] = {
    "binary": ({"objective": "binary:logistic"}, lambda: matrix(Y > 0), 5),
    "regression": ({}, lambda: matrix(Y), 140),  # more trees than a byte can count
    "multiclass": ({"objective": "multi:softprob", "num_class": 3}, lambda: matrix(CLASSES), 3),
    "forest": ({"num_parallel_tree": 5, "subsample": 0.5}, lambda: matrix(Y), 2),
    "outputs": ({}, lambda: matrix(TWO), 3),
    "vectors": (VECTORS, lambda: matrix(TWO), 4),
    "deep": ({"max_depth": 0, "grow_policy": "lossguide", "max_leaves": 90}, lambda: matrix(Y), 3),
    "pruned": (PRUNED, lambda: matrix(Y), 4),
    "dart": ({"booster": "dart", "rate_drop": 0.3}, lambda: matrix(Y), 6),
    "linear": ({"booster": "gblinear"}, lambda: matrix(Y), 3),
    "categories": ({"max_cat_to_onehot": 1}, codes, 4),
    "one-hot": ({"max_cat_to_onehot": 99}, codes, 4),
    "quantiles": ({"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.9]},
                  lambda: matrix(Y), 3),
    "flat": ({}, lambda: matrix(np.ones(200)), 2),  # trees of a single leaf
    "untrained": ({}, lambda: matrix(Y), 0),
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
EITHER = pytest.mark.parametrize("encoding", ["ubj", "json"])


@cache
def trained(kind: str) -> xgboost.Booster:
    parameters, data, rounds = KINDS[kind]
    return xgboost.train({"nthread": 1, **parameters}, data(), rounds)


@cache
def saved(kind: str, encoding: str = "ubj") -> bytes:
    return bytes(trained(kind).save_raw(encoding))


def load(folder: Path, data: bytes) -> Any:
    path = folder / "model.ubj"
    path.write_bytes(data)
    return XGBoostRuntime().load(Artifact("bees", 1, path, "xgboost"))


# --- whole files --------------------------------------------------------------------------------


@EITHER
@EVERY_KIND
def test_every_kind_of_model_answers_as_it_does_itself(
    tmp_path: Path, kind: str, encoding: str
) -> None:
    assert problem_of(saved(kind, encoding), LATEST) is None
    model = load(tmp_path, saved(kind, encoding))
    rows = CODES if kind in ("categories", "one-hot") else X
    if kind == "linear":  # linear models know no missing values when asked in place
        rows = np.nan_to_num(rows)
    (answer,) = model.predict({"x": rows}, {}).values()
    types = ["q", "c", "q", "c"] if rows is CODES else None
    data = xgboost.DMatrix(rows, feature_types=types, enable_categorical=True)
    np.testing.assert_allclose(answer, trained(kind).predict(data), 1e-4, 1e-5)


@EITHER
def test_names_and_types_of_features_are_taken(tmp_path: Path, encoding: str) -> None:
    data = matrix(Y, feature_names=["a", 'b "é"', "c\td", "😀"], feature_types=["float"] * 4)
    booster = xgboost.train({"nthread": 1}, data, 2)
    booster.set_attr(note="é\n")
    model = load(tmp_path, bytes(booster.save_raw(encoding)))
    assert [spec.name for spec in model.signature.inputs] == ["a", 'b "é"', "c\td", "😀"]


@EITHER
def test_what_the_interface_of_scikit_learn_saves_is_taken(tmp_path: Path, encoding: str) -> None:
    classifier = xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(X, CLASSES)
    path = tmp_path / f"saved.{encoding}"
    classifier.save_model(path)
    (answer,) = load(tmp_path, path.read_bytes()).predict({"x": X}, {}).values()
    np.testing.assert_array_equal(answer, classifier.predict_proba(X))


@EITHER
def test_continued_updated_and_sliced_models_are_taken(encoding: str) -> None:
    first = xgboost.train({"nthread": 1}, matrix(Y), 3)
    more = xgboost.train({"nthread": 1, "num_parallel_tree": 2}, matrix(Y), 2, xgb_model=first)
    update = {"process_type": "update", "updater": "refresh,prune", "gamma": 5, "nthread": 1}
    updated = xgboost.train(update, matrix(Y / 2), 3, xgb_model=first)
    for booster in (more, more[2:4], updated):
        assert problem_of(bytes(booster.save_raw(encoding)), LATEST) is None


def old_file() -> dict[str, Any]:
    """As XGBoost 1.3 wrote it: words for booleans, neither types of splits nor iterations."""
    tree = {
        "base_weights": [0.5, -1.0, 2.0], "default_left": [True, False, False], "id": 0,
        "categories": [], "categories_nodes": [], "categories_segments": [],
        "categories_sizes": [], "left_children": [1, -1, -1], "loss_changes": [9.0, 0.0, 0.0],
        "parents": [2147483647, 0, 0], "right_children": [2, -1, -1],
        "split_conditions": [0.0, -1.0, 2.0], "split_indices": [3, 0, 0],
        "sum_hessian": [200.0, 100.0, 100.0],
        "tree_param": {"num_deleted": "0", "num_feature": "4", "num_nodes": "3",
                       "size_leaf_vector": "0"},
    }
    model = {"gbtree_model_param": {"num_trees": "1", "size_leaf_vector": "0"},
             "tree_info": [0], "trees": [tree]}
    return {"version": [1, 3, 3], "learner": {
        "attributes": {}, "gradient_booster": {"name": "gbtree", "model": model},
        "learner_model_param": {"base_score": "5E-1", "num_class": "0", "num_feature": "4"},
        "objective": {"name": "reg:squarederror", "reg_loss_param": {"scale_pos_weight": "1"}},
    }}


def test_files_of_old_releases_are_taken(tmp_path: Path) -> None:
    model = load(tmp_path, json.dumps(old_file()).encode())
    (answer,) = model.predict({"x": np.array([[0, 0, 0, -1], [0, 0, 0, 1]], "f4")}, {}).values()
    assert answer.tolist() == [-0.5, 2.5]


def test_what_json_has_no_number_for_is_taken(tmp_path: Path) -> None:
    content = old_file()
    tree = content["learner"]["gradient_booster"]["model"]["trees"][0]
    tree["split_conditions"] = [float("inf"), float("-inf"), float("nan")]
    assert b"-Infinity" in json.dumps(content).encode()
    model = load(tmp_path, json.dumps(content).encode())
    (answer,) = model.predict({"x": np.zeros((1, 4), "f4")}, {}).values()
    assert answer.tolist() == [-np.inf]


def test_a_binary_of_very_old_releases_is_left_to_xgboost() -> None:
    assert problem_of(b"binf" + bytes(500), LATEST) is None
    assert problem_of(b"\0\0\0\x3f" + bytes(500), LATEST) is None


@pytest.mark.parametrize("kind", ["regression", "multiclass", "pruned", "flat", "dart"])
def test_the_shortcut_reads_what_the_long_way_reads(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Forest | None] = []

    def watched(data: bytes, at: int, count: int) -> tuple[Forest, int] | None:
        read = plain_trees(data, at, count)
        found.append(read[0] if read else None)
        return read

    monkeypatch.setattr(xgboost_file, "plain_trees", watched)
    xgboost_file._read_ubjson(saved(kind))
    _, long = xgboost_file._read_json(saved(kind, "json"))
    (short,) = found
    assert short is not None
    assert short.features == long.features == 4
    for name in ("sizes", "left", "right", "parents", "splits"):
        np.testing.assert_array_equal(getattr(short, name), getattr(long, name))


def test_the_shortcut_leaves_trees_of_another_layout_to_the_long_way() -> None:
    data = saved("regression")
    at = data.index(b"trees[#L") + 16
    assert plain_trees(data, at, 140) is not None
    for damage in (b"base_weights", b"left_children", b"split_type", b"tree_param"):
        place = data.index(damage, at + 100) if damage != b"base_weights" else data.index(damage)
        assert plain_trees(data[:place] + b"?" + data[place + 1:], at, 140) is None
    assert plain_trees(data[:-2000], at, 140) is None
    assert forest_of([]).features == 0


# --- damaged files ------------------------------------------------------------------------------


def in_trees(kind: str, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The file with its first tree changed."""
    content = json.loads(saved(kind, "json"))
    booster = content["learner"]["gradient_booster"]
    change(booster.get("gbtree", booster)["model"]["trees"][0])
    return json.dumps(content).encode()


def put(name: str, place: int, number: int) -> Callable[[dict[str, Any]], object]:
    return lambda tree: tree[name].__setitem__(place, number)


@pytest.mark.parametrize(("kind", "change", "reason"), [
    ("regression", put("left_children", 0, 9999), "tree 0: left_children of node 0"),
    ("regression", put("left_children", 0, 0), "left_children of node 0"),
    ("regression", put("left_children", 0, -7), "left_children of node 0"),
    ("regression", put("left_children", 0, -1), "nobody's children"),
    ("regression", put("left_children", 0, 2**40), "beyond 32 bits"),
    ("regression", put("right_children", 0, 1), "right_children of node 0"),
    ("regression", put("right_children", 0, -1), "right_children of node 0"),
    ("regression", put("parents", 2, 1), "parents of node 2"),
    ("regression", put("parents", 0, 5), "parents of node 0"),
    ("regression", put("split_indices", 0, 4), "split_indices of node 0"),
    ("regression", put("split_indices", 0, -1), "split_indices of node 0"),
    ("regression", lambda tree: tree["parents"].pop(), "parents for"),
    ("regression", lambda tree: tree.update(id=1), "ids of its trees"),
    ("regression", lambda tree: tree.update(parents=0.5), "Expected `array`"),
    ("regression", lambda tree: tree["parents"].__setitem__(1, 0.5), "Expected `int`"),
    ("regression", lambda tree: tree["tree_param"].update(num_nodes="x"), "num_nodes is 'x'"),
    ("regression", lambda tree: tree["tree_param"].pop("num_feature"), "num_feature is missing"),
    ("regression", lambda tree: tree["tree_param"].update(num_feature="5"), "but 5 in its trees"),
    ("regression", put("split_type", 0, 1), "tree 0: categories_nodes"),
    ("pruned", lambda tree: tree.update(parents=[9999, *tree["parents"][1:]]), "parents of node 0"),
    ("pruned", lambda tree: tree["parents"].__setitem__(
        tree["split_indices"].index(2**31 - 1), 9999), "parents of node"),
    ("categories", put("split_type", 0, 7), "split_type"),
    ("categories", put("categories_nodes", 0, 99), "categories_nodes"),
    ("categories", put("categories_segments", 0, 9999), "categories_segments"),
    ("categories", put("categories_sizes", 0, 9999), "categories_sizes"),
    ("categories", put("categories_sizes", 0, 0), "categories_sizes"),
    ("categories", put("categories", 0, 2**24), "categories"),
    ("categories", put("categories", 0, -1), "categories"),
    ("vectors", lambda tree: tree["leaf_weights"].pop(), "leaf_weights"),
    ("vectors", lambda tree: tree["base_weights"].pop(), "base_weights"),
    ("vectors", lambda tree: tree["sum_hessian"].pop(), "sum_hessian"),
    ("vectors", lambda tree: tree["split_conditions"].pop(), "split_conditions"),
    ("vectors", lambda tree: tree["tree_param"].update(size_leaf_vector="3"), "3 instead of 2"),
    ("vectors", lambda tree: tree["right_children"].__setitem__(
        tree["left_children"].index(-1), 9999), "right_children of its leaves"),
])
def test_a_tree_that_leads_astray_is_refused(
    kind: str, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    problem = problem_of(in_trees(kind, change), LATEST)
    assert problem is not None
    assert reason in problem.reason


@pytest.mark.parametrize(("kind", "place", "value", "reason"), [
    ("regression", "learner_model_param.num_feature", "2000000000", "num_feature is 2000000000"),
    ("regression", "learner_model_param.num_class", "-1", "num_class is '-1'"),
    ("regression", "learner_model_param.num_target", "999", "999 outputs of 140 trees"),
    ("regression", "feature_names", ["a"], "1 feature_names for 4 features"),
    ("regression", "gradient_booster.name", "gbforest", "'gbforest'"),
    ("regression", "gradient_booster.model", None, "it has no model"),
    ("regression", "gradient_booster.model.tree_info", [0], "tree_info"),
    ("regression", "gradient_booster.model.tree_info", [1] * 140, "tree_info names outputs"),
    ("regression", "gradient_booster.model.iteration_indptr", [], "iteration_indptr"),
    ("regression", "gradient_booster.model.iteration_indptr", [0, 141, 140], "iteration_indptr"),
    ("regression", "gradient_booster.model.gbtree_model_param.num_parallel_tree", "0",
     "num_parallel_tree is 0"),
    ("linear", "gradient_booster.model.weights", [1.0], "1 weights for 4 features"),
    ("linear", "gradient_booster.model.weights", None, "weights is missing"),
    ("untrained", "learner_model_param.num_feature", "2000000000", "without being trained"),
    ("untrained", "gradient_booster.model.iteration_indptr", None, "it has no trees"),
])
def test_a_model_that_contradicts_itself_is_refused(
    kind: str, place: str, value: object, reason: str
) -> None:
    content = json.loads(saved(kind, "json"))
    *way, last = place.split(".")
    item = content["learner"]
    for step in way:
        item = item[step]
    item[last] = value
    problem = problem_of(json.dumps(content).encode(), LATEST)
    assert problem is not None
    assert reason in problem.reason


def test_a_dart_model_has_one_weight_for_each_tree() -> None:
    content = json.loads(saved("regression", "json"))
    booster = {"name": "dart", "gbtree": content["learner"]["gradient_booster"]}
    content["learner"]["gradient_booster"] = booster
    for weights, damaged in (([1.0] * 140, False), ([1.0] * 139, True)):
        booster["weight_drop"] = weights
        problem = problem_of(json.dumps(content).encode(), LATEST)
        assert (problem is not None) == damaged


def test_trees_of_several_outputs_from_before_xgboost_3_2_say_what_to_do() -> None:
    def age(tree: dict[str, Any]) -> None:
        for name in ("leaf_weights", "loss_changes", "sum_hessian"):
            del tree[name]

    content = json.loads(saved("vectors", "json"))
    for tree in content["learner"]["gradient_booster"]["model"]["trees"]:
        age(tree)
    data = json.dumps(content).encode()
    assert problem_of(data, (3, 1)) is None
    problem = problem_of(data, (3, 2))
    assert problem is not None
    assert "before 3.2" in problem.reason
    assert "xgboost-cpu<3.2" in problem.way_out


@EITHER
def test_a_file_cut_off_anywhere_is_refused(encoding: str) -> None:
    data = saved("flat", encoding)
    assert all(problem_of(data[:end], LATEST) for end in range(20, len(data) - 1, 3))


@pytest.mark.parametrize("data", [
    b"[" + saved("flat")[1:], b"[{" * 50_000 + b'"', b'{"learner":' + b"[" * 100_000,
    b"{L" + bytes(7) + b"\x01a" + b"[" * 100_000, b'{"learner": "\xff"}', b"{}", b"{L", b'{"',
])
def test_other_content_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InvalidArtifact, match=r"model 'bees': model\.ubj cannot be read") as raised:
        load(tmp_path, data)
    assert "\n" not in raised.value.message
    assert "copy it again" in raised.value.message


def test_both_encodings_read_alike() -> None:
    binary, text = read_ubjson(saved("vectors")), json.loads(saved("vectors", "json"))

    def leaves(value: object) -> Iterator[object]:
        if isinstance(value, dict):
            for name in sorted(value):
                yield name
                yield from leaves(value[name])
        elif isinstance(value, list):
            for item in value:
                yield from leaves(item)
        else:
            yield pytest.approx(value, rel=1e-6) if isinstance(value, float) else value

    assert list(leaves(binary)) == list(leaves(text))


def test_damaged_files_never_end_the_process(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for kind in ("multiclass", "dart", "linear", "categories", "vectors", "pruned"):
        for encoding in ("ubj", "json"):
            (folder / f"{kind}.{encoding}").write_bytes(saved(kind, encoding))
    done = subprocess.run(
        [sys.executable, "-m", "tests.damaged_xgboost", str(folder), str(BATCH)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{lines[-1:]}: {done.stderr[-2000:]}"
    outcomes = [line.split(" ", 2)[2] for line in lines]
    assert len(outcomes) == BATCH
    assert set(outcomes) == {"refused", "loaded"}
    assert outcomes.count("refused") > BATCH / 2
    assert outcomes.count("loaded") > BATCH / 20
