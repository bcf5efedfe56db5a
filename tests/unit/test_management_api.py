"""The management API, over a fake instance and without a socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import structlog
from structlog.testing import capture_logs
from tests.fake_control import FakeControl

from shoal.domain.errors import Overloaded, ShuttingDown, StoreUnavailable, TooLarge
from shoal.domain.model import ModelSpec
from shoal.domain.signature import TensorSpec
from shoal.domain.views import State
from shoal.management.api import create_app
from shoal.management.page import readable_size
from shoal.node.control import ModelFilter

MODELS = "/api/v1/models"
JSON = {"Content-Type": "application/json"}


def expose(accept: str) -> tuple[bytes, str]:
    if "openmetrics" in accept:
        return b"# EOF\n", "application/openmetrics-text; version=1.0.0; charset=utf-8"
    return b"shoal_models 2\n", "text/plain; version=0.0.4; charset=utf-8"


@pytest.fixture
def control() -> FakeControl:
    return FakeControl(
        ModelSpec(name="churn", uri="/models/churn", format="sklearn", labels={"team": "sea"}),
        ModelSpec(name="price", uri="/models/price.onnx", format="onnx", labels={"team": "land"}),
    )


@pytest.fixture
async def client(control: FakeControl) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(create_app(control, expose))
    async with httpx2.AsyncClient(transport=transport, base_url="http://shoal") as client:
        yield client


def refused(response: httpx2.Response, status: int, code: str) -> str:
    """The message of a refusal, after its form was checked."""
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code), body
    assert set(body) == {"error", "code", "retryable"}
    assert response.headers["content-type"] == "application/json"
    message: str = body["error"]
    return message


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
    assert control.calls[-1] == ("events", 1, 100, "price")


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


# --- strictness: queries ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "parts"),
    [
        ("limit=0", ("'limit'", "'0'", "from 1 to 1000")),
        ("limit=1001", ("'limit'", "from 1 to 1000")),
        ("limit=ten", ("'limit'", "'ten'", "a whole number")),
        ("limit=1.0", ("'limit'", "a whole number")),
        ("limit=", ("'limit'", "''")),
        ("limit=" + "9" * 5000, ("'limit'", "a whole number")),
        ("limit=%D9%A1", ("'limit'", "a whole number")),
        ("state=sleepy", ("'state'", "'sleepy'", "one of", "cold", "ready")),
        ("format=", ("'format'", "1 to 254")),
        ("contains=" + "x" * 255, ("'contains'", "0 to 254")),
        ("limt=3", ("'limt'", "known are after, limit, state, contains, format, label")),
        ("limit=1&limit=2", ("'limit'", "twice")),
        ("after=%FF", ("UTF-8",)),
        ("&".join(f"a{n}=1" for n in range(101)), ("100 parameters",)),
    ],
)
async def test_a_wrong_query_is_refused_with_what_is_right(
    client: httpx2.AsyncClient, control: FakeControl, query: str, parts: tuple[str, ...]
) -> None:
    message = refused(await client.get(f"{MODELS}?{query}"), 400, "INVALID_REQUEST")
    assert [part for part in parts if part not in message] == []
    assert control.calls == []


@pytest.mark.parametrize("value", ["yes", "1", "True", ""])
async def test_a_flag_is_true_or_false(client: httpx2.AsyncClient, value: str) -> None:
    response = await client.post(f"{MODELS}/churn/load?wait={value}")
    assert "true or false" in refused(response, 400, "INVALID_REQUEST")


async def test_paths_without_parameters_take_none(client: httpx2.AsyncClient) -> None:
    response = await client.get("/api/v1/status?verbose=true")
    assert "takes none" in refused(response, 400, "INVALID_REQUEST")


# --- strictness: bodies -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (b"", ("empty", "ModelSpec")),
        (b" \n", ("empty",)),
        (b'{"name": "a",\n "uri" "b"}', ("not valid JSON", "line 2 column 8")),
        (b'{"name": "a"', ("not valid JSON", "line 1 column 13")),
        (b'{"name":"a","uri":"b"} x', ("not valid JSON", "line 1 column 24")),
        (b'{"name":"a","uri":"\xff"}', ("not utf-8", "byte 19")),
        (b'{"name":"a","uri":"b","options":' + b'{"a":' * 3000, ("too deeply",)),
    ],
)
async def test_a_body_that_is_not_json_is_refused_with_the_position(
    client: httpx2.AsyncClient, body: bytes, parts: tuple[str, ...]
) -> None:
    response = await client.post(MODELS, content=body, headers=JSON)
    message = refused(response, 400, "INVALID_REQUEST")
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ({"name": "a", "uri": "b", "nmae": 1}, ("unknown field 'nmae'",)),
        ({"name": "a", "uri": 3}, ("uri: expected a string, got an integer",)),
        ({"name": "a"}, ("missing required field 'uri'",)),
        ({"name": "a", "uri": "b", "inputs": [{"name": 1}]}, ("inputs[0].name",)),
        ([], ("no ModelSpec", "expected an object, got a list")),
    ],
)
async def test_json_of_another_shape_is_refused_with_the_field(
    client: httpx2.AsyncClient, body: object, parts: tuple[str, ...]
) -> None:
    message = refused(await client.post(MODELS, json=body), 400, "INVALID_SPECIFICATION")
    assert [part for part in parts if part not in message] == [], message


async def test_a_batch_that_is_no_array_is_refused(client: httpx2.AsyncClient) -> None:
    response = await client.post(f"{MODELS}:batch", json={})
    assert "no array of ModelSpec" in refused(response, 400, "INVALID_SPECIFICATION")


async def test_a_body_of_more_than_a_mebibyte_is_refused(client: httpx2.AsyncClient) -> None:
    body = json.dumps({"name": "a", "uri": "x" * 1024 * 1024}).encode()
    response = await client.post(MODELS, content=body)
    assert "1048576" in refused(response, 413, "BODY_TOO_LARGE")


async def test_a_body_of_untold_length_is_refused_once_it_is_too_large(
    client: httpx2.AsyncClient,
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b" " * 65536

    refused(await client.post(MODELS, content=endless()), 413, "BODY_TOO_LARGE")
    assert sent == 17


@pytest.mark.parametrize(
    ("content_type", "encoding"),
    [
        (None, "utf-8"),
        ("text/plain", "utf-8"),
        ("application/json", "utf-8-sig"),
        ('application/json; charset="UTF-8"', "utf-8"),
        ("application/json; charset=utf-16", "utf-16"),
        ("application/json;charset=ISO-8859-1", "latin-1"),
    ],
)
async def test_json_is_taken_whatever_it_is_called_and_written_in(
    client: httpx2.AsyncClient, control: FakeControl, content_type: str | None, encoding: str
) -> None:
    body = json.dumps({"name": "sole", "uri": "/zunge/ü"}, ensure_ascii=False).encode(encoding)
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = await client.post(MODELS, content=body, headers=headers)
    assert response.status_code == 201
    assert control.specs["sole"].uri == "/zunge/ü"


@pytest.mark.parametrize("charset", ["klingon", "unicode_escape", "zlib"])
async def test_a_charset_that_no_json_is_in_is_refused(
    client: httpx2.AsyncClient, charset: str
) -> None:
    headers = {"Content-Type": f"application/json; charset={charset}"}
    response = await client.post(MODELS, content=b"{}", headers=headers)
    assert f"'{charset}'" in refused(response, 400, "INVALID_REQUEST")


async def test_text_that_is_not_in_its_charset_is_refused(client: httpx2.AsyncClient) -> None:
    headers = {"Content-Type": "application/json; charset=utf-16-le"}
    response = await client.post(MODELS, content=b"{}{", headers=headers)
    assert "utf-16-le" in refused(response, 400, "INVALID_REQUEST")


async def test_a_compressed_body_is_refused(client: httpx2.AsyncClient) -> None:
    response = await client.post(MODELS, content=b"{}", headers={"Content-Encoding": "gzip"})
    assert "Content-Encoding" in refused(response, 400, "INVALID_REQUEST")


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/v1/model", "/api/v1/models/", "/api/v2", "/health"])
async def test_a_path_that_is_not_there_is_named(client: httpx2.AsyncClient, path: str) -> None:
    assert path in refused(await client.get(path), 404, "PATH_NOT_FOUND")


async def test_a_refused_method_tells_the_methods_there_are(client: httpx2.AsyncClient) -> None:
    response = await client.patch(f"{MODELS}/churn")
    assert "PATCH" in refused(response, 405, "METHOD_NOT_ALLOWED")
    assert response.headers["allow"] == "DELETE, GET, HEAD, PUT"


async def test_head_answers_as_get_does(client: httpx2.AsyncClient) -> None:
    for path in (MODELS, f"{MODELS}/churn", "/health/ready", "/metrics", "/"):
        got, head = await client.get(path), await client.head(path)
        assert head.status_code == 200
        assert head.headers["content-length"] == got.headers["content-length"]


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (Overloaded("too many", 0.5), 429, "1"),
        (StoreUnavailable("the registry's file is locked", 1.5), 503, "2"),
        (ShuttingDown("it is draining", 5), 503, "5"),
        (TooLarge("larger than the budget"), 503, None),
    ],
)
async def test_what_the_instance_raises_is_answered_by_the_table(
    client: httpx2.AsyncClient,
    control: FakeControl,
    error: Any,
    status: int,
    retry_after: str | None,
) -> None:
    control.failures["load"] = error
    response = await client.post(f"{MODELS}/churn/load")
    assert refused(response, status, error.code) == error.message
    assert response.json()["retryable"] is error.retryable
    assert response.headers.get("retry-after") == retry_after


async def test_a_fault_of_the_program_is_logged_but_not_shown(
    client: httpx2.AsyncClient, control: FakeControl
) -> None:
    control.failures["model"] = ZeroDivisionError("secret")
    processors = [structlog.contextvars.merge_contextvars]
    with capture_logs(processors=processors) as logs:
        response = await client.get(f"{MODELS}/churn", headers={"X-Request-Id": "r-1"})
    message = refused(response, 500, "INTERNAL")
    assert "r-1" in message
    assert "secret" not in message
    assert "Traceback" not in response.text
    [line] = logs
    assert (line["log_level"], line["path"], line["request_id"]) == (
        "error",
        f"{MODELS}/churn",
        "r-1",
    )


async def test_the_id_of_a_request_comes_back(client: httpx2.AsyncClient) -> None:
    for path in (MODELS, "/nowhere", f"{MODELS}/nemo"):
        response = await client.get(path, headers={"X-Request-Id": "trace/7:a~!"})
        assert response.headers["x-request-id"] == "trace/7:a~!"


@pytest.mark.parametrize("given", [None, b"", b"a b", b"x" * 129, b"caf\xe9", b"a\tb"])
async def test_a_request_without_a_fit_id_gets_one(
    client: httpx2.AsyncClient, given: bytes | None
) -> None:
    headers = {} if given is None else {b"X-Request-Id": given}
    ids = [
        (await client.get("/health/live", headers=headers)).headers["x-request-id"]
        for _ in range(2)
    ]
    assert [len(each) for each in ids] == [32, 32]
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
async def test_a_page_of_another_site_changes_nothing(
    client: httpx2.AsyncClient, control: FakeControl, headers: dict[str, str]
) -> None:
    refused(await client.post(f"{MODELS}/churn/unload", headers=headers), 403, "NOT_ALLOWED")
    assert control.calls == []
    assert (await client.get(MODELS, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Origin": "http://shoal"}],
)
async def test_programs_and_the_servers_own_page_may_change_things(
    client: httpx2.AsyncClient, headers: dict[str, str]
) -> None:
    response = await client.post(f"{MODELS}/churn/unload", headers=headers)
    assert response.status_code == 200


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
        "POST /api/v1/models:batch",
        "POST /api/v1/models:unregister",
        "GET /api/v1/models/{name}",
        "PUT /api/v1/models/{name}",
        "DELETE /api/v1/models/{name}",
        "POST /api/v1/models/{name}/load",
        "POST /api/v1/models/{name}/unload",
        "GET /api/v1/models/{name}/explain",
        "GET /api/v1/instances",
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
