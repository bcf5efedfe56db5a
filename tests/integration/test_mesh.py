"""Three real instances on one etcd: any of them answers for any model, and copies are where they
should be."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from benchmarks import flowers
from benchmarks.mesh_load import Load, Plan
from benchmarks.mesh_world import World, until
from tests.etcd_server import EtcdServer
from tests.trouble import REQUEST, put, source

from shoal.domain.errors import LoadFailed, ModelNotFound

TINY = 12  # models for all tests
BODY = json.dumps(REQUEST).encode()
SLOW = """
    def predict(self, inputs, parameters):
        end = time.thread_time() + 0.004
        while time.thread_time() < end:
            pass
        return {"y": inputs["x"] * FACTOR}
"""
BROKEN = """
    def load(self, folder):
        raise ValueError("broken on purpose")

    def predict(self, inputs, parameters):
        return {"y": inputs["x"] * FACTOR}
"""


@pytest.fixture(scope="module")
def world(etcd_server: EtcdServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(
        tmp_path_factory.mktemp("mesh"), f"{etcd_server.url}/mesh", "--cache-fill", "none",
        "--load-retry-base-s", "0.2",
    ) as made:
        made.start(
            ("--mesh-zone", "east", "--mesh-labels", "disk=ssd"),
            ("--mesh-zone", "west"),
            ("--mesh-zone", "west"),
        )
        made.register(made.make_models(TINY))
        yield made


def tiny(number: int) -> str:
    return f"tenant-{number:07}"


def targets(world: World) -> list[tuple[str, str]]:
    return [(node.name, node.url) for node in world.nodes]


def register(world: World, name: str, text: str, at: int = 0, **fields: object) -> None:
    """A model of Python code, through instance number `at`; it has another file each time."""
    folder = f"{name}-{time.monotonic_ns()}"
    path = put(world.folder / "models", folder, text).parent
    world.nodes[at].client.register(name, str(path), **fields)  # type: ignore[arg-type]
    world.known([name])


def factor(body: bytes) -> float:
    """Of the model of `source` that answered REQUEST."""
    (first, _) = json.loads(body)["outputs"][0]["data"]
    return float(first)


def reasons(world: World, name: str) -> list[str]:
    """Why the model was loaded, each time."""
    return sorted(reason for _, reason, _ in world.loads(name))


def test_any_instance_answers_for_any_model_alike(world: World) -> None:
    answers = {}
    for number in range(TINY):
        found = [node.infer(tiny(number), flowers.JSON_BODY) for node in world.nodes]
        assert {each.status_code for each in found} == {200}
        [answers[number]] = {each.content for each in found}
    assert len({json.loads(each)["outputs"][0]["data"][0] for each in answers.values()}) == TINY
    forwarded = world.total("shoal_forwarded_requests_total", 'outcome="answered"')
    assert forwarded == world.total("shoal_received_requests_total", 'outcome="answered"')
    assert forwarded >= TINY  # of three asked, one holds it


def test_what_one_instance_refuses_another_refuses_alike(world: World) -> None:
    for body in (b"{", b'{"inputs": []}', flowers.JSON_BODY.replace(b"FP32", b"INT8")):
        [_] = {(each.status_code, each.content)
               for each in (node.infer(tiny(0), body) for node in world.nodes)}
    [status] = {node.infer("nobody", flowers.JSON_BODY).status_code for node in world.nodes}
    assert status == 404


def test_two_hundred_cold_requests_through_all_entries_are_one_load(world: World) -> None:
    register(world, "rushed", source("    def load(self, folder):\n        time.sleep(0.2)\n"
                                     "    def predict(self, inputs, parameters):\n"
                                     '        return {"y": inputs["x"] * FACTOR}\n'),
             max_copies=1)
    with ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(
            lambda number: world.nodes[number % 3].infer("rushed", BODY), range(200)))
    assert {each.status_code for each in answers} == {200}
    assert len({each.content for each in answers}) == 1
    assert reasons(world, "rushed") == ["requested"]


def test_a_new_revision_takes_over_without_a_gap(world: World) -> None:
    register(world, "changing", source(factor=1.0), min_copies=2)
    seen: dict[str, float] = {}

    def check(_: str, body: bytes) -> str | None:
        seen["last"] = factor(body)
        return None if seen["last"] in (1.0, 2.0) else f"answers {seen['last']}"

    with Load(Plan(["changing"], 150.0, check, body=BODY), *targets(world)) as load:
        load.goes_on(50)
        assert seen["last"] == 1.0
        register(world, "changing", source(factor=2.0), at=1, min_copies=2)
        until(lambda: all(factor(node.infer("changing", BODY).content) == 2.0
                          for node in world.nodes), "all answer anew")
        load.plan(Plan(
            ["changing"], 150.0, lambda _, body: None if factor(body) == 2.0 else "the old one",
            body=BODY))
        load.goes_on(100)
    assert not load.failures()
    until(lambda: len(world.holders("changing")) == 2, "as many copies as before")


def test_a_broken_revision_never_answers(world: World) -> None:
    register(world, "upgraded", source(factor=3.0))
    with Load(
        Plan(["upgraded"], 100.0,
             lambda _, body: None if factor(body) == 3.0 else "the broken one", body=BODY),
        *targets(world),
    ) as load:
        load.goes_on(20)
        register(world, "upgraded", source(BROKEN, factor=4.0), at=2)
        until(lambda: "new_revision" in reasons(world, "upgraded"), "it was tried")
        until(lambda: "broken on purpose" in str(world.nodes[1].client.explain("upgraded")),
              "any instance says why")
        load.goes_on(50)
    assert not load.failures()


def test_what_cannot_be_loaded_anywhere_says_what_happened_where(world: World) -> None:
    register(world, "hopeless", source(BROKEN))
    for node in world.nodes:
        answer = node.infer("hopeless", BODY)
        assert answer.status_code == 503
        assert "broken on purpose" in answer.json()["error"]
    tried = {instance for instance, _, _ in world.loads("hopeless")}
    assert tried == {node.name for node in world.nodes}
    with pytest.raises(LoadFailed, match="broken on purpose"):
        world.nodes[1].client.load("hopeless")


def test_as_many_copies_as_the_model_asks_for_and_in_all_zones(world: World) -> None:
    names = [f"pair-{number}" for number in range(4)]
    for name in names:
        register(world, name, source(), min_copies=2)
    until(lambda: all(len(world.holders(name)) == 2 for name in names), "two copies each")
    assert all("a" in world.holders(name) for name in names)  # alone in its zone


def test_required_labels_are_kept(world: World) -> None:
    for number in range(4):
        name = f"on-ssd-{number}"
        register(world, name, source(), placement={"required": {"disk": "ssd"}})
        assert {node.infer(name, BODY).status_code for node in world.nodes} == {200}
        assert world.holders(name) == {"a"}
    register(world, "on-tape", source(), placement={"required": {"disk": "tape"}})
    for node in world.nodes:
        answer = node.infer("on-tape", BODY)
        assert answer.status_code == 503
        assert re.search(r"disk.*tape|tape", answer.json()["error"])


def test_what_is_taken_out_by_hand_is_out_on_all_instances(world: World) -> None:
    register(world, "retired", source(), min_copies=2)
    until(lambda: len(world.holders("retired")) == 2, "two copies")
    world.nodes[2].client.unload("retired")
    assert world.holders("retired") == set()
    refused = [node.infer("retired", BODY) for node in world.nodes]
    assert {each.status_code for each in refused} == {503}
    assert "out of service" in refused[0].json()["error"]
    world.nodes[1].client.load("retired")
    assert {node.infer("retired", BODY).status_code for node in world.nodes} == {200}


def test_what_is_unregistered_at_one_is_unknown_to_all(world: World) -> None:
    register(world, "leaving", source())
    assert {node.infer("leaving", BODY).status_code for node in world.nodes} == {200}
    world.nodes[1].client.unregister("leaving")
    until(lambda: {node.infer("leaving", BODY).status_code for node in world.nodes} == {404},
          "nobody knows it")
    with pytest.raises(ModelNotFound):
        world.nodes[2].client.model("leaving")


def test_a_hot_model_gets_copies_and_the_others_still_answer(world: World) -> None:
    """About 0.4 of a processor, where a copy is to keep 0.05 of an instance's two busy."""
    register(world, "hot", source(SLOW))
    models = ["hot", "hot", tiny(0), "hot", "hot", tiny(1)]

    def check(model: str, body: bytes) -> str | None:
        return None if b'"outputs"' in body else f"{model} answers {body!r}"

    body = {"hot": BODY}
    with Load(
        Plan(models, 100.0, check, body=flowers.JSON_BODY, bodies=body), *targets(world)
    ) as load:
        until(lambda: world.holders("hot") == {"a", "b", "c"}, "a copy on each")
        load.goes_on(50)
    assert not load.failures()
    why = reasons(world, "hot")
    assert why.count("requested") == 1
    assert why.count("hot") >= 2


def test_a_copy_that_was_evicted_is_loaded_where_there_is_room(
    etcd_server: EtcdServer, tmp_path: Path
) -> None:
    """Two instances with room for about twenty models each serve thirty."""
    with World(
        tmp_path, f"{etcd_server.url}/small", "--cache-fill", "none", "--memory", "1600KiB",
        "--mesh-steady-per-min", "1000000",
    ) as world:
        world.start((), ())
        names = world.make_models(30)
        world.register(names)
        with Load(Plan(names, 150.0), *targets(world)) as load:
            load.goes_on(120)
            before = world.total("shoal_loads_total")
            load.goes_on(120)
        assert not load.failures()
        sizes = [node.metric("shoal_cache_bytes", 'kind="used"') for node in world.nodes]
    assert min(sizes) > 0.3 * max(sizes)
    assert before <= 40

