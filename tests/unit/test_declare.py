"""What a specification becomes: revisions of what can be served, and why the rest cannot."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest
from tests.storage_fakes import SuffixFinder, put

from shoal.domain.errors import (
    ArtifactChanged,
    ArtifactMissing,
    InvalidSpecification,
    UnknownFormat,
)
from shoal.domain.model import ModelRecord, ModelSpec, VersionPolicy, revision_id
from shoal.domain.signature import TensorSpec
from shoal.storage.declare import Sources, declare, declare_found, declare_unread
from shoal.storage.digest import Content
from shoal.storage.layout import look

FINDER = SuffixFinder()


def declared(path: Path | str, **fields: object) -> ModelRecord:
    spec = msgspec.structs.replace(ModelSpec(name="iris", uri=str(path)), **fields)
    return declare(spec, FINDER, registered_at=5.0)


def versions(record: ModelRecord) -> list[int]:
    return [revision.version for revision in record.revisions]


def test_a_revision_says_all_that_is_needed_to_load_it(tmp_path: Path) -> None:
    path = put(tmp_path / "iris.joblib", b"weights")
    record = declared(path, priority=2, options={"a": 1})
    (revision,) = record.revisions
    assert (revision.model, revision.version, revision.uri) == ("iris", 1, str(path))
    assert (revision.format, revision.files_bytes) == ("sklearn", 7)
    assert revision.artifact_digest == f"sha256:{hashlib.sha256(b'weights').hexdigest()}"
    assert (revision.priority, revision.options) == (2, {"a": 1})
    assert revision.id == revision_id(revision)
    assert (record.origin, record.registered_at, record.problem) == ("api", 5.0, None)


def test_the_same_files_give_the_same_revision(tmp_path: Path) -> None:
    path = put(tmp_path / "iris.joblib")
    assert declared(path).revisions == declared(path).revisions


def test_other_content_gives_another_revision(tmp_path: Path) -> None:
    before = declared(put(tmp_path / "iris.joblib", b"1")).revisions
    assert declared(put(tmp_path / "iris.joblib", b"2")).revisions != before


def test_the_record_keeps_the_specification_as_it_was_given(tmp_path: Path) -> None:
    put(tmp_path / "iris/model.joblib")
    put(tmp_path / "iris/model.yaml", "pin: true")
    record = declared(tmp_path / "iris", priority=2)
    assert record.spec == ModelSpec(name="iris", uri=str(tmp_path / "iris"), priority=2)
    assert (record.revisions[0].pin, record.revisions[0].priority) == (True, 2)


def test_a_registration_may_use_another_name_than_the_files(tmp_path: Path) -> None:
    put(tmp_path / "net/config.pbtxt", 'name: "net" backend: "onnxruntime"')
    put(tmp_path / "net/1/model.onnx")
    assert declared(tmp_path / "net").revisions[0].model == "iris"


def test_declared_tensors_come_from_the_configuration(tmp_path: Path) -> None:
    put(tmp_path / "net/config.pbtxt", 'input { name: "x" data_type: TYPE_FP32 dims: 4 }')
    put(tmp_path / "net/1/model.onnx")
    assert declared(tmp_path / "net").revisions[0].inputs == (TensorSpec("x", "FP32", (4,)),)


# --- versions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "served"), [
    (VersionPolicy(), [1, 2, 10]),
    (VersionPolicy(latest=1), [10]),
    (VersionPolicy(latest=2), [2, 10]),
    (VersionPolicy(specific=(2, 1)), [1, 2]),
])
def test_the_policy_chooses_the_versions(tmp_path: Path, policy: VersionPolicy,
                                         served: list[int]) -> None:
    for number in (10, 1, 2):
        put(tmp_path / f"iris/{number}/model.joblib")
    assert versions(declared(tmp_path / "iris", version_policy=policy)) == served


def test_a_broken_version_is_left_out_and_told(tmp_path: Path) -> None:
    put(tmp_path / "iris/1/model.joblib")
    put(tmp_path / "iris/2/data.csv")
    record = declared(tmp_path / "iris")
    assert versions(record) == [1]
    assert record.problem is not None
    assert record.problem.startswith("version 2 is not served: ")
    assert "found data.csv" in record.problem


def test_the_latest_that_can_be_served_stand_in_for_a_broken_one(tmp_path: Path) -> None:
    put(tmp_path / "iris/1/model.joblib")
    put(tmp_path / "iris/2/model.joblib")
    (tmp_path / "iris/3").mkdir()
    record = declared(tmp_path / "iris", version_policy=VersionPolicy(latest=1))
    assert versions(record) == [2]
    assert "version 3 is not served" in (record.problem or "")


def test_a_version_that_is_asked_for_but_not_there_is_told(tmp_path: Path) -> None:
    put(tmp_path / "iris/1/model.joblib")
    record = declared(tmp_path / "iris", version_policy=VersionPolicy(specific=(1, 7)))
    assert versions(record) == [1]
    assert "version 7 is not served: there is no folder" in (record.problem or "")


def test_when_no_version_can_be_served_all_reasons_are_told(tmp_path: Path) -> None:
    (tmp_path / "iris/1").mkdir(parents=True)
    put(tmp_path / "iris/2/data.csv")
    with pytest.raises(ArtifactMissing) as caught:
        declared(tmp_path / "iris")
    assert caught.value.message.startswith("model 'iris': no version can be served: version 1")
    assert "; version 2 is not served" in caught.value.message


def test_a_version_that_changes_while_it_is_read_leaves_nothing_certain(tmp_path: Path) -> None:
    put(tmp_path / "iris/1/model.joblib")
    changing = put(tmp_path / "iris/2/model.joblib")

    def read(path: Path) -> Content:
        if path == changing:
            raise ArtifactChanged("it changed")
        return Content("sha256:0", 1)

    with pytest.raises(ArtifactChanged):
        declare_found(ModelSpec(name="iris", uri="x"), look(tmp_path / "iris", FINDER),
                      Sources(FINDER, read), origin="api", registered_at=0.0)


# --- what cannot be declared --------------------------------------------------------------------


def test_a_missing_artifact_names_model_and_path(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing, match=f"model 'iris': {tmp_path}/x does not exist"):
        declared(tmp_path / "x")


def test_a_file_of_no_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat, match=r"model 'iris': .*data\.csv is of no known format"):
        declared(put(tmp_path / "data.csv"))


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat, match="'tensorflow' is not known"):
        declared(put(tmp_path / "iris.joblib"), format="tensorflow")


def test_a_remote_uri_is_refused() -> None:
    with pytest.raises(InvalidSpecification, match="model 'iris': uri 's3://a/b'"):
        declared("s3://a/b")


def test_a_name_that_cannot_stand_in_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecification, match=r"^model name 'a b' is not valid"):
        declared(tmp_path, name="a b")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("max_concurrency: 0", "max_concurrency is 0; it must be at least 1"),
        ("max_batch_rows: 0", "max_batch_rows is 0; it must be at least 1"),
        ("max_batch_delay_ms: -1", "max_batch_delay_ms is -1.0; it must be at least 0"),
    ],
)
def test_a_description_is_checked_like_a_registration(
    tmp_path: Path, line: str, problem: str
) -> None:
    put(tmp_path / "iris/model.joblib")
    put(tmp_path / "iris/model.yaml", line)
    with pytest.raises(InvalidSpecification, match=problem):
        declared(tmp_path / "iris")


def test_a_file_name_that_is_not_utf8_is_refused_in_words_that_are(tmp_path: Path) -> None:
    put(tmp_path / "iris/a\udcff.joblib")
    with pytest.raises(InvalidSpecification, match="cannot be stored") as caught:
        declared(tmp_path / "iris")
    assert caught.value.message.encode()


def test_a_path_too_long_for_the_system_is_refused() -> None:
    with pytest.raises(ArtifactMissing, match="File name too long"):
        declared("/" + "a" * 5000)


# --- digests that are said ----------------------------------------------------------------------

WEIGHTS = f"sha256:{hashlib.sha256(b'weights').hexdigest()}"
OTHER = "sha256:" + "0" * 64


def unread(path: str = "/nowhere/iris.joblib", **fields: object) -> ModelRecord:
    spec = ModelSpec(name="iris", uri=path, format="sklearn", digest=WEIGHTS)
    return declare_unread(msgspec.structs.replace(spec, **fields), FINDER, registered_at=5.0)


def test_the_digest_that_is_declared_must_be_that_of_the_files(tmp_path: Path) -> None:
    path = put(tmp_path / "iris.joblib", b"weights")
    assert declared(path, digest=WEIGHTS).revisions[0].artifact_digest == WEIGHTS
    with pytest.raises(InvalidSpecification) as refused:
        declared(path, digest=OTHER)
    assert refused.value.message == (
        f"model 'iris': {path} has the digest {WEIGHTS} and not {OTHER}, which is declared; put "
        "the right file there, or correct 'digest'"
    )


@pytest.mark.parametrize(
    "digest", ["", "0" * 64, "sha256:0", "md5:0", "sha256:" + "G" * 64], ids=range(5))
def test_a_digest_must_look_like_one(tmp_path: Path, digest: str) -> None:
    with pytest.raises(InvalidSpecification, match="is not 'sha256:' and 64 digits"):
        declared(put(tmp_path / "iris.joblib"), digest=digest)


def test_what_is_declared_unread_needs_no_files(tmp_path: Path) -> None:
    (revision,) = unread().revisions
    assert (revision.version, revision.uri) == (1, "/nowhere/iris.joblib")
    assert (revision.format, revision.artifact_digest) == ("sklearn", WEIGHTS)
    assert revision.files_bytes == 0
    policy = VersionPolicy(specific=(7,))
    assert versions(unread(version_policy=policy)) == [7]


@pytest.mark.parametrize(
    ("fields", "missing"),
    [({"digest": None}, "'digest'"), ({"format": None}, "'format'"),
     ({"digest": None, "format": None}, "'format' and 'digest'")], ids=["digest", "format", "both"],
)
def test_what_is_declared_unread_must_say_what_would_be_read(
    fields: dict[str, object], missing: str
) -> None:
    with pytest.raises(InvalidSpecification, match=f"^model 'iris': .* {missing} would have"):
        unread(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"format": "lost"}, "'lost'"), ({"uri": "s3://a/b"}, "uri 's3://a/b'"),
     ({"version_policy": VersionPolicy(specific=(1, 2))}, "for one version only")],
    ids=["format", "scheme", "versions"],
)
def test_what_could_never_be_loaded_is_refused_unread(
    fields: dict[str, object], reason: str
) -> None:
    with pytest.raises((InvalidSpecification, UnknownFormat), match=reason):
        unread(**{"path": fields.pop("uri", "/nowhere/iris.joblib"), **fields})  # type: ignore[arg-type]
