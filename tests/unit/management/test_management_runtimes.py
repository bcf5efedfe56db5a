"""The management API: serving runtimes."""

from __future__ import annotations

import httpx2
from tests.fake_control import FakeControl

from shoal.domain.model import ModelSpec

PATH = "/api/v1/runtimes"
BODY = {"formats": [{"name": "tensorrt", "version": "8"}], "command": ["tritonserver"]}


async def test_a_runtime_is_declared_under_the_name_in_the_path(
    client: httpx2.AsyncClient, control: FakeControl
) -> None:
    answer = await client.put(f"{PATH}/triton", json=BODY)
    assert answer.status_code == 200
    assert answer.json()["declaration"] == {"name": "triton", **BODY}
    assert (await client.get(f"{PATH}/triton")).json() == answer.json()
    listed = (await client.get(PATH)).json()["runtimes"]
    assert [each["name"] for each in listed] == ["shoal", "triton"]


async def test_another_name_in_the_body_is_refused(client: httpx2.AsyncClient) -> None:
    assert (await client.put(f"{PATH}/a", json={**BODY, "name": "a"})).status_code == 200
    answer = await client.put(f"{PATH}/a", json={**BODY, "name": "b"})
    assert answer.status_code == 400
    assert "the path names the runtime 'a', the body 'b'" in answer.json()["error"]


async def test_what_is_wrong_in_a_declaration_is_told(client: httpx2.AsyncClient) -> None:
    answer = await client.put(f"{PATH}/a", json={"formats": []})
    assert answer.status_code == 400
    assert "'formats' is empty" in answer.json()["error"]
    answer = await client.put(f"{PATH}/a", json={**BODY, "comand": []})
    assert answer.status_code == 400
    assert "comand" in answer.json()["error"]


async def test_it_is_disabled_and_enabled(client: httpx2.AsyncClient) -> None:
    await client.put(f"{PATH}/a", json=BODY)
    assert (await client.post(f"{PATH}/a/disable")).json()["disabled"] is True
    assert (await client.post(f"{PATH}/a/enable")).json()["disabled"] is False
    assert (await client.post(f"{PATH}/b/enable")).status_code == 404


async def test_removing_one_that_is_used_takes_force(
    client: httpx2.AsyncClient, control: FakeControl
) -> None:
    await client.put(f"{PATH}/a", json=BODY)
    control.declare(ModelSpec(name="m", uri="/m", runtime="a"))
    assert (await client.delete(f"{PATH}/a")).status_code == 409
    answer = await client.delete(f"{PATH}/a?force=true")
    assert (answer.status_code, answer.json()) == (
        200, {"name": "a", "models": 1, "first": ["m"]})
    assert (await client.get(f"{PATH}/a")).status_code == 404
