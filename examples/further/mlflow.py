"""An MLflow model of code of its own, called as MLflow calls it; and one whose framework answers.

The first is a folder as `mlflow.pyfunc.save_model` writes it, with the code beside it, a signature
of columns, one of which may be left out, and a parameter.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from examples.cases import Case, question, reply

_ESTIMATOR: Final = '''\
"""Prices of flats by a rule of thumb."""

import mlflow.pyfunc
import pandas as pd

from rates import RATES


class Estimator(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: pd.DataFrame, params=None):
        rate = model_input["town"].map(RATES).fillna(1000.0)
        factor = (params or {}).get("factor", 1.0)
        floor = model_input["floor"] if "floor" in model_input else 0.0
        return rate * model_input["area"] * factor + 500.0 * floor


mlflow.models.set_model(Estimator())
'''
_RATES: Final = 'RATES = {"Bergen": 4500.0, "Bodø": 3800.0}\n'


def make(folder: Path) -> list[Case]:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    return [_flats(folder), _irises(folder)]


def _flats(folder: Path) -> Case:
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    signature = ModelSignature(
        inputs=Schema([ColSpec("string", "town"), ColSpec("double", "area"),
                       ColSpec("double", "floor", required=False)]),
        outputs=Schema([ColSpec("double", "price")]),
        params=ParamSchema([ParamSpec("factor", "double", 1.0)]),
    )
    path = folder / "flats"
    shutil.rmtree(path, ignore_errors=True)
    with TemporaryDirectory() as sources:
        code, source = Path(sources, "rates.py"), Path(sources, "estimator.py")
        code.write_text(_RATES)
        source.write_text(_ESTIMATOR)
        sys.path.insert(0, sources)  # saving it imports it
        mlflow.pyfunc.save_model(
            path, python_model=str(source), code_paths=[str(code)], signature=signature,
            pip_requirements=["pandas"],
        )
        sys.path.remove(sources)
        sys.modules.pop("rates", None)
    asked = {"town": np.array(["Bergen", "Bodø", "Oslo"]), "area": np.array([50.0, 20.0, 10.0]),
             "floor": np.array([0.0, 3.0, 1.0])}
    prices = np.array([225_000.0, 77_500.0, 10_500.0])
    return Case("flats", "mlflow", "flats", question(**asked), reply(price=prices))


def _irises(folder: Path) -> Case:
    import mlflow
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    rows, species = load_iris(return_X_y=True)
    names = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    flowers = pd.DataFrame(rows, columns=names)
    model = LogisticRegression(max_iter=500).fit(flowers, species)
    path = folder / "irises"
    shutil.rmtree(path, ignore_errors=True)
    mlflow.sklearn.save_model(
        model, path, serialization_format="skops", pip_requirements=["scikit-learn"],
        signature=infer_signature(flowers, model.predict(flowers)),
    )
    asked = flowers.iloc[[0, 75, 149]]
    return Case("irises", "sklearn", "irises/model.skops",
                question(**{name: asked[name].to_numpy() for name in names}),
                reply(predict=model.predict(asked)))
