"""A network in ONNX Runtime's own format, as its conversion writes it. Knows nothing of Shoal."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnxruntime
from examples.cases import Case, place, question, reply
from examples.make_models import iris_network

_QUIET: Final = 4


def make(folder: Path) -> list[Case]:
    """Species of iris, as the usual example in ONNX, with weights learnt with scikit-learn."""
    model, asked = iris_network()
    path = place(folder, "iris-ort.ort")
    _convert(model.SerializeToString(), path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    label, probabilities = session.run(None, {"measures": asked})
    return [Case("iris-ort", "onnx", "iris-ort.ort", question(measures=asked),
                 reply(label=label, probabilities=probabilities))]


def _convert(model: bytes, path: Path) -> None:
    """What `python -m onnxruntime.tools.convert_onnx_models_to_ort` does to each file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = _QUIET
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
