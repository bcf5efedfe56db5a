"""Models of some MiB in every format, and a small one of each: what `formats` loads.

Networks take 64 numbers and give 8, their layers are as wide as makes them large; trees are grown
on made-up rows. Knows no server. A framework is imported by the first use of its format.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from shoal.domain.signature import TensorSpec

FEATURES, ANSWERS = 64, 8
LARGE, SMALL = 1.0, 0.25  # in the same way: widths of networks, numbers of trees
WIDTH = 900  # 3.5 MiB
SEED = 11


@dataclass(frozen=True)
class Kind:
    """path: of a model in a folder of its own; empty: the folder itself. write: that path, and how
    large. inputs, outputs: what the file does not tell."""

    format: str
    path: str
    write: Callable[[Path, float], None]
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()


def _weights(size: float) -> list[NDArray[np.float32]]:
    width = round(WIDTH * size ** 0.5)
    random = np.random.default_rng(SEED)
    widths = (FEATURES, width, width, ANSWERS)
    return [
        random.normal(0, 0.1, shape).astype("f4")
        for shape in itertools.pairwise(widths)
    ]


def _rows() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    random = np.random.default_rng(SEED)
    rows = random.normal(size=(4_000, 16))
    return rows, ((rows[:, 0] + rows[:, 1] ** 2 + random.normal(size=4_000)) > 1).astype(int)


# --- graphs -------------------------------------------------------------------------------------


def _onnx_bytes(size: float) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    weights = _weights(size)
    nodes, name = [], "x"
    for number in range(len(weights)):
        nodes.append(helper.make_node("MatMul", [name, f"w{number}"], [f"m{number}"]))
        nodes.append(helper.make_node("Relu", [f"m{number}"], [f"r{number}"]))
        name = f"r{number}"
    nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        nodes, "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", ANSWERS])],
        [numpy_helper.from_array(each, f"w{number}") for number, each in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    data: bytes = model.SerializeToString()
    return data


def _onnx(path: Path, size: float) -> None:
    path.write_bytes(_onnx_bytes(size))


def _ort(path: Path, size: float) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(_onnx_bytes(size), options, providers=["CPUExecutionProvider"])


def _openvino(path: Path, size: float) -> None:
    import sys

    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino
    from openvino import opset13

    whole = opset13.parameter([-1, FEATURES], np.float32, name="x")
    node = whole
    for weights in _weights(size):
        node = opset13.relu(opset13.matmul(node, opset13.constant(weights), False, False))
    model = openvino.Model([opset13.result(node)], [whole], "wide")
    model.inputs[0].tensor.set_names({"x"})
    model.outputs[0].tensor.set_names({"y"})
    openvino.save_model(model, path, compress_to_fp16=False)


# --- TensorFlow ---------------------------------------------------------------------------------


def _tensorflow(size: float) -> Any:
    import tensorflow as tf

    module = tf.Module()
    module.layers = [tf.Variable(each) for each in _weights(size)]

    def serve(x: Any) -> Any:
        for layer in module.layers:
            x = tf.nn.relu(x @ layer)
        return {"y": x}

    module.serve = tf.function(serve, input_signature=[tf.TensorSpec((None, FEATURES), name="x")])
    return module


def _saved_model(path: Path, size: float) -> None:
    import tensorflow as tf

    module = _tensorflow(size)
    tf.saved_model.save(module, str(path), signatures=module.serve)


def _graphdef(path: Path, size: float) -> None:
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    made = _tensorflow(size).serve.get_concrete_function()
    frozen = convert_variables_to_constants_v2(made).graph.as_graph_def()
    path.write_bytes(frozen.SerializeToString())


def _keras(path: Path, size: float) -> None:
    import keras

    layers = [keras.layers.Dense(each.shape[1], activation="relu") for each in _weights(size)]
    keras.Sequential([keras.Input((FEATURES,), name="x"), *layers]).save(path)


# --- PyTorch ------------------------------------------------------------------------------------


_CLASS = """\
import torch


class Wide(torch.nn.Module):
    def __init__(self, width: int = {width}) -> None:
        super().__init__()
        self.one = torch.nn.Linear({features}, width)
        self.two = torch.nn.Linear(width, width)
        self.three = torch.nn.Linear(width, {answers})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {{"y": self.three(torch.relu(self.two(torch.relu(self.one(x)))))}}
"""


def _network(size: float) -> Any:
    import torch

    torch.manual_seed(SEED)
    layers: list[Any] = []
    for each in _weights(size):
        layers += [torch.nn.Linear(*each.shape), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1]).eval()


def _torchscript(path: Path, size: float) -> None:
    import torch

    torch.jit.script(_network(size)).save(str(path))


def _exported(path: Path, size: float) -> None:
    import torch

    rows = torch.export.Dim("rows")
    asked = torch.zeros(3, FEATURES)
    torch.export.save(
        torch.export.export(_network(size), (asked,), dynamic_shapes=({0: rows},)), path)


def _with_class(path: Path, size: float, *, safe: bool) -> None:
    import torch
    from safetensors.torch import save_file

    width = round(WIDTH * size ** 0.5)
    source = _CLASS.format(width=width, features=FEATURES, answers=ANSWERS)
    (path / "model.py").write_text(source)
    names = dict(zip(("0", "2", "4"), ("one", "two", "three"), strict=True))
    state = {
        f"{names[key.partition('.')[0]]}.{key.partition('.')[2]}": value
        for key, value in _network(size).state_dict().items()
    }
    if safe:
        save_file(state, path / "weights.safetensors")
    else:
        torch.save(state, path / "weights.pt")


def _huggingface(path: Path, size: float) -> None:
    """A vocabulary as large as usual, which is the tokenizer's part."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "some"]
    words += [f"word{number}" for number in range(round(30_000 * size))]
    made = Tokenizer(models.WordPiece({word: at for at, word in enumerate(words)},
                                      unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=64, pad_token="[PAD]", unk_token="[UNK]",
        cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    torch.manual_seed(SEED)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64)
    transformers.BertForSequenceClassification(config).eval().save_pretrained(path)
    tokenizer.save_pretrained(path)


# --- trees and code -----------------------------------------------------------------------------


def _sklearn(path: Path, size: float) -> None:
    import joblib
    from sklearn.ensemble import RandomForestClassifier

    joblib.dump(RandomForestClassifier(round(60 * size), random_state=SEED).fit(*_rows()), path)


def _xgboost(path: Path, size: float) -> None:
    import xgboost

    rows, classes = _rows()
    parameters = {"nthread": 1, "max_depth": 9, "seed": SEED, "eta": 0.05,
                  "objective": "binary:logistic"}
    data = xgboost.DMatrix(rows, classes, nthread=1)
    xgboost.train(parameters, data, round(400 * size)).save_model(path)


def _lightgbm(path: Path, size: float) -> None:
    import lightgbm

    parameters = {"verbose": -1, "num_leaves": 127, "num_threads": 1, "min_data_in_leaf": 5,
                  "objective": "binary", "seed": SEED}
    data = lightgbm.Dataset(*_rows())
    lightgbm.train(parameters, data, round(200 * size)).save_model(path)


def _catboost(path: Path, size: float) -> None:
    from catboost import CatBoostClassifier

    rows, classes = _rows()
    CatBoostClassifier(
        iterations=round(300 * size), depth=10, random_seed=SEED, thread_count=1,
        logging_level="Silent", allow_writing_files=False,
    ).fit(rows[:400], classes[:400]).save_model(str(path))


_PMML = """\
<?xml version="1.0" encoding="UTF-8"?>
<PMML xmlns="http://www.dmg.org/PMML-4_4" version="4.4"><Header/><DataDictionary>{fields}
<DataField name="y" optype="continuous" dataType="double"/></DataDictionary>
<MiningModel functionName="regression"><MiningSchema>{schema}
<MiningField name="y" usageType="target"/></MiningSchema>
<Segmentation multipleModelMethod="sum">{trees}</Segmentation></MiningModel></PMML>
"""


def _pmml(path: Path, size: float) -> None:
    from sklearn.ensemble import GradientBoostingRegressor

    rows, classes = _rows()
    grown = GradientBoostingRegressor(n_estimators=round(100 * size), max_depth=9,
                                      random_state=SEED).fit(rows, classes)
    names = [f"x{number}" for number in range(rows.shape[1])]
    schema = "".join(f'<MiningField name="{name}"/>' for name in names)
    trees = "".join(
        f'<Segment id="{number}"><True/><TreeModel functionName="regression" '
        f'splitCharacteristic="binarySplit"><MiningSchema>{schema}</MiningSchema>'
        f"{_pmml_node(tree.tree_, 0, '<True/>')}</TreeModel></Segment>"
        for number, (tree,) in enumerate(grown.estimators_)
    )
    fields = "".join(
        f'<DataField name="{name}" optype="continuous" dataType="double"/>' for name in names)
    path.write_text(_PMML.format(fields=fields, schema=schema, trees=trees))


def _pmml_node(tree: Any, node: int, rule: str) -> str:
    left, right = tree.children_left[node], tree.children_right[node]
    if left < 0:
        return f'<Node score="{tree.value[node][0][0]:.6g}">{rule}</Node>'
    below, above = (
        f'<SimplePredicate field="x{tree.feature[node]}" operator="{operator}" '
        f'value="{tree.threshold[node]:.6g}"/>' for operator in ("lessOrEqual", "greaterThan"))
    return (f'<Node score="0">{rule}{_pmml_node(tree, left, below)}'
            f"{_pmml_node(tree, right, above)}</Node>")


_ESTIMATOR = """\
from pathlib import Path

import mlflow.pyfunc
import numpy as np


class Estimator(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.weights = np.load(context.artifacts["weights"])

    def predict(self, context, model_input, params=None):
        return np.asarray(model_input["x"], "f4") @ self.weights[:64]


mlflow.models.set_model(Estimator())
"""


def _mlflow(path: Path, size: float) -> None:
    import os
    from tempfile import TemporaryDirectory

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("f4"), (-1, FEATURES), "x")]),
        outputs=Schema([TensorSpec(np.dtype("f4"), (-1, ANSWERS))]))
    with TemporaryDirectory() as sources:
        source, weights = Path(sources, "estimator.py"), Path(sources, "weights.npy")
        source.write_text(_ESTIMATOR)
        np.save(weights, _weights(size)[1])
        mlflow.pyfunc.save_model(
            path, python_model=str(source), artifacts={"weights": str(weights)},
            signature=signature, pip_requirements=["numpy"])


_PYTHON = """\
import json


class Model:
    inputs = ({"name": "x", "datatype": "FP32", "shape": [-1, 64]},)
    outputs = ({"name": "y", "datatype": "FP32", "shape": [-1, 64]},)

    def load(self, folder):
        self.words = json.loads((folder / "words.json").read_text())

    def predict(self, inputs, parameters):
        return {"y": inputs["x"] * self.words["word7"]}
"""


def _python(path: Path, size: float) -> None:
    (path / "model.py").write_text(_PYTHON)
    words = {f"word{number}": number for number in range(round(200_000 * size))}
    (path / "words.json").write_text(json.dumps(words))


_X = (TensorSpec("x", "FP32", (-1, FEATURES)),)
_GIVEN = (TensorSpec("INPUT__0", "FP32", (-1, FEATURES)),)
_ANSWERED = (TensorSpec("OUTPUT__0", "FP32", (-1, ANSWERS)),)

KINDS = {
    "onnx": Kind("onnx", "model.onnx", _onnx),
    "ort": Kind("onnx", "model.ort", _ort),
    "openvino": Kind("openvino", "model.xml", _openvino),
    "sklearn": Kind("sklearn", "model.joblib", _sklearn),
    "xgboost": Kind("xgboost", "model.ubj", _xgboost),
    "lightgbm": Kind("lightgbm", "model.txt", _lightgbm),
    "catboost": Kind("catboost", "model.cbm", _catboost),
    "pmml": Kind("pmml", "model.pmml", _pmml),
    "torchscript": Kind("pytorch", "model.pt", _torchscript, _GIVEN, _ANSWERED),
    "torch_exported": Kind("pytorch", "model.pt2", _exported),
    "torch_class": Kind("pytorch", "", partial(_with_class, safe=False), _X),
    "safetensors": Kind("pytorch", "", partial(_with_class, safe=True), _X),
    "saved_model": Kind("tensorflow", "1", _saved_model),
    "graphdef": Kind("tensorflow", "model.graphdef", _graphdef),
    "keras": Kind("keras", "model.keras", _keras),
    "huggingface": Kind("huggingface", "", _huggingface),
    "mlflow": Kind("mlflow", "", _mlflow),
    "python": Kind("python", "", _python),
}


def make(name: str, folder: Path, size: float) -> Path:
    """A model of that kind in `folder`, which must not exist, as a folder of models may hold it;
    its artifact."""
    kind = KINDS[name]
    folder.mkdir(parents=True)
    path = folder / kind.path if kind.path else folder
    kind.write(path, size)
    if kind.inputs:
        declared = {"inputs": kind.inputs, "outputs": kind.outputs}
        (folder / "model.yaml").write_bytes(msgspec.yaml.encode(
            {key: specs for key, specs in declared.items() if specs}))
    return path


def another(name: str, folder: Path, like: Path) -> Path:
    """The same model in files of its own."""
    shutil.copytree(like, folder)
    return folder / KINDS[name].path if KINDS[name].path else folder
