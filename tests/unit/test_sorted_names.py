"""Names in order, whatever is added and removed, and whenever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shoal.node import names as module
from shoal.node.names import SortedNames


def filled(*names: str) -> SortedNames:
    found = SortedNames()
    for name in names:
        found.add(name)
    return found


def test_names_come_in_order_from_behind_one() -> None:
    names = filled("c", "a", "b")
    assert list(names.after(None)) == names.all() == ["a", "b", "c"]
    assert list(names.after("a")) == ["b", "c"]
    assert list(names.after("bb")) == ["c"]
    assert list(names.after("c")) == []
    assert list(names.after("")) == ["a", "b", "c"]


def test_there_may_be_none() -> None:
    assert list(SortedNames().after(None)) == list(SortedNames().after("a")) == []


def test_many_names_stay_in_order_however_they_come() -> None:
    count = 5 * module._MOST
    numbers = [number * 7919 % count for number in range(count)]
    names = filled(*(f"{number:06}" for number in numbers))
    assert names.all() == [f"{number:06}" for number in range(count)]
    for number in numbers[:-3]:
        names.remove(f"{number:06}")
    assert names.all() == sorted(f"{number:06}" for number in numbers[-3:])


def test_what_changes_behind_the_present_name_is_seen() -> None:
    names = filled("a", "c", "e")
    seen = []
    for name in names.after(None):
        seen.append(name)
        if name == "a":
            names.add("b")
            names.remove("c")
            names.remove("a")
    assert seen == ["a", "b", "e"]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcdefghij"))))
def test_it_is_as_a_sorted_set(changes: list[tuple[bool, str]]) -> None:
    names, model = SortedNames(), set[str]()
    for is_added, name in changes:
        if is_added and name not in model:
            names.add(name)
            model.add(name)
        elif not is_added and name in model:
            names.remove(name)
            model.remove(name)
        assert names.all() == sorted(model)
        assert list(names.after(name)) == sorted(each for each in model if each > name)
