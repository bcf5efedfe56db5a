"""Says how XGBoost's trees are converted to ONNX, and on which rows to compare them.

onnxmltools writes the graphs. Splits by category, linear boosters and trees of several outputs are
not converted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shoal.runtimes.conversion import Conversion, NotConverted
from shoal.runtimes.converters import as_bytes, check_width, import_converter
from shoal.runtimes.samples import plain_rows, rows_at, with_missing

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Matrix = NDArray[np.floating]

_MAX_TREES: Final = 1_000  # whose thresholds are looked at
# They answer labels, for which XGBoost tells no scores in place.
_LABELS: Final = ("multi:softmax", "binary:hinge")


def conversion_of(xgboost: ModuleType, booster: Any, call: Callable[[Matrix], ArrayLike]
                  ) -> Conversion:
    """call: what requests call; safe for several threads. Raises NotConverted."""
    check_width(booster.num_features())
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    kind, objective = learner["gradient_booster"]["name"], learner["objective"]["name"]
    if kind != "gbtree":
        raise NotConverted(f"its booster is {kind}, not gbtree")
    if "c" in (booster.feature_types or ()):
        raise NotConverted("its trees split by category")
    if objective in _LABELS:
        raise NotConverted(f"its objective is {objective}, which tells no scores")
    trees = learner["gradient_booster"]["model"]["trees"]
    return Conversion(
        partial(_candidates, xgboost, booster), partial(_rows, booster.num_features(), trees),
        {"predict": call}, takes_missing=True,
    )


def _candidates(xgboost: ModuleType, booster: Any) -> Iterator[bytes]:
    """In float32, as XGBoost computes itself."""
    converter = import_converter("onnxmltools.convert")
    types = import_converter("onnxmltools.convert.common.data_types")
    nameless = xgboost.Booster(model_file=booster.save_raw("ubj"))
    nameless.feature_names = nameless.feature_types = None  # it knows no others than f0, f1, …
    width = booster.num_features()
    yield as_bytes(converter.convert_xgboost(
        nameless, initial_types=[("rows", types.FloatTensorType([None, width]))]))


def _rows(width: int, trees: list[dict[str, Any]]) -> Matrix:
    found: dict[int, list[float]] = {}
    for tree in trees[:_MAX_TREES]:
        for left, feature, threshold in zip(
            tree["left_children"], tree["split_indices"], tree["split_conditions"], strict=True
        ):
            if left != -1:
                found.setdefault(feature, []).append(threshold)
    at = rows_at(width, {each: np.array(values, np.float32) for each, values in found.items()})
    rows = with_missing(np.concatenate([at, plain_rows(width)]))
    endless = rows[:: max(len(rows) // 16, 1)].copy()
    endless[::2, ::2], endless[1::2, ::3] = np.inf, -np.inf
    return np.concatenate([rows, endless]).astype(np.float32)
