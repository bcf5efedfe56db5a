"""Loads Keras models, `.keras` archives and legacy HDF5 files, on the backend that is installed.

Names, datatypes and shapes are those of the model's inputs and of the layers that answer, or the
keys of dictionaries. On TensorFlow a model becomes a graph; on PyTorch and JAX it is called as it
is. Options: none.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shoal.domain.errors import InvalidArtifact, ShoalError
from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact, LoadedModel
from shoal.runtimes.keras_config import HDF5_HEAD, NotKeras, runs
from shoal.runtimes.keras_graph import Traced
from shoal.runtimes.loading import (
    bound_openmp,
    check_file,
    import_framework,
    taking_notes,
    unreadable,
)
from shoal.runtimes.positional import Function, PositionalModel
from shoal.runtimes.tensorflow_session import (
    callers_errors,
    give_memory_back,
    import_tensorflow,
    quiet,
    say,
    spec_of,
)
from shoal.runtimes.torch_device import import_torch

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

_EXTRA: Final = "keras"
_BACKEND: Final = "KERAS_BACKEND"
_BACKENDS: Final = {"tensorflow": "tensorflow", "torch": "torch", "jax": "jax"}  # by preference
_ARCHIVE: Final = ".keras"
_ZIP_HEAD: Final = b"PK\x03\x04"
_AGAIN: Final = "copy it again, or save it anew with model.save('model.keras')"
_importing = threading.Lock()


class KerasRuntime:
    format = "keras"
    suffixes = (_ARCHIVE, ".h5", ".hdf5")
    options: tuple[str, ...] | None = ()

    def recognise(self, path: Path, head: bytes) -> bool:
        """Also HDF5 files that hold weights alone, to say what to do about them."""
        suffix = path.suffix.lower()
        if suffix == _ARCHIVE:
            return head.startswith(_ZIP_HEAD)
        return suffix in self.suffixes and head.startswith(HDF5_HEAD)

    def runs_code(self, path: Path) -> bool:
        """Does its configuration name anything but layers that only compute? What cannot be looked
        into may."""
        try:
            return runs(path) is not None
        except (NotKeras, OSError):
            return path.exists() and path.stat().st_size > 0

    def load(self, artifact: Artifact) -> LoadedModel:
        """See `Runtime.load`. Keras' safe mode is left only where `runs_code` says so, which the
        caller has then found to lie in a trusted place."""
        check_file(artifact, self.suffixes)
        bound_openmp(artifact.threads)
        with taking_notes() as notes:
            keras = _import(artifact)
            with _collecting():
                loaded = self._loaded(keras, artifact)
        loaded.notes = tuple(notes)
        return loaded

    def _loaded(self, keras: ModuleType, artifact: Artifact) -> PositionalModel:
        model = _open(keras, artifact, safe=not self.runs_code(artifact.path))
        return PositionalModel(artifact, _function(keras, artifact, model))


@contextmanager
def _collecting() -> Iterator[None]:
    """Collects what becomes garbage meanwhile: a Keras model is full of cycles, which would keep
    its weights for long. What was there before is set aside, since looking through all of it takes
    some tenths of a second in which nothing else runs."""
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()


def _import(artifact: Artifact) -> ModuleType:
    """Keras with a backend, imported quietly. Raises RuntimeMissing."""
    with _importing:
        if _BACKEND not in os.environ:
            chosen = _configured() or next(
                (name for name, module in _BACKENDS.items() if _installed(module)), None
            )
            if chosen is not None:
                os.environ[_BACKEND] = chosen
    backend = os.environ.get(_BACKEND, "tensorflow")
    if backend == "tensorflow":
        import_tensorflow(_EXTRA, artifact)
    elif backend in _BACKENDS:
        import_framework(_BACKENDS[backend], _EXTRA, artifact)
    give_memory_back()
    with quiet():  # Keras imports TensorFlow beside any backend, where it is installed
        return import_framework("keras", _EXTRA, artifact)


def _configured() -> str | None:
    """The backend that the user's own configuration of Keras names, if it is installed. Keras
    writes that file itself when there is none."""
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        name = json.loads((home / "keras.json").read_text()).get("backend")
    except (OSError, ValueError, AttributeError):
        return None
    return name if name in _BACKENDS and _installed(_BACKENDS[name]) else None


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _open(keras: ModuleType, artifact: Artifact, safe: bool) -> Any:
    """A `keras.Model`; Any: Keras' are untyped."""
    path = artifact.path
    try:
        return keras.saving.load_model(str(path), compile=False, safe_mode=safe)
    except Exception as error:  # whatever classes and files raise; told as the reason
        raise _refused(artifact, error) from error


def _function(keras: ModuleType, artifact: Artifact, model: Any) -> Function:
    try:
        taken = list(model.inputs)
    except (AttributeError, TypeError):
        taken = []
    if not taken:
        raise InvalidArtifact(
            f"model {artifact.model!r}: {artifact.path.name} does not say what it takes: it is a "
            "class of its own; save it as a SavedModel with model.export(folder), or serve it as a "
            "Python model"
        )
    if any(getattr(each, "sparse", False) or getattr(each, "ragged", False) for each in taken):
        raise InvalidArtifact(
            f"model {artifact.model!r}: {artifact.path.name} takes sparse or ragged tensors, which "
            "the Open Inference Protocol cannot carry; let it take dense ones"
        )
    inputs = [spec_of(artifact, each.name, str(each.dtype), each.shape) for each in taken]
    # The backend that Keras was first imported with, by whomever.
    backend = keras.backend.backend()
    try:
        if backend == "tensorflow":
            return _traced(keras, artifact, model, inputs)
        return _called(keras, artifact, model, inputs)
    except ShoalError:
        raise
    except Exception as error:  # the layers' own code runs here; told as the reason
        raise _refused(artifact, error) from error


def _traced(keras: ModuleType, artifact: Artifact, model: Any, inputs: Sequence[TensorSpec]
            ) -> Function:
    """As a TensorFlow graph."""
    framework = import_tensorflow(_EXTRA, artifact)
    call = _flat_call(keras, model)
    made = Traced(framework, call, [
        framework.TensorSpec(each.shape, each.dtype, name=f"input_{index}")
        for index, each in enumerate(model.inputs)
    ])
    outputs = [
        spec_of(artifact, name, dtype, shape)
        for name, (dtype, shape) in zip(_output_names(keras, model), made.outputs, strict=True)
    ]
    found = made.session(artifact.threads)
    if found is None:
        run, release, size = made.eager(), _nothing, made.variables_bytes
        size += artifact.path.stat().st_size
    else:
        run, session, size = found
        release = session.close
    return Function(
        inputs, outputs, run, callers_errors(framework), release, "keras_tensorflow", size, say=say
    )


def _called(keras: ModuleType, artifact: Artifact, model: Any, inputs: Sequence[TensorSpec]
            ) -> Function:
    """As it is, on PyTorch or JAX."""
    backend = keras.backend.backend()
    call = _flat_call(keras, model)
    names = _output_names(keras, model)
    answers = keras.tree.flatten(model.outputs)
    outputs = [spec_of(artifact, name, str(each.dtype), each.shape)
               for name, each in zip(names, answers, strict=True)]
    without_gradients: Callable[[], Any] = nullcontext
    if backend == "torch":
        without_gradients = import_torch(_EXTRA, artifact).no_grad

    def run(*arrays: NDArray[np.generic]) -> list[NDArray[np.generic]]:
        with without_gradients():
            tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
            return [keras.ops.convert_to_numpy(each) for each in call(*tensors)]

    size = sum(each.value.nbytes for each in model.variables) or artifact.path.stat().st_size
    return Function(
        inputs, outputs, run, (ValueError, TypeError, IndexError), _nothing, f"keras_{backend}",
        size,
    )


def _flat_call(keras: ModuleType, model: Any) -> Callable[..., list[Any]]:
    """From tensors in the order of `model.inputs` to tensors in that of `_output_names`."""
    try:
        structure = model.input
    except AttributeError:  # a Sequential that was only built
        structure = model.inputs[0]

    def call(*tensors: Any) -> list[Any]:
        packed = keras.tree.pack_sequence_as(structure, list(tensors))
        answers: list[Any] = keras.tree.flatten(model(packed, training=False))
        return answers

    return call


def _output_names(keras: ModuleType, model: Any) -> list[str]:
    """Keys where the model answers a dictionary; else the layers that answer, and where one does so
    twice, numbered."""
    try:
        structure = model.output
    except AttributeError:
        structure = model.outputs[0]
    if isinstance(structure, dict) and len(keras.tree.flatten(structure)) == len(structure):
        return [str(name) for name in keras.tree.flatten({key: key for key in structure})]
    names = getattr(model, "output_names", None) or [model.layers[-1].name]
    return _distinct(map(str, names))


def _distinct(names: Iterable[str]) -> list[str]:
    made: list[str] = []
    for name in names:
        number, free = 1, name
        while free in made:
            free, number = f"{name}_{number}", number + 1
        made.append(free)
    return made


def _nothing() -> None: ...


def _refused(artifact: Artifact, error: Exception) -> InvalidArtifact:
    text = " ".join(str(error).split())
    # Layers within layers say each what those inside them said, the innermost last.
    reason, way_out = say(text.rpartition("Exception encountered: ")[2]), _AGAIN
    if isinstance(error, zipfile.BadZipFile) or "accessible `.keras` zip file" in text:
        reason = "it is cut off, damaged, or no archive of Keras"
    elif "No model config found" in text:
        reason = "it holds weights alone, not a model"
        way_out = "save the model with model.save('model.keras')"
    elif "safe_mode" in text or "unsafe" in text.lower():
        way_out = "save it without, or serve it as a Python model"
    elif "Could not locate" in text or "Unknown layer" in text or "Unknown object" in text:
        way_out = ("its own classes are not installed here: save it as a SavedModel with "
                   "model.export(folder), or serve it as a Python model")
    return unreadable(artifact, reason, way_out)
