"""Reads the trees of an XGBoost file as arrays, as far as a walk through them needs.

Does not judge them: see `xgboost_file`. Layout: `RegTree::SaveModel` in XGBoost's sources. Imports
no framework.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from struct import Struct
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints: TypeAlias = NDArray[np.int32]
    Places: TypeAlias = NDArray[np.int64]


class Damaged(ValueError):
    """Says what is wrong with a file, in a few words.

    way_out: what to do, where copying it again would not help.
    """

    def __init__(self, reason: str, way_out: str = "") -> None:
        super().__init__(reason)
        self.way_out = way_out


class Tree(msgspec.Struct, gc=False):
    """As the file names it."""

    id: int
    tree_param: dict[str, str]
    left_children: list[int]
    right_children: list[int]
    parents: list[int]
    split_indices: list[int]
    split_type: list[int] | None = None
    categories: list[int] = []
    categories_nodes: list[int] = []
    categories_segments: list[int] = []
    categories_sizes: list[int] = []

    @property
    def outputs(self) -> int:
        """1, or more for what XGBoost calls vector leaves."""
        return max(1, digits(self.tree_param, "size_leaf_vector"))

    @property
    def splits_by_category(self) -> bool:
        """Without types, XGBoost ignores what there is of categories."""
        types = self.split_type
        return types is not None and (types.count(0) < len(types) or bool(self.categories_nodes))


class VectorTree(Tree, kw_only=True, gc=False):
    """With the lists whose lengths XGBoost checks in trees of one output only. They are long:
    reading them always would double the time for JSON."""

    base_weights: list[float]
    split_conditions: list[float]
    default_left: list[int]
    leaf_weights: list[float] | None = None  # these three since XGBoost 3.2
    loss_changes: list[float] = []
    sum_hessian: list[float] = []


@dataclass(frozen=True, slots=True)
class Forest:
    """All trees, one behind the other, so that one look checks them all.

    sizes: of the trees, in nodes.
    left, right, parents, splits: of the nodes; nodes are counted from the root of their tree.
    features: the largest number of features that a tree was made for.
    unusual: trees with categories or several outputs, by their number.
    """

    sizes: Places
    left: Ints
    right: Ints
    parents: Ints
    splits: Ints
    features: int
    unusual: Sequence[tuple[int, Tree]] = ()

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def begins(self) -> Places:
        """Of each tree, which node is its first."""
        return np.cumsum(self.sizes) - self.sizes


def digits(parameters: dict[str, str], name: str, default: str | None = None) -> int:
    """A number that is written as text. Raises Damaged."""
    text = parameters.get(name, default)
    if text is None:
        raise Damaged(f"{name} is missing")
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise Damaged(f"{name} is {text[:20]!r}")
    return int(text)


def whole(numbers: Iterable[int], name: str) -> Ints:
    """As an array. Raises Damaged for numbers beyond 32 bits, which XGBoost would cut."""
    try:
        return np.array(array("i", numbers), np.int32)
    except OverflowError:
        raise Damaged(f"{name} has a number beyond 32 bits") from None


def forest_of(trees: Sequence[Tree]) -> Forest:
    """Raises Damaged when lists of a tree are not as long as it has nodes."""
    if sorted(tree.id for tree in trees) != list(range(len(trees))):
        raise Damaged("the ids of its trees are not 0, 1, 2, …")
    sizes = [digits(tree.tree_param, "num_nodes") for tree in trees]
    columns: list[Ints] = []
    for name in ("left_children", "right_children", "parents", "split_indices"):
        lists: list[list[int]] = [getattr(tree, name) for tree in trees]
        for number, (given, size) in enumerate(zip(lists, sizes, strict=True)):
            if size == 0 or len(given) != size:
                raise Damaged(f"tree {number}: {len(given)} {name} for {size} nodes")
        columns.append(whole(list(chain.from_iterable(lists)), name))
    left, right, parents, splits = columns
    return Forest(
        np.array(sizes, np.int64), left, right, parents, splits,
        features=max((digits(tree.tree_param, "num_feature") for tree in trees), default=0),
        unusual=[(number, tree) for number, tree in enumerate(trees)
                 if tree.splits_by_category or tree.outputs > 1],
    )


# --- the shortcut -------------------------------------------------------------------------------

_COUNT: Final = Struct(">q")


def _key(name: bytes) -> bytes:
    return b"L" + _COUNT.pack(len(name)) + name


def _list(name: bytes, kind: bytes) -> bytes:
    return _key(name) + b"[$" + kind + b"#L"


_FIRST: Final = b"{" + _list(b"base_weights", b"d")
_NO_CATEGORIES: Final = b"".join(
    _list(name, kind) + _COUNT.pack(0)
    for name, kind in ((b"categories", b"l"), (b"categories_nodes", b"l"),
                       (b"categories_segments", b"L"), (b"categories_sizes", b"L"))
)
_ID: Final = _key(b"id")
# What XGBoost writes of a tree, in its order, on both sides of its id: what precedes the number of
# nodes, how many bytes for each node follow that number, and whether they matter here.
_BEFORE_ID: Final = (
    (_FIRST, 4, False),
    (_NO_CATEGORIES + _list(b"default_left", b"U"), 1, False),
)
_BEHIND_ID: Final = (
    (_list(b"left_children", b"l"), 4, True),
    (_list(b"loss_changes", b"d"), 4, False),
    (_list(b"parents", b"l"), 4, True),
    (_list(b"right_children", b"l"), 4, True),
    (_list(b"split_conditions", b"d"), 4, False),
    (_list(b"split_indices", b"l"), 4, True),
    (_list(b"split_type", b"U"), 1, True),
    (_list(b"sum_hessian", b"d"), 4, False),
)
_LISTS: Final = (*_BEFORE_ID, *_BEHIND_ID)
_NODE_BYTES: Final = sum(width for _, width, _ in _LISTS)
_OTHER_BYTES: Final = len(_ID) + sum(len(head) + _COUNT.size for head, _, _ in _LISTS)
_TEXT: Final = rb"SL\0{7}([\x01-\x0a])([0-9]{1,10})"  # its length first
_END: Final = re.compile(
    re.escape(_key(b"tree_param")) + rb"\{"
    + b"".join(re.escape(_key(name)) + _TEXT
               for name in (b"num_deleted", b"num_feature", b"num_nodes"))
    + re.escape(_key(b"size_leaf_vector")) + rb"SL\0{7}\x01[01]\}\}"
)
# How XGBoost writes the ids below: as short as possible, but for the largest number of each type.
_IDS: Final = (
    (2**7 - 1, np.dtype([("marker", "S1"), ("id", ">i1")]), b"i"),
    (2**15 - 1, np.dtype([("marker", "S1"), ("id", ">i2")]), b"I"),
    (2**31 - 1, np.dtype([("marker", "S1"), ("id", ">i4")]), b"l"),
)


def plain_trees(data: bytes, at: int, count: int) -> tuple[Forest, int] | None:
    """The trees of which the first begins at byte `at` of Universal Binary JSON, and where they
    end. None unless all are as they nearly always are: of one output, without categories.

    A shortcut: reading them key by key takes longer in Python than XGBoost takes for the file. So
    it goes from end to end of the trees, and looks at the rest of all of them at once.
    """
    begins: list[int] = []
    sizes: list[int] = []
    ends: dict[int, bytes] = {}
    features = 0
    for limit, kind, _ in _IDS:
        other_bytes = _OTHER_BYTES + kind.itemsize
        for _ in range(len(begins), min(count, limit)):
            if len(data) < at + other_bytes:
                return None
            (nodes,) = _COUNT.unpack_from(data, at + len(_FIRST))
            begins.append(at)
            sizes.append(nodes)
            at += other_bytes + nodes * _NODE_BYTES
            end = ends.get(nodes)
            if end is None or not data.startswith(end, at):
                end, made_for = _end(data, at, nodes) if 0 < nodes < len(data) else (b"", 0)
                if not end:
                    return None
                features = max(features, made_for)
                ends[nodes] = end
            at += len(end)
    lists = _lists(data, np.array(begins, np.int64), np.array(sizes, np.int64))
    if lists is None or lists[-1] != bytes(len(lists[-1])):  # by category, without categories
        return None
    left, parents, right, splits = (np.frombuffer(each, ">i4").astype(np.int32)
                                    for each in lists[:4])
    return Forest(np.array(sizes, np.int64), left, right, parents, splits, features), at


def _end(data: bytes, at: int, nodes: int) -> tuple[bytes, int]:
    """Of a tree, and how many features it was made for; empty when it is not as expected."""
    match = _END.match(data, at)
    if match is None or int(match[6]) != nodes:
        return b"", 0
    texts = zip(match.groups()[::2], match.groups()[1::2], strict=True)
    if any(length[0] != len(text) for length, text in texts):
        return b"", 0
    return match[0], int(match[4])


def _lists(data: bytes, at: Places, sizes: Places) -> list[bytes] | None:
    """Those that matter, of all trees together. None when anything else is not as expected."""
    found: list[bytes] = []
    for head, width, matters in _LISTS:
        if head is _BEHIND_ID[0][0]:
            behind = _behind_ids(data, at)
            if behind is None:
                return None
            at = behind
        counts = np.frombuffer(_pieces(data, at + len(head), _COUNT.size), ">i8")
        if _pieces(data, at, len(head)) != head * len(at) or not np.array_equal(counts, sizes):
            return None
        at = at + len(head) + _COUNT.size
        ends = at + width * sizes
        if matters:
            # Without a loop in Python, which would take as long as all the rest.
            found.append(b"".join(map(data.__getitem__, map(slice, at.tolist(), ends.tolist()))))
        at = ends
    return found


def _behind_ids(data: bytes, at: Places) -> Places | None:
    """Where the ids of the trees end; None unless they are 0, 1, 2, …"""
    if _pieces(data, at, len(_ID)) != _ID * len(at):
        return None
    at = at + len(_ID)
    begin = 0
    for limit, kind, marker in _IDS:
        ids = np.empty(max(0, min(len(at), limit) - begin), kind)
        ids["marker"], ids["id"] = marker, np.arange(begin, begin + len(ids))
        if _pieces(data, at[begin : begin + len(ids)], kind.itemsize) != ids.tobytes():
            return None
        at[begin : begin + len(ids)] += kind.itemsize
        begin += len(ids)
    return at


def _pieces(data: bytes, at: Places, size: int) -> bytes:
    """`size` bytes from each of these places, one behind the other."""
    every = np.ndarray(len(data) - size + 1, f"V{size}", data, strides=(1,))
    return every[at].tobytes()
