"""Errors as the SDK reads them from answers, and addresses as it reads them from people."""

from __future__ import annotations

import pytest

from shoal.client.endpoints import Endpoints, segment, with_query
from shoal.client.errors import Answer, UnexpectedAnswer, error_of, retry_after_s
from shoal.domain import errors


def test_the_code_in_the_body_names_the_error() -> None:
    answer = Answer(404, b'{"error": "model x is unknown", "code": "MODEL_NOT_FOUND"}')
    error = error_of(answer)
    assert type(error) is errors.ModelNotFound
    assert error.message == "model x is unknown"


def test_the_code_in_the_header_names_the_error() -> None:
    answer = Answer(400, b'{"error": "bad shape"}', {"shoal-error-code": "INVALID_INPUT"})
    assert type(error_of(answer)) is errors.InvalidInput


def test_every_error_of_the_tree_survives_the_wire() -> None:
    pending = [errors.ShoalError]
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        answer = Answer(503, b'{"error": "why"}', {"shoal-error-code": kind.code})
        assert type(error_of(answer)) is kind


def test_no_room_says_when_to_come_back() -> None:
    answer = Answer(503, b'{"error": "full", "code": "NO_ROOM"}', {"retry-after": "12"})
    error = error_of(answer)
    assert isinstance(error, errors.NoRoom)
    assert error.retry_after_s == 12.0


def test_a_method_that_is_not_allowed_says_which_are() -> None:
    answer = Answer(405, b'{"error": "no"}', {"allow": "GET, PUT"})
    error = error_of(answer)
    assert isinstance(error, errors.MethodNotAllowed)
    assert error.allowed == ("GET", "PUT")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, UnexpectedAnswer),
        (400, errors.InvalidRequest),
        (401, errors.NotAllowed),
        (403, errors.NotAllowed),
        (404, errors.NotFound),
        (408, errors.DeadlineExceeded),
        (409, errors.Conflict),
        (413, errors.BodyTooLarge),
        (418, errors.InvalidRequest),
        (422, errors.InvalidSpecification),
        (429, errors.Overloaded),
        (500, errors.ShoalError),
        (502, errors.Unavailable),
        (503, errors.Unavailable),
        (504, errors.DeadlineExceeded),
    ],
)
def test_without_a_code_the_status_decides(status: int, kind: type[errors.ShoalError]) -> None:
    assert type(error_of(Answer(status, b'{"error": "why"}'))) is kind


def test_an_unknown_code_falls_back_to_the_status() -> None:
    answer = Answer(404, b'{"error": "why", "code": "OF_NEXT_YEAR"}')
    assert type(error_of(answer)) is errors.NotFound


@pytest.mark.parametrize("body", [b"<html>bad\n gateway</html>", b"\xff\xfe", b"[]", b""])
def test_a_body_that_is_not_ours_is_shown_in_short(body: bytes) -> None:
    error = error_of(Answer(502, body * 100, url="http://a/b"))
    assert error.message.startswith("http://a/b answered 502")
    assert len(error.message) < 260
    assert "\n" not in error.message


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
        (
            {
                "retry-after": "Wed, 21 Oct 2026 07:28:30 GMT",
                "date": "Wed, 21 Oct 2026 07:28:00 GMT",
            },
            30.0,
        ),
    ],
)
def test_retry_after_is_seconds_or_a_date(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


@pytest.mark.parametrize(
    ("server", "management"),
    [
        ("http://models.example:9000", "http://models.example:8082"),
        ("https://models.example", "https://models.example:8082"),
        ("localhost:8080", "http://localhost:8082"),
        ("http://[::1]:8080/", "http://[::1]:8082"),
    ],
)
def test_management_is_port_8082_of_the_same_host(server: str, management: str) -> None:
    assert Endpoints.of(server).management == (management,)


def test_a_path_before_the_api_is_kept() -> None:
    endpoints = Endpoints.of("http://proxy/shoal/", "http://proxy/admin/")
    assert endpoints.inference == ("http://proxy/shoal",)
    assert endpoints.management == ("http://proxy/admin",)


def test_several_servers_have_their_management_beside_each() -> None:
    endpoints = Endpoints.of(["http://a:8080", "b:8080", "http://b:8081", "http://a:8080/"])
    assert endpoints.inference == ("http://a:8080", "http://b:8080", "http://b:8081")
    assert endpoints.management == ("http://a:8082", "http://b:8082")
    assert Endpoints.of("a", ["b", "c"]).management == ("http://b", "http://c")


def test_an_empty_list_of_servers_is_refused() -> None:
    with pytest.raises(errors.InvalidSpecification, match="there is no server address"):
        Endpoints.of([])


@pytest.mark.parametrize("address", ["ftp://x", "http://", "http://h:port", "", "http://h?x=1"])
def test_an_address_that_is_no_http_url_is_refused(address: str) -> None:
    with pytest.raises(errors.InvalidSpecification, match="write for example"):
        Endpoints.of(address)


def test_only_addresses_of_this_machine_avoid_proxies() -> None:
    assert Endpoints.of("http://localhost:1", "http://127.0.0.1:2").local
    assert not Endpoints.of("http://localhost:1", "http://models.example").local
    assert not Endpoints.of(["http://localhost:1", "http://models.example"]).local


def test_paths_and_queries_are_encoded() -> None:
    assert segment("a/b c") == "a%2Fb%20c"
    assert with_query("/x", a=None, b=True, c="d&e", f=1) == "/x?b=true&c=d%26e&f=1"
    assert with_query("/x", a=None) == "/x"
