"""Says how LightGBM's trees are converted to ONNX, and on which rows to compare them.

onnxmltools writes the graphs. Splits by category are not converted.
"""

from __future__ import annotations

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

_MAX_LINES: Final = 2_000  # of thresholds, one a tree


def conversion_of(lightgbm: ModuleType, booster: Any, call: Callable[[Matrix], ArrayLike]
                  ) -> Conversion:
    """call: what requests call; safe for several threads. Raises NotConverted."""
    check_width(booster.num_feature())
    text: str = booster.model_to_string()
    if any(line.startswith("num_cat=") and line != "num_cat=0" for line in text.splitlines()):
        raise NotConverted("its trees split by category")
    return Conversion(
        partial(_candidates, lightgbm, text, booster.num_feature()),
        partial(_rows, booster.num_feature(), text), {"predict": call}, takes_missing=True,
    )


def _candidates(lightgbm: ModuleType, text: str, width: int) -> Iterator[bytes]:
    """In float64, as LightGBM computes itself, where onnxmltools can; in float32."""
    converter = import_converter("onnxmltools.convert")
    types = import_converter("onnxmltools.convert.common.data_types")
    problem: Exception | None = None
    for kind in (types.DoubleTensorType, types.FloatTensorType):
        try:
            model = converter.convert_lightgbm(
                lightgbm.Booster(model_str=text), zipmap=False,
                initial_types=[("rows", kind([None, width]))],
            )
        except Exception as error:  # noqa: BLE001 - raises anything; raised again if both fail
            problem = error
            continue
        yield as_bytes(model)
        problem = None
    if problem is not None:
        raise problem


def _rows(width: int, text: str) -> Matrix:
    """The file names features and thresholds of a tree's splits in two lines, alike in order."""
    found: dict[int, list[float]] = {}
    features: list[int] = []
    for line in text.splitlines()[: _MAX_LINES * 20]:
        name, _, values = line.partition("=")
        if name == "split_feature":
            features = [int(value) for value in values.split()]
        elif name == "threshold":
            for feature, value in zip(features, values.split(), strict=True):
                found.setdefault(feature, []).append(float(value))
    at = rows_at(width, {each: np.array(values) for each, values in found.items()})
    return with_missing(np.concatenate([at, plain_rows(width)]))
