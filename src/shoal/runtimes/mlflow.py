"""Loads MLflow models and calls them as MLflow does, by their "pyfunc". Loading them runs code.

What the framework inside can answer by itself never comes here: `storage` reads the folder's
`MLmodel` and hands its file to the runtime of that format. Names, datatypes and shapes come from
the model's signature; without one anything is passed on. Options: none.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shoal.domain.errors import (
    InvalidArtifact,
    InvalidInput,
    RuntimeMissing,
    ShoalError,
)
from shoal.domain.model import JsonValue
from shoal.domain.signature import Signature
from shoal.ports import Artifact, LoadedModel
from shoal.runtimes.binding import bind_inputs, bind_outputs, feed, shown_array, wanted
from shoal.runtimes.loading import (
    MAX_NOTES,
    bound_openmp,
    check_exists,
    import_framework,
    one_line,
    taking_notes,
    unreadable,
)
from shoal.runtimes.mlflow_code import OwnCode
from shoal.runtimes.mlflow_environment import REQUIREMENTS, differences
from shoal.runtimes.mlflow_signature import Schema, answers, data_of, read_schema

if TYPE_CHECKING:
    from types import ModuleType

    from shoal.ports import Arrays

FILE: Final = "MLmodel"
_FLAVOR: Final = "python_function"
_OWN_CLASSES: Final = ("mlflow.pyfunc.model", "mlflow.pyfunc.loaders")
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")
_WAY_OUT: Final = "copy it again, or save it with the packages installed here"


class MlflowRuntime:
    format = "mlflow"
    suffixes: tuple[str, ...] = ()
    options: tuple[str, ...] | None = ()

    def recognise(self, path: Path, head: bytes) -> bool:
        """A folder with a file `MLmodel`."""
        return path.is_dir() and (path / FILE).is_file()

    def runs_code(self, path: Path) -> bool:
        return True

    def load(self, artifact: Artifact) -> LoadedModel:
        """See `Runtime.load`."""
        _check_folder(artifact)
        bound_openmp(artifact.threads)
        with taking_notes(_phrase) as notes, _hearing(notes):
            mlflow = _import(artifact)
            import_framework("pandas", "mlflow", artifact)
            exceptions = import_framework("mlflow.exceptions", "mlflow", artifact)
            described = _described(artifact)
            folder = artifact.path / str(described["code"]) if described.get("code") else None
            code = OwnCode(folder, artifact.model)
            try:
                model = _open(mlflow, artifact, code)
                schema = read_schema(model.metadata.signature, artifact)
                made = _PyfuncModel(artifact, model, schema, code, exceptions.MlflowException)
            except BaseException:
                code.remove()
                raise
        if str(described.get("loader_module")).startswith(_OWN_CLASSES) or code:
            made.max_batch_rows = 1  # of code that was not written for rows of several requests
        made.notes = tuple([*differences(artifact.path), *notes][:MAX_NOTES])
        return made


class _PyfuncModel:
    max_batch_rows: int
    notes: tuple[str, ...] = ()

    def __init__(self, artifact: Artifact, model: Any, schema: Schema,
                 code: OwnCode, refusal: type[Exception]) -> None:
        own = [each.spec for each in schema.inputs]
        self._who = f"model {artifact.model!r}: its pyfunc"
        self._model = model
        if not schema.outputs:
            schema = replace(schema, outputs=artifact.outputs)
        self._schema = schema
        self._code = code
        self._refusal = refusal
        self._inputs = bind_inputs(artifact, own or artifact.inputs)
        self._outputs = bind_outputs(artifact, schema.outputs)
        self.platform = "mlflow_pyfunc"
        # A pyfunc is anybody's code, which was not written for threads and may do anything.
        self.may_wait = True
        self.max_concurrency = 1
        optional = {each.spec.name for each in schema.inputs if not each.required}
        self.signature = Signature(
            inputs=tuple(bound.shown for bound in self._inputs),
            outputs=tuple(bound.shown for bound in self._outputs),
            any_name=schema.any_name and not artifact.inputs,
            converts=True,
            table=schema.table,
            optional=tuple(b.shown.name for b in self._inputs if b.own in optional),
        )

    def predict(self, inputs: Arrays, parameters: Mapping[str, JsonValue],
                outputs: tuple[str, ...] = ()) -> Arrays:
        """See `LoadedModel.predict`. All outputs are answered, whichever are wanted."""
        model, schema = self._model, self._schema
        assert model is not None, "predict after close"
        asked = wanted(outputs, self._outputs) if self._outputs else ()
        given = [
            bound for bound in self._inputs
            if bound.shown.name in inputs or bound.shown.name not in self.signature.optional
        ]
        data = data_of(schema, feed(inputs, given) if given else inputs)
        known = {name: parameters[name] for name in schema.parameters if name in parameters}
        try:
            answer = model.predict(data, known or None)
        except self._refusal as error:
            if getattr(error, "error_code", "") != "INVALID_PARAMETER_VALUE":
                raise
            raise InvalidInput(f"{self._who} refuses the data: {_reason(error)}") from error
        found = answers(schema, answer, self._who)
        if not asked:
            return found
        return {bound.shown.name: shown_array(found[bound.own], bound) for bound in asked}

    def size_bytes(self) -> int | None:
        return None

    def close(self) -> None:
        """Lets go of the model and forgets the modules of its own code."""
        self._model = None
        self._code.remove()


# --- loading ------------------------------------------------------------------------------------


def _check_folder(artifact: Artifact) -> None:
    check_exists(artifact)
    path = artifact.path
    if not (path / FILE).is_file():
        raise InvalidArtifact(
            f"model {artifact.model!r}: {path.name} has no file {FILE}; the format mlflow is the "
            "folder that mlflow.….save_model wrote"
        )


def _described(artifact: Artifact) -> Mapping[str, Any]:
    """The fields of the pyfunc. Raises InvalidArtifact."""
    models = import_framework("mlflow.models", "mlflow", artifact)
    try:
        flavors = models.Model.load(str(artifact.path / FILE)).flavors
    except Exception as error:  # MLflow checks nothing, so anything is raised; told as the reason
        raise unreadable(artifact, f"{FILE}: {one_line(error)}", _WAY_OUT) from error
    found = flavors.get(_FLAVOR) if isinstance(flavors, dict) else None
    if not isinstance(found, dict):
        names = ", ".join(flavors) if isinstance(flavors, dict) else "none"
        raise unreadable(
            artifact, f"it has no pyfunc ({FILE} has the flavors {names})",
            "save it with a flavor that can be called from Python",
        )
    return found


def _open(mlflow: ModuleType, artifact: Artifact, code: OwnCode) -> Any:
    """A PyFuncModel; Any: MLflow's are not to be known without it."""
    try:
        with code.importing():
            return mlflow.load_model(str(artifact.path), suppress_warnings=True)
    except ShoalError:
        raise
    except ModuleNotFoundError as error:
        if error.name and code.holds(error.name):
            raise unreadable(artifact, one_line(error), _WAY_OUT) from error
        raise RuntimeMissing(
            f"model {artifact.model!r}: {artifact.path.name} imports {error.name!r}, which is not "
            f"installed; install what its {REQUIREMENTS} lists"
        ) from error
    except Exception as error:  # a pyfunc runs any code, which raises anything; told as the reason
        reason = f"{type(error).__name__}: {one_line(error)}"
        told = differences(artifact.path)
        raise unreadable(artifact, "; ".join([reason.rstrip("."), *told]), _WAY_OUT) from error


def _reason(error: BaseException) -> str:
    """MLflow's reason stands behind the whole of the data."""
    return one_line(str(error).rpartition(" Error: ")[2] or str(error))


def _phrase(warning: Warning) -> str:
    """Without colours; nothing where it advises whoever writes models."""
    text = _COLOURS.sub("", one_line(warning))
    return "" if "type hints" in text else text


# --- keeping it quiet ---------------------------------------------------------------------------


def _import(artifact: Artifact) -> ModuleType:
    """MLflow, reporting nothing to its makers, with its messages to us instead of the console."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = import_framework("mlflow.pyfunc", "mlflow", artifact)
    logger = logging.getLogger("mlflow")
    logger.handlers[:] = [_listener]
    logger.propagate = False
    return mlflow


class _Listener(logging.Handler):
    """Takes what MLflow logs on a thread that is loading a model; the rest is nobody's concern."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        notes: list[str] | None = getattr(self.heard, "notes", None)
        if notes is not None and len(notes) < MAX_NOTES:
            notes.append(one_line(record.getMessage()))


_listener: Final = _Listener()


@contextmanager
def _hearing(notes: list[str]) -> Iterator[None]:
    _listener.heard.notes = notes
    try:
        yield
    finally:
        _listener.heard.notes = None
