"""What a Triton configuration means here."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.domain.errors import InvalidSpecification
from shoal.domain.model import VersionPolicy
from shoal.domain.signature import TensorSpec
from shoal.storage.description import Description
from shoal.storage.triton import parse_config, read_config

SOURCE = Path("m/config.pbtxt")

CIFAR = """
name: "cifar"
platform: "pytorch_libtorch"
max_batch_size: 1
input [ { name: "INPUT__0" data_type: TYPE_FP32 dims: [3,32,32] } ]
output [
  { name: "OUTPUT__0", data_type: TYPE_FP32, dims: [10] }  # classes
]
instance_group [ { count: 2 kind: KIND_CPU }, { kind: KIND_CPU } ]
"""


def parse(text: str) -> Description:
    return parse_config(text, SOURCE)


def refusal(text: str) -> str:
    with pytest.raises(InvalidSpecification) as caught:
        parse(text)
    assert caught.value.message.startswith(str(SOURCE))
    return caught.value.message


def test_the_fields_of_a_usual_configuration_are_taken() -> None:
    found = parse(CIFAR)
    assert found.spec.name == "cifar"
    assert found.spec.format == "pytorch"
    assert found.spec.inputs == (TensorSpec("INPUT__0", "FP32", (-1, 3, 32, 32)),)
    assert found.spec.outputs == (TensorSpec("OUTPUT__0", "FP32", (-1, 10)),)
    assert found.spec.max_concurrency == 3
    assert found.usual == ("model.pt",)


@pytest.mark.parametrize(
    ("backend", "size", "rows"),
    [("onnxruntime", 16, 16), ("onnxruntime", 0, None), ("onnxruntime", -1, None),
     ("python", 16, None)],
)
def test_the_batch_size_says_how_many_rows_run_together(
    backend: str, size: int, rows: int | None
) -> None:
    assert parse(f'backend: "{backend}" max_batch_size: {size}').spec.max_batch_rows == rows


def test_without_batching_shapes_have_no_batch_axis() -> None:
    text = 'input { name: "x" data_type: TYPE_STRING dims: [ -1, 4 ] }'
    assert parse(text).spec.inputs == (TensorSpec("x", "BYTES", (-1, 4)),)


@pytest.mark.parametrize(("triton", "here"), [
    ("TYPE_BOOL", "BOOL"), ("TYPE_UINT8", "UINT8"), ("TYPE_INT64", "INT64"),
    ("TYPE_FP16", "FP16"), ("TYPE_FP64", "FP64"), ("TYPE_BF16", "BF16"),
    ("TYPE_STRING", "BYTES"),
])
def test_datatypes_get_the_protocols_names(triton: str, here: str) -> None:
    (tensor,) = parse(f'input {{ name: "x" data_type: {triton} dims: 1 }}').spec.inputs
    assert tensor.datatype == here


@pytest.mark.parametrize(("text", "form", "usual"), [
    ('backend: "onnxruntime"', "onnx", "model.onnx"),
    ('backend: "openvino"', "openvino", "model.xml"),
    ('platform: "onnxruntime_onnx"', "onnx", "model.onnx"),
    ('backend: "pytorch"', "pytorch", "model.pt"),
    ('backend: "python"', "python", "model.py"),
    ('backend: "fil"', "xgboost", "xgboost.model"),
    ('backend: "fil" parameters { key: "model_type" value: { string_value: "xgboost_json" } }',
     "xgboost", "xgboost.json"),
    ('backend: "fil" parameters [ { key: "model_type" value: { string_value: "lightgbm" } } ]',
     "lightgbm", "model.txt"),
])
def test_a_backend_gives_format_and_file_name(text: str, form: str, usual: str) -> None:
    found = parse(text)
    assert (found.spec.format, found.usual) == (form, (usual,))


def test_without_a_backend_the_format_is_left_to_the_files() -> None:
    assert parse("").spec.format is None


@pytest.mark.parametrize(("text", "policy"), [
    ("", VersionPolicy(latest=1)),
    ("version_policy: { latest { num_versions: 2 } }", VersionPolicy(latest=2)),
    ("version_policy: { latest { } }", VersionPolicy(latest=1)),
    ("version_policy: { specific { versions: [1, 3] } }", VersionPolicy(specific=(1, 3))),
    ("version_policy: { all { } }", VersionPolicy()),
])
def test_the_version_policy_is_tritons(text: str, policy: VersionPolicy) -> None:
    assert parse(text).spec.version_policy == policy


def test_the_parameters_of_a_python_model_become_its_options() -> None:
    text = 'backend: "python" parameters { key: "depth" value: { string_value: "3" } }'
    assert parse(text).spec.options == {"depth": "3"}


def test_parameters_that_tune_triton_are_ignored() -> None:
    text = 'backend: "onnxruntime" parameters { key: "intra" value: { string_value: "3" } }'
    assert parse(text).spec.options == {}


def test_unknown_fields_are_ignored() -> None:
    assert parse("""
        dynamic_batching { preferred_batch_size: [ 4, 8 ] }
        optimization { execution_accelerators { gpu_execution_accelerator : [
            { name : "tensorrt" parameters { key: "precision_mode" value: "FP16" } } ] } }
        model_warmup [ { name: "w", inputs: { key: "x" value: { zero_data: true } } } ]
        name: "kept"
    """).spec.name == "kept"


def test_the_liberties_of_the_text_format_are_understood() -> None:
    found = parse("""
        name: 'a' "b\\x63\\144\\n"; max_batch_size: 0x10,
        input < name: "x", data_type: TYPE_INT32; dims: 2 dims: [ 010 ] >
        [some.extension/here] { a: -inf b: 1.5e3f c: .5 d: true }
    """)
    assert found.spec.name == "abcd\n"
    assert found.spec.inputs == (TensorSpec("x", "INT32", (-1, 2, 8)),)


def test_the_default_file_name_is_taken() -> None:
    assert parse('default_model_filename: "net.onnx"').filename == "net.onnx"


@pytest.mark.parametrize("name", ["/etc/passwd", "../model.onnx", "a/../../b"])
def test_a_default_file_name_cannot_leave_its_folder(name: str) -> None:
    assert "leads out of the version folder" in refusal(f'default_model_filename: "{name}"')


@pytest.mark.parametrize(("text", "says"), [
    ('platform: "caffe2_netdef"', "no runtime for platform 'caffe2_netdef'; known are"),
    ('backend: "dali"', "no runtime for backend 'dali'; known are onnxruntime"),
    ('platform: "ensemble"', "no runtime for platform 'ensemble'"),
    ('backend: "fil" parameters { key: "model_type" value { string_value: "treelite" } }',
     "model_type 'treelite'"),
    ('backend: "fil" parameters { key: "output_class" value { string_value: "true" } }',
     "'output_class' of backend 'fil' is not supported"),
    ('input { name: "x" dims: 1 }', "input 'x' has no known data_type; set one of TYPE_BOOL"),
    ('output { data_type: TYPE_FP32 dims: 1 }', "an output has no name"),
    ('input { name: "x" data_type: TYPE_FP32 dims: 0 }', "has the dims [0]"),
    ('input { name: "x" data_type: TYPE_FP32 dims: 1 reshape { shape: [ ] } }', "reshape"),
    ('input { name: "x" data_type: TYPE_FP12 }', "input 'x' has no known data_type"),
    ("name: 3", "name: expected `str`, got `int`"),
    ("input { dims: [ 1, TYPE_FP32 ] }", "input[0].dims[1]: expected `int`, got `str`"),
    ("name\n 'x'", "line 2, column 2: expected ':' after 'name', found \"'x'\""),
    ("name: 'x' }", "line 1, column 11: expected the name of a field, found '}'"),
    ("input { name: 'x'", "expected the name of a field, found the end of the text"),
    ("dims: [1 2]", "expected ',' or ']', found '2'"),
    ("name: }", "expected a value, found '}'"),
    ('name: "x', "line 1, column 7: unexpected '\"'"),
    ("name: '\\377'", "not UTF-8"),
    ("name: '\\U00110000'", "is no character"),
    ("max_batch_size: 99999999999999999999", "out of range"),
    ("max_batch_size: 09", "is no whole number"),
    ("a {" * 5000, "nested deeper than 32 levels"),
])
def test_what_cannot_be_followed_is_refused_with_the_reason(text: str, says: str) -> None:
    assert says in refusal(text)


def test_a_reshape_to_the_same_shape_is_none() -> None:
    text = 'input { name: "x" data_type: TYPE_FP32 dims: [2] reshape { shape: [2] } }'
    assert parse(text).spec.inputs[0].shape == (2,)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_bytes(b'name: "\xff"')
    with pytest.raises(InvalidSpecification, match="not UTF-8 at byte 7"):
        read_config(tmp_path / "config.pbtxt")


TOKENS = st.sampled_from([
    "name", "input", "dims", "data_type", "TYPE_FP32", "reshape", "shape", "{", "}", "[", "]", ":",
    ",", '"x"', "'", "1", "-1", "1e9", "backend", '"fil"', "parameters", "key", "value", "#", "\n",
    "version_policy", "latest", "<", ">", ";", "\\", "\0", "instance_group", "count",
])


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(TOKENS, max_size=25).map(" ".join)))
def test_any_text_is_a_description_or_an_invalid_specification(text: str) -> None:
    with suppress(InvalidSpecification):
        parse(text)
