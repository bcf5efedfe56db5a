"""Decides whether a LightGBM text file is whole, before LightGBM reads it.

LightGBM trusts its files: one that is cut off or damaged makes it read beyond its buffers, which
ends the process instead of raising. Layout: `GBDT::SaveModelToString` and `Tree::ToString` in
LightGBM's sources. Imports no framework.
"""

from __future__ import annotations

import json
import re
from typing import Final

import numpy as np

_HEADER_KEYS: Final = (b"num_class", b"num_tree_per_iteration", b"max_feature_idx",
                      b"feature_names", b"feature_infos")
_HEADER_NUMBERS: Final = (b"num_class", b"num_tree_per_iteration", b"label_index")
_END: Final = b"end of trees"
_PER_SPLIT: Final = (b"split_feature", b"split_gain", b"threshold", b"decision_type",
                     b"left_child", b"right_child", b"internal_value", b"internal_weight",
                     b"internal_count")
_PER_LEAF: Final = (b"leaf_value", b"leaf_weight", b"leaf_count")
_NEEDED: Final = frozenset((b"split_feature", b"threshold", b"decision_type", b"left_child",
                            b"right_child", b"leaf_value"))
_NUMBER: Final = rb"-?(?:\d++(?:\.\d*+)?(?:[eE][+-]?\d++)?|nan|inf)"
_PARAMETER: Final = re.compile(rb"\[\w+: .*\]")
_NUMBERS: Final = re.compile(rb"(?:%b(?: ++%b)*+)? *+" % (_NUMBER, _NUMBER))


def problem_of(data: bytes) -> str | None:
    """What is wrong with the file's content, in a few words; None when nothing is."""
    if not data.startswith(b"tree"):
        return "it does not begin with 'tree'"
    head, gap, _ = data.partition(b"\n\n")
    header = _pairs(head)
    missing = next((key for key in _HEADER_KEYS if key not in header), None)
    if not gap or missing is not None:
        return f"its header is cut off (no {(missing or b'end').decode()})"
    try:
        features = int(header[b"max_feature_idx"]) + 1
        sizes = [int(size) for size in header.get(b"tree_sizes", b"").split()]
    except ValueError:
        return "its header is damaged"
    damaged = [key for key in _HEADER_NUMBERS if not header.get(key, b"1").isdigit()]
    if damaged:
        return f"its header is damaged ({damaged[0].decode()})"
    if len(header[b"feature_names"].split(b" ")) != features:
        return f"its header is damaged (feature_names are not {features})"
    start = len(head) + len(gap)
    end = data.find(_END, start)
    if end < 0:
        return "it is cut off (no 'end of trees')"
    if sizes and start + sum(sizes) > end:
        return "it is cut off or damaged (trees are missing)"
    trees = data[start:end].split(b"Tree=")[1:]
    if sizes and len(trees) != len(sizes):
        return f"it is damaged ({len(trees)} trees instead of {len(sizes)})"
    for number, tree in enumerate(trees):
        trouble = _problem_of_tree(_pairs(tree), features)
        if trouble:
            return f"it is damaged (tree {number}: {trouble})"
    return _problem_of_tail(data[end:])


def _problem_of_tail(tail: bytes) -> str | None:
    """Behind the trees follow importances, parameters, and what the Python package adds: the
    categories of pandas columns, without which text would be taken for missing."""
    _, parameters, rest = tail.partition(b"\nparameters:")
    if not parameters:
        return None
    listed, complete, rest = rest.partition(b"\nend of parameters")
    if not complete:
        return "it is cut off (no 'end of parameters')"
    if not all(_PARAMETER.fullmatch(line) for line in listed.splitlines() if line):
        return "it is damaged (in its parameters)"
    key, _, value = rest.strip().partition(b":")
    if not key:
        return None
    try:
        json.loads(value)
    except ValueError:
        return "it is cut off (in pandas_categorical)"
    return None if key == b"pandas_categorical" else "it is damaged (at its end)"


def _problem_of_tree(tree: dict[bytes, bytes], features: int) -> str | None:
    """LightGBM stops the process at a word that is no number, at a list that is too short, and at a
    child or category beyond the lists."""
    strange = next((key for key, value in tree.items() if not _NUMBERS.fullmatch(value)), None)
    if strange is not None:
        return strange.decode(errors="replace")
    try:
        leaves, categorical = int(tree[b"num_leaves"]), int(tree[b"num_cat"])
        if leaves < 1 or categorical < 0:
            return "num_leaves or num_cat"
        lengths = dict.fromkeys(_PER_SPLIT, leaves - 1) | dict.fromkeys(_PER_LEAF, leaves)
        for key, length in lengths.items():
            if _count(tree, key) != length and (tree.get(key) or key in _NEEDED) and leaves > 1:
                return key.decode()
        return _problem_of_splits(tree, leaves, features, categorical) if leaves > 1 else None
    except (KeyError, ValueError) as error:
        return str(error)


def _problem_of_splits(tree: dict[bytes, bytes], leaves: int, features: int, categorical: int
                       ) -> str | None:
    used = _numbers(tree, b"split_feature")
    if used.min() < 0 or used.max() >= features:
        return "split_feature"
    # Children come after their parents; ~leaf stands for a leaf. Else a walk would never end.
    parents = np.arange(leaves - 1)
    for key in (b"left_child", b"right_child"):
        child = _numbers(tree, key)
        inner = child >= 0
        if (child[inner] <= parents[inner]).any() or child.max() >= leaves - 1:
            return key.decode()
        if (~child[~inner] >= leaves).any():
            return key.decode()
    by_category = (_numbers(tree, b"decision_type") & 1).astype(bool)
    if not by_category.any():
        return None
    which = np.array(tree[b"threshold"].split(), dtype=np.float64)[by_category]
    if which.min() < 0 or which.max() >= categorical:
        return "threshold"
    bounds = _numbers(tree, b"cat_boundaries")
    if len(bounds) != categorical + 1 or bounds[0] != 0 or (np.diff(bounds) < 0).any():
        return "cat_boundaries"
    return None if _count(tree, b"cat_threshold") == bounds[-1] else "cat_threshold"


def _numbers(tree: dict[bytes, bytes], key: bytes) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(tree[key].split(), dtype=np.int64)


def _count(tree: dict[bytes, bytes], key: bytes) -> int:
    return len(tree.get(key, b"").split())


def _pairs(text: bytes) -> dict[bytes, bytes]:
    lines = (line.partition(b"=") for line in text.splitlines())
    return {key: value for key, equals, value in lines if equals}
