"""Models in registries of images: a real one, and one that asks for tokens."""

from __future__ import annotations

import hashlib
import json
import shutil
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.canned_server import Canned, CannedServer, canned_server, json_of
from tests.faulty_proxy import Fault, FaultyProxy
from tests.registry_server import (
    INDEX,
    LAYER,
    MANIFEST,
    PASSWORD,
    TITLE,
    USER,
    RegistryServer,
    packed,
    registry_server,
)
from tests.remote_fakes import read_all

from shoal.domain.errors import (
    ArtifactMissing,
    InvalidArtifact,
    InvalidSpecification,
    PlaceDenied,
    PlaceUnavailable,
)
from shoal.storage.download import Options, download
from shoal.storage.places.credentials import Access
from shoal.storage.places.oci import OciRegistry
from shoal.storage.places.registry_login import docker_login
from shoal.storage.places.web_client import Patience

pytestmark = pytest.mark.skipif(
    shutil.which("docker-registry") is None, reason="needs Debian's package docker-registry")

WEIGHTS = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with registry_server(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with registry_server(tmp_path_factory.mktemp("guarded"), guarded=True) as server:
        yield server


@pytest.fixture(autouse=True)
def nobody_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of Docker's configuration."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    (tmp_path / "docker").mkdir()
    return tmp_path / "docker"


def place(access: Access | None = None) -> OciRegistry:
    def sleep(seconds: float) -> None:
        pass

    return OciRegistry(access, Patience(sleep=sleep), options=Options(sleep=sleep))


def fetched(uri: str, into: Path) -> dict[str, bytes]:
    """What an image unpacks to."""
    into.mkdir()
    at = place()
    at.fetch(at.look(uri), into, lambda: None)
    assert [path.name for path in into.parent.iterdir() if path.name.startswith(into.name)] == [
        into.name]
    return {path.relative_to(into).as_posix(): path.read_bytes()
            for path in into.rglob("*") if path.is_file()}


# --- artifacts ----------------------------------------------------------------------------------


def test_an_artifact_is_its_files_by_their_titles(registry: RegistryServer) -> None:
    pushed = registry.files("acme/iris", "v1", {"model.onnx": WEIGHTS, "config/labels": b"a"})
    snapshot = place().look(f"oci://{registry.host}/acme/iris:v1")
    assert snapshot.uri == f"oci://{registry.host}/acme/iris@{pushed['digest']}"
    assert snapshot.version == pushed["digest"]
    assert read_all(place(), snapshot) == {"model.onnx": WEIGHTS, "config/labels": b"a"}
    assert place().look(snapshot.uri) == snapshot


def test_files_are_vouched_for_and_downloaded_in_parts(
        registry: RegistryServer, tmp_path: Path) -> None:
    registry.files("acme/iris", "latest", {"model.onnx": WEIGHTS})
    at = place()
    snapshot = at.look(f"oci://{registry.host}/acme/iris")
    assert snapshot.files[0].sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    download(at, snapshot, tmp_path / "iris", Options(part_bytes=3000))
    assert (tmp_path / "iris" / "model.onnx").read_bytes() == WEIGHTS


def test_a_lone_archive_is_told_as_one(registry: RegistryServer) -> None:
    registry.files("acme/packed", "v1", {"iris.tar.gz": packed({"model.onnx": WEIGHTS})})
    snapshot = place().look(f"oci://{registry.host}/acme/packed:v1")
    assert snapshot.is_lone
    assert snapshot.files[0].archive


def test_a_folder_that_oras_packed_is_unpacked(registry: RegistryServer, tmp_path: Path) -> None:
    unpack = {TITLE: "weights", "io.deis.oras.content.unpack": "true"}
    registry.manifest(
        "acme/folder", "v1",
        registry.blob("acme/folder", packed({"weights/a": b"A"}), LAYER, unpack),
        registry.blob("acme/folder", b"{}", "text/plain", {TITLE: "config.json"}))
    files = fetched(f"oci://{registry.host}/acme/folder:v1", tmp_path / "out")
    assert files == {"weights/a": b"A", "config.json": b"{}"}


@pytest.mark.parametrize("name", ["../model.onnx", "/model.onnx", "a//b"])
def test_a_title_that_leads_elsewhere_is_refused(registry: RegistryServer, name: str) -> None:
    registry.files("acme/odd", "v1", {name: b"x"})
    with pytest.raises(InvalidArtifact, match="push it under another name"):
        place().look(f"oci://{registry.host}/acme/odd:v1")


# --- images -------------------------------------------------------------------------------------


def test_an_image_has_its_model_below_models(registry: RegistryServer, tmp_path: Path) -> None:
    base = packed({"bin": None, "bin/busybox": b"program"}, {"bin/sh": "busybox"})
    pushed = registry.image("acme/car", "v1", base, packed({"models/1/model.onnx": WEIGHTS}))
    snapshot = place().look(f"oci://{registry.host}/acme/car:v1")
    assert (snapshot.files, snapshot.version) == ((), pushed["digest"])
    assert fetched(snapshot.uri, tmp_path / "out") == {"1/model.onnx": WEIGHTS}


def test_upper_layers_replace_and_white_out_what_is_below(
        registry: RegistryServer, tmp_path: Path) -> None:
    registry.image(
        "acme/car", "v2",
        packed({"models/a": b"1", "models/b": b"1", "models/old/x": b"1", "models/d/x": b"1"}),
        packed({"./models/a": b"2", "models/.wh.b": b"", "models/old/.wh..wh..opq": b"",
                "models/old/y": b"2", "models/d": b"2", "etc/.wh.models": b""}))
    files = fetched(f"oci://{registry.host}/acme/car:v2", tmp_path / "out")
    assert files == {"a": b"2", "old/y": b"2", "d": b"2"}


def test_a_folder_that_was_removed_and_made_anew_has_nothing_of_before(
        registry: RegistryServer, tmp_path: Path) -> None:
    registry.image("acme/car", "v3", packed({"models/a": b"1"}),
                   packed({".wh.models": b""}), packed({"models/b": b"2"}))
    assert fetched(f"oci://{registry.host}/acme/car:v3", tmp_path / "out") == {"b": b"2"}


def test_an_image_without_models_says_so(registry: RegistryServer, tmp_path: Path) -> None:
    registry.image("acme/bare", "v1", packed({"etc/passwd": b"x"}))
    with pytest.raises(ArtifactMissing, match="an image without a folder /models"):
        fetched(f"oci://{registry.host}/acme/bare:v1", tmp_path / "out")


def test_a_link_among_the_models_is_refused(registry: RegistryServer, tmp_path: Path) -> None:
    registry.image("acme/linked", "v1", packed({}, {"models/model.onnx": "/etc/passwd"}))
    with pytest.raises(InvalidArtifact, match=r"linked.*layer sha256:.*symbolic link"):
        fetched(f"oci://{registry.host}/acme/linked:v1", tmp_path / "out")


def test_what_ends_a_download_ends_it(registry: RegistryServer, tmp_path: Path) -> None:
    registry.image("acme/car", "v4", packed({"models/a": b"1"}))

    def go_on() -> None:
        raise KeyboardInterrupt

    at = place()
    snapshot = at.look(f"oci://{registry.host}/acme/car:v4")
    with pytest.raises(KeyboardInterrupt):
        at.fetch(snapshot, tmp_path / "out", go_on)


def test_layers_that_are_cut_or_altered_on_their_way_are_read_again(
        registry: RegistryServer, tmp_path: Path) -> None:
    registry.image("acme/car", "v5", packed({"models/model.onnx": WEIGHTS}, mode="w"))
    with FaultyProxy(f"http://{registry.host}") as proxy:
        proxy.fail(Fault(cut_after=5000), where="/blobs/")
        proxy.fail(Fault(flip_at=100), where="/blobs/")
        uri = f"oci://{proxy.url.removeprefix('http://')}/acme/car:v5"
        assert fetched(uri, tmp_path / "out") == {"model.onnx": WEIGHTS}
        assert proxy.count(where="/blobs/") == 3


def test_a_registry_that_is_busy_is_asked_again(registry: RegistryServer) -> None:
    pushed = registry.image("acme/car", "v6", packed({"models/a": b"1"}))
    with FaultyProxy(f"http://{registry.host}") as proxy:
        proxy.fail(Fault(status=503), times=2)
        uri = f"oci://{proxy.url.removeprefix('http://')}/acme/car:v6"
        assert place().look(uri).version == pushed["digest"]


# --- manifests ----------------------------------------------------------------------------------


def index_of(registry: RegistryServer, tag: str, *platforms: tuple[str, str]) -> None:
    manifests = []
    for number, (system, machine) in enumerate(platforms):
        pushed = registry.files("acme/many", f"{tag}-{number}", {machine: machine.encode()})
        manifests.append({**pushed, "platform": {"os": system, "architecture": machine}})
    registry.document("acme/many", tag, INDEX,
                      {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})


def test_of_several_images_that_for_this_machine_is_taken(
        registry: RegistryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    index_of(registry, "v1", ("linux", "amd64"), ("linux", "arm64"), ("unknown", "unknown"))
    snapshot = place().look(f"oci://{registry.host}/acme/many:v1")
    assert [file.name for file in snapshot.files] == ["arm64"]
    assert place().look(snapshot.uri) == snapshot


def test_the_only_image_is_taken_whatever_it_is_for(registry: RegistryServer) -> None:
    index_of(registry, "v2", ("linux", "s390x"), ("unknown", "unknown"))
    snapshot = place().look(f"oci://{registry.host}/acme/many:v2")
    assert [file.name for file in snapshot.files] == ["s390x"]


def test_images_for_other_machines_alone_are_listed(registry: RegistryServer) -> None:
    index_of(registry, "v3", ("linux", "s390x"), ("windows", "amd64"))
    with pytest.raises(InvalidSpecification, match=r"linux/s390x \(sha256:.*windows/amd64"):
        place().look(f"oci://{registry.host}/acme/many:v3")


@pytest.mark.parametrize(("uri", "story"), [
    ("acme/iris:v9", "has no 'v9' in 'acme/iris'"), ("acme/none", "has no 'latest'")])
def test_what_is_missing_is_named(registry: RegistryServer, uri: str, story: str) -> None:
    with pytest.raises(ArtifactMissing, match=story):
        place().look(f"oci://{registry.host}/{uri}")


@pytest.mark.parametrize("uri", [
    "oci://acme", "oci://ghcr.io/Acme/iris", "oci://ghcr.io/acme/iris@sha256:12",
    "oci://user:word@ghcr.io/acme/iris", "oci://ghcr.io/acme/iris:v1?x=1", "oci:///acme/iris"])
def test_what_is_no_address_is_refused(uri: str) -> None:
    with pytest.raises(InvalidSpecification, match="no address of a registry"):
        place().look(uri)


# --- who asks -----------------------------------------------------------------------------------


def test_a_password_by_name_opens_a_registry(guarded: RegistryServer) -> None:
    guarded.files("acme/iris", "v1", {"model.onnx": WEIGHTS})
    access = Access("team", "oci", {"host": guarded.host, "username": USER, "password": PASSWORD})
    at = place(access)
    snapshot = at.look(f"oci://{guarded.host}/acme/iris:v1")
    assert read_all(at, snapshot) == {"model.onnx": WEIGHTS}
    assert read_all(place(access), snapshot) == {"model.onnx": WEIGHTS}


def test_a_login_with_docker_opens_a_registry_when_it_comes(
        guarded: RegistryServer, nobody_logged_in: Path) -> None:
    guarded.files("acme/iris", "v1", {"model.onnx": WEIGHTS})
    uri, at = f"oci://{guarded.host}/acme/iris:v1", place()
    with pytest.raises(PlaceDenied, match=rf"no credentials for it \(401\); log in with `docker "
                                          f"login {guarded.host}`"):
        at.look(uri)
    auth = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (nobody_logged_in / "config.json").write_text(
        json.dumps({"auths": {f"http://{guarded.host}/v1/": {"auth": auth}}}))
    assert read_all(at, at.look(uri)) == {"model.onnx": WEIGHTS}


def test_a_wrong_password_is_not_shown(guarded: RegistryServer) -> None:
    access = Access("team", "oci", {"host": guarded.host, "username": USER, "password": "wr0ng"})
    with pytest.raises(PlaceDenied, match="does not accept what the credentials 'team'") as refused:
        place(access).look(f"oci://{guarded.host}/acme/iris:v1")
    assert "wr0ng" not in refused.value.message


def test_credentials_go_to_no_other_registry_than_theirs(guarded: RegistryServer) -> None:
    uri = f"oci://{guarded.host}/acme/iris:v1"
    with pytest.raises(InvalidSpecification, match=r"are for ghcr\.io, and not for"):
        place(Access("team", "oci", {"host": "ghcr.io", "password": PASSWORD})).look(uri)
    with pytest.raises(InvalidSpecification, match="do not say which registry"):
        place(Access("team", "oci", {"password": PASSWORD})).look(uri)
    with pytest.raises(PlaceDenied):
        place(Access("default", "oci", {"host": "ghcr.io", "password": PASSWORD})).look(uri)


def test_credential_helpers_are_not_run_and_told_of(nobody_logged_in: Path) -> None:
    (nobody_logged_in / "config.json").write_text('{"credHelpers": {"ghcr.io": "pass"}}')
    environment = {"DOCKER_CONFIG": str(nobody_logged_in)}
    assert "a credential helper of" in docker_login("ghcr.io", environment).source
    assert not docker_login("quay.io", environment).source


def test_a_broken_configuration_of_docker_is_named(nobody_logged_in: Path) -> None:
    (nobody_logged_in / "config.json").write_text("{")
    with pytest.raises(InvalidSpecification, match=r"config\.json.*repair or remove it"):
        docker_login("ghcr.io", {"DOCKER_CONFIG": str(nobody_logged_in)})


def canned_registry(server: CannedServer) -> tuple[str, str]:
    """One that wants a token. Its host, and the digest of its only blob."""
    digest = f"sha256:{hashlib.sha256(WEIGHTS).hexdigest()}"
    layer = {"mediaType": "x", "digest": digest, "size": len(WEIGHTS),
             "annotations": {TITLE: "model.onnx"}}
    challenge = f'Bearer realm="{server.url}/token?x=1",service="reg",scope="repository:a/b:pull"'
    refused = Canned(401, b"{}", {"WWW-Authenticate": challenge})
    manifest = json_of({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [layer]})
    server.answers("GET /v2/a/b/manifests/v1", refused, manifest)
    server.answers(f"GET /v2/a/b/blobs/{digest}", refused, Canned(200, WEIGHTS))
    server.answers("GET /token", json_of({"token": "t1", "expires_in": 300}))
    server.answers("POST /token", json_of({"access_token": "t2"}))
    return server.url.removeprefix("http://"), digest


def test_a_password_is_exchanged_for_a_token_once() -> None:
    with canned_server() as server:
        host, _ = canned_registry(server)
        at = place(Access("team", "oci", {"host": host, "username": "u", "password": "p"}))
        snapshot = at.look(f"oci://{host}/a/b:v1")
        asked = next(each for each in server.asked if each.path == "/token")
        assert asked.query == {"x": "1", "service": "reg", "scope": "repository:a/b:pull"}
        assert asked.headers["authorization"] == f"Basic {b64encode(b'u:p').decode()}"
        # A token that is refused later, though it should still be good, is replaced.
        assert read_all(at, snapshot) == {"model.onnx": WEIGHTS}
        assert [each.headers.get("authorization") for each in server.asked
                if each.path.startswith("/v2/")] == [None, "Bearer t1", "Bearer t1", "Bearer t1"]


def test_a_token_of_a_login_is_exchanged_for_another() -> None:
    with canned_server() as server:
        host, _ = canned_registry(server)
        place(Access("team", "oci", {"host": host, "token": "refresh"})).look(f"oci://{host}/a/b:v1")
        asked = next(each for each in server.asked if each.path == "/token")
        assert b"refresh_token=refresh" in asked.body
        assert server.asked[-1].headers["authorization"] == "Bearer t2"


def test_a_password_is_not_sent_where_a_registry_says_without_https() -> None:
    with canned_server() as server:
        host, _ = canned_registry(server)
        server.answers("GET /v2/a/b/manifests/v1", Canned(401, b"", {
            "WWW-Authenticate": 'Bearer realm="http://evil.example/token"'}))
        with pytest.raises(PlaceUnavailable, match=r"evil\.example, which is not asked without"):
            place().look(f"oci://{host}/a/b:v1")


def test_a_manifest_of_other_bytes_than_its_digest_is_refused() -> None:
    with canned_server() as server:
        host, _ = canned_registry(server)
        wrong = "sha256:" + "0" * 64
        server.answers(f"GET /v2/a/b/manifests/{wrong}", json_of({"schemaVersion": 2}))
        with pytest.raises(PlaceUnavailable, match=r"digest sha256:.* is what it should be"):
            place().look(f"oci://{host}/a/b@{wrong}")


@pytest.mark.parametrize(("manifest", "story"), [
    ({"schemaVersion": 1}, "of the schema 1"), ({"schemaVersion": 2}, "is empty"),
    ({"schemaVersion": 2, "layers": [{"digest": "md5:1", "size": 1}]}, "no SHA-256 digest"),
    ([], "cannot be read"),
], ids=["old", "empty", "md5", "list"])
def test_a_manifest_that_makes_no_sense_is_refused(manifest: object, story: str) -> None:
    with canned_server() as server:
        host, _ = canned_registry(server)
        server.answers("GET /v2/a/b/manifests/v1", json_of(manifest))
        with pytest.raises(InvalidArtifact, match=story):
            place().look(f"oci://{host}/a/b:v1")
