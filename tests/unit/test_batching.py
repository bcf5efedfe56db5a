"""Which calls run as one, and that joining and splitting give every call its own rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.codecs.tensors import DTYPES
from shoal.domain.signature import Signature, TensorSpec
from shoal.node import batching
from shoal.node.batching import Kind, NotByRows, kind_of

if TYPE_CHECKING:
    from shoal.ports import Arrays


def array_of(datatype: str, shape: tuple[int, ...], seed: int) -> Any:
    """Any bits at all: also NaN, infinities, and text of unequal lengths."""
    count = int(np.prod(shape))
    random = np.random.default_rng(seed)
    if datatype == "BYTES":
        made = np.empty(count, np.object_)
        made[:] = [random.bytes(int(random.integers(0, 5))) for _ in range(count)]
        return made.reshape(shape)
    if datatype == "BOOL":
        return random.integers(0, 2, count).astype(np.bool_).reshape(shape)
    dtype = DTYPES[datatype]
    return np.frombuffer(random.bytes(count * dtype.itemsize), dtype).reshape(shape)


def same(one: Any, other: Any) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return bool(one.tolist() == other.tolist() if one.dtype == np.object_
                else one.tobytes() == other.tobytes())


trailing = st.lists(st.integers(0, 3), max_size=2).map(tuple)
described = st.dictionaries(
    st.sampled_from("abc"), st.tuples(st.sampled_from(list(DTYPES)), trailing), min_size=1
)


# --- joining and splitting ----------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(described, st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 2**16))
def test_splitting_what_was_joined_gives_every_call_its_rows(
    tensors: dict[str, tuple[str, tuple[int, ...]]], rows: list[int], seed: int
) -> None:
    calls: list[Arrays] = [
        {name: array_of(datatype, (count, *shape), seed + index)
         for name, (datatype, shape) in tensors.items()}
        for index, count in enumerate(rows)
    ]
    joined = batching.join(calls)
    assert {array.shape[0] for array in joined.values()} == {sum(rows)}
    for call, part in zip(calls, batching.split(joined, rows), strict=True):
        assert call.keys() == part.keys()
        assert all(same(call[name], part[name]) for name in call)


def test_inputs_are_joined_by_name_whatever_their_order() -> None:
    first: Arrays = {"a": np.array([1]), "b": np.array([10])}
    second: Arrays = {"b": np.array([20]), "a": np.array([2])}
    joined = batching.join([first, second])
    assert (joined["a"].tolist(), joined["b"].tolist()) == ([1, 2], [10, 20])


@pytest.mark.parametrize("answer", [np.zeros(3), np.zeros(1), np.array(0.0)], ids=str)
def test_an_answer_without_a_row_for_each_row_is_not_split(answer: Any) -> None:
    with pytest.raises(NotByRows, match="2 rows were given, and output 'y' has the shape"):
        batching.split({"right": np.zeros(2), "y": answer}, [1, 1])


# --- kinds --------------------------------------------------------------------------------------


def kind(inputs: Arrays, parameters: Any = None, outputs: tuple[str, ...] = ()) -> Kind | None:
    return kind_of(inputs, parameters or {}, outputs)[1]


X: Arrays = {"x": np.zeros((2, 3), np.float32)}


def test_calls_of_unequal_rows_are_of_one_kind() -> None:
    assert kind(X) == kind({"x": np.ones((5, 3), np.float32)})
    assert kind_of(X, {}, ())[0] == 2


def test_the_order_of_inputs_makes_no_other_kind() -> None:
    a, b = np.zeros(1), np.zeros((1, 2))
    assert kind({"a": a, "b": b}) == kind({"b": b, "a": a})


@pytest.mark.parametrize(
    "other",
    [
        (({"x": np.zeros((2, 4), np.float32)}), {}, ()),
        (({"x": np.zeros((2, 3, 1), np.float32)}), {}, ()),
        (({"x": np.zeros((2, 3), np.float64)}), {}, ()),
        (({"x": np.zeros((2, 3), ">f4")}), {}, ()),
        (({"y": np.zeros((2, 3), np.float32)}), {}, ()),
        ((X), {"threshold": 1}, ()),
        ((X), {}, ("y",)),
    ],
    ids=["extent", "rank", "datatype", "byte order", "name", "parameters", "outputs"],
)
def test_what_differs_in_more_than_its_rows_is_of_another_kind(other: Any) -> None:
    assert kind(X) != kind(*other)


def test_parameters_that_python_takes_for_equal_are_of_other_kinds() -> None:
    kinds = {kind(X, {"flag": value}) for value in (True, 1, 1.0, "1")}
    assert len(kinds) == 4


@pytest.mark.parametrize(
    "inputs",
    [{}, {"x": np.array(1.0)}, {"x": np.zeros((0, 3))}, {"x": np.zeros(2), "y": np.zeros(3)}],
    ids=["none", "scalar", "no rows", "unequal"],
)
def test_what_has_no_rows_to_count_runs_alone(inputs: Arrays) -> None:
    assert kind_of(inputs, {}, ()) == (0, None)


def test_parameters_that_cannot_be_compared_run_alone() -> None:
    assert kind(X, {"text": "\ud800"}) is None


# --- who is taken -------------------------------------------------------------------------------


ONE, OTHER = Kind((), b"", ()), Kind((), b"other", ())


@dataclass
class Waiting:
    name: str
    rows: int = 1
    kind: Kind | None = ONE
    size_bytes: int = 10


def taken(line: list[Waiting], most_rows: int = 8, most_calls: int = 100) -> tuple[str, str]:
    """Names of those that run, and of those that still wait."""
    run = batching.take(line, most_rows, most_calls)
    return "".join(each.name for each in run), "".join(each.name for each in line)


def test_those_of_the_first_ones_kind_run_with_it_and_the_others_keep_their_order() -> None:
    line = [Waiting("a"), Waiting("b", kind=OTHER), Waiting("c"), Waiting("d", kind=OTHER),
            Waiting("e")]
    assert taken(line) == ("ace", "bd")


def test_no_more_rows_are_taken_than_may_be() -> None:
    line = [Waiting("a", 3), Waiting("b", 3), Waiting("c", 3), Waiting("d", 1)]
    assert taken(line) == ("ab", "cd"), "d does not overtake c"


def test_no_more_calls_are_taken_than_may_be() -> None:
    assert taken([Waiting("a"), Waiting("b"), Waiting("c")], most_calls=2) == ("ab", "c")


def test_no_more_bytes_are_taken_than_may_be() -> None:
    large = batching.MAX_BATCH_BYTES // 2 + 1
    line = [Waiting("a", size_bytes=large), Waiting("b", size_bytes=large)]
    assert taken(line) == ("a", "b")


def test_a_call_larger_than_a_batch_runs_alone() -> None:
    assert taken([Waiting("a", 20), Waiting("b")]) == ("a", "b")


def test_a_call_without_a_kind_runs_alone() -> None:
    assert taken([Waiting("a", kind=None), Waiting("b", kind=None)]) == ("a", "b")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 12), st.integers(1, 6),
)
def test_everybody_runs_once_and_none_before_its_like(
    calls: list[tuple[int, bool]], most_rows: int, most_calls: int
) -> None:
    line = [Waiting(str(index), rows, OTHER if other else ONE)
            for index, (rows, other) in enumerate(calls)]
    order: list[Waiting] = []
    while line:
        first = line[0]
        batch = batching.take(line, most_rows, most_calls)
        assert batch[0] is first
        assert len(batch) == 1 or (
            sum(call.rows for call in batch) <= most_rows and len(batch) <= most_calls
        )
        order += batch
    for kind in (OTHER, ONE):
        names = [int(call.name) for call in order if call.kind == kind]
        assert names == sorted(names)
    assert len(order) == len(calls)


# --- which models -------------------------------------------------------------------------------


def signature(inputs: list[tuple[int, ...]], outputs: list[tuple[int, ...]], *,
              table: bool = False, guessed: bool = False
              ) -> Signature:
    return Signature(
        tuple(TensorSpec(f"x{i}", "FP32", shape) for i, shape in enumerate(inputs)),
        tuple(TensorSpec(f"y{i}", "FP32", shape) for i, shape in enumerate(outputs)),
        table=table, guessed=guessed,
    )


@pytest.mark.parametrize(
    ("described", "free"),
    [
        (signature([(-1, 4), (-1,)], [(-1, 2)]), True),
        (signature([(-1,), (-1,)], [(-1,)], table=True), True),
        (signature([(-1, 4)], [(1, 2)]), False),
        (signature([(-1, 4), (4,)], [(-1,)]), False),
        (signature([(-1, 4)], [()]), False),
        (signature([], [(-1,)]), False),
        (signature([(-1,)], []), False),
        (signature([(-1, 4)], [(-1,)], guessed=True), False),
    ],
    ids=["free", "table", "fixed output", "fixed input", "scalar", "no inputs", "no outputs",
         "guessed"],
)
def test_rows_are_free_when_every_first_axis_is(described: Signature, free: bool) -> None:
    assert batching.by_rows(described) is free


# --- comparing ----------------------------------------------------------------------------------


def test_rounding_makes_no_other_answer() -> None:
    alone: Arrays = {"y": np.array([1.0, 1e-9, np.nan], np.float32)}
    joined: Arrays = {"y": np.array([1.00001, 2e-9, np.nan], np.float32)}
    assert batching.alike(joined, alone)


@pytest.mark.parametrize(
    ("joined", "alone"),
    [
        (np.array([1.01], np.float32), np.array([1.0], np.float32)),
        (np.array([1.0], np.float64), np.array([1.0], np.float32)),
        (np.array([2]), np.array([1])),
        (np.array([b"b"], np.object_), np.array([b"a"], np.object_)),
        (np.array([[1.0]]), np.array([1.0])),
        (np.array([1.0]), np.array([np.nan])),
    ],
    ids=["value", "datatype", "integer", "text", "shape", "nan"],
)
def test_another_answer_is_seen(joined: Any, alone: Any) -> None:
    assert not batching.alike({"y": joined}, {"y": alone})


def test_half_precision_may_differ_by_more() -> None:
    alone = np.array([1.0], ml_dtypes.bfloat16)
    joined = np.array([1.0078125], ml_dtypes.bfloat16)
    assert batching.alike({"y": joined}, {"y": alone})


@pytest.mark.parametrize("datatype", list(DTYPES))
def test_a_variation_is_of_the_same_kind_with_other_values(datatype: str) -> None:
    inputs: Arrays = {"x": array_of(datatype, (2, 8), seed=3)}
    with np.errstate(all="ignore"):
        other = batching.varied(inputs)
    assert kind(other) == kind(inputs)
    assert not batching.same_inputs(inputs, other)
