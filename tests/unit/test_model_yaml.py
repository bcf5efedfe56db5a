"""What model.yaml takes, and how it says what is wrong."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.domain.errors import ArtifactMissing, InvalidSpecification
from shoal.domain.model import ModelSpec, VersionPolicy
from shoal.domain.signature import TensorSpec
from shoal.storage.description import MAX_DESCRIPTION_BYTES, Description, complete, merge
from shoal.storage.model_yaml import parse_model_yaml, read_model_yaml


def refusal(text: str) -> str:
    with pytest.raises(InvalidSpecification) as caught:
        parse_model_yaml(text, "m/model.yaml")
    assert caught.value.message.startswith("m/model.yaml")
    return caught.value.message


def test_everything_that_a_registration_takes_can_be_written() -> None:
    found = parse_model_yaml("""
name: iris
uri: model.joblib
format: sklearn
version_policy: {latest: 2}
inputs: [{name: x, datatype: FP32, shape: [-1, 4]}]
options: {method: predict_proba, since: 2020-01-01}
pin: true
priority: 3
idle_ttl_s: 60
memory_bytes: 1000
max_concurrency: 2
max_batch_rows: 16
max_batch_delay_ms: 2.5
repeatable: false
labels: {team: fraud}
""", "m/model.yaml")
    assert found == ModelSpec(
        name="iris", uri="model.joblib", format="sklearn", version_policy=VersionPolicy(latest=2),
        inputs=(TensorSpec("x", "FP32", (-1, 4)),),
        options={"method": "predict_proba", "since": "2020-01-01"}, pin=True, priority=3,
        idle_ttl_s=60.0, memory_bytes=1000, max_concurrency=2, max_batch_rows=16,
        max_batch_delay_ms=2.5, repeatable=False,
        labels={"team": "fraud"},
    )


@pytest.mark.parametrize("text", ["", "# nothing\n", "pin: false"])
def test_everything_may_be_left_out(text: str) -> None:
    assert parse_model_yaml(text, "m/model.yaml") == ModelSpec(name="", uri="")


@pytest.mark.parametrize("wish", ["auto", "off", "'off'"])
def test_a_wish_for_a_faster_form_may_be_written_without_quotes(wish: str) -> None:
    found = parse_model_yaml(f"optimize: {wish}", "m/model.yaml")
    assert found.optimize == wish.strip("'")


@pytest.mark.parametrize(("text", "says"), [
    ("priorty: 1", "unknown field 'priorty'; did you mean 'priority'? the fields are name, uri"),
    ("zzz: 1", "unknown field 'zzz'; the fields are"),
    ("version_policy: {lates: 1}", "version_policy: object contains unknown field `lates`"),
    ("pin: yess", "pin: expected `bool`, got `str`"),
    ("optimize: maybe", "optimize: invalid enum value 'maybe'"),
    ("optimize: on", "optimize: expected `str | null`, got `bool`"),
    ("priority: '3'", "priority: expected `int`, got `str`"),
    ("inputs:\n- {name: x, datatype: FP32, shape: [a]}", "inputs[0].shape[0]: expected `int`"),
    ("- 1", "not a mapping of fields"),
    ("a: b: c", "line 1, column 5"),
    ("name: iris\n\tpin: true", "line 2, column 1"),
    ("options: {1: a}", "the key 1 under 'options' is not text; put it in quotes"),
    ("options: {a: .nan}", "options.a is nan"),
    ("options: {a: [1, .inf]}", "options.a[1] is inf"),
    ("priority: 99999999999999999999", "priority does not fit in 64 bits"),
    ("options: &o {a: 1}\nlabels: *o", "line 2, column 9: aliases"),
    ("options: !!set {a}", "tags (!) are not supported"),
    ("name: !!python/name:os.system", "tags (!) are not supported"),
    ("priority: 0x_", "correct the YAML"),
    ("a: 1\n---\nb: 2", "found another document"),
    ("name: a\x00b", "control characters are not allowed"),
    ("[" * 5000, "nested deeper than 32 levels"),
])
def test_what_is_wrong_is_named_with_the_way_out(text: str, says: str) -> None:
    assert says in refusal(text)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_bytes(b"\xef\xbb\xbfpin: true")
    assert read_model_yaml(tmp_path / "model.yaml").spec.pin


def test_a_file_too_large_for_a_description_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_bytes(b"#" * (MAX_DESCRIPTION_BYTES + 1))
    with pytest.raises(InvalidSpecification, match="too many for a description"):
        read_model_yaml(tmp_path / "model.yaml")


def test_a_pipe_is_no_description(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.yaml")
    with pytest.raises(InvalidSpecification, match="no regular file"):
        read_model_yaml(tmp_path / "model.yaml")


def test_a_folder_is_no_description(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").mkdir()
    with pytest.raises(ArtifactMissing, match="Is a directory"):
        read_model_yaml(tmp_path / "model.yaml")


def test_a_registration_wins_over_the_description() -> None:
    said = ModelSpec(name="a", uri="/a", priority=2, labels={"x": "1"})
    described = ModelSpec(name="b", uri="/b", priority=1, pin=True, labels={"x": "2", "y": "3"})
    assert complete(said, described) == ModelSpec(
        name="a", uri="/a", priority=2, pin=True, labels={"x": "1", "y": "3"})


def test_the_first_of_two_descriptions_wins() -> None:
    both = merge(
        Description(Path("model.yaml"), ModelSpec(name="", uri="", pin=True)),
        Description(Path("config.pbtxt"), ModelSpec(name="c", uri="u", format="onnx"),
                    filename="f", version=2),
    )
    assert both == Description(
        Path("config.pbtxt"), ModelSpec(name="c", uri="u", format="onnx", pin=True),
        filename="f", version=2,
    )


TOKENS = st.sampled_from([
    "name", "uri", "options", "inputs", "priority", "labels", "pin", ": ", "- ", "\n", "\n  ", "{",
    "}", "[", "]", ",", "&a ", "*a ", "!!int ", "!x ", "'", '"', "\\ud800", "1", "1e400", "0x_",
    ".nan", "null", "~", "|", ">", "? ", "<<", "%YAML", "---", "\t", "2020-13-45", "=", "@", "`",
    "\x00", "\ud800",
])


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(TOKENS, max_size=25).map("".join)))
def test_any_text_is_a_specification_or_an_invalid_one(text: str) -> None:
    with suppress(InvalidSpecification):
        assert isinstance(parse_model_yaml(text, "m/model.yaml"), ModelSpec)
