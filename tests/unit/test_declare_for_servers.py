"""What a specification becomes where model servers outside load formats, too."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.storage_fakes import SuffixFinder, put

from shoal.domain.errors import (
    ArtifactMissing,
    InvalidSpecification,
    NoSupportingRuntime,
    RuntimeDisabled,
    RuntimeNotRecognized,
    ShoalError,
    UnknownFormat,
)
from shoal.domain.model import ModelRecord, ModelSpec
from shoal.domain.serving_runtime import DeclaredRuntime, ServingRuntime, SupportedFormat
from shoal.storage.declare import Sources, declare, declare_unread
from shoal.storage.entry import read_entry

TRITON = DeclaredRuntime(ServingRuntime(
    name="triton", command=("tritonserver",),
    formats=(SupportedFormat("tensorrt", "8"), SupportedFormat("onnx", priority=2)),
))
DISABLED = DeclaredRuntime(msgspec.structs.replace(TRITON.serving, disabled=True))
FINDER = SuffixFinder(TRITON)
DIGEST = "sha256:" + "0f" * 32


def declared(path: Path, finder: SuffixFinder = FINDER, **fields: object) -> ModelRecord:
    spec = msgspec.structs.replace(ModelSpec(name="m", uri=str(path)), **fields)
    return declare(spec, finder, registered_at=5.0)


def refused(kind: type[ShoalError], path: Path, finder: SuffixFinder, **fields: object) -> str:
    with pytest.raises(kind) as found:
        declared(path, finder, **fields)
    assert type(found.value) is kind
    return found.value.message


def test_a_file_of_a_format_that_only_a_server_knows_is_declared(tmp_path: Path) -> None:
    path = put(tmp_path / "m.plan")
    (revision,) = declared(path, format="tensorrt", format_version="8").revisions
    assert (revision.format, revision.format_version, revision.runtime) == (
        "tensorrt", "8", "triton")
    assert revision.uri == str(path)
    assert revision.needs == "runtime:triton"


def test_a_folder_with_one_file_is_that_file(tmp_path: Path) -> None:
    path = put(tmp_path / "m/model.plan")
    put(tmp_path / "m/README.md")
    put(tmp_path / "m/model.yaml", "format: tensorrt")
    assert declared(tmp_path / "m").revisions[0].uri == str(path)


def test_any_other_folder_is_taken_whole(tmp_path: Path) -> None:
    put(tmp_path / "m/engine.plan")
    put(tmp_path / "m/labels.bin")
    assert declared(tmp_path / "m", format="tensorrt").revisions[0].uri == str(tmp_path / "m")
    put(tmp_path / "n/variables/a")
    assert declared(tmp_path / "n", format="tensorrt").revisions[0].uri == str(tmp_path / "n")
    (tmp_path / "empty").mkdir()
    told = refused(ArtifactMissing, tmp_path / "empty", FINDER, format="tensorrt")
    assert "holds no artifact; put one of the format 'tensorrt' there" in told


def test_versions_of_tritons_own_repository_are_declared(tmp_path: Path) -> None:
    put(tmp_path / "m/config.pbtxt", 'platform: "tensorrt_plan" version_policy { all {} }')
    for version in (1, 2):
        put(tmp_path / f"m/{version}/model.plan", str(version))
    record = declared(tmp_path / "m")
    assert [(each.version, each.runtime) for each in record.revisions] == [
        (1, "triton"), (2, "triton")]


def test_a_recognised_format_goes_where_its_priority_is_highest(tmp_path: Path) -> None:
    path = put(tmp_path / "m.onnx")
    (revision,) = declared(path).revisions
    assert (revision.runtime, revision.needs) == ("triton", "runtime:triton")
    (own,) = declared(path, runtime="shoal").revisions
    assert (own.runtime, own.needs) == (None, "onnx")
    assert own == declared(path, SuffixFinder(), runtime="shoal").revisions[0]
    assert own.id != revision.id


def test_a_description_beside_the_artifact_may_name_the_runtime(tmp_path: Path) -> None:
    put(tmp_path / "m/model.onnx")
    put(tmp_path / "m/model.yaml", "runtime: shoal\nprotocol: v1")
    assert declared(tmp_path / "m").revisions[0].runtime is None


def test_the_specification_stays_as_it_was_given(tmp_path: Path) -> None:
    assert declared(put(tmp_path / "m.onnx")).spec.runtime is None


def test_without_servers_an_unknown_format_is_just_unknown(tmp_path: Path) -> None:
    path = put(tmp_path / "m.plan")
    told = refused(UnknownFormat, path, SuffixFinder(), format="tensorrt")
    assert "format 'tensorrt' is not known; the formats are" in told
    assert "is of no known format" in refused(UnknownFormat, path, FINDER)


def test_a_format_of_nobody_is_told_with_what_servers_load(tmp_path: Path) -> None:
    told = refused(NoSupportingRuntime, put(tmp_path / "m.x"), FINDER, format="tesnorrt")
    assert told.startswith("model 'm': no runtime loads the format 'tesnorrt': shoal loads ")
    assert "triton loads tensorrt:8, onnx" in told


@pytest.mark.parametrize(("fields", "kind", "story"), [
    ({"format_version": "7"}, NoSupportingRuntime, "triton loads tensorrt, but of version 8"),
    ({"protocol": "v1"}, NoSupportingRuntime, "triton loads it, but does not speak v1"),
    ({"runtime": "tritn"}, RuntimeNotRecognized, "there is no serving runtime 'tritn'"),
    ({"runtime": "shoal"}, NoSupportingRuntime, "the runtime 'shoal', which is named, does not"),
], ids=["version", "protocol", "name", "own"])
def test_why_no_runtime_takes_it_is_told(
    tmp_path: Path, fields: dict[str, object], kind: type[ShoalError], story: str
) -> None:
    assert story in refused(kind, put(tmp_path / "m.plan"), FINDER, format="tensorrt", **fields)


def test_a_disabled_server_is_no_choice_and_may_not_be_named(tmp_path: Path) -> None:
    path, finder = put(tmp_path / "m.plan"), SuffixFinder(DISABLED)
    told = refused(NoSupportingRuntime, path, finder, format="tensorrt")
    assert "triton loads it, but is disabled" in told
    refused(RuntimeDisabled, path, finder, format="tensorrt", runtime="triton")


def test_a_name_that_is_not_declared_is_told_before_the_format(tmp_path: Path) -> None:
    path = put(tmp_path / "m.x")
    refused(RuntimeNotRecognized, path, SuffixFinder(), format="flowers", runtime="bees")


def test_what_is_not_read_has_its_runtime_chosen_too() -> None:
    spec = ModelSpec(name="m", uri="/later/m.plan", format="tensorrt", digest=DIGEST)
    (revision,) = declare_unread(spec, FINDER, registered_at=1.0).revisions
    assert revision.runtime == "triton"
    with pytest.raises(RuntimeNotRecognized):
        declare_unread(msgspec.structs.replace(spec, runtime="x"), FINDER, registered_at=1.0)


@pytest.mark.parametrize(("field", "value", "story"), [
    ("protocol", "http", "protocol 'http' is not one of v1, v2, grpc-v2"),
    ("format_version", "", "'format_version' is empty"),
    ("runtime", "a b", "runtime name 'a b' is not valid"),
], ids=str)
def test_words_that_mean_nothing_are_refused(
    tmp_path: Path, field: str, value: str, story: str
) -> None:
    told = refused(InvalidSpecification, tmp_path, FINDER, **{field: value})
    assert story in told


def test_a_version_that_no_runtime_takes_leaves_the_others_and_its_code(tmp_path: Path) -> None:
    put(tmp_path / "m/1/model.joblib")
    put(tmp_path / "m/2/model.py", "x")
    only = DeclaredRuntime(ServingRuntime(
        name="py", formats=(SupportedFormat("python"),), protocols=("v1",), address="h:1"))
    record = declared(tmp_path / "m", SuffixFinder(only), format="python", runtime="py")
    assert [each.version for each in record.revisions] == [1, 2]
    record = declared(tmp_path / "m", SuffixFinder(DISABLED))
    assert record.problem_code is None


def test_a_folders_entry_tells_the_code_of_its_problem(tmp_path: Path) -> None:
    put(tmp_path / "m/model.plan")
    put(tmp_path / "m/model.yaml", "format: tensorrt")
    found = read_entry("m", tmp_path / "m", Sources(SuffixFinder(DISABLED)), origin="folder:/",
                       registered_at=1.0)
    assert (found.name, found.problem_code) == ("m", "NO_SUPPORTING_RUNTIME")
    assert "is disabled" in (found.problem or "")
