"""Models that must be signed: of this machine and of other places, as they are registered, watched
and loaded."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from examples.cases import Case
from tests.git_server import git_server
from tests.hub_server import hub_server
from tests.object_stores import KEYS, S3Server
from tests.registry_server import registry_server
from tests.served import Served, until
from tests.signers import Signer

from shoal.domain.errors import NotTrusted, PlaceUnavailable
from shoal.domain.model import ModelSpec, Revision
from shoal.node.loader import Loader
from shoal.runtimes.registry import RuntimeRegistry
from shoal.storage.declare import declare
from shoal.storage.disk_cache import DiskCache
from shoal.storage.fetching import Fetching
from shoal.storage.places.credentials import Credentials, FileSource
from shoal.storage.signing import Signatures

RUNTIMES = RuntimeRegistry.installed()
ONNX = b"\x08\x08:\x00 as good as a model, where it is never loaded"


class World:
    """Whoever signs, and instances that require it; each has a disk cache of its own."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.signer = Signer(tmp_path)
        self.credentials = tmp_path / "storage-config"
        self.credentials.write_text("{}")

    def signed(self, files: dict[str, bytes]) -> dict[str, bytes]:
        """These files, and the signature over all of them."""
        folder = self.tmp_path / "to-sign"
        shutil.rmtree(folder, ignore_errors=True)
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return {**files, "model.sig": self.signer.sign(folder).read_bytes()}

    def check(self, revision: Revision, cache: str = "a") -> None:
        """What an instance does before it loads."""
        with closing(self.fetching(cache)) as fetching:
            loader = Loader(RUNTIMES, (), (), 1, fetching)
            loader.signatures = Signatures([str(self.signer.public)])
            loader.check(revision)

    def declare(self, uri: str, cache: str = "a") -> Revision:
        with closing(self.fetching(cache)) as fetching:
            return declare(ModelSpec(name="m", uri=uri), RUNTIMES, registered_at=0.0,
                           elsewhere=fetching).revisions[-1]

    def refusal(self, uri: str) -> str:
        with pytest.raises(NotTrusted) as caught:
            self.check(self.declare(uri))
        assert str(self.tmp_path) not in caught.value.message
        return caught.value.message

    def fetching(self, cache: str) -> Fetching:
        return Fetching(lambda: DiskCache(self.tmp_path / cache, 10**9),
                        Credentials([FileSource(self.credentials)]))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


# --- other places ---------------------------------------------------------------------------------


class Bucket:
    def __init__(self, world: World, store: S3Server) -> None:
        self.store = store
        self.name = store.bucket()
        self.uri = f"s3://{self.name}"
        world.credentials.write_text(json.dumps({"default_s3": {
            "type": "s3", "endpoint_url": store.url, "region": "us-east-1", **KEYS}}))

    def put(self, prefix: str, files: dict[str, bytes]) -> str:
        for name, content in files.items():
            self.store.put(self.name, f"{prefix}/{name}", content)
        return f"{self.uri}/{prefix}"


@pytest.fixture
def bucket(world: World, s3_server: S3Server) -> Bucket:
    return Bucket(world, s3_server)


def test_a_signed_model_of_a_bucket_is_accepted(world: World, bucket: Bucket) -> None:
    world.check(world.declare(bucket.put("net", world.signed({"model.onnx": ONNX}))))


def test_a_signature_beside_a_lone_file_is_found(world: World, bucket: Bucket) -> None:
    path = world.tmp_path / "net.onnx"
    path.write_bytes(ONNX)
    files = {"net.onnx": ONNX, "net.onnx.sig": world.signer.sign(path).read_bytes()}
    world.check(world.declare(bucket.put("lone", files) + "/net.onnx"))


def test_a_signed_folder_of_versions_is_accepted(world: World, bucket: Bucket) -> None:
    files = world.signed({"1/model.py": b"1", "1/words.txt": b"1", "2/model.py": b"2",
                          "2/words.txt": b"2"})
    revision = world.declare(bucket.put("mood", files))
    assert revision.uri == f"{bucket.uri}/mood/2"
    with pytest.raises(NotTrusted, match="lies outside the trusted locations"):  # but signed
        world.check(revision)


def test_what_is_unsigned_or_altered_in_a_bucket_is_refused(world: World, bucket: Bucket) -> None:
    uri = bucket.put("net", {"model.onnx": ONNX})
    assert f"{uri}/model.onnx is not signed, as trust.signatures requires: there is none of " \
        f"{uri}/model.onnx.sig, {uri}/model.sig" in world.refusal(uri)
    files = world.signed({"model.onnx": ONNX})
    uri = bucket.put("altered", {**files, "model.onnx": ONNX + b"!"})
    assert f"the signature of {uri}/model.onnx does not vouch for {uri}/model.onnx: the file " \
        "differs from what was signed" in world.refusal(uri)


def test_a_signature_that_comes_later_is_found(world: World, bucket: Bucket) -> None:
    uri = bucket.put("net", {"model.onnx": ONNX})
    world.refusal(uri)
    bucket.put("net", world.signed({"model.onnx": ONNX}))
    world.check(world.declare(uri))


def test_a_signature_stays_in_the_disk_cache(world: World, bucket: Bucket) -> None:
    revision = world.declare(bucket.put("net", world.signed({"model.onnx": ONNX})))
    world.check(revision)
    world.credentials.write_text(json.dumps({"default_s3": {
        "type": "s3", "endpoint_url": "http://127.0.0.1:1", "region": "us-east-1", **KEYS}}))
    world.check(revision)
    with pytest.raises(PlaceUnavailable):
        world.check(revision, cache="b")


def test_another_instance_fetches_the_signature_too(world: World, bucket: Bucket) -> None:
    revision = world.declare(bucket.put("net", world.signed({"model.onnx": ONNX})))
    world.check(revision, cache="b")


def test_a_signed_model_of_the_hub_is_accepted(
    world: World, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = stack.enter_context(hub_server(world.signed({"model.onnx": ONNX})))
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    world.check(world.declare("hf://acme/iris"))


def test_a_signed_model_of_a_repository_is_accepted(world: World, stack: ExitStack) -> None:
    server = stack.enter_context(git_server(world.tmp_path / "server"))
    signed = world.signed({"model.onnx": ONNX})
    commit = server.commit({f"deep/{name}": content for name, content in signed.items()})
    world.check(world.declare(server.uri(f"@{commit}#deep")))


@pytest.mark.skipif(shutil.which("docker-registry") is None, reason="needs docker-registry")
def test_a_signed_model_of_a_registry_of_images_is_accepted(world: World, stack: ExitStack) -> None:
    (world.tmp_path / "registry").mkdir()
    registry = stack.enter_context(registry_server(world.tmp_path / "registry"))
    registry.files("a/files", "v1", world.signed({"model.onnx": ONNX}))
    world.check(world.declare(f"oci://{registry.host}/a/files:v1"))


def test_a_signature_in_an_archive_is_found(world: World, s3_server: S3Server) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in world.signed({"model.onnx": ONNX}).items():
            info = tarfile.TarInfo(f"net/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    bucket = s3_server.bucket({"net.tgz": packed.getvalue()})
    s3_server.publish(bucket, "net.tgz")
    world.check(world.declare(f"{s3_server.url}/{bucket}/net.tgz"))


# --- a server -------------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path: Path, example_cases: tuple[Path, list[Case]]) -> Path:
    folder = tmp_path / "models"
    for name in ("iris-net", "iris"):
        shutil.copytree(example_cases[0] / name, folder / name)
    return folder


def request_of(example_cases: tuple[Path, list[Case]], model: str) -> dict[str, object]:
    return next(case.request for case in example_cases[1] if case.model == model)


def test_a_server_that_requires_signatures_serves_what_is_signed_and_nothing_else(
    world: World, models: Path, example_cases: tuple[Path, list[Case]]
) -> None:
    world.signer.sign(models / "iris")
    options = ("--trust-signatures", "required", "--trust-public-keys", world.signer.public)
    quick = ("--folder-settle-s", "0", "--load-retry-base-s", "0.05", "--load-retry-max-s", "0.1")
    with Served(models, *options, *quick, data_dir=world.tmp_path / "data") as served:
        assert served.infer("iris", request_of(example_cases, "iris")).status_code == 200
        answer = served.infer("iris-net", request_of(example_cases, "iris-net"))
        assert answer.status_code == 503
        assert "is not signed, as trust.signatures requires" in answer.json()["error"]
        with pytest.raises(NotTrusted, match="is not signed"):
            served.client.register("other", str(models / "iris-net"), trust="code")
        world.signer.sign(models / "iris-net")
        until(lambda: served.infer("iris-net", request_of(example_cases, "iris-net"))
              .status_code == 200, "it is signed now")
        served.client.register("other", str(models / "iris-net"))


def test_what_was_registered_before_signatures_were_required_is_not_loaded_after(
    world: World, models: Path, example_cases: tuple[Path, list[Case]]
) -> None:
    with Served(data_dir=world.tmp_path / "data") as served:
        served.client.register("net", str(models / "iris-net"))
    with Served(
        "--trust-signatures", "required", "--trust-public-keys", world.signer.public,
        "--trust-signed-locations", models, data_dir=world.tmp_path / "data",
    ) as served:
        answer = served.infer("net", request_of(example_cases, "iris-net"))
        assert "is not signed" in answer.json()["error"]
        elsewhere = shutil.copytree(models / "iris-net", world.tmp_path / "elsewhere")
        served.client.register("net", str(elsewhere))
        assert served.infer("net", request_of(example_cases, "iris-net")).status_code == 200
