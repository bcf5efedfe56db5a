"""When what changed has been still for long enough; and who serves a name that two claim."""

from __future__ import annotations

import random

from shoal.storage.claims import Claims
from shoal.storage.settling import Settling


def test_something_new_is_due_once_it_was_still() -> None:
    settling = Settling(1.0)
    settling.see("a", b"1", 10.0)
    assert settling.due(10.9) == []
    assert settling.due(11.0) == ["a"]
    assert settling.next_due() == 11.0


def test_a_further_change_starts_the_wait_anew() -> None:
    settling = Settling(1.0)
    settling.see("a", b"1", 10.0)
    settling.see("a", b"2", 10.5)
    settling.see("a", b"2", 11.0)
    assert settling.due(11.0) == []
    assert settling.due(11.5) == ["a"]


def test_what_is_known_to_be_still_is_due_at_once() -> None:
    settling = Settling(1.0)
    settling.see("a", b"1", 10.0, still=True)
    assert settling.due(10.0) == ["a"]


def test_what_was_taken_waits_no_more_while_it_stays() -> None:
    settling = Settling(0.0)
    settling.see("a", b"1", 10.0)
    assert settling.take("a")
    settling.see("a", b"1", 11.0)
    assert settling.waiting() == set()
    assert settling.next_due() is None


def test_what_went_back_to_what_was_taken_waits_no_more() -> None:
    settling = Settling(1.0)
    settling.see("a", b"1", 10.0, still=True)
    settling.take("a")
    settling.see("a", None, 11.0)
    settling.see("a", b"1", 11.5)
    assert settling.due(20.0) == []


def test_being_gone_has_to_last_too() -> None:
    settling = Settling(1.0)
    settling.see("a", b"1", 10.0, still=True)
    settling.take("a")
    settling.see("a", None, 11.0)
    assert settling.due(11.5) == []
    assert settling.due(12.0) == ["a"]
    assert not settling.take("a")
    assert settling.keys() == set()


def test_what_failed_is_a_change_when_it_is_seen_again() -> None:
    settling = Settling(1.0)
    settling.see("a", b"1", 10.0, still=True)
    settling.take("a")
    settling.again("a")
    assert settling.due(20.0) == []
    settling.see("a", b"1", 20.0)
    assert settling.due(21.0) == ["a"]


def test_what_failed_can_still_go() -> None:
    settling = Settling(0.0)
    settling.see("a", b"1", 10.0)
    settling.take("a")
    settling.again("a")
    settling.see("a", None, 11.0)
    assert settling.due(11.0) == ["a"]


def test_what_changed_while_it_was_read_waits_anew() -> None:
    settling = Settling(1.0)
    settling.see("a", b"1", 10.0, still=True)
    settling.take("a")
    settling.wait("a", 10.0)
    assert settling.waiting() == {"a"}
    settling.see("a", b"1", 10.5)
    assert settling.due(11.0) == []
    assert settling.due(11.5) == ["a"]


def test_the_first_sorted_claimant_serves_the_name() -> None:
    claims = Claims()
    claims.claim("iris.onnx", "iris")
    assert claims.claim("iris", "iris") == {"iris"}
    assert claims.claimants("iris") == ["iris", "iris.onnx"]


def test_the_next_claimant_follows() -> None:
    claims = Claims()
    for entry in ("c", "a", "b"):
        claims.claim(entry, "x")
    assert claims.release("a") == {"x"}
    assert claims.claimants("x") == ["b", "c"]


def test_a_renamed_entry_touches_both_names() -> None:
    claims = Claims()
    claims.claim("a", "x")
    assert claims.claim("a", "y") == {"x", "y"}
    assert (claims.claimants("x"), claims.claimants("y")) == ([], ["a"])
    assert claims.claim("a", "y") == set()


def test_claims_agree_with_a_plain_dictionary() -> None:
    rng, claims, plain = random.Random(7), Claims(), dict[str, str]()
    for _ in range(500):
        entry, name = rng.choice("abcdef"), rng.choice("xyz")
        if rng.random() < 0.4:
            claims.release(entry)
            plain.pop(entry, None)
        else:
            claims.claim(entry, name)
            plain[entry] = name
        for each in "xyz":
            assert claims.claimants(each) == sorted(e for e, n in plain.items() if n == each)
