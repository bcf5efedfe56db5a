"""Loads CatBoost models saved as `.cbm` or as JSON. Loading them runs no code.

They answer what `predict` of CatBoost's own classes does: a classifier labels, a regressor values.
Categories and texts are strings. Options: none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact, LoadedModel
from shoal.runtimes.catboost_file import MAGIC, is_json_head, problem_of
from shoal.runtimes.features import MATRIX_NAME, Features, declared
from shoal.runtimes.loading import (
    bound_openmp,
    check_file,
    import_framework,
    one_line,
    parallel_calls,
    taking_notes,
    unreadable,
)
from shoal.runtimes.tabular import Recipe, TabularModel, described

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import ArrayLike, NDArray

    from shoal.ports import Arrays

    Matrix = NDArray[np.generic]

_WAY_OUT: Final = "copy it again, or save it anew: model.save_model('model.cbm')"
# `catboost/libs/model/model.cpp:1245: ` before what CatBoost has to say
_PLACE: Final = re.compile(r"^\S+\.(?:cpp|h|pyx):\d+: ")


class CatBoostRuntime:
    format = "catboost"
    suffixes = (".cbm", ".json")
    options: tuple[str, ...] | None = ()

    def recognise(self, path: Path, head: bytes) -> bool:
        """JSON files are also others': CatBoost's begin with what it knows of features."""
        if path.is_dir():
            return False
        suffix = path.suffix.lower()
        return suffix == ".cbm" or (suffix == ".json" and is_json_head(head))

    def runs_code(self, path: Path) -> bool:
        return False

    def load(self, artifact: Artifact) -> LoadedModel:
        """See `Runtime.load`."""
        check_file(artifact, self.suffixes)
        bound_openmp(artifact.threads)
        # It brings an allocator of its own, which would keep what it has freed.
        os.environ.setdefault("MIMALLOC_PURGE_DELAY", "0")
        with taking_notes() as notes:
            catboost = import_framework("catboost", "catboost", artifact)
            model = _read(catboost, artifact)
            own_features, texts = _features(artifact, model)
            functions, outputs = _answers(catboost, artifact, model, texts)
            features = declared(own_features, artifact)
        size = artifact.path.stat().st_size

        def prepare(inputs: Arrays) -> Matrix:
            if not any(texts):
                return features.numbers(inputs, np.float32)
            columns = features.columns(inputs) if features.table else None
            return features.matrix_of(inputs) if columns is None else _side_by_side(columns)

        recipe = Recipe(
            features=features,
            prepare=prepare,
            functions=functions,
            outputs=outputs,
            callers_errors=(catboost.CatBoostError, ValueError, TypeError),
            platform="catboost",
            # Predictions only read the model, and let go of the interpreter.
            max_concurrency=parallel_calls(artifact.threads),
            size=lambda: size,
            notes=tuple(notes),
            say=_say,
        )
        return TabularModel(artifact, recipe)


def _read(catboost: ModuleType, artifact: Artifact) -> Any:
    """A CatBoost; Any: as the framework's types go."""
    data = artifact.path.read_bytes()
    trouble = problem_of(data)
    if trouble is not None:
        raise unreadable(artifact, trouble, _WAY_OUT)
    model = catboost.CatBoost()
    form = "cbm" if data[: len(MAGIC)] == MAGIC else "json"
    try:
        # The path, not the bytes: from those it does not take the parameters of the training.
        model.load_model(str(artifact.path), format=form)
    except (catboost.CatBoostError, ValueError, TypeError, KeyError) as error:
        raise unreadable(artifact, _say(error), _WAY_OUT) from error
    if not model.feature_names_:
        raise unreadable(artifact, "it has no features", _WAY_OUT)
    if model.get_embedding_feature_indices():
        raise unreadable(
            artifact, "it takes embeddings, which are no columns of a table",
            "train it with a column for each of their numbers",
        )
    return model


def _features(artifact: Artifact, model: Any) -> tuple[Features, tuple[bool, ...]]:
    """And which of the columns are strings. Columns without names are called by their numbers
    where some are."""
    names = tuple(model.feature_names_)
    strings = {*model.get_cat_feature_indices(), *model.get_text_feature_indices()}
    texts = tuple(index in strings for index in range(len(names)))
    if len(set(names)) < len(names):
        raise unreadable(
            artifact, "two of its columns have one name", "train it with names that differ"
        )
    matrix = TensorSpec(MATRIX_NAME, "FP32", (-1, len(names)))
    if names == tuple(map(str, range(len(names)))) and not strings:  # trained on a matrix
        return Features(len(names), matrix), texts
    datatypes = tuple("BYTES" if text else "FP32" for text in texts)
    return Features(len(names), matrix, names=names, datatypes=datatypes), texts


def _answers(catboost: ModuleType, artifact: Artifact, model: Any, texts: tuple[bool, ...]
             ) -> tuple[Mapping[str, Callable[[Matrix], ArrayLike]], tuple[TensorSpec, ...]]:
    """Functions by output, and their descriptions."""
    row = np.zeros((1, len(texts)), np.float32)
    example: Matrix = row
    if any(texts):
        example = np.array([["" if text else 0.0 for text in texts]], dtype=np.object_)
    functions: dict[str, Callable[[Matrix], ArrayLike]] = {}
    outputs = []
    for name, kind in _kinds(model).items():
        call = _call(model, kind, artifact.threads)
        try:
            answer = np.asarray(call(example))
        except (catboost.CatBoostError, ValueError, TypeError, IndexError) as error:
            raise unreadable(artifact, _say(error), _WAY_OUT) from error
        functions[name] = _also_of_nothing(call, answer[:0])
        outputs.append(described(name, answer))
    return functions, tuple(outputs)


def _kinds(model: Any) -> dict[str, str]:
    """CatBoost's types of predictions by output, the default first: what `CatBoostClassifier` or
    `CatBoostRegressor` would answer with."""
    if len(model.classes_):
        return {"predict": "Class", "predict_proba": "Probability", "raw": "RawFormulaVal"}
    loss = str(model.get_params().get("loss_function", ""))
    if loss.startswith(("Poisson", "Tweedie")):
        return {"predict": "Exponent", "raw": "RawFormulaVal"}
    if loss.startswith("RMSEWithUncertainty"):
        return {"predict": "RMSEWithUncertainty", "raw": "RawFormulaVal"}
    return {"predict": "RawFormulaVal"}


def _call(model: Any, kind: str, threads: int) -> Callable[[Matrix], ArrayLike]:
    def call(matrix: Matrix) -> ArrayLike:
        answer: ArrayLike = model.predict(matrix, prediction_type=kind, thread_count=threads)
        return answer

    return call


def _also_of_nothing(call: Callable[[Matrix], ArrayLike], nothing: ArrayLike
                     ) -> Callable[[Matrix], ArrayLike]:
    """CatBoost knows no table without rows."""
    return lambda matrix: call(matrix) if len(matrix) else nothing


def _side_by_side(columns: Mapping[str, Matrix]) -> Matrix:
    """One matrix of Python's numbers and strings, as CatBoost takes mixed columns."""
    rows = len(next(iter(columns.values())))
    matrix = np.empty((rows, len(columns)), dtype=np.object_)
    for index, column in enumerate(columns.values()):
        matrix[:, index] = column.tolist()
    return matrix


def _say(error: BaseException) -> str:
    return _PLACE.sub("", one_line(error))
