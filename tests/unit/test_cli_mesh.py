"""The command line where there are several instances."""

from __future__ import annotations

import json
import re
import time

import msgspec
import pytest
from msgspec.structs import replace
from tests.canned_server import CannedServer, json_of
from tests.canned_views import API, EVENTS, STATUS, Shoal, view

from shoal.domain.views import (
    BusyModel,
    CopyView,
    Drained,
    ModelPage,
    ModelView,
    PoolView,
    State,
    Status,
    Story,
)

MESH: Status = replace(
    STATUS,
    instances=[
        replace(STATUS.instances[0], zone="north", load=0.25, homes=3, loading=1),
        replace(STATUS.instances[0], id="box-2", state="draining", thrashing=True,
                problem="the registry does not hear of it"),
        replace(STATUS.instances[0], id="box-3", unreachable_since=time.time() - 90,
                problem="the link was lost"),
    ],
    busiest=[BusyModel("churn", State.READY, 12.5, 0.0005, 2**20, ["box-1", "box-2"])],
)


def placed() -> ModelView:
    return replace(view("churn"), home="box-2", where=[
        CopyView("box-1", "churn@3-0", 3, State.READY, 2**20, 1.0, requests=7, reason="hot"),
        CopyView("box-2", "churn@3-0", 3, State.LOADING),
        CopyView("box-3", "churn@2-0", 2, State.READY, leaving=True),
    ])


def test_status_shows_the_instances_and_their_sums(server: CannedServer, shoal: Shoal) -> None:
    server.answers(f"GET {API}/status", json_of(MESH))
    text = shoal("status").stdout
    assert "ready, 3 instances" in text
    assert "4.5 GiB of 12.0 GiB in 3 copies on all instances" in text
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("box-")}
    for part in ("ready", "north", "25%", "0.50", "1.5 GiB of 4.0 GiB", "█", "  3"):
        assert part in lines["box-1"]
    assert lines["box-2"].endswith("the registry does not hear of it; thrashing")
    assert "draining" in lines["box-2"]
    assert re.search(r"not reached since \d+ min ago; the link was lost$", lines["box-3"])
    assert "unreachable" in lines["box-3"]


def test_status_has_a_line_for_each_accelerator(server: CannedServer, shoal: Shoal) -> None:
    pool = PoolView("cuda:1", 2**31, 2**30, copies=3)
    server.answers(f"GET {API}/status", json_of(replace(
        MESH, instances=[replace(MESH.instances[0], pools=[pool]), *MESH.instances[1:]])))
    lines = shoal("status").stdout.splitlines()
    assert "cuda:1    1.0 GiB of 2.0 GiB in 3 copies on box-1" in lines


def test_where_shows_the_accelerators_of_copies(server: CannedServer, shoal: Shoal) -> None:
    on = replace(placed(), where=[replace(placed().where[0], device="cuda:1")])
    server.answers(f"GET {API}/models", json_of(ModelPage([on], 1)))
    assert shoal("models", "--where").stdout.splitlines()[1].endswith("box-1 (cuda:1)")


def test_top_shows_instances_and_where_models_are(server: CannedServer, shoal: Shoal) -> None:
    server.answers(f"GET {API}/status", json_of(MESH))
    lines = shoal("top").stdout.splitlines()
    assert lines[0].split()[:3] == ["INSTANCE", "STATE", "ZONE"]
    assert lines[-2].split()[-2:] == ["COPIES", "ON"]
    assert lines[-1].split()[-3:] == ["2", "box-1,", "box-2"]


def test_models_can_be_listed_with_where_they_are(server: CannedServer, shoal: Shoal) -> None:
    page = {"models": [placed(), view("price", State.COLD)], "total": 2, "next": None,
            "problems": ["instance 'box-9' does not answer"]}
    server.answers(f"GET {API}/models", json_of(page))
    result = shoal("models", "--where")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["NAME", "STATE", "HOME", "COPIES", "ON"]
    assert lines[1].split() == [
        "churn", "ready", "box-2", "1", "box-1,", "box-2", "(loading),", "box-3", "(leaving)",
    ]
    assert lines[2].split() == ["price", "cold", "-", "0", "-"]
    assert "box-9" in result.stderr


def test_explain_shows_the_copies(server: CannedServer, shoal: Shoal) -> None:
    events = [replace(event, instance="box-1") for event in EVENTS[:2]]
    story = Story(placed(), ["It is loaded."], [], events, ["instance 'box-9' does not answer"])
    server.answers(f"GET {API}/models/churn/explain", json_of(story))
    result = shoal("explain", "churn")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["ON", "VERSION", "STATE", "MEMORY", "SINCE", "REQUESTS", "REQUESTS/S", "REASON"] in rows
    assert ["box-2", "3", "loading", "-", "-", "0", "0", "-"] in rows
    assert next(row for row in rows if row[:1] == ["box-3"])[2] == "leaving"
    assert " on box-1: left for room (room_needed)" in result.stdout
    assert "box-9" in result.stderr


@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["text", "json"])
def test_whose_events_are_missing_is_told_once(
    server: CannedServer, shoal: Shoal, flags: tuple[str, ...]
) -> None:
    silent = ["instance 'box-9' does not answer"]
    server.answers(
        f"GET {API}/events",
        json_of({"events": EVENTS[:1], "next": 1, "problems": silent}),
        json_of({"events": [], "next": 1, "problems": silent}))
    shown = shoal("events", *flags)
    assert shown.stderr.splitlines() == ["problem: instance 'box-9' does not answer"]


def test_events_say_where_and_can_be_of_one_instance(server: CannedServer, shoal: Shoal) -> None:
    events = [replace(EVENTS[0], instance="box-1")]
    server.answers(f"GET {API}/events", json_of({"events": events, "next": 1}),
                   json_of({"events": [], "next": 1}))
    lines = shoal("events", "--instance", "box-1").stdout.splitlines()
    assert lines[0].endswith("box-1  registered  churn: registered from /models/churn")
    assert server.asked[0].query["instance"] == "box-1"


# --- drain ----------------------------------------------------------------------------------------


def test_drain_says_what_became_of_it(server: CannedServer, shoal: Shoal) -> None:
    drained = Drained("box-1", "draining", 0, 1.25)
    server.answers(f"POST {API}/instances/box-1/drain", json_of(drained))
    assert shoal("drain", "box-1").stdout == "box-1: draining, after 1.25 s\n"
    assert server.asked[0].query == {"timeout_s": "30"}
    told = json.loads(shoal("drain", "box-1", "--json").stdout)
    assert told == msgspec.to_builtins(drained)


def test_drain_can_end_an_instance(server: CannedServer, shoal: Shoal) -> None:
    server.answers(f"POST {API}/instances/box-1/drain",
                   json_of(Drained("box-1", "draining", 2, 5.0, ending=True)))
    result = shoal("drain", "box-1", "--stop", "--timeout", "5")
    assert result.stdout == "box-1: draining, after 5 s, and ends now\n"
    assert result.stderr.startswith("2 copies used lately that no other instance has loaded")
    assert server.asked[0].query == {"timeout_s": "5", "stop": "true"}


def test_drain_is_undone(server: CannedServer, shoal: Shoal) -> None:
    server.answers(f"POST {API}/instances/box-1/drain", json_of(Drained("box-1", "ready", 0, 0.0)))
    assert shoal("drain", "box-1", "--undo").stdout.startswith("box-1: ready")
    assert server.asked[0].query["undo"] == "true"


def test_to_undo_and_to_stop_contradict_each_other(shoal: Shoal) -> None:
    result = shoal("drain", "box-1", "--undo", "--stop")
    assert result.exit_code == 2
    assert "contradict" in result.stderr


def test_an_instance_that_is_not_there_is_not_found(server: CannedServer, shoal: Shoal) -> None:
    refusal = {"error": "there is no instance 'x'; known are a", "code": "NOT_FOUND",
               "retryable": False}
    server.answers(f"POST {API}/instances/x/drain", json_of(refusal, 404))
    result = shoal("drain", "x")
    assert result.exit_code == 3
    assert "known are a" in result.stderr
