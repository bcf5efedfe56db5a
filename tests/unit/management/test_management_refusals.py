"""What the management API does not take: wrong queries, bodies, paths; and how it says so."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import structlog
from structlog.testing import capture_logs
from tests.fake_control import FakeControl
from tests.management_app import JSON, MODELS, refused

from shoal.domain.errors import Overloaded, ShuttingDown, StoreUnavailable, TooLarge

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
