"""What MLServer's model settings mean here."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.domain.errors import InvalidSpecification
from shoal.domain.signature import TensorSpec
from shoal.storage.description import Description
from shoal.storage.mlserver import parse_model_settings

SOURCE = Path("m/model-settings.json")


def parse(**fields: object) -> Description:
    return parse_model_settings(json.dumps(fields), SOURCE)


def test_the_fields_of_usual_settings_are_taken() -> None:
    found = parse(
        name="iris",
        implementation="mlserver_sklearn.SKLearnModel",
        parameters={"uri": "./model.joblib", "version": "v3", "content_type": "np",
                    "extra": {"a": 1}},
        inputs=[{"name": "x", "datatype": "FP32", "shape": [-1, 4],
                 "parameters": {"content_type": "np"}}],
        outputs=[{"name": "y", "datatype": "INT64", "shape": [-1]}],
        parallel_workers=0,
    )
    assert found.spec.name == "iris"
    assert found.spec.uri == "./model.joblib"
    assert found.spec.format == "sklearn"
    assert found.spec.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert found.spec.outputs == (TensorSpec("y", "INT64", (-1,)),)
    assert found.spec.options == {}
    assert found.version == 3


@pytest.mark.parametrize(("implementation", "form"), [
    ("mlserver_sklearn.SKLearnModel", "sklearn"),
    ("mlserver_sklearn.sklearn.SKLearnModel", "sklearn"),
    ("mlserver_xgboost.XGBoostModel", "xgboost"),
    ("mlserver_lightgbm.lightgbm.LightGBMModel", "lightgbm"),
    ("mlserver_catboost.CatboostModel", "catboost"),
])
def test_mlservers_own_runtimes_have_a_counterpart(implementation: str, form: str) -> None:
    assert parse(implementation=implementation).spec.format == form


def test_without_an_implementation_the_format_is_left_to_the_files() -> None:
    assert parse(name="iris").spec.format is None


@pytest.mark.parametrize("implementation", [
    "models.MyModel", "mlserver_mllib.MLlibModel", "mlserver_sklearn", "", "a.b.c.d",
])
def test_an_unknown_implementation_is_refused_with_the_ways_out(implementation: str) -> None:
    with pytest.raises(InvalidSpecification, match="has no counterpart here; known are mlserver_"):
        parse(implementation=implementation)


@pytest.mark.parametrize(("version", "number"), [
    ("2", 2), ("v2", 2), (2, 2), ("v0.1.0", None), ("0", None), (None, None),
])
def test_only_a_whole_number_is_a_version(version: object, number: int | None) -> None:
    assert parse(parameters={"version": version}).version == number


@pytest.mark.parametrize(("text", "says"), [
    ("", "correct the JSON"), ("[]", "Expected `object`"), ('{"name": 3}', "`$.name`"),
    ('{"inputs": [{"name": "x"}]}', "datatype"), ("[" * 5000, "correct the JSON"),
])
def test_what_are_no_settings_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(InvalidSpecification) as caught:
        parse_model_settings(text, SOURCE)
    assert says in caught.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["name", "implementation", "parameters", "uri", "version", "inputs"]),
        inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.text(max_size=40), JSON.map(json.dumps)))
def test_any_text_is_a_description_or_an_invalid_specification(text: str) -> None:
    with suppress(InvalidSpecification):
        parse_model_settings(text, SOURCE)
