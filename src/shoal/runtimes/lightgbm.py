"""Loads LightGBM models saved as text. Loading them runs no code.

They answer what `Booster.predict` does: probabilities for classifiers. Options: none.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact, LoadedModel
from shoal.runtimes.features import MATRIX_NAME, Category, Features, are_text, declared
from shoal.runtimes.lightgbm_call import Predictor
from shoal.runtimes.lightgbm_file import problem_of
from shoal.runtimes.lightgbm_onnx import conversion_of
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

    from numpy.typing import NDArray

    from shoal.ports import Arrays

_OWN_SUFFIXES: Final = (".lgb", ".lgbm")
_WAY_OUT: Final = "copy it again, or save it anew: booster.save_model('model.txt')"


class LightGBMRuntime:
    format = "lightgbm"
    suffixes = (".txt", ".bst", ".lgb", ".lgbm")
    options: tuple[str, ...] | None = ()

    def recognise(self, path: Path, head: bytes) -> bool:
        """Text and `.bst` files are also others': LightGBM's begin with a line `tree`."""
        suffix = path.suffix.lower()
        begins_as_ours = head[:5].strip() == b"tree"
        return (suffix in _OWN_SUFFIXES and not path.is_dir()) or (
            suffix in self.suffixes and begins_as_ours
        )

    def runs_code(self, path: Path) -> bool:
        return False

    def load(self, artifact: Artifact) -> LoadedModel:
        """See `Runtime.load`."""
        check_file(artifact, self.suffixes)
        bound_openmp(artifact.threads)
        with taking_notes() as notes:
            lightgbm = import_framework("lightgbm", "lightgbm", artifact)
            lightgbm.register_logger(_Silence())
            booster, size = _read(lightgbm, artifact)
            features = declared(_features(artifact, booster), artifact)
            call = Predictor(lightgbm, booster, artifact.threads)
            example = call(np.zeros((1, booster.num_feature())))

        def prepare(inputs: Arrays) -> NDArray[np.floating]:
            return features.numbers(inputs, np.float64)

        recipe = Recipe(
            features=features,
            prepare=prepare,
            functions={"predict": call},
            outputs=(described("predict", example),),
            callers_errors=(lightgbm.basic.LightGBMError, ValueError, TypeError),
            platform="lightgbm",
            # Boosters take a shared lock for predictions, an exclusive one for training only.
            max_concurrency=parallel_calls(artifact.threads),
            size=lambda: size,
            notes=tuple(notes),
            conversion=partial(conversion_of, lightgbm, booster, call),
        )
        return TabularModel(artifact, recipe)


class _Silence:
    """LightGBM prints what it also raises; answers and logs carry it already."""

    def info(self, message: str) -> None: ...

    def warning(self, message: str) -> None: ...


def _read(lightgbm: ModuleType, artifact: Artifact) -> tuple[Any, int]:
    """A Booster (Any: as the framework's types go) and the bytes of its text."""
    data = artifact.path.read_bytes().replace(b"\r\n", b"\n")
    trouble = problem_of(data)
    if trouble is not None:
        raise unreadable(artifact, trouble, _WAY_OUT)
    try:
        booster = lightgbm.Booster(model_str=data.decode())
        return booster, len(data) * 2 // 3  # numbers take less than their digits
    except (lightgbm.basic.LightGBMError, ValueError, TypeError) as error:
        raise unreadable(artifact, one_line(error), _WAY_OUT) from error


def _features(artifact: Artifact, booster: Any) -> Features:
    width = booster.num_feature()
    names = tuple(booster.feature_name())
    matrix = TensorSpec(MATRIX_NAME, "FP64", (-1, width))
    if names == tuple(f"Column_{index}" for index in range(width)):  # trained on a matrix
        return Features(width, matrix)
    categories = _categories(artifact, booster, names)
    return Features(
        width, matrix, names=names, categories=categories,
        datatypes=tuple("BYTES" if are_text(categories.get(name)) else "FP64" for name in names),
    )


def _categories(artifact: Artifact, booster: Any, names: tuple[str, ...]
                ) -> dict[str, tuple[Category, ...]]:
    """By column. The file lists the values of each pandas column of categories, in the columns'
    order, and elsewhere which columns are categorical. Values unknown to it count as missing, as
    LightGBM does with data frames."""
    lists = booster.pandas_categorical or []
    columns = booster.params.get("categorical_feature") or []
    if not lists:
        return {}
    if not isinstance(columns, list) or len(columns) != len(lists):
        raise unreadable(
            artifact,
            f"it has {len(lists)} pandas columns of categories and does not say which",
            "train it with unordered pandas categories only, or with numbers",
        )
    return {
        names[index]: tuple(value if isinstance(value, str) else float(value) for value in values)
        for index, values in zip(sorted(columns), lists, strict=True)
    }
