"""One view of what several instances told: models, events, busiest models, problems."""

from __future__ import annotations

from shoal.domain.mesh import Figures, Member, MemberState
from shoal.domain.views import (
    BusyModel,
    CopyView,
    EventPage,
    EventView,
    InstanceView,
    ModelView,
    State,
    Totals,
    VersionView,
)
from shoal.node import together
from shoal.node.questions import Facts, Report

NOW = 1000.0
NOW_US = 1_000_000_000


def copy(instance: str, state: State = State.READY, *, revision: str = "m@1-0",
         reason: str | None = None, size_bytes: int | None = 10) -> CopyView:
    return CopyView(instance, revision, 1, state, size_bytes, reason=reason)


def told_by(home: str, *where: CopyView, state: State = State.COLD) -> ModelView:
    return model(*where, state=state, home=home)


def model(*where: CopyView, state: State = State.COLD, home: str = "b", requests: int = 0,
          last_used: float | None = None) -> ModelView:
    version = VersionView(
        1, "m@1-0", state, "onnx", "/m", 5, requests=requests, last_used=last_used)
    return ModelView("m", state, "/m", "api", 1.0, [version], 1, "m@1-0", home=home,
                     where=list(where))


def event(seq: int, kind: str = "loaded", message: str = "") -> EventView:
    return EventView(seq, seq / 1e6, kind, message or f"number {seq}", "m")


def instance(name: str) -> InstanceView:
    return together.silent_instance(
        Member(id=name, incarnation="1", state=MemberState.READY, budget_bytes=100, zone="z"),
        Figures(load=0.5, copies=3), 7.0, "the link was lost")


def report(name: str, **said: object) -> Report:
    return Report(instance(name), **said)  # type: ignore[arg-type]


# --- models ---------------------------------------------------------------------------------------


def test_a_model_that_one_instance_knows_is_as_it_says() -> None:
    mine = model(copy("a"), state=State.READY, home="a")
    assert together.one_model({"a": mine}, "a") is mine


def test_a_model_is_ready_where_any_instance_has_it() -> None:
    told = {"a": model(), "b": model(copy("c"), state=State.READY)}
    seen = together.one_model(told, "a")
    assert (seen.state, seen.versions[0].state) == (State.READY, State.READY)
    assert [each.instance for each in seen.where] == ["c"]


def test_an_instance_is_believed_about_its_own_copy_and_its_home_about_the_others() -> None:
    told = {
        "a": model(copy("a", State.QUEUED, reason="hot", size_bytes=None)),
        "b": model(copy("a", State.LOADING), copy("c", State.LOADING)),
    }
    seen = together.one_model(told, "a")
    assert [(each.instance, each.state, each.reason) for each in seen.where] == [
        ("a", State.QUEUED, "hot"), ("c", State.LOADING, None),
    ]
    assert seen.state is State.LOADING


def test_what_was_taken_out_of_service_stays_so_while_a_copy_leaves() -> None:
    told = {"a": model(copy("a"), state=State.READY), "b": model(state=State.UNLOADED)}
    assert together.one_model(told, "a").state is State.UNLOADED


def test_requests_are_added_up_and_the_last_use_is_the_latest() -> None:
    told = {
        "a": model(copy("a"), requests=3, last_used=5.0),
        "b": model(copy("b", size_bytes=12), requests=4, last_used=4.0),
        "c": model(),
    }
    [version] = together.one_model(told, "c").versions
    assert (version.requests, version.last_used, version.size_bytes) == (7, 5.0, 12)


def test_without_the_homes_word_the_own_one_counts() -> None:
    told = {"a": model(copy("a"), state=State.READY), "c": model(copy("c"))}
    seen = together.one_model(told, "a")
    assert [each.instance for each in seen.where] == ["a", "c"]
    assert seen.home == "b"


def test_who_says_that_it_is_the_home_is_believed_before_news_of_it_came() -> None:
    told = {"a": told_by("c"), "b": told_by("b", state=State.FAILED), "c": told_by("b")}
    assert together.home_of(told, "a") == "b"
    assert together.one_model(told, "a").state is State.FAILED
    assert together.home_of({"a": told_by("c"), "b": told_by("c")}, "a") == "a"


def test_a_story_begins_with_the_homes_word() -> None:
    told = {"a": Facts(model(), queued=1), "b": Facts(model(copy("a")), queued=2)}
    seen, facts = together.one_story(told, "a")
    assert [each.queued for each in facts] == [2, 1]
    assert seen.where == [copy("a")]


# --- events ---------------------------------------------------------------------------------------


def test_events_of_all_come_in_order_of_time_page_by_page() -> None:
    told = {
        "a": EventPage([event(1), event(4), event(6)], 6),
        "b": EventPage([event(2), event(3), event(5)], 5),
    }
    first = together.one_page(told, 0, 3, NOW)
    assert [(each.seq, each.instance) for each in first.events] == [(1, "a"), (2, "b"), (3, "b")]
    assert first.next == 3


def test_events_of_the_same_time_are_on_one_page() -> None:
    told = {"a": EventPage([event(1), event(2)], 2), "b": EventPage([event(2), event(3)], 3)}
    page = together.one_page(told, 0, 2, NOW)
    assert [(each.seq, each.instance) for each in page.events] == [(1, "a"), (2, "a"), (2, "b")]


def test_what_has_just_happened_is_told_the_next_time() -> None:
    fresh = NOW_US - together.SETTLED_US + 1
    told = {"a": EventPage([event(7), event(fresh)], fresh), "b": EventPage([], 0)}
    page = together.one_page(told, 0, 10, NOW)
    assert [each.seq for each in page.events] == [7]
    assert page.next == fresh - 1
    later = together.one_page({"a": EventPage([event(fresh)], fresh)}, page.next, 10, NOW + 1)
    assert [each.seq for each in later.events] == [fresh]


def test_a_declaration_that_all_heard_of_is_told_once() -> None:
    again = together.ALIKE_US + 10
    told = {
        "a": [event(1, "declared", "m is there"), event(again, "declared", "m is there")],
        "b": [event(2, "declared", "m is there"), event(3, "loaded", "m is there")],
    }
    seen = together.last_events(told, 10)
    assert [(each.seq, each.instance) for each in seen] == [(1, "a"), (3, "b"), (again, "a")]


# --- the mesh -------------------------------------------------------------------------------------


def test_an_instance_that_is_silent_is_shown_as_it_was_last_heard_of() -> None:
    seen = instance("a")
    assert (seen.state, seen.zone, seen.load, seen.copies) == ("ready", "z", 0.5, 3)
    assert (seen.unreachable_since, seen.problem) == (7.0, "the link was lost")


def test_counts_are_added_up() -> None:
    told = [report("a", totals=Totals(requests=2, loads=1), in_play={"ready": 2}),
            report("b", totals=Totals(requests=3), in_play={"ready": 1, "failed": 1})]
    assert together.totals(told) == Totals(requests=5, loads=1)
    assert together.in_play(told) == {"ready": 3, "failed": 1}


def test_the_busiest_models_are_those_of_all_instances_together() -> None:
    told = [
        report("a", busiest=[BusyModel("x", State.READY, 3.0, 0.1, 10, ["a"]),
                             BusyModel("y", State.READY, 2.5, None, None)]),
        report("b", busiest=[BusyModel("y", State.COLD, 1.5, 0.25, 5, ["b", "a"])]),
    ]
    assert together.busiest(told) == [
        BusyModel("y", State.READY, 4.0, 0.25, 5, ["a", "b"]),
        BusyModel("x", State.READY, 3.0, 0.1, 10, ["a"]),
    ]


def test_the_mean_latency_is_over_the_requests_of_all() -> None:
    told = [report("a", busiest=[BusyModel("x", State.READY, 3.0, 0.1, None)]),
            report("b", busiest=[BusyModel("x", State.READY, 1.0, 0.5, None)])]
    [busy] = together.busiest(told)
    assert busy.mean_latency_s == 0.2


def test_a_problem_says_who_has_it_unless_all_do() -> None:
    told = {"a": ["no runtime", "disk"], "b": ["no runtime"], "c": ["no runtime", "disk"]}
    assert together.problems(told, ["instance 'd' is silent"]) == [
        "instance 'd' is silent", "no runtime", "a, c: disk",
    ]
