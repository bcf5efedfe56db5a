"""Says whether reviews sound happy: a model as a plain Python class.

Clients send text; the class prepares it itself. `shoal serve` finds it by the name `model.py`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Model:
    inputs = ({"name": "review", "datatype": "BYTES", "shape": [-1]},)
    outputs = (
        {"name": "mood", "datatype": "BYTES", "shape": [-1]},
        {"name": "score", "datatype": "INT64", "shape": [-1]},
    )

    def load(self, folder: Path) -> None:
        self.weights: dict[str, int] = json.loads((folder / "words.json").read_text())

    def predict(self, inputs: dict[str, NDArray[np.object_]], parameters: dict[str, object]
                ) -> dict[str, object]:
        words = [re.findall(r"[a-z']+", text.decode().lower()) for text in inputs["review"]]
        scores = [sum(self.weights.get(word, 0) for word in review) for review in words]
        return {"score": scores, "mood": ["happy" if score > 0 else "sad" for score in scores]}
