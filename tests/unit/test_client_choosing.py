"""Which address is chosen: pure decisions, with the time as a number."""

from __future__ import annotations

import pytest

from shoal.client.choosing import Addresses, Turn, Verdict, addresses_of
from shoal.client.endpoints import Endpoints, Side

ANSWERED, FAILED, OVERDUE = Verdict.ANSWERED, Verdict.FAILED, Verdict.OVERDUE


def chosen(addresses: Addresses, now: float = 0.0, passed: str = "") -> Turn:
    turn = addresses.choose(passed, now)
    assert turn is not None
    return turn


def ask(addresses: Addresses, verdict: Verdict | None = ANSWERED, now: float = 0.0) -> str:
    """One send that is over at once."""
    turn = chosen(addresses, now)
    addresses.end(turn, verdict, now)
    return turn.base


def asked(addresses: Addresses, times: int, now: float = 0.0) -> str:
    return "".join(ask(addresses, now=now) for _ in range(times))


def out(bases: str, until: float = 0.5) -> Addresses:
    """The first address has failed, until then."""
    addresses = Addresses(bases)
    assert ask(addresses, FAILED, until - 0.5) == bases[0]
    return addresses


def test_one_request_after_the_other_goes_round() -> None:
    assert asked(Addresses("abc"), 7) == "abcabca"


def test_clients_begin_where_chance_says() -> None:
    endpoints = Endpoints.of(["http://a", "http://b", "http://c"])
    firsts = [
        ask(addresses_of(endpoints, random)[Side.INFERENCE]) for random in (0.0, 0.34, 0.999)
    ]
    assert firsts == ["http://a", "http://b", "http://c"]


def test_the_address_with_the_fewest_requests_in_flight_is_chosen() -> None:
    addresses = Addresses("abc")
    slow = chosen(addresses)
    assert slow.base == "a"
    assert asked(addresses, 4) == "bcbc"
    addresses.end(slow, ANSWERED, 0.0)
    assert asked(addresses, 3) == "abc"


def test_passed_addresses_are_not_chosen_again() -> None:
    addresses = Addresses("ab")
    assert chosen(addresses, passed="a").base == "b"
    assert addresses.choose("ab", 0.0) is None


def test_management_keeps_to_one_address_until_it_fails() -> None:
    addresses = Addresses("abc", spread=False)
    assert asked(addresses, 3) == "aaa"
    ask(addresses, FAILED)
    assert asked(addresses, 2, now=0.1) == "bb"
    assert asked(addresses, 2, now=60.0) == "bb"


def test_an_address_that_failed_is_left_out_until_its_time_comes() -> None:
    addresses = out("ab", until=0.5)
    assert asked(addresses, 3, now=0.4) == "bbb"
    assert asked(addresses, 3, now=0.5) == "aba"


@pytest.mark.parametrize(
    ("failures", "pause_s"), [(1, 0.5), (2, 1.0), (3, 2.0), (6, 16.0), (7, 30.0), (5_000, 30.0)]
)
def test_the_pause_doubles_with_every_failure_up_to_half_a_minute(
    failures: int, pause_s: float
) -> None:
    addresses = Addresses("a")
    for _ in range(failures):
        ask(addresses, FAILED)
    assert not is_tried(addresses, pause_s - 0.01)
    assert is_tried(addresses, pause_s)


def is_tried(addresses: Addresses, now: float) -> bool:
    turn = chosen(addresses, now)
    addresses.end(turn, None, now)
    return turn.trial


def test_an_answer_ends_the_outage_and_the_next_one_begins_small() -> None:
    addresses = Addresses("a")
    for verdict in (FAILED, FAILED, FAILED, ANSWERED):
        ask(addresses, verdict)
    assert not is_tried(addresses, 60.0)
    ask(addresses, FAILED, 60.0)
    assert is_tried(addresses, 60.5)


def test_only_one_request_tries_an_address_that_failed() -> None:
    addresses = out("ab", until=0.5)
    trial = chosen(addresses, 0.5)
    assert trial.base == "a"
    assert asked(addresses, 3, now=0.5) == "bbb"
    addresses.end(trial, ANSWERED, 0.6)
    assert asked(addresses, 2, now=0.6) == "ab"


def test_a_trial_that_was_given_up_is_taken_by_the_next_request() -> None:
    addresses = out("ab", until=0.5)
    assert ask(addresses, None, 0.5) == "a"
    assert chosen(addresses, 0.5).trial


def test_no_answer_in_time_is_bad_news_only_of_an_address_that_failed() -> None:
    addresses = Addresses("ab")
    assert ask(addresses, OVERDUE) == "a"
    assert asked(addresses, 2) == "ba"
    addresses = out("ab", until=0.5)
    assert ask(addresses, OVERDUE, 0.5) == "a"
    assert asked(addresses, 2, now=1.4) == "bb"


def test_many_requests_that_fail_together_are_one_outage() -> None:
    addresses = Addresses("a")
    turns = [chosen(addresses) for _ in range(100)]
    for turn in turns:
        addresses.end(turn, FAILED, 1.0)
    assert chosen(addresses, 1.5).trial


@pytest.mark.parametrize("verdict", [ANSWERED, FAILED], ids=["answered", "failed"])
def test_what_began_before_the_outage_says_nothing_about_its_end(verdict: Verdict) -> None:
    addresses = Addresses("ab")
    early = chosen(addresses)
    assert ask(addresses) == "b"
    addresses.end(chosen(addresses, 0.0, "b"), FAILED, 0.0)
    addresses.end(early, verdict, 0.4)
    assert asked(addresses, 2, now=0.45) == "bb"
    assert asked(addresses, 1, now=0.5) == "a"


def test_where_nothing_else_is_left_the_first_to_be_due_is_asked() -> None:
    addresses = Addresses("ab")
    assert ask(addresses, FAILED, 0.0) == "a"
    assert ask(addresses, FAILED, 0.1) == "b"
    assert ask(addresses, None, 0.2) == "a"
    assert chosen(addresses, 0.2, "a").base == "b"
