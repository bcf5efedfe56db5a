"""Imports what writes ONNX models, and fits what it writes to how converted models are run.

Shared by the runtimes that convert; knows none of their frameworks.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from shoal.runtimes.conversion import NotConverted
from shoal.runtimes.loading import one_line
from shoal.runtimes.samples import MOST_FEATURES


def import_converter(name: str) -> ModuleType:
    """The module `name` of the extra `optimize`. Raises NotConverted."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotConverted(
            f"the converter {name.partition('.')[0]} cannot be imported ({one_line(error)}); "
            "install it with: pip install 'shoal[optimize]'"
        ) from error


def check_width(features: int) -> None:
    """Raises NotConverted for rows too wide to sample."""
    if features > MOST_FEATURES:
        raise NotConverted(f"it takes {features:,} features, more than {MOST_FEATURES:,}")


def as_bytes(model: Any) -> bytes:
    """An onnx.ModelProto (Any: as its types go) with its last output alone, the scores. ONNX
    Runtime then leaves out what only the labels need: those are read off the scores."""
    del model.graph.output[:-1]
    data: bytes = model.SerializeToString()
    return data
