"""Models that are one function of arrays in their order: how requests become its arguments.

Shared by the runtimes of TensorFlow and Keras; imports neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shoal.domain.errors import InvalidInput, ShoalError
from shoal.domain.model import JsonValue
from shoal.domain.signature import Signature, TensorSpec
from shoal.ports import Artifact
from shoal.runtimes.arrays import to_protocol
from shoal.runtimes.binding import bind_inputs, bind_outputs, feed, shown_array, wanted
from shoal.runtimes.loading import one_line, parallel_calls

if TYPE_CHECKING:
    from shoal.ports import Arrays


@dataclass(frozen=True, slots=True)
class Function:
    """What a framework brings.

    run: arrays in the order of `inputs` to arrays in that of `outputs`; safe for several threads.
    ranks_known: the shapes of `inputs` are the model's; otherwise guesses for people.
    callers_errors: what `run` raises when the data are wrong; say: such an error in one line.
    release: gives back what the model holds, once nobody holds `run` any more.
    """

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    run: Callable[..., Sequence[NDArray[np.generic]]]
    callers_errors: tuple[type[Exception], ...]
    release: Callable[[], None]
    platform: str
    size_bytes: int
    ranks_known: bool = True
    say: Callable[[BaseException], str] = one_line


class PositionalModel:
    """A LoadedModel made of a function, which is released where the declaration does not fit it."""

    notes: tuple[str, ...] = ()

    def __init__(self, artifact: Artifact, function: Function) -> None:
        try:
            self._inputs = bind_inputs(artifact, function.inputs)
            self._outputs = bind_outputs(artifact, function.outputs)
        except ShoalError:
            function.release()
            raise
        place = {spec.name: index for index, spec in enumerate(function.outputs)}
        self._places = {bound.own: place[bound.own] for bound in self._outputs}
        self._names = tuple(bound.shown.name for bound in self._inputs)
        self._shapes = tuple(spec.shape for spec in function.inputs)
        self._check = function.ranks_known
        self._plain = not any(bound.own_type for bound in self._inputs)
        self._function: Function | None = function
        self._model = artifact.model
        self.platform = function.platform
        self.may_wait = False
        self.max_concurrency = parallel_calls(artifact.threads)
        self.signature = Signature(
            inputs=tuple(bound.shown for bound in self._inputs),
            outputs=tuple(bound.shown for bound in self._outputs),
            guessed=not function.ranks_known and not artifact.inputs,
        )

    def predict(self, inputs: Arrays, parameters: Mapping[str, JsonValue],
                outputs: tuple[str, ...] = ()) -> Arrays:
        """See `LoadedModel.predict`. All outputs are computed, whichever are wanted."""
        function = self._function
        assert function is not None, "predict after close"
        asked = wanted(outputs, self._outputs)
        if self._plain and all(name in inputs for name in self._names):
            arrays = [inputs[name] for name in self._names]
        else:
            arrays = list(feed(inputs, self._inputs).values())
        if self._check:
            for name, array, shape in zip(self._names, arrays, self._shapes, strict=True):
                if not _fits(array.shape, shape):
                    raise InvalidInput(
                        f"input {name!r} has the shape {list(array.shape)}; the model takes "
                        f"{list(shape)}"
                    )
        try:
            answers = function.run(*arrays)
        except function.callers_errors as error:
            raise InvalidInput(
                f"model {self._model!r} refuses the data: {function.say(error)}"
            ) from error
        places = self._places
        return {
            bound.shown.name: shown_array(_as_array(answers[places[bound.own]]), bound)
            for bound in asked
        }

    def size_bytes(self) -> int | None:
        function = self._function
        return None if function is None else function.size_bytes

    def close(self) -> None:
        """See `LoadedModel.close`."""
        function, self._function = self._function, None
        if function is not None:
            function.release()


def _fits(extents: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    if len(extents) != len(shape):
        return False
    for extent, wish in zip(extents, shape, strict=True):
        if extent != wish and wish != -1:
            return False
    return True


def _as_array(answer: NDArray[np.generic]) -> NDArray[np.generic]:
    """Frameworks answer scalars as numbers of their own."""
    return answer if type(answer) is np.ndarray else to_protocol(answer)
