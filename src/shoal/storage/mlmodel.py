"""Reads MLflow's `MLmodel`, so that what a framework saved is served by that framework's runtime.

An MLflow model is a folder that holds, for most frameworks, the framework's own file, and says how
MLflow calls it, the "pyfunc". Shoal serves the file wherever that gives the same answers, with the
speed and by the rules of trust of its own format; otherwise the folder, as format `mlflow`.
Fields: https://mlflow.org/docs/latest/ml/model/#model-format. Loads nothing; an `MLmodel` that
cannot be read is left to MLflow, which says why.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Final, cast

import msgspec
import numpy as np
import yaml

from shoal.codecs.tensors import DATATYPES
from shoal.domain.errors import ShoalError
from shoal.domain.model import JsonValue
from shoal.domain.signature import TensorSpec
from shoal.storage.description import read_text
from shoal.storage.formats import FormatFinder, Found
from shoal.storage.model_yaml import check_shape

FILE_NAME: Final = "MLmodel"

# Of the signature's columns; other types are known to MLflow's own way alone.
_COLUMNS: Final = {
    "boolean": "BOOL", "integer": "INT32", "long": "INT64", "float": "FP32", "double": "FP64",
    "string": "BYTES", "binary": "BYTES",
}
_TABLES: Final = ("sklearn", "xgboost", "lightgbm", "catboost")
# How `onnx.save` calls a file of weights that it was given no name for; no format here takes it.
_STRAY_WEIGHTS: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(\.data)?")

# A suffix that a framework does not use itself.
_ONLY_HERE: Final = {".cb": "catboost"}

_Fields = Mapping[str, JsonValue]


def native(folder: Path, finder: FormatFinder) -> Found | None:
    """The file in `folder` from which a runtime of its own format answers as MLflow would, with
    what the signature says of it; None where only MLflow does: own code, parameters, optional
    columns, wrappers around a framework's model. Raises OSError."""
    if not (folder / FILE_NAME).is_file():
        return None
    model = _read(folder / FILE_NAME)
    flavors = _mapping(model.get("flavors"))
    found = next((name for name in _FILES if name in flavors), None)
    if found is None:
        return None
    pyfunc, fields = _mapping(flavors.get("python_function")), _mapping(flavors[found])
    if pyfunc.get("code") or fields.get("code") or pyfunc.get("loader_module") != f"mlflow.{found}":
        return None
    name = _FILES[found](folder, fields)
    if not _is_inside(name):
        return None
    path = folder / cast("str", name)
    form = (finder.recognise(path) or _ONLY_HERE.get(path.suffix)) if path.exists() else None
    if form is None or form not in finder.formats():
        return None
    return _described(path, form, model, pyfunc)


def _described(path: Path, form: str, model: _Fields, pyfunc: _Fields) -> Found | None:
    """With the signature, which tells more of a table's columns than most files do; what takes
    tensors describes itself."""
    signature = _mapping(model.get("signature"))
    if signature.get("params"):
        return None
    if form not in _TABLES:
        return Found(path, form)
    inputs, outputs = _side(signature.get("inputs")), _side(signature.get("outputs"))
    if inputs is None or outputs is None:
        return None
    function = str(pyfunc.get("predict_fn") or "predict")
    if function != "predict":
        if len(outputs) != 1:
            return None
        outputs = (msgspec.structs.replace(outputs[0], name=function),)
    return Found(
        path, form, inputs if _is_named(inputs) else (),
        outputs if len(outputs) == 1 and _is_named(outputs) else (),
    )


# --- which file a flavour means -----------------------------------------------------------------


def _sklearn(folder: Path, fields: _Fields) -> JsonValue:
    return None if fields.get("skops_trusted_types") else fields.get("pickled_model")


def _booster(folder: Path, fields: _Fields) -> JsonValue:
    """Classifiers answer labels where their booster answers probabilities: only boosters, which
    older releases did not name, and what was pickled whole."""
    data, kind = str(fields.get("data")), str(fields.get("model_class") or "Booster")
    if kind.endswith("Booster") or data.endswith(".pkl"):
        return data
    return None


def _catboost(folder: Path, fields: _Fields) -> JsonValue:
    """Scores of a plain CatBoost are not what its classes answer."""
    classes = ("CatBoostClassifier", "CatBoostRegressor")
    return fields.get("data") if fields.get("model_type") in classes else None


def _onnx(folder: Path, fields: _Fields) -> JsonValue:
    stray = any(_STRAY_WEIGHTS.fullmatch(each.name) for each in folder.iterdir())
    return None if stray else fields.get("data")


def _pytorch(folder: Path, fields: _Fields) -> JsonValue:
    """Exported programs; what torch.save pickled needs the classes of its modules."""
    name = f"{fields.get('model_data')}/model.pt2"
    return name if (folder / name).is_file() else None


def _keras(folder: Path, fields: _Fields) -> JsonValue:
    """As the flavour `tensorflow` or `keras` saved it: in Keras' formats, or TensorFlow's."""
    if "saved_model_dir" in fields:
        return fields["saved_model_dir"]
    data = str(fields.get("data"))
    names = [f"{data}/model{suffix}" for suffix in (".keras", ".h5", "")]
    own = (folder / data / "custom_objects.cloudpickle").exists()
    return None if own else next((name for name in names if (folder / name).exists()), None)


_FILES: Final[Mapping[str, Callable[[Path, _Fields], JsonValue]]] = {
    "sklearn": _sklearn, "xgboost": _booster, "lightgbm": _booster, "catboost": _catboost,
    "onnx": _onnx, "pytorch": _pytorch, "tensorflow": _keras, "keras": _keras,
}


# --- reading ------------------------------------------------------------------------------------


def _read(path: Path) -> _Fields:
    """The file's fields; none when it is no such file."""
    try:
        text = read_text(path)
        check_shape(text)
        return _mapping(yaml.load(text, Loader=yaml.CSafeLoader))
    except (ShoalError, yaml.YAMLError, ValueError):
        return {}


def _mapping(value: object) -> _Fields:
    return cast("_Fields", value) if isinstance(value, dict) else {}


def _is_inside(name: object) -> bool:
    if not isinstance(name, str) or not name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _side(schema: JsonValue) -> tuple[TensorSpec, ...] | None:
    """The columns or tensors of one side of a signature, which is JSON in the YAML, without a name
    where it gives none; None: there is something that only MLflow's own way knows."""
    try:
        listed = json.loads(schema) if isinstance(schema, str) else []
    except ValueError:
        return None
    specs = [_spec(_mapping(each)) for each in listed] if isinstance(listed, list) else [None]
    known = tuple(spec for spec in specs if spec is not None)
    return known if len(known) == len(specs) else None


def _spec(fields: _Fields) -> TensorSpec | None:
    name = str(fields.get("name") or "")
    if fields.get("type") == "tensor":
        tensor = _mapping(fields.get("tensor-spec"))
        try:
            datatype = DATATYPES[np.dtype(str(tensor.get("dtype")))]
            shape = msgspec.convert(tensor.get("shape"), tuple[int, ...])
        except (KeyError, TypeError, msgspec.ValidationError):
            return None
        return TensorSpec(name, datatype, shape)
    known = _COLUMNS.get(str(fields.get("type")))
    optional = fields.get("required") is False or fields.get("optional")
    return None if known is None or optional else TensorSpec(name, known, (-1,))


def _is_named(specs: tuple[TensorSpec, ...]) -> bool:
    return bool(specs) and all(spec.name for spec in specs)
