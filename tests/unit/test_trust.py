"""From where artifacts that run code may be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.storage_fakes import put

from shoal.domain.errors import ArtifactMissing, NotTrusted
from shoal.storage.trust import check_trusted, covers


def check(path: Path, *locations: Path | str) -> None:
    check_trusted(str(path), path, "sklearn", map(str, locations))


def test_a_registration_may_trust_code_anywhere(tmp_path: Path) -> None:
    path = put(tmp_path / "model.joblib")
    check_trusted(str(path), path, "sklearn", (), "code")


def test_a_registration_may_let_code_run_apart(tmp_path: Path) -> None:
    path = put(tmp_path / "model.joblib")
    check_trusted(str(path), path, "sklearn", (), "isolated")


def test_a_registration_may_want_data_alone(tmp_path: Path) -> None:
    path = put(tmp_path / "model.joblib")
    with pytest.raises(NotTrusted, match="'trust: data'"):
        check_trusted(str(path), path, "sklearn", [str(tmp_path)], "data")


@pytest.mark.parametrize(("location", "uri"), [
    ("s3://bucket/models", "s3://bucket/models"), ("s3://bucket/models/", "s3://bucket/models/a/b"),
    ("s3://bucket", "s3://bucket/a"), ("S3://bucket", "s3://bucket/a"),
    ("hf://owner/model", "hf://owner/model:main"), ("https://host/a.tgz", "https://host/a.tgz#b/c"),
    ("git+https://host/r.git", "git+https://host/r.git@abc#models/a"),
    ("models:/iris", "models:/iris/3#model.skops"), ("models:/", "models:/iris/3"),
    ("models:/iris@champion", "models:/iris/3"), ("models:/iris/latest", "models:/iris/3"),
    ("models:/iris/3", "models:/iris/3#model.skops"), ("models:/m-1f", "models:/m-1f#model.skops"),
])
def test_a_uri_is_trusted_with_all_that_is_within(location: str, uri: str) -> None:
    assert covers(location, uri)


@pytest.mark.parametrize(("location", "uri"), [
    ("s3://bucket/models", "s3://bucket/models-of-others/a"), ("s3://bucket", "s3://bucket2/a"),
    ("s3://bucket", "gs://bucket/a"), ("s3://bucket/a", "s3://bucket/a/../b"),
    ("https://host/a", "https://host/a/%2e%2e/b"), ("https://host", "https://host@evil/a"),
    ("https://host", "https://host:8443/a"), ("https://host/a", "https://host/a#../b"),
    ("models:/iris", "models:/iris2/3"), ("models:/iris/3", "models:/iris/31"),
    ("models:/iris/3#a", "models:/iris/3#b"), ("models:/iris", "s3://iris/3"),
])
def test_a_uri_that_leads_elsewhere_is_not_trusted(location: str, uri: str) -> None:
    assert not covers(location, uri)


def test_what_lies_elsewhere_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = put(tmp_path / "model.joblib")
    with pytest.raises(NotTrusted, match=r"s3://b/m\.joblib lies outside .*'trust: code'"):
        check_trusted("s3://b/m.joblib", path, "sklearn", [str(tmp_path), "s3://c"])


def test_an_artifact_in_a_trusted_location_may_be_loaded(tmp_path: Path) -> None:
    check(put(tmp_path / "models/iris/model.joblib"), "/nowhere", tmp_path / "models")


def test_an_artifact_may_be_trusted_by_itself(tmp_path: Path) -> None:
    path = put(tmp_path / "model.joblib")
    check(path, path)


def test_an_artifact_elsewhere_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = put(tmp_path / "model.joblib")
    with pytest.raises(NotTrusted) as caught:
        check(path, "/models")
    assert str(path) in caught.value.message
    assert "(/models)" in caught.value.message
    assert "trust.locations" in caught.value.message


@pytest.mark.parametrize("locations", [(), ("",)])
def test_no_location_trusts_nothing(tmp_path: Path, locations: tuple[str, ...],
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotTrusted, match=r"trusted locations \(none\)"):
        check(put(tmp_path / "model.joblib"), *locations)


def test_a_name_that_begins_alike_is_another_folder(tmp_path: Path) -> None:
    with pytest.raises(NotTrusted):
        check(put(tmp_path / "models-of-others/model.joblib"), tmp_path / "models")


def test_dots_do_not_lead_out_of_a_trusted_location(tmp_path: Path) -> None:
    put(tmp_path / "other/model.joblib")
    (tmp_path / "models").mkdir()
    with pytest.raises(NotTrusted):
        check(tmp_path / "models/../other/model.joblib", tmp_path / "models")


def test_a_link_does_not_lead_out_of_a_trusted_location(tmp_path: Path) -> None:
    real = put(tmp_path / "other/model.joblib")
    (tmp_path / "models").mkdir()
    (tmp_path / "models/model.joblib").symlink_to(real)
    with pytest.raises(NotTrusted, match=f"leads to {real}"):
        check(tmp_path / "models/model.joblib", tmp_path / "models")


def test_a_link_inside_a_folder_does_not_lead_out_either(tmp_path: Path) -> None:
    put(tmp_path / "other/model.py")
    put(tmp_path / "models/iris/model.py")
    (tmp_path / "models/iris/inner").symlink_to(tmp_path / "other")
    with pytest.raises(NotTrusted):
        check(tmp_path / "models/iris", tmp_path / "models")


def test_a_trusted_location_may_be_a_link(tmp_path: Path) -> None:
    path = put(tmp_path / "real/model.joblib")
    (tmp_path / "models").symlink_to(tmp_path / "real")
    check(path, tmp_path / "models")
    check(tmp_path / "models/model.joblib", tmp_path / "models")


def test_a_missing_artifact_is_missing_rather_than_untrusted(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing):
        check(tmp_path / "model.joblib", tmp_path)
