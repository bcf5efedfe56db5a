"""The SDK's management calls against the real management API over a fake instance."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.managed import managed

import shoal
from shoal.domain.errors import (
    ArtifactMissing,
    Conflict,
    InvalidSpecification,
    LoadFailed,
    ModelNotFound,
    NotFound,
)
from shoal.domain.views import State


@pytest.fixture
def address() -> Iterator[str]:
    churn = shoal.ModelSpec(name="churn", uri="/models/churn")
    torn = shoal.ModelSpec(name="torn", uri="/models/broken", labels={"team": "a"})
    with managed(churn, torn) as server:
        yield server.address


@pytest.fixture
def client(address: str) -> Iterator[shoal.Client]:
    with shoal.Client("http://127.0.0.1:1", management=address, timeout_s=10) as client:
        yield client


def test_a_model_is_registered_loaded_unloaded_and_unregistered(client: shoal.Client) -> None:
    view = client.register("iris", "/models/iris", format="onnx", priority=2)
    assert (view.name, view.state, view.priority) == ("iris", State.COLD, 2)
    assert client.load("iris").state is State.READY
    assert client.model("iris").state is State.READY
    assert client.unload("iris", 1, wait=False).state is State.UNLOADED
    client.unregister("iris")
    with pytest.raises(ModelNotFound, match="iris"):
        client.model("iris")


def test_create_refuses_a_name_that_is_taken(client: shoal.Client) -> None:
    client.register("churn", "/models/other")
    with pytest.raises(Conflict, match="churn"):
        client.register("churn", "/models/other", create=True)


def test_models_come_page_by_page(client: shoal.Client) -> None:
    for number in range(5):
        client.register(f"m{number}", "/models/m", create=True)
    names = [view.name for view in client.models(contains="m", page_size=2)]
    assert names == ["m0", "m1", "m2", "m3", "m4"]
    assert [view.name for view in client.models(label="team=a")] == ["torn"]
    assert list(client.models(state=State.READY)) == []


def test_many_models_are_registered_and_unregistered_page_by_page(client: shoal.Client) -> None:
    many: list[shoal.ModelSpec | dict[str, object]] = [
        shoal.ModelSpec(name="m0", uri="/m0"), {"name": "m1", "uri": "/missing"},
        {"name": "m2", "uri": "/m2"},
    ]
    results = list(client.register_many(many, page_size=2))
    assert [(each.name, each.ok, each.code) for each in results] == [
        ("m0", True, None), ("m1", False, "ARTIFACT_MISSING"), ("m2", True, None)
    ]  # fmt: skip
    again = [each.unchanged for each in client.register_many(many[::2])]
    assert again == [True, True]
    gone = client.unregister_many((f"m{number}" for number in range(3)), page_size=2)
    assert [(each.name, each.unchanged) for each in gone] == [
        ("m0", False), ("m1", True), ("m2", False)
    ]  # fmt: skip


def test_a_wrong_specification_among_many_is_refused_before_its_page_is_sent(
    client: shoal.Client,
) -> None:
    many = [{"name": "m0", "uri": "/m0"}, {"name": "m1"}]
    with pytest.raises(InvalidSpecification, match="'m1'"):
        list(client.register_many(many))
    assert [view.name for view in client.models(contains="m0")] == []
    with pytest.raises(InvalidSpecification, match="page_size is 0"):
        list(client.register_many(many, page_size=0))


def test_failures_are_typed_and_say_why(client: shoal.Client) -> None:
    with pytest.raises(ArtifactMissing, match="nothing at"):
        client.register("gone", "/models/missing")
    with pytest.raises(LoadFailed, match="cut off"):
        client.load("torn")


def test_credentials_are_set_and_never_given_back(client: shoal.Client) -> None:
    client.register("cod", "s3://b/cod", credentials="farm")
    view = client.set_credentials("farm", "http", host="h", headers={"X-Key": "SECRET"})
    assert (view.type, view.fields, view.encrypted) == ("http", ["host", "headers"], False)
    assert client.get_credentials("farm") == view
    assert client.list_credentials() == [view]
    gone = client.delete_credentials("farm")
    assert (gone.models, gone.first) == (1, ["cod"])
    with pytest.raises(NotFound):
        client.get_credentials("farm")
    with pytest.raises(InvalidSpecification, match="'farm': a field is neither") as told:
        client.set_credentials("farm", "s3", region=Secret())  # type: ignore[arg-type]
    assert "SECRET" not in told.value.message


class Secret:
    def __repr__(self) -> str:
        return "SECRET"


async def test_the_asyncio_client_sets_credentials_too(address: str) -> None:
    async with shoal.AsyncClient("http://127.0.0.1:1", management=address) as client:
        view = await client.set_credentials("farm", "hf", token="SECRET")
        assert await client.list_credentials() == [view]
        assert await client.get_credentials("farm") == view
        assert (await client.delete_credentials("farm")).models == 0


def test_the_system_shows_itself(client: shoal.Client) -> None:
    assert client.status().models == 2
    assert client.instances()[0].state == "ready"
    assert client.drain("shoal-1", timeout_s=1).state == "draining"
    assert client.drain("shoal-1", undo=True).state == "ready"
    assert client.settings()[0].name == "http.port"
    assert client.explain("churn").model.name == "churn"
    page = client.events(limit=1)
    assert client.events(after=page.next).events[0].seq > page.events[0].seq
    assert [event.model for event in client.events(model="torn").events] == ["torn"]


async def test_the_async_client_does_the_same(address: str) -> None:
    async with shoal.AsyncClient("http://127.0.0.1:1", management=address) as client:
        await client.register("iris", "/models/iris")
        assert (await client.drain("shoal-1", stop=True)).ending
        assert (await client.events(instance="shoal-1")).events
        assert [view.name async for view in client.models(page_size=1)] == [
            "churn", "iris", "torn"
        ]  # fmt: skip
        assert (await client.load("iris")).state is State.READY
        assert (await client.unload("iris")).state is State.UNLOADED
        assert (await client.model("iris")).state is State.UNLOADED
        await client.unregister("iris")
        assert (await client.status()).models == 2
        assert (await client.events()).events
        assert (await client.explain("churn")).summary
        assert await client.instances()
        assert await client.settings()
        many = [{"name": f"m{number}", "uri": "/m"} for number in range(3)]
        results = [each.ok async for each in client.register_many(many, page_size=2)]
        assert results == [True, True, True]
        gone = [each.unchanged async for each in client.unregister_many(["m0", "nobody"])]
        assert gone == [False, True]
