"""Reads the trees of an XGBoost file as arrays, as far as a walk through them needs.

Does not judge them: see `xgboost_file`. Layout: `RegTree::SaveModel` in XGBoost's sources. Imports
no framework.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from struct import Struct, pack
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import msgspec
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints: TypeAlias = NDArray[np.int64]


class Damaged(ValueError):
    """Says what is wrong with a file, in a few words.

    way_out: what to do, where copying it again would not help.
    """

    def __init__(self, reason: str, way_out: str = "") -> None:
        super().__init__(reason)
        self.way_out = way_out


class Row:
    """A list of numbers, whichever way it was written."""

    def __init__(self, given: object) -> None:
        if not isinstance(given, list | np.ndarray):
            raise ValueError("no list of numbers")
        self._given = given

    def __len__(self) -> int:
        return len(self._given)

    def whole(self, name: str) -> Ints:
        """Raises Damaged unless all are whole numbers."""
        try:
            array = np.asarray(self._given)
        except ValueError:  # lists of several lengths in it
            array = np.zeros(1)
        if len(array) == 0:
            return np.zeros(0, np.int64)
        if array.dtype.kind not in "iu" or array.dtype == np.uint64 or array.ndim != 1:
            raise Damaged(f"{name} are not whole numbers")
        return array.astype(np.int64)


class Tree(msgspec.Struct):
    id: int
    tree_param: dict[str, str]
    left_children: Row
    right_children: Row
    parents: Row
    split_indices: Row
    split_type: Row | None = None
    categories: Row | None = None
    categories_nodes: Row | None = None
    categories_segments: Row | None = None
    categories_sizes: Row | None = None

    @property
    def outputs(self) -> int:
        """1, or more for what XGBoost calls vector leaves."""
        return max(1, digits(self.tree_param, "size_leaf_vector"))


class VectorTree(Tree, kw_only=True):
    """With the lists whose lengths XGBoost checks in trees of one output only. They are long:
    reading them all would double the time that JSON takes."""

    base_weights: Row
    split_conditions: Row
    default_left: Row
    leaf_weights: Row | None = None  # these three since XGBoost 3.2
    loss_changes: Row | None = None
    sum_hessian: Row | None = None


@dataclass(frozen=True, slots=True)
class Forest:
    """All trees, one behind the other, so that one look checks them all.

    sizes: of the trees, in nodes.
    left, right, parents, splits: of the nodes; nodes are counted from the root of their tree.
    features: the largest number of features that a tree was made for.
    unusual: trees with categories or several outputs, by their number.
    """

    sizes: Ints
    left: Ints
    right: Ints
    parents: Ints
    splits: Ints
    features: int
    unusual: Sequence[tuple[int, Tree]] = ()

    def __len__(self) -> int:
        return len(self.sizes)


def digits(parameters: dict[str, str], name: str, default: str | None = None) -> int:
    """A number that is written as text. Raises Damaged."""
    text = parameters.get(name, default)
    if text is None:
        raise Damaged(f"{name} is missing")
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise Damaged(f"{name} is {text[:20]!r}")
    return int(text)


def forest_of(trees: Sequence[Tree]) -> Forest:
    """Raises Damaged when the lists of a tree are not of one length."""
    names = ("left_children", "right_children", "parents", "split_indices")
    columns: dict[str, list[Ints]] = {name: [np.zeros(0, np.int64)] for name in names}
    sizes: list[int] = []
    unusual: list[tuple[int, Tree]] = []
    features = 0
    if sorted(tree.id for tree in trees) != list(range(len(trees))):
        raise Damaged("the ids of its trees are not 0, 1, 2, …")
    for number, tree in enumerate(trees):
        nodes = digits(tree.tree_param, "num_nodes")
        features = max(features, digits(tree.tree_param, "num_feature"))
        for name, column in columns.items():
            row: Row = getattr(tree, name)
            if nodes == 0 or len(row) != nodes:
                raise Damaged(f"tree {number}: {len(row)} {name} instead of {nodes}")
            column.append(row.whole(f"tree {number}: {name}"))
        if tree.outputs > 1 or tree.split_type is not None:
            unusual.append((number, tree))
        sizes.append(nodes)
    left, right, parents, splits = map(np.concatenate, columns.values())
    return Forest(np.array(sizes, np.int64), left, right, parents, splits, features, unusual)


# --- the shortcut -------------------------------------------------------------------------------


def _key(name: bytes) -> bytes:
    return b"L" + _COUNT.pack(len(name)) + name


def _list(name: bytes, kind: bytes) -> bytes:
    return _key(name) + b"[$" + kind + b"#L"


_COUNT: Final = Struct(">q")
_FIRST: Final = b"{" + _list(b"base_weights", b"d")
_NO_CATEGORIES: Final = b"".join(
    _list(name, kind) + _COUNT.pack(0)
    for name, kind in ((b"categories", b"l"), (b"categories_nodes", b"l"),
                       (b"categories_segments", b"L"), (b"categories_sizes", b"L"))
)
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
_END: Final = re.compile(
    b"(%b{%bSL.{7}\x010%bSL.{8}([0-9]{1,10})%bSL).{8}[0-9]{1,10}(%bSL.{7}\x01[01]}})"
    % tuple(re.escape(_key(name)) for name in (
        b"tree_param", b"num_deleted", b"num_feature", b"num_nodes", b"size_leaf_vector",
    )),
    re.DOTALL,
)


class _End(NamedTuple):
    """What closes every tree, on both sides of its number of nodes."""

    before: bytes
    behind: bytes
    features: int


class _Layout(NamedTuple):
    """Where things lie in a tree of so many nodes, counted from its beginning."""

    size: int
    fixed: Callable[[bytes], tuple[bytes, ...]]  # the id, then what does not depend on the tree
    expected: tuple[bytes, ...]
    wanted: Callable[[bytes], tuple[bytes, ...]]


def plain_trees(data: bytes, at: int, count: int) -> tuple[Forest, int] | None:
    """The trees of which the first begins at byte `at` of Universal Binary JSON, and where they
    end. None unless all are as they nearly always are: of one output, without categories, no node
    cut off; and 0, 1, 2, … their ids.

    A shortcut: reading them key by key takes longer in Python than XGBoost takes for the file.
    """
    layouts: dict[tuple[int, int], _Layout] = {}
    sizes: list[int] = []
    found: list[tuple[bytes, ...]] = []
    end: _End | None = None
    for number in range(count):
        if not data.startswith(_FIRST, at) or len(data) < at + len(_FIRST) + _COUNT.size:
            return None
        (nodes,) = _COUNT.unpack_from(data, at + len(_FIRST))
        written = _id(number)
        layout = layouts.get((nodes, len(written)))
        if layout is None:
            end = end or _end(data, at)
            if end is None or not 0 < nodes < len(data):
                return None
            layout = layouts[nodes, len(written)] = _layout(nodes, len(written), end)
        tree = data[at : at + layout.size]
        if layout.fixed(tree) != (written, *layout.expected):
            return None
        sizes.append(nodes)
        found.append(layout.wanted(tree))
        at += layout.size
    if end is None:
        return None
    *lists, split_types = (b"".join(each) for each in zip(*found, strict=True))
    if split_types != bytes(len(split_types)):  # a split by category, without categories
        return None
    left, parents, right, splits = (np.frombuffer(each, ">i4").astype(np.int64) for each in lists)
    return Forest(np.array(sizes, np.int64), left, right, parents, splits, end.features), at


def _id(number: int) -> bytes:
    """As XGBoost writes whole numbers: as short as possible, but for the largest of each type."""
    if number < 2**7 - 1:
        return pack(">cb", b"i", number)
    if number < 2**15 - 1:
        return pack(">ch", b"I", number)
    return pack(">ci", b"l", number)


def _end(data: bytes, at: int) -> _End | None:
    match = _END.search(data, at)
    return _End(match[1], match[3], int(match[2])) if match else None


def _layout(nodes: int, id_bytes: int, end: _End) -> _Layout:
    count = _COUNT.pack(nodes)
    expected: list[bytes] = []
    fixed: list[slice] = []
    wanted: list[slice] = []
    at = 0

    def fix(piece: bytes) -> None:
        nonlocal at
        expected.append(piece)
        fixed.append(slice(at, at + len(piece)))
        at += len(piece)

    def lists(table: Sequence[tuple[bytes, int, bool]]) -> None:
        nonlocal at
        for head, item_bytes, matters in table:
            fix(head + count)
            if matters:
                wanted.append(slice(at, at + item_bytes * nodes))
            at += item_bytes * nodes

    lists(_BEFORE_ID)
    fix(_key(b"id"))
    id_slice = slice(at, at + id_bytes)
    at += id_bytes
    lists(_BEHIND_ID)
    text = str(nodes).encode()
    fix(end.before + _COUNT.pack(len(text)) + text + end.behind)
    return _Layout(at, itemgetter(id_slice, *fixed), tuple(expected), itemgetter(*wanted))
