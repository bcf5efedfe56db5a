"""Seeing and steering a mesh: three real instances on one registry, whichever of them is asked."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.canned_views import shoal_at
from tests.odd_models import write_odd_models
from tests.served import Served, until

from shoal.domain.errors import Conflict, LoadFailed, NotFound
from shoal.domain.views import State

NAMES = ("a", "b", "c")
BODY: dict[str, object] = {
    "inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.5]}]}


class Mesh:
    def __init__(self, base: Path) -> None:
        self.folder = base / "models"
        write_odd_models(self.folder)
        self._base = base
        with ThreadPoolExecutor(len(NAMES)) as pool:
            self.served = dict(zip(NAMES, pool.map(self._start, NAMES), strict=True))

    def _start(self, name: str) -> Served:
        return Served(
            "--memory", "200MiB", "--cache-fill", "none", "--mesh-join", "on",
            "--registry-url", f"sqlite://{self._base}/registry.sqlite3", "--instance-id", name,
            "--trust-locations", self.folder, "--mesh-zone", f"zone-{name}",
            data_dir=self._base / name,
        )

    @property
    def all(self) -> list[Served]:
        return list(self.served.values())

    def seen(self, true: Callable[[Served], object], what: str) -> None:
        """By every instance that runs."""
        for each in self.all:
            until(lambda each=each: true(each), what)  # type: ignore[misc]

    def together(self, count: int = len(NAMES)) -> None:
        self.seen(
            lambda each: [view.state for view in each.client.instances()
                          if view.unreachable_since is None and view.problem is None]
            == ["ready"] * count, f"{count} instances that are ready")

    def register(self, *models: str) -> None:
        for model in models:
            self.served["a"].client.register(model, str(self.folder / model))
        self.seen(lambda each: {*models} <= {view.name for view in each.client.models()},
                  "declarations")

    def holders(self, model: str) -> list[str]:
        return [copy.instance for copy in self.all[0].client.model(model).where
                if copy.state is State.READY and not copy.leaving]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    mesh = Mesh(tmp_path_factory.mktemp("mesh"))
    try:
        mesh.together()
        mesh.register("echo", "pair", "counted", "broken", "slow-to-load")
        yield mesh
    finally:
        for each in mesh.all:
            each.process.send_signal(signal.SIGTERM)
        for each in mesh.all:
            each.stop()


def test_every_instance_shows_all_of_them(mesh: Mesh) -> None:
    for each in mesh.all:
        views = each.client.instances()
        assert [view.id for view in views] == list(NAMES)
        assert [view.zone for view in views] == ["zone-a", "zone-b", "zone-c"]
        assert {view.pid for view in views} == {each.process.pid for each in mesh.all}
        assert all(view.peer_address.startswith("unix:") for view in views)


def test_a_model_loaded_by_hand_is_ready_for_all_wherever_it_is(mesh: Mesh) -> None:
    for each, model in zip(mesh.all, ("echo", "pair", "counted"), strict=True):
        assert each.client.load(model).state is State.READY
    for model in ("echo", "pair", "counted"):
        views = [each.client.model(model) for each in mesh.all]
        assert [view.state for view in views] == [State.READY] * 3
        assert views[0].where == views[1].where == views[2].where
        assert len({view.home for view in views}) == 1
        [copy] = views[0].where
        assert (copy.state, copy.reason, bool(copy.size_bytes)) == (State.READY, "asked", True)


def test_a_load_is_waited_for_from_wherever_it_was_asked(mesh: Mesh) -> None:
    clients = [each.client for each in mesh.all]
    with ThreadPoolExecutor(len(clients)) as pool:
        asked = [pool.submit(client.load, "slow-to-load") for client in clients]
        until(lambda: clients[0].model("slow-to-load").state is State.LOADING, "a load")
        assert clients[1].status().by_state["loading"] == 1
        assert [view.name for view in clients[2].models(state=State.LOADING)] == ["slow-to-load"]
        assert not any(each.done() for each in asked)
        (mesh.folder / "slow-to-load" / "go").touch()
        assert [each.result().state for each in asked] == [State.READY] * 3
    assert len(mesh.holders("slow-to-load")) == 1


def test_what_was_just_taken_out_by_one_is_brought_back_by_another(mesh: Mesh) -> None:
    for one, other in 5 * list(zip(mesh.all, [*mesh.all[1:], mesh.all[0]], strict=True)):
        assert one.client.unload("slow-to-load").state is State.UNLOADED
        assert other.client.load("slow-to-load").state is State.READY
    mesh.served["c"].client.unload("slow-to-load")


def test_lists_by_state_are_of_all_instances(mesh: Mesh) -> None:
    for each in mesh.all:
        each.client.load("echo")
        ready = [view.name for view in each.client.models(state=State.READY)]
        assert ready == ["counted", "echo", "pair"]
        pages = [view.name for view in each.client.models(state=State.READY, page_size=1)]
        assert pages == ready
        cold = [view.name for view in each.client.models(state=State.COLD)]
        assert "broken" in cold
        assert not {*cold} & {*ready}
        out = [view.name for view in each.client.models(state=State.UNLOADED)]
        assert out == ["slow-to-load"]


def test_status_adds_up(mesh: Mesh) -> None:
    for each in mesh.all:
        for _ in range(5):
            assert each.infer("counted", BODY).status_code == 200
    for each in mesh.all:
        status = each.client.status()
        assert (status.models, len(status.instances)) == (5, 3)
        assert status.by_state["ready"] == 3
        assert status.totals.requests >= 15
        assert status.latency.p50 is not None
        assert status.problems == [] or "broken" in status.problems[0]


def test_statistics_are_those_of_all_holders(mesh: Mesh) -> None:
    counts = set()
    for each in mesh.all:
        [told] = each.http.get("/v2/models/counted/stats").json()["model_stats"]
        counts.add(told["inference_count"])
        every = each.http.get("/v2/models/stats").json()["model_stats"]
        assert told["inference_count"] == next(
            one["inference_count"] for one in every if one["name"] == "counted")
    assert len(counts) == 1
    assert counts.pop() >= 15


def test_the_index_knows_what_is_ready_elsewhere(mesh: Mesh) -> None:
    for each in mesh.all:
        index = each.http.post("/v2/repository/index", json={"ready": True}).json()
        assert [one["name"] for one in index] == ["counted", "echo", "pair"]


def test_a_failed_load_is_told_alike_with_all_that_was_tried(mesh: Mesh) -> None:
    with pytest.raises(LoadFailed, match=r"there are no weights.*on .*, .*, .* alike"):
        mesh.served["b"].client.load("broken")
    for each in mesh.all:
        story = each.client.explain("broken")
        assert story.model.state is State.FAILED
        assert "there are no weights" in story.failures[0].message
        failed = [event.instance for event in story.events if event.kind == "load_failed"]
        assert sorted(failed) == list(NAMES)
        assert each.client.status().by_state["failed"] == 1
        assert [view.name for view in each.client.models(state=State.FAILED)] == ["broken"]


def test_a_story_is_the_same_from_everywhere(mesh: Mesh) -> None:
    stories = [each.client.explain("echo") for each in mesh.all]
    assert stories[0].summary[0].startswith(f"echo is loaded on {mesh.holders('echo')[0]} ")
    for story in stories:
        kinds = [event.kind for event in story.events]
        assert kinds.count("declared") == 1
        assert {"load_started", "loaded"} <= set(kinds)
        times = [event.time for event in story.events]
        assert times == sorted(times)
        assert story.problems == []
    # What it answers grows; all else is alike.
    assert len({tuple(story.summary[1:]) for story in stories}) == 1


def test_events_are_read_in_pages_of_all_and_of_one(mesh: Mesh) -> None:
    client = mesh.served["c"].client
    until(lambda: "loaded" in [each.kind for each in client.events(limit=1000).events], "events")
    whole = client.events(limit=1000)
    pages, after = [], 0
    while (page := client.events(after, 3)).events:
        pages += page.events
        after = page.next
    seen = [(each.seq, each.instance) for each in pages]
    assert len(set(seen)) == len(seen)
    # Of declarations, of which all hear, a page tells what it has of the first one alone.
    assert {(each.seq, each.instance) for each in whole.events
            if each.kind not in ("declared", "removed", "model_problem")} <= set(seen)
    assert {each.instance for each in whole.events} >= {"a", "b", "c"} & {*mesh.holders("echo")}
    one = client.events(limit=1000, instance="a").events
    assert one
    with pytest.raises(NotFound, match="known are a, b, c"):
        client.events(instance="nobody")


def test_the_command_line_shows_where_things_are(mesh: Mesh) -> None:
    shoal = shoal_at(mesh.served["b"].url)
    at = ("--management", mesh.served["b"].management)
    where = shoal(*at, "models", "--where", "--state", "ready").stdout.splitlines()
    home, holder = mesh.all[0].client.model("echo").home, mesh.holders("echo")[0]
    assert ["echo", "ready", home, "1", holder] in [line.split() for line in where]
    assert "zone-c" in shoal(*at, "status").stdout
    assert "copies on all instances" in shoal(*at, "status").stdout
    assert "REQUESTS/S" in shoal(*at, "explain", "echo").stdout


def test_unloading_takes_it_out_on_all(mesh: Mesh) -> None:
    try:
        assert mesh.served["c"].client.unload("pair").state is State.UNLOADED
        mesh.seen(lambda each: each.client.model("pair").state is State.UNLOADED, "unloaded")
        mesh.seen(lambda each: each.http.get("/v2/models/pair/ready").status_code == 503, "unready")
    finally:
        assert mesh.served["a"].client.load("pair").state is State.READY
    mesh.seen(lambda each: each.client.model("pair").state is State.READY, "ready")


# --- leaving, from here on in order ---------------------------------------------------------------


def test_a_drained_instance_hands_over_answers_and_comes_back(mesh: Mesh) -> None:
    client = mesh.served["a"].client
    for _ in range(3):
        mesh.served["a"].infer("echo", BODY)
    leaver = mesh.holders("echo")[0]
    drained = client.drain(leaver, timeout_s=20)
    assert (drained.id, drained.state, drained.left) == (leaver, "draining", 0)
    assert mesh.holders("echo")
    assert leaver not in mesh.holders("echo")
    view = next(each for each in client.instances() if each.id == leaver)
    assert view.state == "draining"
    until(lambda: not any(each.homes for each in client.instances() if each.id == leaver),
          "others decide")
    served = mesh.served[leaver]
    assert served.http.get("/v2/health/ready").status_code == 503
    assert served.infer("echo", BODY).status_code == 200
    moves = [event.reason for event in client.explain("echo").events]
    assert "handover" in moves
    assert "moved" in moves
    back = client.drain(leaver, undo=True)
    assert back.state == "ready"
    mesh.together()
    assert served.http.get("/v2/health/ready").status_code == 200


def test_who_is_not_there_cannot_be_drained(mesh: Mesh) -> None:
    with pytest.raises(NotFound, match="no instance 'nobody'; known are a, b, c"):
        mesh.served["b"].client.drain("nobody")


def test_an_instance_can_be_ended_from_another_one(mesh: Mesh) -> None:
    left = mesh.served.pop("b")
    drained = mesh.served["a"].client.drain("b", stop=True, timeout_s=20)
    assert drained.ending
    assert left.stop() == 0
    mesh.together(2)
    assert mesh.served["a"].client.load("echo").state is State.READY


def test_an_instance_that_died_is_told_of_and_the_rest_is_shown(mesh: Mesh) -> None:
    dead = mesh.served.pop("c")
    dead.process.kill()
    dead.stop()
    client = mesh.served["a"].client
    until(lambda: client.instances()[-1].unreachable_since is not None, "that it is noticed")
    status = client.status()
    assert [each.id for each in status.instances] == ["a", "c"]
    assert status.instances[1].problem
    assert any("'c' does not answer" in problem for problem in status.problems)
    assert [view.name for view in client.models(contains="echo")] == ["echo"]
    assert client.explain("echo").problems
    assert any("'c' does not answer" in problem for problem in client.events().problems)
    until(lambda: client.load("echo").state is State.READY, "a home for it")


def test_the_last_one_cannot_be_drained(mesh: Mesh) -> None:
    with pytest.raises(Conflict, match="no other instance is ready"):
        mesh.served["a"].client.drain("a")


def test_an_instance_alone_is_as_ever(tmp_path: Path) -> None:
    with Served("--mesh-join", "off", data_dir=tmp_path) as served:
        [view] = served.client.instances()
        assert (view.state, view.problem) == ("ready", None)
        with pytest.raises(Conflict, match="no other instance is ready"):
            served.client.drain(view.id)
        assert served.client.drain(view.id, stop=True).ending
        assert served.process.wait(30) == 0
