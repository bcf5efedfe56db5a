"""How models of tables answer: a request's arrays in, one function a wanted output, arrays out.

Shared by the runtimes of tables, from scikit-learn to CatBoost; imports none of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shoal.domain.errors import InvalidInput
from shoal.domain.model import JsonValue
from shoal.domain.signature import Signature, TensorSpec
from shoal.ports import Artifact, Outcome
from shoal.runtimes.arrays import datatype_of, to_protocol
from shoal.runtimes.binding import Bound, bind_outputs, shown_array, wanted
from shoal.runtimes.conversion import Conversion, NotConverted, convert
from shoal.runtimes.features import Features
from shoal.runtimes.loading import one_line, taking_notes

if TYPE_CHECKING:
    from shoal.ports import Arrays
    from shoal.runtimes.conversion import Functions

Data = TypeVar("Data")

# Of models that are converted: larger ones take minutes, and are slow because they are large.
_MOST_BYTES: Final = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class Recipe(Generic[Data]):
    """What a framework brings.

    prepare: a request's arrays to what the functions take; raises InvalidInput.
    functions: outputs by name, the one that answers by default first.
    outputs: their descriptions, in the same order.
    callers_errors: what the framework raises when the data are wrong.
    say: such an error in one line.
    size: see `LoadedModel.size_bytes`.
    conversion: how the model is converted to ONNX; raises NotConverted when it is not. Then its
        functions take a matrix.
    """

    features: Features
    prepare: Callable[[Arrays], Data]
    functions: Mapping[str, Callable[[Data], ArrayLike]]
    outputs: Sequence[TensorSpec]
    callers_errors: tuple[type[Exception], ...]
    platform: str
    max_concurrency: int
    size: Callable[[], int | None]
    notes: tuple[str, ...] = ()
    say: Callable[[BaseException], str] = one_line
    conversion: Callable[[], Conversion] | None = None


class TabularModel(Generic[Data]):
    """A LoadedModel made of a recipe."""

    def __init__(self, artifact: Artifact, recipe: Recipe[Data]) -> None:
        bindings = bind_outputs(artifact, recipe.outputs)
        first = recipe.outputs[0].name
        self._default = bindings
        if not artifact.outputs:
            self._default = tuple(bound for bound in bindings if bound.own == first)
        self._bindings = bindings
        self._model = artifact.model
        self._threads = artifact.threads
        self._converted_bytes = 0
        self._recipe: Recipe[Data] | None = recipe
        self.platform = recipe.platform
        self.may_wait = False
        self.max_concurrency = recipe.max_concurrency
        self.notes = recipe.notes
        self.signature = Signature(
            inputs=recipe.features.specs(),
            outputs=tuple(bound.shown for bound in bindings),
            any_name=not recipe.features.table and not artifact.inputs,
            converts=True,
            table=recipe.features.table,
            default_outputs=tuple(bound.shown.name for bound in self._default),
        )

    def predict(self, inputs: Arrays, parameters: Mapping[str, JsonValue],
                outputs: tuple[str, ...] = ()) -> Arrays:
        """See `LoadedModel.predict`."""
        recipe = self._recipe
        assert recipe is not None, "predict after close"
        asked = wanted(outputs, self._bindings) if outputs else self._default
        data = recipe.prepare(inputs)
        return {bound.shown.name: self._answer(recipe, bound, data) for bound in asked}

    def optimize(self) -> Outcome:
        """See `Optimizable.optimize`."""
        recipe = self._recipe
        assert recipe is not None, "optimize after close"
        try:
            if recipe.conversion is None:
                raise NotConverted("it takes text or a data frame's columns")
            if (size := recipe.size() or 0) > _MOST_BYTES:
                raise NotConverted(f"it takes {size:,} bytes, of which there would be two forms")
            framework = _framework("onnxruntime")
            with taking_notes():  # converters warn of what the comparison will tell
                made = convert(
                    recipe.conversion(), cast("Functions", recipe.functions), framework,
                    self._threads,
                )
        except NotConverted as reason:
            return Outcome(None, f"not converted to ONNX: {reason}")
        self._converted_bytes = made.size_bytes
        self.platform = f"onnxruntime_{recipe.platform}"
        faster = cast("Mapping[str, Callable[[Data], ArrayLike]]", made.functions)
        self._recipe = replace(recipe, functions={**recipe.functions, **faster})
        return Outcome(self.platform, made.note)

    def size_bytes(self) -> int | None:
        size = None if self._recipe is None else self._recipe.size()
        return None if size is None else size + self._converted_bytes

    def close(self) -> None:
        """Lets go of the framework's objects, which hold all memory."""
        self._recipe = None

    def _answer(self, recipe: Recipe[Data], bound: Bound, data: Data) -> NDArray[np.generic]:
        try:
            raw = recipe.functions[bound.own](data)
        except recipe.callers_errors as error:
            raise InvalidInput(
                f"model {self._model!r} refuses the data: {recipe.say(error)}"
            ) from error
        return shown_array(to_protocol(raw), bound)


def _framework(name: str) -> ModuleType:
    """What converted models run with. Raises NotConverted when it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotConverted(
            f"it needs {name} ({one_line(error)}); install it with: pip install 'shoal[optimize]'"
        ) from error


def described(name: str, answer: ArrayLike) -> TensorSpec:
    """The output `name`, of which `answer` is an example: its first axis is the batch."""
    array = np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)
    return TensorSpec(name, datatype_of(array.dtype), (-1, *array.shape[1:]))
