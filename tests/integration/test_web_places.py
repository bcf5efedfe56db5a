"""Files of web servers over HTTP and HTTPS, also behind a proxy that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.certificates import Authority
from tests.faulty_proxy import Fault, FaultyProxy
from tests.http_server import Handler, HttpServer
from tests.remote_fakes import whole

from shoal.domain.errors import (
    ArtifactChanged,
    ArtifactMissing,
    InvalidSpecification,
    PlaceDenied,
    PlaceUnavailable,
)
from shoal.storage.download import Options, download
from shoal.storage.places.credentials import Access
from shoal.storage.places.web import WebFile
from shoal.storage.places.web_client import Patience

ONCE = Patience(attempts=1)


@dataclass
class Page:
    """What a path answers. wants: headers without which it answers 403."""

    body: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"1"'})
    status: int = 200
    ranges: bool = True
    wants: dict[str, str] = field(default_factory=dict)


class WebServer(HttpServer):
    """pages: by path. seen: the headers of each request. tls: a certificate and its key."""

    def __init__(self, tls: tuple[Path, Path] | None = None) -> None:
        self.pages: dict[str, Page] = {}
        self.seen: list[dict[str, str]] = []
        super().__init__(_Handler, tls, of=self)


class _Handler(Handler):
    of: WebServer

    def do_GET(self) -> None:
        self.of.seen.append(dict(self.headers.items()))
        page = self.of.pages.get(self.path, Page(status=404))
        if any(self.headers.get(name) != value for name, value in page.wants.items()):
            page = Page(status=403)
        if page.ranges and page.status == 200:
            self.send_part(page.body, **page.headers)
        else:
            self.send(page.status, page.body, **page.headers)


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


def place(access: Access | None = None, patience: Patience = ONCE) -> WebFile:
    return WebFile(access, patience)


def headers_for(host: str, name: str = "mine") -> Access:
    return Access(name, "http", {"host": host, "headers": json.dumps({"X-Key": "SECRET"})})


def test_a_file_is_looked_at_and_read(web: WebServer) -> None:
    web.pages["/m.onnx"] = Page(b"0123456789", {
        "ETag": '"1"', "Last-Modified": "Fri, 02 Jan 2026 03:04:05 GMT"})
    here = place()
    snapshot = here.look(f"{web.url}/m.onnx")
    file = snapshot.files[0]
    assert (file.name, file.size_bytes, file.tag, file.archive) == ("", 10, '"1"', False)
    assert file.modified_s == 1767323045
    assert here.ranges
    assert whole(here, snapshot) == b"0123456789"
    assert b"".join(here.read(snapshot, file, 3, 7)) == b"3456"
    assert b"".join(here.read(snapshot, file, 3)) == b"3456789"


@pytest.mark.parametrize("name", ["m.tar", "m.tar.gz", "m.tgz", "M.ZIP"])
def test_archives_are_told_by_their_names(web: WebServer, name: str) -> None:
    web.pages[f"/{name}?v=1"] = Page(b"x")
    assert place().look(f"{web.url}/{name}?v=1").files[0].archive


def test_an_empty_file_is_a_file(web: WebServer) -> None:
    web.pages["/m"] = Page(b"")
    here = place()
    snapshot = here.look(f"{web.url}/m")
    assert snapshot.files[0].size_bytes == 0
    assert whole(here, snapshot) == b""


def test_a_server_without_ranges_sends_all(web: WebServer) -> None:
    web.pages["/m"] = Page(b"0123456789", ranges=False)
    here = place()
    snapshot = here.look(f"{web.url}/m")
    assert not here.ranges
    assert snapshot.files[0].size_bytes == 10
    assert whole(here, snapshot) == b"0123456789"
    assert b"".join(here.read(snapshot, snapshot.files[0], 3, 7)) == b"3456"


def test_without_an_etag_the_time_of_the_last_change_is_the_tag(web: WebServer) -> None:
    web.pages["/m"] = Page(b"1", {"Last-Modified": "Fri, 02 Jan 2026 03:04:05 GMT"})
    assert place().look(f"{web.url}/m").tag
    web.pages["/m"] = Page(b"1", {})
    assert not place().look(f"{web.url}/m").tag


def test_a_file_that_changed_is_not_read(web: WebServer) -> None:
    web.pages["/m"] = Page(b"old")
    here = place()
    snapshot = here.look(f"{web.url}/m")
    web.pages["/m"] = Page(b"new", {"ETag": '"2"'})
    with pytest.raises(ArtifactChanged, match="/m"):
        whole(here, snapshot)
    web.pages["/m"] = Page(b"", {"ETag": '"1"'})
    with pytest.raises(ArtifactChanged):
        list(here.read(snapshot, snapshot.files[0], 2))


@pytest.mark.parametrize(("status", "kind"), [
    (401, PlaceDenied), (403, PlaceDenied), (404, ArtifactMissing), (410, ArtifactMissing),
    (400, PlaceUnavailable), (429, PlaceUnavailable), (500, PlaceUnavailable),
    (503, PlaceUnavailable), (416, PlaceUnavailable),
], ids=str)
def test_each_refusal_is_put_into_words(
        web: WebServer, status: int, kind: type[Exception]) -> None:
    web.pages["/m?sig=SECRET"] = Page(status=status)
    with pytest.raises(kind) as told:
        place(headers_for(web.url)).look(f"{web.url}/m?sig=SECRET")
    assert f"{web.url}/m" in str(told.value)
    assert "SECRET" not in str(told.value)


def test_a_server_that_fails_now_and_then_is_asked_again_with_growing_waits(
        web: WebServer) -> None:
    web.pages["/m"] = Page(b"1")
    waits: list[float] = []
    with FaultyProxy(web.url) as proxy:
        proxy.fail(Fault(status=500), times=2)
        proxy.fail(Fault(cut_after=0), times=1)
        here = place(patience=Patience(attempts=4, sleep=waits.append))
        assert whole(here, here.look(f"{proxy.url}/m")) == b"1"
    assert waits[:2] == pytest.approx([0.5, 1.0])


def test_nobody_there_and_no_such_host_are_said_so() -> None:
    with pytest.raises(PlaceUnavailable, match="refuses connections"):
        place().look("http://127.0.0.1:1/m")


def test_silence_and_cuts_end_in_words(web: WebServer) -> None:
    web.pages["/m"] = Page(b"x" * 100_000)
    with FaultyProxy(web.url) as proxy:
        here = place()
        snapshot = here.look(f"{proxy.url}/m")
        proxy.fail(Fault(silent=True))
        with pytest.raises(PlaceUnavailable, match="in time"):
            whole(place(patience=Patience(attempts=1, silence_s=0.2)), snapshot)
        proxy.fail(Fault(cut_after=50_000))
        with pytest.raises(PlaceUnavailable, match="the connection was cut"):
            whole(here, snapshot)


def test_a_download_gets_through_trouble_in_parts(web: WebServer, tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096
    web.pages["/m.bin"] = Page(content)
    with FaultyProxy(web.url) as proxy:
        here = place()
        snapshot = here.look(f"{proxy.url}/m.bin")
        proxy.fail(Fault(status=502), times=2)
        proxy.fail(Fault(cut_after=100_000), times=2)
        download(here, snapshot, tmp_path / "m",
                 Options(part_bytes=300_000, sleep=lambda _: None))
    assert (tmp_path / "m" / "m.bin").read_bytes() == content


# --- redirects and credentials ----------------------------------------------------------------


def test_a_redirect_is_followed_and_takes_no_credentials_to_another_host(web: WebServer) -> None:
    with WebServer() as other:
        other.pages["/there?sig=x"] = Page(b"1")
        web.pages["/m"] = Page(status=302, headers={"Location": f"{other.url}/there?sig=x"},
                               wants={"X-Key": "SECRET"})
        here = place(headers_for(web.url))
        assert whole(here, here.look(f"{web.url}/m")) == b"1"
        assert all("X-Key" not in seen for seen in other.seen)


def test_a_redirect_on_the_same_host_keeps_the_credentials(web: WebServer) -> None:
    web.pages["/a"] = Page(status=301, headers={"Location": "/b"})
    web.pages["/b"] = Page(b"1", wants={"X-Key": "SECRET"})
    here = place(headers_for(web.url))
    assert whole(here, here.look(f"{web.url}/a")) == b"1"


def test_redirects_without_end_are_ended(web: WebServer) -> None:
    web.pages["/a"] = Page(status=302, headers={"Location": "/a"})
    with pytest.raises(PlaceUnavailable, match="more than 5 times"):
        place().look(f"{web.url}/a")
    assert len(web.seen) == 6


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://host/a"])
def test_a_redirect_leads_to_no_other_protocol(web: WebServer, target: str) -> None:
    web.pages["/a"] = Page(status=302, headers={"Location": target})
    with pytest.raises(PlaceUnavailable, match="not followed"):
        place().look(f"{web.url}/a")


def test_credentials_go_to_their_host_alone(web: WebServer) -> None:
    web.pages["/m"] = Page(b"1")
    uri = f"{web.url}/m"
    with pytest.raises(InvalidSpecification, match="'mine' are for another host"):
        place(headers_for("https://example.org")).look(uri)
    place(headers_for("https://example.org", "default_http")).look(uri)
    assert all("X-Key" not in seen for seen in web.seen)


# --- TLS --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_a_private_authority_is_trusted_where_it_is_given(authority: Authority) -> None:
    with WebServer(authority.sign("server")) as server:
        server.pages["/m"] = Page(b"1")
        with pytest.raises(PlaceUnavailable, match="certificate that is not trusted"):
            place().look(f"{server.url}/m")
        access = Access("mine", "http", {"certificate": authority.certificate.read_text()})
        here = place(access)
        assert whole(here, here.look(f"{server.url}/m")) == b"1"


def test_https_never_leads_to_http(authority: Authority, web: WebServer) -> None:
    web.pages["/m"] = Page(b"1")
    with WebServer(authority.sign("other")) as server:
        server.pages["/m"] = Page(status=302, headers={"Location": f"{web.url}/m"})
        access = Access("mine", "http", {"certificate": authority.certificate.read_text()})
        with pytest.raises(PlaceUnavailable, match="not followed from https"):
            place(access).look(f"{server.url}/m")
    assert not web.seen


def test_certificates_that_cannot_be_read_are_named_and_not_shown() -> None:
    for values in ({"certificate": "SECRET"},
                   {"client_certificate": "SECRET", "client_key": "SECRET"}):
        with pytest.raises(InvalidSpecification, match="'mine'") as told:
            place(Access("mine", "http", values))
        assert "SECRET" not in told.value.message
