"""Credentials by name, from files in the shapes of KServe and ModelMesh."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest

from shoal.domain.errors import InvalidSpecification
from shoal.storage.places.credentials import Access, Credentials, FileSource

S3 = {"type": "s3", "access_key_id": "AKIA", "secret_access_key": "SECRET",
      "endpoint_url": "http://minio:9000", "region": "us-south", "bucket": "models"}


def written(path: Path, content: object) -> Credentials:
    path.write_text(json.dumps(content))
    return Credentials([FileSource(path)])


def test_a_file_holds_an_object_or_its_text_for_each_name(tmp_path: Path) -> None:
    known = written(tmp_path / "c.json", {"one": S3, "two": json.dumps(S3)})
    assert known.names() == ["one", "two"]
    for name in ("one", "two"):
        access = known.get(name, "s3")
        assert access is not None
        assert access.get("endpoint_url") == "http://minio:9000"
        assert access.get("bucket") == "models"


def test_a_mounted_secret_has_a_file_for_each_name(tmp_path: Path) -> None:
    data = tmp_path / "..2026"
    data.mkdir()
    (data / "mine").write_text(json.dumps(S3) + "\n")
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "mine").symlink_to("..data/mine")
    known = Credentials([FileSource(tmp_path)])
    assert known.names() == ["mine"]
    access = known.get("mine", "s3")
    assert access is not None
    assert access.get("secret_access_key") == "SECRET"


@pytest.mark.parametrize(("secret", "kind", "fields"), [
    ({"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "B",
      "serving.kserve.io/s3-endpoint": "minio:9000", "serving.kserve.io/s3-usehttps": "0",
      "serving.kserve.io/s3-verifyssl": "1", "serving.kserve.io/s3-useanoncredential": "false"},
     "s3", {"access_key_id": "A", "secret_access_key": "B", "endpoint_url": "minio:9000",
            "use_https": "false", "verify_ssl": "true", "anonymous": "false"}),
    ({"gcloud-application-credentials.json": '{"type": "service_account"}'},
     "gcs", {"service_account": '{"type": "service_account"}'}),
    ({"AZ_CLIENT_ID": "i", "AZ_CLIENT_SECRET": "s", "AZ_TENANT_ID": "t",
      "AZ_SUBSCRIPTION_ID": "unused"},
     "azure", {"client_id": "i", "client_secret": "s", "tenant_id": "t"}),
    ({"AZURE_STORAGE_ACCESS_KEY": "k"}, "azure", {"account_key": "k"}),
    ({"https-host": "example.org", "headers": '{"X-Key": "v"}'},
     "http", {"host": "example.org", "headers": '{"X-Key": "v"}'}),
    ({"https-host": "example.org", "headers": "X-Key: v\nY: w"},
     "http", {"host": "example.org", "headers": '{"X-Key": "v", "Y": "w"}'}),
    ({"HF_TOKEN": "t"}, "hf", {"token": "t"}),
], ids=["s3", "gcs", "azure-client", "azure-key", "http", "http-lines", "hf"])
def test_secrets_of_kserve_are_understood_as_an_entry_and_as_the_whole(
    tmp_path: Path, secret: Mapping[str, str], kind: str, fields: Mapping[str, str]
) -> None:
    named = written(tmp_path / "c.json", {"mine": secret}).get("mine", kind)
    assert named is not None
    assert dict(named.values) == fields
    (tmp_path / "secret").mkdir()
    for key, value in secret.items():
        (tmp_path / "secret" / key.replace("/", "_")).write_text(value)
    whole = written(tmp_path / "whole.json", secret).get(None, kind)
    assert whole is not None
    assert dict(whole.values) == fields
    assert Credentials([FileSource(tmp_path / "secret")]).get(None, kind) is not None


def test_the_fields_of_modelmesh_are_understood(tmp_path: Path) -> None:
    known = written(tmp_path / "c.json", {
        "g": {"type": "gcs", "private_key": "P\nQ\n", "client_email": "e", "token_uri": "u"},
        "a": {"type": "azure", "account_name": "n", "container": "c", "connection_string": "s"},
        "h": {"type": "http", "url": "https://h", "headers": {"A": "b"}, "certificate": "c"},
        "s": {"type": "s3", "access_key_id": "a", "secret_access_key": "b",
              "default_bucket": "d"},
    })
    g, a, h, s = (known.get(*each) for each in
                  (("g", "gcs"), ("a", "azure"), ("h", "http"), ("s", "s3")))
    assert g is not None
    assert g.get("private_key") == "P\nQ\n"
    assert a is not None
    assert a.get("bucket") == "c"
    assert h is not None
    assert h.get("host") == "https://h"
    assert s is not None
    assert s.get("bucket") == "d"


def test_without_a_name_the_default_of_the_type_is_taken_then_the_general_one(
        tmp_path: Path) -> None:
    known = written(tmp_path / "c.json", {"default": {**S3, "region": "general"}})
    access = known.get(None, "s3")
    assert access is not None
    assert access.get("region") == "general"
    assert known.get(None, "gcs") is None
    known = written(tmp_path / "c.json", {
        "default": {"type": "gcs", "anonymous": True}, "default_s3": S3})
    access = known.get(None, "s3")
    assert access is not None
    assert access.get("region") == "us-south"
    assert access.is_default


def test_without_any_the_servers_own_identity_is_meant() -> None:
    assert Credentials().get(None, "s3") is None


def test_changes_on_disk_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    known = written(path, {"one": S3})
    assert known.names() == ["one"]
    beside = tmp_path / "new"
    beside.write_text(json.dumps({"two": S3}))
    os.replace(beside, path)
    assert known.names() == ["two"]


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    known = written(tmp_path / "c.json", {"one": S3, "two": S3})
    with pytest.raises(InvalidSpecification, match="'three' are not known; known are one, two"):
        known.get("three", "s3")
    with pytest.raises(InvalidSpecification, match="known are none"):
        Credentials().get("x", "s3")


def test_a_name_of_another_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecification, match="of the type 's3', but 'gcs' is needed"):
        written(tmp_path / "c.json", {"one": S3}).get("one", "gcs")


@pytest.mark.parametrize(("entry", "story"), [
    ({"type": "ftp"}, "type 'ftp' is not known"),
    ({"access_key_id": "SECRET"}, "the field 'type' is missing"),
    ({"type": "s3", "access_key_id": "SECRET"}, "the field 'secret_access_key' is missing"),
    ({"type": "s3", "secret_access_key": "SECRET"}, "the field 'access_key_id' is missing"),
    ({"type": "s3", "region": ["SECRET"]}, "the field 'region' must be a text"),
    ({"type": "s3", "verify_ssl": "SECRET"}, "the field 'verify_ssl' must be true or false"),
    ({"type": "s3", "region": "SECRET\0"}, "null characters"),
    ({"type": "http", "headers": "SECRET"}, "the field 'headers' must be a JSON object"),
    ({"type": "http", "headers": {"A": "SECRET\r\nB: c"}}, "each of one line"),
    ({"type": "gcs", "private_key": "SECRET"}, "the field 'client_email' is missing"),
    ({"type": "azure", "client_secret": "SECRET"}, "the field 'client_id' is missing"),
    ("SECRET", "is no JSON"),
    (["SECRET"], "must hold a JSON object"),
], ids=range(13))
def test_a_bad_entry_is_told_by_file_key_and_field_and_harms_no_other(
        tmp_path: Path, entry: object, story: str) -> None:
    known = written(tmp_path / "c.json", {"bad": entry, "good": S3})
    with pytest.raises(InvalidSpecification, match=story) as told:
        known.get("bad", "s3")
    assert "c.json: key 'bad'" in told.value.message
    assert "SECRET" not in told.value.message
    assert told.value.__cause__ is None
    assert known.get("good", "s3") is not None


@pytest.mark.parametrize("text", ['{"a": SECRET}', "[]", "\xff"], ids=["broken", "list", "bytes"])
def test_a_bad_file_is_told_and_not_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidSpecification, match=r"c\.json") as told:
        Credentials([FileSource(path)]).get("a", "s3")
    assert "SECRET" not in told.value.message


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecification, match="does not exist"):
        Credentials([FileSource(tmp_path / "none")]).names()


class Stored:
    """Credentials that are kept elsewhere."""

    def read(self) -> Mapping[str, Mapping[str, object]]:
        return {"one": {**S3, "region": "stored"}, "more": S3}

    def describe(self) -> str:
        return "the registry"


def test_the_first_source_that_has_a_name_is_asked(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"one": S3}))
    known = Credentials([FileSource(tmp_path / "c.json"), Stored()])
    assert known.names() == ["more", "one"]
    access = known.get("one", "s3")
    assert access is not None
    assert access.get("region") == "us-south"
    assert known.get("more", "s3") is not None


def test_no_text_of_an_access_shows_its_values() -> None:
    access = Access("mine", "s3", {"secret_access_key": "SECRET"})
    assert "SECRET" not in f"{access} {access!r} {[access]} {access.__dir__()}"
    with pytest.raises(TypeError):
        pickle.dumps(access)
    with pytest.raises(TypeError):
        copy.deepcopy(access)


def test_equal_values_make_equal_accesses() -> None:
    one = Access("mine", "s3", {"a": "b"})
    assert one == Access("mine", "s3", {"a": "b"})
    assert hash(one) == hash(Access("mine", "s3", {"a": "b"}))
    assert one != Access("mine", "s3", {"a": "c"})
