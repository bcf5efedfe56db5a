"""PMML: what is its own. Skipped where there is no Java."""

from __future__ import annotations

import gc
import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shoal.domain.errors import InvalidArtifact, InvalidInput, RuntimeMissing
from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact, LoadedModel
from shoal.runtimes.openvino import OpenVinoRuntime
from shoal.runtimes.pmml import PmmlRuntime

pytestmark = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java 11 or newer")

DOCUMENT = """<?xml version="1.0"?>
<PMML xmlns="http://www.dmg.org/PMML-4_4" version="4.4"><Header/>
<DataDictionary>{fields}</DataDictionary>{model}</PMML>"""
NUMBER = '<DataField name="{0}" optype="continuous" dataType="{1}"/>'


def text(*items: str) -> NDArray[np.object_]:
    return np.array([item.encode() for item in items], dtype=object)


def load(folder: Path, content: str, **artifact: Any) -> LoadedModel:
    path = folder / "model.pmml"
    path.write_text(content)
    return PmmlRuntime().load(Artifact("m", 1, path, "pmml", **artifact))


def sums(inputs: dict[str, str], extra: str = "", attributes: str = "") -> str:
    """y = the sum of its inputs; `inputs`: datatypes by name."""
    fields = "".join(NUMBER.format(name, kind) for name, kind in {**inputs, "y": "double"}.items())
    mined = "".join(f'<MiningField name="{name}"{attributes}/>' for name in inputs)
    terms = "".join(f'<NumericPredictor name="{name}" coefficient="1"/>' for name in inputs)
    return DOCUMENT.format(fields=fields, model=(
        f'<RegressionModel functionName="regression"><MiningSchema>{mined}'
        f'<MiningField name="y" usageType="target"/></MiningSchema>{extra}'
        f'<RegressionTable intercept="0">{terms}</RegressionTable></RegressionModel>'
    ))


CLUSTERS = DOCUMENT.format(
    fields=NUMBER.format("x", "double"),
    model="""<ClusteringModel functionName="clustering" modelClass="centerBased"
    numberOfClusters="2"><MiningSchema><MiningField name="x"/></MiningSchema>
    <ComparisonMeasure kind="distance"><squaredEuclidean/></ComparisonMeasure>
    <ClusteringField field="x" compareFunction="absDiff"/>
    <Cluster id="low"><Array n="1" type="real">0</Array></Cluster>
    <Cluster id="high"><Array n="1" type="real">9</Array></Cluster></ClusteringModel>""",
)
RULES = DOCUMENT.format(
    fields=(
        '<DataField name="day" optype="ordinal" dataType="date"/>'
        '<DataField name="kind" optype="categorical" dataType="string"><Value value="a"/>'
        '<Value value="b"/></DataField><DataField name="y" optype="categorical" dataType="string"/>'
    ),
    model="""<TreeModel functionName="classification" noTrueChildStrategy="returnNullPrediction">
    <MiningSchema><MiningField name="day"/><MiningField name="kind"/>
    <MiningField name="y" usageType="target"/></MiningSchema>
    <Node><True/>
    <Node score="new"><CompoundPredicate booleanOperator="and">
    <SimplePredicate field="day" operator="greaterThan" value="2026-01-01"/>
    <SimplePredicate field="kind" operator="equal" value="a"/></CompoundPredicate></Node>
    <Node score="old"><SimplePredicate field="day" operator="lessThan" value="2020-01-01"/></Node>
    </Node></TreeModel>""",
)


def test_fields_are_columns_of_their_types(tmp_path: Path) -> None:
    model = load(tmp_path, sums({"a": "double", "b": "float", "c": "integer"}))
    assert model.signature.table
    assert model.signature.inputs == (
        TensorSpec("a", "FP64", (-1,)), TensorSpec("b", "FP32", (-1,)),
        TensorSpec("c", "INT64", (-1,)),
    )
    assert model.signature.outputs == (TensorSpec("y", "FP64", (-1,)),)
    columns = {"a": np.array([1.0, 2]), "b": np.array([0.5, 0.25], "f4"), "c": np.array([3, 4])}
    assert model.predict(columns, {})["y"].tolist() == [4.5, 6.25]


def test_a_matrix_answers_as_columns_do(tmp_path: Path) -> None:
    model = load(tmp_path, sums({"a": "double", "b": "double"}))
    assert model.predict({"x": np.array([[1.0, 2], [3, 4]])}, {})["y"].tolist() == [3, 7]
    with pytest.raises(InvalidInput, match=r"the model takes \[-1, 2\]"):
        model.predict({"x": np.ones((1, 3))}, {})


def test_one_declared_matrix_hides_the_columns(tmp_path: Path) -> None:
    declared = TensorSpec("rows", "FP32", (-1, 2))
    model = load(tmp_path, sums({"a": "double", "b": "double"}), inputs=(declared,))
    assert model.signature.inputs == (declared,)
    assert model.predict({"rows": np.array([[1, 2]], "f4")}, {})["y"].tolist() == [3]


def test_a_table_without_rows_answers_nothing(tmp_path: Path) -> None:
    model = load(tmp_path, sums({"a": "double"}))
    assert model.predict({"a": np.empty(0)}, {})["y"].shape == (0,)


def test_values_of_floats_are_compared_as_floats(tmp_path: Path) -> None:
    """0.1 as a float is more than as a double; exporters write what the float prints."""
    fields = NUMBER.format("x", "float") + NUMBER.format("y", "double")
    model = load(tmp_path, DOCUMENT.format(fields=fields, model=(
        '<TreeModel functionName="regression"><MiningSchema><MiningField name="x"/>'
        '<MiningField name="y" usageType="target"/></MiningSchema><Node><True/><Node score="1">'
        '<SimplePredicate field="x" operator="lessOrEqual" value="0.1"/></Node><Node score="2">'
        '<True/></Node></Node></TreeModel>'
    )))
    column = np.array([0.1, 0.10001], "f4")
    assert model.predict({"x": column}, {})["y"].tolist() == [1, 2]


def test_nan_and_the_empty_text_count_as_missing(tmp_path: Path) -> None:
    model = load(tmp_path, sums({"a": "double"}, attributes=' missingValueReplacement="7"'))
    assert model.predict({"a": np.array([np.nan, 1])}, {})["y"].tolist() == [7, 1]


def test_no_answer_is_nan_or_the_empty_text(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    model = load(tmp_path, sums({"a": "double"}))
    assert np.isnan(model.predict({"a": np.array([np.nan])}, {})["y"]).tolist() == [True]
    rules = load(tmp_path / "rules", RULES)
    answer = rules.predict({"day": text("2022-05-05", ""), "kind": text("a", "")}, {})
    assert answer["y"].tolist() == [b"", b""]


def test_dates_are_text(tmp_path: Path) -> None:
    model = load(tmp_path, RULES)
    days = text("2026-02-01", "2019-12-31")
    assert model.predict({"day": days, "kind": text("a", "b")}, {})["y"].tolist() == [
        b"new", b"old",
    ]


@pytest.mark.parametrize(("day", "kind", "reason"), [
    ("2026-02-01", "z", 'refuses row 1: Field "kind" cannot accept invalid value "z"'),
    ("yesterday", "a", 'refuses row 1: Field "day" cannot accept invalid value "yesterday"'),
], ids=["category", "date"])
def test_values_that_the_model_does_not_take_are_the_callers_fault(
    tmp_path: Path, day: str, kind: str, reason: str
) -> None:
    model = load(tmp_path, RULES)
    with pytest.raises(InvalidInput, match=reason):
        model.predict({"day": text("2019-01-01", day), "kind": text("a", kind)}, {})


def test_a_model_without_a_target_answers_predict(tmp_path: Path) -> None:
    model = load(tmp_path, CLUSTERS)
    assert [spec.name for spec in model.signature.outputs] == ["predict"]
    answer = model.predict({"x": np.array([1.0, 8.0])}, {})["predict"]
    assert answer.tolist() == [b"low", b"high"]


def test_what_java_collects_makes_python_collect_nothing(tmp_path: Path) -> None:
    import jpype

    model = load(tmp_path, sums({"a": "double"}))
    management = jpype.JClass("java.lang.management.ManagementFactory")

    def collections() -> int:
        return sum(each.getCollectionCount() for each in management.getGarbageCollectorMXBeans())

    of_python: list[object] = []

    def collects(phase: str, info: dict[str, int]) -> None:
        of_python.append(info)

    thresholds = gc.get_threshold()
    gc.set_threshold(0)  # none by itself
    gc.callbacks.append(collects)
    try:
        wanted = collections() + 5
        while collections() < wanted:
            model.predict({"a": np.ones(100)}, {})
    finally:
        gc.callbacks.remove(collects)
        gc.set_threshold(*thresholds)
    assert not of_python


def test_xml_of_others_is_not_pmml(tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    assert PmmlRuntime().recognise(path, RULES.encode())
    assert not OpenVinoRuntime().recognise(path, RULES.encode())
    assert not PmmlRuntime().recognise(path, b'<?xml version="1.0"?><net name="m" version="11">')


@pytest.mark.parametrize(("old", "new", "reason"), [
    ("</PMML>", "", "line 3: XML document structures must start and end within the same entity"),
    ("<PMML", '<!DOCTYPE PMML [<!ENTITY x SYSTEM "file:///etc/hostname">]><PMML',
     "line 2: DOCTYPE is disallowed"),
    ("RegressionModel", "WonderModel", "WonderModel"),
    ("<RegressionTable", "<Extension/><RegressionTabel", "RegressionTabel"),
], ids=["cut", "doctype", "model", "element"])
def test_what_is_no_pmml_is_refused_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], old: str, new: str, reason: str
) -> None:
    with pytest.raises(InvalidArtifact, match=reason) as raised:
        load(tmp_path, sums({"a": "double"}).replace(old, new))
    assert "\n" not in raised.value.message
    assert "org." not in raised.value.message
    assert capfd.readouterr() == ("", "")


def test_a_file_whose_own_test_rows_fail_is_refused(tmp_path: Path) -> None:
    rows = """<ModelVerification><VerificationFields><VerificationField field="a"/>
        <VerificationField field="y"/></VerificationFields>
        <InlineTable><row><a>1</a><y>2</y></row></InlineTable></ModelVerification>"""
    content = sums({"a": "double"}).replace("</RegressionModel>", f"{rows}</RegressionModel>")
    with pytest.raises(InvalidArtifact, match="cannot be read as pmml"):
        load(tmp_path, content)


def test_packages_of_java_are_no_modules_of_python(tmp_path: Path) -> None:
    """JPMML's library has one called `dill`, which PyTorch uses where it can be imported."""
    load(tmp_path, RULES)
    found = importlib.util.find_spec("dill")
    assert found is None or found.has_location  # in a file, as where it is installed


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jpmml_evaluator", None)
    with pytest.raises(RuntimeMissing, match=r"pip install 'shoal\[pmml\]'"):
        load(tmp_path, RULES)


def test_a_missing_java_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import jpype

    def not_found(*options: object, **named: object) -> None:
        raise jpype.JVMNotFoundException("No JVM shared library file (libjvm.so) found.")

    monkeypatch.setattr(jpype, "isJVMStarted", lambda: False)
    monkeypatch.setattr(jpype, "startJVM", not_found)
    with pytest.raises(RuntimeMissing, match=r"needs Java 11 or newer.* or set JAVA_HOME"):
        load(tmp_path, RULES)
