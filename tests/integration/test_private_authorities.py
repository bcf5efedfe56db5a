"""Places with certificates of a private authority, and registries of images without any."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.canned_server import Canned, CannedServer, canned_server, json_of
from tests.certificates import Authority
from tests.faulty_proxy import FaultyProxy
from tests.git_server import git_server
from tests.hub_server import hub_server
from tests.object_stores import KEYS, S3Server

from shoal.domain.errors import InvalidSpecification, PlaceUnavailable
from shoal.storage.places.credentials import Access
from shoal.storage.places.git import GitRepository
from shoal.storage.places.huggingface import HuggingFace
from shoal.storage.places.mlflow_server import TrackingServer
from shoal.storage.places.object_store import ObjectStore
from shoal.storage.places.oci import OciRegistry
from shoal.storage.places.place import Snapshot
from shoal.storage.places.reach import Reach
from shoal.storage.places.registry_login import docker_login
from shoal.storage.places.web import WebFile
from shoal.storage.places.web_client import Patience

ONCE = Patience(attempts=1)
CONTENT = b"weights"
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MANIFEST = json_of({
    "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": {"mediaType": "application/vnd.oci.empty.v1+json", "size": len(CONTENT),
               "digest": DIGEST},
    "layers": [{"mediaType": "application/octet-stream", "digest": DIGEST, "size": len(CONTENT),
                "annotations": {"org.opencontainers.image.title": "model.onnx"}}]})


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> tuple[Path, Path]:
    return authority.sign("server")


@pytest.fixture(autouse=True)
def nobody_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


Look = Callable[[Access | None, Reach], Snapshot]


def check(look: Look, kind: str, authority: Authority, **fields: str) -> None:
    """Refused, then trusted in each of the ways to say so."""
    pem = authority.certificate.read_text()
    plain = Access("mine", kind, fields)
    with pytest.raises(PlaceUnavailable, match="certificate") as told:
        look(plain, Reach())
    assert "not trusted" in told.value.message
    by_path = {"ca_bundle": str(authority.certificate), **fields}
    found = [look(Access("mine", kind, {"certificate": pem, **fields}), Reach()),
             look(Access("mine", kind, by_path), Reach()),
             look(plain, Reach.read(str(authority.certificate)))]
    assert len({each.tag for each in found}) == 1


def test_of_a_hub(authority: Authority, tls: tuple[Path, Path]) -> None:
    with hub_server({"model.onnx": CONTENT}) as hub, FaultyProxy(hub.url, tls) as proxy:
        check(lambda access, reach: HuggingFace(access, ONCE, {}, reach).look("hf://acme/iris"),
              "hf", authority, endpoint_url=proxy.url)


def registry(server: CannedServer) -> None:
    server.answers("GET /v2/acme/iris/manifests/latest", MANIFEST)
    server.answers(f"GET /v2/acme/iris/blobs/{DIGEST}", Canned(200, CONTENT))


def test_of_a_registry_of_images(authority: Authority, tls: tuple[Path, Path]) -> None:
    with canned_server() as server, FaultyProxy(server.url, tls) as proxy:
        registry(server)
        host = proxy.url.removeprefix("https://").replace("127.0.0.1", "localhost")
        pem = authority.certificate.read_text()
        access = Access("mine", "oci", {"host": host, "certificate": pem})
        here = OciRegistry(access, ONCE)
        snapshot = here.look(f"oci://{host}/acme/iris")
        assert b"".join(here.read(snapshot, snapshot.files[0])) == CONTENT


def test_of_a_web_server(authority: Authority, tls: tuple[Path, Path]) -> None:
    with canned_server() as server, FaultyProxy(server.url, tls) as proxy:
        server.answers("GET /m.onnx", Canned(200, CONTENT, {"ETag": '"1"'}))
        check(lambda access, reach: WebFile(access, ONCE, reach).look(f"{proxy.url}/m.onnx"),
              "http", authority)


def test_of_a_git_server(authority: Authority, tls: tuple[Path, Path], tmp_path: Path) -> None:
    with git_server(tmp_path / "git") as server:
        server.commit({"model.onnx": CONTENT})
        with FaultyProxy(f"http://{server.host}", tls) as proxy:
            host = proxy.url.removeprefix("https://")
            check(lambda access, reach: GitRepository(access, reach=reach).look(
                f"git+https://{host}/iris.git"), "git", authority, host=host)
            here = GitRepository(reach=Reach.read(str(authority.certificate)))
            (tmp_path / "into").mkdir()
            here.fetch(here.look(f"git+https://{host}/iris.git"), tmp_path / "into", lambda: None)
    assert (tmp_path / "into" / "model.onnx").read_bytes() == CONTENT


def test_of_an_mlflow_server(authority: Authority, tls: tuple[Path, Path]) -> None:
    with canned_server() as server, FaultyProxy(server.url, tls) as proxy:
        server.answers("GET /api/2.0/mlflow-artifacts/artifacts", json_of({"files": []}))
        plain = {"tracking_uri": proxy.url}
        trusting = {**plain, "ca_bundle": str(authority.certificate)}
        for fields, reach in ((trusting, Reach()),
                              (plain, Reach.read(str(authority.certificate)))):
            there = TrackingServer(Access("mine", "mlflow", fields), reach, ONCE)
            assert there.entries("it", "") == []
        with pytest.raises(PlaceUnavailable, match="certificate that is not trusted"):
            TrackingServer(Access("mine", "mlflow", plain), Reach(), ONCE).entries("it", "")


def test_of_an_object_store(
        authority: Authority, tls: tuple[Path, Path], s3_server: S3Server) -> None:
    bucket = s3_server.bucket({"m.onnx": CONTENT})
    with FaultyProxy(s3_server.url, tls) as proxy:
        def look(access: Access | None, reach: Reach) -> Snapshot:
            return ObjectStore(access, reach=reach).look(f"s3://{bucket}/m.onnx")

        check(look, "s3", authority, endpoint_url=proxy.url, region="us-east-1", **KEYS)


def test_a_setting_that_names_no_certificates_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecification, match=r"storage.ca_file: .*none.pem cannot be read"):
        Reach.read(str(tmp_path / "none.pem"))
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(InvalidSpecification, match=r"storage.ca_file: .*give PEM"):
        Reach.read(str(tmp_path / "ca.pem"))
    with pytest.raises(InvalidSpecification, match="'http://h:1' is no host"):
        Reach.read("", ("http://h:1",))


# --- without TLS --------------------------------------------------------------------------------


def test_a_registry_is_asked_without_tls_where_a_setting_says_so() -> None:
    with canned_server() as server:
        registry(server)
        host = server.url.removeprefix("http://").replace("127.0.0.1", "127.1")
        with pytest.raises(PlaceUnavailable, match="cannot be reached"):
            OciRegistry(None, ONCE).look(f"oci://{host}/acme/iris")
        here = OciRegistry(None, ONCE, Reach.read("", (host,)))
        snapshot = here.look(f"oci://{host}/acme/iris")
        assert b"".join(here.read(snapshot, snapshot.files[0])) == CONTENT


def test_a_token_goes_without_tls_only_to_such_a_registry() -> None:
    with canned_server() as server:
        registry(server)
        host = server.url.removeprefix("http://").replace("127.0.0.1", "127.1")
        manifest = "GET /v2/acme/iris/manifests/latest"
        asks = {"WWW-Authenticate": f'Bearer realm="http://{host}/token",service="r"'}
        server.answers("GET /token", json_of({"token": "t"}))
        server.answers(manifest, Canned(401, b"", asks), MANIFEST)
        OciRegistry(None, ONCE, Reach.read("", (host,))).look(f"oci://{host}/acme/iris")
        assert server.asked[-1].headers["authorization"] == "Bearer t"
        elsewhere = {"WWW-Authenticate": 'Bearer realm="http://elsewhere/token",service="r"'}
        server.answers(manifest, Canned(401, b"", elsewhere))
        with pytest.raises(PlaceUnavailable, match="not asked without https"):
            OciRegistry(None, ONCE, Reach.read("", (host,))).look(f"oci://{host}/acme/iris")


def test_credentials_that_only_name_an_authority_leave_who_asks_as_it_is(
        authority: Authority, tls: tuple[Path, Path], tmp_path: Path) -> None:
    with canned_server() as server, FaultyProxy(server.url, tls) as proxy:
        registry(server)
        host = proxy.url.removeprefix("https://")
        (tmp_path / "docker").mkdir()
        (tmp_path / "docker" / "config.json").write_text(json.dumps(
            {"auths": {host: {"username": "me", "password": "pw"}}}))
        assert docker_login(host).username == "me"
        manifest = "GET /v2/acme/iris/manifests/latest"
        server.answers(manifest, Canned(401, b"", {"WWW-Authenticate": "Basic"}), MANIFEST)
        access = Access("mine", "oci", {"host": host, "ca_bundle": str(authority.certificate)})
        OciRegistry(access, ONCE).look(f"oci://{host}/acme/iris")
        assert server.asked[-1].headers["authorization"].startswith("Basic ")
