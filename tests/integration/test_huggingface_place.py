"""Models of the Hugging Face Hub, from a server that answers as it does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.hub_server import COMMIT, Hub, Refusal, hub_server

from shoal.domain.errors import (
    ArtifactMissing,
    InvalidSpecification,
    PlaceDenied,
    PlaceUnavailable,
)
from shoal.storage.download import Options, download
from shoal.storage.places.credentials import Access
from shoal.storage.places.huggingface import HuggingFace
from shoal.storage.places.huggingface_files import left_out
from shoal.storage.places.place import Files
from shoal.storage.places.web_client import Patience

WEIGHTS = bytes(range(256)) * 40


@pytest.fixture
def hub() -> Iterator[Hub]:
    files = {
        ".gitattributes": b"*", "README.md": b"# Iris", "config.json": b"{}",
        "model.safetensors": WEIGHTS, "pytorch_model.bin": b"pickled", "vocab.txt": b"a\nb",
        "1_Pooling/config.json": b"{ }", "onnx/model.onnx": b"exported",
    }
    with hub_server(files) as hub:
        hub.large = {"model.safetensors", "pytorch_model.bin"}
        yield hub


def place(hub: Hub, waits: list[float] | None = None, token: str = "") -> HuggingFace:
    """As in an environment with `token`. waits: how long would have been waited."""
    patience = Patience(sleep=(waits if waits is not None else []).append)
    environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HOME": "/nowhere"}
    return HuggingFace(None, patience, environment)


def read_all(place: HuggingFace, uri: str, name: str, start: int = 0, end: int | None = None
             ) -> bytes:
    snapshot = place.look(uri)
    file = next(file for file in snapshot.files if file.name == name)
    return b"".join(place.read(snapshot, file, start, end))


def test_it_gives_single_files(hub: Hub) -> None:
    assert isinstance(place(hub), Files)


def test_a_model_is_listed_over_all_pages_without_what_nobody_needs(hub: Hub) -> None:
    snapshot = place(hub).look("hf://acme/iris")
    assert [file.name for file in snapshot.files] == [
        "1_Pooling/config.json", "config.json", "model.safetensors", "vocab.txt"]


def test_a_branch_becomes_the_commit_it_means_now(hub: Hub) -> None:
    snapshot = place(hub).look("hf://acme/iris:main")
    assert (snapshot.uri, snapshot.version) == (f"hf://acme/iris:{COMMIT}", COMMIT)
    assert place(hub).look(snapshot.uri) == snapshot


@pytest.mark.parametrize("uri", ["hf://acme/iris@main", "hf://acme/iris:refs%2Fpr%2F1",
                                 f"hf://acme/iris:{COMMIT}/", "hf://acme/iris"])
def test_revisions_are_written_in_several_ways(hub: Hub, uri: str) -> None:
    assert place(hub).look(uri).uri == f"hf://acme/iris:{COMMIT}"


def test_large_files_are_vouched_for_and_small_ones_tagged(hub: Hub) -> None:
    files = {file.name: file for file in place(hub).look("hf://acme/iris").files}
    assert files["model.safetensors"].sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert files["model.safetensors"].size_bytes == len(WEIGHTS)
    assert files["config.json"].sha256 is None
    assert files["config.json"].tag


def test_a_folder_of_a_model_is_listed_from_there(hub: Hub) -> None:
    snapshot = place(hub).look("hf://acme/iris/onnx")
    assert snapshot.uri == f"hf://acme/iris:{COMMIT}/onnx"
    assert [file.name for file in snapshot.files] == ["model.onnx"]
    assert read_all(place(hub), snapshot.uri, "model.onnx") == b"exported"


def test_a_file_of_a_model_is_a_lone_file(hub: Hub) -> None:
    snapshot = place(hub).look("hf://acme/iris/onnx/model.onnx")
    assert snapshot.is_lone
    assert read_all(place(hub), snapshot.uri, "") == b"exported"


def test_a_lone_archive_is_told_as_one(hub: Hub) -> None:
    hub.files["model.tar.gz"] = b"packed"
    assert place(hub).look("hf://acme/iris/model.tar.gz").files[0].archive


def test_a_large_file_comes_from_elsewhere_and_the_token_stays_here(hub: Hub) -> None:
    hub.token = "hf_secret"
    assert read_all(place(hub, token="hf_secret"), "hf://acme/iris", "model.safetensors") == WEIGHTS
    assert [kind for kind, _, _ in hub.seen].count("apart") == 1
    for kind, _, headers in hub.seen:
        assert ("authorization" in headers) == (kind == "hub")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_of_a_file_is_that_part_whatever_the_server_understands(
        hub: Hub, ranges: bool) -> None:
    hub.ranges = ranges
    asked = place(hub)
    assert read_all(asked, "hf://acme/iris", "model.safetensors", 100, 5000) == WEIGHTS[100:5000]
    assert read_all(asked, "hf://acme/iris", "config.json", 1) == b"}"


def test_a_model_is_downloaded_in_parts(hub: Hub, tmp_path: Path) -> None:
    asked = place(hub)
    download(asked, asked.look("hf://acme/iris"), tmp_path / "iris", Options(part_bytes=3000))
    assert (tmp_path / "iris" / "model.safetensors").read_bytes() == WEIGHTS
    assert len(hub.asked("/resolve/")) == 4 + 3


def test_a_busy_hub_is_asked_again_when_it_says(hub: Hub) -> None:
    hub.refusals = [Refusal("/revision/", 429, {"Retry-After": "3"}), Refusal("/tree/", 503)]
    waits: list[float] = []
    assert place(hub, waits).look("hf://acme/iris").files
    assert waits == [3.0, 0.5]


def test_a_hub_that_wants_to_be_left_alone_for_long_is(hub: Hub) -> None:
    hub.refusals = [Refusal("/revision/", 429, {"Retry-After": "300"}, times=9)]
    with pytest.raises(PlaceUnavailable, match="asked too often; it asks to wait 300 s"):
        place(hub).look("hf://acme/iris")
    assert len(hub.seen) == 1


def test_a_hub_that_stays_broken_is_given_up(hub: Hub) -> None:
    hub.refusals = [Refusal("/api/", 500, times=99)]
    waits: list[float] = []
    with pytest.raises(PlaceUnavailable, match="status 500"):
        place(hub, waits).look("hf://acme/iris")
    assert waits == [0.5, 1.0, 2.0]


def test_a_refused_read_is_tried_again_by_who_reads(hub: Hub) -> None:
    hub.refusals = [Refusal("/resolve/", 502)]
    with pytest.raises(PlaceUnavailable, match=r"'config\.json': .* status 502"):
        read_all(place(hub), "hf://acme/iris", "config.json")


def test_a_hub_that_is_not_there_is_named(hub: Hub) -> None:
    hub.url = "http://127.0.0.1:1"
    with pytest.raises(PlaceUnavailable, match=r"127\.0\.0\.1:1 refuses connections"):
        place(hub).look("hf://acme/iris")


def test_a_private_model_needs_a_token(hub: Hub) -> None:
    hub.token = "hf_secret"
    with pytest.raises(PlaceDenied, match=r"private or gated, and no token was given.*HF_TOKEN"):
        place(hub).look("hf://acme/iris")
    with pytest.raises(PlaceDenied, match="owner of the token") as refused:
        place(hub, token="hf_wrong").look("hf://acme/iris")
    assert "hf_wrong" not in refused.value.message


def test_a_gated_model_says_where_to_ask(hub: Hub) -> None:
    hub.gated = True
    with pytest.raises(PlaceDenied, match=f"is gated: .* ask for it at {hub.url}/acme/iris"):
        read_all(place(hub), "hf://acme/iris", "config.json")


@pytest.mark.parametrize(("uri", "story"), [
    ("hf://acme/roses", "no model 'acme/roses'"),
    ("hf://acme/iris:v9", "no revision 'v9'"),
    ("hf://acme/iris/nothing", "has no 'nothing'"),
])
def test_what_is_missing_is_named(hub: Hub, uri: str, story: str) -> None:
    with pytest.raises(ArtifactMissing, match=story):
        place(hub).look(uri)


def test_a_model_of_nothing_but_words_is_none(hub: Hub) -> None:
    hub.files = {"README.md": b"soon"}
    with pytest.raises(ArtifactMissing, match="no files that a model"):
        place(hub).look("hf://acme/iris")


@pytest.mark.parametrize("uri", [
    "hf://acme", "hf://datasets/acme/iris", "hf://acme/iris/../x", "hf://acme/iris?x=1",
    "hf:///iris", "hf://acme/iris::x",
])
def test_what_is_no_address_is_refused(hub: Hub, uri: str) -> None:
    with pytest.raises(InvalidSpecification):
        place(hub).look(uri)
    assert not hub.seen


def test_named_credentials_have_a_token_and_an_endpoint(hub: Hub) -> None:
    hub.token = "hf_named"
    access = Access("team", "hf", {"token": "hf_named", "endpoint_url": hub.url})
    environment = {"HF_TOKEN": "hf_other", "HF_ENDPOINT": "http://127.0.0.1:1"}
    assert HuggingFace(access, None, environment).look("hf://acme/iris").files


def test_a_token_of_a_login_is_found_when_it_comes(hub: Hub, tmp_path: Path) -> None:
    hub.token = "hf_kept"
    asked = HuggingFace(None, None, {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)})
    with pytest.raises(PlaceDenied):
        asked.look("hf://acme/iris")
    (tmp_path / "token").write_text("hf_kept\n")
    assert asked.look("hf://acme/iris").files


def test_weights_are_left_out_only_beside_safer_ones() -> None:
    assert left_out(["pytorch_model.bin", "onnx/model.onnx", "vocab.txt"]) == set()
    assert left_out(["a/model-00001-of-00002.safetensors", "a/pytorch_model-00001-of-2.bin",
                     "b/pytorch_model.bin", "a/original/params.json"]) == {
        "a/pytorch_model-00001-of-2.bin", "a/original/params.json"}


def test_what_is_written_for_people_or_left_by_training_is_left_out() -> None:
    names = ["LICENSE", "README.md", "curve.png", ".cache/x", "optimizer.pt", "merges.txt"]
    assert left_out(names) == set(names) - {"merges.txt"}
