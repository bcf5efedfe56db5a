"""OpenVINO: weights learnt with scikit-learn, written as a graph of three operations."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from examples.cases import Case, place, question, reply


def make(folder: Path) -> list[Case]:
    """Write `iris-ir.xml`, and `iris-ir.bin` with its weights."""
    # Else importing it reports to its makers, and leaves files in the home folder.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino
    from openvino import opset13
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    rows, species = load_iris(return_X_y=True)
    learnt = LogisticRegression(max_iter=500).fit(rows, species)
    measures = opset13.parameter([-1, 4], np.float32, name="measures")
    scores = opset13.add(
        opset13.matmul(
            measures, opset13.constant(learnt.coef_.astype("f4")), False, True
        ),
        opset13.constant(learnt.intercept_.astype("f4")),
    )
    best = opset13.topk(scores, 1, 1, "max", "value", index_element_type="i64")
    label = opset13.squeeze(best.output(1), opset13.constant(np.array([1])))
    outputs = [opset13.result(label), opset13.result(opset13.softmax(scores, 1))]
    model = openvino.Model(outputs, [measures], "iris")
    for tensor, name in zip((*model.inputs, *model.outputs),
                            ("measures", "label", "probabilities"), strict=True):
        tensor.set_names({name})
    path = place(folder, "iris-ir.xml")
    openvino.save_model(model, path, compress_to_fp16=False)
    asked = rows[[0, 75, 149]].astype("f4")
    compiled = openvino.Core().compile_model(
        path, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    )
    answer = compiled(asked)
    return [Case(
        "iris-ir", "openvino", "iris-ir.xml", question(measures=asked),
        reply(label=answer["label"], probabilities=answer["probabilities"]),
    )]
