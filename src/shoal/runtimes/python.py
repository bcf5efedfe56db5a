"""Runs models written as a Python class: a `model.py` with a class `Model`.

    class Model:
        inputs = [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
        outputs = [{"name": "words", "datatype": "INT64", "shape": [-1]}]

        def load(self, folder):
            self.stop = set((folder / "stop.txt").read_text().split())

        def predict(self, inputs, parameters):
            texts = [text.decode() for text in inputs["text"]]
            return {"words": [len(set(text.split()) - self.stop) for text in texts]}

`load` may take a third argument: the options of the model's declaration, a dict; where the model
is to run on an accelerator, `device` in it says which (`cuda:0`). What it takes there is measured
where PyTorch holds it; else a method `accelerator_bytes` says it, in bytes. `inputs` and
`outputs` (dicts or TensorSpecs), `load`, `close`, `max_concurrency` (calls at once; 1) and
`max_batch_rows` (rows of several requests in one call, when each is answered by itself; 1) are
optional. Without `inputs` anything a client sends is passed on. BYTES come as object arrays
of bytes. Answers may be arrays or lists. To refuse a caller's data raise
`shoal.domain.errors.InvalidInput`. Loading runs the code. Options: `class`, as `module:Name`, for
another class of the folder.

What a pickle in the folder holds must not be of classes from the folder's own files: pickles look
for them among what is installed. See `local_imports`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final, Protocol, cast

import msgspec

from shoal.codecs.tensors import DTYPES
from shoal.domain.errors import (
    ArtifactMissing,
    InvalidArtifact,
    InvalidSpecification,
    ModelFailed,
    ShoalError,
)
from shoal.domain.model import JsonValue
from shoal.domain.signature import DATATYPES, Signature, TensorSpec
from shoal.ports import Artifact, LoadedModel
from shoal.runtimes.arrays import to_protocol
from shoal.runtimes.binding import bind_inputs, bind_outputs, feed, shown_array
from shoal.runtimes.cuda import KIND as CUDA
from shoal.runtimes.loading import one_line, taking_notes
from shoal.runtimes.local_code import failed, import_local
from shoal.runtimes.local_imports import LocalPackage
from shoal.runtimes.network_folder import FILE, is_network_folder
from shoal.runtimes.torch_device import allocated_bytes

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from shoal.ports import Arrays

_CLASS_OPTION: Final = "class"  # the one option that is ours, not the model's
_DEVICE_OPTION: Final = "device"
_CLASS: Final = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")


class _Served(Protocol):
    """What people write."""

    def predict(self, inputs: Arrays, parameters: Mapping[str, JsonValue], /
                ) -> Mapping[str, ArrayLike]: ...


class PythonRuntime:
    format = "python"
    suffixes = (".py",)
    options: tuple[str, ...] | None = None  # any: they are handed to the class
    accelerators = (CUDA,)

    def recognise(self, path: Path, head: bytes) -> bool:
        """A file `model.py`, or a folder that holds one, unless MLflow wrote it or it is that of a
        network with its weights."""
        if path.is_dir():
            return (
                (path / FILE).is_file() and not (path / "MLmodel").exists()
                and not is_network_folder(path)
            )
        return path.name == FILE

    def runs_code(self, path: Path) -> bool:
        return True

    def load(self, artifact: Artifact) -> LoadedModel:
        """See `Runtime.load`."""
        folder, module_name, class_name = _place(artifact)
        package = LocalPackage(folder, artifact.model)
        before = _allocated(artifact)
        try:
            with taking_notes() as notes:
                module = import_local(artifact, package, module_name)
                instance = _make(artifact, package, module, class_name)
            model = _PythonModel(artifact, package, instance, notes)
            model.there = _told(artifact, instance, _allocated(artifact) - before)
            return model
        except BaseException:
            package.remove()
            raise


class _PythonModel:
    there = 0

    def __init__(self, artifact: Artifact, package: LocalPackage, instance: _Served,
                 notes: Sequence[str]) -> None:
        self._who = f"model {artifact.model!r}: {type(instance).__name__}.predict"
        self._package = package
        self._instance: _Served | None = instance
        self._inputs = bind_inputs(artifact, _specs(instance, "inputs", artifact)
                                   or artifact.inputs)
        self._outputs = bind_outputs(artifact, _specs(instance, "outputs", artifact)
                                     or artifact.outputs)
        self.platform = "python"
        # Code that was not written for threads is called by one at a time.
        self.may_wait = True  # a class may do anything
        self.max_concurrency = _number(instance, "max_concurrency", artifact)
        # Nor may rows of several requests meet in code that does not expect it.
        self.max_batch_rows = _number(instance, "max_batch_rows", artifact)
        self.notes = tuple(notes)
        self.signature = Signature(
            inputs=tuple(bound.shown for bound in self._inputs),
            outputs=tuple(bound.shown for bound in self._outputs),
        )

    def predict(self, inputs: Arrays, parameters: Mapping[str, JsonValue],
                outputs: tuple[str, ...] = ()) -> Arrays:
        """See `LoadedModel.predict`. All outputs are answered, whichever are wanted."""
        instance = self._instance
        assert instance is not None, "predict after close"
        answer = instance.predict(feed(inputs, self._inputs) if self._inputs else inputs,
                                  parameters)
        if not isinstance(answer, Mapping):
            raise ModelFailed(
                f"{self._who} returned a {type(answer).__name__}; it must return a dict of arrays "
                "by output name"
            )
        if not self._outputs:
            return {name: to_protocol(array) for name, array in answer.items()}
        missing = [bound.own for bound in self._outputs if bound.own not in answer]
        if missing:
            raise ModelFailed(
                f"{self._who} returned {', '.join(map(str, answer)) or 'nothing'}, but not "
                f"{', '.join(missing)}, which it declares"
            )
        return {
            bound.shown.name: shown_array(
                to_protocol(answer[bound.own]).astype(DTYPES[bound.shown.datatype], copy=False),
                bound,
            )
            for bound in self._outputs
        }

    def size_bytes(self) -> int | None:
        return None

    def accelerator_bytes(self) -> int:
        return self.there

    def close(self) -> None:
        """Calls the class's `close`, if it has one, and forgets its modules."""
        closing = getattr(self._instance, "close", None)
        self._instance = None
        try:
            if callable(closing):
                closing()
        finally:
            self._package.remove()


def _place(artifact: Artifact) -> tuple[Path, str, str]:
    """Folder of the files, module and class. Raises InvalidSpecification, ArtifactMissing."""
    path = artifact.path
    folder = path if path.is_dir() else path.parent
    module, name = ("model" if path.is_dir() else path.stem), "Model"
    wish = artifact.options.get(_CLASS_OPTION)
    if wish is not None:
        match = _CLASS.fullmatch(wish) if isinstance(wish, str) else None
        if match is None:
            raise InvalidSpecification(
                f"model {artifact.model!r}: the option class is {wish!r}; write it as module:Name, "
                "for a file module.py in the model's folder"
            )
        module, name = match["module"], match["name"]
    stem = folder.joinpath(*module.split("."))
    if not stem.with_suffix(".py").is_file() and not (stem / "__init__.py").is_file():
        raise ArtifactMissing(
            f"model {artifact.model!r}: there is no {module.replace('.', '/')}.py in "
            f"{folder.name}; put it there, or name another with the option class"
        )
    return folder, module, name


def _make(artifact: Artifact, package: LocalPackage, module: ModuleType, name: str) -> _Served:
    """An instance of the class, loaded."""
    made = getattr(module, name, None)
    if not isinstance(made, type) or not callable(getattr(made, "predict", None)):
        problem = "has no method predict" if isinstance(made, type) else "does not exist"
        raise InvalidArtifact(
            f"model {artifact.model!r}: the class {name} of {Path(module.__file__ or '').name} "
            f"{problem}; write class {name} with predict(self, inputs, parameters)"
        )
    try:
        instance = made()
        loading = getattr(instance, "load", None)
        if callable(loading):
            options = {**artifact.options}
            options.pop(_CLASS_OPTION, None)
            if artifact.device is not None:
                options[_DEVICE_OPTION] = artifact.device
            loading(*[package.folder, options][: _positional(loading)])
    except ShoalError:
        raise
    except Exception as error:  # the model's own code, which raises anything; told as the reason
        raise failed(artifact, package, error, f"making its {name}") from error
    return cast("_Served", instance)


def _allocated(artifact: Artifact) -> int:
    """By PyTorch, on the device of the artifact."""
    return 0 if artifact.device is None else allocated_bytes(artifact.device) or 0


def _told(artifact: Artifact, instance: _Served, grown_bytes: int) -> int:
    """What it takes on its device."""
    if artifact.device is None:
        return 0
    telling = getattr(instance, "accelerator_bytes", None)
    if not callable(telling):
        return max(grown_bytes, 0)
    told = telling()
    if not isinstance(told, int) or told < 0:
        raise InvalidArtifact(
            f"model {artifact.model!r}: accelerator_bytes of {type(instance).__name__} gave "
            f"{told!r}; it must give a number of bytes"
        )
    return told


def _positional(method: Callable[..., object]) -> int:
    """How many arguments `load` takes: the folder, or the options as well."""
    kinds = [each.kind for each in inspect.signature(method).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return 2
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return 2 if sum(kind in positional for kind in kinds) > 1 else 1


def _specs(instance: object, kind: str, artifact: Artifact) -> tuple[TensorSpec, ...]:
    """The class's `inputs` or `outputs`. Raises InvalidArtifact unless they are tensors."""
    given = getattr(instance, kind, None) or ()
    try:
        specs = msgspec.convert(
            [msgspec.to_builtins(item) for item in given], tuple[TensorSpec, ...]
        )
        strange = next((spec for spec in specs if spec.datatype not in DATATYPES), None)
        if strange is not None:
            raise ValueError(f"{strange.name} has the datatype {strange.datatype!r}")
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise InvalidArtifact(
            f"model {artifact.model!r}: {kind} of {type(instance).__name__} is not a list of "
            f"tensors ({one_line(error)}); write dicts of name, datatype ({', '.join(DATATYPES)}) "
            "and shape"
        ) from error
    return specs


def _number(instance: object, name: str, artifact: Artifact) -> int:
    """An optional attribute of the class, from 1, which is its default."""
    given = getattr(instance, name, 1)
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise InvalidArtifact(
            f"model {artifact.model!r}: {name} of {type(instance).__name__} is {given!r}; "
            "it must be a number from 1"
        )
    return given
