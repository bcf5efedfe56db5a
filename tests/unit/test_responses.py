"""Responses of the public port: errors, request ids, compression."""

from __future__ import annotations

import gzip
import inspect
import json

import pytest

from shoal.codecs import compression
from shoal.dataplane.http import responses
from shoal.dataplane.http.calls import timeout_s
from shoal.dataplane.http.message import Request, Response
from shoal.dataplane.inference import LONGEST_TIMEOUT_S
from shoal.domain.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LoadFailed,
    MethodNotAllowed,
    NoRoom,
    ShoalError,
    TooLarge,
)

LARGE = b"x" * (responses.THREAD_BYTES - 1)


def request(body: bytes = b"", **headers: str) -> Request:
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return Request("POST", "/v2/models/m/infer", "", named, body, 0.0)


def headers_of(response: Response) -> dict[bytes, bytes]:
    return dict(response.headers)


# --- errors -------------------------------------------------------------------------------------


def test_an_error_is_json_with_its_code() -> None:
    response = responses.error_response(InvalidRequest('input "ü" is wrong'))
    assert response.status == 400
    assert json.loads(b"".join(response.body)) == {"error": 'input "ü" is wrong'}
    assert headers_of(response) == {
        b"content-type": b"application/json", b"shoal-error-code": b"INVALID_REQUEST",
    }


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (LoadFailed("no", 1.2), b"2"), (NoRoom("no", 0.0), b"0"), (TooLarge("no", 9.0), None),
        (InvalidRequest("no"), None),
    ],
)
def test_what_may_go_better_later_says_when(error: ShoalError, wait: bytes | None) -> None:
    assert headers_of(responses.error_response(error)).get(b"retry-after") == wait


def test_a_wrong_method_names_the_right_ones() -> None:
    response = responses.error_response(MethodNotAllowed("no", ("GET", "HEAD")))
    assert (response.status, headers_of(response)[b"allow"]) == (405, b"GET, HEAD")


# --- request ids --------------------------------------------------------------------------------


def test_the_clients_id_comes_back() -> None:
    response = responses.identified(request(x_request_id="a-1"), Response(200))
    assert headers_of(response) == {b"x-request-id": b"a-1"}


def test_an_answer_without_fault_or_wish_has_no_id() -> None:
    assert responses.identified(request(), Response(200)).headers == []


def test_each_error_gets_an_id() -> None:
    ids = {
        headers_of(responses.identified(request(), Response(404)))[b"x-request-id"]
        for _ in range(9)
    }
    assert len(ids) == 9


@pytest.mark.parametrize("given", ["", "a b", "a\x00", "é", "x" * 129, "a\tb"])
def test_an_id_that_is_not_fit_to_be_logged_is_replaced(given: str) -> None:
    asked = request(x_request_id=given)
    made = responses.request_id(asked)
    assert made != given
    assert responses.request_id(asked) == made
    assert headers_of(responses.identified(asked, Response(200))) == {
        b"x-request-id": made.encode()
    }


# --- compression --------------------------------------------------------------------------------


def test_a_large_answer_is_compressed_if_the_client_takes_it() -> None:
    answer = responses.compressed(
        request(accept_encoding="gzip"), Response(200, [LARGE[:2000], memoryview(LARGE[2000:])])
    )
    assert isinstance(answer, Response)
    assert gzip.decompress(b"".join(answer.body)) == LARGE
    assert headers_of(answer) == {b"content-encoding": b"gzip", b"vary": b"accept-encoding"}


async def test_a_very_large_answer_is_compressed_on_a_thread() -> None:
    body = LARGE + b"x"
    answer = responses.compressed(request(accept_encoding="gzip"), Response(200, [body]))
    assert inspect.isawaitable(answer)
    assert gzip.decompress(b"".join((await answer).body)) == body


@pytest.mark.parametrize("accepted", [None, "identity", "br", "gzip;q=0"])
def test_an_answer_is_left_alone_if_the_client_takes_nothing_else(accepted: str | None) -> None:
    asked = request() if accepted is None else request(accept_encoding=accepted)
    answer = responses.compressed(asked, Response(200, [LARGE]))
    assert isinstance(answer, Response)
    assert answer.body == [LARGE]
    assert b"content-encoding" not in headers_of(answer)
    assert (b"vary" in headers_of(answer)) is (accepted is not None)


def test_small_answers_and_errors_are_left_alone() -> None:
    small = Response(200, [b"x" * (compression.THRESHOLD_BYTES - 1)])
    for response in (small, Response(400, [LARGE])):
        assert responses.compressed(request(accept_encoding="gzip"), response) is response
        assert response.headers == []


def test_a_body_is_decompressed() -> None:
    assert responses.read_body(request(b"abc"), 10) == b"abc"
    packed = request(gzip.compress(b"abc"), content_encoding="gzip")
    assert responses.read_body(packed, 3) == b"abc"


# --- headers that are numbers -------------------------------------------------------------------


def test_the_length_of_the_json_is_a_number() -> None:
    assert responses.json_length(request()) is None
    assert responses.json_length(request(inference_header_content_length="12")) == 12


@pytest.mark.parametrize("given", ["", "-1", "1.0", "0x1", "1" * 16, "²"])
def test_a_length_that_is_no_number_is_refused(given: str) -> None:
    with pytest.raises(InvalidRequest, match="must be the number of bytes of JSON"):
        responses.json_length(request(inference_header_content_length=given))


def test_the_clients_deadline_wins_over_the_default() -> None:
    assert timeout_s(request(), 60.0) == 60.0
    assert timeout_s(request(shoal_timeout_ms="1500"), 60.0) == 1.5
    assert timeout_s(request(shoal_timeout_ms="90000"), 60.0) == 90.0


@pytest.mark.parametrize("digits", [10, 18, 19, 400, 5000])
def test_deadlines_end_at_a_day(digits: int) -> None:
    assert timeout_s(request(shoal_timeout_ms="9" * digits), 60.0) == LONGEST_TIMEOUT_S


@pytest.mark.parametrize("given", ["", "-1", "1.5", "1e3", "2s", "²", "x" * 999])
def test_a_deadline_that_is_no_number_is_refused(given: str) -> None:
    with pytest.raises(InvalidRequest, match="whole number of milliseconds") as caught:
        timeout_s(request(shoal_timeout_ms=given), 60.0)
    assert len(caught.value.message) < 150


def test_a_deadline_that_has_passed_is_exceeded() -> None:
    with pytest.raises(DeadlineExceeded):
        timeout_s(request(shoal_timeout_ms="0"), 60.0)
