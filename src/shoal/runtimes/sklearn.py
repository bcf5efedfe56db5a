"""Loads scikit-learn estimators, and whatever else with `predict` or `transform` was pickled.

joblib and pickle files run code when they load; skops files make only known types. An estimator
answers `predict`, and on demand `predict_proba`, `decision_function` and `transform` where it has
them. One without `predict` answers `transform`. Options: none.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

import numpy as np

from shoal.domain.errors import InvalidArtifact, NotTrusted, RuntimeMissing, ShoalError
from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact, LoadedModel
from shoal.runtimes.arrays import datatype_of
from shoal.runtimes.features import MATRIX_NAME, Features, declared, single_column
from shoal.runtimes.loading import (
    bound_openmp,
    check_file,
    import_framework,
    one_line,
    taking_notes,
    unreadable,
)
from shoal.runtimes.sklearn_columns import (
    Estimator,
    names_of,
    takes_text,
    values_by_column,
    width_of,
)
from shoal.runtimes.sklearn_onnx import conversion_of
from shoal.runtimes.tabular import Recipe, TabularModel, described

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from shoal.ports import Arrays

_FUNCTIONS: Final = ("predict", "predict_proba", "decision_function", "transform")
_MAX_VISITED: Final = 10_000
_blas_bound = False


class SklearnRuntime:
    format = "sklearn"
    suffixes = (".joblib", ".pkl", ".pickle", ".skops")
    options: tuple[str, ...] | None = ()

    def recognise(self, path: Path, head: bytes) -> bool:
        return path.suffix.lower() in self.suffixes and not path.is_dir()

    def runs_code(self, path: Path) -> bool:
        return path.suffix.lower() != ".skops"

    def load(self, artifact: Artifact) -> LoadedModel:
        """See `Runtime.load`."""
        check_file(artifact, self.suffixes)
        bound_openmp(artifact.threads)
        with taking_notes(_phrase) as notes:
            import_framework("sklearn.base", "sklearn", artifact)
            _bound_blas(artifact)
            estimator = _read(artifact)
            functions = _functions(artifact, estimator)
            _bound_jobs(estimator, artifact.threads)
            features, prepare, example = _inputs(artifact, estimator)
        first, *others = functions
        with taking_notes():  # what it thinks of zeros is nobody's concern
            outputs = [
                _tried(first, functions[first], estimator, example),
                *(_guessed(name, estimator) for name in others),
            ]
        recipe = Recipe(
            features=features,
            prepare=prepare,
            functions=functions,
            outputs=outputs,
            callers_errors=(ValueError, TypeError),
            platform="sklearn",
            # scikit-learn promises nothing about threads, and mostly holds the interpreter's lock
            # anyway: a second call at once would gain little. `max_concurrency` may raise it.
            max_concurrency=1,
            size=lambda: _pickled_bytes(estimator),
            notes=tuple(notes),
            conversion=None if features.names else partial(conversion_of, estimator),
        )
        return TabularModel(artifact, recipe)


# --- reading ------------------------------------------------------------------------------------


def _read(artifact: Artifact) -> Estimator:
    if artifact.path.suffix.lower() == ".skops":
        return _read_skops(artifact)
    joblib = import_framework("joblib", "sklearn", artifact)
    try:
        return joblib.load(artifact.path)
    except ModuleNotFoundError as error:
        raise _module_missing(artifact, error) from error
    except Exception as error:  # a pickle runs any code, which raises anything; told as the reason
        way_out = "copy it again, or save it with the scikit-learn installed here"
        if isinstance(error, AttributeError) and "__main__" in str(error):
            way_out = "move that class from the script or notebook into a module installed here"
        raise unreadable(artifact, _reason(error), way_out) from error


def _read_skops(artifact: Artifact) -> Estimator:
    skops = import_framework("skops.io", "sklearn", artifact)
    try:
        unknown = skops.get_untrusted_types(file=artifact.path)
        refused = [name for name in unknown if name not in artifact.trusted_types]
        if refused:
            raise NotTrusted(
                f"model {artifact.model!r}: {artifact.path.name} would make objects of types that "
                f"skops does not know as harmless: {', '.join(refused)}; if you trust them, add "
                "them to the setting trust.skops_types"
            )
        return skops.load(artifact.path, trusted=unknown)
    except ShoalError:
        raise
    except ModuleNotFoundError as error:
        raise _module_missing(artifact, error) from error
    except Exception as error:  # skops raises whatever its nodes do; told as the reason
        reason = "it is cut off or damaged" if isinstance(error, zipfile.BadZipFile) else (
            _reason(error)
        )
        raise unreadable(
            artifact, reason, "copy it again, or save it anew: skops.io.dump(estimator, 'x.skops')"
        ) from error


def _module_missing(artifact: Artifact, error: ModuleNotFoundError) -> ShoalError:
    name = (error.name or "").partition(".")[0]
    if name == "sklearn":
        return unreadable(
            artifact, f"it was saved by another scikit-learn ({one_line(error)})",
            "save it with the scikit-learn installed here, or install the one that saved it",
        )
    return RuntimeMissing(
        f"model {artifact.model!r}: {artifact.path.name} needs the Python module {name!r}, which "
        "is not installed; install the package that it belongs to"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "it is cut off"
    kind = "" if isinstance(error, pickle.UnpicklingError) else f"{type(error).__name__}: "
    return kind + one_line(error)


def _phrase(warning: Warning) -> str:
    """scikit-learn's warning of another version has a paragraph; this is its substance."""
    saved = getattr(warning, "original_sklearn_version", None)
    if saved is None:
        return one_line(warning)
    current = getattr(warning, "current_sklearn_version", "another")
    return (
        f"saved by scikit-learn {saved}, loaded by {current}: answers may differ; save it anew "
        "when you can"
    )


def _functions(artifact: Artifact, estimator: Estimator
               ) -> dict[str, Callable[[object], ArrayLike]]:
    found = {
        name: getattr(estimator, name) for name in _FUNCTIONS
        if callable(getattr(estimator, name, None))
    }
    classes = getattr(estimator, "classes_", None)
    if isinstance(classes, list):  # one answer a target, of different widths: no single tensor
        found.pop("predict_proba", None)
    if not found or isinstance(estimator, type):
        raise InvalidArtifact(
            f"model {artifact.model!r}: {artifact.path.name} holds a {type(estimator).__name__}, "
            "which has neither predict nor transform; save the fitted estimator or pipeline"
        )
    if hasattr(estimator, "fit"):
        validation = import_framework("sklearn.utils.validation", "sklearn", artifact)
        exceptions = import_framework("sklearn.exceptions", "sklearn", artifact)
        try:
            validation.check_is_fitted(estimator)
        except exceptions.NotFittedError as error:
            raise InvalidArtifact(
                f"model {artifact.model!r}: {artifact.path.name} holds a "
                f"{type(estimator).__name__} that is not fitted; fit it before saving it"
            ) from error
        except TypeError:  # not scikit-learn's kind of estimator, so it cannot be asked
            return found
    return found


# --- inputs and outputs -------------------------------------------------------------------------


def _inputs(artifact: Artifact, estimator: Estimator
            ) -> tuple[Features, Callable[[Arrays], object], object]:
    """What it takes; a request's arrays as it wants them; and an example of that, or None."""
    names = names_of(estimator)
    width = width_of(estimator)
    if not names and width is None and takes_text(estimator):
        text = Features(1, TensorSpec(MATRIX_NAME, "BYTES", (-1,)))
        return declared(text, artifact), single_column, ["text"]
    values = values_by_column(estimator, names)
    matrix = TensorSpec(MATRIX_NAME, "FP64", (-1, -1 if width is None else width))
    features = declared(
        Features(
            width, matrix, names=names,
            datatypes=tuple("BYTES" if name in values else "FP64" for name in names),
        ),
        artifact,
    )
    if not names:
        example = None if width is None else np.zeros((1, width))
        return features, lambda inputs: _matrix(features, inputs), example
    pandas = import_framework("pandas", "pandas", artifact)

    def frame(inputs: Arrays) -> object:
        columns = features.columns(inputs) if features.table else None
        if columns is not None:
            return pandas.DataFrame(columns)
        rows = pandas.DataFrame(features.matrix_of(inputs), columns=list(names))
        numeric = [name for name in names if name not in values]
        if rows.dtypes.iloc[0] == np.object_ and numeric:
            rows[numeric] = rows[numeric].astype(np.float64)
        return rows

    row = {name: [values[name][0] if name in values else 0.0] for name in names}
    return features, frame, pandas.DataFrame(row)


def _matrix(features: Features, inputs: Arrays) -> object:
    """Columns declared for a model of a matrix are put side by side."""
    if features.table:
        return features.numbers(inputs, np.float64)
    return features.matrix_of(inputs)


def _tried(name: str, call: Callable[[object], ArrayLike], estimator: Estimator, example: object
           ) -> TensorSpec:
    """The output that answers by default, from one row of zeros: only so are its datatype and
    shape certain."""
    if example is None:
        return _guessed(name, estimator)
    try:
        with np.errstate(all="ignore"):
            return described(name, call(example))
    except Exception:  # noqa: BLE001 - zeros may lie outside its domain; then a guess must do
        return _guessed(name, estimator)


def _guessed(name: str, estimator: Estimator) -> TensorSpec:
    classes = getattr(estimator, "classes_", None)
    count = len(classes) if isinstance(classes, np.ndarray) else None
    if name == "predict":
        dtype = classes.dtype if isinstance(classes, np.ndarray) else np.dtype(np.float64)
        return TensorSpec(name, datatype_of(dtype), (-1,))
    if name == "decision_function":
        return TensorSpec(name, "FP64", (-1,) if count in (None, 2) else (-1, -1))
    return TensorSpec(name, "FP64", (-1, count if name == "predict_proba" and count else -1))


# --- threads and size ---------------------------------------------------------------------------


def _bound_blas(artifact: Artifact) -> None:
    """numpy's BLAS has been loaded long ago, so its pool is set, once for the process."""
    global _blas_bound
    if not _blas_bound:
        pools: ModuleType = import_framework("threadpoolctl", "sklearn", artifact)
        pools.threadpool_limits(limits=artifact.threads, user_api="blas")
        _blas_bound = True


def _bound_jobs(estimator: Estimator, threads: int) -> None:
    """Estimators that were fitted with many jobs would also predict with them."""
    waiting = [estimator]
    for _ in range(_MAX_VISITED):
        if not waiting:
            return
        item = waiting.pop()
        if isinstance(item, list | tuple):
            waiting.extend(item)
        elif isinstance(item, dict):
            waiting.extend(item.values())
        elif hasattr(item, "get_params") and not isinstance(item, type):
            if getattr(item, "n_jobs", None) is not None:
                item.n_jobs = threads
            waiting.extend(vars(item).values())


class _Counter:
    """A file that only counts."""

    def __init__(self) -> None:
        self.written = 0

    def write(self, data: bytes) -> int:
        self.written += len(data)
        return len(data)


def _pickled_bytes(estimator: Estimator) -> int | None:
    """What the estimator takes pickled, its arrays counted instead of copied; None when it cannot
    be pickled."""
    counter = _Counter()
    arrays = 0

    def count(buffer: pickle.PickleBuffer) -> bool:
        nonlocal arrays
        arrays += buffer.raw().nbytes
        return False

    try:
        pickle.Pickler(counter, protocol=5, buffer_callback=count).dump(estimator)
    except Exception:  # noqa: BLE001 - runs the objects' own code; not knowing a size is allowed
        return None
    return counter.written + arrays
