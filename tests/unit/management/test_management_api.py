"""What the management API answers."""

from __future__ import annotations

import httpx2
import pytest
from tests.fake_control import FakeControl
from tests.management_app import MODELS, expose, refused

from shoal.domain.model import ModelSpec
from shoal.domain.signature import TensorSpec
from shoal.domain.views import State
from shoal.management.page import readable_size
from shoal.node.control import ModelFilter
from shoal.node.questions import Leave

# --- models -------------------------------------------------------------------------------------


async def test_models_are_listed_by_name(client: httpx2.AsyncClient) -> None:
    page = (await client.get(MODELS)).json()
    assert [model["name"] for model in page["models"]] == ["churn", "price"]
    assert (page["total"], page["next"]) == (2, None)


async def test_a_page_ends_at_its_limit_and_names_the_next(client: httpx2.AsyncClient) -> None:
    first = (await client.get(MODELS, params={"limit": 1})).json()
    second = (await client.get(MODELS, params={"limit": 1, "after": first["next"]})).json()
    assert [model["name"] for page in (first, second) for model in page["models"]] == [
        "churn",
        "price",
    ]


async def test_every_filter_reaches_the_instance(
    client: httpx2.AsyncClient, control: FakeControl
) -> None:
    query = "?after=a&limit=5&state=cold&contains=hu+rn%2B&format=sklearn&label=team%3Dsea"
    assert (await client.get(MODELS + query)).status_code == 200
    assert control.calls == [
        ("list_models", ModelFilter("a", 5, State.COLD, "hu rn+", "sklearn", "team=sea"))
    ]


async def test_a_model_is_shown(client: httpx2.AsyncClient) -> None:
    model = (await client.get(f"{MODELS}/churn")).json()
    assert (model["name"], model["state"], model["labels"]) == ("churn", "cold", {"team": "sea"})


async def test_a_model_nobody_registered_is_not_found(client: httpx2.AsyncClient) -> None:
    assert "'nemo'" in refused(await client.get(f"{MODELS}/nemo"), 404, "MODEL_NOT_FOUND")


async def test_a_model_is_registered(client: httpx2.AsyncClient, control: FakeControl) -> None:
    spec = {
        "name": "sole",
        "uri": "/models/sole",
        "version_policy": {"latest": 2},
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "pin": True,
    }
    response = await client.post(MODELS, json=spec)
    assert response.status_code == 201
    assert response.headers["location"] == f"{MODELS}/sole"
    assert response.json()["inputs"] == spec["inputs"]
    assert control.specs["sole"].inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert control.specs["sole"].version_policy.latest == 2


async def test_registering_again_replaces(client: httpx2.AsyncClient, control: FakeControl) -> None:
    response = await client.post(MODELS, json={"name": "churn", "uri": "/new"})
    assert (response.status_code, control.specs["churn"].uri) == (201, "/new")


async def test_creating_what_exists_is_a_conflict(
    client: httpx2.AsyncClient, control: FakeControl
) -> None:
    response = await client.post(f"{MODELS}?create=true", json={"name": "churn", "uri": "/new"})
    refused(response, 409, "CONFLICT")
    assert control.specs["churn"].uri == "/models/churn"


async def test_a_missing_artifact_is_unprocessable(client: httpx2.AsyncClient) -> None:
    response = await client.post(MODELS, json={"name": "sole", "uri": "/missing"})
    assert "/missing" in refused(response, 422, "ARTIFACT_MISSING")
    assert response.json()["retryable"] is True


async def test_a_specification_that_can_mean_nothing_is_refused(client: httpx2.AsyncClient) -> None:
    response = await client.post(MODELS, json={"name": "a b", "uri": "/x"})
    assert "'a b'" in refused(response, 400, "INVALID_SPECIFICATION")


async def test_put_takes_the_name_from_the_path(
    client: httpx2.AsyncClient, control: FakeControl
) -> None:
    response = await client.put(f"{MODELS}/sole", json={"uri": "/s", "labels": {"a": "b"}})
    assert response.status_code == 200
    assert control.specs["sole"] == ModelSpec(name="sole", uri="/s", labels={"a": "b"})


async def test_put_takes_the_same_name_in_the_body(client: httpx2.AsyncClient) -> None:
    response = await client.put(f"{MODELS}/sole", json={"name": "sole", "uri": "/s"})
    assert response.status_code == 200


async def test_put_refuses_another_name_in_the_body(
    client: httpx2.AsyncClient, control: FakeControl
) -> None:
    response = await client.put(f"{MODELS}/sole", json={"name": "hake", "uri": "/s"})
    message = refused(response, 400, "INVALID_SPECIFICATION")
    assert "'sole'" in message
    assert "'hake'" in message
    assert control.calls == []


async def test_a_model_is_unregistered(client: httpx2.AsyncClient, control: FakeControl) -> None:
    response = await client.delete(f"{MODELS}/churn")
    assert (response.status_code, response.content) == (204, b"")
    assert list(control.specs) == ["price"]


async def test_unregistering_what_is_not_there_is_not_found(client: httpx2.AsyncClient) -> None:
    refused(await client.delete(f"{MODELS}/nemo"), 404, "MODEL_NOT_FOUND")


async def test_a_model_is_loaded_and_waited_for(
    client: httpx2.AsyncClient, control: FakeControl
) -> None:
    outcome = (await client.post(f"{MODELS}/churn/load")).json()
    assert outcome == {"name": "churn", "state": "ready", "version": None, "took_s": 0.25}
    assert control.calls == [("load", "churn", None, True)]


async def test_a_version_is_unloaded_without_waiting(
    client: httpx2.AsyncClient, control: FakeControl
) -> None:
    response = await client.post(f"{MODELS}/churn/unload?version=1&wait=false")
    assert (response.status_code, response.json()["state"]) == (200, "unloaded")
    assert control.calls == [("unload", "churn", 1, False)]


async def test_a_version_that_is_not_there_is_not_found(client: httpx2.AsyncClient) -> None:
    response = await client.post(f"{MODELS}/churn/load", params={"version": 9})
    refused(response, 404, "VERSION_NOT_FOUND")


async def test_a_failed_load_says_why_and_when_to_come_back(
    client: httpx2.AsyncClient, control: FakeControl
) -> None:
    await control.register(ModelSpec(name="sole", uri="/broken"))
    response = await client.post(f"{MODELS}/sole/load")
    assert "cut off" in refused(response, 503, "LOAD_FAILED")
    assert response.headers["retry-after"] == "3"


async def test_a_model_explains_itself(client: httpx2.AsyncClient) -> None:
    story = (await client.get(f"{MODELS}/churn/explain")).json()
    assert story["summary"] == ["churn is cold"]
    assert story["failures"][0]["code"] == "LOAD_FAILED"


# --- batches ------------------------------------------------------------------------------------


async def test_a_batch_tells_of_each_model(
    client: httpx2.AsyncClient, control: FakeControl
) -> None:
    control.from_folder.add("hake")
    batch = [{"name": name, "uri": f"/{name}"} for name in ("sole", "hake", "missing", "tuna")]
    response = await client.post(f"{MODELS}:batch", json=batch)
    outcome = response.json()
    assert (response.status_code, outcome["registered"], outcome["failed"]) == (200, 2, 2)
    sole, hake, missing, tuna = outcome["results"]
    assert sole == {"name": "sole", "ok": True}
    assert tuna == {"name": "tuna", "ok": True}
    assert (hake["name"], hake["ok"], hake["code"]) == ("hake", False, "CONFLICT")
    assert (missing["code"], missing["retryable"]) == ("ARTIFACT_MISSING", True)
    assert {"sole", "tuna"} < set(control.specs)


async def test_a_name_that_comes_twice_in_a_batch_counts_once(
    client: httpx2.AsyncClient, control: FakeControl
) -> None:
    batch = [{"name": "sole", "uri": "/first"}, {"name": "sole", "uri": "/second"}]
    outcome = (await client.post(f"{MODELS}:batch", json=batch)).json()
    assert [result["ok"] for result in outcome["results"]] == [True, False]
    assert control.specs["sole"].uri == "/first"


@pytest.mark.parametrize(
    ("second", "place"), [({"name": "b"}, "[1]: "), ({"name": "b c", "uri": "/b"}, "[1]: ")]
)
async def test_a_batch_of_wrong_form_is_refused_before_anything_is_registered(
    client: httpx2.AsyncClient, control: FakeControl, second: dict[str, str], place: str
) -> None:
    response = await client.post(f"{MODELS}:batch", json=[{"name": "a", "uri": "/a"}, second])
    assert place in refused(response, 400, "INVALID_SPECIFICATION")
    assert control.calls == []


async def test_an_empty_batch_does_nothing(client: httpx2.AsyncClient) -> None:
    outcome = (await client.post(f"{MODELS}:batch", json=[])).json()
    assert outcome == {"results": [], "registered": 0, "unchanged": 0, "failed": 0}


async def test_a_batch_that_is_sent_again_changes_nothing(client: httpx2.AsyncClient) -> None:
    batch = [{"name": "sole", "uri": "/a"}]
    await client.post(f"{MODELS}:batch", json=batch)
    outcome = (await client.post(f"{MODELS}:batch", json=batch)).json()
    assert outcome["results"] == [{"name": "sole", "ok": True, "unchanged": True}]
    assert (outcome["registered"], outcome["unchanged"]) == (0, 1)


async def test_a_batch_says_whether_files_are_read(
    client: httpx2.AsyncClient, control: FakeControl
) -> None:
    await client.post(f"{MODELS}:batch?read=false", json=[])
    await client.post(f"{MODELS}:batch", json=[])
    assert control.calls == [("register_all", [], False), ("register_all", [], True)]


async def test_a_batch_of_names_is_unregistered(
    client: httpx2.AsyncClient, control: FakeControl
) -> None:
    await client.post(f"{MODELS}:batch", json=[{"name": "sole", "uri": "/a"}])
    response = await client.post(f"{MODELS}:unregister", json=["sole", "nobody"])
    assert response.status_code == 200
    assert response.json()["results"] == [
        {"name": "sole", "ok": True}, {"name": "nobody", "ok": True, "unchanged": True}
    ]
    assert "sole" not in control.specs


async def test_a_batch_has_at_most_five_thousand_models(client: httpx2.AsyncClient) -> None:
    batch = [{"name": "a", "uri": "/a"}] * 5001
    response = await client.post(f"{MODELS}:batch", json=batch)
    assert "5000" in refused(response, 400, "INVALID_SPECIFICATION")


# --- what the instance tells of itself ----------------------------------------------------------


async def test_instances_settings_and_status_are_shown(client: httpx2.AsyncClient) -> None:
    [instance] = (await client.get("/api/v1/instances")).json()
    assert instance["id"] == "shoal-1"
    settings = (await client.get("/api/v1/settings")).json()
    assert [setting["value"] for setting in settings] == [0, ["/srv"]]
    status = (await client.get("/api/v1/status")).json()
    assert (status["models"], status["by_state"]["cold"]) == (2, 2)


async def test_events_are_read_page_by_page(
    client: httpx2.AsyncClient, control: FakeControl
) -> None:
    page = (await client.get("/api/v1/events?limit=1")).json()
    assert ([event["seq"] for event in page["events"]], page["next"]) == ([1], 1)
    page = (await client.get("/api/v1/events?after=1&model=price")).json()
    assert [event["model"] for event in page["events"]] == ["price"]
    assert control.calls[-1] == ("events", 1, 100, "price", None)


async def test_a_live_process_says_so(client: httpx2.AsyncClient) -> None:
    response = await client.get("/health/live")
    assert (response.status_code, response.json()) == (200, {"live": True})


async def test_a_ready_instance_says_so(client: httpx2.AsyncClient) -> None:
    response = await client.get("/health/ready")
    assert (response.status_code, response.json()) == (200, {"ready": True, "problems": []})


async def test_an_instance_that_is_not_ready_says_why(
    client: httpx2.AsyncClient, control: FakeControl
) -> None:
    control.readiness = ["it is draining"]
    response = await client.get("/health/ready")
    assert response.status_code == 503
    assert response.json() == {"ready": False, "problems": ["it is draining"]}


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text"])
async def test_metrics_come_in_the_format_that_is_asked_for(
    client: httpx2.AsyncClient, accept: str
) -> None:
    response = await client.get("/metrics", headers={"Accept": accept})
    assert (response.content, response.headers["content-type"]) == expose(accept)


async def test_the_page_shows_what_runs(client: httpx2.AsyncClient, control: FakeControl) -> None:
    control.readiness = ["disk <full>"]
    response = await client.get("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    for part in ("shoal-1", "1.5 GiB of 4.0 GiB", "not ready", "disk &lt;full&gt;", "/metrics"):
        assert part in response.text
    assert "<dt>failed</dt>" not in response.text


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 bytes"), (1536, "1.5 KiB"), (5 * 1024**5, "5120.0 TiB")]
)
def test_sizes_are_shown_for_people(size_bytes: int, text: str) -> None:
    assert readable_size(size_bytes) == text


# --- credentials --------------------------------------------------------------------------------


async def test_credentials_are_set_listed_and_deleted(
    client: httpx2.AsyncClient, control: FakeControl
) -> None:
    entry = {"type": "s3", "access_key_id": "A", "secret_access_key": "SECRET", "anonymous": False}
    answer = await client.put("/api/v1/credentials/farm", json=entry)
    assert control.calls[-1] == ("set_credentials", "farm", entry)
    shown = {"name": "farm", "type": "s3", "source": "registry", "encrypted": False,
             "fields": ["access_key_id", "secret_access_key", "anonymous"], "problem": None}
    assert (answer.status_code, answer.json()) == (200, shown)
    assert (await client.get("/api/v1/credentials")).json() == {
        "credentials": [shown], "problems": []}
    assert (await client.get("/api/v1/credentials/farm")).json() == shown
    control.declare(ModelSpec(name="cod", uri="s3://b/cod", credentials="farm"))
    assert (await client.delete("/api/v1/credentials/farm")).json() == {
        "name": "farm", "models": 1, "first": ["cod"]}
    for answer in (await client.get("/api/v1/credentials/farm"),
                   await client.delete("/api/v1/credentials/farm")):
        assert "'farm'" in refused(answer, 404, "NOT_FOUND")


@pytest.mark.parametrize(("body", "status", "code", "story"), [
    (b'["SECRET"]', 400, "INVALID_SPECIFICATION", "the body is no object: expected an object"),
    (b'"SECRET"', 400, "INVALID_SPECIFICATION", "the body is no object"),
    (b'{"type": "s3", "session_token": SECRET}', 400, "INVALID_REQUEST", "not valid JSON"),
    (b'{"session_token": "SECRET"}', 400, "INVALID_SPECIFICATION", "'type' is missing"),
    (b'"' + b"SECRET" * 50_000 + b'"', 413, "BODY_TOO_LARGE", "262144 bytes"),
], ids=["list", "text", "no-json", "no-type", "too-large"])
async def test_refused_credentials_are_not_shown(
    client: httpx2.AsyncClient, body: bytes, status: int, code: str, story: str
) -> None:
    answer = await client.put("/api/v1/credentials/farm", content=body)
    assert story in refused(answer, status, code)
    assert "SECRET" not in answer.text


async def test_the_description_of_credentials_says_the_types(client: httpx2.AsyncClient) -> None:
    document = (await client.get("/api/v1/openapi.json")).json()
    put = document["paths"]["/api/v1/credentials/{name}"]["put"]
    schema = put["requestBody"]["content"]["application/json"]["schema"]
    assert "s3" in schema["properties"]["type"]["enum"]
    assert schema["required"] == ["type"]
    assert "example" not in str(put).lower()


# --- the description ----------------------------------------------------------------------------


async def test_every_operation_is_described(client: httpx2.AsyncClient) -> None:
    document = (await client.get("/api/v1/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    described = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert set(described) == {
        "GET /",
        "GET /metrics",
        "GET /health/live",
        "GET /health/ready",
        "GET /api/v1/openapi.json",
        "GET /api/v1/models",
        "POST /api/v1/models",
        "GET /api/v1/credentials",
        "GET /api/v1/credentials/{name}",
        "PUT /api/v1/credentials/{name}",
        "DELETE /api/v1/credentials/{name}",
        "GET /api/v1/runtimes",
        "GET /api/v1/runtimes/{name}",
        "PUT /api/v1/runtimes/{name}",
        "DELETE /api/v1/runtimes/{name}",
        "POST /api/v1/runtimes/{name}/enable",
        "POST /api/v1/runtimes/{name}/disable",
        "POST /api/v1/models:batch",
        "POST /api/v1/models:unregister",
        "GET /api/v1/models/{name}",
        "PUT /api/v1/models/{name}",
        "DELETE /api/v1/models/{name}",
        "POST /api/v1/models/{name}/load",
        "POST /api/v1/models/{name}/unload",
        "GET /api/v1/models/{name}/explain",
        "GET /api/v1/instances",
        "POST /api/v1/instances/{id}/drain",
        "GET /api/v1/events",
        "GET /api/v1/settings",
        "GET /api/v1/status",
    }
    names = [operation["operationId"] for operation in described.values()]
    assert len(set(names)) == len(names)


async def test_what_is_described_has_its_words(client: httpx2.AsyncClient) -> None:
    document = (await client.get("/api/v1/openapi.json")).json()
    listing = document["paths"]["/api/v1/models"]["get"]
    assert listing["summary"] == "A page of the registered models, by name"
    limit = next(each for each in listing["parameters"] if each["name"] == "limit")
    assert limit == {
        "name": "limit",
        "in": "query",
        "description": "models a page.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    }
    spec = document["components"]["schemas"]["ModelSpec"]["properties"]
    assert [name for name, schema in spec.items() if not schema.get("description")] == []
    assert spec["idle_ttl_s"]["description"].endswith("the setting `cache.idle_ttl_s`.")


async def test_the_statuses_that_errors_have_are_described(client: httpx2.AsyncClient) -> None:
    document = (await client.get("/api/v1/openapi.json")).json()
    load = document["paths"]["/api/v1/models/{name}/load"]["post"]["responses"]
    assert set(load) == {"200", "400", "403", "404", "422", "429", "500", "503", "504"}
    assert "LOAD_FAILED" in load["503"]["description"]
    assert "Retry-After" in load["503"]["headers"]


# --- instances ----------------------------------------------------------------------------------


async def test_an_instance_is_drained(client: httpx2.AsyncClient, control: FakeControl) -> None:
    response = await client.post("/api/v1/instances/shoal-1/drain?timeout_s=5&stop=true")
    assert response.json() == {
        "id": "shoal-1", "state": "draining", "left": 0, "took_s": 0.5, "ending": True}
    assert control.calls == [("drain", "shoal-1", Leave(5, stop=True))]


async def test_an_instance_that_nobody_knows_is_not_found(client: httpx2.AsyncClient) -> None:
    response = await client.post("/api/v1/instances/nemo/drain")
    assert "known are shoal-1" in refused(response, 404, "NOT_FOUND")


async def test_events_of_one_instance(client: httpx2.AsyncClient, control: FakeControl) -> None:
    await client.get("/api/v1/events?instance=shoal-1")
    assert control.calls == [("events", 0, 100, None, "shoal-1")]


@pytest.mark.parametrize("timeout_s", ["-1", "3601", "1.5"])
async def test_a_drain_of_no_sensible_time_is_refused(
    client: httpx2.AsyncClient, timeout_s: str
) -> None:
    response = await client.post(f"/api/v1/instances/shoal-1/drain?timeout_s={timeout_s}")
    assert "'timeout_s'" in refused(response, 400, "INVALID_REQUEST")
