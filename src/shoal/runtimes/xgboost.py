"""Loads XGBoost models saved as JSON or UBJSON. Loading them runs no code.

They answer what `Booster.predict` does, with all trees: probabilities for classifiers, also when
the scikit-learn interface trained them. Options: none.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact, LoadedModel
from shoal.runtimes.features import MATRIX_NAME, Category, Features, are_text, declared
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
from shoal.runtimes.xgboost_call import in_place
from shoal.runtimes.xgboost_file import problem_of
from shoal.runtimes.xgboost_onnx import conversion_of

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import ArrayLike, NDArray

    from shoal.ports import Arrays

_OWN_SUFFIXES: Final = (".ubj", ".xgb")
_WAY_OUT: Final = (
    "copy it again, or save it with the current XGBoost: booster.save_model('model.ubj')"
)
# `[07:39:21] WARNING: /workspace/src/learner.cc:885: ` before what XGBoost has to say
_LOG_PREFIX: Final = re.compile(r"^\[[\d:]+\] (?:WARNING: )?\S+:\d+: ")


class XGBoostRuntime:
    format = "xgboost"
    suffixes = (".json", ".ubj", ".bst", ".xgb", ".model")
    options: tuple[str, ...] | None = ()

    def recognise(self, path: Path, head: bytes) -> bool:
        """JSON and `.bst` files are also others': XGBoost's begin with their `learner`, the binary
        ones of old releases with `binf`."""
        suffix = path.suffix.lower()
        if suffix not in self.suffixes or path.is_dir():
            return False
        if suffix in _OWN_SUFFIXES:
            return True
        return (head.lstrip()[:1] == b"{" and b"learner" in head[:256]) or head[:4] == b"binf"

    def runs_code(self, path: Path) -> bool:
        return False

    def load(self, artifact: Artifact) -> LoadedModel:
        """See `Runtime.load`."""
        check_file(artifact, self.suffixes)
        bound_openmp(artifact.threads)
        with taking_notes(_say) as notes:
            xgboost = import_framework("xgboost", "xgboost", artifact)
            with _refusing(xgboost, artifact):
                booster = _read(xgboost, artifact)
                booster.set_param({"nthread": artifact.threads})
                own_features = _features(booster)
                kind = json.loads(booster.save_config())["learner"]["gradient_booster"]["name"]
                call = _call(xgboost, booster, kind, artifact.threads)
                example = call(np.zeros((1, booster.num_features()), np.float32))
            features = declared(own_features, artifact)

        def prepare(inputs: Arrays) -> NDArray[np.floating]:
            return features.numbers(inputs, np.float32)

        recipe = Recipe(
            features=features,
            prepare=prepare,
            functions={"predict": call},
            outputs=(described("predict", example),),
            callers_errors=(xgboost.core.XGBoostError, ValueError, TypeError),
            platform="xgboost",
            # "gbtree" alone is documented as safe for several threads.
            max_concurrency=parallel_calls(artifact.threads) if kind == "gbtree" else 1,
            size=lambda: len(booster.save_raw("ubj")),
            notes=tuple(notes),
            say=_say,
            conversion=partial(conversion_of, xgboost, booster, call),
        )
        return TabularModel(artifact, recipe)


@contextmanager
def _refusing(xgboost: ModuleType, artifact: Artifact) -> Iterator[None]:
    """Tells what XGBoost says of a file as our own error."""
    try:
        yield
    except (xgboost.core.XGBoostError, ValueError, TypeError, KeyError) as error:
        reason = _say(error)
        if "bad_alloc" in reason:
            reason = "it is cut off or damaged"
        raise unreadable(artifact, reason, _WAY_OUT) from error


def _read(xgboost: ModuleType, artifact: Artifact) -> Any:
    """A Booster; Any: XGBoost has no types."""
    data = artifact.path.read_bytes()
    problem = problem_of(data, tuple(map(int, xgboost.__version__.split(".")[:2])))
    if problem is not None:
        raise unreadable(artifact, problem.reason, problem.way_out or _WAY_OUT)
    booster = xgboost.Booster()
    # Bytes, not the path: XGBoost takes the path's suffix for the encoding.
    booster.load_model(bytearray(data))
    if booster.num_features() == 0:
        raise ValueError("it has no features")
    return booster


def _call(xgboost: ModuleType, booster: Any, kind: str, threads: int
          ) -> Callable[[NDArray[np.floating]], ArrayLike]:
    def through_dmatrix(matrix: NDArray[np.floating]) -> ArrayLike:
        data = xgboost.DMatrix(matrix, nthread=threads)
        answer: ArrayLike = booster.predict(data, validate_features=False)
        return answer

    if kind == "gblinear":  # linear ones know no other way
        return through_dmatrix
    return in_place(xgboost, booster)


def _features(booster: Any) -> Features:
    width = booster.num_features()
    matrix = TensorSpec(MATRIX_NAME, "FP32", (-1, width))
    names = tuple(booster.feature_names or ())
    if not names:
        return Features(width, matrix)
    categories = _categories(booster) if "c" in (booster.feature_types or ()) else {}
    return Features(
        width, matrix, names=names, categories=categories,
        datatypes=tuple("BYTES" if are_text(categories.get(name)) else "FP32" for name in names),
        # What XGBoost makes of a category it was not trained on is another category's answer.
        refuse_unknown=True,
    )


def _categories(booster: Any) -> dict[str, tuple[Category, ...]]:
    """By column, from XGBoost's own record of them; a column without one takes codes, as all do in
    models saved before 3.1. Read from the JSON, since `get_categories` needs pyarrow."""
    saved = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]
    model = saved.get("gbtree", saved).get("model", {})  # dart wraps a gbtree
    found: dict[str, tuple[Category, ...]] = {}
    for name, column in zip(booster.feature_names, model.get("cats", {}).get("enc", ()),
                            strict=False):
        values, offsets = column["values"], column.get("offsets")
        if offsets:  # text, as one run of bytes
            text = bytes(value & 0xFF for value in values)
            pairs = itertools.pairwise(offsets)
            try:
                found[name] = tuple(text[start:end].decode() for start, end in pairs)
            except UnicodeDecodeError:  # XGBoost 3.2 cuts categories beyond ASCII short
                continue
        elif values:
            found[name] = tuple(float(value) for value in values)
    return found


def _say(error: BaseException) -> str:
    return _LOG_PREFIX.sub("", one_line(error))
