"""TensorFlow: a network as a SavedModel, as TensorFlow Serving has them, and a frozen graph of
strings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from examples.cases import Array, Case, place, question, reply

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_iris
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)

SEED: Final = 7


def make(folder: Path) -> list[Case]:
    return [_saved_model(folder), _frozen(folder)]


class Species(tf.Module):  # type: ignore[misc]
    """A layer that knows the species' names."""

    def __init__(self) -> None:
        super().__init__()
        weights = np.random.default_rng(SEED).normal(0, 0.1, (4, 3))
        self.weights = tf.Variable(weights, dtype=tf.float32)
        self.bias = tf.Variable(tf.zeros(3))
        self.names = tf.Variable([b"setosa", b"versicolor", b"virginica"], trainable=False)

    def scores(self, measures: Any) -> Any:
        return measures @ self.weights + self.bias

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32)])  # type: ignore[untyped-decorator]
    def serve(self, measures: Any) -> dict[str, Any]:
        scores = self.scores(measures)
        return {"species": tf.gather(self.names, tf.argmax(scores, 1)),
                "probabilities": tf.nn.softmax(scores)}


def _saved_model(folder: Path) -> Case:
    rows, species = load_iris(return_X_y=True)
    measures, wanted = tf.constant(rows, tf.float32), tf.one_hot(species, 3)
    model = Species()
    for _ in range(200):
        with tf.GradientTape() as tape:
            loss = tf.nn.softmax_cross_entropy_with_logits(wanted, model.scores(measures))
        for variable, slope in zip(
            model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
        ):
            variable.assign_sub(slope * 0.0005)
    path = "iris-saved/1"
    tf.saved_model.save(model, str(place(folder, f"{path}/saved_model.pb").parent),
                        signatures=model.serve)
    asked = rows[[0, 75, 149]].astype("f4")
    answer = model.serve(tf.constant(asked))
    return Case("iris-saved", "tensorflow", path, question(measures=asked), reply(
        species=_text(answer["species"]), probabilities=answer["probabilities"].numpy(),
    ), version="1")


def _frozen(folder: Path) -> Case:
    """Numbers as text, their sum as text, and the mean of them."""

    def total(numbers: Any) -> Any:
        values = tf.strings.to_number(numbers, tf.int32)
        return (tf.strings.as_string(tf.reduce_sum(values, 1), name="total"),
                tf.reduce_mean(tf.cast(values, tf.float32), 1, name="mean"))

    made = tf.function(total).get_concrete_function(
        tf.TensorSpec((None, 3), tf.string, name="numbers")
    )
    frozen = convert_variables_to_constants_v2(made).graph.as_graph_def()
    for node in frozen.node:  # the function's own wrapping of what it answers
        if node.op == "Identity" and node.name.startswith("Identity"):
            frozen.node.remove(node)
    place(folder, "totals.graphdef").write_bytes(frozen.SerializeToString())
    asked = np.array([["1", "2", "3"], ["10", "-20", "40"], ["7", "0", "0"]])
    sums, means = made(tf.constant(asked))
    return Case("totals", "tensorflow", "totals.graphdef", question(numbers=asked),
                reply(total=_text(sums), mean=means.numpy()))


def _text(tensor: Any) -> Array:
    return np.array([each.decode() for each in tensor.numpy()])
