"""Repeating calls: sans-IO, with a clock and dice that the test holds."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import pytest

from shoal.client.endpoints import Side
from shoal.client.errors import Answer, ConnectionFailed
from shoal.client.retry import Conversation, Exchange, Outcome, Retry, Send, Step, Wait, steps
from shoal.domain.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LoadFailed,
    NoRoom,
    Overloaded,
    Unavailable,
)


@dataclass
class World:
    """Time passes by waits and by `sends_take_s`; the dice always show `dice`."""

    now: float = 100.0
    dice: float = 0.5
    sends_take_s: float = 0.0

    def retry(self, attempts: int = 6) -> Retry:
        return Retry(attempts, 1.0, 4.0, clock=lambda: self.now, random=lambda: self.dice)

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


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_passes_is_asked_again(status: int) -> None:
    world = World()
    assert world.play(steps(question(), world.retry(), 60), refusal(status), OK)[0] == b"fine"


def test_a_lost_connection_is_asked_again() -> None:
    world = World()
    assert world.play(steps(question(), world.retry(), 60), LOST, OK)[0] == b"fine"


def test_waits_grow_up_to_their_limit_and_are_drawn_between_nothing_and_that() -> None:
    world = World(dice=0.5)
    _, waits = world.play(steps(question(), world.retry(), 60), LOST, LOST, LOST, LOST, OK)
    assert waits == [0.5, 1.0, 2.0, 2.0]
    world = World(dice=0.0)
    _, waits = world.play(steps(question(), world.retry(), 60), LOST, LOST, OK)
    assert waits == [0.0, 0.0]


def test_no_wait_is_shorter_than_retry_after() -> None:
    world = World()
    _, waits = world.play(
        steps(question(), world.retry(), 60), refusal(503, "NO_ROOM", retry_after="7"), OK
    )
    assert waits == [7.0]


def test_a_wait_that_would_end_after_the_deadline_is_not_begun() -> None:
    world = World()
    with pytest.raises(NoRoom) as caught:
        world.play(
            steps(question(), world.retry(), 5), refusal(503, "NO_ROOM", retry_after="7")
        )
    assert caught.value.retry_after_s == 7.0
    assert world.now == 100.0


def test_the_whole_call_ends_by_its_deadline() -> None:
    world = World(dice=1.0, sends_take_s=2.0)
    with pytest.raises(Overloaded):
        world.play(steps(question(), world.retry(99), 10), *[refusal(429)] * 99)
    assert world.now <= 110.0


def test_each_send_gets_only_what_is_left_of_the_time() -> None:
    world = World(dice=1.0)
    course = steps(question(), world.retry(), 10)
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
        world.play(steps(question(), world.retry(3), 60), LOST, LOST, refusal(503))


@pytest.mark.parametrize("outcome", [LOST, refusal(503), refusal(429)])
def test_what_must_not_run_twice_is_sent_once(outcome: Outcome) -> None:
    world = World()
    with pytest.raises(Unavailable):
        world.play(steps(question(repeatable=False), world.retry(), 60), outcome)


@pytest.mark.parametrize("status", [400, 404, 409, 422, 500])
def test_what_would_fail_again_is_sent_once(status: int) -> None:
    world = World()
    with pytest.raises(Exception, match="no"):
        world.play(steps(question(), world.retry(), 60), refusal(status))


@pytest.mark.parametrize("code", ["LOAD_FAILED", "UNLOADED", "TOO_LARGE"])
def test_unavailability_that_waiting_does_not_mend_is_reported_at_once(code: str) -> None:
    world = World()
    with pytest.raises(Unavailable) as caught:
        world.play(steps(question(), world.retry(), 60), refusal(503, code))
    assert caught.value.code == code


def test_an_answer_that_did_not_come_in_time_is_not_asked_for_again() -> None:
    world = World()
    with pytest.raises(DeadlineExceeded):
        world.play(steps(question(), world.retry(), 60), DeadlineExceeded("late"))


def test_a_later_exchange_is_not_sent_after_the_deadline() -> None:
    def two() -> Conversation[bytes]:
        yield Exchange("GET", Side.INFERENCE, "/a")
        answer = yield Exchange("GET", Side.INFERENCE, "/b")
        return answer.body

    world = World(sends_take_s=11.0)
    with pytest.raises(DeadlineExceeded, match="/b"):
        world.play(steps(two(), world.retry(), 10), OK)


def test_a_conversation_may_go_on_after_an_error() -> None:
    def forgiving() -> Conversation[bytes]:
        try:
            yield Exchange("GET", Side.INFERENCE, "/a")
        except InvalidRequest:
            answer = yield Exchange("GET", Side.INFERENCE, "/b")
        return answer.body

    world = World()
    assert world.play(steps(forgiving(), world.retry(), 10), refusal(400), OK)[0] == b"fine"


def test_a_status_that_the_call_accepts_is_an_answer() -> None:
    def ready() -> Conversation[bytes]:
        answer = yield Exchange("GET", Side.INFERENCE, "/ready", accepts=frozenset({503}))
        return b"no" if answer.status == 503 else b"yes"

    world = World()
    course = steps(ready(), world.retry(), 10)
    assert world.play(course, refusal(503)) == (b"no", [])


def test_load_failed_keeps_its_cause() -> None:
    world = World()
    answer = Answer(503, b'{"error": "model x: file is torn", "code": "LOAD_FAILED"}')
    with pytest.raises(LoadFailed, match="file is torn"):
        world.play(steps(question(), world.retry(), 60), answer)
