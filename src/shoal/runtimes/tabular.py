"""How models of tables answer: a request's arrays in, one function a wanted output, arrays out.

Shared by the runtimes of scikit-learn, XGBoost and LightGBM; imports none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shoal.domain.errors import InvalidInput
from shoal.domain.model import JsonValue
from shoal.domain.signature import Signature, TensorSpec
from shoal.ports import Artifact
from shoal.runtimes.arrays import datatype_of, to_protocol
from shoal.runtimes.binding import Bound, bind_outputs, shown_array, wanted
from shoal.runtimes.features import Features
from shoal.runtimes.loading import one_line

if TYPE_CHECKING:
    from shoal.ports import Arrays

Data = TypeVar("Data")


@dataclass(frozen=True, slots=True)
class Recipe(Generic[Data]):
    """What a framework brings.

    prepare: a request's arrays to what the functions take; raises InvalidInput.
    functions: outputs by name, the one that answers by default first.
    outputs: their descriptions, in the same order.
    callers_errors: what the framework raises when the data are wrong.
    say: such an error in one line.
    size: see `LoadedModel.size_bytes`.
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

    def size_bytes(self) -> int | None:
        return None if self._recipe is None else self._recipe.size()

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


def described(name: str, answer: ArrayLike) -> TensorSpec:
    """The output `name`, of which `answer` is an example: its first axis is the batch."""
    array = np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)
    return TensorSpec(name, datatype_of(array.dtype), (-1, *array.shape[1:]))
