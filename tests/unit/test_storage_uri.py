"""Which URIs become which paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.domain.errors import InvalidSpecification
from shoal.storage.uri import is_remote, local_path


@pytest.mark.parametrize(("uri", "path"), [
    ("/models/iris", "/models/iris"),
    ("/models/./iris.joblib", "/models/iris.joblib"),
    ("file:///models/iris", "/models/iris"),
    ("file:/models/iris", "/models/iris"),
    ("FILE://localhost/models/my%20iris", "/models/my iris"),
    ("/models/a:b", "/models/a:b"),
    ("pvc://models/iris/1", "/pvc_mounts/models/iris/1"),
])
def test_an_absolute_uri_becomes_its_path(uri: str, path: str) -> None:
    assert local_path(uri) == Path(path)


def test_a_relative_path_is_meant_from_the_working_directory(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert local_path("models/iris") == tmp_path / "models/iris"


def test_a_relative_path_is_meant_from_the_base_if_there_is_one() -> None:
    assert local_path("./model.joblib", base=Path("/models/iris")) == Path(
        "/models/iris/model.joblib")


def test_the_home_folder_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert local_path("~/iris") == Path("/home/someone/iris")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "current").symlink_to(tmp_path / "one")
    assert local_path(str(tmp_path / "current")) == tmp_path / "current"


@pytest.mark.parametrize(("uri", "remote"), [
    ("s3://bucket/iris", True), ("HF://org/model", True), ("git+https://host/repo.git", True),
    ("/models/iris", False), ("file:///models/iris", False), ("pvc://models/iris", False),
    ("C://models", True), ("models/s3://x", False),
])
def test_what_lies_elsewhere_is_told_by_its_scheme(uri: str, remote: bool) -> None:
    assert is_remote(uri) is remote


@pytest.mark.parametrize(("uri", "says"), [
    ("s3://bucket/iris", "does not lie in this machine's files; give a local path"),
    ("pvc:///iris", "write pvc://CLAIM/PATH"),
    ("pvc://models/../../etc", "write pvc://CLAIM/PATH"),
    ("file://nas/models/iris", "host 'nas'"),
    ("file:models/iris", "is relative"),
    ("file:///models/a?b", "write '?' as %3F"),
    ("file:///models/a#b", "'#' as %23"),
    ("file://[/x", "cannot be read"),
    ("file:///a%00b", "names no path"),
    ("a\0b", "names no path"),
    ("", "names no path"),
    ("~no-such-user-here/iris", "no home folder"),
])
def test_what_is_no_local_path_is_refused(uri: str, says: str) -> None:
    with pytest.raises(InvalidSpecification) as caught:
        local_path(uri)
    assert says in caught.value.message
