"""Instances of different releases in one mesh: this one, and a later one (`tests.later_release`)
that says more than this one knows."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from textwrap import dedent

import grpc
import pytest
from benchmarks import flowers
from benchmarks.mesh_load import Load, Plan
from benchmarks.mesh_world import Node, World, until
from tests import grpc_requests, later_release, odd_models
from tests.etcd_server import EtcdServer
from tests.trouble import put
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

import shoal

MODELS = 12
NOT_UNDERSTOOD = "a message is not understood"
NAMES = [f"tenant-{number:07}" for number in range(MODELS)]


def spawn(world: World, protocols: tuple[int, int] | None = None) -> Node:
    """An instance of this release, or of a later one that speaks the peer protocols from … to."""
    prefix = () if protocols is None else (
        sys.executable, "-m", "tests.later_release", *map(str, protocols))
    return world.spawn("--mesh-labels", f"on={'abc'[len(world.nodes)]}", prefix=prefix)


def serve(nodes: Sequence[Node]) -> None:
    for node in nodes:
        node.serves()


@pytest.fixture(scope="module")
def world(etcd_server: EtcdServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """`a` and `c` are of this release, `b` is of a later one that can still speak as they do."""
    with World(
        tmp_path_factory.mktemp("versions"), f"{etcd_server.url}/versions", "--cache-fill", "none",
        "--log-level", "debug",
    ) as made:
        serve([spawn(made), spawn(made, (1, 2)), spawn(made)])
        made.meet()
        made.make_models(MODELS)
        for number, node in enumerate(made.nodes):
            made.register(NAMES[number::3], placement={"preferred": {"on": node.name}})
        yield made


@pytest.fixture(autouse=True)
def nothing_fails(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "world" in request.fixturenames:
        for node in request.getfixturevalue("world").nodes:
            assert complaints(node) == []


def complaints(node: Node) -> list[dict[str, object]]:
    return [line for line in node.log() if line["level"] not in ("info", "debug")
            or line["event"] in ("mesh_problem", "registry_problem", "peer_lost")
            or (line["event"] == NOT_UNDERSTOOD and later_release.KIND not in str(line["problem"]))]


def register(world: World, name: str, at: Node, **fields: object) -> None:
    """`odd_models.ECHO` under that name, declared at that instance."""
    path = put(world.folder / "models", name, dedent(odd_models.ECHO)).parent
    at.client.register(name, str(path), **fields)  # type: ignore[arg-type]
    world.known([name])


def test_any_release_answers_with_models_that_another_holds(world: World) -> None:
    for name in NAMES:
        found = [node.infer(name, flowers.JSON_BODY) for node in world.nodes]
        assert {each.status_code for each in found} == {200}, [each.text for each in found]
        assert len({each.content for each in found}) == 1
    for number, node in enumerate(world.nodes):
        assert all(world.holders(name) == {node.name} for name in NAMES[number::3])
    for node in world.nodes:
        for count in ("shoal_forwarded_requests_total", "shoal_received_requests_total"):
            assert node.metric(count, 'outcome="answered"') > 0, (node.name, count)
    a, _, c = world.nodes
    assert a.log(NOT_UNDERSTOOD), "a message of a new kind"
    assert c.log(NOT_UNDERSTOOD)


def test_grpc_passes_between_releases(world: World) -> None:
    """A copy on two of three, so that somebody forwards to another release."""
    for number, node in enumerate(world.nodes):
        register(world, f"echo-{number}", node, max_copies=1)
        for each in world.nodes:
            with grpc.insecure_channel(each.grpc) as channel:
                stub = GRPCInferenceServiceStub(channel)
                message = grpc_requests.one(f"echo-{number}", 2.5)
                assert grpc_requests.floats(stub.ModelInfer(message, timeout=30)) == [2.5]
                [streamed] = stub.ModelStreamInfer(iter([message]), timeout=30)
                assert grpc_requests.floats(streamed.infer_response) == [2.5]


def test_what_one_release_declares_another_reads(world: World) -> None:
    a, b, _ = world.nodes
    fields = {"labels": {"team": "sea"}, "placement": {"preferred": {"disk": "ssd"}}}
    register(world, "of-a", a, min_copies=2, **fields)
    register(world, "of-b", b, min_copies=2, **fields)
    for name in ("of-a", "of-b"):
        until(lambda name=name: len(world.holders(name)) == 2, "two copies")  # type: ignore[misc]
        for node in world.nodes:
            assert node.client.model(name).labels == {"team": "sea"}
            assert node.client.explain(name).model.name == name


def test_any_release_sees_all_and_tells_of_all(world: World) -> None:
    for node in world.nodes:
        status = node.client.status()
        assert status.problems == []
        assert {each.id: each.version for each in status.instances} == {
            "a": shoal.__version__, "b": later_release.VERSION, "c": shoal.__version__}
        assert {"a", "b", "c"} == {each.instance for each in node.client.events(limit=1000).events}


def test_releases_replace_each_other_under_load(world: World) -> None:
    """First the later one leaves, then it comes back and an instance of this release leaves."""
    a, b, c = world.nodes
    with Load(Plan(NAMES, 60.0), (a.name, a.url)) as load:
        load.goes_on(30)
        b.leave()
        assert b.ends() == 0
        world.meet()
        load.goes_on(30)
        world.respawn(b).serves()
        world.meet()
        load.goes_on(30)
        c.leave()
        assert c.ends() == 0
        world.meet()
        load.goes_on(30)
    assert not load.failures()


def test_releases_without_a_common_protocol_serve_alone_and_say_why(
    etcd_server: EtcdServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with World(
        tmp_path_factory.mktemp("apart"), f"{etcd_server.url}/apart", "--cache-fill", "none",
    ) as world:
        a, b = spawn(world), spawn(world, (2, 3))
        serve([a, b])
        world.register(world.make_models(MODELS))
        for node in (a, b):
            for name in NAMES:
                assert node.infer(name, flowers.JSON_BODY).status_code == 200
            assert list(node.sees()) == [node.name]
        for node, other in ((a, b), (b, a)):
            [unseen] = [each for each in node.client.instances() if each.id == other.name]
            assert unseen.problem is not None
            for words in ("1 to 1", "2 to 3", shoal.__version__, later_release.VERSION):
                assert words in unseen.problem
            said = node.log("the link of another instance was ended")
            assert len(said) == 1, "again and again"
            assert unseen.problem.endswith(str(said[0]["why"]).partition("was cut: ")[2])
