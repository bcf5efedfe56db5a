"""Models of hubs, registries and repositories, from their declaration to the files of a load."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from tests.git_server import git_server
from tests.hub_server import COMMIT, hub_server
from tests.registry_server import packed, registry_server
from tests.storage_fakes import SuffixFinder

from shoal.domain.errors import InvalidSpecification
from shoal.domain.model import ModelRecord, ModelSpec
from shoal.storage.declare import declare
from shoal.storage.disk_cache import DiskCache
from shoal.storage.fetching import Fetching
from shoal.storage.places.credentials import Credentials
from shoal.storage.places.known import access_type, check_uri

MODEL = bytes(range(256)) * 10


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def fetching(folder: Path) -> Fetching:
    return Fetching(lambda: DiskCache(folder, 10**9), Credentials())


def declared(uri: str, folder: Path) -> ModelRecord:
    with closing(fetching(folder)) as elsewhere:
        return declare(ModelSpec(name="m", uri=uri), SuffixFinder(), registered_at=0.0,
                       elsewhere=elsewhere)


def loaded(record: ModelRecord, folder: Path) -> bytes:
    """What another instance, with a disk cache of its own, would load."""
    with closing(fetching(folder)) as elsewhere:
        held = elsewhere.open(record.revisions[-1])
        try:
            return held.path.read_bytes()
        finally:
            held.release()


@pytest.mark.parametrize(("uri", "kind"), [
    ("hf://acme", "hf"), ("oci://Acme", "oci"), ("git+https://h", "git"),
    ("git+http://example.org/a.git", "git")])
def test_an_address_that_is_none_is_refused_before_anything_is_asked(uri: str, kind: str) -> None:
    assert access_type(uri) == kind
    with pytest.raises(InvalidSpecification, match="no address"):
        check_uri(uri)


def test_a_model_of_the_hub(stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                            ) -> None:
    hub = stack.enter_context(hub_server({"README.md": b"#", "sub/model.onnx": MODEL}))
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    record = declared("hf://acme/iris/sub/model.onnx", tmp_path / "a")
    assert record.revisions[0].uri == f"hf://acme/iris:{COMMIT}/sub/model.onnx"
    assert loaded(record, tmp_path / "b") == MODEL
    record = declared("hf://acme/iris/sub", tmp_path / "a")
    assert record.revisions[0].uri == f"hf://acme/iris:{COMMIT}/sub/model.onnx"
    assert loaded(record, tmp_path / "b") == MODEL


def test_an_archive_in_the_hub(stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                               ) -> None:
    hub = stack.enter_context(hub_server({"iris.tgz": packed({"iris/model.onnx": MODEL})}))
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    record = declared("hf://acme/iris/iris.tgz", tmp_path / "a")
    assert record.revisions[0].uri == f"hf://acme/iris:{COMMIT}/iris.tgz#model.onnx"
    assert loaded(record, tmp_path / "b") == MODEL


@pytest.mark.skipif(shutil.which("docker-registry") is None, reason="needs docker-registry")
def test_models_of_a_registry(stack: ExitStack, tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    registry = stack.enter_context(registry_server(tmp_path / "registry"))
    registry.files("a/files", "v1", {"model.onnx": MODEL})
    registry.files("a/packed", "v1", {"m.tgz": packed({"m/model.onnx": MODEL})})
    registry.image("a/image", "v1", packed({"models/1/model.onnx": b"{}",
                                            "models/2/model.onnx": MODEL}))
    for name, inside in (
            ("files", "#model.onnx"), ("packed", "#model.onnx"), ("image", "#2/model.onnx")):
        record = declared(f"oci://{registry.host}/a/{name}:v1", tmp_path / "a")
        uri = record.revisions[-1].uri
        assert uri.startswith(f"oci://{registry.host}/a/{name}@sha256:")
        assert uri.endswith(inside)
        assert loaded(record, tmp_path / "b") == MODEL


def test_a_model_of_a_repository(stack: ExitStack, tmp_path: Path) -> None:
    server = stack.enter_context(git_server(tmp_path / "server"))
    commit = server.commit({"README.md": b"#", "deep/model.onnx": MODEL})
    server.commit({"deep/model.onnx": b"newer"})
    record = declared(server.uri(f"@{commit}#deep"), tmp_path / "a")
    assert record.revisions[0].uri == server.uri(f"@{commit}#deep/model.onnx")
    assert loaded(record, tmp_path / "b") == MODEL


def test_what_says_which_file_is_the_model_is_read_every_time(
        stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the model itself comes from the disk cache."""
    described = (b"flavors:\n  python_function:\n    loader_module: mlflow.onnx\n"
                 b"  onnx:\n    data: model.onnx\n")
    hub = stack.enter_context(hub_server(
        {"MLmodel": described, "model.onnx": MODEL, "other.onnx": MODEL[:-1]}))
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    first, again = (declared("hf://acme/iris", tmp_path / "cache") for _ in range(2))
    assert first == again
    assert len(hub.asked("/resolve/")) == len(hub.asked("MLmodel")) + 2
