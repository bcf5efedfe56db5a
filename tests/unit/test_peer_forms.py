"""Requests and answers as they pass between instances come out as they went in."""

from __future__ import annotations

import gzip

import msgspec
import pytest

from shoal.codecs.peer import Lost, Outcome, PeerReply
from shoal.dataplane.grpc import peer_form as grpc_form
from shoal.dataplane.grpc import statuses
from shoal.dataplane.grpc.message import Code, Head, Reply, Request, Unary
from shoal.dataplane.http import peer_form as http_form
from shoal.dataplane.http.message import Request as HttpRequest
from shoal.dataplane.http.message import Response
from shoal.dataplane.peer.refusals import as_miss, refusal
from shoal.domain.errors import (
    CopyGone,
    DeadlineExceeded,
    LoadFailed,
    ModelFailed,
    Overloaded,
    ShoalError,
)
from shoal.domain.events import Miss

PATH = "/inference.GRPCInferenceService/ModelInfer"


def http(body: bytes = b"{}", query: str = "", **headers: str) -> HttpRequest:
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return HttpRequest("POST", "/v2/models/m/infer", query, named, body, 1.0)


def passed(request: HttpRequest, timeout_ms: int = 0) -> HttpRequest:
    return http_form.unpack_request(http_form.pack_head(request), request.body, timeout_ms)


def answered(response: Response) -> Response:
    return http_form.unpack_answer(joined(http_form.pack_answer(response)))[0]


def joined(reply: PeerReply) -> PeerReply:
    """As a link delivers it: the body in one piece."""
    return PeerReply(reply.outcome, reply.head, [b"".join(reply.body)])


# --- HTTP ---------------------------------------------------------------------------------------


def test_an_http_request_keeps_its_line_its_query_and_its_headers() -> None:
    came = passed(http(b"\x00\x01", "a=1", content_type="text/odd", authorization="Bearer x"))
    assert (came.method, came.target, came.query) == ("POST", "/v2/models/m/infer", "a=1")
    assert came.headers == {b"content-type": b"text/odd", b"authorization": b"Bearer x"}
    assert came.body == b"\x00\x01"


def test_what_is_between_a_client_and_its_instance_stays_there() -> None:
    came = passed(http(
        content_length="2", connection="keep-alive, x-mine", keep_alive="5", te="trailers",
        transfer_encoding="chunked", expect="100-continue", upgrade="h2c", x_mine="kept",
    ))
    assert came.headers == {b"x-mine": b"kept"}


def test_the_time_that_is_left_takes_the_place_of_what_the_client_allowed() -> None:
    request = http(shoal_timeout_ms="5000")
    assert passed(request).headers == {}
    assert passed(request, 1200).headers == {b"shoal-timeout-ms": b"1200"}


def test_equal_heads_are_read_once_unless_their_time_differs() -> None:
    first, second = passed(http(accept="*/*")), passed(http(accept="*/*"))
    assert first.head is not None
    assert first.head is second.head
    timed = passed(http(accept="*/*"), 10)
    assert timed.head is None
    assert b"shoal-timeout-ms" not in passed(http(accept="*/*")).headers


def test_a_compressed_body_is_passed_on_as_it_is() -> None:
    packed = gzip.compress(b"{}" * 1000)
    came = passed(http(packed, content_encoding="gzip"))
    assert (came.body, came.headers) == (packed, {b"content-encoding": b"gzip"})


def test_a_long_head_of_strange_bytes_is_passed_on() -> None:
    request = http()
    request.headers = {b"x-odd": bytes(range(0x80, 0x100)), b"x-long": b"a" * 20_000}
    assert passed(request).headers == request.headers


@pytest.mark.parametrize("headers", [
    [], [(b"content-type", b"application/json")],
    [(b"vary", b"accept-encoding"), (b"vary", b"origin"), (b"x-request-id", b"7")],
    [(b"x-long", b"a" * 5000)],
], ids=["none", "one", "repeated", "long"])  # fmt: skip
def test_an_http_answer_keeps_its_status_and_its_headers(
    headers: list[tuple[bytes, bytes]]
) -> None:
    came = answered(Response(418, [b"ab", memoryview(b"cd")], headers))
    assert (came.status, came.headers, came.body) == (418, headers, [b"abcd"])


def test_headers_added_to_one_answer_are_not_in_the_next() -> None:
    reply = joined(http_form.pack_answer(Response(200, [b"x"], [(b"a", b"1")])))
    http_form.unpack_answer(reply)[0].headers.append((b"b", b"2"))
    assert http_form.unpack_answer(reply)[0].headers == [(b"a", b"1")]


# --- gRPC ---------------------------------------------------------------------------------------


def grpc_head(**headers: str) -> Head:
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return Head(PATH, named, METHODS[PATH])


def handled(request: Request) -> Reply:
    return Reply()


METHODS = {PATH: Unary(PATH, handled)}


def read(head: Head, timeout_ms: int = 0, request_id: str | None = None) -> Request:
    raw = grpc_form.pack_head(head, PATH, request_id)
    return grpc_form.CallReader(METHODS).read(raw, b"message", timeout_ms, 2.0)


def test_a_call_keeps_its_path_and_its_metadata_but_not_how_its_messages_came() -> None:
    came = read(grpc_head(
        te="trailers", content_type="application/grpc", grpc_encoding="gzip",
        grpc_accept_encoding="gzip", grpc_timeout="1S", user_agent="x", authorization="y",
    ))
    assert (came.head.path, came.message, came.started) == (PATH, b"message", 2.0)
    assert came.head.headers == {b"user-agent": b"x", b"authorization": b"y"}
    assert (came.head.timeout, came.head.encoding, came.request_id) == (None, b"identity", None)


def test_the_time_left_of_a_call_is_told_in_milliseconds() -> None:
    assert read(grpc_head(grpc_timeout="10S"), 1234).head.timeout == b"1234m"


def test_the_id_that_a_call_got_goes_with_it() -> None:
    assert read(grpc_head(), request_id="7-1").request_id == "7-1"


def test_an_id_is_not_kept_for_the_next_call_with_an_equal_head() -> None:
    head = grpc_head()
    assert read(head, request_id="7-1").request_id == "7-1"
    assert read(head).request_id is None
    assert head.packed is not None


def test_a_plain_reply_needs_no_head() -> None:
    reply = grpc_form.pack_reply(Reply([b"ab", memoryview(b"cd")]))
    assert reply.head == b""
    came, status = grpc_form.unpack_reply(joined(reply))
    assert (came.parts, came.code, status) == ([b"abcd"], Code.OK, 200)


def test_a_failed_call_keeps_its_code_message_and_metadata() -> None:
    sent = statuses.of_error(DeadlineExceeded("zu spät"), "7")
    came, status = grpc_form.unpack_reply(joined(grpc_form.pack_reply(sent)))
    assert came == sent
    assert status == 504


def test_a_code_of_a_later_release_is_unknown_here() -> None:
    raw = msgspec.msgpack.encode({"code": 99, "message": "what", "new": [1]})
    came, status = grpc_form.unpack_reply(PeerReply(Outcome.ANSWERED, raw, [b""]))
    assert (came.code, came.message, status) == (Code.UNKNOWN, "what", 500)


# --- refusals -----------------------------------------------------------------------------------


def miss_of(error: ShoalError) -> Miss:
    reply = refusal(error)
    assert reply is not None
    found = as_miss(reply, "b", "m@1")
    assert isinstance(found, Miss)
    return found


def test_an_instance_without_the_copy_says_so() -> None:
    missed = miss_of(CopyGone("gone", 0.0))
    assert (missed.instance, missed.revision, missed.code, missed.lost) == (
        "b", "m@1", "COPY_GONE", False)


@pytest.mark.parametrize("kind", [LoadFailed, Overloaded])
def test_what_another_instance_may_do_better_is_refused_in_the_same_words(
    kind: type[LoadFailed]
) -> None:
    missed = miss_of(kind("not now", 7.0))
    assert (missed.code, missed.message, missed.retry_after_s) == (kind.code, "not now", 7.0)


def test_errors_of_the_request_itself_are_answers() -> None:
    assert refusal(ModelFailed("no")) is None
    assert refusal(DeadlineExceeded("late")) is None


def test_a_link_that_refuses_by_itself_says_why() -> None:
    found = as_miss(PeerReply(Outcome.REFUSED, b"", [b"shutting down"]), "b", "m@1")
    assert isinstance(found, Miss)
    assert (found.code, found.message) == (
        "UNAVAILABLE", "instance 'b' took no request: shutting down")


@pytest.mark.parametrize("head", [
    msgspec.msgpack.encode({"code": "OF_TOMORROW", "message": "odd", "retry_after_s": 3.0}),
    b"\xc1 no msgpack",
], ids=["unknown-code", "garbled"])
def test_a_refusal_that_is_not_understood_is_one_all_the_same(head: bytes) -> None:
    found = as_miss(PeerReply(Outcome.REFUSED, head), "b", "m@1")
    assert isinstance(found, Miss)
    assert found.code == "UNAVAILABLE"


def test_a_lost_request_may_have_run_only_if_it_was_written() -> None:
    for written in (False, True):
        found = as_miss(Lost(written, "the cable"), "b", "m@1")
        assert isinstance(found, Miss)
        assert (found.code, found.lost) == ("UNREACHABLE", written)
        assert "the cable" in found.message


def test_a_defect_of_another_instance_is_not_tried_on_the_next() -> None:
    found = as_miss(PeerReply(Outcome.FAILED, b"", [b"secret"]), "b", "m@1")
    assert isinstance(found, ShoalError)
    assert str(found) == "internal error in instance 'b'; its log says more"
