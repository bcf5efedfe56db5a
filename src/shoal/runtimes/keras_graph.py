"""Turns a Keras model of the TensorFlow backend into a graph in a session.

Called as it is, a small Keras model takes 700 to 3,000 µs; its graph takes 20. The session has its
own variables, so that the model can go. Knows no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shoal.runtimes.tensorflow_session import SESSION_BYTES, OpenSession, Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NAME: Final = "model"  # the scope of the model's own nodes in the session's graph
_COPIED_AT_ONCE_BYTES: Final = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class _Captured:
    """What a graph takes beside its inputs; Any: TensorFlow's objects are untyped.

    place: the placeholder for it in the model's graph. tensor: what stands there in the session's.
    variable: of which that is a copy, and filling: the tensor to feed and the operation to run for
    that; none of a constant.
    """

    place: str
    tensor: Any
    filling: tuple[str, str] = ("", "")
    variable: Any = None


class Traced:
    """The graph of a model as one function; Any below: TensorFlow's objects are untyped."""

    def __init__(self, framework: ModuleType, call: Callable[..., Sequence[Any]],
                 specs: Sequence[Any]) -> None:
        """call: the model, from tensors to a list of tensors. specs: `tf.TensorSpec`s of what it
        takes."""
        self._framework = framework
        self._function: Any = framework.function(call, autograph=False).get_concrete_function(
            *specs
        )
        self._takes = len(specs)

    @property
    def outputs(self) -> list[tuple[str, list[int | None] | None]]:
        """Datatypes and shapes; None: of unknown rank."""
        return [
            (tensor.dtype.name, None if tensor.shape.rank is None else tensor.shape.as_list())
            for tensor in self._function.outputs
        ]

    @property
    def variables_bytes(self) -> int:
        return sum(map(_bytes, self._function.variables))

    def eager(self) -> Run:
        """A call outside any session, for models with tables, which only live where they were
        made."""
        constant, function = self._framework.constant, self._function

        def run(*arrays: NDArray[np.generic]) -> list[NDArray[np.generic]]:
            return [tensor.numpy() for tensor in function(*map(constant, arrays))]

        return run

    def session(self, threads: int) -> tuple[Run, OpenSession, int] | None:
        """How it runs in a session of its own, with copies of its variables; and its size in
        bytes. None when it holds more than variables."""
        graph, inputs = self._framework.Graph(), self._function.inputs[: self._takes]
        stored = self._function.graph.as_graph_def()
        with graph.as_default():
            captured = self._captured()
            if captured is None:
                return None
            self._framework.graph_util.import_graph_def(
                stored, name=_NAME, input_map={each.place: each.tensor for each in captured}
            )
        session = OpenSession(self._framework, graph, threads)
        for part in _in_parts([each for each in captured if each.variable is not None]):
            feeds, targets = zip(*(each.filling for each in part), strict=True)
            session.runner(feeds, targets=targets)(*[each.variable.numpy() for each in part])
        run = session.runner(
            [f"{_NAME}/{tensor.name}" for tensor in inputs],
            [f"{_NAME}/{tensor.name}" for tensor in self._function.outputs],
        )
        size = self.variables_bytes + 4 * stored.ByteSize() + SESSION_BYTES
        return run, session, size

    def _captured(self) -> list[_Captured] | None:
        """Made anew in the present graph; None when something cannot be."""
        framework, ops = self._framework, self._framework.raw_ops
        variables = {id(each.handle): each for each in self._function.variables}
        made: list[_Captured] = []
        for number, (outer, inner) in enumerate(self._function.graph.captures):
            variable = variables.get(id(outer))
            if variable is not None:
                handle = ops.VarHandleOp(dtype=variable.dtype, shape=variable.shape,
                                         shared_name=f"variable_{number}")
                value = framework.compat.v1.placeholder(variable.dtype, variable.shape)
                assign = ops.AssignVariableOp(resource=handle, value=value)
                made.append(_Captured(inner.name, handle, (value.name, assign.name), variable))
            elif outer.dtype in (framework.resource, framework.variant):
                return None
            else:
                made.append(_Captured(inner.name, framework.constant(outer.numpy())))
        return made


def _in_parts(captured: Sequence[_Captured]) -> Iterator[list[_Captured]]:
    """Variables some at a time: each call prepares the graph, and copies all that it is given."""
    part: list[_Captured] = []
    for each in captured:
        part.append(each)
        if sum(_bytes(one.variable) for one in part) >= _COPIED_AT_ONCE_BYTES:
            yield part
            part = []
    if part:
        yield part


def _bytes(variable: Any) -> int:
    size: int = variable.dtype.size * variable.shape.num_elements()
    return size
