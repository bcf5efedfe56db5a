"""What a connection takes for a request, what it refuses, and its limits."""

from __future__ import annotations

import contextlib
import random
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs
from tests.fake_transport import (
    LOOP_TIME,
    Bench,
    chunked,
    get,
    limited,
    only,
    post,
    refused,
    split,
)

from shoal.dataplane.http.message import Request, Response
from shoal.dataplane.http.reader import MAX_HEADERS, KnownHeads, RequestReader
from shoal.settings import HttpSettings


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- reading ------------------------------------------------------------------------------------


def test_a_request_is_given_as_it_was_sent(bench: Bench) -> None:
    bench.send(
        b"POST /v2/models/a%2Fb/infer?x=1&y=%20?z HTTP/1.1\r\nHOST: h\r\nX-Y:  v \t\r\n"
        b"Content-Length: 3\r\n\r\nabc"
    )
    [request] = bench.requests
    assert request.method == "POST"
    assert request.target == "/v2/models/a%2Fb/infer"
    assert request.query == "x=1&y=%20?z"
    assert request.headers == {b"host": b"h", b"x-y": b"v", b"content-length": b"3"}
    assert request.body == b"abc"
    assert request.received_at == LOOP_TIME


def test_the_time_of_a_request_is_that_of_its_first_byte(bench: Bench) -> None:
    bench.send(b"GET / HT")
    bench.loop.now += 3
    bench.send(b"TP/1.1\r\nhost: x\r\n\r\n")
    assert bench.requests[0].received_at == LOOP_TIME


def test_a_response_has_status_date_length_headers_and_body(bench: Bench) -> None:
    answer = bench.send(get("/a?b"))
    assert re.fullmatch(
        rb"HTTP/1.1 200 OK\r\ndate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n"
        rb"content-length: 10\r\ncontent-type: text/plain\r\n\r\nGET /a\?b 0",
        answer,
    )


STREAM = b"".join(
    [
        get("/1"),
        post(b"two"),
        chunked(b"thr", b"ee", trailers=b"Host: evil\r\nX-T: t\r\n"),
        get("/4", "Connection: Upgrade", "Upgrade: h2c"),
        post(b"five!", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"),
        chunked(b"s", b"ix", headers=b"Connection: upgrade\r\nUpgrade: h2c\r\n"),
        post(b"", "Connection: Upgrade", "Upgrade: h2c"),
        b"\r\n",
        get("/7", "X-Forwarded-For: a", "X-Forwarded-For: b"),
        b"HEAD /8 HTTP/1.1\r\nHost: x\r\n\r\n",
        get("/9", "Connection: close"),
    ]
)
BODIES = [b"", b"two", b"three", b"", b"five!", b"six", b"", b"", b"", b""]


def answers_of(pieces: list[bytes]) -> tuple[bytes, list[Request]]:
    bench = Bench()
    answer = bench.send(*pieces)
    assert bench.transport.closed
    return re.sub(rb"date: [^\r]*", b"date: -", answer), bench.requests


def test_a_stream_gives_the_same_answers_split_at_every_point() -> None:
    whole, requests = answers_of([STREAM])
    assert [request.body for request in requests] == BODIES
    assert requests[7].headers[b"x-forwarded-for"] == b"a, b"
    assert requests[2].headers == {b"host": b"x", b"transfer-encoding": b"chunked"}
    for cut in range(1, len(STREAM)):
        assert answers_of([STREAM[:cut], STREAM[cut:]]) == (whole, requests), cut
    assert answers_of([STREAM[i : i + 1] for i in range(len(STREAM))]) == (whole, requests)


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_a_stream_gives_the_same_answers_split_anyhow(cuts: list[int]) -> None:
    points = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in pairwise(points)]
    assert answers_of([piece for piece in pieces if piece]) == answers_of([STREAM])


def test_direct_answers_to_one_read_are_one_write(bench: Bench) -> None:
    answer = bench.send(get("/a") * 10)
    assert len(list(split(answer))) == 10
    assert bench.transport.writes == 1


@pytest.mark.parametrize("json_length", [0, 1, 7, 16, 33])
def test_tensors_behind_a_head_of_json_lie_as_numpy_needs_them(
    bench: Bench, json_length: int
) -> None:
    body = bytes(range(256)) * 1024
    stream = post(body, f"Inference-Header-Content-Length: {json_length}") + get("/next")
    bench.send(*[stream[i : i + 50_000] for i in range(0, len(stream), 50_000)])
    large, following = bench.requests
    assert large.body == body
    assert following.target == "/next"
    behind = np.frombuffer(large.body[json_length:], np.uint8)
    assert behind.ctypes.data % 16 == 0
    assert behind.flags.writeable


def test_a_head_that_was_seen_before_is_understood_the_same(bench: Bench) -> None:
    request = post(b"abc", "Accept: x")
    first, second, third = [bench.send(request) for _ in range(3)]
    assert first == second == third
    assert len(bench.shared.known_heads) == 1
    bench.connect()
    assert bench.send(request) == first
    said = [structs.replace(request, head=None) for request in bench.requests]
    assert said[0] == said[1] == said[2] == said[3]


def test_what_a_handler_derives_from_a_known_head_stays_with_it(bench: Bench) -> None:
    bench.send(*[post(b"abc", "Accept: x")] * 4)
    heads = [request.head for request in bench.requests]
    assert heads[0] is heads[1] is None  # it is kept when it comes the second time
    assert heads[2] is heads[3] is not None


def test_a_known_head_with_more_or_less_behind_it_is_parsed(bench: Bench) -> None:
    request = post(b"abc")
    bench.send(request, request)
    assert len(list(split(bench.send(request + get("/next"))))) == 2
    assert bench.send(request[:-1]) == b""
    assert only(bench.send(request[-1:]))[2] == b"POST /p? 3"
    assert bench.requests[-1].body == b"abc"


@pytest.mark.parametrize(
    "request_bytes",
    [
        chunked(b"a"),
        b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\na",
        post(b"a", "Connection: upgrade", "Upgrade: h2c"),
        b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
        b"\r\n\r\n" + get("/"),
        get("/", "X: " + "y" * KnownHeads.LARGEST),
    ],
)
def test_a_head_that_is_not_all_there_is_to_a_request_is_not_kept(
    bench: Bench, request_bytes: bytes
) -> None:
    for _ in range(3):
        assert only(bench.send(request_bytes))[0] == 200
    assert bench.shared.known_heads == {}


def test_known_heads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KnownHeads, "MOST", 4)
    bench = Bench()
    for i in range(20):
        bench.send(get(f"/{i}"), get(f"/{i}"))
        assert len(bench.shared.known_heads) <= 4
    assert len(bench.requests) == 40


# --- versions, connection, methods, targets -----------------------------------------------------


def test_http_1_0_closes_unless_asked_to_stay(bench: Bench) -> None:
    _, headers, _ = only(bench.send(b"GET / HTTP/1.0\r\n\r\n"))
    assert headers[b"connection"] == b"close"
    assert bench.transport.closed


def test_http_1_0_is_told_that_the_connection_stays(bench: Bench) -> None:
    for _ in range(2):
        request = b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"
        _, headers, _ = only(bench.send(request))
        assert headers[b"connection"] == b"keep-alive"
        assert not bench.transport.closed


def test_what_follows_connection_close_is_ignored(bench: Bench) -> None:
    answer = bench.send(get("/1", "Connection: close") + get("/2"), get("/3"))
    _, headers, body = only(answer)
    assert headers[b"connection"] == b"close"
    assert body == b"GET /1? 0"
    assert bench.transport.closed


def test_head_is_answered_with_the_length_but_without_the_body(bench: Bench) -> None:
    answer = bench.send(b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"content-length: 10\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_no_content_has_no_length() -> None:
    bench = Bench(lambda request: Response(204))
    assert b"content-length" not in bench.send(get())


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("http://h:80/a/b?c", "/a/b", "c"),
        ("HTTPS://u@h", "/", ""),
        ("http://h?q=/", "/", "q=/"),
        ("/a//b/../c", "/a//b/../c", ""),
    ],
)
def test_targets(bench: Bench, target: str, path: str, query: str) -> None:
    bench.send(get(target))
    assert (bench.requests[0].target, bench.requests[0].query) == (path, query)


def test_options_of_the_whole_server_is_a_target(bench: Bench) -> None:
    bench.send(b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n")
    assert bench.requests[0].target == "*"


@pytest.mark.parametrize(
    ("stream", "status", "part"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400, "Host"),
        (get("/", "Host: y"), 400, "two Host"),
        (get("*"), 400, "target"),
        (get("ftp://h/"), 400, "target"),
        (get("/a#b"), 400, "target"),
        (b"CONNECT h:1 HTTP/1.1\r\nhost: h\r\n\r\n", 501, "CONNECT"),
        (b"PROPFIND / HTTP/1.1\r\nhost: h\r\n\r\n", 501, "PROPFIND"),
        (b"FOO / HTTP/1.1\r\nhost: h\r\n\r\n", 400, "method"),
        (b"GET /\xff HTTP/1.1\r\nhost: h\r\n\r\n", 400, "url"),
        (b"GET /\x00 HTTP/1.1\r\nhost: h\r\n\r\n", 400, "url"),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, "HTTP/1.1"),
        (b"GET / HTTP/1.1\nhost: h\n\n", 400, "CRLF"),
        (b"GET / HTTP/2.0\r\nhost: h\r\n\r\n", 505, "HTTP/1.1"),
        (b"GET /\r\n\r\n", 505, "HTTP/1.1"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 505, "HTTP/2 is not"),
        (post(b"a", "Content-Length: 2"), 400, "Content-Length"),
        (post(b"a", "Content-Length: 1"), 400, "Content-Length"),
        (post(b"a", "Transfer-Encoding: chunked"), 400, "Transfer-Encoding"),
        (get("/", "Transfer-Encoding: gzip, chunked"), 501, "chunked"),
        (get("/", "Transfer-Encoding: xchunked"), 501, "chunked"),
        (get("/", "Transfer-Encoding: chunked, gzip"), 400, "Transfer-Encoding"),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "HTTP/1.0"),
        (get("/", "Content-Length: +1"), 400, "Content-Length"),
        (get("/", "Content-Length: 99999999999999999999999"), 400, "Content-Length"),
        (get("/", "X : y"), 400, "header"),
        (get("/", "X: y\r\n z"), 400, "header"),
        (get("/", "X: y\0z"), 400, "header"),
        (get("/", "Transfer-Encoding: chunked") + b"zz\r\n", 400, "chunk"),
        (get("/", "Expect: tea"), 417, "100-continue"),
    ],
)
def test_what_is_no_request_is_refused_and_ends_the_connection(
    bench: Bench, stream: bytes, status: int, part: str
) -> None:
    got, message = refused(bench, bench.send(stream))
    assert got == status
    assert part in message


def test_requests_before_a_bad_one_are_answered_first(bench: Bench) -> None:
    answer = bench.send(get("/1") + get("/2") + b"garbage\r\n\r\n" + get("/3"))
    assert [status for status, _, _ in split(answer)] == [200, 200, 400]
    assert [request.target for request in bench.requests] == ["/1", "/2"]


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    noise=st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from(
                [
                    get(), post(b"abc"), chunked(b"ab"), b"\r\n", b"0\r\n\r\n",
                    b"GET / HTTP/1.1\r\n", b"Host: x\r\n",
                    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n",
                    b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"Expect: 100-continue\r\n",
                ]
            ),
        ),
        max_size=12,
    )
)  # fmt: skip
def test_any_bytes_end_in_answers_or_a_close(noise: list[bytes]) -> None:
    bench = Bench()
    answer = bench.send(*noise)
    for status, headers, _ in split(answer.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")):
        assert status == 200 or (
            (400 <= status < 500 or status in (501, 505)) and headers[b"connection"] == b"close"
        )
    bench.later(31.0)
    bench.later(76.0)
    assert bench.transport.over
    assert bench.errors == []


# --- limits -------------------------------------------------------------------------------------


def test_a_head_at_the_limit_passes_and_one_above_does_not() -> None:
    head = get("/", "A: " + "y" * 900)
    assert only(limited(max_header_bytes=len(head)).send(head))[0] == 200
    for pieces in ([head], [head[:100], head[100:]], [head[i : i + 1] for i in range(len(head))]):
        bench = limited(max_header_bytes=len(head) - 1)
        status, message = refused(bench, bench.send(*pieces))
        assert status == 431
        assert "http.max_header_bytes" in message


def test_an_endless_head_is_refused_while_it_comes(bench: Bench) -> None:
    answer = bench.send(get()[:-2] + b"X: ", *[b"y" * 1000] * 40)
    assert refused(bench, answer)[0] == 431


def test_an_endless_target_is_refused_while_it_comes(bench: Bench) -> None:
    assert refused(bench, bench.send(b"GET /", *[b"y" * 1000] * 40))[0] == 431


def test_more_headers_than_allowed_are_refused(bench: Bench) -> None:
    headers = [f"h{i}: v" for i in range(MAX_HEADERS)]
    status, message = refused(bench, bench.send(get("/", *headers)))
    assert status == 431
    assert str(MAX_HEADERS) in message


@pytest.mark.parametrize("count", [MAX_HEADERS, 10 * MAX_HEADERS])
def test_one_header_repeated_too_often_is_refused(bench: Bench, count: int) -> None:
    assert refused(bench, bench.send(get("/", *["via: v"] * count)))[0] == 431


@pytest.mark.parametrize("body", [b"t: v\r\n" * 9000, b"t: " + b"v" * 99000, b"t: v\r\n" * 300])
def test_endless_trailers_are_refused(bench: Bench, body: bytes) -> None:
    stream = chunked(b"abc", trailers=body)
    pieces = [stream[i : i + 5000] for i in range(0, len(stream), 5000)]
    assert refused(bench, bench.send(*pieces))[0] == 431


def test_endless_chunk_extensions_are_refused(bench: Bench) -> None:
    stream = chunked(b"abc")[:-5] + b"1;x=" + b"y" * 99000
    pieces = [stream[i : i + 5000] for i in range(0, len(stream), 5000)]
    assert refused(bench, bench.send(*pieces))[0] == 431


def test_an_announced_body_over_the_limit_is_refused_before_it_comes() -> None:
    bench = limited(max_body_bytes=10)
    assert only(bench.send(post(b"y" * 10)))[0] == 200
    bench = limited(max_body_bytes=10)
    status, message = refused(bench, bench.send(post(b"y" * 11)[:-11]))
    assert status == 413
    assert "http.max_body_bytes allows (10 bytes)" in message


def test_chunks_over_the_limit_are_refused() -> None:
    assert only(limited(max_body_bytes=10).send(chunked(*[b"y"] * 10)))[0] == 200
    for chunks in ([b"y" * 11], [b"y"] * 11):
        bench = limited(max_body_bytes=10)
        assert refused(bench, bench.send(chunked(*chunks)))[0] == 413


def test_a_large_body_in_pieces_arrives_whole(bench: Bench) -> None:
    body = bytes(range(256)) * 2000
    stream = post(body)
    bench.send(*[stream[i : i + 70_000] for i in range(0, len(stream), 70_000)])
    assert bench.requests[0].body == body


def test_what_a_refused_client_still_sends_is_dropped_for_a_while() -> None:
    bench = limited(max_body_bytes=10)
    refused(bench, bench.send(post(b"y" * 100)[:-100]))
    assert bench.send(b"y" * 100_000) == b""
    assert not bench.transport.closed
    bench.later(6.0)
    assert bench.transport.aborted


def test_what_a_refused_client_still_sends_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.dataplane.http.connection.LINGER_BYTES", 1000)
    bench = limited(max_body_bytes=10)
    bench.send(post(b"y" * 100)[:-100], b"y" * 900)
    assert not bench.transport.aborted
    bench.send(b"y" * 900)
    assert bench.transport.aborted


def test_one_connection_too_many_is_told_so_and_closed() -> None:
    bench = limited(max_connections=1)
    first = bench.transport
    bench.connect()
    status, headers, body = only(bench.transport.written)
    assert status == 503
    assert headers[b"retry-after"] == b"1"
    assert b"http.max_connections" in body
    assert bench.transport.ended
    assert not first.over
    bench.lose()
    assert bench.shared.turned_away == 0


# --- the reader by itself -----------------------------------------------------------------------


def test_random_bytes_are_the_same_to_a_reader_in_any_pieces() -> None:
    source = random.Random(7)
    for _ in range(200):
        noise = bytearray(STREAM)
        for _ in range(source.randrange(1, 4)):
            noise[source.randrange(len(noise))] = source.randrange(256)
        whole = RequestReader(HttpSettings(), KnownHeads())
        whole.feed(memoryview(bytes(noise)), 0.0)
        pieces = RequestReader(HttpSettings(), KnownHeads())
        for byte in noise:
            pieces.feed(bytes([byte]), 0.0)
        assert list(whole.requests) == list(pieces.requests)
        assert (whole.refusal is None) == (pieces.refusal is None)
        if whole.refusal and pieces.refusal:
            assert whole.refusal.status == pieces.refusal.status


def test_a_fault_of_the_readers_own_is_not_taken_for_the_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(reader: RequestReader) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(RequestReader, "on_headers_complete", broken)
    with contextlib.suppress(AttributeError), pytest.raises(ZeroDivisionError):
        RequestReader(HttpSettings(), KnownHeads()).feed(get(), 0.0)
