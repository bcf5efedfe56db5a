"""Loads PMML with JPMML, in a Java machine inside the process. Loading it runs no code.

Fields are columns by name, results are the targets and the declared outputs. Options: none.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shoal.codecs.tensors import DTYPES, object_array
from shoal.domain.errors import InvalidInput, RuntimeMissing
from shoal.domain.model import JsonValue
from shoal.domain.signature import Signature, TensorSpec
from shoal.ports import Artifact, LoadedModel
from shoal.runtimes.binding import Bound, bind_outputs, shown_array, wanted
from shoal.runtimes.features import MATRIX_NAME, Features, declared
from shoal.runtimes.loading import (
    check_file,
    import_framework,
    one_line,
    parallel_calls,
    taking_notes,
    unreadable,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shoal.ports import Arrays

# Types of PMML's fields; those of dates and times are text.
_DATATYPES: Final = {
    "double": "FP64", "float": "FP32", "integer": "INT64", "boolean": "BOOL", "string": "BYTES",
}
_JVM_OPTIONS: Final = (
    "-Xrs",  # leaves the signals that end a server to the server
    # Collects when idle, too, and gives back what is free. Asking for it when a model leaves would
    # hold a thread in Java while the process ends, which aborts it.
    "-XX:+IgnoreUnrecognizedVMOptions",  # before Java 12 it collects later
    "-XX:+UseG1GC", "-XX:G1PeriodicGCInterval=5000",
    # Small at first, and rather collected again than larger: else it takes hundreds of MiB, most
    # of them garbage, before it collects at all.
    "-Xms8m", "-XX:GCTimeRatio=2",
    "-XX:ParallelGCThreads=1", "-XX:ConcGCThreads=1",
    "-XX:MinHeapFreeRatio=10", "-XX:MaxHeapFreeRatio=20",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
)
_PACKAGES: Final = ("org", "java")
_UNNAMED_TARGET: Final = "predict"
_WAY_OUT: Final = "copy it again, or export it anew"
# `[org.xml.sax.SAXParseException; lineNumber: 21; columnNumber: 2; …]`
_PARSED: Final = re.compile(r"SAXParseException; lineNumber: (\d+); columnNumber: \d+; (.*?)\]?$",
                            re.MULTILINE)
_CLASS: Final = re.compile(r"^(?:[a-z][\w]*\.)+[A-Z][\w$]*: ")
_MODELS_FAULT: Final = "org.jpmml.model."  # markup that JPMML does not know, or misses

_starting = threading.Lock()


class PmmlRuntime:
    format = "pmml"
    suffixes = (".pmml", ".xml")
    options: tuple[str, ...] | None = ()
    isolated = True  # a Java machine has its own mind about signals, memory and the end

    def recognise(self, path: Path, head: bytes) -> bool:
        """XML is also others': PMML's root has its name."""
        suffix = path.suffix.lower()
        if path.is_dir():
            return False
        return suffix == ".pmml" or (suffix == ".xml" and b"<PMML" in head)

    def runs_code(self, path: Path) -> bool:
        return False

    def load(self, artifact: Artifact) -> LoadedModel:
        """See `Runtime.load`. RuntimeMissing also where there is no Java."""
        check_file(artifact, self.suffixes)
        with taking_notes() as notes:
            jpmml = import_framework("jpmml_evaluator", "pmml", artifact)
            jpype = import_framework("jpype", "pmml", artifact)
            model = _PmmlModel(artifact, jpmml, _open(jpmml, jpype, artifact))
        model.notes = tuple(notes)
        return model


class _PmmlModel:
    notes: tuple[str, ...] = ()

    def __init__(self, artifact: Artifact, jpmml: ModuleType, evaluator: Any) -> None:
        self._model = artifact.model
        self._evaluate = jpmml.PythonEvaluatorUtil.evaluateAll
        self._evaluator: Any = evaluator
        self._threads = artifact.threads
        fields = evaluator.getInputFields()
        self._names = tuple(field.name for field in fields)
        self._features = declared(_features(fields), artifact)
        results = _results(evaluator)
        self._own = {spec.name: (name, spec.datatype) for name, spec in results.items()}
        self._outputs = bind_outputs(artifact, tuple(results.values()))
        self._size = artifact.path.stat().st_size
        self.platform = "jpmml"
        self.may_wait = False
        # Evaluators are documented as safe for several threads.
        self.max_concurrency = parallel_calls(artifact.threads)
        self.signature = Signature(
            inputs=self._features.specs(),
            outputs=tuple(bound.shown for bound in self._outputs),
            any_name=not self._features.table and not artifact.inputs,
            converts=True,
            table=self._features.table,
        )

    def predict(self, inputs: Arrays, parameters: Mapping[str, JsonValue],
                outputs: tuple[str, ...] = ()) -> Arrays:
        """See `LoadedModel.predict`."""
        asked = wanted(outputs, self._outputs)
        columns = self._features.columns(inputs) if self._features.table else None
        if columns is None:
            matrix = self._features.matrix_of(inputs)
            columns = dict(zip(self._names, matrix.T, strict=True))
        answer = self._run({name: _given(column) for name, column in columns.items()})
        return {bound.shown.name: self._array(answer, bound) for bound in asked}

    def size_bytes(self) -> int | None:
        return self._size

    def close(self) -> None:
        """Java collects what it held, within some seconds."""
        self._evaluator = None

    def _run(self, columns: Mapping[str, list[object]]) -> dict[object, list[object]]:
        """Results by their names in the file. Raises InvalidInput naming the first row that the
        model refuses."""
        evaluator = self._evaluator
        assert evaluator is not None, "predict after close"
        table = {"columns": list(columns), "data": list(columns.values())}
        answer = self._evaluate(
            evaluator.backend, evaluator.javaEvaluator, table, None, self._threads
        )
        for row, error in enumerate(answer["errors"] or ()):
            if error is not None:
                reason = _say(error)
                if error.startswith(_MODELS_FAULT):
                    raise RuntimeError(reason)
                raise InvalidInput(f"model {self._model!r} refuses row {row}: {reason}")
        return dict(zip(answer["columns"], answer["data"], strict=True))

    def _array(self, answer: Mapping[object, list[object]], bound: Bound) -> NDArray[np.generic]:
        name, datatype = self._own[bound.own]
        values = answer.get(name, [])
        if datatype == "BYTES":
            texts = [b"" if value is None else str(value).encode() for value in values]
            return shown_array(object_array(texts, (len(texts),)), bound)
        if DTYPES[datatype].kind != "f" and None in values:
            raise InvalidInput(
                f"model {self._model!r} has no {bound.shown.name!r} for row {values.index(None)}"
            )
        numbers = [np.nan if value is None else value for value in values]
        return shown_array(np.array(numbers, DTYPES[datatype]), bound)


def _open(jpmml: ModuleType, jpype: ModuleType, artifact: Artifact) -> Any:
    """An Evaluator; Any: as the library's types go."""
    backend = _java(jpmml, jpype, artifact)
    builder = jpmml.LoadingModelEvaluatorBuilder(backend)
    try:
        # Which refuses DOCTYPE, and so entities of other files.
        evaluator = builder.loadBytes(artifact.path.read_bytes()).build()
        return evaluator.verify()  # with the rows that it brings for this, if any
    except (jpype.JException, jpmml.JavaError) as error:
        raise unreadable(artifact, _say(error), _WAY_OUT) from error


def _java(jpmml: ModuleType, jpype: ModuleType, artifact: Artifact) -> Any:
    """JPMML's backend, with the process's only Java machine. Raises RuntimeMissing."""
    with _starting:
        try:
            if not jpype.isJVMStarted():
                jpype.startJVM(*_JVM_OPTIONS, classpath=jpmml._classpath([]), interrupt=False)
                _tame(jpype)
            _part_collectors(jpype)
            backend = jpmml.make_backend("jpype")
            _bound_imports()
            return backend
        except Exception as error:  # Java's errors at the start share no base; told as the reason
            raise RuntimeMissing(
                f"model {artifact.model!r}: {artifact.path.name} needs Java 11 or newer, which "
                f"cannot be started ({one_line(error)}); install it (apt-get install "
                "default-jre-headless), or set JAVA_HOME to where it is"
            ) from error


class _JavaOnly(MetaPathFinder):
    """JPype's way to import Java packages, for those that JPMML asks for so."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def find_spec(self, fullname: str, path: Sequence[str] | None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in _PACKAGES:
            return None
        found: ModuleSpec | None = self._finder.find_spec(fullname, path, target)
        return found


def _bound_imports() -> None:
    """JPMML's library has packages called as those of Python: with JPype's own finder `import dill`
    succeeds where it is not installed, and frameworks that try it fail."""
    for at, finder in enumerate(sys.meta_path):
        if type(finder).__module__ == "jpype.imports":
            sys.meta_path[at] = _JavaOnly(finder)


def _tame(jpype: ModuleType) -> None:
    """It says nothing, since JPMML's parser prints what it also raises; and holds up no exit:
    that waits for the thread that started it, were it not detached."""
    system = jpype.JClass("java.lang.System")
    nowhere = jpype.JClass("java.io.OutputStream").nullOutputStream()
    stream = jpype.JClass("java.io.PrintStream")(nowhere)
    system.setOut(stream)
    system.setErr(stream)
    jpype.JClass("java.lang.Thread").detach()  # later calls attach threads as daemons


def _part_collectors(jpype: ModuleType) -> None:
    """JPype has every collection of Java's, several a second under load, followed by a full one of
    Python's, which looks through all frameworks and models while nobody else runs. That is for
    cycles that go through both, and here are none. It learns of Java's from a reference that ends
    with each; one that has been cleared tells nothing. At every load, since a collection just then
    may have put another in its place."""
    with suppress(TypeError, jpype.JException):  # a JPype that does it otherwise: then it is slower
        queue = jpype.JClass("org.jpype.ref.JPypeReferenceQueue")
        sentinel = queue.class_.getDeclaredField("sentinel")
        sentinel.setAccessible(True)
        sentinel.get(queue.getInstance()).clear()


def _features(fields: Sequence[Any]) -> Features:
    names = tuple(field.name for field in fields)
    datatypes = tuple(_DATATYPES.get(field.dataType, "BYTES") for field in fields)
    kinds = set(datatypes)
    datatype = "BYTES" if "BYTES" in kinds else "FP64"
    matrix = TensorSpec(MATRIX_NAME, datatype, (-1, len(names)))
    return Features(len(names), matrix, names=names, datatypes=datatypes)


def _results(evaluator: Any) -> dict[object, TensorSpec]:
    """Descriptions by the names in JPMML's answers: targets first. A model without a target, such
    as a clustering, answers under no name."""
    found: dict[object, TensorSpec] = {}
    for field in (*evaluator.getTargetFields(), *evaluator.getOutputFields()):
        own = field.javaModelField.getName()
        name = _UNNAMED_TARGET if own is None else str(own)
        datatype = _DATATYPES.get(field.dataType, "BYTES")
        found[None if own is None else name] = TensorSpec(name, datatype, (-1,))
    return found


def _given(column: NDArray[np.generic]) -> list[object]:
    """NaN and the empty text count as missing."""
    values: list[object] = column.tolist()
    return [None if value != value or value == "" else value for value in values]


def _say(error: BaseException | str) -> str:
    text = str(error)
    parsed = _PARSED.search(text)
    if parsed is not None:
        return f"line {parsed[1]}: {one_line(parsed[2])}"
    reason = one_line(text)
    while _CLASS.match(reason):
        reason = _CLASS.sub("", reason)
    return reason
