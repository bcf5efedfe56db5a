"""Trains small real models, in a few seconds.

    python -m examples.make_models [FOLDER [FURTHER …]]        (default: examples/models)
    shoal serve FOLDER

Every child of the folder is one model. `requests.json`, beside the folder, holds a request for each
(an Open Inference Protocol body) and the answer its framework gives to it. Needs the extras `usual`
and `examples`. FURTHER: modules of `examples.further` (or `all`), whose frameworks take longer to
import. Knows nothing of Shoal: the answers are the frameworks' own.
"""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
from examples.cases import Array, Case, place, question, reply

SEED: Final = 7
ROWS: Final = 3


def make_models(folder: Path) -> list[Case]:
    """Write the usual models into `folder`, over earlier ones of the same names."""
    folder.mkdir(parents=True, exist_ok=True)
    cases: list[Case] = []
    with warnings.catch_warnings():  # of deprecated TorchScript and of `.bst`: both on purpose
        warnings.simplefilter("ignore")
        for make in _MAKERS:
            cases.extend(make(folder))
    return cases


def make_further(folder: Path, name: str) -> list[Case]:
    """As `make_models`, the models of one module of `examples.further`."""
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: list[Case] = import_module(f"examples.further.{name}").make(folder)
    return made


# --- scikit-learn -------------------------------------------------------------------------------


def _iris(folder: Path) -> list[Case]:
    import joblib
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    rows, species = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(rows, species)
    joblib.dump(model, place(folder, "iris/model.joblib"))
    asked = rows[[0, 75, 149]]
    return [Case("iris", "sklearn", "iris/model.joblib", question(predict=asked),
                 reply(predict=model.predict(asked)))]


def _digits(folder: Path) -> list[Case]:
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier

    rows, digits = load_digits(return_X_y=True)
    model = RandomForestClassifier(20, max_depth=10, random_state=SEED).fit(rows, digits)
    place(folder, "digits.pkl").write_bytes(pickle.dumps(model))
    return [Case("digits", "sklearn", "digits.pkl", question(predict=rows[:ROWS]),
                 reply(predict=model.predict(rows[:ROWS])))]


def _wine(folder: Path) -> list[Case]:
    import skops.io
    from sklearn.datasets import load_wine
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    rows, cultivar = load_wine(return_X_y=True)
    names = np.array(["barolo", "grignolino", "barbera"])
    model = make_pipeline(StandardScaler(), SVC()).fit(rows, names[cultivar])
    skops.io.dump(model, place(folder, "wine.skops"))
    return [Case("wine", "sklearn", "wine.skops", question(predict=rows[::70]),
                 reply(predict=model.predict(rows[::70])))]


def _penguins(folder: Path) -> list[Case]:
    """A pipeline trained on a data frame of text and numbers; the columns are its inputs."""
    import joblib
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    frame, species = _colony()
    prepare = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["island", "sex"]),
        (StandardScaler(), ["bill_length_mm", "flipper_length_mm", "body_mass_g"]),
    )
    data = pd.DataFrame(frame)
    model = make_pipeline(prepare, LogisticRegression(max_iter=500)).fit(data, species)
    joblib.dump(model, place(folder, "penguins/model.joblib"))
    asked = {name: column[:ROWS] for name, column in frame.items()}
    return [Case("penguins", "sklearn", "penguins/model.joblib", question(**asked),
                 reply(predict=model.predict(data[:ROWS])))]


def _colony() -> tuple[dict[str, Array], Array]:
    """Made-up penguins that resemble real ones: columns, and the species of each."""
    random = np.random.default_rng(SEED)
    kinds = np.array(["Adelie", "Chinstrap", "Gentoo"])
    which = random.integers(0, 3, 240)
    islands = np.array([["Torgersen", "Dream"], ["Dream", "Dream"], ["Biscoe", "Biscoe"]])
    return {
        "island": islands[which, random.integers(0, 2, 240)],
        "sex": random.choice(np.array(["female", "male"]), 240),
        "bill_length_mm": np.array([38.8, 48.8, 47.5])[which] + random.normal(0, 2.5, 240),
        "flipper_length_mm": np.array([190.0, 196.0, 217.0])[which] + random.normal(0, 6, 240),
        "body_mass_g": np.array([3700.0, 3733.0, 5076.0])[which] + random.normal(0, 400, 240),
    }, kinds[which]


def _prices(folder: Path) -> list[Case]:
    """One model in two versions that differ in their answers."""
    import joblib
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.linear_model import LinearRegression

    random = np.random.default_rng(SEED)
    flats = np.column_stack(
        [random.uniform(20, 150, 200), random.integers(1, 6, 200), random.uniform(0, 15, 200)]
    )
    prices = 3000 * flats[:, 0] - 8000 * flats[:, 2] + random.normal(0, 9000, 200)
    cases = []
    models = {"1": LinearRegression(), "2": GradientBoostingRegressor(random_state=SEED)}
    for version, model in models.items():
        path = f"prices/{version}/model.joblib"
        joblib.dump(model.fit(flats, prices), place(folder, path))
        cases.append(Case("prices", "sklearn", path, question(predict=flats[:ROWS]),
                          reply(predict=model.predict(flats[:ROWS])), version))
    return cases


def _mlserver_iris(folder: Path) -> list[Case]:
    """A folder as MLServer has them."""
    import joblib
    from sklearn.datasets import load_iris
    from sklearn.tree import DecisionTreeClassifier

    rows, species = load_iris(return_X_y=True)
    model = DecisionTreeClassifier(max_depth=3, random_state=SEED).fit(rows, species)
    joblib.dump(model, place(folder, "iris-tree/model.joblib"))
    place(folder, "iris-tree/model-settings.json").write_text(json.dumps({
        "name": "iris-tree",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "./model.joblib"},
    }, indent=2))
    asked = rows[[10, 60, 110]]
    return [Case("iris-tree", "sklearn", "iris-tree/model.joblib", question(predict=asked),
                 reply(predict=model.predict(asked)))]


# --- boosted trees ------------------------------------------------------------------------------


def _boosted(folder: Path) -> list[Case]:
    """XGBoost in its three file formats."""
    import xgboost
    from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

    def train(loader: Callable[..., Any], path: str, **parameters: object) -> Case:
        rows, target = loader(return_X_y=True)
        rows = rows.astype("f4")
        booster = xgboost.train(
            {"nthread": 1, "max_depth": 3, "seed": SEED, **parameters},
            xgboost.DMatrix(rows, target), 15,
        )
        booster.save_model(place(folder, path))
        answer = booster.predict(xgboost.DMatrix(rows[:ROWS]))
        name = Path(path).name.partition(".")[0]
        return Case(name, "xgboost", path, question(predict=rows[:ROWS]), reply(predict=answer))

    return [
        train(load_diabetes, "diabetes.json", objective="reg:squarederror"),
        train(load_breast_cancer, "tumours.ubj", objective="binary:logistic"),
        train(load_wine, "cultivars.bst", objective="multi:softprob", num_class=3),
    ]


def _lightgbm(folder: Path) -> list[Case]:
    import lightgbm
    from sklearn.datasets import load_wine

    rows, cultivar = load_wine(return_X_y=True)
    parameters = {"objective": "multiclass", "num_class": 3, "verbose": -1, "seed": SEED,
                  "num_threads": 1, "deterministic": True, "num_leaves": 7}
    booster = lightgbm.train(parameters, lightgbm.Dataset(rows, cultivar), 15)
    booster.save_model(place(folder, "grapes.txt"))
    return [Case("grapes", "lightgbm", "grapes.txt", question(predict=rows[::70]),
                 reply(predict=booster.predict(rows[::70])))]


# --- networks -----------------------------------------------------------------------------------


def iris_network() -> tuple[Any, Array]:
    """An ONNX model of three operations, with weights learnt with scikit-learn; and measures of
    three flowers."""
    from onnx import TensorProto, helper, numpy_helper
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    rows, species = load_iris(return_X_y=True)
    learnt = LogisticRegression(max_iter=500).fit(rows, species)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["measures", "weights", "bias"], ["scores"], transB=1),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
        ],
        "iris",
        [helper.make_tensor_value_info("measures", TensorProto.FLOAT, ["rows", 4])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", 3]),
        ],
        [
            numpy_helper.from_array(learnt.coef_.astype("f4"), "weights"),
            numpy_helper.from_array(learnt.intercept_.astype("f4"), "bias"),
        ],
    )
    # The versions of two years ago, so that an older ONNX Runtime reads them as well.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model, rows[[0, 75, 149]].astype("f4")


def _onnx(folder: Path) -> list[Case]:
    import onnx
    import onnxruntime

    model, asked = iris_network()
    path = place(folder, "iris-net/model.onnx")
    onnx.save(model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    label, probabilities = session.run(None, {"measures": asked})
    return [Case("iris-net", "onnx", "iris-net/model.onnx", question(measures=asked),
                 reply(label=label, probabilities=probabilities))]


def _torchscript(folder: Path) -> list[Case]:
    """A small convolutional network in a folder as Triton has them."""
    import torch
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels.reshape(-1, 1, 8, 8).astype("f4") / 16)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 10)
    )
    steps = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(15):
        steps.zero_grad()
        torch.nn.functional.cross_entropy(network(images), torch.from_numpy(digits)).backward()
        steps.step()
    network.eval()
    torch.jit.script(network).save(str(place(folder, "digits-net/1/model.pt")))
    place(folder, "digits-net/config.pbtxt").write_text(_CONFIG)
    with torch.inference_mode():
        answer = network(images[:ROWS]).numpy()
    torch.set_num_threads(threads)
    return [Case(
        "digits-net", "pytorch", "digits-net/1/model.pt",
        question(INPUT__0=images[:ROWS].numpy()), reply(OUTPUT__0=answer),
        inputs=[{"name": "INPUT__0", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
        outputs=[{"name": "OUTPUT__0", "datatype": "FP32", "shape": [-1, 10]}],
    )]


_CONFIG: Final = """\
platform: "pytorch_libtorch"
max_batch_size: 64
input [{ name: "INPUT__0" data_type: TYPE_FP32 dims: [1, 8, 8] }]
output [{ name: "OUTPUT__0" data_type: TYPE_FP32 dims: [10] }]
"""


# --- Python -------------------------------------------------------------------------------------


def _mood(folder: Path) -> list[Case]:
    """A Python class that prepares text itself; its answers are counted by hand."""
    source = Path(__file__).parent / "python_model"
    for name in ("model.py", "words.json"):
        shutil.copyfile(source / name, place(folder, f"mood/{name}"))
    reviews = np.array(["A lovely, fresh idea!", "Great food", "Cold soup. Never again."])
    answer = reply(mood=np.array(["happy", "happy", "sad"]), score=np.array([3, 2, -2]))
    return [Case("mood", "python", "mood", question(review=reviews), answer)]


_MAKERS: Final = (
    _iris, _digits, _wine, _penguins, _prices, _mlserver_iris, _boosted, _lightgbm, _onnx,
    _torchscript, _mood,
)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "models"
    further = sys.argv[2:]
    if further == ["all"]:
        further = sorted(each.stem for each in (Path(__file__).parent / "further").glob("*.py"))
    cases = make_models(folder)
    for name in further:
        cases += make_further(folder, name)
    requests = folder.parent / "requests.json"
    requests.write_text(json.dumps([asdict(case) for case in cases], indent=1))
    print(f"{len(cases)} models in {folder}, requests and answers in {requests}")


if __name__ == "__main__":
    main()
