"""S3 over HTTP, by moto, also behind a proxy that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.certificates import Authority
from tests.faulty_proxy import Fault, FaultyProxy
from tests.object_stores import KEYS, BlobServer, S3Server
from tests.remote_fakes import names, whole

from shoal.domain.errors import (
    ArtifactChanged,
    ArtifactMissing,
    InvalidArtifact,
    InvalidSpecification,
    PlaceDenied,
    PlaceUnavailable,
)
from shoal.storage.download import Options, download
from shoal.storage.places.buckets import Patience
from shoal.storage.places.credentials import Access
from shoal.storage.places.object_store import ObjectStore

pytestmark = pytest.mark.usefixtures("nobody")

ONCE = Patience(retries=0)


def s3(url: str, patience: Patience = ONCE, **more: str) -> ObjectStore:
    return ObjectStore(
        Access("mine", "s3", {**KEYS, "endpoint_url": url, "region": "us-east-1", **more}),
        patience)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_server.url) as proxy:
        yield proxy


# --- what lies there --------------------------------------------------------------------------


def test_a_folder_is_all_below_its_prefix(s3_server: S3Server) -> None:
    bucket = s3_server.bucket({
        "m/iris/a.bin": b"hello", "m/iris/sub/b ü#1%20.txt": b"xy", "m/iris2/c": b"no",
    })
    snapshot = s3(s3_server.url).look(f"s3://{bucket}/m/iris")
    assert names(snapshot) == ["a.bin", "sub/b ü#1%20.txt"]
    assert snapshot.size_bytes == 7
    assert snapshot.tag


def test_files_with_unusual_names_are_read(s3_server: S3Server) -> None:
    bucket = s3_server.bucket({"m/b ü#1%20~+.txt": b"xy"})
    place = s3(s3_server.url)
    assert whole(place, place.look(f"s3://{bucket}/m")) == b"xy"


def test_markers_of_folders_are_no_files_but_empty_files_are(s3_server: S3Server) -> None:
    bucket = s3_server.bucket({
        "m/": b"", "m/sub/": b"", "m/sub/a": b"1", "m/hollow/": b"", "m/__init__.py": b"",
    })
    assert names(s3(s3_server.url).look(f"s3://{bucket}/m")) == ["__init__.py", "sub/a"]


def test_an_object_wins_over_a_prefix_unless_the_uri_ends_with_a_slash(
        s3_server: S3Server) -> None:
    bucket = s3_server.bucket({"m": b"lone", "m/a": b"nested"})
    place = s3(s3_server.url)
    lone = place.look(f"s3://{bucket}/m")
    assert names(lone) == [""]
    assert whole(place, lone) == b"lone"
    folder = place.look(f"s3://{bucket}/m/")
    assert names(folder) == ["a"]
    assert whole(place, folder) == b"nested"


def test_a_whole_bucket_is_a_folder(s3_server: S3Server) -> None:
    bucket = s3_server.bucket({"a": b"1", "b/c": b"2"})
    place = s3(s3_server.url)
    for uri in (f"s3://{bucket}", f"s3://{bucket}/"):
        snapshot = place.look(uri)
        assert names(snapshot) == ["a", "b/c"]
        assert whole(place, snapshot, 1) == b"2"


def test_a_lone_archive_is_told_by_its_name(s3_server: S3Server) -> None:
    bucket = s3_server.bucket({"m.tar.gz": b"1", "m.onnx": b"2"})
    place = s3(s3_server.url)
    assert place.look(f"s3://{bucket}/m.tar.gz").files[0].archive
    assert not place.look(f"s3://{bucket}/m.onnx").files[0].archive


def test_the_bucket_may_come_from_the_credentials(s3_server: S3Server) -> None:
    bucket = s3_server.bucket({"a": b"1"})
    assert names(s3(s3_server.url, bucket=bucket).look("s3:///a")) == [""]


def test_nothing_there_is_said_so(s3_server: S3Server) -> None:
    bucket = s3_server.bucket({"models": b"1"})
    place = s3(s3_server.url)
    for uri in (f"s3://{bucket}/model", f"s3://{bucket}/models/", "s3://no-such-bucket/x"):
        with pytest.raises(ArtifactMissing, match=uri):
            place.look(uri)


@pytest.mark.parametrize("key", ["m/../secret", "m//double", "m/./dot"])
def test_keys_that_would_lead_out_of_their_folder_are_refused(
        s3_server: S3Server, key: str) -> None:
    bucket = s3_server.bucket({key: b"1", "m/a": b"2"})
    with pytest.raises(InvalidArtifact, match="rename"):
        s3(s3_server.url).look(f"s3://{bucket}/m")


def test_five_thousand_objects_are_all_listed_and_downloaded_in_part(
        s3_server: S3Server, proxy: FaultyProxy) -> None:
    bucket = s3_server.bucket()
    for number in range(5000):
        s3_server.put(bucket, f"m/{number % 50}/{number:04}.bin", b"%d" % number)
    place = s3(proxy.url, Patience())
    snapshot = place.look(f"s3://{bucket}/m")
    assert len(snapshot.files) == 5000
    assert proxy.count(where="list-type=2") == 5
    assert whole(place, snapshot, 4999) == b"4959"  # of m/9


# --- reading ----------------------------------------------------------------------------------


def test_any_part_of_a_file_can_be_read(s3_server: S3Server) -> None:
    bucket = s3_server.bucket({"a": b"0123456789"})
    place = s3(s3_server.url)
    snapshot = place.look(f"s3://{bucket}/a")
    file = snapshot.files[0]
    assert b"".join(place.read(snapshot, file, 3, 7)) == b"3456"
    assert b"".join(place.read(snapshot, file, 3)) == b"3456789"
    assert b"".join(place.read(snapshot, file, 3, 3)) == b""


def test_an_iterator_may_be_closed_before_its_end(s3_server: S3Server) -> None:
    bucket = s3_server.bucket({"a": b"x" * 3_000_000})
    place = s3(s3_server.url)
    snapshot = place.look(f"s3://{bucket}/a")
    chunks = place.read(snapshot, snapshot.files[0])
    assert next(iter(chunks))
    chunks.close()  # type: ignore[attr-defined]
    assert len(whole(place, snapshot)) == 3_000_000


def test_an_object_that_was_overwritten_is_not_read(s3_server: S3Server) -> None:
    bucket = s3_server.bucket({"a": b"old"})
    place = s3(s3_server.url)
    snapshot = place.look(f"s3://{bucket}/a")
    s3_server.put(bucket, "a", b"new")
    with pytest.raises(ArtifactChanged, match=f"s3://{bucket}/a"):
        whole(place, snapshot)
    assert place.look(f"s3://{bucket}/a").tag != snapshot.tag


def test_an_object_that_was_deleted_is_not_read(s3_server: S3Server) -> None:
    bucket = s3_server.bucket({"a": b"old"})
    place = s3(s3_server.url)
    snapshot = place.look(f"s3://{bucket}/a")
    s3_server.delete(bucket, "a")
    with pytest.raises(ArtifactChanged, match="is gone"):
        whole(place, snapshot)


def test_a_server_that_knows_no_conditions_is_found_out_by_its_tags(
        s3_server: S3Server, proxy: FaultyProxy) -> None:
    bucket = s3_server.bucket({"a": b"old"})
    place = s3(proxy.url)
    snapshot = place.look(f"s3://{bucket}/a")
    proxy.fail(Fault(headers={"ETag": '"another"'}), method="GET")
    with pytest.raises(ArtifactChanged):
        whole(place, snapshot)


# --- trouble ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_names_the_credentials_and_shows_none(
        s3_server: S3Server, proxy: FaultyProxy, status: int) -> None:
    bucket = s3_server.bucket({"a": b"1"})
    proxy.fail(Fault(status=status), times=None)
    with pytest.raises(PlaceDenied) as told:
        s3(proxy.url).look(f"s3://{bucket}/a")
    assert f"s3://{bucket}/a" in told.value.message
    assert "'mine'" in told.value.message
    assert KEYS["secret_access_key"] not in repr(told.value)


def test_one_who_may_read_but_not_list_reads_a_lone_file(
        s3_server: S3Server, proxy: FaultyProxy) -> None:
    bucket = s3_server.bucket({"a": b"1"})
    proxy.fail(Fault(status=403), times=None, where="list-type")
    assert names(s3(proxy.url).look(f"s3://{bucket}/a")) == [""]


def test_a_server_that_fails_now_and_then_is_asked_again_when_it_is_looked_at(
        s3_server: S3Server, proxy: FaultyProxy) -> None:
    bucket = s3_server.bucket({"m/a": b"1"})
    proxy.fail(Fault(status=500), times=1, method="HEAD")
    proxy.fail(Fault(status=503), times=1, where="list-type")
    patient = s3(proxy.url, Patience(retries=3))
    assert names(patient.look(f"s3://{bucket}/m")) == ["a"]


def test_a_server_that_fails_is_not_asked_again_when_it_is_read(
        s3_server: S3Server, proxy: FaultyProxy) -> None:
    """Who reads has a plan for that."""
    bucket = s3_server.bucket({"a": b"1"})
    place = s3(proxy.url, Patience(retries=3))
    snapshot = place.look(f"s3://{bucket}/a")
    proxy.fail(Fault(status=500), times=None)
    before = proxy.count("GET")
    with pytest.raises(PlaceUnavailable, match="500"):
        whole(place, snapshot)
    assert proxy.count("GET") == before + 1


def test_silence_and_trickles_end_in_time(s3_server: S3Server, proxy: FaultyProxy) -> None:
    bucket = s3_server.bucket({"a": b"x" * 100_000})
    snapshot = s3(proxy.url).look(f"s3://{bucket}/a")
    place = s3(proxy.url, Patience(read_s=0.2, retries=0))
    proxy.fail(Fault(silent=True))
    with pytest.raises(PlaceUnavailable, match="in time"):
        whole(place, snapshot)
    proxy.fail(Fault(trickle_after=10, trickle_s=5))
    with pytest.raises(PlaceUnavailable):
        whole(place, snapshot)


def test_a_server_that_is_not_there_is_said_so(s3_server: S3Server) -> None:
    with pytest.raises(PlaceUnavailable, match="refuses connections"):
        s3("http://127.0.0.1:1").look("s3://bucket/a")


def test_a_download_gets_through_all_kinds_of_trouble(
        s3_server: S3Server, proxy: FaultyProxy, tmp_path: Path) -> None:
    content = bytes(range(256)) * 8192
    bucket = s3_server.bucket({"m/big.bin": content, "m/small": b"1"})
    place = s3(proxy.url)
    snapshot = place.look(f"s3://{bucket}/m")
    proxy.fail(Fault(status=500), times=2, where="big.bin")
    proxy.fail(Fault(cut_after=300_000), times=2, where="big.bin")
    proxy.fail(Fault(longer_by=7), times=1, where="small")
    options = Options(part_bytes=1024 * 1024, sleep=lambda _: None)
    download(place, snapshot, tmp_path / "m", options)
    assert (tmp_path / "m" / "big.bin").read_bytes() == content
    assert (tmp_path / "m" / "small").read_bytes() == b"1"


def test_a_bucket_of_another_region_is_read_there(s3_server: S3Server, proxy: FaultyProxy) -> None:
    bucket = s3_server.bucket({"a": b"1"})
    elsewhere = Fault(status=301, headers={"x-amz-bucket-region": "eu-west-1"})
    proxy.fail(elsewhere, times=1, where=f"{bucket}/a")
    proxy.fail(elsewhere, times=1, where=bucket, method="HEAD")
    place = s3(proxy.url)
    assert names(place.look(f"s3://{bucket}/a")) == [""]
    assert "/eu-west-1/s3/" in proxy.seen[-1].headers["authorization"]


# --- who one is -------------------------------------------------------------------------------


def test_the_environment_tells_who_and_where(
        s3_server: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3_server.bucket({"a": b"1"})
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    ObjectStore(None, ONCE).look(f"s3://{bucket}/a")
    authorization = proxy.seen[-1].headers["authorization"]
    assert "AKIAENV" in authorization
    assert "eu-north-1" in authorization


def test_a_profile_tells_who_and_where(
        s3_server: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path) -> None:
    bucket = s3_server.bucket({"a": b"1"})
    (tmp_path / "keys").write_text(
        "[default]\naws_access_key_id=no\naws_secret_access_key=no\n"
        "[work]\naws_access_key_id=AKIAWORK\naws_secret_access_key=x%y\n")
    (tmp_path / "config").write_text(
        f"[profile work]\nregion = sa-east-1\nendpoint_url = {proxy.url}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    ObjectStore(None, ONCE).look(f"s3://{bucket}/a")
    assert "AKIAWORK" in proxy.seen[-1].headers["authorization"]
    assert "sa-east-1" in proxy.seen[-1].headers["authorization"]


def test_a_profile_that_asks_a_program_is_left_to_boto3(
        s3_server: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path) -> None:
    bucket = s3_server.bucket({"a": b"1"})
    keys = {"Version": 1, "AccessKeyId": "AKIAPROGRAM", "SecretAccessKey": "x"}
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    (tmp_path / "config").write_text(
        f"[default]\ncredential_process = cat {tmp_path / 'keys.json'}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    ObjectStore(None, ONCE).look(f"s3://{bucket}/a")
    assert "AKIAPROGRAM" in proxy.seen[-1].headers["authorization"]


@pytest.mark.parametrize(("config", "story"), [
    ("[default]\nregion = x\n", "AWS_PROFILE is 'work'"),
    ("aws_secret_access_key = SECRET", "cannot be read as a profile"),
], ids=["no such profile", "no profile at all"])
def test_a_profile_that_cannot_be_used_is_told(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: str, story: str) -> None:
    (tmp_path / "config").write_text(config)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    with pytest.raises(InvalidSpecification, match=story) as told:
        ObjectStore(None, ONCE).look("s3://bucket/a")
    assert "SECRET" not in told.value.message


def test_the_role_of_a_pod_is_taken_over_https_with_a_ca_bundle(
        blob_server: BlobServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blob_server.objects["box"] = {"a": b"1"}
    (tmp_path / "token").write_text("a.web.token")
    authority = Authority(tmp_path)
    with FaultyProxy(blob_server.url, authority.sign("server")) as proxy:
        for name, value in {
            "AWS_ENDPOINT_URL": proxy.url, "AWS_ENDPOINT_URL_STS": proxy.url,
            "AWS_CA_BUNDLE": str(authority.certificate),
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
            "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/reader",
        }.items():
            monkeypatch.setenv(name, value)
        ObjectStore(None, ONCE).look("s3://box/a")
        assert proxy.seen[0].method == "POST"
        assert proxy.seen[-1].headers["x-amz-security-token"] == "of-the-role"


def test_a_private_authority_is_not_trusted_where_it_is_not_given(
        s3_server: S3Server, tmp_path: Path) -> None:
    with FaultyProxy(s3_server.url, Authority(tmp_path).sign("server")) as proxy:
        with pytest.raises(PlaceUnavailable, match="certificate is not trusted"):
            s3(proxy.url).look("s3://bucket/a")
        with pytest.raises(ArtifactMissing):
            s3(proxy.url, verify_ssl="false").look("s3://no-such-bucket/a")


@pytest.mark.parametrize("status", [301, 400])
def test_a_region_that_cannot_be_found_out_is_asked_for(
        s3_server: S3Server, proxy: FaultyProxy, status: int) -> None:
    bucket = s3_server.bucket({"a": b"1"})
    proxy.fail(Fault(status=status), times=None)
    with pytest.raises(PlaceDenied, match="another region"):
        s3(proxy.url).look(f"s3://{bucket}/a")


def test_named_credentials_are_not_mixed_with_the_environments(
        s3_server: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3_server.bucket({"a": b"1"})
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIAENV", "AWS_SECRET_ACCESS_KEY": "x", "AWS_SESSION_TOKEN": "t",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1", "AWS_SKIP_SIGNATURE": "true",
    }.items():
        monkeypatch.setenv(name, value)
    s3(proxy.url).look(f"s3://{bucket}/a")
    headers = proxy.seen[-1].headers
    assert KEYS["access_key_id"] in headers["authorization"]
    assert "x-amz-security-token" not in headers


def test_who_has_no_identity_reads_what_is_public(
        s3_server: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3_server.bucket({"a": b"1"})
    s3_server.publish(bucket, "a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    place = ObjectStore(None, ONCE)
    assert whole(place, place.look(f"s3://{bucket}/a")) == b"1"
    assert "authorization" not in proxy.seen[-1].headers
    proxy.fail(Fault(status=403), times=None)
    with pytest.raises(PlaceDenied, match="no credentials were found"):
        place.look(f"s3://{bucket}/a")


def test_anonymous_credentials_sign_nothing(s3_server: S3Server, proxy: FaultyProxy) -> None:
    bucket = s3_server.bucket({"a": b"1"})
    s3_server.publish(bucket, "a")
    s3(proxy.url, anonymous="true").look(f"s3://{bucket}/a")
    assert "authorization" not in proxy.seen[-1].headers


def test_http_is_not_spoken_where_nobody_asked_for_it() -> None:
    place = ObjectStore(Access("mine", "s3", {**KEYS, "endpoint_url": "127.0.0.1:1"}), ONCE)
    with pytest.raises(PlaceUnavailable):
        place.look("s3://bucket/a")
