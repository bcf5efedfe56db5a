"""Repeating calls: sans-IO, with a clock and dice that the test holds."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import pytest

from shoal.client.choosing import Addresses
from shoal.client.endpoints import Side
from shoal.client.errors import Answer, ConnectionFailed
from shoal.client.retry import Conversation, Exchange, Outcome, Retry, Send, Step, Wait, steps
from shoal.domain.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LoadFailed,
    NoRoom,
    Overloaded,
    ShuttingDown,
    Unavailable,
)


@dataclass
class World:
    """Time passes by waits and by `sends_take_s`; the dice always show `dice`. servers: hosts, each
    a letter. asked: to which of them was sent."""

    now: float = 100.0
    dice: float = 0.5
    sends_take_s: float = 0.0
    servers: str = "a"
    asked: str = ""

    def __post_init__(self) -> None:
        bases = [f"http://{name}" for name in self.servers]
        self.addresses = {Side.INFERENCE: Addresses(bases)}

    def steps(
        self, conversation: Conversation[bytes], timeout_s: float, attempts: int = 6
    ) -> Generator[Step, Outcome, bytes]:
        retry = Retry(attempts, 1.0, 4.0, clock=lambda: self.now, random=lambda: self.dice)
        return steps(conversation, retry, self.addresses, timeout_s)

    def play(
        self, course: Generator[Step, Outcome, bytes], *outcomes: Outcome
    ) -> tuple[bytes, list[float]]:
        """The value, and the waits on the way."""
        waits: list[float] = []
        queue = list(outcomes)
        step: Step = next(course)
        while True:
            try:
                if isinstance(step, Send):
                    self.asked += step.base.removeprefix("http://")
                    self.now += self.sends_take_s
                    step = course.send(queue.pop(0))
                else:
                    waits.append(step.seconds)
                    self.now += step.seconds
                    step = course.send(None)
            except StopIteration as end:
                return end.value, waits


def question(*, repeatable: bool = True) -> Conversation[bytes]:
    answer = yield Exchange("POST", Side.INFERENCE, "/v2/models/m/infer", repeatable=repeatable)
    return answer.body


def refusal(status: int, code: str = "", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, b'{"error": "no"}', {"shoal-error-code": code, **named})


OK = Answer(200, b"fine")
LOST = ConnectionFailed("gone")
REFUSED = ConnectionFailed("cannot connect", cause="nobody listens", sent=False)
LEAVING = refusal(503, "SHUTTING_DOWN")


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_passes_is_asked_again(status: int) -> None:
    world = World()
    assert world.play(world.steps(question(), 60), refusal(status), OK)[0] == b"fine"


def test_a_lost_connection_is_asked_again() -> None:
    world = World()
    assert world.play(world.steps(question(), 60), LOST, OK)[0] == b"fine"


def test_waits_grow_up_to_their_limit_and_are_drawn_between_nothing_and_that() -> None:
    world = World(dice=0.5)
    _, waits = world.play(world.steps(question(), 60), LOST, LOST, LOST, LOST, OK)
    assert waits == [0.5, 1.0, 2.0, 2.0]
    world = World(dice=0.0)
    _, waits = world.play(world.steps(question(), 60), LOST, LOST, OK)
    assert waits == [0.0, 0.0]


def test_no_wait_is_shorter_than_retry_after() -> None:
    world = World()
    _, waits = world.play(
        world.steps(question(), 60), refusal(503, "NO_ROOM", retry_after="7"), OK
    )
    assert waits == [7.0]


def test_a_wait_that_would_end_after_the_deadline_is_not_begun() -> None:
    world = World()
    with pytest.raises(NoRoom) as caught:
        world.play(
            world.steps(question(), 5), refusal(503, "NO_ROOM", retry_after="7")
        )
    assert caught.value.retry_after_s == 7.0
    assert world.now == 100.0


def test_the_whole_call_ends_by_its_deadline() -> None:
    world = World(dice=1.0, sends_take_s=2.0)
    with pytest.raises(Overloaded):
        world.play(world.steps(question(), 10, 99), *[refusal(429)] * 99)
    assert world.now <= 110.0


def test_each_send_gets_only_what_is_left_of_the_time() -> None:
    world = World(dice=1.0)
    course = world.steps(question(), 10)
    first = next(course)
    assert isinstance(first, Send)
    assert first.timeout_s == 10
    world.now += 3
    wait = course.send(LOST)
    assert isinstance(wait, Wait)
    world.now += wait.seconds
    second = course.send(None)
    assert isinstance(second, Send)
    assert second.timeout_s == 6


def test_the_last_error_is_raised_when_the_attempts_are_used_up() -> None:
    world = World()
    with pytest.raises(Unavailable, match="no"):
        world.play(world.steps(question(), 60, 3), LOST, LOST, refusal(503))


@pytest.mark.parametrize("outcome", [LOST, refusal(503), refusal(429)])
def test_what_must_not_run_twice_is_sent_once(outcome: Outcome) -> None:
    world = World()
    with pytest.raises(Unavailable):
        world.play(world.steps(question(repeatable=False), 60), outcome)


@pytest.mark.parametrize("status", [400, 404, 409, 422, 500])
def test_what_would_fail_again_is_sent_once(status: int) -> None:
    world = World()
    with pytest.raises(Exception, match="no"):
        world.play(world.steps(question(), 60), refusal(status))


@pytest.mark.parametrize("code", ["LOAD_FAILED", "UNLOADED", "TOO_LARGE"])
def test_unavailability_that_waiting_does_not_mend_is_reported_at_once(code: str) -> None:
    world = World()
    with pytest.raises(Unavailable) as caught:
        world.play(world.steps(question(), 60), refusal(503, code))
    assert caught.value.code == code


def test_an_answer_that_did_not_come_in_time_is_not_asked_for_again() -> None:
    world = World()
    with pytest.raises(DeadlineExceeded):
        world.play(world.steps(question(), 60), DeadlineExceeded("late"))


def test_a_later_exchange_is_not_sent_after_the_deadline() -> None:
    def two() -> Conversation[bytes]:
        yield Exchange("GET", Side.INFERENCE, "/a")
        answer = yield Exchange("GET", Side.INFERENCE, "/b")
        return answer.body

    world = World(sends_take_s=11.0)
    with pytest.raises(DeadlineExceeded, match="/b"):
        world.play(world.steps(two(), 10), OK)


def test_a_conversation_may_go_on_after_an_error() -> None:
    def forgiving() -> Conversation[bytes]:
        try:
            yield Exchange("GET", Side.INFERENCE, "/a")
        except InvalidRequest:
            answer = yield Exchange("GET", Side.INFERENCE, "/b")
        return answer.body

    world = World()
    assert world.play(world.steps(forgiving(), 10), refusal(400), OK)[0] == b"fine"


def test_a_status_that_the_call_accepts_is_an_answer() -> None:
    def ready() -> Conversation[bytes]:
        answer = yield Exchange("GET", Side.INFERENCE, "/ready", accepts=frozenset({503}))
        return b"no" if answer.status == 503 else b"yes"

    world = World()
    course = world.steps(ready(), 10)
    assert world.play(course, refusal(503)) == (b"no", [])


def test_load_failed_keeps_its_cause() -> None:
    world = World()
    answer = Answer(503, b'{"error": "model x: file is torn", "code": "LOAD_FAILED"}')
    with pytest.raises(LoadFailed, match="file is torn"):
        world.play(world.steps(question(), 60), answer)


# --- several addresses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outcome",
    [LOST, REFUSED, LEAVING, refusal(503, "UNREACHABLE")],
    ids=["lost", "refused", "shutting_down", "unreachable"],
)
def test_what_one_address_cannot_serve_goes_to_the_next_at_once(outcome: Outcome) -> None:
    world = World(servers="abc")
    assert world.play(world.steps(question(), 60), outcome, outcome, OK) == (b"fine", [])
    assert world.asked == "abc"


def test_a_full_server_is_waited_for_and_not_passed_by() -> None:
    world = World(servers="ab")
    answers = [refusal(429, retry_after="3"), OK]
    assert world.play(world.steps(question(), 60), *answers) == (b"fine", [3.0])


def test_only_when_all_addresses_failed_is_there_a_wait() -> None:
    world = World(servers="ab")
    course = world.steps(question(), 60)
    assert world.play(course, LOST, REFUSED, LOST, REFUSED, OK) == (b"fine", [0.5, 1.0])
    assert sorted(world.asked[:2]) == sorted(world.asked[2:4]) == ["a", "b"]


def test_the_wait_is_for_the_server_that_is_back_first() -> None:
    world = World(servers="ab", dice=0.0)
    leaving = [refusal(503, "SHUTTING_DOWN", retry_after=seconds) for seconds in ("9", "2")]
    assert world.play(world.steps(question(), 60), *leaving, OK) == (b"fine", [2.0])


def test_an_address_that_failed_is_asked_by_one_request_when_its_time_comes() -> None:
    world = World(servers="ab")
    world.play(world.steps(question(), 60), LOST, OK)
    for _ in range(3):
        world.play(world.steps(question(), 60), OK)
    assert world.asked == "abbbb"
    world.now += 0.5
    world.play(world.steps(question(), 60), OK)
    assert world.asked[5:] == "a"


def test_the_error_names_every_address_with_its_cause() -> None:
    world = World(servers="abc")
    with pytest.raises(ConnectionFailed) as caught:
        world.play(world.steps(question(), 60, 1), LOST, REFUSED, LOST)
    assert caught.value.message == (
        "POST /v2/models/m/infer: none of 3 servers could answer: http://a (gone), "
        "http://b (nobody listens), http://c (gone); check the addresses, and that the servers run"
    )
    assert caught.value.sent


def test_the_error_of_all_is_what_a_server_said_where_one_did() -> None:
    world = World(servers="abc")
    leaving = refusal(503, "SHUTTING_DOWN", retry_after="4")
    with pytest.raises(ShuttingDown, match=r"http://b \(SHUTTING_DOWN: no\)") as caught:
        world.play(world.steps(question(), 60, 1), REFUSED, leaving, LOST)
    assert caught.value.retry_after_s == 4.0


def test_what_must_not_run_twice_is_repeated_as_long_as_it_was_not_sent() -> None:
    world = World(servers="ab")
    course = world.steps(question(repeatable=False), 60)
    assert world.play(course, REFUSED, REFUSED, REFUSED, OK) == (b"fine", [0.5])


def test_what_must_not_run_twice_is_not_sent_anywhere_after_it_may_have_run() -> None:
    world = World(servers="abc")
    with pytest.raises(ConnectionFailed, match="gone"):
        world.play(world.steps(question(repeatable=False), 60), REFUSED, LOST)
    assert world.asked == "ab"


def test_an_answer_that_is_late_is_not_asked_for_elsewhere() -> None:
    world = World(servers="ab")
    with pytest.raises(DeadlineExceeded):
        world.play(world.steps(question(), 60), DeadlineExceeded("late"))
    assert world.asked == "a"


def test_the_deadline_ends_the_search_with_what_was_found() -> None:
    world = World(servers="abc", sends_take_s=6.0)
    with pytest.raises(ConnectionFailed, match="none of 2 servers"):
        world.play(world.steps(question(), 10), LOST, LOST)


def test_time_to_connect_is_left_for_the_other_addresses() -> None:
    def connects_s(servers: str, timeout_s: float) -> list[float]:
        world = World(servers=servers)
        course = world.steps(question(), timeout_s)
        sends = [next(course)]
        for _ in servers[1:]:
            world.now += sends[-1].connect_s  # type: ignore[union-attr]
            sends.append(course.send(REFUSED))
        course.close()
        return [send.connect_s for send in sends if isinstance(send, Send)]

    assert connects_s("a", 60) == [5.0]
    assert connects_s("a", 3) == [3.0]
    assert connects_s("abc", 60) == [2.0, 2.0, 5.0]
    assert connects_s("ab", 3) == [1.5, 1.5]


def test_a_question_whose_answer_may_be_no_is_put_to_the_others_too() -> None:
    def ready() -> Conversation[bytes]:
        answer = yield Exchange("GET", Side.INFERENCE, "/ready", accepts=frozenset({503}))
        return b"no" if answer.status == 503 else b"yes"

    world = World(servers="abc")
    assert world.play(world.steps(ready(), 10), LEAVING, LOST, OK) == (b"yes", [])
    assert world.play(world.steps(ready(), 10), LEAVING, LOST, LEAVING) == (b"no", [])


def test_a_call_that_is_given_up_is_no_longer_in_flight() -> None:
    world = World(servers="ab")
    for _ in range(2):
        course = world.steps(question(), 60)
        next(course)
        course.close()
    world.play(world.steps(question(), 60), OK)
    world.play(world.steps(question(), 60), OK)
    assert world.asked == "ab"
