"""Says how scikit-learn's own estimators are converted to ONNX, and on which rows to compare them.

skl2onnx writes the graphs. Estimators of other packages, text and data frames are not converted.
Looks at attributes that scikit-learn documents as the result of fitting.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np

from shoal.runtimes.conversion import Conversion, NotConverted
from shoal.runtimes.converters import as_bytes, check_width, import_converter
from shoal.runtimes.samples import plain_rows, rows_at
from shoal.runtimes.sklearn_columns import Estimator, width_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.floating]

_MAX_TREES: Final = 1_000  # whose thresholds are looked at
# Of an estimator: rows that it was fitted on, or what such rows look like.
_EXAMPLES: Final = (
    "support_vectors_", "cluster_centers_", "_fit_X", "theta_", "means_", "mean_", "center_",
    "data_min_", "data_max_",
)
# Scores as a matrix and as they are. Each kind of estimator knows other options, and skl2onnx
# refuses the rest.
_RAW_SCORES: Final[tuple[dict[str, bool], ...]] = (
    {"zipmap": False, "raw_scores": True}, {"raw_scores": True},
)
_INSIDE: Final = ("estimators_", "estimator_", "best_estimator_", "init_")


def conversion_of(estimator: Estimator) -> Conversion:
    """Raises NotConverted."""
    base = import_converter("sklearn.base")
    _check_known(estimator)
    width = width_of(estimator)
    if width is None:
        raise NotConverted("it takes an unknown number of features")
    check_width(width)
    # A copy is compared and converted, since the original answers requests meanwhile, and
    # estimators promise nothing about threads.
    own = copy.deepcopy(estimator)
    rows = partial(_rows, own, width)
    if base.is_regressor(own):
        return Conversion(partial(_candidates, own, width), rows, {"predict": own.predict})
    classes = getattr(own, "classes_", None)
    if not base.is_classifier(own) or not isinstance(classes, np.ndarray):
        raise NotConverted("it is neither a classifier of one target nor a regressor")
    score = "predict_proba" if hasattr(own, "predict_proba") else "decision_function"
    if not hasattr(own, score):
        raise NotConverted("it has labels only, so close calls cannot be told")
    return Conversion(
        partial(_candidates, own, width), rows,
        {"predict": own.predict, score: getattr(own, score)}, score, classes,
    )


def _check_known(estimator: Estimator) -> None:
    """Others bring their own code, which a converter does not know."""
    parts = [estimator, *(step for _, step in getattr(estimator, "steps", ()))]
    for part in parts:
        if not isinstance(part, str) and type(part).__module__.partition(".")[0] != "sklearn":
            raise NotConverted(f"a {type(part).__name__} is not scikit-learn's own")


def _candidates(estimator: Estimator, width: int) -> Iterator[bytes]:
    """In float64, where skl2onnx can; in float32, as scikit-learn's trees compute themselves."""
    to_onnx = import_converter("skl2onnx").to_onnx
    types = import_converter("skl2onnx.common.data_types")
    raw = () if hasattr(estimator, "predict_proba") else _RAW_SCORES
    problem: Exception | None = None
    found = False
    for kind in (types.DoubleTensorType, types.FloatTensorType):
        for options in (*raw, {"zipmap": False}, {}):
            try:
                model = to_onnx(
                    estimator, initial_types=[("rows", kind([None, width]))],
                    options={id(estimator): options},
                )
            except Exception as error:  # noqa: BLE001 - anything; raised again if all fail
                problem = error
                continue
            found = True
            yield as_bytes(model)
            break
    if not found and problem is not None:
        raise problem


# --- rows to compare on -------------------------------------------------------------------------


def _rows(estimator: Estimator, width: int) -> Matrix:
    """Raises NotConverted when there are trees of which the thresholds cannot be met."""
    steps = [step for _, step in getattr(estimator, "steps", ())] or [estimator]
    examples = [
        np.asarray(getattr(step, name))[:1000]
        for step in steps for name in _EXAMPLES if getattr(step, name, None) is not None
    ]
    rows = plain_rows(width, [each for each in examples if each.dtype.kind in "fiu"])
    thresholds = _thresholds(steps[-1])
    if not thresholds:
        return rows
    at = rows_at(width_of(steps[-1]) or width, thresholds)
    for step in reversed(steps[:-1]):
        if step in (None, "passthrough"):
            continue
        if not hasattr(step, "inverse_transform"):
            raise NotConverted(
                f"the thresholds of its trees cannot be met through a {type(step).__name__}"
            )
        at = step.inverse_transform(at)
    return np.concatenate([at, rows])


def _thresholds(estimator: Estimator) -> dict[int, Matrix]:
    """Of the trees inside, by feature."""
    found: dict[int, list[Matrix]] = {}
    for tree in islice(_trees(estimator), _MAX_TREES):
        inner = tree.children_left != -1
        for feature in np.unique(tree.feature[inner]).tolist():
            found.setdefault(feature, []).append(
                tree.threshold[inner & (tree.feature == feature)])
    return {feature: np.concatenate(values) for feature, values in found.items()}


def _trees(estimator: Estimator) -> Iterator[Estimator]:
    waiting = [estimator]
    while waiting:
        item = waiting.pop()
        if isinstance(item, np.ndarray):
            waiting.extend(item.ravel().tolist() if item.dtype == np.object_ else ())
        elif isinstance(item, list | tuple):
            waiting.extend(item)
        elif hasattr(item, "tree_") and hasattr(item.tree_, "threshold"):
            yield item.tree_
        elif hasattr(item, "get_params") and not isinstance(item, type):
            waiting.extend(getattr(item, name) for name in _INSIDE if hasattr(item, name))
