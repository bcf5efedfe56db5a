"""What is found at a path: the model's versions, and the artifact of each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.storage_fakes import SuffixFinder, put

from shoal.domain.errors import ArtifactMissing, InvalidSpecification, UnknownFormat
from shoal.domain.model import ModelSpec
from shoal.storage.artifact import MAX_ENTRIES, find_artifact
from shoal.storage.layout import Layout, is_model, look, spec_for_child

FINDER = SuffixFinder()


def at(path: Path) -> Layout:
    return look(path, FINDER)


def spec_of(layout: Layout) -> ModelSpec:
    return spec_for_child(layout, str(layout.path))


def found(path: Path, wanted: str | None = None) -> tuple[Path, str]:
    """Of the model's only version."""
    layout = at(path)
    (place,) = layout.versions.values()
    if wanted is None and layout.described:
        wanted = layout.described.spec.format
    artifact = find_artifact(place, FINDER, wanted, layout.described)
    return artifact.path, artifact.format


def refusal(path: Path, wanted: str | None = None) -> str:
    with pytest.raises((ArtifactMissing, InvalidSpecification, UnknownFormat)) as caught:
        found(path, wanted)
    return caught.value.message


# --- bare artifacts -----------------------------------------------------------------------------


def test_a_bare_artifact_is_version_1_under_its_name_without_suffix(tmp_path: Path) -> None:
    path = put(tmp_path / "fraud.v2.joblib")
    layout = at(path)
    assert (layout.default_name, layout.versions) == ("fraud.v2", {1: path})
    assert found(path) == (path, "sklearn")


def test_a_yaml_of_the_same_name_describes_a_bare_artifact(tmp_path: Path) -> None:
    path = put(tmp_path / "iris.joblib")
    put(tmp_path / "iris.yaml", "pin: true")
    spec = spec_of(at(path))
    assert (spec.name, spec.uri, spec.pin) == ("iris", str(path), True)


def test_a_yaml_with_a_uri_stands_alone(tmp_path: Path) -> None:
    artifact = put(tmp_path / "elsewhere/model.onnx")
    path = put(tmp_path / "iris.yaml", "uri: elsewhere/model.onnx")
    layout = at(path)
    assert (layout.default_name, layout.versions) == ("iris", {1: artifact})
    assert found(path) == (artifact, "onnx")


def test_a_yaml_alone_without_a_uri_says_what_to_do(tmp_path: Path) -> None:
    path = put(tmp_path / "iris.yaml", "pin: true")
    assert "no artifact: there is none beside it named iris.<suffix>" in refusal(path)


def test_two_descriptions_of_one_artifact_are_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "iris.joblib")
    put(tmp_path / "iris.yaml", "")
    put(tmp_path / "iris.yml", "")
    assert "iris.yml both exist; keep one" in refusal(path)


# --- folders ------------------------------------------------------------------------------------


def test_a_folder_with_one_artifact_is_version_1(tmp_path: Path) -> None:
    path = put(tmp_path / "iris/anything.onnx")
    assert at(tmp_path / "iris").versions == {1: tmp_path / "iris"}
    assert found(tmp_path / "iris") == (path, "onnx")


def test_texts_and_leftovers_beside_the_artifact_are_ignored(tmp_path: Path) -> None:
    path = put(tmp_path / "iris/model.joblib")
    for name in ("README.md", "LICENSE", "notes.txt", ".DS_Store", "model.joblib.part",
                 ".model.joblib.swp", "model.joblib~", "__pycache__/x.joblib"):
        put(tmp_path / "iris" / name)
    assert found(tmp_path / "iris") == (path, "sklearn")


def test_an_artifact_may_have_the_suffix_of_a_text(tmp_path: Path) -> None:
    path = put(tmp_path / "iris/model.txt", "tree\nversion=v4")
    put(tmp_path / "iris/README.txt", "How to")
    assert found(tmp_path / "iris") == (path, "lightgbm")


def test_several_artifacts_are_named_with_the_way_out(tmp_path: Path) -> None:
    put(tmp_path / "iris/a.joblib")
    put(tmp_path / "iris/b.onnx")
    message = refusal(tmp_path / "iris")
    assert "several artifacts: a.joblib (sklearn), b.onnx (onnx)" in message
    assert "'uri' in a model.yaml" in message


def test_the_format_chooses_among_several_artifacts(tmp_path: Path) -> None:
    put(tmp_path / "iris/a.joblib")
    path = put(tmp_path / "iris/b.onnx")
    assert found(tmp_path / "iris", "onnx") == (path, "onnx")


def test_a_uri_in_the_description_chooses_among_several_artifacts(tmp_path: Path) -> None:
    put(tmp_path / "iris/a.joblib")
    path = put(tmp_path / "iris/b.joblib")
    put(tmp_path / "iris/model.yaml", "uri: b.joblib")
    assert found(tmp_path / "iris") == (path, "sklearn")


def test_a_given_format_is_believed_for_the_only_file(tmp_path: Path) -> None:
    path = put(tmp_path / "iris/weights.bin")
    put(tmp_path / "iris/README.md")
    assert found(tmp_path / "iris", "onnx") == (path, "onnx")


def test_a_given_format_prefers_its_own_suffix(tmp_path: Path) -> None:
    path = put(tmp_path / "iris/forest.txt", "unusual first line")
    put(tmp_path / "iris/labels.csv")
    assert found(tmp_path / "iris", "lightgbm") == (path, "lightgbm")


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    put(tmp_path / "iris/model.pb")
    assert "'tensorflow' is not known; the formats are lightgbm" in refusal(
        tmp_path / "iris", "tensorflow")


def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "iris").mkdir()
    message = refusal(tmp_path / "iris")
    assert "holds no artifact; put one there" in message
    assert "sklearn (.joblib, .pkl)" in message


def test_files_of_no_format_are_named(tmp_path: Path) -> None:
    for number in range(7):
        put(tmp_path / f"iris/{number}.csv")
    message = refusal(tmp_path / "iris")
    assert "found 0.csv, 1.csv, 2.csv, 3.csv, 4.csv and 2 more; looked for one of" in message
    assert "looked for an artifact of the format 'onnx'" in refusal(tmp_path / "iris", "onnx")


def test_a_file_of_no_format_says_what_is_known(tmp_path: Path) -> None:
    assert "is of no known format; known are" in refusal(put(tmp_path / "data.csv"))


def test_a_crowded_folder_wants_its_artifact_named(tmp_path: Path) -> None:
    for number in range(MAX_ENTRIES + 1):
        (tmp_path / str(-number)).touch()
    assert "more than 1,000 files and folders; name the artifact" in refusal(tmp_path)


def test_a_folder_is_of_no_format_merely_by_its_name(tmp_path: Path) -> None:
    path = put(tmp_path / "iris.onnx/model.onnx")
    assert found(tmp_path / "iris.onnx") == (path, "onnx")


# --- Python -------------------------------------------------------------------------------------


def test_a_lone_python_file_is_the_artifact(tmp_path: Path) -> None:
    path = put(tmp_path / "iris/model.py")
    put(tmp_path / "iris/model.yaml", "pin: true")
    assert found(tmp_path / "iris") == (path, "python")


def test_a_python_model_with_files_beside_it_is_the_folder(tmp_path: Path) -> None:
    put(tmp_path / "iris/model.py")
    put(tmp_path / "iris/weights.joblib")
    assert found(tmp_path / "iris") == (tmp_path / "iris", "python")


def test_a_python_version_named_by_triton_takes_its_folder_too(tmp_path: Path) -> None:
    put(tmp_path / "iris/config.pbtxt", 'backend: "python"')
    put(tmp_path / "iris/1/model.py")
    put(tmp_path / "iris/1/weights.bin")
    assert found(tmp_path / "iris") == (tmp_path / "iris/1", "python")


# --- versions -----------------------------------------------------------------------------------


def test_numeric_folders_are_versions(tmp_path: Path) -> None:
    for name in ("1", "2", "10"):
        put(tmp_path / "iris" / name / "model.joblib")
    assert list(at(tmp_path / "iris").versions) == [1, 2, 10]


@pytest.mark.parametrize("name", ["0", "01", "v1", "1a", "-1", "1.0", "9" * 19])
def test_other_folders_are_no_versions(tmp_path: Path, name: str) -> None:
    put(tmp_path / "iris/1/model.joblib")
    put(tmp_path / "iris" / name / "model.joblib")
    assert list(at(tmp_path / "iris").versions) == [1]


def test_a_numeric_file_is_no_version(tmp_path: Path) -> None:
    put(tmp_path / "iris/1")
    put(tmp_path / "iris/model.joblib")
    assert at(tmp_path / "iris").versions == {1: tmp_path / "iris"}


def test_a_link_to_a_folder_may_be_a_version(tmp_path: Path) -> None:
    put(tmp_path / "store/model.joblib")
    (tmp_path / "iris").mkdir()
    (tmp_path / "iris/3").symlink_to(tmp_path / "store")
    assert found(tmp_path / "iris") == (tmp_path / "iris/3/model.joblib", "sklearn")


# --- Triton's and MLServer's --------------------------------------------------------------------


def test_tritons_usual_file_name_is_preferred(tmp_path: Path) -> None:
    put(tmp_path / "net/config.pbtxt", 'platform: "onnxruntime_onnx"')
    path = put(tmp_path / "net/1/model.onnx")
    put(tmp_path / "net/1/other.onnx")
    assert found(tmp_path / "net") == (path, "onnx")


def test_tritons_default_file_name_is_followed(tmp_path: Path) -> None:
    put(tmp_path / "net/config.pbtxt",
        'backend: "onnxruntime" default_model_filename: "other.bin"')
    put(tmp_path / "net/1/model.onnx")
    path = put(tmp_path / "net/1/other.bin")
    assert found(tmp_path / "net") == (path, "onnx")


def test_a_default_file_that_is_missing_is_named(tmp_path: Path) -> None:
    put(tmp_path / "net/config.pbtxt", 'default_model_filename: "other.onnx"')
    put(tmp_path / "net/1/model.onnx")
    assert "1/other.onnx does not exist, but" in refusal(tmp_path / "net")


def test_an_onnx_model_may_be_a_folder_of_that_name_as_in_triton(tmp_path: Path) -> None:
    put(tmp_path / "net/config.pbtxt", 'backend: "onnxruntime"')
    path = put(tmp_path / "net/1/model.onnx/model.onnx")
    assert found(tmp_path / "net") == (path, "onnx")


def test_tritons_name_must_be_the_folders(tmp_path: Path) -> None:
    put(tmp_path / "net/config.pbtxt", 'name: "other"')
    with pytest.raises(InvalidSpecification, match="'other', but its folder is 'net'"):
        spec_of(at(tmp_path / "net"))


def test_mlservers_name_uri_and_version_are_taken(tmp_path: Path) -> None:
    path = put(tmp_path / "folder/sub/weights.joblib")
    put(tmp_path / "folder/model-settings.json", """{"name": "iris",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "./sub/weights.joblib", "version": "v4"}}""")
    layout = at(tmp_path / "folder")
    assert layout.versions == {4: path}
    assert spec_of(layout).name == "iris"


def test_model_yaml_wins_over_the_other_descriptions(tmp_path: Path) -> None:
    put(tmp_path / "net/model.yaml", "name: mine\nmax_concurrency: 7")
    put(tmp_path / "net/model-settings.json", '{"name": "theirs"}')
    put(tmp_path / "net/config.pbtxt", 'name: "net" instance_group { count: 2 }')
    spec = spec_of(at(tmp_path / "net"))
    assert (spec.name, spec.max_concurrency, spec.version_policy.latest) == ("mine", 7, 1)


# --- what cannot be looked at -------------------------------------------------------------------


def test_nothing_at_the_path_is_an_error(tmp_path: Path) -> None:
    assert "iris does not exist; put the artifact there" in refusal(tmp_path / "iris")


def test_a_link_to_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "iris.joblib").symlink_to(tmp_path / "gone")
    assert "is a symbolic link to nothing" in refusal(tmp_path / "iris.joblib")


def test_a_link_to_nothing_inside_a_folder_is_the_reason_given(tmp_path: Path) -> None:
    (tmp_path / "iris").mkdir()
    (tmp_path / "iris/model.joblib").symlink_to(tmp_path / "gone")
    assert "is a symbolic link to nothing" in refusal(tmp_path / "iris")


def test_a_description_that_is_a_link_to_nothing_is_an_error(tmp_path: Path) -> None:
    put(tmp_path / "iris/model.joblib")
    (tmp_path / "iris/model.yaml").symlink_to(tmp_path / "gone")
    assert "model.yaml is a symbolic link to nothing" in refusal(tmp_path / "iris")


def test_a_link_to_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "iris.joblib").symlink_to(tmp_path / "iris.joblib")
    assert "leads back to itself" in refusal(tmp_path / "iris.joblib")


def test_a_pipe_is_an_error_rather_than_a_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "iris.joblib")
    assert "neither a file nor a folder" in refusal(tmp_path / "iris.joblib")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_read_permission_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "iris").mkdir(mode=0)
    assert "permission denied; give the user that runs Shoal" in refusal(tmp_path / "iris")


# --- one model or a folder of models ------------------------------------------------------------


@pytest.mark.parametrize("name", [
    "model.yaml", "model-settings.json", "config.pbtxt", "1/model.joblib", "model.py",
])
def test_a_folder_with_the_marks_of_a_model_is_one(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, "")
    assert is_model(tmp_path, FINDER)


def test_a_file_is_a_model(tmp_path: Path) -> None:
    assert is_model(put(tmp_path / "iris.joblib"), FINDER)


def test_a_folder_of_models_is_none_itself(tmp_path: Path) -> None:
    put(tmp_path / "iris.joblib")
    put(tmp_path / "wine/model.joblib")
    assert not is_model(tmp_path, FINDER)
