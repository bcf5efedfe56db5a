"""How calls end and what their headers mean: statuses, messages, timeouts, encodings."""

from __future__ import annotations

from urllib.parse import unquote

import pytest

from shoal.codecs.http2 import Headers
from shoal.dataplane.grpc import heads, statuses
from shoal.dataplane.grpc.calls import timeout_s
from shoal.dataplane.grpc.message import Code, Head, Method, Reply, Request, Unary
from shoal.dataplane.inference import LONGEST_TIMEOUT_S
from shoal.domain.errors import (
    DeadlineExceeded,
    InvalidInput,
    InvalidRequest,
    ModelNotFound,
    NoRoom,
    Overloaded,
    ShoalError,
    TooLarge,
)

METHOD = Unary("/a.B/C", lambda request: Reply())
METHODS: dict[str, Method] = {METHOD.path: METHOD}


def headers(path: str = "/a.B/C", method: str = "POST", **fields: str) -> Headers:
    given = {"content-type": "application/grpc"} | {
        name.replace("_", "-"): value for name, value in fields.items()
    }
    return Headers(
        {b":method": method.encode(), b":path": path.encode(), b":scheme": b"http"},
        tuple((name.encode(), value.encode()) for name, value in given.items()),
    )


def head(**fields: str) -> Head:
    read = heads.read(headers(**fields), METHODS)
    assert isinstance(read, Head)
    return read


def refusal(given: Headers) -> bytes:
    read = heads.read(given, METHODS)
    assert isinstance(read, bytes)
    return read


# --- statuses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "code"), [
    (InvalidInput("x"), Code.INVALID_ARGUMENT), (ModelNotFound("x"), Code.NOT_FOUND),
    (NoRoom("x", 2.0), Code.UNAVAILABLE), (TooLarge("x"), Code.RESOURCE_EXHAUSTED),
    (Overloaded("x"), Code.RESOURCE_EXHAUSTED), (DeadlineExceeded("x"), Code.DEADLINE_EXCEEDED),
    (ShoalError("x"), Code.INTERNAL),
], ids=lambda each: type(each).__name__)
def test_errors_are_statuses(error: ShoalError, code: Code) -> None:
    reply = statuses.of_error(error, "id-1")
    assert (reply.code, reply.message) == (code, "x")
    metadata = dict(reply.metadata)
    assert metadata[b"shoal-error-code"] == error.code.encode()
    assert metadata[b"x-request-id"] == b"id-1"


def test_what_passes_says_when_to_come_back() -> None:
    metadata = dict(statuses.of_error(NoRoom("x", 1.5), "id").metadata)
    assert (metadata[b"retry-after"], metadata[b"grpc-retry-pushback-ms"]) == (b"2", b"2000")
    metadata = dict(statuses.of_error(NoRoom("x", 60.0), "id").metadata)
    assert (metadata[b"retry-after"], metadata[b"grpc-retry-pushback-ms"]) == (b"60", b"-1")
    assert b"retry-after" not in dict(statuses.of_error(TooLarge("x"), "id").metadata)


@pytest.mark.parametrize("text", ["plain", "100 % Käse\n\x00", "🦊", ""])
def test_messages_are_percent_encoded(text: str) -> None:
    encoded = statuses.encoded_message(text)
    assert all(0x20 <= byte < 0x7F for byte in encoded)
    assert unquote(encoded.decode()) == text


def test_long_messages_are_cut_between_characters() -> None:
    text = unquote(statuses.encoded_message("ü" * 5000).decode())
    assert text == "ü" * 1000 + "…"


def test_surrogates_do_no_harm_in_messages() -> None:
    assert statuses.encoded_message("\ud800") == b"?"


# --- heads --------------------------------------------------------------------------------------


def test_a_head_says_what_is_called() -> None:
    found = head(grpc_encoding="gzip", grpc_accept_encoding="identity, gzip", x_request_id="7")
    assert (found.method, found.encoding, found.answers) == (METHOD, b"gzip", b"gzip")
    assert not found.plain
    assert head().plain
    assert head(grpc_accept_encoding="identity,deflate,gzip").answers == b"identity"
    assert head(grpc_encoding="gzip").answers == b"identity"


@pytest.mark.parametrize("kind", ["application/grpc+proto", "application/grpc;charset=utf-8"])
def test_other_names_of_the_content_type_pass(kind: str) -> None:
    assert head(content_type=kind).method is METHOD


def test_what_is_no_grpc_is_refused_by_its_http_status() -> None:
    assert b"415" in refusal(headers(content_type="application/json"))
    assert b"415" in refusal(headers(content_type="application/grpc-web"))
    assert b"405" in refusal(headers(method="GET"))


def test_what_is_not_served_is_unimplemented() -> None:
    assert b"there is no method '/nope'" in refusal(headers("/nope"))
    assert len(refusal(headers("/" + "x" * 5000))) < 500
    block = refusal(headers(grpc_encoding="snappy"))
    assert b"'snappy' is not supported" in block
    assert b"identity,gzip,deflate" in block


# --- timeouts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "seconds"), [
    ("1H", 3600.0), ("2M", 120.0), ("3S", 3.0), ("250m", 0.25), ("10u", 1e-5), ("10n", 1e-8),
    ("99999999H", LONGEST_TIMEOUT_S),
])
def test_timeouts_have_units(given: str, seconds: float) -> None:
    assert timeout_s(head(grpc_timeout=given), 60.0) == pytest.approx(seconds)


def test_without_a_timeout_the_default_counts() -> None:
    assert timeout_s(head(), 60.0) == 60.0


@pytest.mark.parametrize("given", ["", "1", "S", "1.5S", "123456789S", "-1S", "1s", "1S "])
def test_what_is_no_timeout_is_refused(given: str) -> None:
    with pytest.raises(InvalidRequest, match="grpc-timeout is"):
        timeout_s(head(grpc_timeout=given), 60.0)


def test_no_time_left_is_late() -> None:
    with pytest.raises(DeadlineExceeded):
        timeout_s(head(grpc_timeout="0m"), 60.0)


def test_a_request_has_one_id() -> None:
    from shoal.dataplane.grpc.calls import request_id

    request = Request(head(), b"", 0.0)
    assert request_id(request) == request_id(request)
    assert request_id(Request(head(x_request_id="order-1"), b"", 0.0)) == "order-1"
    assert request_id(Request(head(x_request_id="a b"), b"", 0.0)) != "a b"
