"""A model's story in sentences: of one instance, and of several."""

from __future__ import annotations

from msgspec.structs import replace

from shoal.domain.views import CopyView, FailureView, ModelView, State, VersionView
from shoal.node.questions import Facts
from shoal.node.sentences import summary


def model(state: State, *where: CopyView, error: str | None = None, requests: int = 0) -> ModelView:
    version = VersionView(1, "m@1-0", state, "onnx", "/m", 5, requests=requests, error=error)
    return ModelView("m", state, "/m", "api", 1.0, [version], 1, "m@1-0", home="b",
                     where=list(where))


def copy(instance: str, state: State = State.READY, reason: str | None = None) -> CopyView:
    return CopyView(instance, "m@1-0", 1, state, reason=reason)


def told(view: ModelView, *, several: bool = False, **said: object) -> list[str]:
    facts = Facts(view, **said)  # type: ignore[arg-type]
    return summary(view, [facts], 100.0, several=several)


def test_an_instance_alone_says_why_it_is_loaded() -> None:
    assert told(model(State.READY, copy("b", reason="hot"), requests=2)) == [
        "m is loaded (reason: hot) and answers at once; it answered 2 requests since."
    ]


def test_of_several_it_is_said_where_and_who_decides() -> None:
    view = model(State.READY, copy("a", reason="requested"), copy("b", State.LOADING),
                 copy("c", reason="steady"))
    assert told(view, several=True) == [
        "m is loaded on a (reason: requested) and c (reason: steady) and answers at once.",
        "Instance b decides about it.",
    ]


def test_it_is_said_on_which_accelerators_its_copies_lie() -> None:
    there = replace(copy("a"), device="cuda:1", accelerator_bytes=1234)
    assert told(model(State.READY, there))[1] == (
        "It lies on the accelerator cuda:1 and takes 1,234 bytes there.")
    assert told(model(State.READY, there, copy("c")), several=True)[1] == (
        "Its copy on a lies on the accelerator cuda:1 and takes 1,234 bytes there.")


def test_a_load_is_said_to_be_under_way_where_it_is() -> None:
    view = model(State.LOADING, copy("c", State.LOADING))
    assert told(view, several=True)[0] == "m is being loaded on c; requests wait for it."
    queued = model(State.QUEUED, copy("b", State.QUEUED))
    assert told(queued, queued=3)[0] == "m waits to be loaded, with 3 other loads queued."


def test_a_cold_model_says_why_it_left() -> None:
    assert told(model(State.COLD))[0] == (
        "m is not in memory (nobody has asked for it yet); the next request loads it.")
    assert told(model(State.COLD), left="room")[0] == (
        "m is not in memory (it left memory: room); the next request loads it.")


def test_a_failure_says_what_when_and_how_often() -> None:
    failure = FailureView("m@1-0", "LOAD_FAILED", "it is torn (on a, b alike)", 2, 1.0, 2.0, 130.0)
    assert told(model(State.FAILED), failures=[failure]) == [
        "m is not loaded: the last try failed.",
        "Loading m@1-0 failed 2 times: it is torn (on a, b alike). A request in 30 s or later, or "
        "'shoal load', tries again.",
    ]
    assert told(model(State.FAILED, error="it needs 9 bytes"))[0] == (
        "m is not loaded: it needs 9 bytes.")


def test_what_failed_on_one_instance_says_that_others_try() -> None:
    lines = told(model(State.LOADING), tried={"m@1-0": {"a": "no space"}})
    assert lines[1] == "Loading m@1-0 failed just now, on a: no space. Others try it next."


def test_a_staged_revision_says_where_it_is() -> None:
    view = replace(model(State.READY, copy("a")), pending="m@1-1")
    staged = CopyView("c", "m@1-1", 1, State.LOADING)
    view = replace(view, where=[*view.where, staged])
    assert told(view, several=True)[2] == (
        "Revision m@1-1 takes over as soon as it is loaded (it is loading on c); until then m@1-0 "
        "answers.")


def test_what_stands_in_the_way_of_serving_is_said() -> None:
    assert "brings it back" in told(model(State.UNLOADED))[0]
    assert told(replace(model(State.INVALID), problem="there is nothing")) == [
        "m cannot be served: nothing servable was found at /m.",
        "Its declaration has a problem: there is nothing.",
    ]
    assert told(replace(model(State.COLD), pin=True), notes=["It is fast."])[1:] == [
        "It is fast.", "It is pinned: never evicted for room.",
    ]
