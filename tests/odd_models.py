"""A folder of small Python models that do what tests of the public port need: echo, wait, fail.

Each is a class in a `model.py`, as people write them.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Final

# A request that all of them take, except `pair` and `text`.
ONE: Final[dict[str, list[dict[str, object]]]] = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.5]}]
}

# Declares nothing, so it takes any tensors, and gives them back under their names.
ECHO: Final = """
    class Model:
        max_concurrency = 4

        def predict(self, inputs, parameters):
            return dict(inputs)
"""

# Two inputs of fixed shapes and three outputs.
PAIR: Final = """
    import numpy as np


    class Model:
        inputs = (
            {"name": "left", "datatype": "INT64", "shape": [-1, 2]},
            {"name": "right", "datatype": "FP32", "shape": [-1]},
        )
        outputs = (
            {"name": "sum", "datatype": "FP32", "shape": [-1]},
            {"name": "text", "datatype": "BYTES", "shape": [-1]},
            {"name": "seen", "datatype": "BYTES", "shape": [1]},
        )

        def predict(self, inputs, parameters):
            total = inputs["left"].sum(axis=1) + inputs["right"]
            return {
                "seen": np.array([repr(sorted(parameters.items()))]),
                "text": np.array([f"{value:g}" for value in total]),
                "sum": total,
            }
"""

# Does wrong what the parameter `do` names.
WRONG: Final = """
    import numpy as np
    from shoal.domain.errors import InvalidInput


    class Model:
        inputs = ({"name": "x", "datatype": "FP32", "shape": [-1]},)

        def predict(self, inputs, parameters):
            match parameters.get("do"):
                case "raise":
                    raise RuntimeError("the weights are melting\\nand this line is a secret")
                case "refuse":
                    raise InvalidInput("input 'x' is too sad; cheer it up")
                case "nothing":
                    return None
                case "complex":
                    return {"y": np.array([1j])}
                case "number":
                    return {7: np.array([1.0])}
                case "two numbers":
                    return {7: np.array([1.0]), 8: np.array([1.0, 2.0])}
                case "surrogate name":
                    return {"y\\ud800": np.array([1.0])}
                case "surrogate":
                    return {"y": np.array(["\\ud800"])}
                case "object":
                    return {"y": np.array([object], dtype=object)}
                case "nan":
                    return {"y": np.array([np.nan, np.inf, 1.0])}
                case "bytes":
                    return {"y": np.array([b"\\xff\\x00"], dtype=object)}
                case "scalar":
                    return {"y": 1.5}
                case "strided":
                    return {"y": np.arange(12.0).reshape(3, 4).T[::2]}
                case "big endian":
                    return {"y": np.arange(3, dtype=">i4")}
                case "empty":
                    return {}
            return {"y": inputs["x"]}
"""

# Text in, the same text out.
TEXT: Final = """
    class Model:
        inputs = ({"name": "text", "datatype": "BYTES", "shape": [-1]},)

        def predict(self, inputs, parameters):
            return {"same": inputs["text"]}
"""

NOT_A_NUMBER: Final = """
    class Model:
        inputs = ({"name": "x", "datatype": "FP32", "shape": [-1]},)

        def predict(self, inputs, parameters):
            return {"y": inputs["x"] * float("nan")}
"""

# A promise that its predict does not keep.
PROMISES: Final = """
    class Model:
        inputs = ({"name": "x", "datatype": "FP32", "shape": [-1]},)
        outputs = ({"name": "y", "datatype": "FP32", "shape": [-1]},)

        def predict(self, inputs, parameters):
            return {"z": inputs["x"]}
"""

# Answers once the file `go` exists beside it.
GATED: Final = """
    import time
    from pathlib import Path


    class Model:
        inputs = ({"name": "x", "datatype": "FP32", "shape": [-1]},)
        max_concurrency = 2

        def load(self, folder):
            self.gate = Path(__file__).parent / "go"

        def predict(self, inputs, parameters):
            deadline = time.monotonic() + 30
            while not self.gate.exists() and time.monotonic() < deadline:
                time.sleep(0.005)
            return {"y": inputs["x"]}
"""

# Too slow for the event loop.
PLODDING: Final = """
    import time


    class Model:
        inputs = ({"name": "x", "datatype": "FP32", "shape": [-1]},)

        def predict(self, inputs, parameters):
            time.sleep(0.002)
            return {"y": inputs["x"]}
"""

# Takes one call at a time, and notices when it does not get its wish.
ALONE: Final = """
    class Model:
        inputs = ({"name": "x", "datatype": "FP32", "shape": [-1]},)
        outputs = ({"name": "crowded", "datatype": "BOOL", "shape": [1]},)

        def load(self, folder):
            self.calls = 0

        def predict(self, inputs, parameters):
            self.calls += 1
            crowded = self.calls > 1
            for _ in range(len(inputs["x"]) * 20):
                crowded = crowded or self.calls > 1
            self.calls -= 1
            return {"crowded": [crowded]}
"""

# Loads once the file `go` exists beside it.
SLOW_TO_LOAD: Final = """
    import time
    from pathlib import Path


    class Model:
        inputs = ({"name": "x", "datatype": "FP32", "shape": [-1]},)
        outputs = ({"name": "y", "datatype": "FP32", "shape": [-1]},)

        def load(self, folder):
            deadline = time.monotonic() + 30
            while not (Path(__file__).parent / "go").exists() and time.monotonic() < deadline:
                time.sleep(0.005)

        def predict(self, inputs, parameters):
            return {"y": inputs["x"]}
"""

BROKEN: Final = """
    class Model:
        def load(self, folder):
            raise ValueError("there are no weights")

        def predict(self, inputs, parameters):
            return inputs
"""

MIB: Final = 1024**2


def write_odd_models(folder: Path) -> None:
    """Beside whatever is in `folder` already. The sizes of `heavy`, `bulky` and `vast` are such
    that of the first two one fits in 48 MiB, and the last never does."""
    for name, source in (
        ("echo", ECHO), ("pair", PAIR), ("wrong", WRONG), ("promises", PROMISES),
        ("gated", GATED), ("gated-2", GATED), ("gated-3", GATED), ("plodding", PLODDING),
        ("alone", ALONE),
        ("slow-to-load", SLOW_TO_LOAD), ("slow-to-fetch", SLOW_TO_LOAD),
        ("broken", BROKEN), ("stats", ECHO), ("counted", ECHO), ("handled", ECHO),
        ("text", TEXT), ("not-a-number", NOT_A_NUMBER), ("prone/1", ECHO), ("prone/2", BROKEN),
        ("some.name_with-all-1", ECHO),
    ):
        _write(folder / name / "model.py", source)
    for name, size_bytes, more in (
        ("heavy", 30 * MIB, "pin: true\n"), ("bulky", 30 * MIB, ""), ("vast", 900 * MIB, ""),
    ):
        _write(folder / name / "model.py", ECHO)
        _write(folder / name / "model.yaml", f"memory_bytes: {size_bytes}\n{more}")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text).lstrip())
