"""Google Cloud Storage and Azure Blob Storage over HTTP, and what is peculiar to them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.object_stores import KEYS, BlobServer, S3Server
from tests.remote_fakes import names, whole

from shoal.domain.errors import (
    ArtifactChanged,
    ArtifactMissing,
    InvalidSpecification,
    PlaceDenied,
)
from shoal.storage.places.buckets import Patience
from shoal.storage.places.credentials import Access
from shoal.storage.places.object_store import ObjectStore

pytestmark = pytest.mark.usefixtures("nobody")

ONCE = Patience(retries=0)


def google(server: BlobServer) -> ObjectStore:
    return ObjectStore(
        Access("g", "gcs", {"endpoint_url": server.url, "anonymous": "true"}), ONCE)


def azure(server: BlobServer) -> ObjectStore:
    return ObjectStore(Access("a", "azure", {
        "endpoint_url": f"{server.url}/azure", "account_name": "azure", "account_key": "c2VjcmV0",
    }), ONCE)


SERVICES = pytest.mark.parametrize(
    ("scheme", "make"), [("gs", google), ("az", azure)], ids=["gs", "az"])
Make = Callable[[BlobServer], ObjectStore]


@SERVICES
def test_folders_and_files_of_others_are_listed_and_read(
        blob_server: BlobServer, scheme: str, make: Make) -> None:
    blob_server.page = 2
    blob_server.objects["box"] = {f"m/{n}/ü {n}": b"%d" % n for n in range(7)} | {"lone": b"l"}
    place = make(blob_server)
    snapshot = place.look(f"{scheme}://box/m")
    assert names(snapshot) == [f"{n}/ü {n}" for n in range(7)]
    assert whole(place, snapshot, 3) == b"3"
    lone = place.look(f"{scheme}://box/lone")
    assert names(lone) == [""]
    assert whole(place, lone) == b"l"


@SERVICES
def test_a_listed_file_and_a_lone_one_have_the_same_tag(
        blob_server: BlobServer, scheme: str, make: Make) -> None:
    blob_server.objects["box"] = {"m/a": b"1"}
    place = make(blob_server)
    listed, lone = place.look(f"{scheme}://box/m"), place.look(f"{scheme}://box/m/a")
    assert listed.files[0].tag == lone.files[0].tag


@SERVICES
def test_an_object_of_others_that_was_overwritten_is_not_read(
        blob_server: BlobServer, scheme: str, make: Make) -> None:
    blob_server.objects["box"] = {"m/a": b"old"}
    place = make(blob_server)
    snapshot = place.look(f"{scheme}://box/m")
    blob_server.objects["box"]["m/a"] = b"new"
    with pytest.raises(ArtifactChanged):
        whole(place, snapshot)


@SERVICES
def test_what_is_missing_or_forbidden_at_others_is_said_so(
        blob_server: BlobServer, scheme: str, make: Make) -> None:
    place = make(blob_server)
    with pytest.raises(ArtifactMissing, match=f"{scheme}://box/a"):
        place.look(f"{scheme}://box/a")
    blob_server.refuse = 403
    with pytest.raises(PlaceDenied) as told:
        place.look(f"{scheme}://box/a")
    assert "secret" not in told.value.message


def test_a_server_that_speaks_amazons_dialect_is_googles_too(s3_server: S3Server) -> None:
    """Google's XML API is Amazon's, as far as listing and reading go: moto was not made by us."""
    objects = {f"m/{n:04}/ü {n}": b"%d" % n for n in range(1200)}
    bucket = s3_server.bucket(objects)
    s3_server.publish(bucket)
    s3_server.publish(bucket, *objects)
    place = ObjectStore(
        Access("g", "gcs", {"endpoint_url": s3_server.url, "anonymous": "true"}), ONCE)
    snapshot = place.look(f"gs://{bucket}/m")
    assert names(snapshot) == [f"{n:04}/ü {n}" for n in range(1200)]
    assert whole(place, snapshot, 1100) == b"1100"
    s3_server.put(bucket, "m/1100/ü 1100", b"new")
    s3_server.publish(bucket, "m/1100/ü 1100")
    with pytest.raises(ArtifactChanged):
        whole(place, snapshot, 1100)


def test_a_signed_uri_is_read_by_its_signature(blob_server: BlobServer) -> None:
    blob_server.objects["box"] = {"m/a": b"1"}
    place = ObjectStore(Access("a", "azure", {"endpoint_url": f"{blob_server.url}/azure"}), ONCE)
    uri = "https://azure.blob.core.windows.net/box/m?sv=2022&sig=s%2Fecret"
    snapshot = place.look(uri)
    assert whole(place, snapshot) == b"1"
    assert "sig=" in blob_server.requests[-1][1]
    blob_server.refuse = 403
    with pytest.raises(PlaceDenied) as told:
        place.look(uri)
    assert "ecret" not in told.value.message


def test_an_empty_blob_that_stands_for_a_folder_is_a_folder(blob_server: BlobServer) -> None:
    blob_server.objects["box"] = {"m": b"", "m/sub": b"", "m/sub/a": b"1"}
    assert names(azure(blob_server).look("az://box/m")) == ["sub/a"]


def test_a_connection_string_tells_account_key_and_endpoint(blob_server: BlobServer) -> None:
    blob_server.objects["box"] = {"m/a": b"1"}
    text = f"AccountName=azure;AccountKey=c2VjcmV0;BlobEndpoint={blob_server.url}/azure"
    place = ObjectStore(Access("a", "azure", {"connection_string": text}), ONCE)
    assert names(place.look("az://box/m")) == ["a"]
    assert blob_server.requests[-1][2]["authorization"].startswith("SharedKey azure:")


def test_credentials_of_one_account_are_shown_to_no_other(blob_server: BlobServer) -> None:
    values = {"account_name": "mine", "account_key": "c2VjcmV0"}
    uri = "https://other.blob.core.windows.net/box/m"
    with pytest.raises(InvalidSpecification, match="for the account 'mine', not for 'other'"):
        ObjectStore(Access("a", "azure", values), ONCE).look(uri)


def test_the_emulator_of_googles_tools_is_used(
        blob_server: BlobServer, monkeypatch: pytest.MonkeyPatch) -> None:
    blob_server.objects["box"] = {"m/a": b"1"}
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", blob_server.url)
    assert names(ObjectStore(None, ONCE).look("gs://box/m")) == ["a"]


def test_credentials_that_cannot_be_read_are_named_and_not_shown() -> None:
    for access, uri in (
        (Access("k", "azure", {"account_name": "a", "account_key": "no SECRET"}), "az://b/c"),
        (Access("k", "gcs", {"private_key": "SECRET", "client_email": "x"}), "gs://b/c"),
        (Access("k", "gcs", {"service_account": '{"type": "authorized_user"}'}), "gs://b/c"),
        (Access("k", "s3", {**KEYS, "certificate": "SECRET"}), "s3://b/c"),
        (Access("k", "s3", {**KEYS, "ca_bundle": "/no/such/bundle"}), "s3://b/c"),
        (Access("k", "azure", {}), "az://b/c"),
    ):
        with pytest.raises(InvalidSpecification, match="'k'") as told:
            ObjectStore(access, ONCE).look(uri)
        assert "SECRET" not in told.value.message
        assert told.value.__cause__ is None or "SECRET" not in str(told.value.__cause__)
