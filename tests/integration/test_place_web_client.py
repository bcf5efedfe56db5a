"""How places ask over HTTP, when the answers are not what they should be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.canned_server import Canned, CannedServer, canned_server, json_of

from shoal.domain.errors import ArtifactChanged, PlaceDenied, PlaceUnavailable
from shoal.storage.places.web_client import Document, Patience, Request, WebClient, is_local


@pytest.fixture
def server() -> Iterator[CannedServer]:
    with canned_server() as server:
        yield server


def request(server: CannedServer, token: str = "t") -> Request:
    headers = {"Authorization": f"Bearer {token}"}
    return Request("the file", f"{server.url}/a?signature=secret", headers)


def client(waits: list[float] | None = None) -> WebClient:
    return WebClient(Patience(sleep=(waits if waits is not None else []).append))


def read(server: CannedServer, start: int = 0, end: int | None = None) -> bytes:
    def refused(answer: Document) -> Exception:
        return PlaceDenied(f"{answer.status}")

    return b"".join(client().pieces(request(server), start, end, refused))


@pytest.mark.parametrize(("answer", "story"), [
    (Canned(206, b"x"), "does not say which one"),
    (Canned(206, b"x", {"Content-Range": "bytes 5-5/9"}), "sent bytes from 5 on"),
    (Canned(200, b"x", {"Content-Encoding": "gzip"}), "in the coding 'gzip'"),
    (Canned(drop=True), "cannot be reached, or the connection was cut"),
    (Canned(302, b"", {"Location": "/a"}), "more than 5 times"),
    (Canned(302, b"", {"Location": "ftp://h/a"}), "ftp://h, which is not followed"),
    (Canned(302, b"", {"Location": "http://[/a"}), "an address that is none"),
    (Canned(503, b"", {"Retry-After": "7"}), "status 503; it asks to wait 7 s"),
], ids=range(8))
def test_an_answer_that_is_none_is_said_to_be_so(
        server: CannedServer, answer: Canned, story: str) -> None:
    server.answers("GET /a", answer)
    with pytest.raises(PlaceUnavailable, match=story) as raised:
        read(server, 2, 3)
    assert raised.value.message.startswith("the file")
    assert "secret" not in raised.value.message


def test_a_file_that_became_shorter_has_changed(server: CannedServer) -> None:
    server.answers("GET /a", Canned(416))
    with pytest.raises(ArtifactChanged, match="shorter than it was"):
        read(server, 2)


def test_what_is_refused_is_for_the_place_to_explain(server: CannedServer) -> None:
    server.answers("GET /a", Canned(403, b"no"))
    with pytest.raises(PlaceDenied, match="403"):
        read(server)


def test_a_whole_file_instead_of_a_part_is_cut(server: CannedServer) -> None:
    server.answers("GET /a", Canned(200, b"0123456789"))
    assert read(server, 2, 5) == b"234"


def test_authorization_is_sent_on_only_to_the_same_server(server: CannedServer) -> None:
    with canned_server() as other:
        other.answers("GET /c", Canned(200, b"x"))
        server.answers("GET /a", Canned(307, b"", {"Location": "/b"}))
        server.answers("GET /b", Canned(307, b"", {"Location": f"{other.url}/c"}))
        assert read(server) == b"x"
        assert [each.headers.get("authorization") for each in (*server.asked, *other.asked)] == [
            "Bearer t", "Bearer t", None]


@pytest.mark.parametrize("token", ["se\ncret", "secr\u00e9t"], ids=["line", "accent"])
def test_credentials_that_cannot_be_sent_are_not_shown(server: CannedServer, token: str) -> None:
    with pytest.raises(PlaceDenied, match="write them anew") as raised:
        client().ask(request(server, token))
    assert token not in raised.value.message
    assert not server.asked


def test_nothing_of_a_file_is_nothing(server: CannedServer) -> None:
    assert read(server, 4, 4) == b""
    assert not server.asked


def test_no_cookie_is_kept(server: CannedServer) -> None:
    server.answers("GET /a", Canned(200, b"x", {"Set-Cookie": "session=1"}))
    read(server)
    read(server)
    assert "cookie" not in server.asked[-1].headers


def test_a_page_instead_of_json_is_said_to_be_so(server: CannedServer) -> None:
    server.answers("GET /a", Canned(200, b"<html>"))
    with pytest.raises(PlaceUnavailable, match="something else than the JSON"):
        client().ask(request(server)).json(dict)


def test_a_server_that_drops_connections_is_asked_again(server: CannedServer) -> None:
    waits: list[float] = []
    server.answers("GET /a", Canned(drop=True), Canned(drop=True), json_of({}))
    assert client(waits).ask(request(server)).json(dict) == {}
    assert waits == [0.5, 1.0]


def test_a_date_says_when_to_come_back(server: CannedServer) -> None:
    never = {"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"}
    server.answers("GET /a", Canned(429, b"", never))
    with pytest.raises(PlaceUnavailable, match=r"asked too often; it asks to wait \d{6,} s"):
        client().ask(request(server))
    assert len(server.asked) == 1


@pytest.mark.parametrize(("host", "local"), [
    ("localhost:5000", True), ("127.0.0.1", True), ("[::1]:5000", True), ("example.org", False),
    ("localhost.example.org", False), ("[", False)])
def test_this_machine_is_known_by_name_and_address(host: str, local: bool) -> None:
    assert is_local(host) == local
