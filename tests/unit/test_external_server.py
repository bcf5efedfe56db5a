"""A model server over its lives: started once, again when it died; models loaded again, displaced,
taken back."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from tests.external_fakes import ANSWER, SERVING, World, ready

from shoal.domain.errors import (
    DeadlineExceeded,
    InvalidArtifact,
    InvalidInput,
    LoadFailed,
    ModelFailed,
    NoRoom,
    Overloaded,
    ShoalError,
    ShuttingDown,
    Unavailable,
)
from shoal.external import messages
from shoal.external.interface import CallFailed
from shoal.external.session import Session


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def dead(world: World, how: str = "exited with status 3") -> None:
    assert world.process is not None
    world.process.die(how)


# --- lives ----------------------------------------------------------------------------------------


def test_however_many_models_come_one_server_is_started(world: World) -> None:
    models = [world.model(f"m{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        slots = list(threads.map(world.server.hold, models))
    assert world.lives == 1
    assert {slot.id for slot in slots} == {model.id for model in models}


def test_a_request_after_its_death_starts_it_again_and_loads_the_model_again(world: World) -> None:
    slot = world.server.hold(world.model())
    dead(world)
    assert world.server.infer(slot, b"") == ANSWER
    assert (world.lives, world.line.loads("m")) == (2, 2)


def test_other_models_are_loaded_again_when_they_are_asked(world: World) -> None:
    slot, other = world.server.hold(world.model()), world.server.hold(world.model("other"))
    dead(world)
    world.server.infer(slot, b"")
    assert world.line.loads("other") == 1
    world.server.infer(other, b"")
    assert world.line.loads("other") == 2


def test_one_that_dies_again_and_again_is_started_after_growing_waits(world: World) -> None:
    slot = world.server.hold(world.model())
    dead(world)
    world.server.infer(slot, b"")  # the first time at once
    waits = []
    for _ in range(3):
        dead(world, "exited with status 3; the last it said was: out of cheese")
        with pytest.raises(Unavailable, match=r"failed .* times in .* out of cheese") as raised:
            world.server.infer(slot, b"")
        waits.append(raised.value.retry_after_s)
        world.now += waits[-1]
        assert world.server.infer(slot, b"") == ANSWER
    assert waits == [0.5, 1.0, 2.0]


def test_one_that_does_not_start_says_why(world: World) -> None:
    world.fails = "exited with status 127; the last it said was: tritonserver: No such file"
    with pytest.raises(LoadFailed, match=r"runtime 'lines': its server exited .* No such file"):
        world.server.hold(world.model())
    assert not world.server._slots


def test_one_that_does_not_start_is_not_started_for_every_model(world: World) -> None:
    world.fails = "exited with status 1"
    for name in "abcdef":
        with pytest.raises(Unavailable):
            world.server.hold(world.model(name))
    assert world.lives == 2  # the second at once, as after any first death
    world.now += 60.0
    world.fails = ""
    assert world.server.hold(world.model()).held is not None


def test_it_is_started_again_before_anybody_asks(world: World) -> None:
    world.server.hold(world.model())
    dead(world)
    world.server.watch()
    until_true(lambda: world.lives == 2)


def until_true(true: object) -> None:
    deadline = time.monotonic() + 10
    assert callable(true)
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_it_is_ended_when_no_model_is_in_it_for_long_enough(world: World) -> None:
    slot = world.server.hold(world.model())
    ends = []
    for passed_s in (1000.0, SERVING.idle_s - 1, 1.0):
        world.now += passed_s
        world.server.watch()
        ends.append(world.server.is_idle)
        if slot.holders:
            world.server.let_go(slot)
    assert ends == [False, False, True]
    assert world.process is not None
    assert world.process.how == "was ended"


def test_one_that_was_idle_starts_again_with_the_next_model(world: World) -> None:
    world.server.let_go(world.server.hold(world.model()))
    world.now += SERVING.idle_s
    world.server.watch()
    world.server.hold(world.model())
    assert world.lives == 2


def test_one_that_answers_nothing_is_ended_and_started_again(world: World) -> None:
    slot = world.server.hold(world.model())
    session, hung = world.server.session(), world.process
    assert hung is not None
    world.line.says["ServerLive"] = CallFailed("DEADLINE_EXCEEDED", "")
    began = time.monotonic()
    session.watch(began + 1)
    assert not session.has_ended
    session.watch(began + world.limits.hang_s + 1)
    assert hung.how == "did not answer for 10 s and was given up"
    world.line.says["ServerLive"] = b""
    assert world.server.infer(slot, b"") == ANSWER
    assert world.lives == 2


def test_one_without_a_word_for_being_alive_is_alive(world: World) -> None:
    world.server.hold(world.model())
    world.line.says["ServerLive"] = CallFailed("UNIMPLEMENTED", "")
    session = world.server.session()
    session.watch(time.monotonic() + 1000)
    assert not session.has_ended


def test_one_that_loads_need_not_answer(world: World) -> None:
    loading, go_on = threading.Event(), threading.Event()

    def load(_: bytes) -> bytes:
        loading.set()
        assert go_on.wait(10)
        return messages.write("LoadModelResponse", sizeInBytes=1)

    session = world.server.session()
    world.line.says["loadModel"] = load
    world.line.says["ServerLive"] = CallFailed("DEADLINE_EXCEEDED", "")
    with ThreadPoolExecutor(1) as threads:
        slot = threads.submit(world.server.hold, world.model())
        assert loading.wait(10)
        session.watch(time.monotonic() + 1000)
        go_on.set()
        assert slot.result().held is not None
    assert not session.has_ended


def test_one_that_shoal_did_not_start_is_lost_with_its_connection(tmp_path: Path) -> None:
    world = World(tmp_path, starts=False)
    slot = world.server.hold(world.model())
    world.line.says["ServerLive"] = CallFailed("UNAVAILABLE", "connection refused")
    world.server.session().watch(time.monotonic())
    assert world.server.infer(slot, b"") == ANSWER
    assert (world.lives, world.line.loads("m")) == (2, 2)


def test_nothing_is_loaded_once_it_is_closed(world: World) -> None:
    world.server.hold(world.model())
    world.server.close()
    assert world.process is not None
    assert world.process.has_ended
    with pytest.raises(ShuttingDown):
        world.server.hold(world.model("other"))


def test_one_that_is_being_started_when_it_is_closed_is_ended(world: World) -> None:
    opening, go_on = threading.Event(), threading.Event()
    opened = world.open

    def slowly() -> Session:
        opening.set()
        assert go_on.wait(10)
        return opened()

    world.server._open = slowly
    with ThreadPoolExecutor(2) as threads:
        session = threads.submit(world.server.session)
        assert opening.wait(10)
        closing = threads.submit(world.server.close)
        go_on.set()
        closing.result()
        assert session.result().has_ended


# --- loads ----------------------------------------------------------------------------------------


def test_a_load_that_takes_too_long_is_taken_back(world: World) -> None:
    world.line.says["loadModel"] = CallFailed("DEADLINE_EXCEEDED", "")
    with pytest.raises(LoadFailed, match=r"within 5 s, and was told to leave it; raise .*timeout"):
        world.server.hold(world.model())
    assert world.line.asked[-1] == "unload m"


@pytest.mark.parametrize("code", ["FAILED_PRECONDITION", "INVALID_ARGUMENT"])
def test_what_was_not_tried_is_not_taken_back(world: World, code: str) -> None:
    world.line.says["loadModel"] = CallFailed(code, "not on a Sunday")
    with pytest.raises(InvalidArtifact, match=r"'lines' refuses m\.json: not on a Sunday"):
        world.server.hold(world.model())
    assert "unload m" not in world.line.asked


def test_a_load_that_failed_is_taken_back_and_says_why(world: World) -> None:
    world.line.says["loadModel"] = CallFailed("INTERNAL", "too heavy")
    with pytest.raises(InvalidArtifact, match=r"'lines' cannot load m\.json: too heavy"):
        world.server.hold(world.model())
    assert world.line.asked[-1] == "unload m"


def test_a_server_that_has_no_room_says_so(world: World) -> None:
    world.line.says["loadModel"] = CallFailed("RESOURCE_EXHAUSTED", "12 of 10 bytes")
    with pytest.raises(NoRoom, match="12 of 10 bytes"):
        world.server.hold(world.model())


def test_a_server_that_dies_under_a_load_is_not_the_models_fault_for_sure(world: World) -> None:
    def die(_: bytes) -> bytes:
        dead(world, "was killed by SIGSEGV")
        raise CallFailed("UNAVAILABLE", "Socket closed")

    world.line.says["loadModel"] = die
    with pytest.raises(Unavailable, match=r"was killed by SIGSEGV while it loaded m\.json"):
        world.server.hold(world.model())


def test_a_load_under_way_is_cancelled_and_taken_back_at_the_end(tmp_path: Path) -> None:
    world = World(tmp_path, starts=False)
    loading = threading.Event()

    def load(_: bytes) -> bytes:
        loading.set()
        assert world.line.revoked.wait(10)
        raise CallFailed("CANCELLED", "")

    world.line.says["loadModel"] = load
    with ThreadPoolExecutor(1) as threads:
        slot = threads.submit(world.server.hold, world.model())
        assert loading.wait(10)
        world.server.close()
        with pytest.raises(LoadFailed, match="was cancelled, as Shoal ends"):
            slot.result()
    assert world.line.asked[-1] == "unload m"


def test_a_model_that_two_hold_is_loaded_and_unloaded_once(world: World) -> None:
    first, second = world.server.hold(world.model()), world.server.hold(world.model())
    world.server.let_go(first)
    assert world.line.asked == ["load m", "ModelMetadata"]
    world.server.let_go(second)
    assert world.line.asked == ["load m", "ModelMetadata", "unload m"]


def test_its_size_is_what_the_server_says(world: World) -> None:
    held = world.server.hold(world.model()).held
    assert held is not None
    assert held.size_bytes == 100


def test_its_size_is_asked_where_the_load_does_not_tell(world: World) -> None:
    world.line.says["loadModel"] = messages.write("LoadModelResponse")
    world.line.says["modelSize"] = messages.write("ModelSizeResponse", sizeInBytes=77)
    held = world.server.hold(world.model()).held
    assert held is not None
    assert held.size_bytes == 77


def test_its_size_is_what_the_process_grew_by_after_the_first_of_its_format(world: World) -> None:
    def load(_: bytes) -> bytes:
        assert world.process is not None
        world.process.bytes += 5000
        return messages.write("LoadModelResponse")

    world.line.says["loadModel"] = load
    first, second = (world.server.hold(world.model(name)) for name in "ab")
    assert first.held is not None
    assert second.held is not None
    assert first.held.size_bytes == round(first.model.files_bytes * 1.25)
    assert second.held.size_bytes == 5000


# --- requests -------------------------------------------------------------------------------------


def lose_once(world: World, failed: CallFailed) -> None:
    """The first request finds the model gone, others until it is loaded again."""
    loads = world.line.loads("m")

    def infer(_: bytes) -> bytes:
        if world.line.loads("m") == loads:
            raise failed
        return ANSWER

    world.line.says["ModelInfer"] = infer


def test_a_model_that_the_server_lost_is_loaded_again_and_answers(world: World) -> None:
    slot = world.server.hold(world.model())
    lose_once(world, CallFailed("NOT_FOUND", "no such model"))
    assert world.server.infer(slot, b"") == ANSWER
    assert world.line.loads("m") == 2


def test_however_many_find_it_lost_it_is_loaded_again_once(world: World) -> None:
    slot = world.server.hold(world.model())
    together = threading.Barrier(8)
    found_lost = iter(range(8))

    def infer(_: bytes) -> bytes:
        if next(found_lost, None) is not None:
            together.wait(10)
            raise CallFailed("NOT_FOUND", "")
        return ANSWER

    world.line.says["ModelInfer"] = infer
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: world.server.infer(slot, b""), range(8)))
    assert answers == [ANSWER] * 8
    assert world.line.loads("m") == 2


def test_one_that_is_lost_again_at_once_is_not_loaded_for_ever(world: World) -> None:
    slot = world.server.hold(world.model())
    world.line.says["ModelInfer"] = CallFailed("NOT_FOUND", "no such model")
    with pytest.raises(ModelFailed, match="which it has just loaded: no such model"):
        world.server.infer(slot, b"")
    assert world.line.loads("m") == 2


def test_one_that_is_unavailable_and_not_ready_is_loaded_again(world: World) -> None:
    slot = world.server.hold(world.model())
    world.line.says["ModelReady"] = ready(is_ready=False)
    lose_once(world, CallFailed("UNAVAILABLE", "has no available versions"))
    assert world.server.infer(slot, b"") == ANSWER


def test_one_that_is_unavailable_and_ready_is_tried_later(world: World) -> None:
    slot = world.server.hold(world.model())
    world.line.says["ModelReady"] = ready(is_ready=True)
    world.line.says["ModelInfer"] = CallFailed("UNAVAILABLE", "busy")
    with pytest.raises(Unavailable, match="busy"):
        world.server.infer(slot, b"")
    assert world.line.loads("m") == 1


def test_files_that_changed_are_not_loaded_again(world: World) -> None:
    slot = world.server.hold(world.model())
    slot.model.path.write_text('{"weights": [2, 3, 4]}')
    lose_once(world, CallFailed("NOT_FOUND", ""))
    with pytest.raises(LoadFailed, match=r"not any more what was loaded.*register it anew"):
        world.server.infer(slot, b"")


def test_a_request_that_the_server_died_under_fails_with_its_last_words(world: World) -> None:
    slot = world.server.hold(world.model())

    def die(_: bytes) -> bytes:
        dead(world, "exited with status 7; the last it said was: out of luck")
        raise CallFailed("UNAVAILABLE", "Socket closed")

    world.line.says["ModelInfer"] = die
    with pytest.raises(Unavailable, match=r"its server exited with status 7.*out of luck"):
        world.server.infer(slot, b"")


@pytest.mark.parametrize(("code", "details", "error"), [
    ("INVALID_ARGUMENT", "expects FP32", InvalidInput),
    ("DEADLINE_EXCEEDED", "", DeadlineExceeded),
    ("RESOURCE_EXHAUSTED", "queue is full", Overloaded),
    ("RESOURCE_EXHAUSTED", "Received message larger than max (2 vs. 1)", InvalidInput),
    ("CANCELLED", "", Unavailable),
    ("UNIMPLEMENTED", "", ModelFailed),
    ("INTERNAL", "division by zero", ModelFailed),
])
def test_errors_of_the_server_become_ours(
    world: World, code: str, details: str, error: type[ShoalError]
) -> None:
    slot = world.server.hold(world.model())
    world.line.says["ModelInfer"] = CallFailed(code, details)
    with pytest.raises(error) as raised:
        world.server.infer(slot, b"")
    assert type(raised.value) is error
    assert details in raised.value.message


# --- room -----------------------------------------------------------------------------------------


def test_who_was_used_longest_ago_leaves_for_a_new_one(tmp_path: Path) -> None:
    world = World(tmp_path, capacity_bytes=250)
    first, second = (world.server.hold(world.model(name)) for name in "ab")
    world.server.infer(first, b"")
    world.line.says["predictModelSize"] = messages.write(
        "PredictModelSizeResponse", sizeInBytes=100)
    world.server.hold(world.model("c"))
    assert "unload b" in world.line.asked
    assert "unload a" not in world.line.asked
    assert world.server.infer(second, b"") == ANSWER  # which is loaded again for that
    assert world.line.loads("b") == 2


def test_what_is_in_use_does_not_leave(tmp_path: Path) -> None:
    world = World(tmp_path, capacity_bytes=150)
    slot = world.server.hold(world.model("a"))
    world.line.says["predictModelSize"] = messages.write(
        "PredictModelSizeResponse", sizeInBytes=100)
    with slot.in_use(), pytest.raises(
        NoRoom, match=r"has 150 bytes, of which models in use take 100, and b\.json needs about 100"
    ):
        world.server.hold(world.model("b"))


def test_a_declared_capacity_counts_before_the_reported_one(tmp_path: Path) -> None:
    serving = msgspec.structs.replace(SERVING, capacity_bytes=90)
    world = World(tmp_path, serving, capacity_bytes=250)
    world.line.says["predictModelSize"] = messages.write(
        "PredictModelSizeResponse", sizeInBytes=100)
    with pytest.raises(NoRoom, match="has 90 bytes"):
        world.server.hold(world.model())
