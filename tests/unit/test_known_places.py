"""Which place, bucket and key a URI means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shoal.domain.errors import InvalidSpecification, RuntimeMissing
from shoal.storage.places.buckets import Bucket, bucket_of, s3_endpoint
from shoal.storage.places.credentials import Access, Credentials, FileSource
from shoal.storage.places.known import access_type, check_uri, place_for
from shoal.storage.places.place import Files


@pytest.mark.parametrize(("uri", "bucket", "key"), [
    ("s3://b/a/c", Bucket("s3", "b"), "a/c"),
    ("s3://b/a/", Bucket("s3", "b"), "a/"),
    ("S3://b", Bucket("s3", "b"), ""),
    ("s3://b/sp ace#1%20", Bucket("s3", "b"), "sp ace#1%20"),
    ("gs://b/a", Bucket("gcs", "b"), "a"),
    ("az://c/a", Bucket("azure", "c"), "a"),
    ("abfss://c@acc.dfs.core.windows.net/a",
     Bucket("azure", "c", "acc", "https://acc.blob.core.windows.net"), "a"),
    ("https://acc.blob.core.windows.net/c/a%20b",
     Bucket("azure", "c", "acc", "https://acc.blob.core.windows.net"), "a b"),
    ("https://acc.blob.core.windows.net/c/a?sig=x",
     Bucket("azure", "c", "acc", "https://acc.blob.core.windows.net", "sig=x"), "a"),
], ids=range(9))
def test_a_uri_means_a_bucket_and_a_key(uri: str, bucket: Bucket, key: str) -> None:
    assert bucket_of(uri) == (bucket, key)


@pytest.mark.parametrize("uri", [
    "s3://", "s3:///a", "s3://user:pw@bucket/a", "s3://b//a", "s3://b/a/../c", "s3://b/./a",
    "s3://b//", "gs://", "abfss://c@elsewhere.example/a", "https://acc.blob.core.windows.net/",
    "http://acc.blob.core.windows.net/c/a", "https://u:pw@acc.blob.core.windows.net/c/a",
], ids=range(12))
def test_what_is_no_bucket_or_key_is_refused(uri: str) -> None:
    with pytest.raises(InvalidSpecification, match="uri ") as told:
        bucket_of(uri)
    assert "pw" not in told.value.message


@pytest.mark.parametrize("uri", [
    "ftp://host/a", "iris", "s3:bucket", "http://", "http:///a", "https://host/", "https://host",
    "https://user:pw@host/a.onnx", "https://host:port/a", "https://ho st/a", "https://[x/a",
], ids=range(11))
def test_what_no_place_can_mean_anything_by_is_refused(uri: str) -> None:
    with pytest.raises(InvalidSpecification, match="uri ") as told:
        check_uri(uri)
    assert "pw" not in told.value.message


@pytest.mark.parametrize("uri", [
    "s3:///a", "s3://b/a#inside", "https://host/a.zip#inside/model.onnx", "http://host:80/a?x=y",
])
def test_what_some_place_may_know_is_not_refused(uri: str) -> None:
    check_uri(uri)


def test_an_unknown_scheme_lists_those_that_are_known() -> None:
    with pytest.raises(InvalidSpecification, match=r"known are .*gs://.*https://.*s3://"):
        check_uri("ftp://host/a")


def test_azures_hosts_are_object_stores_and_others_are_not() -> None:
    assert access_type("https://acc.blob.core.windows.net/c/a") == "azure"
    assert access_type("https://acc.blob.core.windows.net.evil.example/c/a") == "http"
    assert access_type("https://example.org/a") == "http"


def test_a_signed_uri_keeps_its_signature_at_its_end() -> None:
    place = place_for("https://acc.blob.core.windows.net/c/a?sig=x", Credentials())
    assert isinstance(place, Files)
    assert not place.nested


def test_places_are_shared_by_equal_credentials(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    entry = {"type": "s3", "access_key_id": "a", "secret_access_key": "b"}
    path.write_text(json.dumps({"one": entry}))
    known = Credentials([FileSource(path)])
    first = place_for("s3://b/a", known, "one")
    assert place_for("s3://c/d", known, "one") is first
    assert place_for("s3://b/a", known) is not first
    path.write_text(json.dumps({"one": {**entry, "secret_access_key": "changed"}}))
    assert place_for("s3://b/a", known, "one") is not first


def test_each_file_of_the_web_has_a_place_of_its_own() -> None:
    """For whether parts can be read differs from server to server."""
    one = place_for("http://host/a", Credentials())
    assert place_for("http://host/a", Credentials()) is one
    assert place_for("http://host/b", Credentials()) is not one


@pytest.mark.parametrize(("values", "region", "endpoint"), [
    ({}, "eu-west-1", "https://s3.eu-west-1.amazonaws.com"),
    ({}, "cn-north-1", "https://s3.cn-north-1.amazonaws.com.cn"),
    ({"virtual_host": "true"}, "us-east-1", "https://b.s3.us-east-1.amazonaws.com"),
    ({"accelerate": "true"}, "us-east-1", "https://b.s3-accelerate.amazonaws.com"),
    ({"endpoint_url": "minio:9000", "use_https": "false"}, "", "http://minio:9000"),
    ({"endpoint_url": "minio:9000"}, "", "https://minio:9000"),
    ({"endpoint_url": "http://minio:9000/"}, "", "http://minio:9000"),
    ({"endpoint_url": "https://s.example", "virtual_host": "true"}, "", "https://b.s.example"),
    ({"endpoint_url": "https://b.s.example", "virtual_host": "true"}, "", "https://b.s.example"),
], ids=range(9))
def test_the_endpoint_of_a_bucket(values: dict[str, str], region: str, endpoint: str) -> None:
    assert s3_endpoint("b", values, region) == endpoint


def test_without_obstore_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeMissing, match=r"pip install 'shoal\[object-store\]'"):
        place_for("s3://b/a", Stored())


class Stored(Credentials):
    """Credentials that no other test has a place for."""

    def get(self, name: str | None, type: str) -> Access:  # noqa: A002
        return Access("stored", type, {})
