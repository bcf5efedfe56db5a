"""Decides whether a LightGBM text file is whole, before LightGBM reads it.

LightGBM trusts its files: one that is cut off or damaged makes it read beyond its buffers, which
ends the process instead of raising. Layout: `GBDT::SaveModelToString` and `Tree::ToString` in
LightGBM's sources. Imports no framework.
"""

from __future__ import annotations

import json
from typing import Final

import numpy as np

HEADER_KEYS: Final = (b"num_class", b"num_tree_per_iteration", b"max_feature_idx",
                      b"feature_names", b"feature_infos")
_END: Final = b"end of trees"


def problem_of(data: bytes) -> str | None:
    """What is wrong with the file's content, in a few words; None when nothing is."""
    if not data.startswith(b"tree"):
        return "it does not begin with 'tree'"
    head, gap, _ = data.partition(b"\n\n")
    header = _pairs(head)
    missing = next((key for key in HEADER_KEYS if key not in header), None)
    if not gap or missing is not None:
        return f"its header is cut off (no {(missing or b'end').decode()})"
    try:
        features = int(header[b"max_feature_idx"]) + 1
        sizes = [int(size) for size in header.get(b"tree_sizes", b"").split()]
    except ValueError:
        return "its header is damaged"
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
    _, complete, rest = rest.partition(b"\nend of parameters")
    if not complete:
        return "it is cut off (no 'end of parameters')"
    key, _, value = rest.strip().partition(b":")
    if not key:
        return None
    try:
        json.loads(value)
    except ValueError:
        return "it is cut off (in pandas_categorical)"
    return None if key == b"pandas_categorical" else "it is damaged (at its end)"


def _problem_of_tree(tree: dict[bytes, bytes], features: int) -> str | None:
    try:
        leaves = int(tree[b"num_leaves"])
        splits = leaves - 1
        if leaves < 1 or _count(tree, b"leaf_value") != leaves:
            return "leaf_value"
        if splits == 0:
            return None
        used = _numbers(tree, b"split_feature", splits)
        if used.min() < 0 or used.max() >= features:
            return "split_feature"
        for key in (b"threshold", b"decision_type"):
            if _count(tree, key) != splits:
                return key.decode()
        # Children come after their parents; ~leaf stands for a leaf. Else a walk would never end.
        parents = np.arange(splits)
        for key in (b"left_child", b"right_child"):
            child = _numbers(tree, key, splits)
            inner = child >= 0
            if (child[inner] <= parents[inner]).any() or child.max() >= splits:
                return key.decode()
            if (~child[~inner] >= leaves).any():
                return key.decode()
        return _problem_of_categories(tree)
    except (KeyError, ValueError) as error:
        return str(error)


def _problem_of_categories(tree: dict[bytes, bytes]) -> str | None:
    count = int(tree.get(b"num_cat", b"0"))
    if count == 0:
        return None
    bounds = _numbers(tree, b"cat_boundaries", count + 1)
    if (np.diff(bounds) < 0).any() or bounds[0] != 0:
        return "cat_boundaries"
    return None if _count(tree, b"cat_threshold") == bounds[-1] else "cat_threshold"


def _numbers(tree: dict[bytes, bytes], key: bytes, count: int) -> np.ndarray[
        tuple[int], np.dtype[np.int64]]:
    numbers = np.array(tree[key].split(), dtype=np.int64)
    if len(numbers) != count:
        raise ValueError(key.decode())
    return numbers


def _count(tree: dict[bytes, bytes], key: bytes) -> int:
    return len(tree[key].split())


def _pairs(text: bytes) -> dict[bytes, bytes]:
    lines = (line.partition(b"=") for line in text.splitlines())
    return {key: value for key, equals, value in lines if equals}
