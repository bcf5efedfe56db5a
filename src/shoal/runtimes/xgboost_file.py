"""Decides whether an XGBoost file is whole, before XGBoost reads it.

XGBoost trusts its files: one that is cut off or damaged can make it read beyond its buffers or wait
for an end that never comes, and it follows the numbers of a tree wherever they point. That ends the
process instead of raising. What XGBoost does check is left to it. Layout: `LoadModel` of the
classes in XGBoost's sources. Imports no framework.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np

from shoal.runtimes.loading import one_line
from shoal.runtimes.ubjson import NotUbjson, read_ubjson
from shoal.runtimes.xgboost_trees import (
    Damaged,
    Forest,
    Tree,
    VectorTree,
    digits,
    forest_of,
    plain_trees,
    whole,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shoal.runtimes.ubjson import Value
    from shoal.runtimes.xgboost_trees import Ints, Places

AnyTree_co = TypeVar("AnyTree_co", bound=Tree, covariant=True)

_MAX_CATEGORY: Final = 2**24  # `OutOfRangeCat` in XGBoost
_DELETED: Final = 2**31 - 1  # the split of a node that was cut off, without its top bit
_NO_PARENT: Final = (-1, 2**31 - 1)  # of a root, with its top bit and without
_LEAF_WEIGHTS_SINCE: Final = (3, 2)
_MAX_UNTRAINED: Final = 2**20
_SECOND_CHARACTER: Final = re.compile(rb"[\x00-\xff]\s*+(\S)")  # what XGBoost goes by
_VECTORS: Final = re.compile(rb'"size_leaf_vector"\s*:\s*"(?![01]")')
_NO_NUMBER: Final = re.compile(rb"(?<=[\[,:\s])(?:NaN|-?Infinity)(?=[\],}\s])")


class Problem(NamedTuple):
    """What is wrong with a file, in a few words.

    way_out: what to do; empty: copy it again, or save it anew.
    """

    reason: str
    way_out: str


def problem_of(data: bytes, version: tuple[int, ...]) -> Problem | None:
    """Why the XGBoost of this version should not be given the file; None when it may.

    Files that it refuses by itself, as those of very old releases, count as fine.
    """
    second = _SECOND_CHARACTER.match(data)
    if second is None or not (second[1] == b'"' or second[1].isalpha()) or data[:4] == b"binf":
        return None
    if data[:1] != b"{":
        return Problem("it does not begin with '{'", "")
    try:
        learner, forest = _read_json(data) if second[1] == b'"' else _read_ubjson(data)
        _check(learner, forest, version)
    except Damaged as error:
        return Problem(
            str(error) if error.way_out else f"it is damaged ({error})", error.way_out
        )
    except (NotUbjson, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        return Problem(f"it is cut off or damaged ({one_line(error)})", "")
    return None


# --- reading ------------------------------------------------------------------------------------


class _Model(msgspec.Struct, Generic[AnyTree_co]):
    """Of trees; or of a linear booster, which has weights alone."""

    gbtree_model_param: dict[str, str] = {}
    trees: list[AnyTree_co] = []
    tree_info: list[int] = []
    iteration_indptr: list[int] | None = None
    weights: list[float] | None = None


class _Wrapped(msgspec.Struct, Generic[AnyTree_co]):
    model: _Model[AnyTree_co]


class _Booster(msgspec.Struct, Generic[AnyTree_co]):
    name: str
    model: _Model[AnyTree_co] | None = None
    gbtree: _Wrapped[AnyTree_co] | None = None  # of dart
    weight_drop: list[float] = []


class _Learner(msgspec.Struct, Generic[AnyTree_co]):
    learner_model_param: dict[str, str]
    gradient_booster: _Booster[AnyTree_co]
    feature_names: list[str] = []

    @property
    def model(self) -> _Model[AnyTree_co]:
        booster = self.gradient_booster
        model = booster.gbtree.model if booster.gbtree else booster.model
        if model is None:
            raise Damaged("it has no model")
        return model


class _File(msgspec.Struct, Generic[AnyTree_co]):
    learner: _Learner[AnyTree_co]


def _read_json(data: bytes) -> tuple[_Learner[Tree], Forest]:
    """Raises Damaged, MsgspecError, RecursionError."""
    kind: type[_File[Tree]] = _File[VectorTree] if _VECTORS.search(data) else _File[Tree]
    try:
        file = msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError:
        if b"NaN" not in data and b"Infinity" not in data:
            raise
        # XGBoost writes what JSON cannot. No number that can be one is looked at.
        file = msgspec.json.decode(_NO_NUMBER.sub(b"0", data), type=kind)
    return file.learner, forest_of(file.learner.model.trees)


def _read_ubjson(data: bytes) -> tuple[_Learner[Tree], Forest]:
    """Raises Damaged, MsgspecError, NotUbjson."""
    plain: list[Forest] = []

    def trees(data: bytes, at: int, count: int) -> tuple[list[Value], int] | None:
        found = plain_trees(data, at, count)
        if found is None:
            return None
        plain.append(found[0])
        return [], found[1]

    value = read_ubjson(data, {"trees": trees})
    file = msgspec.convert(value, type=_File[VectorTree])
    return file.learner, plain[0] if plain else forest_of(file.learner.model.trees)


# --- checking -----------------------------------------------------------------------------------


def _check(learner: _Learner[Tree], forest: Forest, version: tuple[int, ...]) -> None:
    parameters = learner.learner_model_param
    features = digits(parameters, "num_feature")
    outputs = max(1, digits(parameters, "num_class"), digits(parameters, "num_target", "1"))
    _check_names(learner.feature_names, features)
    booster = learner.gradient_booster
    if booster.name == "gblinear":
        _check_weights(learner.model.weights, features, outputs)
        return
    if booster.name not in ("gbtree", "dart"):
        raise Damaged(f"its booster is called {booster.name!r}")
    if booster.name == "dart" and len(booster.weight_drop) != len(forest):
        raise Damaged("weight_drop has not as many numbers as there are trees")
    _check_sizes(forest, features, outputs)
    _check_iterations(learner.model, forest, outputs)
    _check_walks(forest, features)
    begins = forest.begins
    for number, tree in forest.unusual:
        nodes = slice(begins[number], begins[number] + forest.sizes[number])
        try:
            if tree.splits_by_category:
                _check_categories(tree, int(forest.sizes[number]))
            if tree.outputs > 1:
                _check_vectors(tree, forest.left[nodes], forest.right[nodes], outputs, version)
        except Damaged as error:
            raise Damaged(f"tree {number}: {error}", error.way_out) from error


def _check_names(names: Sequence[str], features: int) -> None:
    if names and len(names) != features:
        raise Damaged(f"{len(names)} feature_names for {features} features")


def _check_weights(weights: list[float] | None, features: int, outputs: int) -> None:
    """Of a linear booster: one for each feature and output, and a bias; none before training."""
    if weights is None:
        raise Damaged("weights is missing")
    if not weights:
        _check_untrained(features, outputs)
    elif len(weights) != (features + 1) * outputs:
        raise Damaged(f"{len(weights)} weights for {features} features and {outputs} outputs")


def _check_sizes(forest: Forest, features: int, outputs: int) -> None:
    """XGBoost makes room for as many features and outputs as the file says."""
    if not forest.features:
        _check_untrained(features, outputs)
    elif forest.features != features:
        raise Damaged(f"num_feature is {features}, but {forest.features} in its trees")
    elif outputs > len(forest) and not any(tree.outputs > 1 for _, tree in forest.unusual):
        raise Damaged(f"{outputs} outputs of {len(forest)} trees")


def _check_untrained(features: int, outputs: int) -> None:
    """Nothing in the file proves its sizes."""
    if features * outputs > _MAX_UNTRAINED:
        raise Damaged(f"{features} features and {outputs} outputs without being trained")


def _check_iterations(model: _Model[Tree], forest: Forest, outputs: int) -> None:
    parallel = digits(model.gbtree_model_param, "num_parallel_tree", "1")
    if not 0 < parallel * outputs < 2**31:
        raise Damaged(f"num_parallel_tree is {parallel}")
    groups = whole(model.tree_info, "tree_info")
    if len(groups) != len(forest):
        raise Damaged("tree_info has not as many numbers as there are trees")
    if np.any((groups < 0) | (groups >= outputs)):
        raise Damaged("tree_info names outputs that are not there")
    if model.iteration_indptr is None:  # XGBoost before 2.0
        if not len(forest):
            raise Damaged("it has no trees", "train it for one round at least")
        return
    begins = whole(model.iteration_indptr, "iteration_indptr")
    ends = (begins[0], begins[-1]) if len(begins) else ()
    if ends != (0, len(forest)) or np.any(np.diff(begins) < 0) or len(begins) > len(forest) + 1:
        raise Damaged("iteration_indptr does not ascend from 0 to the number of trees")


def _check_walks(forest: Forest, features: int) -> None:
    """Every walk from a root ends at a leaf, within the tree and the features.

    XGBoost takes the node behind the left child for the right one. As every child names its one
    parent, and a root is nobody's child, there are no loops.
    """
    begins = forest.begins
    inner = np.flatnonzero(forest.left != -1)
    left, right, splits = forest.left[inner], forest.right[inner], forest.splits[inner]
    begin = np.repeat(begins, forest.sizes)[inner]
    size = np.repeat(forest.sizes.astype(np.int32), forest.sizes)

    def check(name: str, wrong: NDArray[np.bool_], nodes: Places) -> None:
        if wrong.any():
            node = int(nodes[np.argmax(wrong)])
            tree = int(np.searchsorted(begins, node, "right")) - 1
            raise Damaged(f"tree {tree}: {name} of node {node - int(begins[tree])}")

    check("left_children", (left < 1) | (left >= size[inner] - 1), inner)
    check("right_children", right != left + 1, inner)
    check("split_indices", (splits < 0) | (splits >= features), inner)
    parents = (inner - begin).astype(np.int32)
    for children in (begin + left, begin + right):
        check("parents", forest.parents[children] != parents, children)
    check("parents", ~np.isin(forest.parents[begins], _NO_PARENT), begins)
    # All nodes but roots and those that were cut off are children, then. XGBoost looks up the
    # parents of these, too.
    cut_off = len(forest.left) - len(forest) - 2 * len(inner)
    if cut_off:
        others = np.flatnonzero(forest.splits == _DELETED)
        if len(others) != cut_off:
            raise Damaged("nodes of its trees are nobody's children")
        parents = forest.parents[others]
        check("parents", (parents < 0) | (parents >= size[others]), others)


def _check_categories(tree: Tree, nodes: int) -> None:
    """Those that go left at each split by category."""
    kinds = whole(tree.split_type or (), "split_type")
    where = whole(tree.categories_nodes, "categories_nodes")
    begins = whole(tree.categories_segments, "categories_segments")
    counts = whole(tree.categories_sizes, "categories_sizes")
    categories = whole(tree.categories, "categories")
    if len(kinds) != nodes or np.any((kinds != 0) & (kinds != 1)):
        raise Damaged("split_type")
    if not np.array_equal(where, np.flatnonzero(kinds)):
        raise Damaged("categories_nodes")
    if len(begins) != len(where) or np.any((begins < 0) | (begins > len(categories))):
        raise Damaged("categories_segments")
    if len(counts) != len(where) or np.any((counts < 1) | (counts > len(categories) - begins)):
        raise Damaged("categories_sizes")
    if np.any((categories < 0) | (categories >= _MAX_CATEGORY)):
        raise Damaged("categories")


def _check_vectors(tree: Tree, left: Ints, right: Ints, outputs: int, version: tuple[int, ...]
                   ) -> None:
    """Of the lists that XGBoost does not check in trees of several outputs. A leaf's right child
    is the number of its weights, since 3.2."""
    if not isinstance(tree, VectorTree) or tree.outputs != outputs:
        raise Damaged(f"size_leaf_vector is {tree.outputs} instead of {outputs}")
    before = version < _LEAF_WEIGHTS_SINCE
    if not before and tree.leaf_weights is None:
        raise Damaged(
            "its trees of several outputs are of XGBoost before 3.2, which later ones cannot read",
            "train it anew, or install 'xgboost-cpu<3.2'",
        )
    names = ("split_type", "split_conditions", "default_left", "loss_changes", "sum_hessian")
    for name in names[:3] if before else names:
        if len(getattr(tree, name) or ()) != len(left):
            raise Damaged(name)
    weights = len(tree.base_weights)
    if weights != len(left) * outputs if before else (not weights or weights % len(left)):
        raise Damaged("base_weights")
    leaves = right[left == -1]
    if before:
        return
    if len(tree.leaf_weights or ()) != len(leaves) * outputs:
        raise Damaged("leaf_weights")
    if np.any((leaves < 0) | (leaves >= len(leaves))):
        raise Damaged("right_children of its leaves")
