"""Keras: a network of two inputs as an archive, and one in the older HDF5 format."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Final

from examples.cases import Case, place, question, reply

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
logging.getLogger("absl").setLevel(logging.ERROR)  # which says that HDF5 is the older format

import keras  # noqa: E402
from sklearn.datasets import load_iris  # noqa: E402

SEED: Final = 7


def make(folder: Path) -> list[Case]:
    keras.utils.set_random_seed(SEED)
    rows, species = load_iris(return_X_y=True)
    rows = rows.astype("f4")
    petals = _two_inputs()
    _fit(petals, {"sepal": rows[:, :2], "petal": rows[:, 2:]}, species)
    petals.save(place(folder, "petals.keras"))
    asked = rows[[0, 75, 149]]
    parts = {"sepal": asked[:, :2], "petal": asked[:, 2:]}
    blooms = keras.Sequential([
        keras.Input((4,), name="measures"), keras.layers.Dense(8, activation="relu"),
        keras.layers.Dense(3, activation="softmax", name="probabilities"),
    ])
    _fit(blooms, rows, species)
    blooms.save(place(folder, "blooms.h5"))
    return [
        Case("petals", "keras", "petals.keras", question(**parts),
             reply(probabilities=petals.predict_on_batch(parts))),
        Case("blooms", "keras", "blooms.h5", question(measures=asked),
             reply(probabilities=blooms.predict_on_batch(asked))),
    ]


def _two_inputs() -> Any:
    sepal, petal = keras.Input((2,), name="sepal"), keras.Input((2,), name="petal")
    both = keras.layers.Concatenate()([sepal, keras.layers.Dense(4, activation="relu")(petal)])
    answer = keras.layers.Dense(3, activation="softmax", name="probabilities")(both)
    return keras.Model({"sepal": sepal, "petal": petal}, answer)


def _fit(model: Any, data: Any, species: Any) -> None:
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    for _ in range(30):
        model.train_on_batch(data, species)
